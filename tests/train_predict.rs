//! `hybrid predict`: files, pipes that stay open, readers that go away.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::Value;

use crate::tiny_task::{TinyTask, hybrid, messages, printed};

#[test]
fn predict_answers_each_line_and_keeps_what_came_before_a_fault() {
    let task = TinyTask::new();
    task.train("a").assert().success();
    let lines = "my card is lost\n{\"text\": \"the fee is money\"}\n\n{\"query\": 1}\nnever read\n";
    let output = hybrid()
        .arg("predict")
        .arg(task.file("a/artifact"))
        .write_stdin(lines)
        .assert()
        .code(2);
    let answers = String::from_utf8(output.get_output().stdout.clone()).unwrap();
    let answers: Vec<Value> = answers
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(answers.len(), 2);
    assert_eq!(answers[0]["input"]["text"], "my card is lost");
    let message = String::from_utf8_lossy(&output.get_output().stderr).into_owned();
    assert!(message.contains("standard input:4"), "{message}");

    let output = hybrid()
        .args(["predict", "--top-k", "2"])
        .arg(task.file("a/artifact"))
        .write_stdin("my card is lost\n")
        .assert()
        .success();
    let answer: Value = serde_json::from_slice(&output.get_output().stdout).unwrap();
    assert_eq!(answer["top"].as_array().unwrap().len(), 2);
    assert_eq!(answer["label"], answers[0]["label"]);

    let mut none = hybrid();
    none.args(["predict", "--top-k", "0"])
        .arg(task.file("a/artifact"));
    let message = messages(&none.write_stdin("my card is lost\n").assert().code(2));
    assert!(message.contains("--top-k"), "{message}");
    let help = printed(&hybrid().args(["predict", "--help"]).assert().success());
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(help.contains("Empty lines are skipped"), "{help}");
}

/// The header of a table names its columns; it is no text.
#[test]
fn predict_labels_the_rows_of_a_table() {
    let task = TinyTask::new();
    task.train("a").assert().success();
    let predict = |name: &str| {
        let mut command = hybrid();
        command.arg("predict").arg(task.file("a/artifact"));
        command.arg(task.file(name));
        command
    };
    std::fs::write(task.file("lines.txt"), "my card is lost\nthe fee, please\n").unwrap();
    let table = "id,text,label\n1,my card is lost,\n2,\"the fee, please\",\n";
    std::fs::write(task.file("table.CSV"), table).unwrap();
    let expected = printed(&predict("lines.txt").assert().success());
    let found = predict("table.CSV").assert().success();
    assert_eq!(printed(&found), expected);
    assert!(messages(&found).contains("labelling 2 rows of"));

    std::fs::write(task.file("other.csv"), "id,body\n1,my card is lost\n").unwrap();
    let refused = predict("other.csv").assert().code(2);
    let said = messages(&refused);
    assert!(
        said.contains("other.csv") && said.contains("`text`"),
        "{said}"
    );
    assert_eq!(printed(&refused), "");
}

fn spawn(task: &TinyTask) -> Child {
    std::process::Command::new(assert_cmd::cargo::cargo_bin!("hybrid"))
        .arg("predict")
        .arg(task.file("a/artifact"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn predict_answers_a_line_while_the_pipe_stays_open() {
    let task = TinyTask::new();
    task.train("a").assert().success();
    let mut child = spawn(&task);
    let mut stdin = child.stdin.take().unwrap();
    let (sender, answers) = mpsc::channel();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    std::thread::spawn(move || lines.for_each(|line| drop(sender.send(line.unwrap()))));
    for text in ["my card is lost", "the phone number"] {
        writeln!(stdin, "{text}").unwrap();
        stdin.flush().unwrap();
        let answer = answers
            .recv_timeout(Duration::from_secs(120))
            .expect("an answer comes before the next line");
        let answer: Value = serde_json::from_str(&answer).unwrap();
        assert_eq!(answer["input"]["text"], text);
    }
    drop(stdin);
    assert!(child.wait().unwrap().success());
}

#[test]
fn predict_ends_quietly_when_nobody_reads_on() {
    let task = TinyTask::new();
    task.train("a").assert().success();
    let mut child = spawn(&task);
    let mut stdin = child.stdin.take().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    writeln!(stdin, "my card is lost").unwrap();
    let mut first = String::new();
    output.read_line(&mut first).unwrap();
    assert!(first.contains("label"), "{first}");
    drop(output);
    // The command sees that its reader has gone at the next answer; then it reads no further.
    while writeln!(stdin, "the fee is money").is_ok() {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn predict_labels_a_file_of_many_lines_in_order() {
    let task = TinyTask::new();
    task.train("a").assert().success();
    let texts: Vec<String> = (0..700)
        .map(|index| ["my card", "the fee", "phone"][index % 3].to_owned())
        .collect();
    std::fs::write(task.file("texts.txt"), texts.join("\n")).unwrap();
    let output = hybrid()
        .arg("predict")
        .arg(task.file("a/artifact"))
        .arg(task.file("texts.txt"))
        .assert()
        .success();
    let answers = String::from_utf8(output.get_output().stdout.clone()).unwrap();
    let answers: Vec<Value> = answers
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(answers.len(), texts.len(), "the last line needs no end");
    for (answer, text) in answers.iter().zip(&texts) {
        assert_eq!(answer["input"]["text"], *text);
        assert_eq!(
            answer["label"],
            answers[texts.iter().position(|t| t == text).unwrap()]["label"]
        );
    }
}

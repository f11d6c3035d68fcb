//! The hybrid loop over an encoder that answers questions out of passages.

use serde_json::{Value, json};

use crate::run_comparison::{assert_equal_runs, candidate, report};
use crate::tiny_task::{TinyTask, hybrid, printed};

fn rows(task: &TinyTask, name: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(task.file(name)).unwrap();
    let rows = text.lines().map(serde_json::from_str);
    rows.collect::<Result<_, _>>().unwrap()
}

/// The answers of an artifact to rows.
fn predicted(task: &TinyTask, artifact: &str, rows: &[Value]) -> Vec<Value> {
    let input: String = rows.iter().map(|row| format!("{row}\n")).collect();
    let output = hybrid()
        .arg("predict")
        .arg(task.file(artifact))
        .write_stdin(input)
        .assert();
    let lines = printed(&output.success());
    let answers = lines.lines().map(serde_json::from_str);
    answers.collect::<Result<_, _>>().unwrap()
}

fn evaluated(task: &TinyTask, artifact: &str) -> Value {
    let mut eval = hybrid();
    let output = eval.arg("eval").arg(task.file(artifact)).arg("--json");
    serde_json::from_str(&printed(&output.assert().success())).unwrap()
}

#[test]
fn an_encoder_learns_to_answer_out_of_passages() {
    let task = TinyTask::passages();
    task.train("a").assert().success();
    task.train("b").assert().success();
    assert_equal_runs(&task, "a", "b");
    let report = report(&task, "a");
    let select = |id: &str, figure: &str| candidate(&report, id)["select"][figure].as_f64();
    assert!(select("1-head", "f1") > select("baseline", "f1"));
    assert!(select("1-lora", "log_loss") < select("1-head", "log_loss"));
    assert!(report["final"]["value"].as_f64() > Some(60.0), "{report:#}");
    assert_eq!(report["final"]["candidate"], "1-lora");
    let figures = evaluated(&task, "a/artifact");
    assert_eq!(figures["f1"], report["final"]["value"]);

    let rows = rows(&task, "report.jsonl");
    let answers = predicted(&task, "a/artifact", &rows);
    assert_eq!(answers.len(), rows.len());
    let mut right = 0;
    for (answer, row) in answers.iter().zip(&rows) {
        let (output, start) = (answer["output"].as_str().unwrap(), &answer["start"]);
        let passage = row["context"].as_str().unwrap().chars();
        let from = passage.skip(start.as_u64().unwrap() as usize);
        assert!(from.collect::<String>().starts_with(output), "{answer}");
        let probability = answer["probability"].as_f64().unwrap();
        assert!(probability > 0.0 && probability <= 1.0 + 1e-9, "{answer}");
        right += usize::from(json!([{"text": output, "start": start}]) == row["answers"]);
    }
    assert!(
        right * 5 > rows.len(),
        "{right} of {} are right",
        rows.len()
    );

    let mut merge = hybrid();
    let merge = merge.arg("merge").arg(task.file("a/artifact"));
    merge
        .arg("--out")
        .arg(task.file("merged"))
        .assert()
        .success();
    let merged = evaluated(&task, "merged");
    assert_eq!(merged["exact_match"], figures["exact_match"]);
}

#[test]
fn without_training_an_answer_is_chance() {
    let task = TinyTask::passages();
    task.train("a")
        .args([
            "--set",
            "stages.0.optimizer.lr=1e-12",
            "--set",
            "stages.1.optimizer.lr=1e-12",
        ])
        .args(["--set", "target={metric=\"f1\", value=0}"])
        .assert()
        .success();
    let report = report(&task, "a");
    assert_eq!(report["final"]["candidate"], "baseline");
    let row = json!({"question": "which ?", "context": "my card lost"});
    let empty = json!({"question": "which ?", "context": ""});
    let answers = predicted(&task, "a/artifact", &[row, empty]);
    assert_eq!(
        (&answers[0]["output"], &answers[0]["start"]),
        (&json!("my"), &json!(0))
    );
    let probability = answers[0]["probability"].as_f64().unwrap();
    assert!((probability - 1.0 / 9.0).abs() < 1e-9, "{probability}");
    assert_eq!(
        (&answers[1]["output"], &answers[1]["start"]),
        (&json!(""), &Value::Null)
    );
}

#[test]
fn what_passages_do_not_have_is_refused_before_the_run() {
    let task = TinyTask::passages();
    let said = task.refusal(&[
        "stages.0={kind=\"prompt\"}",
        "stages.1.label_smoothing=0.1",
        "stages.1.head={pooling=\"cls\"}",
        "passages.stride=6",
    ]);
    for part in [
        "stages.0: there is no prompt to search",
        "stages.1.label_smoothing",
        "stages.1.head",
        "passages.stride: windows of 16 tokens, 3 of them special, cannot share 6",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let said = task.refusal(&["data.fields={text=\"context\"}"]);
    assert!(
        said.contains("the fields `context` and `question`"),
        "{said}"
    );
    let mut rows = rows(&task, "select.jsonl");
    for row in &mut rows {
        row["answers"][0]["start"] = json!(1);
    }
    let lines: String = rows.iter().map(|row| format!("{row}\n")).collect();
    std::fs::write(task.file("select.jsonl"), lines).unwrap();
    let said = task.refusal(&[]);
    assert!(
        said.contains("select.jsonl:1: the answer") && said.contains("at code point 1"),
        "{said}"
    );
    for row in &mut rows {
        row["answers"] = json!(["nowhere"]);
    }
    let lines: String = rows.iter().map(|row| format!("{row}\n")).collect();
    std::fs::write(task.file("select.jsonl"), lines).unwrap();
    let said = task.refusal(&[]);
    assert!(said.contains("data.select: no answer stands in"), "{said}");
    let labels = TinyTask::new();
    let said = labels.refusal(&["passages.stride=4"]);
    assert!(
        said.contains("only an encoder that answers questions"),
        "{said}"
    );
}

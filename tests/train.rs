//! The hybrid loop through the command line: equal runs, kills, resumption, artifacts.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::fixtures::json;
use crate::tiny_task::{TinyTask, hybrid};

/// The report without what a clock or the memory decided.
fn timeless(report: &Path) -> Value {
    let mut report = json(report);
    strip(&mut report);
    report
}

fn strip(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for key in ["wall_s", "train_s", "prompt_s", "peak_rss_mb"] {
                fields.remove(key);
            }
            fields.values_mut().for_each(strip);
        }
        Value::Array(items) => items.iter_mut().for_each(strip),
        _ => {}
    }
}

/// The places in which two reports differ.
fn differing(place: &str, a: &Value, b: &Value, found: &mut Vec<String>) {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) if a.keys().eq(b.keys()) => {
            a.iter().for_each(|(key, value)| {
                differing(&format!("{place}.{key}"), value, &b[key], found)
            });
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            let pairs = a.iter().zip(b).enumerate();
            pairs.for_each(|(index, (a, b))| differing(&format!("{place}.{index}"), a, b, found));
        }
        _ if a == b => {}
        _ => found.push(format!("{place}: {a} and {b}")),
    }
}

fn assert_equal_runs(task: &TinyTask, a: &str, b: &str) {
    let report = |run: &str| timeless(&task.file(run).join("report.json"));
    let mut differences = Vec::new();
    differing("report", &report(a), &report(b), &mut differences);
    assert!(differences.is_empty(), "{differences:#?}");
    let files = [
        "artifact.json",
        "prompt.toml",
        "head.safetensors",
        "adapter/adapter_model.safetensors",
    ];
    for file in files {
        let read = |run: &str| std::fs::read(task.file(run).join("artifact").join(file));
        assert_eq!(
            read(a).unwrap(),
            read(b).unwrap(),
            "{file} differs between {a} and {b}"
        );
    }
}

#[test]
fn two_runs_are_equal_and_every_file_is_there() {
    let task = TinyTask::new();
    task.train("a").assert().success();
    task.train("b").assert().success();
    assert_equal_runs(&task, "a", "b");
    for file in [
        "recipe.toml",
        "journal.jsonl",
        "report.json",
        "report.html",
        "README.md",
        "artifact/README.md",
    ] {
        assert!(task.file("a").join(file).is_file(), "{file} is missing");
    }
    let report = json(&task.file("a").join("report.json"));
    let ids: Vec<&str> = report["candidates"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["id"].as_str().unwrap())
        .collect();
    assert_eq!(ids[0], "baseline");
    assert!(ids.contains(&"1-lora"), "{ids:?}");
}

#[test]
fn another_seed_gives_another_adapter() {
    let task = TinyTask::new();
    task.train("a").assert().success();
    task.train("b").args(["--set", "seed=4"]).assert().success();
    let read = |run: &str| {
        std::fs::read(
            task.file(run)
                .join("candidates/1-lora/trainable.safetensors"),
        )
        .unwrap()
    };
    assert_ne!(read("a"), read("b"));
}

#[test]
fn a_killed_run_goes_on_to_the_same_bytes() {
    let task = TinyTask::new();
    task.train("whole").assert().success();
    let binary = assert_cmd::cargo::cargo_bin!("hybrid");
    let mut kills = 0;
    for attempt in 0..80 {
        let mut child = std::process::Command::new(binary)
            .arg("train")
            .arg(task.recipe())
            .arg("--out")
            .arg(task.file("killed"))
            .stderr(std::fs::File::create(task.file("messages")).unwrap())
            .spawn()
            .unwrap();
        // Later and later, so that every part of the run is hit and the run still ends.
        std::thread::sleep(Duration::from_secs_f64(0.003 * 1.15f64.powi(attempt)));
        match child.try_wait().unwrap() {
            Some(status) => {
                let messages = std::fs::read_to_string(task.file("messages")).unwrap();
                assert!(status.success(), "{messages}");
                break;
            }
            None => {
                child.kill().unwrap();
                child.wait().unwrap();
                kills += 1;
            }
        }
    }
    assert!(kills >= 3, "the run was killed {kills} times only");
    assert_equal_runs(&task, "whole", "killed");
}

#[test]
fn a_finished_run_shows_its_report_and_changes_nothing() {
    let task = TinyTask::new();
    task.train("a").assert().success();
    let report = std::fs::read(task.file("a/report.json")).unwrap();
    let again = task.train("a").assert().success();
    let shown = String::from_utf8_lossy(&again.get_output().stderr).into_owned();
    assert!(shown.contains("finished"), "{shown}");
    assert_eq!(std::fs::read(task.file("a/report.json")).unwrap(), report);
    let events = |task: &TinyTask| std::fs::read_to_string(task.file("a/journal.jsonl")).unwrap();
    let before = events(&task);
    task.train("a").arg("--fresh").assert().success();
    assert_eq!(
        before.matches("stage_ended").count(),
        events(&task).matches("stage_ended").count()
    );
}

#[test]
fn a_changed_recipe_is_not_resumed() {
    let task = TinyTask::new();
    task.train("a").assert().success();
    let refused = task
        .train("a")
        .args(["--set", "stages.1.epochs=5"])
        .assert()
        .code(2);
    let message = String::from_utf8_lossy(&refused.get_output().stderr).into_owned();
    assert!(message.contains("stages.1.epochs: 4 -> 5"), "{message}");
}

#[test]
fn eval_gives_the_accuracy_of_the_report() {
    let task = TinyTask::new();
    task.train("a").assert().success();
    let report = json(&task.file("a/report.json"));
    let output = hybrid()
        .arg("eval")
        .arg(task.file("a/artifact"))
        .arg("--json")
        .assert()
        .success();
    let figures: Value = serde_json::from_slice(&output.get_output().stdout).unwrap();
    assert_eq!(figures["accuracy"], report["final"]["value"]);
}

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
}

#[test]
fn a_merged_model_predicts_as_the_adapter_does() {
    let task = TinyTask::new();
    task.train("a").assert().success();
    hybrid()
        .arg("merge")
        .arg(task.file("a/artifact"))
        .arg("--out")
        .arg(task.file("merged"))
        .assert()
        .success();
    for file in ["config.json", "model.safetensors", "tokenizer.json"] {
        assert!(
            task.file("merged").join(file).is_file(),
            "{file} is missing"
        );
    }
    hybrid()
        .arg("merge")
        .arg(task.file("a/artifact"))
        .arg("--out")
        .arg(task.file("merged"))
        .assert()
        .code(2);
}

//! The hybrid loop through the command line: equal runs, kills, resumption, artifacts.

use serde_json::Value;

use crate::fixtures::json;
use crate::run_comparison::assert_equal_runs;
use crate::tiny_task::{TinyTask, hybrid};

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
    task.train_through_kills("killed");
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

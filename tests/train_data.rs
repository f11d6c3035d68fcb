//! Data of other shapes through whole runs: CSV, further report sets, shared texts.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::run_comparison::{assert_equal_runs, report};
use crate::tiny_task::{TinyTask, hybrid, printed, rows};

#[test]
fn a_second_report_and_out_of_scope_inputs_are_scored() {
    let task = TinyTask::new();
    task.write_data("second.jsonl", 4, 300);
    let outside = ["help", "why why why", "please the question is a question"];
    let lines = outside.map(|text| json!({"text": text}).to_string() + "\n");
    std::fs::write(task.file("outside.jsonl"), lines.concat()).unwrap();
    task.train("a")
        .args(["--set", "data.second_report=second.jsonl"])
        .args(["--set", "data.out_of_scope=outside.jsonl"])
        .assert()
        .success();
    let report = report(&task, "a");
    let second = &report["generalisation"]["second_report"];
    assert_eq!(
        (&second["name"], &second["rows"]),
        (&json!("second.jsonl"), &json!(12))
    );
    let eval = hybrid()
        .arg("eval")
        .arg(task.file("a/artifact"))
        .arg("--data")
        .arg(task.file("second.jsonl"))
        .arg("--json")
        .assert()
        .success();
    let figures: Value = serde_json::from_str(&printed(&eval)).unwrap();
    assert_eq!(second["value"], figures["accuracy"]);
    let outside = &report["generalisation"]["out_of_scope"];
    assert_eq!(outside["rows"], 3);
    let auroc = outside["auroc"].as_f64().unwrap();
    assert!((0.0..=1.0).contains(&auroc), "{auroc}");
}

#[test]
fn csv_files_give_the_same_run() {
    let task = TinyTask::new();
    task.train("jsonl").assert().success();
    for (name, per_label, offset) in [("fit", 8, 0), ("select", 3, 100), ("report", 6, 200)] {
        let mut text = "id,body,queue\n".to_owned();
        for (index, (sentence, label)) in rows(per_label, offset).iter().enumerate() {
            writeln!(text, "{index},\"{sentence}\",{label}").unwrap();
        }
        std::fs::write(task.file(&format!("{name}.csv")), text).unwrap();
    }
    let mut command = task.train("csv");
    for setting in [
        "data.fit=fit.csv",
        "data.select=select.csv",
        "data.report=report.csv",
        "data.fields.text=body",
        "data.label=queue",
    ] {
        command.args(["--set", setting]);
    }
    command.assert().success();
    for file in ["head.safetensors", "adapter/adapter_model.safetensors"] {
        let read = |run: &str| std::fs::read(task.file(run).join("artifact").join(file));
        assert_eq!(read("csv").unwrap(), read("jsonl").unwrap(), "{file}");
    }
    assert_eq!(
        report(&task, "csv")["final"],
        report(&task, "jsonl")["final"]
    );
}

#[test]
fn select_and_shots_are_drawn_with_the_seed() {
    let task = TinyTask::new();
    task.edit_recipe(
        "select = \"select.jsonl\"",
        "select_fraction = 0.25\nshots = 4",
    );
    for run in ["a", "b"] {
        task.train(run).assert().success();
    }
    assert_equal_runs(&task, "a", "b");
    let data = &report(&task, "a")["data"];
    assert_eq!((&data["fit"], &data["select"]), (&json!(12), &json!(6)));
}

#[test]
fn texts_that_splits_share_are_counted_in_report_and_card() {
    let task = TinyTask::new();
    let fit = std::fs::read_to_string(task.file("fit.jsonl")).unwrap();
    let mut report_rows = std::fs::read_to_string(task.file("report.jsonl")).unwrap();
    let texts = |rows: &str| -> Vec<Value> {
        let line = |line| serde_json::from_str::<Value>(line).unwrap()["text"].clone();
        rows.lines().map(line).collect()
    };
    report_rows.extend(fit.lines().take(2).map(|line| format!("{line}\n")));
    std::fs::write(task.file("report.jsonl"), &report_rows).unwrap();
    let of_fit = texts(&fit);
    let shared = texts(&report_rows)
        .iter()
        .filter(|text| of_fit.contains(text))
        .count();
    assert!(shared >= 2);
    task.train("a").assert().success();
    assert_eq!(
        report(&task, "a")["data"]["shared_texts"]["report_in_fit"],
        shared
    );
    let card = std::fs::read_to_string(task.file("a/README.md")).unwrap();
    assert!(
        card.contains(&format!("report examples {shared} have a text")),
        "{card}"
    );
    assert!(!card.contains("disjoint"), "{card}");
}

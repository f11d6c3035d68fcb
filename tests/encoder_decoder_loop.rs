//! The hybrid loop over encoder-decoders: texts, label words, and a base that nothing has trained.

use serde_json::Value;

use crate::run_comparison::{assert_equal_runs, candidate, report};
use crate::tiny_task::{TinyTask, hybrid, messages, printed};

fn evaluated(task: &TinyTask, artifact: &str) -> Value {
    let artifact = task.file(artifact);
    let output = hybrid().arg("eval").arg(artifact).arg("--json").assert();
    serde_json::from_str(&printed(&output.success())).unwrap()
}

/// What an artifact answers to two inputs.
fn predicted(task: &TinyTask, artifact: &str) -> Vec<Value> {
    let predicted = hybrid()
        .arg("predict")
        .arg(task.file(artifact))
        .write_stdin("my card is lost\nwhy fee\n")
        .assert()
        .success();
    let lines = printed(&predicted);
    let line = |line: &str| serde_json::from_str(line).unwrap();
    lines.lines().map(line).collect()
}

/// A figure on select.
fn select(report: &Value, id: &str, metric: &str) -> f64 {
    candidate(report, id)["select"][metric].as_f64().unwrap()
}

#[test]
fn an_encoder_decoder_learns_texts() {
    let task = TinyTask::translation();
    task.train("a").assert().success();
    task.train("b").assert().success();
    assert_equal_runs(&task, "a", "b");
    let report = report(&task, "a");
    let of = |id: &str, metric: &str| select(&report, id, metric);
    assert!(of("1-lora", "chrf") > of("baseline", "chrf"), "{report:#}");
    let log_losses = (of("1-lora", "log_loss"), of("baseline", "log_loss"));
    assert!(log_losses.0 < 0.75 * log_losses.1, "{report:#}");
    let figures = evaluated(&task, "a/artifact");
    assert_eq!(figures["chrf"], report["final"]["value"]);
    let outputs = predicted(&task, "a/artifact");
    assert_eq!(outputs.len(), 2);
    assert!(outputs.iter().all(|line| line["output"].is_string()));
}

#[test]
fn an_encoder_decoder_learns_label_words() {
    let task = TinyTask::answers();
    task.train("a").assert().success();
    let report = report(&task, "a");
    let accuracy = |id: &str| select(&report, id, "accuracy");
    assert!(accuracy("1-lora") > accuracy("baseline"), "{report:#}");
    let figures = evaluated(&task, "a/artifact");
    assert_eq!(figures["accuracy"], report["final"]["value"]);
    let labels = predicted(&task, "a/artifact");
    assert!(
        labels.iter().all(|line| line["label"].is_string()),
        "{labels:?}"
    );
}

#[test]
fn a_base_is_trained_from_scratch() {
    let task = TinyTask::from_scratch();
    task.train("a").assert().success();
    task.train("b").assert().success();
    assert_equal_runs(&task, "a", "b");
    let report = report(&task, "a");
    let chrf = |id: &str| select(&report, id, "chrf");
    assert!(chrf("1-all") > chrf("baseline") + 10.0, "{report:#}");
    let figures = evaluated(&task, "a/artifact");
    assert_eq!(figures["chrf"], report["final"]["value"]);
    let mut other = task.train("other");
    other.args(["--set", "seed=4"]).assert().success();
    let other = crate::run_comparison::report(&task, "other");
    assert_ne!(
        select(&other, "baseline", "log_loss"),
        select(&report, "baseline", "log_loss")
    );

    // Merged, the trained base needs neither seed nor adapter.
    let merged = hybrid()
        .arg("merge")
        .arg(task.file("a/artifact"))
        .arg("--out")
        .arg(task.file("merged"))
        .assert();
    merged.success();
    assert_eq!(evaluated(&task, "merged")["chrf"], figures["chrf"]);
    assert_eq!(predicted(&task, "merged"), predicted(&task, "a/artifact"));
}

#[test]
fn only_what_has_an_initialisation_starts_at_random() {
    let task = TinyTask::texts();
    let mut command = task.train("a");
    let said = messages(&command.args(["--set", "base.init=random"]).assert().code(2));
    let expected = "a model of type llama cannot start at random; one of type t5 can";
    assert!(said.contains(expected), "{said}");
    assert!(!task.file("a").exists(), "{said}");
    let scratch = TinyTask::from_scratch();
    scratch.edit_recipe("init = \"random\"\n", "");
    let said = messages(&scratch.train("a").assert().code(2));
    assert!(said.contains("model.safetensors"), "{said}");
}

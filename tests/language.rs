//! The hybrid loop over language models: label words, demonstrations, texts.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::fixtures::json;
use crate::run_comparison::{assert_equal_runs, candidate, events, report};
use crate::tiny_task::{TinyTask, hybrid, messages, printed};

fn evaluated(task: &TinyTask, run: &str) -> Value {
    let artifact = task.file(run).join("artifact");
    let output = hybrid().arg("eval").arg(artifact).arg("--json").assert();
    serde_json::from_str(&printed(&output.success())).unwrap()
}

#[test]
fn a_language_model_learns_label_words() {
    let task = TinyTask::language();
    task.train("a").assert().success();
    task.train("b").assert().success();
    assert_equal_runs(&task, "a", "b");
    let report = report(&task, "a");
    let select = |id: &str| {
        candidate(&report, id)["select"]["accuracy"]
            .as_f64()
            .unwrap()
    };
    assert!(select("1-lora") > select("baseline"), "{report:#}");
    let figures = evaluated(&task, "a");
    assert_eq!(figures["accuracy"], report["final"]["value"]);
    let predicted = hybrid()
        .arg("predict")
        .arg(task.file("a/artifact"))
        .write_stdin("my card is lost\nwhy fee\n")
        .assert()
        .success();
    let lines = printed(&predicted);
    let labels: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(labels.len(), 2);
    assert!(labels[0]["label"].is_string(), "{lines}");
}

/// The best prompt so far over what was spent, for each stage that searched.
#[test]
fn a_report_shows_how_searches_went() {
    for (task, unit) in [(TinyTask::language(), "tokens"), (TinyTask::new(), "texts")] {
        let set = ["--set", "stages.1.epochs=1"];
        task.train("a").args(set).assert().success();
        let report = report(&task, "a");
        let searches = report["searches"].as_array().unwrap();
        let of: Vec<&Value> = searches.iter().map(|search| &search["candidate"]).collect();
        assert_eq!(of, ["1-prompt", "1-prompt-again"]);
        let trials: Vec<Value> = events(&task, "a")
            .into_iter()
            .filter(|event| event["event"] == "trial" && event["stage"] == "prompt")
            .collect();
        let search = &searches[0];
        assert_eq!(search["unit"], unit);
        assert_eq!(search["decides"], "accuracy");
        let points = search["points"].as_array().unwrap();
        assert_eq!(points.len(), trials.len());
        let mut best: Option<(u64, f64, f64)> = None;
        for (point, trial) in points.iter().zip(&trials) {
            let figures = |row: &Value| {
                let figure = |key: &str| row[key].as_f64().unwrap();
                let sample = row["sample"].as_u64().unwrap();
                (sample, figure("accuracy"), -figure("log_loss"))
            };
            if best.is_none_or(|best| figures(trial) > best) {
                best = Some(figures(trial));
            }
            assert_eq!(Some(figures(point)), best);
            assert_eq!(point["spent"], trial["spent"]);
        }
        let page = std::fs::read_to_string(task.file("a/report.html")).unwrap();
        for part in [
            "id=\"search-1\"",
            "id=\"search-2\"",
            &format!("{unit} spent"),
        ] {
            assert!(page.contains(part), "{part}");
        }
    }
}

/// All questions that the model was asked in a run.
fn questions(task: &TinyTask, run: &str) -> Vec<String> {
    let text = std::fs::read_to_string(task.file(run).join("answers.jsonl")).unwrap();
    let question = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap();
        line["question"].as_str().unwrap().to_owned()
    };
    text.lines().map(question).collect()
}

#[test]
fn a_killed_search_asks_nothing_twice_and_ends_the_same() {
    let task = TinyTask::language();
    task.train("whole").assert().success();
    task.train_through_kills("killed");
    assert_equal_runs(&task, "whole", "killed");
    let asked = questions(&task, "killed");
    let different: BTreeSet<&String> = asked.iter().collect();
    assert_eq!(different.len(), asked.len(), "something was asked twice");
    let whole = questions(&task, "whole");
    assert_eq!(different, whole.iter().collect::<BTreeSet<_>>());
}

#[test]
fn texts_are_learned_and_measured() {
    let task = TinyTask::texts();
    let said = messages(&task.train("a").assert().success());
    assert!(said.contains("chrf"), "{said}");
    let report = report(&task, "a");
    let select = |id: &str| candidate(&report, id)["select"]["chrf"].as_f64().unwrap();
    assert!(select("1-lora") > select("baseline"), "{report:#}");
    assert_eq!(report["texts"]["examples"].as_array().unwrap().len(), 10);
    let on_report = report["comparisons"].as_array().unwrap();
    let on_report = on_report
        .iter()
        .filter(|compared| compared["split"] == "report");
    assert_eq!(on_report.count(), 2, "baseline and prompt");
    let figures = evaluated(&task, "a");
    assert_eq!(figures["chrf"], report["final"]["value"]);
    assert_eq!(figures["examples"], 10);
    let predicted = hybrid()
        .arg("predict")
        .arg(task.file("a/artifact"))
        .write_stdin("my card is lost\n")
        .assert()
        .success();
    let line: Value = serde_json::from_str(&printed(&predicted)).unwrap();
    assert!(line["output"].is_string(), "{line}");
}

#[test]
fn what_a_base_cannot_do_is_refused_before_the_run() {
    let task = TinyTask::language();
    let said = task.refusal(&["stages.1.methods=[]", "stages.1.token_dropout=0.5"]);
    assert!(
        said.contains("stages.1.methods") && said.contains("stages.1.token_dropout"),
        "{said}"
    );
    let said = task.refusal(&["target={metric=\"chrf\", value=50}"]);
    assert!(said.contains("accuracy, macro_f1, mcc"), "{said}");
    let encoder = format!("base.model={:?}", task.file("model"));
    let said = task.refusal(&[&encoder, "base.max_length=16"]);
    assert!(said.contains("stages.0.demonstrations"), "{said}");
    let texts = TinyTask::texts();
    let encoder = format!("base.model={:?}", texts.file("model"));
    let said = texts.refusal(&[&encoder, "base.max_length=16"]);
    assert!(said.contains("name a language model"), "{said}");
    std::fs::remove_file(task.file("llama/tokenizer_config.json")).unwrap();
    let said = task.refusal(&[]);
    assert!(
        said.contains("stages.0.formats: the model has no chat template"),
        "{said}"
    );
}

#[test]
fn label_words_that_begin_alike_are_refused() {
    let task = TinyTask::language();
    task.edit_recipe("cash_fee = [\"fee\"]", "cash_fee = [\"lost money\"]");
    let said = messages(&task.train("a").assert().code(2));
    let expected =
        "\"card_lost\" (lost, wallet) and \"cash_fee\" (lost money) begin with the same token";
    assert!(said.contains(expected), "{said}");
}

/// An input without content, as calibration asks about, may leave a prompt without a token.
#[test]
fn a_bare_template_can_be_calibrated() {
    let task = TinyTask::language();
    task.edit_recipe(
        "template = \"customer : {{ text }} about :\"",
        "template = \"{{ text }}\"",
    );
    task.train("a")
        .args(["--set", "stages.1.epochs=1"])
        .assert()
        .success();
}

/// A soft prompt that starts at the searched prompt is trained together with LoRA, and both are
/// stored and loaded together.
#[test]
fn a_soft_prompt_starts_at_the_searched_prompt() {
    for method in ["prompt_tuning", "prefix_tuning"] {
        let task = TinyTask::language();
        let soft = format!("methods = [{{ method = \"{method}\", num_virtual_tokens = 4 }}, ");
        task.edit_recipe("methods = [", &soft);
        task.edit_recipe("epochs = 10", "epochs = 10\nstart_at_prompt = true");
        task.train("a").assert().success();
        let report = report(&task, "a");
        let adapter = &candidate(&report, "1-lora")["adapter"]["methods"];
        let ids = adapter[0]["init_token_ids"].as_array().unwrap();
        assert!(ids.len() >= 4, "{adapter:#}");
        assert_eq!(adapter[1]["method"], "lora");
        let select = |id: &str| {
            candidate(&report, id)["select"]["accuracy"]
                .as_f64()
                .unwrap()
        };
        assert!(select("1-lora") > select("baseline"), "{report:#}");
        assert_eq!(evaluated(&task, "a")["accuracy"], report["final"]["value"]);
    }
}

#[test]
fn what_cannot_start_at_a_prompt_is_not_asked_to() {
    let task = TinyTask::language();
    let said = task.refusal(&["stages.1.start_at_prompt=true"]);
    let expected = "--set stages.1.start_at_prompt: no method of this stage starts at a prompt";
    assert!(said.contains(expected), "{said}");
}

/// A base in bfloat16 is one in the artifact, too; only decoders are held so.
#[test]
fn a_language_model_learns_in_bfloat16() {
    let task = TinyTask::language();
    let half = ["--set", "base.dtype=bfloat16"];
    task.train("half").args(half).assert().success();
    task.train("whole").assert().success();
    let [half, whole] = ["half", "whole"].map(|run| report(&task, run));
    let select = |report: &Value, id: &str| {
        let select = candidate(report, id)["select"]["log_loss"].as_f64();
        select.unwrap()
    };
    assert!(
        select(&half, "1-lora") < select(&half, "baseline"),
        "{half:#}"
    );
    let differ = select(&half, "baseline") - select(&whole, "baseline");
    assert!(differ != 0.0 && differ.abs() < 0.05, "{differ}");
    assert_eq!(evaluated(&task, "half")["accuracy"], half["final"]["value"]);
    let (artifact, merged) = (task.file("half/artifact"), task.file("merged"));
    let mut merge = hybrid();
    merge.arg("merge").arg(artifact).arg("--out").arg(&merged);
    merge.assert().success();
    // Rounding once more would take small steps of the adapter away.
    assert_eq!(json(&merged.join("artifact.json"))["dtype"], "float32");
    for (task, kind) in [
        (TinyTask::new(), "an encoder's"),
        (TinyTask::translation(), "an encoder-decoder's"),
        (TinyTask::from_scratch(), "an encoder-decoder's"),
    ] {
        let said = task.refusal(&["base.dtype=bfloat16"]);
        assert!(
            said.contains(&format!("{kind} weights are float32")),
            "{said}"
        );
    }
}

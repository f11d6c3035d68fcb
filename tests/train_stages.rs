//! Settings of stages and rounds through whole runs: each shows in what the run leaves.

use safetensors::SafeTensors;
use serde_json::Value;

use crate::fixtures::json;
use crate::run_comparison::{assert_equal_runs, candidate, count, events, report};
use crate::tiny_task::{TinyTask, hybrid, printed};

/// Losses of the updates of the only adapter stage.
fn losses(report: &Value) -> Vec<f64> {
    let points = report["curves"][0]["points"].as_array().unwrap();
    points.iter().map(|p| p["loss"].as_f64().unwrap()).collect()
}

fn trained(task: &TinyTask, run: &str, settings: &[&str]) -> Value {
    let mut command = task.train(run);
    for setting in settings {
        command.args(["--set", setting]);
    }
    command.assert().success();
    report(task, run)
}

/// A task without target, in which training always brings a gain.
fn by_log_loss() -> TinyTask {
    let task = TinyTask::new();
    task.edit_recipe("seed = 3", "seed = 3\nchoose_by = \"log_loss\"");
    task.edit_recipe("[target]\nmetric = \"accuracy\"\nvalue = 1.0\n", "");
    task
}

#[test]
fn early_stopping_ends_a_training_that_no_longer_improves() {
    let task = by_log_loss();
    let settings = [
        // The first state is scored by another way of computing the same.
        "stages.1.early_stopping={ patience = 2, min_delta = 1e-6 }",
        "stages.1.optimizer.lr=0.0",
    ];
    let report = trained(&task, "a", &settings);
    // 24 rows in batches of 4; at rate 0 the first evaluation stays the best.
    assert_eq!(losses(&report).len(), 2 * 6);
    let evaluated = count(&events(&task, "a"), "evaluated");
    assert_eq!(evaluated, 3, "before the first epoch and after two");
}

#[test]
fn early_stopping_watches_what_chooses_among_candidates() {
    let task = by_log_loss();
    // So slow a training that accuracy stands still while the log-loss falls.
    let settings = [
        "stages.1.early_stopping={ patience = 1 }",
        "stages.1.optimizer.lr=0.0001",
    ];
    let report = trained(&task, "a", &settings);
    let evaluated: Vec<Value> = events(&task, "a")
        .into_iter()
        .filter(|event| event["event"] == "evaluated")
        .collect();
    let (first, second) = (&evaluated[0], &evaluated[1]);
    assert_eq!(first["value"], second["value"], "{evaluated:#?}");
    assert!(
        first["log_loss"].as_f64() > second["log_loss"].as_f64(),
        "{evaluated:#?}"
    );
    assert_eq!(losses(&report).len(), 4 * 6, "all epochs: {evaluated:#?}");
}

#[test]
fn rounds_go_on_while_they_bring_a_gain() {
    let task = by_log_loss();
    let report = trained(&task, "a", &["budget.max_rounds=2"]);
    assert_eq!(report["rounds"].as_array().unwrap().len(), 2);
    assert_eq!(report["stopped"], "all rounds done");
    let second = candidate(&report, "2-lora");
    assert_ne!(second["parent"], "baseline");
    let idle = [
        "budget.max_rounds=5",
        "stages.1.optimizer.lr=0.0",
        "stages.1.head.init=random",
    ];
    let report = trained(&task, "b", &idle);
    assert_eq!(report["stopped"], "no gain in a whole round");
}

#[test]
fn budgets_end_a_run_at_once_or_within_a_stage() {
    let task = by_log_loss();
    let whole = trained(&task, "whole", &[]);
    for (setting, reason) in [
        ("budget.max_tokens=1", "budget of tokens spent"),
        ("budget.max_minutes=0.0", "budget of minutes spent"),
    ] {
        let run = reason.rsplit(' ').nth(1).unwrap();
        let report = trained(&task, run, &[setting]);
        assert_eq!(report["stopped"], reason);
        assert_eq!(
            report["candidates"].as_array().unwrap().len(),
            1,
            "the baseline alone"
        );
    }
    let spent = |id: &str| candidate(&whole, id)["cost"]["tokens"].as_u64().unwrap();
    let trials = |run: &str| count(&events(&task, run), "trial");
    let first = spent("baseline") + 1;
    let report = trained(&task, "first", &[&format!("budget.max_tokens={first}")]);
    assert_eq!(report["stopped"], "budget of tokens spent");
    assert_eq!(report["candidates"].as_array().unwrap().len(), 2);
    assert_eq!(trials("first"), 1, "a search makes one trial at least");
    assert!(trials("whole") > 2);
    let half = spent("baseline") + spent("1-prompt") + spent("1-lora") / 2;
    let report = trained(&task, "half", &[&format!("budget.max_tokens={half}")]);
    assert_eq!(report["stopped"], "budget of tokens spent");
    let (short, long) = (losses(&report), losses(&whole));
    assert!(!short.is_empty() && short.len() < long.len());
    assert_eq!(short, long[..short.len()], "a budget changes no update");
}

#[test]
fn candidates_are_adopted_by_the_figure_that_the_recipe_names() {
    let mut losses = Vec::new();
    for choose_by in ["metric", "log_loss", "scaled_log_loss"] {
        let task = TinyTask::new();
        let report = trained(&task, "a", &[&format!("choose_by={choose_by}")]);
        let standing = |candidate: &Value| {
            let of = |name: &str| candidate["select"][name].as_f64().unwrap();
            match choose_by {
                "metric" => (of("accuracy"), -of("log_loss")),
                _ => (-of("log_loss"), of("accuracy")),
            }
        };
        for made in report["candidates"].as_array().unwrap() {
            let Some(parent) = made["parent"].as_str() else {
                continue;
            };
            let better = standing(made) > standing(candidate(&report, parent));
            assert_eq!(made["adopted"], better, "{choose_by}: {}", made["id"]);
        }
        let winner = report["final"]["candidate"].as_str().unwrap();
        assert_eq!(candidate(&report, winner)["adopted"], true);
        let baseline = &candidate(&report, "baseline")["select"]["log_loss"];
        losses.push(baseline.as_f64().unwrap());
    }
    assert_eq!(losses[0], losses[1]);
    assert!(losses[2] < losses[1], "{losses:?}");
}

#[test]
fn token_dropout_changes_updates_and_repeats() {
    let task = by_log_loss();
    let plain = losses(&trained(&task, "plain", &[]));
    let dropped = losses(&trained(&task, "a", &["stages.1.token_dropout=0.4"]));
    let again = losses(&trained(&task, "b", &["stages.1.token_dropout=0.4"]));
    assert_ne!(dropped, plain);
    assert_eq!(dropped, again);
}

#[test]
fn layers_that_are_run_again_change_no_loss() {
    for task in [by_log_loss(), TinyTask::language()] {
        let kept = losses(&trained(&task, "kept", &[]));
        let again = losses(&trained(
            &task,
            "again",
            &["stages.1.recompute_layers=true"],
        ));
        assert_eq!(kept.len(), again.len());
        for (kept, again) in kept.iter().zip(&again) {
            assert!((kept - again).abs() < 1e-5 * (1.0 + kept), "{kept} {again}");
        }
    }
    let said = TinyTask::translation().refusal(&["stages.1.recompute_layers=true"]);
    assert!(said.contains("stages.1.recompute_layers"), "{said}");
}

#[test]
fn what_is_kept_in_a_file_changes_no_loss() {
    let task = by_log_loss();
    let kept = losses(&trained(&task, "memory", &[]));
    let filed = losses(&trained(&task, "file", &["stages.1.kept_mb=0"]));
    assert_eq!(kept, filed);
}

#[test]
fn a_head_alone_is_trained_over_frozen_adapters() {
    let task = by_log_loss();
    task.edit_recipe(
        "[[stages]]\nkind = \"prompt\"\nname = \"prompt-again\"\n",
        "[[stages]]\nkind = \"adapter\"\nname = \"head\"\nepochs = 2\nbatch_size = 8\n\
         optimizer = { kind = \"sgd\", lr = 0.5 }\n\n\
         [[stages]]\nkind = \"prompt\"\nname = \"prompt-again\"\n",
    );
    let report = trained(&task, "a", &[]);
    let (lora, head) = (candidate(&report, "1-lora"), candidate(&report, "1-head"));
    assert_eq!(head["parent"], "1-lora");
    let read = |id: &str| {
        let path = task
            .file("a/candidates")
            .join(id)
            .join("trainable.safetensors");
        std::fs::read(path).unwrap()
    };
    let (before, after) = (read("1-lora"), read("1-head"));
    let before = SafeTensors::deserialize(&before).unwrap();
    let after = SafeTensors::deserialize(&after).unwrap();
    assert_eq!(before.names().len(), after.names().len());
    let mut head_values = 0;
    for (name, tensor) in after.iter() {
        let same = before.tensor(name).unwrap().data() == tensor.data();
        assert_eq!(same, !name.starts_with("head."), "{name}");
        if name.starts_with("head.") {
            head_values += tensor.shape().iter().product::<usize>();
        }
    }
    assert_eq!(head["cost"]["trainable_parameters"], head_values);
    assert_eq!(head["adapter"]["trainable_parameters"], head_values);
    // What the artifact adds to the base is LoRA and head together.
    let winner = candidate(&report, report["final"]["candidate"].as_str().unwrap());
    assert!(!winner["adapter"].is_null());
    assert_eq!(
        report["cost"]["trainable_parameters"],
        lora["cost"]["trainable_parameters"]
    );
}

/// Methods that PEFT's format has, and those that it has not.
#[test]
fn artifacts_of_every_method_reload_to_equal_figures() {
    for (method, peft) in [
        (
            r#"{ method = "ia3", target_modules = ["key", "output.dense"], feedforward_modules = ["output.dense"] }"#,
            true,
        ),
        (
            r#"{ method = "adalora", init_r = 4, target_r = 2, tinit = 1, tfinal = 1 }"#,
            true,
        ),
        (
            r#"{ method = "lora", r = 2, init_lora_weights = "pissa" }"#,
            true,
        ),
        (
            r#"{ method = "trainable_tokens", token_indices = [3, 5, 7] }, { method = "lora", r = 2 }"#,
            true,
        ),
        (
            r#"{ method = "multitask_prompt_tuning", num_virtual_tokens = 2, num_tasks = 2 }"#,
            true,
        ),
        (
            r#"{ method = "adaption_prompt", adapter_len = 2, adapter_layers = 1 }"#,
            true,
        ),
        (r#"{ method = "layer_norm" }"#, true),
        (r#"{ method = "bitfit" }"#, false),
        (r#"{ method = "bottleneck" }"#, false),
        (
            r#"{ method = "prompt_tuning", num_virtual_tokens = 2, prompt_tuning_init = "SAMPLE_VOCAB" }"#,
            true,
        ),
        (
            r#"{ method = "prefix_tuning", num_virtual_tokens = 2 }, { method = "lora", r = 2, use_dora = true }"#,
            false,
        ),
        (r#"{ method = "p_tuning", num_virtual_tokens = 2 }"#, true),
        (
            r#"{ method = "unfreeze", modules = ["encoder.layer.1"] }"#,
            false,
        ),
    ] {
        let task = by_log_loss();
        task.edit_recipe(
            r#"{ method = "lora", r = 2, lora_alpha = 4, lora_dropout = 0.1, target_modules = ["query", "value"] }"#,
            method,
        );
        // What stands in front of the tokens does not start as the identity.
        let report = match method.contains("num_virtual_tokens") {
            true => trained(
                &task,
                "a",
                &["stages.1.epochs=20", "stages.1.optimizer.lr=0.03"],
            ),
            false => trained(&task, "a", &[]),
        };
        let winner = candidate(&report, report["final"]["candidate"].as_str().unwrap());
        assert!(!winner["adapter"].is_null(), "{method}");
        assert_eq!(task.file("a/artifact/adapter").exists(), peft, "{method}");
        assert_eq!(
            task.file("a/artifact/adapter.safetensors").exists(),
            !peft,
            "{method}"
        );
        let mut eval = hybrid();
        eval.arg("eval").arg(task.file("a/artifact")).arg("--json");
        let figures: Value = serde_json::from_str(&printed(&eval.assert().success())).unwrap();
        for (name, value) in report["final"]["per_metric"].as_object().unwrap() {
            assert_eq!(figures[name], *value, "{method}: {name}");
        }
    }
}

#[test]
fn label_words_are_trained_on_when_asked_for() {
    let task = by_log_loss();
    let plain = trained(&task, "plain", &[]);
    let words = trained(&task, "words", &["stages.1.train_on_label_words=true"]);
    let description = json(&task.file("words/candidates/1-lora/candidate.json"));
    let label_words = description["prompt"]["label_words"].as_object().unwrap();
    let extra: usize = label_words
        .values()
        .map(|words| words.as_array().unwrap().len())
        .sum();
    let steps = |rows: usize| 4 * rows.div_ceil(4);
    assert_eq!(losses(&plain).len(), steps(24));
    assert_eq!(losses(&words).len(), steps(24 + extra));
}

/// Ranks and first values follow the fit rows; a killed run finds the same, and a later round goes on
/// from there.
#[test]
fn loras_start_at_what_their_sites_see_of_the_fit_rows() {
    let start_at_rows = |task: &TinyTask| {
        let start = "method = \"lora\", init_lora_weights = \"eva\", ";
        task.edit_recipe("method = \"lora\", ", start);
    };
    let encoder = by_log_loss();
    // The pooler among them, which is not asked.
    encoder.edit_recipe("[\"query\", \"value\"]", "\"all-linear\"");
    for (task, r) in [(encoder, 2), (TinyTask::texts(), 4)] {
        start_at_rows(&task);
        let whole = trained(&task, "whole", &["budget.max_rounds=2"]);
        let methods = |id: &str| candidate(&whole, id)["adapter"]["methods"][0].clone();
        let eva = methods("1-lora");
        let ranks = eva["eva_config"]["ranks"].as_object().unwrap();
        let ranks: Vec<u64> = ranks.values().map(|rank| rank.as_u64().unwrap()).collect();
        let n_reached = ranks.len() - usize::from(eva["eva_config"]["ranks"]["pooler.dense"] == 0);
        assert_eq!(ranks.iter().sum::<u64>(), r * n_reached as u64);
        assert!(ranks.iter().any(|rank| *rank != r), "{ranks:?}");
        assert_eq!(methods("2-lora"), eva, "the second round goes on");
        let mut eval = hybrid();
        let eval = eval
            .arg("eval")
            .arg(task.file("whole/artifact"))
            .arg("--json");
        let figures: Value = serde_json::from_str(&printed(&eval.assert().success())).unwrap();
        let metric = whole["final"]["metric"].as_str().unwrap();
        assert_eq!(figures[metric], whole["final"]["value"]);
        task.train("alone").assert().success();
        task.train_through_kills("killed");
        assert_equal_runs(&task, "alone", "killed");
    }
    let task = TinyTask::translation();
    start_at_rows(&task);
    let said = task.refusal(&[]);
    assert!(said.contains("two sequences"), "{said}");
}

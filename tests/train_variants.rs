//! Adapter stages that choose among settings.

use serde_json::Value;

use crate::run_comparison::{assert_equal_runs, candidate, events, report};
use crate::tiny_task::TinyTask;

const RATES: [f64; 4] = [0.0, 0.02, 0.001, 0.0001];

/// A task whose adapter stage tries some rates, each as a whole update rule.
fn with_rates() -> TinyTask {
    let task = by_log_loss();
    let variants = RATES.map(|lr| format!("{{ optimizer = {{ kind = \"adamw\", lr = {lr:?} }} }}"));
    let variants = format!(
        "variants = [{}]\nepochs = 4\nevaluate_every = 1",
        variants.join(", ")
    );
    task.edit_recipe("epochs = 4", &variants);
    task
}

fn by_log_loss() -> TinyTask {
    let task = TinyTask::new();
    task.edit_recipe("seed = 3", "seed = 3\nchoose_by = \"log_loss\"");
    task.edit_recipe("[target]\nmetric = \"accuracy\"\nvalue = 1.0\n", "");
    task
}

/// What each decision left: the epoch, and the variants by rank. A resumed run decides again.
fn left(task: &TinyTask, run: &str) -> Vec<(u64, Vec<u64>)> {
    let events = events(task, run).into_iter();
    let decisions = events.filter(|event| event["event"] == "variants_left");
    let numbers = |event: &Value| {
        let numbers = event["variants"].as_array().unwrap().iter();
        numbers.map(|number| number.as_u64().unwrap()).collect()
    };
    let mut left: Vec<(u64, Vec<u64>)> = decisions
        .map(|event| (event["epoch"].as_u64().unwrap(), numbers(&event)))
        .collect();
    left.sort();
    left.dedup();
    left
}

#[test]
fn the_winner_is_what_its_settings_train_alone() {
    let task = with_rates();
    task.train("all").assert().success();
    let decisions = left(&task, "all");
    let counts = decisions.iter().map(|(epoch, left)| (*epoch, left.len()));
    assert_eq!(counts.collect::<Vec<_>>(), [(1, 2), (2, 1)]);
    let winner = decisions[1].1[0] as usize;
    assert!(decisions[0].1.contains(&(winner as u64)));

    let alone = by_log_loss();
    let settings = [
        format!("stages.1.optimizer.lr={:?}", RATES[winner - 1]),
        "stages.1.evaluate_every=1".to_owned(),
    ];
    let mut command = alone.train("alone");
    command.args(["--set", &settings[0], "--set", &settings[1]]);
    command.assert().success();
    let tensors = |task: &TinyTask, run: &str| {
        std::fs::read(
            task.file(run)
                .join("candidates/1-lora/trainable.safetensors"),
        )
        .unwrap()
    };
    assert_eq!(tensors(&task, "all"), tensors(&alone, "alone"));
    let (all, alone) = (report(&task, "all"), report(&alone, "alone"));
    let of = |report: &Value, key: &str| candidate(report, "1-lora")[key].clone();
    assert_eq!(of(&all, "select"), of(&alone, "select"));
    let tokens = |report: &Value| of(report, "cost")["tokens"].as_f64().unwrap();
    let times = tokens(&all) / tokens(&alone);
    assert!(times > 1.5 && times < 2.5, "8 epochs instead of 4: {times}");
}

#[test]
fn a_choice_goes_on_after_kills() {
    let task = with_rates();
    task.train("whole").assert().success();
    task.train_through_kills("killed");
    assert_equal_runs(&task, "whole", "killed");
    assert_eq!(left(&task, "whole"), left(&task, "killed"));
}

#[test]
fn methods_are_chosen_among_too() {
    let task = by_log_loss();
    task.edit_recipe(
        "epochs = 4",
        "epochs = 4\nvariants = [{ methods = [] }, {}, { methods = [{ method = \"ia3\" }] }]\n\
         halving = { first_epochs = 2, eta = 3 }",
    );
    task.train("a").assert().success();
    let decisions = left(&task, "a");
    assert_eq!(decisions.len(), 1);
    let winner = decisions[0].1[0] as usize;
    let report = report(&task, "a");
    let methods = candidate(&report, "1-lora")["adapter"]["methods"].as_array();
    let names: Vec<&str> = methods
        .unwrap()
        .iter()
        .map(|method| method["method"].as_str().unwrap())
        .collect();
    assert_eq!(names, [vec![], vec!["lora"], vec!["ia3"]][winner - 1]);
}

#[test]
fn faults_of_variants_are_named() {
    let task = by_log_loss();
    task.edit_recipe(
        "epochs = 4",
        "epochs = 4\nvariants = [{}, { methods = [{ method = \"lora\", r = 2, target_modules = [\"querry\"] }] }]",
    );
    let message = task.refusal(&[]);
    assert!(message.contains("stages.1.variants.1.methods"), "{message}");
    assert!(message.contains("querry"), "{message}");
    let message = task.refusal(&["stages.1.variants=[{ epochs = 3 }]"]);
    assert!(
        message.contains("stages.1.variants.0.epochs: unknown key"),
        "{message}"
    );
}

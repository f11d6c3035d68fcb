//! Adapter stages that choose among settings.

use std::collections::BTreeMap;

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

/// A task whose variants differ in methods and update rules; `together` or not.
fn with_methods(together: bool) -> TinyTask {
    let task = by_log_loss();
    let lora = |r: usize, dropout: f64, rate: f64| {
        format!(
            "{{ methods = [{{ method = \"lora\", r = {r}, lora_alpha = 4, lora_dropout = {dropout:?}, \
             target_modules = [\"query\", \"value\"] }}], \
             optimizer = {{ kind = \"adamw\", lr = {rate:?} }} }}"
        )
    };
    let variants = [
        lora(2, 0.1, 0.01),
        lora(4, 0.0, 0.001),
        lora(1, 0.2, 0.02),
        // Other batches: not in the same forward.
        "{ batch_size = 6 }".to_owned(),
        "{ methods = [{ method = \"ia3\" }], margin = 0.1 }".to_owned(),
    ];
    let settings = format!(
        "variants = [{}]\nvariants_together = {together}\nepochs = 4\nevaluate_every = 2\nlog_every = 1",
        variants.join(", ")
    );
    task.edit_recipe("epochs = 4", &settings);
    task
}

/// The figures of each update in a journal: variant and step, with loss, rate and norm.
fn updates(task: &TinyTask, run: &str) -> BTreeMap<(u64, u64), [f64; 3]> {
    let steps = events(task, run).into_iter();
    let steps = steps.filter(|event| event["event"] == "step");
    let figures = |event: Value| {
        let number = |key: &str| event[key].as_f64().unwrap();
        let variant = event["variant"].as_u64().unwrap_or(0);
        let place = (variant, event["step"].as_u64().unwrap());
        (place, ["loss", "learning_rate", "grad_norm"].map(number))
    };
    steps.map(figures).collect()
}

/// Two runs with the same choice, and the same updates on the way to it, to 1e-4.
fn assert_same_choice(one_by_one: &TinyTask, together: &TinyTask, n_variants: u64) {
    one_by_one.train("a").assert().success();
    together.train("a").assert().success();
    let (expected, found) = (updates(one_by_one, "a"), updates(together, "a"));
    assert!(found.keys().eq(expected.keys()), "{:?}", found.keys());
    for variant in 1..=n_variants {
        assert!(found.contains_key(&(variant, 1)), "variant {variant}");
    }
    for (place, found) in &found {
        for (found, expected) in found.iter().zip(expected[place]) {
            let apart = (found - expected).abs() / (1.0 + expected.abs());
            assert!(apart < 1e-4, "{place:?}: {found} instead of {expected}");
        }
    }
    assert_eq!(left(one_by_one, "a"), left(together, "a"));
    let [alone, all] = [one_by_one, together].map(|task| report(task, "a"));
    let cost = |report: &Value, key: &str| {
        let cost = &candidate(report, "1-lora")["cost"];
        cost[key].as_f64().unwrap()
    };
    for key in ["tokens", "flops"] {
        assert_eq!(cost(&alone, key), cost(&all, key), "{key}");
    }
    assert!(cost(&all, "wall_s") > 0.0);
}

#[test]
fn variants_in_one_forward_are_what_they_are_one_by_one() {
    let together = with_methods(true);
    assert_same_choice(&with_methods(false), &together, 5);
    let steps = events(&together, "a").into_iter();
    let steps = steps.filter(|event| event["event"] == "step");
    let steps: Vec<[u64; 2]> = steps
        .map(|event| ["variant", "step"].map(|key| event[key].as_u64().unwrap()))
        .take(8)
        .collect();
    let first_updates = [1, 2].map(|step| [1, 2, 3, 5].map(|variant| [variant, step]));
    assert_eq!(steps, first_updates.concat(), "update by update");
    // A forward of few tokens holds some variants only.
    let few = with_methods(true);
    few.edit_recipe("log_every = 1", "log_every = 1\nmax_tokens = 40");
    let one_by_one = with_methods(false);
    one_by_one.edit_recipe("log_every = 1", "log_every = 1\nmax_tokens = 40");
    assert_same_choice(&one_by_one, &few, 5);
}

#[test]
fn a_variant_that_stops_early_leaves_the_others() {
    let task = |together: bool| {
        let task = with_rates();
        let settings = format!(
            "evaluate_every = 1\nlog_every = 1\nhalving = {{ first_epochs = 4 }}\n\
             early_stopping = {{ patience = 1, min_delta = 1e-6 }}\n\
             variants_together = {together}"
        );
        task.edit_recipe("evaluate_every = 1", &settings);
        task
    };
    let together = task(true);
    assert_same_choice(&task(false), &together, 4);
    let of_each = updates(&together, "a");
    let n_updates = |variant: u64| of_each.keys().filter(|(of, _)| *of == variant).count();
    let counts: Vec<usize> = (1..=4).map(n_updates).collect();
    assert!(
        counts[1..].iter().any(|count| *count > counts[0]),
        "a rate of zero improves nothing: {counts:?}"
    );
}

#[test]
fn a_budget_ends_all_that_learn_in_one_forward() {
    let task = with_methods(true);
    task.train("whole").assert().success();
    let whole = report(&task, "whole");
    let spent = |id: &str| candidate(&whole, id)["cost"]["tokens"].as_u64().unwrap();
    let half = spent("baseline") + spent("1-prompt") + spent("1-lora") / 2;
    let mut command = task.train("half");
    command.args(["--set", &format!("budget.max_tokens={half}")]);
    command.assert().success();
    let stopped = report(&task, "half")["stopped"].clone();
    assert_eq!(stopped, "budget of tokens spent");
    let (short, long) = (updates(&task, "half"), updates(&task, "whole"));
    assert!(!short.is_empty() && short.len() < long.len());
    let kept = long
        .into_iter()
        .filter(|(place, _)| short.contains_key(place));
    assert_eq!(short, kept.collect(), "a budget changes no update");
}

#[test]
fn heads_alone_and_hidden_tokens_go_together_too() {
    let task = |together: bool| {
        let task = by_log_loss();
        let variants = "variants = [{ methods = [] }, { optimizer = { kind = \"sgd\", lr = 0.1 } }, \
             { methods = [], optimizer = { kind = \"adamw\", lr = 0.1 } }, {}]";
        let settings = format!(
            "{variants}\nvariants_together = {together}\nepochs = 4\nlog_every = 1\ntoken_dropout = 0.2"
        );
        task.edit_recipe("epochs = 4", &settings);
        task
    };
    assert_same_choice(&task(false), &task(true), 4);
}

#[test]
fn variants_of_language_models_go_together_too() {
    for (new, epochs) in [
        (TinyTask::language as fn() -> TinyTask, "epochs = 10"),
        (TinyTask::texts, "epochs = 6"),
    ] {
        let task = |together: bool| {
            let task = new();
            let lora =
                "{ method = \"lora\", r = 2, lora_dropout = 0.1, target_modules = \"all-linear\" }";
            let variants = format!(
                "variants = [{{ methods = [{lora}] }}, {{ optimizer = {{ kind = \"adamw\", lr = 0.001 }} }}]"
            );
            let settings =
                format!("{variants}\nvariants_together = {together}\nepochs = 2\nlog_every = 1");
            task.edit_recipe(epochs, &settings);
            task
        };
        assert_same_choice(&task(false), &task(true), 2);
    }
}

#[test]
fn answers_in_passages_are_learnt_together_too() {
    let task = |together: bool| {
        let task = TinyTask::passages();
        let variants = "variants = [{}, { optimizer = { kind = \"adamw\", lr = 0.002 } }]";
        let settings =
            format!("{variants}\nvariants_together = {together}\nepochs = 2\nlog_every = 1");
        task.edit_recipe("epochs = 12", &settings);
        task
    };
    assert_same_choice(&task(false), &task(true), 2);
}

#[test]
fn a_choice_in_one_forward_goes_on_after_kills() {
    let task = with_methods(true);
    task.train("whole").assert().success();
    task.train_through_kills("killed");
    assert_equal_runs(&task, "whole", "killed");
    assert_eq!(left(&task, "whole"), left(&task, "killed"));
}

#[test]
fn what_cannot_go_together_is_named() {
    let task = with_methods(true);
    let soft = "stages.1.variants=[{ methods = [{ method = \"prompt_tuning\", num_virtual_tokens = 2 }] }]";
    let message = task.refusal(&[soft]);
    assert!(message.contains("stages.1.variants.0.methods"), "{message}");
    assert!(message.contains("prompt_tuning"), "{message}");
    let message = task.refusal(&["stages.1.recompute_layers=true"]);
    assert!(message.contains("stages.1.variants_together"), "{message}");
    let message = task.refusal(&["stages.1.variants=[]"]);
    assert!(message.contains("no variants"), "{message}");
    let translation = TinyTask::translation();
    let message = translation.refusal(&[
        "stages.1.variants=[{}, { batch_size = 2 }]",
        "stages.1.variants_together=true",
    ]);
    assert!(message.contains("encoder-decoder"), "{message}");
}

//! What a prompt stage of a recipe can search, and in which ways.

use serde_json::Value;

use crate::run_comparison::{events, report};
use crate::tiny_task::TinyTask;

/// The language task with its first prompt stage alone.
fn search() -> TinyTask {
    let task = TinyTask::language();
    let recipe = std::fs::read_to_string(task.recipe()).unwrap();
    let end = recipe.find("\n[[stages]]\nkind = \"adapter\"").unwrap();
    std::fs::write(task.recipe(), &recipe[..end]).unwrap();
    task
}

/// The trials of a run with these settings.
fn trials(task: &TinyTask, run: &str, settings: &[&str]) -> Vec<Value> {
    let mut command = task.train(run);
    for setting in settings {
        command.args(["--set", setting]);
    }
    command.assert().success();
    let trials = events(task, run);
    let trials = trials.into_iter().filter(|event| event["event"] == "trial");
    trials.collect()
}

#[test]
fn every_strategy_is_reached_from_a_recipe() {
    let task = search();
    let mut found = Vec::new();
    for strategy in [
        "{ kind = \"random\", trials = 4 }",
        "{ kind = \"exhaustive\" }",
        "{ kind = \"halving\", eta = 2, first_sample = 3 }",
        "{ kind = \"beam\", width = 2, rounds = 2, expansions = 2, sample = 6 }",
        "{ kind = \"evolution\", population = 3, generations = 2, sample = 6 }",
        "{ kind = \"tree_parzen\", trials = 6, startup = 3, sample = 6 }",
    ] {
        let run = format!("run {}", found.len());
        let trials = trials(&task, &run, &[&format!("stages.0.strategy={strategy}")]);
        assert!(trials.len() >= 4, "{strategy}: {trials:#?}");
        let points = &report(&task, &run)["searches"][0]["points"];
        assert_eq!(points.as_array().unwrap().len(), trials.len(), "{strategy}");
        let scored: Vec<(Value, Value)> = trials
            .iter()
            .map(|trial| (trial["prompt"].clone(), trial["sample"].clone()))
            .collect();
        assert!(!found.contains(&scored), "{strategy} does as another one");
        found.push(scored);
    }
}

#[test]
fn every_choice_of_demonstrations_is_reached_from_a_recipe() {
    let task = search();
    let most = |run: &str, choice: &str| {
        let settings = [
            &format!("stages.0.demonstrations=[{choice}]"),
            "stages.0.strategy={ kind = \"exhaustive\" }",
        ];
        let trials = trials(&task, run, &settings);
        let shown = trials.iter().map(|trial| &trial["demonstrations"]);
        shown.map(|n| n.as_u64().unwrap()).max().unwrap()
    };
    assert_eq!(most("none", "{ kind = \"none\" }"), 0);
    assert_eq!(most("random", "{ kind = \"random\", n = 2, sets = 2 }"), 2);
    assert_eq!(most("balanced", "{ kind = \"balanced\", n = 3 }"), 3);
    // It is chosen from among so many for each input.
    assert_eq!(
        most("nearest", "{ kind = \"nearest\", n = 2, pool = 7 }"),
        7
    );
    let own = most("own", "{ kind = \"bootstrapped\", n = 2 }");
    assert!((1..=2).contains(&own), "{own}");
}

#[test]
fn openings_of_the_answer_are_searched_from_a_recipe() {
    let task = search();
    let settings = [
        "stages.0.answer_starts=[\"\", \"card :\"]",
        "stages.0.strategy={ kind = \"exhaustive\" }",
    ];
    let trials = trials(&task, "a", &settings);
    let opened = |start: &str| {
        let start = (!start.is_empty()).then_some(start);
        let of_start = trials
            .iter()
            .filter(|trial| trial.get("answer_start").and_then(Value::as_str) == start);
        of_start.count()
    };
    assert_eq!(opened("card :"), opened(""));
    assert_eq!(opened("card :") + opened(""), trials.len());
}

#[test]
fn instructions_are_proposed_from_a_recipe() {
    let given = ["", "please help"];
    for (proposals, strategy) in [
        ("{ edits = 3 }", "{ kind = \"exhaustive\" }"),
        ("{ written = 2 }", "{ kind = \"exhaustive\" }"),
        (
            "{ improved = 2 }",
            "{ kind = \"beam\", width = 1, rounds = 2, expansions = 1 }",
        ),
    ] {
        let task = search();
        // What asks a model to write has more words than a label task.
        let config = task.file("llama/config.json");
        let text = std::fs::read_to_string(&config).unwrap();
        std::fs::write(&config, text.replace("96", "1024")).unwrap();
        let settings = [
            "base.max_length=512",
            "stages.0.formats=[\"plain\"]",
            "stages.0.demonstrations=[{ kind = \"none\" }]",
            &format!("stages.0.proposals={proposals}"),
            &format!("stages.0.strategy={strategy}"),
        ];
        let trials = trials(&task, "a", &settings);
        let new = trials.iter().find(|trial| {
            let instruction = trial["instruction"].as_str().unwrap_or_default();
            !given.contains(&instruction)
        });
        assert!(new.is_some(), "{proposals}: {trials:#?}");
    }
}

#[test]
fn a_prompt_within_the_margin_does_not_take_the_place_of_the_one_that_is_there() {
    let task = search();
    let prompts = |run: &str, margin: &str| -> Vec<Value> {
        let settings = [
            "choose_by=log_loss",
            "stages.0.strategy={ kind = \"exhaustive\" }",
            &format!("stages.0.margin={margin}"),
        ];
        trials(&task, run, &settings);
        let candidates = report(&task, run)["candidates"].clone();
        let candidates = candidates.as_array().unwrap().iter();
        candidates
            .map(|candidate| candidate["prompt"]["id"].clone())
            .collect()
    };
    let without = prompts("without", "0.0");
    assert_ne!(without[0], without[1]);
    let wide = prompts("wide", "1000.0");
    assert_eq!(wide[0], wide[1]);
    assert_eq!(without[0], wide[0]);
}

//! Searches that end early, in ties or not at all.

use std::error::Error;
use std::ops::ControlFlow;

use super::super::{
    Criterion, SearchEvent, SearchOutcome, SearchRequest, SearchStrategy, Trial, search,
};
use super::{fit, names, space, watch};
use crate::error::PromptError;
use crate::fake_model::{BagOfWords, example};
use crate::prompt::Prompt;

/// Examples that only say their class through a word that no label name holds.use super::{fit, names, space, watch};

#[test]
fn a_failed_search_keeps_its_trials() {
    let (space, fit, labels) = (space(7), fit(), names());
    let strategy = SearchStrategy::Exhaustive;
    let request = SearchRequest {
        space: &space,
        incumbent: None,
        strategy: &strategy,
        fit: &fit,
        labels: &labels,
        criterion: Criterion::Accuracy,
        seed: 0,
    };
    let mut seen = Vec::new();
    let mut observer = |event: SearchEvent<'_>| {
        if let SearchEvent::Finished(trial) = event {
            seen.push(trial.clone());
        }
        ControlFlow::Continue(())
    };
    let mut model = BagOfWords {
        fails_after: Some(100),
        ..BagOfWords::default()
    };
    let error = search(request, &mut model, &mut observer).unwrap_err();
    assert_eq!(error.to_string(), "prompt search failed after 4 trials");
    let cause = error.source().unwrap().source().unwrap();
    assert_eq!(cause.to_string(), "out of memory");
    let PromptError::Search { trials, .. } = error else {
        panic!("checked above")
    };
    assert_eq!(trials, seen);

    let mut model = BagOfWords {
        fails_after: Some(3),
        ..BagOfWords::default()
    };
    let error = search(request, &mut model, &mut watch).unwrap_err();
    assert!(
        matches!(error, PromptError::Model { .. }),
        "nothing to keep: {error:?}"
    );
}

#[test]
fn an_observer_may_break_for_its_budget() {
    let (space, fit, labels) = (space(7), fit(), names());
    let strategy = SearchStrategy::Exhaustive;
    let request = SearchRequest {
        space: &space,
        incumbent: None,
        strategy: &strategy,
        fit: &fit,
        labels: &labels,
        criterion: Criterion::Accuracy,
        seed: 0,
    };
    let within = |budget: u64| {
        let (mut spent, mut planned) = (0, 0);
        let mut model = BagOfWords::default();
        let outcome = search(request, &mut model, &mut |event| match event {
            SearchEvent::Starting {
                cost, n_planned, ..
            } => {
                planned = n_planned;
                if spent + cost > budget {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            }
            SearchEvent::Finished(trial) => {
                spent += trial.cost;
                ControlFlow::Continue(())
            }
        });
        (outcome, model.read.len(), planned)
    };
    let (outcome, n_read, planned) = within(100);
    let outcome = outcome.unwrap();
    assert!(
        !outcome.complete && outcome.trials.len() == 4,
        "{} trials",
        outcome.trials.len()
    );
    assert_eq!(
        (n_read, planned),
        (88, 16),
        "work that does not fit is not begun"
    );
    let (outcome, n_read, _) = within(10);
    assert!(matches!(outcome, Err(PromptError::StoppedEarly)));
    assert_eq!(n_read, 0);
}

#[test]
fn ties_go_to_the_lower_log_loss_then_to_the_first() {
    let trial = |template: &str, sample, accuracy, log_loss| Trial {
        prompt: Prompt {
            template: template.to_owned(),
            ..Prompt::default()
        },
        sample,
        accuracy,
        log_loss,
        n_cut: 0,
        cost: 1,
        spent: 0,
    };
    let trials = vec![
        trial("lucky", 8, 1.0, 0.1),
        trial("best", 8, 0.5, 0.9),
        trial("third", 16, 0.75, 0.5),
        trial("best", 16, 0.75, 0.4),
        trial("tied", 16, 0.75, 0.4),
    ];
    let outcome = SearchOutcome {
        best: trials[3].prompt.clone(),
        trials,
        criterion: Criterion::Accuracy,
        spent: 5,
        complete: true,
    };
    let ranked: Vec<&str> = outcome
        .ranking()
        .iter()
        .map(|trial| trial.prompt.template.as_str())
        .collect();
    assert_eq!(ranked, ["best", "tied", "third", "lucky"]);
    assert_eq!(outcome.shortlist(2).len(), 2);
    let best: Vec<(usize, f64)> = outcome
        .curve()
        .iter()
        .map(|point| (point.sample, point.log_loss))
        .collect();
    assert_eq!(best, [(8, 0.1), (8, 0.1), (16, 0.5), (16, 0.4), (16, 0.4)]);
    let by_log_loss = SearchOutcome {
        criterion: Criterion::LogLoss,
        trials: vec![trial("right", 8, 0.9, 0.8), trial("sure", 8, 0.8, 0.3)],
        ..outcome
    };
    assert_eq!(by_log_loss.ranking()[0].prompt.template, "sure");
}

#[test]
fn requests_that_cannot_work_are_refused() {
    let (space, labels) = (space(1), names());
    let strategy = SearchStrategy::Exhaustive;
    let request = SearchRequest {
        space: &space,
        incumbent: None,
        strategy: &strategy,
        fit: &[],
        labels: &labels,
        criterion: Criterion::Accuracy,
        seed: 0,
    };
    let error = search(request, &mut BagOfWords::default(), &mut watch).unwrap_err();
    assert!(matches!(
        error,
        PromptError::EmptySpace {
            what: "fit example"
        }
    ));
    let unknown = [example("card", "z")];
    let error = search(
        SearchRequest {
            fit: &unknown,
            ..request
        },
        &mut BagOfWords::default(),
        &mut watch,
    )
    .unwrap_err();
    assert!(matches!(error, PromptError::Data(_)));
}

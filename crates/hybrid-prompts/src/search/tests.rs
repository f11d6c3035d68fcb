//! Tests of the search with a planted best prompt.

mod ends;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::ControlFlow;

use hybrid_data::{Example, LabelSet};

use super::{
    Criterion, SearchEvent, SearchOutcome, SearchRequest, SearchSpace, SearchStrategy, Trial,
    search,
};
use crate::error::PromptError;
use crate::fake_model::{BagOfWords, example, labels};
use crate::prompt::Prompt;

const CLASSES: [(&str, &str); 4] = [("a", "card"), ("b", "loan"), ("c", "cash"), ("d", "rate")];

/// Examples that only say their class through a word that no label name holds.
fn fit() -> Vec<Example> {
    let fillers = [
        "please", "now", "help", "today", "me", "thanks", "quick", "why", "where", "how",
    ];
    let mut examples = Vec::new();
    for (index, filler) in fillers.iter().enumerate() {
        for (label, word) in CLASSES {
            let other = fillers[(index * 3 + 1) % fillers.len()];
            examples.push(example(&format!("{filler} {word} {other}"), label));
        }
    }
    examples
}

/// A space in which one choice of words is right, and noisy templates drown the input.
fn space(n_noisy: usize) -> SearchSpace {
    let noisy = |index: usize| {
        let noise: Vec<String> = (0..12).map(|word| format!("noise{index}x{word}")).collect();
        format!("{} {{{{ text }}}}", noise.join(" "))
    };
    let mut templates: Vec<String> = (0..n_noisy).map(noisy).collect();
    templates.push("{{ text }}".to_owned());
    let patterns = [
        vec!["{{ label }} zip".to_owned()],
        vec!["{{ label }}".to_owned()],
    ];
    let given: BTreeMap<String, Vec<String>> = CLASSES
        .iter()
        .map(|(label, word)| ((*label).to_owned(), vec![(*word).to_owned()]))
        .collect();
    SearchSpace::build(
        &BTreeSet::from(["text".to_owned()]),
        &names(),
        &templates,
        &patterns,
        &given,
    )
    .unwrap()
}

fn names() -> LabelSet {
    labels(&["a", "b", "c", "d"])
}

fn planted() -> Prompt {
    let words = CLASSES
        .iter()
        .map(|(label, word)| ((*label).to_owned(), vec![(*word).to_owned()]));
    Prompt {
        template: "{{ text }}".to_owned(),
        label_words: words.collect(),
        ..Prompt::default()
    }
}

fn watch(_: SearchEvent<'_>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn run(
    space: &SearchSpace,
    strategy: SearchStrategy,
    seed: u64,
    model: &mut BagOfWords,
) -> SearchOutcome {
    run_by(Criterion::Accuracy, space, strategy, seed, model)
}

fn run_by(
    criterion: Criterion,
    space: &SearchSpace,
    strategy: SearchStrategy,
    seed: u64,
    model: &mut BagOfWords,
) -> SearchOutcome {
    let (fit, labels) = (fit(), names());
    let request = SearchRequest {
        space,
        incumbent: None,
        strategy: &strategy,
        fit: &fit,
        labels: &labels,
        criterion,
        seed,
    };
    search(request, model, &mut watch).unwrap()
}

#[test]
fn the_criterion_decides_and_the_other_figure_breaks_ties() {
    let space = space(15);
    let ranked = |criterion| {
        let exhaustive = SearchStrategy::Exhaustive;
        let outcome = run_by(criterion, &space, exhaustive, 1, &mut BagOfWords::default());
        let figures = outcome.ranking().into_iter().map(|trial| match criterion {
            Criterion::Accuracy => (-trial.accuracy, trial.log_loss),
            Criterion::LogLoss => (trial.log_loss, -trial.accuracy),
        });
        assert!(figures.is_sorted(), "{criterion:?}");
        outcome.shortlist(usize::MAX)
    };
    let (by_accuracy, by_log_loss) = (ranked(Criterion::Accuracy), ranked(Criterion::LogLoss));
    assert_ne!(by_accuracy, by_log_loss, "else this test could not fail");
}

fn halving() -> SearchStrategy {
    SearchStrategy::Halving {
        eta: 2,
        first_sample: Some(8),
        max_prompts: 100,
    }
}

#[test]
fn every_strategy_finds_the_planted_prompt() {
    let space = space(7);
    for strategy in [
        SearchStrategy::Exhaustive,
        halving(),
        SearchStrategy::Random { trials: 16 },
    ] {
        for seed in 0..4 {
            let outcome = run(&space, strategy, seed, &mut BagOfWords::default());
            assert_eq!(outcome.best, planted(), "{strategy:?} with seed {seed}");
            assert!(outcome.complete);
            assert_eq!(outcome.shortlist(1), [planted()]);
            assert_eq!(
                outcome.ranking()[0].sample,
                40,
                "the winner was scored on everything"
            );
        }
    }
}

#[test]
fn strategies_that_learn_find_the_planted_prompt_of_a_larger_space() {
    let space = space(39);
    for strategy in [
        SearchStrategy::Beam {
            width: 4,
            rounds: 6,
            expansions: 4,
            sample: Some(16),
        },
        SearchStrategy::Evolution {
            population: 8,
            generations: 8,
            sample: Some(16),
        },
        SearchStrategy::TreeParzen {
            trials: 60,
            startup: 10,
            sample: Some(16),
        },
    ] {
        let outcome = run(&space, strategy, 1, &mut BagOfWords::default());
        assert_eq!(outcome.best, planted(), "{strategy:?}");
        assert!(outcome.complete && outcome.ranking()[0].sample == 40);
        let again = run(&space, strategy, 1, &mut BagOfWords::default());
        assert_eq!(outcome, again, "{strategy:?}");
    }
}

#[test]
fn an_encoder_refuses_what_it_does_not_read() {
    let (fit, labels) = (fit(), names());
    let space = space(1).with_instructions(vec!["Judge.".to_owned()]);
    let request = SearchRequest {
        space: &space,
        incumbent: None,
        strategy: &SearchStrategy::Exhaustive,
        fit: &fit,
        labels: &labels,
        criterion: Criterion::Accuracy,
        seed: 0,
    };
    let error = search(request, &mut BagOfWords::default(), &mut watch).unwrap_err();
    assert!(
        matches!(
            error,
            PromptError::LanguageModelOnly {
                part: "an instruction"
            }
        ),
        "{error:?}"
    );
}

#[test]
fn no_text_is_read_twice_and_halving_reads_fewer() {
    let space = space(15);
    let n_read = |strategy| {
        let mut model = BagOfWords::default();
        let outcome = run(&space, strategy, 1, &mut model);
        let distinct: HashSet<&String> = model.read.iter().collect();
        assert_eq!(distinct.len(), model.read.len(), "a text was read twice");
        assert_eq!(outcome.spent, model.read.len() as u64);
        let costs = outcome.trials.iter().map(|trial| trial.cost);
        assert_eq!(costs.sum::<u64>(), outcome.spent);
        outcome.spent
    };
    let (exhaustive, halving) = (n_read(SearchStrategy::Exhaustive), n_read(halving()));
    assert_eq!(
        exhaustive,
        16 * 40 + 2 * 4,
        "each template's inputs and each label word once"
    );
    assert!(halving * 2 < exhaustive, "{halving} against {exhaustive}");
}

#[test]
fn halving_scores_survivors_on_more_of_the_same_examples() {
    let mut model = BagOfWords::default();
    let outcome = run(&space(7), halving(), 3, &mut model);
    let sizes: Vec<(usize, usize)> = [8, 16, 32, 40]
        .iter()
        .map(|&sample| {
            (
                sample,
                outcome
                    .trials
                    .iter()
                    .filter(|trial| trial.sample == sample)
                    .count(),
            )
        })
        .collect();
    assert_eq!(sizes, [(8, 16), (16, 8), (32, 4), (40, 2)]);
    let first: Vec<&Trial> = outcome
        .trials
        .iter()
        .filter(|trial| trial.sample == 8)
        .collect();
    let second: Vec<&Trial> = outcome
        .trials
        .iter()
        .filter(|trial| trial.sample == 16)
        .collect();
    let worst_kept = second
        .iter()
        .map(|trial| {
            first
                .iter()
                .find(|early| early.prompt == trial.prompt)
                .unwrap()
                .accuracy
        })
        .fold(1.0, f64::min);
    let dropped = first
        .iter()
        .filter(|early| second.iter().all(|trial| trial.prompt != early.prompt));
    assert!(
        dropped
            .map(|trial| trial.accuracy)
            .all(|accuracy| accuracy <= worst_kept)
    );
}

#[test]
fn the_same_request_finds_the_same() {
    let space = space(7);
    for strategy in [halving(), SearchStrategy::Random { trials: 5 }] {
        let outcome = |seed| run(&space, strategy, seed, &mut BagOfWords::default());
        assert_eq!(outcome(1), outcome(1));
        let prompts = |outcome: SearchOutcome| {
            outcome
                .trials
                .into_iter()
                .map(|trial| (trial.prompt.id(), trial.accuracy.to_bits()))
        };
        assert!(prompts(outcome(1)).ne(prompts(outcome(2))), "{strategy:?}");
    }
}

#[test]
fn the_incumbent_takes_part_whatever_is_drawn() {
    let (space, fit, labels) = (space(30), fit(), names());
    let mut incumbent = planted();
    incumbent.template = "well: {{ text }}".to_owned();
    for seed in 0..5 {
        let strategy = SearchStrategy::Random { trials: 3 };
        let request = SearchRequest {
            space: &space,
            incumbent: Some(&incumbent),
            strategy: &strategy,
            fit: &fit,
            labels: &labels,
            criterion: Criterion::Accuracy,
            seed,
        };
        let outcome = search(request, &mut BagOfWords::default(), &mut watch).unwrap();
        assert_eq!(
            (outcome.trials.len(), &outcome.trials[0].prompt),
            (3, &incumbent)
        );
    }
}

#[test]
fn with_a_head_label_words_make_no_new_trial() {
    let mut model = BagOfWords {
        head: Some(vec!["card", "loan", "cash", "rate"]),
        ..BagOfWords::default()
    };
    let (space, fit, labels) = (space(3), fit(), names());
    let mut incumbent = planted();
    incumbent
        .label_words
        .insert("a".to_owned(), vec!["started from this".to_owned()]);
    let request = SearchRequest {
        space: &space,
        incumbent: Some(&incumbent),
        strategy: &SearchStrategy::Exhaustive,
        fit: &fit,
        labels: &labels,
        criterion: Criterion::Accuracy,
        seed: 0,
    };
    let outcome = search(request, &mut model, &mut watch).unwrap();
    assert_eq!(space.len(), 8);
    assert_eq!(outcome.trials.len(), 4, "one a template");
    assert!(
        outcome
            .trials
            .iter()
            .all(|trial| trial.prompt.label_words == incumbent.label_words)
    );
    assert_eq!(
        outcome.best, incumbent,
        "all are right, so the first one stays"
    );
    assert!(
        model.read.iter().all(|text| text.split(' ').count() > 2),
        "no label word was read"
    );
}

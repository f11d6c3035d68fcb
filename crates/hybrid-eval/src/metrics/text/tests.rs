//! Figures of texts, their intervals and comparisons.

use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, prop_assert, prop_assert_eq, prop_oneof, proptest};

use super::{TextFigures, TextTask};
use crate::{
    Bleu, Chrf, CorpusMetric, EvalError, PairedComparison, Resamples, Squad, Ter, higher_is_better,
};

const TASKS: [TextTask; 3] = [
    TextTask::QuestionAnswering,
    TextTask::Translation,
    TextTask::Summarization,
];

fn references() -> Vec<Vec<String>> {
    [
        "the cat sat on the mat today",
        "a dog ran home",
        "it rains in the north of the country",
        "he left early",
    ]
    .map(|text| vec![text.to_owned()])
    .into()
}

fn outputs(texts: [&str; 4]) -> Vec<String> {
    texts.map(str::to_owned).into()
}

fn good() -> Vec<String> {
    outputs([
        "the cat sat on a mat today",
        "a dog ran home",
        "it rains in the north",
        "he left",
    ])
}

fn bad() -> Vec<String> {
    outputs([
        "cat mat",
        "dog goes",
        "it rains in the north",
        "she came late and left",
    ])
}

#[test]
fn tasks_have_names_and_a_deciding_figure() {
    for (task, name, deciding) in [
        (TASKS[0], "question_answering", "f1"),
        (TASKS[1], "translation", "chrf"),
        (TASKS[2], "summarization", "rouge1"),
    ] {
        assert_eq!(serde_json::to_value(task).unwrap(), name);
        assert_eq!(
            serde_json::from_value::<TextTask>(name.into()).unwrap(),
            task
        );
        assert_eq!(task.deciding(), deciding);
        let figures = TextFigures::of(task, &good(), &references()).unwrap();
        let mut known = task.figures().to_vec();
        known.sort_unstable();
        assert!(figures.by_name().keys().eq(known), "{task:?}");
    }
}

#[test]
fn figures_are_those_of_the_metrics() {
    let (outputs, references) = (good(), references());
    let of = |task| TextFigures::of(task, &outputs, &references).unwrap();
    let answers = of(TextTask::QuestionAnswering);
    let squad = Squad::of(&outputs, &references).unwrap();
    assert!((answers.value("f1").unwrap() - squad.f1).abs() < 1e-12);
    assert!((answers.value("exact_match").unwrap() - squad.exact_match).abs() < 1e-12);
    let translated = of(TextTask::Translation);
    let expected = [
        Chrf::default().corpus(&outputs, &references).unwrap(),
        Bleu::default().corpus(&outputs, &references).unwrap(),
        Ter::default().corpus(&outputs, &references).unwrap(),
    ];
    for (name, expected) in ["chrf", "bleu", "ter"].into_iter().zip(expected) {
        assert_eq!(translated.value(name).unwrap(), expected, "{name}");
    }
    let second = translated.per_example("bleu").unwrap()[3];
    let effective = Bleu {
        effective_order: true,
        ..Bleu::default()
    };
    assert_eq!(
        second,
        effective.sentence(&outputs[3], &references[3]).unwrap()
    );
    assert!(second > 0.0, "two words have no 4-grams");
}

#[test]
fn foreign_names_and_numbers_are_refused() {
    let figures = TextFigures::of(TextTask::Translation, &good(), &references()).unwrap();
    let error = figures.value("rouge1").unwrap_err();
    assert_eq!(
        error.to_string(),
        "there is no figure \"rouge1\": there are chrf, bleu, ter"
    );
    let answers = TextFigures::of(TASKS[0], &good(), &references()).unwrap();
    let resamples = Resamples::seeded(4, 10, 0).unwrap();
    assert!(matches!(
        figures.compare(&answers, "chrf", &resamples),
        Err(EvalError::UnknownFigure { .. })
    ));
    let fewer = TextFigures::of(TextTask::Translation, &good()[..3], &references()[..3]);
    assert!(matches!(
        figures.compare(&fewer.unwrap(), "chrf", &resamples),
        Err(EvalError::Length { found: 3, .. })
    ));
    let foreign = Resamples::seeded(5, 10, 0).unwrap();
    assert!(matches!(
        figures.intervals(&foreign),
        Err(EvalError::Length { found: 5, .. })
    ));
    assert!(matches!(
        figures.compare(&figures, "chrf", &foreign),
        Err(EvalError::Length { found: 5, .. })
    ));
}

#[test]
fn examples_without_reference_are_refused_unless_unanswerable() {
    let references: Vec<Vec<String>> = vec![vec!["a".to_owned()], vec![]];
    for task in [TextTask::Translation, TextTask::Summarization] {
        assert!(matches!(
            TextFigures::of(task, &["a", ""], &references),
            Err(EvalError::NoReference { row: 1 })
        ));
    }
    let figures = TextFigures::of(TASKS[0], &["b", ""], &references).unwrap();
    assert_eq!(figures.per_example("exact_match").unwrap(), [0.0, 100.0]);
    assert!(matches!(
        TextFigures::of(TASKS[0], &["b"], &references),
        Err(EvalError::Length { .. })
    ));
    assert!(matches!(
        TextFigures::of(TASKS[0], &[""; 0], &references[..0]),
        Err(EvalError::Empty { .. })
    ));
}

#[test]
fn the_better_side_is_ahead_whatever_the_direction() {
    let resamples = Resamples::seeded(4, 500, 3).unwrap();
    for task in TASKS {
        let of = |outputs: Vec<String>| TextFigures::of(task, &outputs, &references()).unwrap();
        let (good, bad) = (of(good()), of(bad()));
        for name in task.figures() {
            let compared = good.compare(&bad, name, &resamples).unwrap();
            assert_eq!(
                compared.difference > 0.0,
                higher_is_better(name),
                "{name}: {compared:?}"
            );
            let back = bad.compare(&good, name, &resamples).unwrap();
            assert!(compared.win_rate > 0.5, "{name}: {compared:?}");
            assert!(
                (compared.win_rate - (back.p_one_sided - back.tie_rate)).abs() < 1e-12,
                "{name}"
            );
            assert_eq!(compared.difference, -back.difference, "{name}");
        }
    }
}

/// Means are compared as `PairedComparison::of` compares the scores of the examples.
#[test]
fn means_are_compared_as_scores_are() {
    let resamples = Resamples::seeded(4, 200, 5).unwrap();
    let of = |outputs: Vec<String>| TextFigures::of(TASKS[2], &outputs, &references()).unwrap();
    let (good, bad) = (of(good()), of(bad()));
    let scores = |figures: &TextFigures| figures.per_example("rougeL").unwrap();
    assert_eq!(
        good.compare(&bad, "rougeL", &resamples).unwrap(),
        PairedComparison::of(&scores(&good), &scores(&bad), &resamples).unwrap()
    );
}

/// Examples, with draws of them.
fn examples() -> impl Strategy<Value = (Vec<(String, String)>, Vec<usize>)> {
    let word = prop_oneof![
        Just("the"),
        Just("cat"),
        Just("sat,"),
        Just("über"),
        Just("1.5")
    ];
    let text = vec(word, 0..8).prop_map(|words| words.join(" "));
    vec((text.clone(), text), 1..8).prop_flat_map(|examples| {
        let draw = vec(0..examples.len(), examples.len());
        (Just(examples), draw)
    })
}

proptest! {
    #[test]
    fn a_draw_is_measured_as_a_set_of_its_own((examples, draw) in examples(), seed: u64) {
        let (outputs, references): (Vec<String>, Vec<[String; 1]>) = examples
            .into_iter()
            .map(|(output, reference)| (output, [reference]))
            .unzip();
        let all: Vec<usize> = (0..outputs.len()).collect();
        for task in TASKS {
            let figures = TextFigures::of(task, &outputs, &references).unwrap();
            let itself = Resamples::given(vec![all.clone(); 2]).unwrap();
            for (name, interval) in figures.intervals(&itself).unwrap() {
                prop_assert_eq!(interval, [figures.value(&name).unwrap(); 2], "{}", name);
            }
            let drawn_outputs: Vec<&String> = draw.iter().map(|row| &outputs[*row]).collect();
            let drawn_references: Vec<_> =
                draw.iter().map(|row| references[*row].clone()).collect();
            let drawn = TextFigures::of(task, &drawn_outputs, &drawn_references).unwrap();
            let only = Resamples::given(vec![draw.clone()]).unwrap();
            let seeded = Resamples::seeded(outputs.len(), 20, seed).unwrap();
            for (name, [low, high]) in figures.intervals(&only).unwrap() {
                prop_assert_eq!(low, high);
                prop_assert!((low - drawn.value(&name).unwrap()).abs() < 1e-9, "{}", name);
                let alone = figures.per_example(&name).unwrap();
                prop_assert!(alone.iter().all(|figure| figure.is_finite()));
                if task != TextTask::Translation {
                    let mean = alone.iter().sum::<f64>() / alone.len() as f64;
                    prop_assert!((mean - figures.value(&name).unwrap()).abs() < 1e-9);
                }
                let compared = figures.compare(&figures, &name, &seeded).unwrap();
                prop_assert_eq!((compared.difference, compared.tie_rate), (0.0, 1.0));
                prop_assert_eq!(compared.win_rate, 0.0);
            }
        }
    }
}

//! ROUGE and the Porter stemmer against rouge_score and NLTK.

use hybrid_eval::{Rouge, RougeScore, RougeScores, TextFigures, TextTask, porter_stem};
use serde_json::Value;

use super::{Checks, list, text, texts};

pub(super) fn check(checks: &Checks, cases: &Value) {
    let hypotheses = texts(&cases["hypotheses"]);
    let references = texts(&cases["references"]);
    for (name, expected) in cases.as_object().expect("cases by name") {
        let stemming = !name.ends_with("no_stemmer");
        let rouge = Rouge { stemming };
        match name.as_str() {
            "definition" | "hypotheses" | "references" => {}
            "stemmer" | "no_stemmer" => {
                let pairs = hypotheses.iter().zip(&references);
                let scores: Vec<RougeScores> = pairs
                    .map(|(hypothesis, reference)| rouge.score(hypothesis, &[reference]).unwrap())
                    .collect();
                rows(checks, name, &scores, expected);
                if !stemming {
                    as_text_figures(checks, &hypotheses, &references, expected);
                }
            }
            "tokenized_stemmer" | "tokenized_no_stemmer" => {
                let expected = list(expected);
                assert_eq!(hypotheses.len(), expected.len(), "{name}");
                for (hypothesis, expected) in hypotheses.iter().zip(expected) {
                    assert_eq!(rouge.tokenize(hypothesis), texts(expected), "{name}");
                }
            }
            "summaries_stemmer" => list(expected)
                .iter()
                .for_each(|summary| whole_summary(checks, rouge, summary)),
            "porter_stems" => {
                for (word, stem) in expected.as_object().expect("stems by word") {
                    assert_eq!(porter_stem(word), text(stem), "{name}: {word}");
                }
            }
            unknown => panic!("unknown case {unknown:?}"),
        }
    }
}

fn rows(checks: &Checks, case: &str, scores: &[RougeScores], expected: &Value) {
    let mean = RougeScores::mean(scores).unwrap();
    for (name, expected) in expected.as_object().expect("figures by name") {
        for (key, expected) in expected.as_object().expect("figures by name") {
            let what = format!("{case}.{name}.{key}");
            let column = |part: fn(RougeScore) -> f64| -> Vec<f64> {
                let figures = scores.iter().filter_map(|row| figure(row, name));
                figures.map(part).collect()
            };
            match (key.as_str(), figure(&mean, name)) {
                ("precision", Some(_)) => {
                    checks.figures(&what, &column(|score| score.precision), expected);
                }
                ("recall", Some(_)) => {
                    checks.figures(&what, &column(|score| score.recall), expected);
                }
                ("fmeasure", Some(_)) => {
                    checks.figures(&what, &column(|score| score.f_measure), expected);
                }
                ("mean_fmeasure", Some(mean)) => checks.figure(&what, mean.f_measure, expected),
                _ => panic!("unknown figure {what:?}"),
            }
        }
    }
}

/// The figures of the task, which does not stem.
fn as_text_figures(checks: &Checks, outputs: &[&str], references: &[&str], expected: &Value) {
    let references: Vec<[&str; 1]> = references.iter().map(|text| [*text]).collect();
    let figures = TextFigures::of(TextTask::Summarization, outputs, &references).unwrap();
    for name in TextTask::Summarization.figures() {
        let what = format!("text {name}");
        let expected = &expected[*name];
        checks.figure(
            &what,
            figures.value(name).unwrap(),
            &expected["mean_fmeasure"],
        );
        checks.figures(
            &what,
            &figures.per_example(name).unwrap(),
            &expected["fmeasure"],
        );
    }
}

/// One summary of several sentences, each on a line.
fn whole_summary(checks: &Checks, rouge: Rouge, summary: &Value) {
    let scores = rouge
        .score(text(&summary["hypothesis"]), &[text(&summary["reference"])])
        .unwrap();
    for (name, expected) in summary.as_object().expect("figures by name") {
        if matches!(name.as_str(), "hypothesis" | "reference") {
            continue;
        }
        let score = figure(&scores, name).unwrap_or_else(|| panic!("unknown figure {name:?}"));
        for (key, expected) in expected.as_object().expect("figures by name") {
            let figure = match key.as_str() {
                "precision" => score.precision,
                "recall" => score.recall,
                "fmeasure" => score.f_measure,
                unknown => panic!("unknown figure {unknown:?} in {name} of a summary"),
            };
            checks.figure(&format!("summary.{name}.{key}"), figure, expected);
        }
    }
}

fn figure(scores: &RougeScores, name: &str) -> Option<RougeScore> {
    match name {
        "rouge1" => Some(scores.rouge_1),
        "rouge2" => Some(scores.rouge_2),
        "rougeL" => Some(scores.rouge_l),
        "rougeLsum" => Some(scores.rouge_lsum),
        _ => None,
    }
}

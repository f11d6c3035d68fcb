//! Exact match and F1 against SQuAD's own definition.

use hybrid_eval::{Squad, TextFigures, TextTask, normalize_answer};
use serde_json::Value;

use super::{Checks, list, text, texts};

pub(super) fn check(checks: &Checks, case: &Value) {
    let rows = list(&case["rows"]);
    let predictions: Vec<&str> = rows.iter().map(|row| text(&row["prediction"])).collect();
    let answers: Vec<Vec<&str>> = rows.iter().map(|row| texts(&row["answers"])).collect();
    let squad = Squad::of(&predictions, &answers).unwrap();
    let figures = TextFigures::of(TextTask::QuestionAnswering, &predictions, &answers).unwrap();
    for (key, expected) in case.as_object().expect("figures by name") {
        match key.as_str() {
            "definition" | "rows" => {}
            "exact_match" => {
                checks.figure("squad.exact_match", squad.exact_match, expected);
                checks.figure("text exact_match", figures.value(key).unwrap(), expected);
            }
            "f1" => {
                checks.figure("squad.f1", squad.f1, expected);
                checks.figure("text f1", figures.value(key).unwrap(), expected);
            }
            unknown => panic!("unknown figure {unknown:?} of answers"),
        }
    }
    for (row, (figures, expected)) in squad.rows.iter().zip(rows).enumerate() {
        for (key, expected) in expected.as_object().expect("figures by name") {
            let what = format!("squad.rows[{row}].{key}");
            match key.as_str() {
                "prediction" | "answers" => {}
                "normalized" => {
                    assert_eq!(normalize_answer(predictions[row]), text(expected), "{what}");
                }
                "exact_match" => checks.figure(&what, figures.exact_match, expected),
                "f1" => checks.figure(&what, figures.f1, expected),
                unknown => panic!("unknown figure {unknown:?} of an answer"),
            }
        }
    }
}

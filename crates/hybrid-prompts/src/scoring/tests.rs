//! Tests of scoring against a bag-of-words model.

use super::{SIMILARITY_SCALE, dot, label_vectors, log_softmax, score, score_by_similarity};
use crate::error::PromptError;
use crate::fake_model::{BagOfWords, Fault, example, labels};
use crate::model::PromptModel;
use crate::prompt::Prompt;

fn prompt(words: &[(&str, &[&str])]) -> Prompt {
    let words = words.iter().map(|(label, words)| {
        (
            (*label).to_owned(),
            words.iter().map(|word| (*word).to_owned()).collect(),
        )
    });
    Prompt {
        template: "{{ text }}".to_owned(),
        label_words: words.collect(),
        ..Prompt::default()
    }
}

fn length(vector: &[f32]) -> f32 {
    vector.iter().map(|value| value * value).sum::<f32>().sqrt()
}

#[test]
fn label_vectors_average_unit_vectors() {
    let model = &mut BagOfWords::default();
    let prompt = prompt(&[("a", &["card card card", "cash"]), ("b", &["loan"])]);
    let vectors = label_vectors(&prompt, &labels(&["a", "b"]), model).unwrap();
    // `card card card` counts no more than `cash`: each word is a unit vector before the mean.
    let unit = |text: &str, model: &mut BagOfWords| {
        let vector = model.embed(&[text.to_owned()]).unwrap().remove(0);
        let length = length(&vector);
        vector
            .into_iter()
            .map(|value| value / length)
            .collect::<Vec<f32>>()
    };
    let (card, cash) = (unit("card", model), unit("cash", model));
    let sum: Vec<f32> = card.iter().zip(&cash).map(|(a, b)| a + b).collect();
    for (value, sum_value) in vectors[0].iter().zip(&sum) {
        assert!((value - sum_value / length(&sum)).abs() < 1e-6);
    }
    assert!((length(&vectors[0]) - 1.0).abs() < 1e-6 && (length(&vectors[1]) - 1.0).abs() < 1e-6);
}

#[test]
fn similarity_is_the_cosine() {
    let model = &mut BagOfWords::default();
    let prompt = prompt(&[("a", &["card"]), ("b", &["loan"])]);
    let rows = score_by_similarity(
        &prompt,
        &labels(&["a", "b"]),
        &["card card".to_owned()],
        model,
    )
    .unwrap();
    assert!(
        (rows[0][0] - 1.0).abs() < 1e-6,
        "the length of a text does not matter: {rows:?}"
    );
    assert!(rows[0][1].abs() < 0.9);
    assert!(
        score_by_similarity(&prompt, &labels(&["a", "b"]), &[], model)
            .unwrap()
            .is_empty()
    );
}

#[test]
fn scores_are_accuracy_and_log_loss() {
    let model = &mut BagOfWords::default();
    let prompt = prompt(&[("a", &["card"]), ("b", &["loan"])]);
    let examples = [
        example("card", "a"),
        example("loan", "b"),
        example("loan", "a"),
        example("card", "a"),
    ];
    let scores = score(&prompt, &examples, &labels(&["a", "b"]), model).unwrap();
    assert_eq!(scores.predictions, [0, 1, 1, 0]);
    assert_eq!(scores.accuracy, 0.75);
    let similarity =
        score_by_similarity(&prompt, &labels(&["a", "b"]), &["card".to_owned()], model).unwrap()[0]
            [1];
    let wrong = f64::from(SIMILARITY_SCALE * (1.0 - similarity));
    let right_loss = (1.0 + (-wrong).exp()).ln();
    let expected = (3.0 * right_loss + right_loss + wrong) / 4.0;
    assert!(
        (scores.log_loss - expected).abs() < 1e-4,
        "{} instead of {expected}",
        scores.log_loss
    );
    for row in &scores.log_probabilities {
        let sum: f32 = row.iter().map(|value| value.exp()).sum();
        assert!((sum - 1.0).abs() < 1e-5);
    }
}

#[test]
fn a_trained_head_answers_in_place_of_label_words() {
    let model = &mut BagOfWords {
        head: Some(vec!["loan", "card"]),
        ..BagOfWords::default()
    };
    let prompt = prompt(&[("a", &["card"]), ("b", &["loan"])]);
    let scores = score(
        &prompt,
        &[example("card", "a"), example("card", "b")],
        &labels(&["a", "b"]),
        model,
    )
    .unwrap();
    assert_eq!(
        scores.predictions,
        [1, 1],
        "the head's own order of classes"
    );
    assert_eq!(scores.accuracy, 0.5);
    assert_eq!(model.read, ["card", "card"], "no label word is read");
}

#[test]
fn faults_are_typed() {
    let two = labels(&["a", "b"]);
    let good = prompt(&[("a", &["card"]), ("b", &["loan"])]);
    let examples = [example("card", "a")];
    let score_with = |prompt: &Prompt, fault| {
        score(
            prompt,
            &examples,
            &two,
            &mut BagOfWords {
                fault,
                ..BagOfWords::default()
            },
        )
        .unwrap_err()
    };
    let missing = prompt(&[("a", &["card"])]);
    assert_eq!(
        score_with(&missing, None).to_string(),
        "label `b` has no label words"
    );
    let error = score_with(&good, Some(Fault::TooFew));
    assert!(
        matches!(
            error,
            PromptError::ModelShape {
                what: "vectors",
                expected: 2,
                found: 1
            }
        ),
        "{error:?}"
    );
    let error = score_with(&good, Some(Fault::OtherWidth));
    assert!(
        matches!(
            error,
            PromptError::ModelShape {
                what: "values a text",
                ..
            }
        ),
        "{error:?}"
    );
    assert!(
        matches!(score_with(&good, Some(Fault::NotANumber)), PromptError::NotFinite { text } if text == "loan")
    );
    let error = score(&good, &[], &two, &mut BagOfWords::default()).unwrap_err();
    assert!(matches!(error, PromptError::EmptySpace { what: "example" }));
    let error = score(
        &good,
        &[example("card", "c")],
        &two,
        &mut BagOfWords::default(),
    )
    .unwrap_err();
    assert_eq!(
        error.to_string(),
        "rows.jsonl:1: label `c` is none of the 2 labels of the fit examples"
    );
    let error = score(
        &good,
        &examples,
        &two,
        &mut BagOfWords {
            fails_after: Some(0),
            ..BagOfWords::default()
        },
    );
    let error = error.unwrap_err();
    assert_eq!(
        std::error::Error::source(&error).unwrap().to_string(),
        "out of memory"
    );
    let mut short_head = BagOfWords {
        head: Some(vec!["a", "b", "c"]),
        ..BagOfWords::default()
    };
    let error = score(&good, &examples, &two, &mut short_head).unwrap_err();
    assert!(matches!(
        error,
        PromptError::ModelShape {
            what: "values a text",
            expected: 2,
            found: 3
        }
    ));
}

#[test]
fn the_fast_dot_product_is_the_plain_one() {
    for n in [0, 1, 7, 8, 9, 40] {
        let a: Vec<f32> = (0..n).map(|i| (i % 5) as f32 - 2.0).collect();
        let b: Vec<f32> = (0..n).map(|i| (i % 7) as f32 * 0.5).collect();
        let plain: f32 = a.iter().zip(&b).map(|(a, b)| a * b).sum();
        assert_eq!(dot(&a, &b), plain);
    }
    let mut row = [1.0, 2.0, 3.0];
    log_softmax(&mut row, 2.0);
    assert!((row.iter().map(|value| value.exp()).sum::<f32>() - 1.0).abs() < 1e-6);
    assert!((row[2] - row[1] - 2.0).abs() < 1e-6);
}

//! Exact match and F1 of answers (Rajpurkar et al. 2016, 2018), as SQuAD's own script defines them.

use serde::{Deserialize, Serialize};
use unicode_general_category::{GeneralCategory, get_general_category};

use super::check_rows;
use super::ngrams::{ngrams, overlap};
use super::words::{single_spaced, words};
use crate::EvalError;

/// How well predicted answers agree with given ones.
///
/// ```
/// use hybrid_eval::Squad;
///
/// let answers = [vec!["the Eiffel Tower"], vec!["1889", "in 1889"], vec![]];
/// let squad = Squad::of(&["Eiffel tower.", "since 1889", ""], &answers)?;
/// assert_eq!(squad.rows[1].f1, 2.0 / 3.0);
/// assert!((squad.exact_match - 200.0 / 3.0).abs() < 1e-12);
/// # Ok::<(), hybrid_eval::EvalError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Squad {
    /// Exact matches in percent.
    pub exact_match: f64,
    /// Mean F1 in percent.
    pub f1: f64,
    /// The figures of each prediction.
    pub rows: Vec<SquadRow>,
}

/// The figures of one prediction, each the best over its answers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct SquadRow {
    /// 1 if the prediction is an answer after [`normalize_answer`], else 0.
    pub exact_match: f64,
    /// F1 of the normalised words, from 0 to 1. If either side has none: 1 if both have none, else 0.
    pub f1: f64,
}

impl Squad {
    /// Scores predictions; `answers[row]` are the right answers. A question without any is
    /// unanswerable, and the empty prediction is right (SQuAD 2.0).
    ///
    /// # Errors
    /// [`EvalError::Empty`], or [`EvalError::Length`] if predictions and answers differ in number.
    pub fn of<A: AsRef<str>>(
        predictions: &[impl AsRef<str>],
        answers: &[impl AsRef<[A]>],
    ) -> Result<Self, EvalError> {
        check_rows("predictions and answers", predictions.len(), answers.len())?;
        let rows: Vec<SquadRow> = predictions
            .iter()
            .zip(answers)
            .map(|(prediction, answers)| row(prediction.as_ref(), answers.as_ref()))
            .collect();
        let percent = |figure: fn(&SquadRow) -> f64| {
            100.0 * rows.iter().map(figure).sum::<f64>() / rows.len() as f64
        };
        Ok(Self {
            exact_match: percent(|row| row.exact_match),
            f1: percent(|row| row.f1),
            rows,
        })
    }
}

fn row(prediction: &str, answers: &[impl AsRef<str>]) -> SquadRow {
    let prediction = normalize_answer(prediction);
    let mut best = SquadRow {
        exact_match: 0.0,
        f1: 0.0,
    };
    let unanswerable = answers.is_empty().then_some("");
    for answer in answers.iter().map(AsRef::as_ref).chain(unanswerable) {
        let answer = normalize_answer(answer);
        best.exact_match = best.exact_match.max(f64::from(answer == prediction));
        best.f1 = best.f1.max(f1(&prediction, &answer));
    }
    best
}

fn f1(prediction: &str, answer: &str) -> f64 {
    let prediction: Vec<&str> = words(prediction).collect();
    let answer: Vec<&str> = words(answer).collect();
    if prediction.is_empty() || answer.is_empty() {
        return f64::from(prediction == answer);
    }
    let same = overlap(&ngrams(&prediction, 1), &ngrams(&answer, 1)) as f64;
    2.0 * same / (prediction.len() + answer.len()) as f64
}

/// The text in lower case, without ASCII punctuation, without the articles a, an and the, and with
/// one space between words.
///
/// ```
/// assert_eq!(hybrid_eval::normalize_answer(" The  U.S.A. "), "usa");
/// ```
pub fn normalize_answer(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut run = String::new();
    let text = text.to_lowercase();
    for character in text.chars().filter(|c| !c.is_ascii_punctuation()) {
        if is_word_character(character) {
            run.push(character);
        } else {
            push_unless_article(&mut kept, &mut run);
            kept.push(character);
        }
    }
    push_unless_article(&mut kept, &mut run);
    single_spaced(&kept)
}

fn push_unless_article(kept: &mut String, run: &mut String) {
    if matches!(run.as_str(), "a" | "an" | "the") {
        kept.push(' ');
    } else {
        kept.push_str(run);
    }
    run.clear();
}

/// Letters and numbers, as in Python's regular expressions: no marks, unlike Rust's.
fn is_word_character(character: char) -> bool {
    matches!(
        get_general_category(character),
        GeneralCategory::UppercaseLetter
            | GeneralCategory::LowercaseLetter
            | GeneralCategory::TitlecaseLetter
            | GeneralCategory::ModifierLetter
            | GeneralCategory::OtherLetter
            | GeneralCategory::DecimalNumber
            | GeneralCategory::LetterNumber
            | GeneralCategory::OtherNumber
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert, prop_assert_eq, proptest};

    use super::{Squad, normalize_answer};
    use crate::EvalError;

    /// As Python's `re` finds words: a combining mark ends one, a letter of any script does not.
    #[test]
    fn articles_are_whole_words() {
        for (text, normalized) in [
            ("The theory of an anthem", "theory of anthem"),
            ("the\u{2013}cat", "\u{2013}cat"),
            ("a\u{301}", "\u{301}"),
            ("a\u{b2} \u{e9}a", "a\u{b2} \u{e9}a"),
            ("A-a", "aa"),
        ] {
            assert_eq!(normalize_answer(text), normalized);
        }
    }

    #[test]
    fn only_the_empty_prediction_answers_the_unanswerable() {
        let squad = Squad::of(&["", "x"], &[[""; 0], [""; 0]]).unwrap();
        assert_eq!((squad.exact_match, squad.f1), (50.0, 50.0));
        assert!(matches!(
            Squad::of(&["x"], &[["x"], ["y"]]),
            Err(EvalError::Length { .. })
        ));
    }

    proptest! {
        #[test]
        fn any_text_answers_itself(text in "\\PC{0,20}", other in "\\PC{0,20}") {
            let squad = Squad::of(&[&text, &text], &[[&other, &text], [&other, &other]]).unwrap();
            prop_assert_eq!((squad.rows[0].exact_match, squad.rows[0].f1), (1.0, 1.0));
            prop_assert!((0.0..=1.0).contains(&squad.rows[1].f1));
            prop_assert!(squad.rows[1].f1 >= squad.rows[1].exact_match);
        }
    }
}

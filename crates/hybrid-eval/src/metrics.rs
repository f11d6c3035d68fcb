//! Figures of quality, one family a file.

pub(crate) mod bleu;
pub(crate) mod calibration;
pub(crate) mod chrf;
pub(crate) mod classification;
pub(crate) mod confusion;
pub(crate) mod corpus;
pub(crate) mod correlation;
pub(crate) mod mteval;
pub(crate) mod multilabel;
mod ngrams;
pub(crate) mod porter;
pub(crate) mod probability;
pub(crate) mod ranking;
pub(crate) mod regression;
pub(crate) mod rouge;
pub(crate) mod squad;
pub(crate) mod temperature;
pub(crate) mod ter;
pub(crate) mod text;
mod words;

use crate::EvalError;

/// `numerator / denominator`, with 0/0 counted as 0 (scikit-learn's `zero_division=0`).
pub(crate) fn ratio(numerator: f64, denominator: f64) -> f64 {
    if denominator == 0.0 {
        0.0
    } else {
        numerator / denominator
    }
}

/// Figures of errors; of every other figure more is better.
const ERRORS: [&str; 5] = ["brier", "ece", "log_loss", "mce", "ter"];

/// Whether more of a figure, by the name it has in reports, is better: true unless it counts errors.
///
/// ```
/// assert!(hybrid_eval::higher_is_better("bleu"));
/// assert!(!hybrid_eval::higher_is_better("ter"));
/// ```
pub fn higher_is_better(figure: &str) -> bool {
    !ERRORS.contains(&figure)
}

/// Refuses inputs that are empty or of different lengths.
pub(crate) fn check_rows(
    what: &'static str,
    expected: usize,
    found: usize,
) -> Result<(), EvalError> {
    if expected == 0 {
        return Err(EvalError::Empty { what });
    }
    if expected != found {
        return Err(EvalError::Length {
            what,
            expected,
            found,
        });
    }
    Ok(())
}

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
pub(crate) mod ter;
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

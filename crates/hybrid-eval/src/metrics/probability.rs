//! Figures of predicted probabilities: log-loss, Brier scores and top-k accuracy.

use super::check_rows;
use crate::EvalError;

/// `log(softmax(logits))`, computed without overflow.
///
/// ```
/// let log_probabilities = hybrid_eval::log_softmax(&[1000.0, 1000.0]);
/// assert!((log_probabilities[0] - 0.5f64.ln()).abs() < 1e-12);
/// ```
pub fn log_softmax(logits: &[f64]) -> Vec<f64> {
    let highest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let log_sum = logits
        .iter()
        .map(|logit| (logit - highest).exp())
        .sum::<f64>()
        .ln();
    logits
        .iter()
        .map(|logit| logit - highest - log_sum)
        .collect()
}

/// Mean negative log-probability of the target class. Probabilities are first moved into
/// `[ε, 1 - ε]` with the machine's ε, so that a certain error costs much but not everything.
///
/// # Errors
/// As [`brier`].
pub fn log_loss(probabilities: &[Vec<f64>], targets: &[usize]) -> Result<f64, EvalError> {
    check_probabilities(probabilities, targets)?;
    let losses = probabilities
        .iter()
        .zip(targets)
        .map(|(row, target)| -row[*target].clamp(f64::EPSILON, 1.0 - f64::EPSILON).ln());
    Ok(losses.sum::<f64>() / targets.len() as f64)
}

/// Brier score over all classes: the mean of `Σ_c (p_c - y_c)²`, from 0 to 2 (Brier 1950, eq. 2).
///
/// # Errors
/// [`EvalError::Empty`], [`EvalError::Length`], [`EvalError::Width`], [`EvalError::Index`] or
/// [`EvalError::NotFinite`].
pub fn brier(probabilities: &[Vec<f64>], targets: &[usize]) -> Result<f64, EvalError> {
    check_probabilities(probabilities, targets)?;
    let scores = probabilities.iter().zip(targets).map(|(row, target)| {
        let squared =
            |(class, p): (usize, &f64)| (p - if class == *target { 1.0 } else { 0.0 }).powi(2);
        row.iter().enumerate().map(squared).sum::<f64>()
    });
    Ok(scores.sum::<f64>() / targets.len() as f64)
}

/// Brier score of a yes/no question: the mean of `(p - y)²`, from 0 to 1.
///
/// # Errors
/// [`EvalError::Empty`], [`EvalError::Length`] or [`EvalError::NotFinite`].
pub fn binary_brier(probabilities: &[f64], targets: &[bool]) -> Result<f64, EvalError> {
    check_rows("probabilities", targets.len(), probabilities.len())?;
    if let Some(row) = probabilities.iter().position(|p| !p.is_finite()) {
        return Err(EvalError::NotFinite {
            what: "probabilities",
            row,
        });
    }
    let scores = probabilities
        .iter()
        .zip(targets)
        .map(|(p, target)| (p - f64::from(u8::from(*target))).powi(2));
    Ok(scores.sum::<f64>() / targets.len() as f64)
}

/// Share of examples whose class is among the `k` most probable; ties go to the lower class.
///
/// # Errors
/// As [`brier`].
pub fn top_k_accuracy(
    probabilities: &[Vec<f64>],
    targets: &[usize],
    k: usize,
) -> Result<f64, EvalError> {
    check_probabilities(probabilities, targets)?;
    let found = probabilities.iter().zip(targets).filter(|(row, target)| {
        let ahead = |(class, p): (usize, &f64)| {
            *p > row[**target] || (*p == row[**target] && class < **target)
        };
        row.iter()
            .enumerate()
            .filter(|(class, p)| ahead((*class, p)))
            .count()
            < k
    });
    Ok(found.count() as f64 / targets.len() as f64)
}

/// The most probable class of each row; ties go to the lower class.
pub(crate) fn most_probable(row: &[f64]) -> usize {
    let better = |best: usize, class: usize| if row[class] > row[best] { class } else { best };
    (1..row.len()).fold(0, better)
}

/// Refuses rows of different widths, values that are not finite, and targets without a column.
pub(crate) fn check_probabilities(
    probabilities: &[Vec<f64>],
    targets: &[usize],
) -> Result<(), EvalError> {
    check_rows("probabilities", targets.len(), probabilities.len())?;
    let expected = probabilities[0].len();
    for (row, (values, target)) in probabilities.iter().zip(targets).enumerate() {
        if values.len() != expected {
            return Err(EvalError::Width {
                what: "probabilities",
                row,
                expected,
                found: values.len(),
            });
        }
        if *target >= expected {
            return Err(EvalError::Index {
                what: "targets",
                row,
                found: *target,
                limit: expected,
            });
        }
        if values.iter().any(|value| !value.is_finite()) {
            return Err(EvalError::NotFinite {
                what: "probabilities",
                row,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{brier, log_loss, log_softmax, most_probable, top_k_accuracy};
    use crate::EvalError;

    #[test]
    fn log_softmax_sums_to_one() {
        let sum: f64 = log_softmax(&[3.0, -200.0, 4.5])
            .into_iter()
            .map(f64::exp)
            .sum();
        assert!((sum - 1.0).abs() < 1e-12);
    }

    #[test]
    fn a_certain_error_has_a_finite_loss() {
        let loss = log_loss(&[vec![1.0, 0.0]], &[1]).unwrap();
        assert!((loss - -f64::EPSILON.ln()).abs() < 1e-9);
        assert_eq!(brier(&[vec![1.0, 0.0]], &[1]).unwrap(), 2.0);
    }

    #[test]
    fn ties_go_to_the_lower_class() {
        assert_eq!(most_probable(&[0.2, 0.4, 0.4]), 1);
        let rows = [vec![0.2, 0.4, 0.4]];
        assert_eq!(top_k_accuracy(&rows, &[1], 1).unwrap(), 1.0);
        assert_eq!(top_k_accuracy(&rows, &[2], 1).unwrap(), 0.0);
        assert_eq!(top_k_accuracy(&rows, &[2], 2).unwrap(), 1.0);
    }

    #[test]
    fn bad_rows_are_named() {
        let ragged = brier(&[vec![1.0, 0.0], vec![1.0]], &[0, 0]).unwrap_err();
        assert!(matches!(
            ragged,
            EvalError::Width {
                row: 1,
                expected: 2,
                found: 1,
                ..
            }
        ));
        let missing = brier(&[vec![f64::NAN, 0.0]], &[0]).unwrap_err();
        assert!(matches!(missing, EvalError::NotFinite { row: 0, .. }));
        assert!(matches!(
            brier(&[vec![1.0]], &[1]),
            Err(EvalError::Index {
                found: 1,
                limit: 1,
                ..
            })
        ));
    }
}

//! How far predicted numbers are from true ones, as scikit-learn defines it.

use super::correlation::check_series;
use crate::EvalError;

/// Mean of the squared differences.
///
/// # Errors
/// [`EvalError::Empty`], [`EvalError::Length`] or [`EvalError::NotFinite`].
pub fn mean_squared_error(targets: &[f64], predictions: &[f64]) -> Result<f64, EvalError> {
    check_series(targets, predictions)?;
    Ok(squared_error(targets, predictions) / targets.len() as f64)
}

/// Mean of the absolute differences.
///
/// # Errors
/// As [`mean_squared_error`].
pub fn mean_absolute_error(targets: &[f64], predictions: &[f64]) -> Result<f64, EvalError> {
    check_series(targets, predictions)?;
    let errors = targets.iter().zip(predictions).map(|(t, p)| (t - p).abs());
    Ok(errors.sum::<f64>() / targets.len() as f64)
}

/// R², the share of the targets' variance that the predictions explain: 1 at best, 0 for always
/// predicting the mean, and negative below that.
///
/// ```
/// let r2 = hybrid_eval::r_squared(&[1.0, 2.0, 3.0], &[1.0, 2.0, 2.0])?;
/// assert_eq!(r2, 0.5);
/// # Ok::<(), hybrid_eval::EvalError>(())
/// ```
///
/// # Errors
/// [`EvalError::Constant`] if the targets are all equal, else as [`mean_squared_error`].
pub fn r_squared(targets: &[f64], predictions: &[f64]) -> Result<f64, EvalError> {
    check_series(targets, predictions)?;
    if targets.iter().all(|target| *target == targets[0]) {
        return Err(EvalError::Constant { metric: "R²" });
    }
    let mean = targets.iter().sum::<f64>() / targets.len() as f64;
    let spread: f64 = targets.iter().map(|target| (target - mean).powi(2)).sum();
    Ok(1.0 - squared_error(targets, predictions) / spread)
}

fn squared_error(targets: &[f64], predictions: &[f64]) -> f64 {
    let errors = targets
        .iter()
        .zip(predictions)
        .map(|(t, p)| (t - p).powi(2));
    errors.sum()
}

#[cfg(test)]
mod tests {
    use super::{mean_absolute_error, mean_squared_error, r_squared};
    use crate::EvalError;

    #[test]
    fn errors_are_averaged() {
        let (targets, predictions) = ([1.0, 2.0, 4.0], [1.0, 4.0, 3.0]);
        assert_eq!(
            mean_squared_error(&targets, &predictions).unwrap(),
            5.0 / 3.0
        );
        assert_eq!(mean_absolute_error(&targets, &predictions).unwrap(), 1.0);
    }

    #[test]
    fn equal_targets_have_no_variance() {
        assert!(matches!(
            r_squared(&[0.1; 3], &[0.1, 0.2, 0.3]),
            Err(EvalError::Constant { .. })
        ));
        assert!(matches!(
            mean_squared_error(&[f64::NAN], &[0.0]),
            Err(EvalError::NotFinite { row: 0, .. })
        ));
    }
}

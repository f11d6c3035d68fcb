//! Temperature scaling: what probabilities are worth once they are neither too sure nor too unsure.

use super::probability::{check_probabilities, log_softmax};
use crate::EvalError;

/// The inverse temperature lies between this and its inverse.
const LOWEST: f64 = 0.01;
/// Halvings of the interval in which the inverse temperature lies: more change no digit.
const HALVINGS: usize = 60;

/// One temperature for all logits, fitted to targets (Guo et al. 2017, "On Calibration of Modern
/// Neural Networks", section 4.2). It changes no prediction, only how sure they are.
#[derive(Debug, Clone, PartialEq)]
pub struct TemperatureScaling {
    /// What the logits are divided by: above 1 where the probabilities were too sure. From 0.01 to
    /// 100; the lowest where every prediction is right.
    pub temperature: f64,
    /// The negative log-probability of each target after scaling, in nats.
    pub losses: Vec<f64>,
}

impl TemperatureScaling {
    /// The temperature under which the targets are most probable: the log-loss is convex in its
    /// inverse, so the one place without slope is found by halving.
    ///
    /// `probabilities`: `[examples][classes]`; those below the machine's ε count as it.
    ///
    /// # Errors
    /// [`EvalError::Empty`], [`EvalError::Length`], [`EvalError::Width`], [`EvalError::Index`] or
    /// [`EvalError::NotFinite`].
    pub fn fit(probabilities: &[Vec<f64>], targets: &[usize]) -> Result<Self, EvalError> {
        check_probabilities(probabilities, targets)?;
        let logits: Vec<Vec<f64>> = probabilities
            .iter()
            .map(|row| row.iter().map(|p| p.max(f64::EPSILON).ln()).collect())
            .collect();
        let scaled = |row: &[f64], inverse: f64| {
            log_softmax(&row.iter().map(|logit| logit * inverse).collect::<Vec<_>>())
        };
        // Of the log-loss by the inverse temperature: expected logits less those of the targets.
        let slope = |inverse: f64| -> f64 {
            let of_row = |(row, target): (&Vec<f64>, &usize)| {
                let expected = scaled(row, inverse).into_iter().zip(row);
                expected.map(|(p, logit)| p.exp() * logit).sum::<f64>() - row[*target]
            };
            logits.iter().zip(targets).map(of_row).sum()
        };
        let (mut low, mut high) = (LOWEST.ln(), -LOWEST.ln());
        for _ in 0..HALVINGS {
            let middle = f64::midpoint(low, high);
            match slope(middle.exp()) > 0.0 {
                true => high = middle,
                false => low = middle,
            }
        }
        let inverse = f64::midpoint(low, high).exp();
        let loss = |(row, target): (&Vec<f64>, &usize)| -scaled(row, inverse)[*target];
        Ok(Self {
            temperature: inverse.recip(),
            losses: logits.iter().zip(targets).map(loss).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::TemperatureScaling;
    use crate::{EvalError, log_loss};

    fn mean(losses: &[f64]) -> f64 {
        losses.iter().sum::<f64>() / losses.len() as f64
    }

    #[test]
    fn the_best_certainty_is_the_share_of_right_answers() {
        // Always equally sure, and right three times out of four.
        let rows = vec![vec![0.99, 0.01]; 4];
        let scaling = TemperatureScaling::fit(&rows, &[0, 0, 1, 0]).unwrap();
        let entropy = -(0.75f64 * 0.75f64.ln() + 0.25 * 0.25f64.ln());
        assert!((mean(&scaling.losses) - entropy).abs() < 1e-9);
        let temperature = 99f64.ln() / 3f64.ln();
        assert!((scaling.temperature - temperature).abs() < 1e-9);
    }

    #[test]
    fn how_sure_the_probabilities_were_makes_no_difference() {
        let sharper = |power: f64| -> Vec<Vec<f64>> {
            let rows = [[0.7, 0.2, 0.1], [0.5, 0.3, 0.2], [0.1, 0.3, 0.6]];
            let sharpened = rows.map(|row| {
                let powers = row.map(|p: f64| p.powf(power));
                powers.map(|p| p / powers.iter().sum::<f64>()).to_vec()
            });
            sharpened.to_vec()
        };
        let targets = [0, 1, 2];
        let [plain, sure] = [1.0, 3.0].map(|power| {
            let rows = sharper(power);
            let scaling = TemperatureScaling::fit(&rows, &targets).unwrap();
            assert!(mean(&scaling.losses) < log_loss(&rows, &targets).unwrap());
            scaling
        });
        assert!((mean(&plain.losses) - mean(&sure.losses)).abs() < 1e-9);
        assert!((sure.temperature / plain.temperature - 3.0).abs() < 1e-6);
    }

    #[test]
    fn extremes_stay_finite() {
        let right = TemperatureScaling::fit(&[vec![0.6, 0.4]], &[0]).unwrap();
        assert!((right.temperature - 0.01).abs() < 1e-9);
        let wrong = TemperatureScaling::fit(&[vec![1.0, 0.0]], &[1]).unwrap();
        assert!((wrong.temperature - 100.0).abs() < 1e-6);
        assert!(wrong.losses[0].is_finite());
        let empty = TemperatureScaling::fit(&[], &[]).unwrap_err();
        assert!(matches!(empty, EvalError::Empty { .. }));
    }
}

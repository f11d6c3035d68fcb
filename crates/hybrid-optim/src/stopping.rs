//! When to stop.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// When a training that no longer improves is stopped.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EarlyStoppingConfig {
    /// Evaluations in a row without a gain after which the training stops.
    #[schemars(range(min = 1))]
    pub patience: usize,
    /// The least rise over the best value so far that counts as a gain.
    #[serde(default)]
    #[schemars(range(min = 0.0))]
    pub min_delta: f64,
}

/// Watches a figure that should rise, and says when it no longer does (Prechelt 1998).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EarlyStopping {
    config: EarlyStoppingConfig,
    best: Option<f64>,
    without_gain: usize,
}

impl EarlyStopping {
    /// Nothing observed yet.
    pub fn new(config: EarlyStoppingConfig) -> Self {
        Self {
            config,
            best: None,
            without_gain: 0,
        }
    }

    /// Takes one evaluation (higher is better); true when the training should stop.
    ///
    /// Not-a-number never counts as a gain.
    pub fn observe(&mut self, value: f64) -> bool {
        let gain = !value.is_nan()
            && self
                .best
                .is_none_or(|best| value > best + self.config.min_delta);
        if gain {
            self.best = Some(value);
            self.without_gain = 0;
        } else {
            self.without_gain += 1;
        }
        self.without_gain >= self.config.patience
    }
}

#[cfg(test)]
mod tests {
    use super::{EarlyStopping, EarlyStoppingConfig};

    fn stops_at(patience: usize, min_delta: f64, values: &[f64]) -> Option<usize> {
        let mut stopping = EarlyStopping::new(EarlyStoppingConfig {
            patience,
            min_delta,
        });
        values.iter().position(|value| stopping.observe(*value))
    }

    #[test]
    fn patience_counts_evaluations_in_a_row() {
        assert_eq!(stops_at(2, 0.0, &[0.5, 0.4, 0.6, 0.6, 0.6]), Some(4));
        assert_eq!(stops_at(2, 0.0, &[0.1, 0.2, 0.2, 0.3, 0.3]), None);
    }

    #[test]
    fn a_rise_below_the_least_gain_does_not_count() {
        assert_eq!(stops_at(2, 0.1, &[0.5, 0.55, 0.59]), Some(2));
        assert_eq!(stops_at(2, 0.1, &[0.5, 0.55, 0.61]), None);
    }

    #[test]
    fn not_a_number_is_no_gain() {
        assert_eq!(stops_at(2, 0.0, &[f64::NAN, f64::NAN]), Some(1));
    }

    #[test]
    fn the_state_survives_being_written_down() {
        let mut stopping = EarlyStopping::new(EarlyStoppingConfig {
            patience: 2,
            min_delta: 0.0,
        });
        assert!(!stopping.observe(0.5) && !stopping.observe(0.5));
        let text = serde_json::to_string(&stopping).unwrap();
        let mut restored: EarlyStopping = serde_json::from_str(&text).unwrap();
        assert!(restored.observe(0.5));
    }
}

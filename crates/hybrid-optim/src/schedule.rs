//! The rate over the steps of a training, as `transformers.get_scheduler`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::OptimError;

/// How the rate moves after the warmup.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleKind {
    /// It stays.
    #[default]
    Constant,
    /// It falls in a straight line to 0 at the last step.
    Linear,
    /// It falls along half a cosine wave to 0 at the last step (Loshchilov and Hutter 2017, eq. 5,
    /// without restarts).
    Cosine,
}

/// The rate over the steps of a training.
///
/// During the warmup it rises in a straight line from 0, so the first update of a training with
/// warmup has rate 0: no parameter moves, but the optimizer's moments do.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ScheduleConfig {
    /// How the rate moves after the warmup.
    #[serde(default)]
    pub kind: ScheduleKind,
    /// Updates of the warmup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warmup_steps: Option<usize>,
    /// Updates of the warmup as a share of all, rounded up; instead of `warmup_steps`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub warmup_ratio: Option<f64>,
}

impl ScheduleConfig {
    /// The rate of one update of a training of `total_steps`, counted from 0.
    pub fn rate(&self, base_lr: f64, step: usize, total_steps: usize) -> f64 {
        let warmup = self.warmup(total_steps);
        if step < warmup {
            return base_lr * step as f64 / warmup as f64;
        }
        let done = (step - warmup) as f64 / total_steps.saturating_sub(warmup).max(1) as f64;
        let factor = match self.kind {
            ScheduleKind::Constant => 1.0,
            ScheduleKind::Linear => 1.0 - done,
            ScheduleKind::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * done).cos()),
        };
        base_lr * factor.max(0.0)
    }

    fn warmup(&self, total_steps: usize) -> usize {
        match (self.warmup_steps, self.warmup_ratio) {
            (Some(steps), _) => steps,
            (None, Some(ratio)) => (total_steps as f64 * ratio).ceil() as usize,
            (None, None) => 0,
        }
    }

    /// # Errors
    /// [`OptimError::InvalidSetting`].
    pub(crate) fn validate(&self) -> Result<(), OptimError> {
        let Some(ratio) = self.warmup_ratio else {
            return Ok(());
        };
        if !(0.0..=1.0).contains(&ratio) {
            let expected = "a share from 0 to 1";
            return Err(OptimError::InvalidSetting {
                key: "schedule.warmup_ratio",
                expected,
                found: ratio.to_string(),
            });
        }
        match self.warmup_steps {
            None => Ok(()),
            Some(steps) => Err(OptimError::InvalidSetting {
                key: "schedule",
                expected: "`warmup_steps` or `warmup_ratio`, not both",
                found: format!("{steps} and {ratio}"),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Just, any, prop_oneof, proptest};

    use super::{ScheduleConfig, ScheduleKind};

    fn schedule(kind: ScheduleKind, warmup_ratio: f64) -> ScheduleConfig {
        ScheduleConfig {
            kind,
            warmup_steps: None,
            warmup_ratio: Some(warmup_ratio),
        }
    }

    #[test]
    fn a_linear_warmup_starts_at_zero_and_a_linear_decay_ends_there() {
        let config = schedule(ScheduleKind::Linear, 0.25);
        let rates: Vec<f64> = (0..=8).map(|step| config.rate(1.0, step, 8)).collect();
        let expected = [
            0.0,
            0.5,
            1.0,
            5.0 / 6.0,
            4.0 / 6.0,
            0.5,
            2.0 / 6.0,
            1.0 / 6.0,
            0.0,
        ];
        for (rate, expected) in rates.iter().zip(expected) {
            assert!((rate - expected).abs() < 1e-12, "{rates:?}");
        }
    }

    #[test]
    fn a_fraction_of_a_warmup_step_counts_whole() {
        assert_eq!(schedule(ScheduleKind::Constant, 0.1).rate(1.0, 1, 11), 0.5);
    }

    #[test]
    fn half_way_the_cosine_is_at_half() {
        let config = ScheduleConfig {
            kind: ScheduleKind::Cosine,
            ..ScheduleConfig::default()
        };
        assert!((config.rate(2.0, 5, 10) - 1.0).abs() < 1e-12);
        assert!(config.rate(2.0, 10, 10) < 1e-12);
    }

    #[test]
    fn two_kinds_of_warmup_are_refused() {
        let config = ScheduleConfig {
            warmup_steps: Some(3),
            ..schedule(ScheduleKind::Linear, 0.1)
        };
        assert!(config.validate().is_err());
        assert!(schedule(ScheduleKind::Linear, f64::NAN).validate().is_err());
        assert!(schedule(ScheduleKind::Linear, 0.1).validate().is_ok());
    }

    proptest! {
        #[test]
        fn the_rate_stays_between_zero_and_the_base_rate(
            kind in prop_oneof![Just(ScheduleKind::Constant), Just(ScheduleKind::Linear), Just(ScheduleKind::Cosine)],
            ratio in 0.0..=1.0,
            step in 0..200usize,
            total in any::<u8>(),
        ) {
            let rate = schedule(kind, ratio).rate(0.1, step, usize::from(total));
            assert!((0.0..=0.1).contains(&rate), "{rate}");
        }
    }
}

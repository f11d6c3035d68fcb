//! What chooses among candidates.

use hybrid_eval::higher_is_better;
use serde::{Deserialize, Serialize};

use crate::recipe::{ChooseBy, Metric, Recipe};

/// Name of the figure that breaks ties.
pub(crate) const LOG_LOSS: &str = "log_loss";

/// What chooses among candidates.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Criterion {
    pub(crate) metric: Metric,
    pub(crate) choose_by: ChooseBy,
}

impl Criterion {
    pub(crate) fn of(recipe: &Recipe) -> Self {
        let deciding = recipe.task.metrics()[0];
        let metric = recipe.target.map_or(deciding, |target| target.metric);
        Self {
            metric,
            choose_by: recipe.choose_by,
        }
    }

    /// What stands for a candidate in messages: the figure, after what decides where that is
    /// another.
    pub(crate) fn in_words(self, value: f64, log_loss: f64) -> String {
        let figure = format!("{} {value:.4} on select", self.metric.name());
        match self.choose_by {
            ChooseBy::Metric => figure,
            ChooseBy::LogLoss => format!("log-loss {log_loss:.4}, {figure}"),
            ChooseBy::ScaledLogLoss => format!("scaled log-loss {log_loss:.4}, {figure}"),
        }
    }

    pub(crate) fn standing(self, value: f64, log_loss: f64) -> Standing {
        let value = match higher_is_better(self.metric.name()) {
            true => value,
            false => -value,
        };
        match self.choose_by {
            ChooseBy::Metric => Standing(value, -log_loss),
            ChooseBy::LogLoss | ChooseBy::ScaledLogLoss => Standing(-log_loss, value),
        }
    }
}

/// How good a candidate is on select: what decides, and what breaks ties; higher is better.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Standing(f64, f64);

impl Standing {
    /// What decides; higher is better.
    pub(crate) fn deciding(self) -> f64 {
        self.0
    }

    pub(crate) fn is_better_than(self, other: Self) -> bool {
        self.0 > other.0 || (self.0 == other.0 && self.1 > other.1)
    }
}

#[cfg(test)]
mod tests {
    use super::Criterion;
    use crate::recipe::{ChooseBy, Metric};

    #[test]
    fn what_does_not_decide_breaks_ties() {
        let by = |choose_by| Criterion {
            metric: Metric::Accuracy,
            choose_by,
        };
        let metric = by(ChooseBy::Metric);
        assert!(
            metric
                .standing(0.8, 1.0)
                .is_better_than(metric.standing(0.7, 0.1))
        );
        assert!(
            metric
                .standing(0.8, 0.1)
                .is_better_than(metric.standing(0.8, 0.2))
        );
        assert!(
            !metric
                .standing(0.8, 0.2)
                .is_better_than(metric.standing(0.8, 0.2))
        );
        let log_loss = by(ChooseBy::LogLoss);
        assert!(
            log_loss
                .standing(0.7, 0.1)
                .is_better_than(log_loss.standing(0.8, 1.0))
        );
        assert!(
            log_loss
                .standing(0.8, 0.1)
                .is_better_than(log_loss.standing(0.7, 0.1))
        );
    }
}

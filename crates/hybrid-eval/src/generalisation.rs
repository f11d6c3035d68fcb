//! Does the result hold on examples that nothing was chosen on?

use serde::{Deserialize, Serialize};

use crate::metrics::check_rows;
use crate::{EvalError, false_positive_rate_at, roc_auc};

const REQUIRED_RECALL: f64 = 0.95;

/// The winner's figure on the split it was chosen on against the split it was never shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Generalisation {
    /// The figure that is compared.
    pub metric: String,
    /// Its value on select.
    pub select: f64,
    /// Its value on report.
    pub report: f64,
    /// Select minus report: what choosing on select flattered, below 0 for a figure of which less
    /// is better.
    pub gap: f64,
    /// A second labelled report set from another source.
    pub second_report: Option<SecondReport>,
    /// Examples of no known label.
    pub out_of_scope: Option<OutOfScope>,
}

/// A labelled set from another source than the report split.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SecondReport {
    /// What the set is called.
    pub name: String,
    /// Number of examples.
    pub rows: usize,
    /// The figure on this set.
    pub value: f64,
    /// Its bootstrap 95 % interval.
    pub interval: [f64; 2],
    /// Report minus this set: what the change of source costs.
    pub gap: f64,
}

/// How well the highest probability tells known examples from unknown ones (Hendrycks & Gimpel
/// 2017).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OutOfScope {
    /// What the set is called.
    pub name: String,
    /// Number of examples of no known label.
    pub rows: usize,
    /// Chance that an in-scope example has the higher confidence.
    pub auroc: f64,
    /// Share of out-of-scope examples still accepted when 95 % of the in-scope ones are.
    pub false_positive_rate_at_95: f64,
    /// Mean confidence in scope.
    pub in_scope_confidence: f64,
    /// Mean confidence out of scope.
    pub out_of_scope_confidence: f64,
}

impl Generalisation {
    /// The gap between select and report.
    ///
    /// ```
    /// use hybrid_eval::Generalisation;
    ///
    /// let generalisation = Generalisation::of("accuracy", 0.91, 0.88);
    /// assert!((generalisation.gap - 0.03).abs() < 1e-12);
    /// ```
    pub fn of(metric: &str, select: f64, report: f64) -> Self {
        Self {
            metric: metric.to_owned(),
            select,
            report,
            gap: select - report,
            second_report: None,
            out_of_scope: None,
        }
    }

    /// Adds the figure on a second labelled set.
    pub fn with_second_report(
        self,
        name: &str,
        rows: usize,
        value: f64,
        interval: [f64; 2],
    ) -> Self {
        let gap = self.report - value;
        Self {
            second_report: Some(SecondReport {
                name: name.to_owned(),
                rows,
                value,
                interval,
                gap,
            }),
            ..self
        }
    }

    /// Adds the figures on a set of no known label.
    pub fn with_out_of_scope(self, out_of_scope: OutOfScope) -> Self {
        Self {
            out_of_scope: Some(out_of_scope),
            ..self
        }
    }
}

impl OutOfScope {
    /// Compares the highest probabilities of the report split with those of the set `name`; both are
    /// `[examples][classes]`.
    ///
    /// # Errors
    /// [`EvalError::Empty`] if a set or a row is empty, or [`EvalError::NotFinite`].
    pub fn of(
        name: &str,
        in_scope: &[Vec<f64>],
        out_of_scope: &[Vec<f64>],
    ) -> Result<Self, EvalError> {
        let inside = confidences("in-scope probabilities", in_scope)?;
        let outside = confidences("out-of-scope probabilities", out_of_scope)?;
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        let (in_scope_confidence, out_of_scope_confidence) = (mean(&inside), mean(&outside));
        let known: Vec<bool> = (0..inside.len() + outside.len())
            .map(|row| row < inside.len())
            .collect();
        let scores = [inside, outside].concat();
        Ok(Self {
            name: name.to_owned(),
            rows: out_of_scope.len(),
            auroc: roc_auc(&scores, &known)?,
            false_positive_rate_at_95: false_positive_rate_at(REQUIRED_RECALL, &scores, &known)?,
            in_scope_confidence,
            out_of_scope_confidence,
        })
    }
}

fn confidences(what: &'static str, probabilities: &[Vec<f64>]) -> Result<Vec<f64>, EvalError> {
    check_rows(what, probabilities.len(), probabilities.len())?;
    probabilities
        .iter()
        .enumerate()
        .map(|(row, values)| {
            if values.iter().any(|value| !value.is_finite()) {
                return Err(EvalError::NotFinite { what, row });
            }
            values
                .iter()
                .copied()
                .reduce(f64::max)
                .ok_or(EvalError::Empty { what })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{Generalisation, OutOfScope};
    use crate::EvalError;

    #[test]
    fn confidence_separates_the_two_sets() {
        let known = [vec![0.9, 0.1], vec![0.2, 0.8]];
        let unknown = [vec![0.5, 0.5], vec![0.85, 0.15]];
        let figures = OutOfScope::of("oos", &known, &unknown).unwrap();
        assert_eq!(figures.auroc, 0.75);
        assert_eq!(figures.false_positive_rate_at_95, 0.5);
        assert!((figures.in_scope_confidence - 0.85).abs() < 1e-12);
        assert!((figures.out_of_scope_confidence - 0.675).abs() < 1e-12);
        assert_eq!(figures.rows, 2);
    }

    #[test]
    fn an_empty_set_is_refused() {
        assert!(matches!(
            OutOfScope::of("oos", &[vec![1.0]], &[]),
            Err(EvalError::Empty { .. })
        ));
        assert!(matches!(
            OutOfScope::of("oos", &[vec![]], &[vec![1.0]]),
            Err(EvalError::Empty { .. })
        ));
    }

    #[test]
    fn the_second_set_is_compared_with_report() {
        let with = Generalisation::of("accuracy", 0.9, 0.8).with_second_report(
            "tweets",
            50,
            0.7,
            [0.6, 0.8],
        );
        assert!(
            with.second_report
                .is_some_and(|second| (second.gap - 0.1).abs() < 1e-12)
        );
    }
}

//! All figures of one label an example, from class probabilities.

use std::collections::BTreeMap;

use super::calibration::Calibration;
use super::confusion::{Averages, ClassFigures, ConfusionMatrix};
use super::probability::{brier, check_probabilities, log_loss, most_probable, top_k_accuracy};
use crate::{EvalError, Resamples};

const CALIBRATION_BINS: usize = 10;
const TOP_K: usize = 5;

/// Figures of class probabilities against target classes; definitions as in scikit-learn.
#[derive(Debug, Clone, PartialEq)]
pub struct Classification {
    /// The most probable class of each example; ties go to the lower class.
    pub predictions: Vec<usize>,
    /// Share of right predictions.
    pub accuracy: f64,
    /// Mean recall over the classes that have examples.
    pub balanced_accuracy: f64,
    /// Mean over the classes that occur in targets or predictions.
    pub macro_average: Averages,
    /// Pooled over all decisions.
    pub micro_average: Averages,
    /// Mean over classes, weighted by their number of examples.
    pub weighted_average: Averages,
    /// Matthews correlation coefficient.
    pub mcc: f64,
    /// Cohen's kappa.
    pub cohen_kappa: f64,
    /// Share of examples whose class is among the five most probable.
    pub top_5_accuracy: f64,
    /// Mean negative log-probability of the target.
    pub log_loss: f64,
    /// Brier score over all classes.
    pub brier: f64,
    /// Agreement of confidence and accuracy, in 10 bins.
    pub calibration: Calibration,
    /// Figures of each class.
    pub per_class: Vec<ClassFigures>,
    /// Counts of actual against predicted classes.
    pub confusion: ConfusionMatrix,
}

impl Classification {
    /// Measures `probabilities`, `[examples][classes]`, against one class an example.
    ///
    /// # Errors
    /// [`EvalError::Empty`], [`EvalError::Length`], [`EvalError::Width`], [`EvalError::Index`] or
    /// [`EvalError::NotFinite`].
    pub fn of(probabilities: &[Vec<f64>], targets: &[usize]) -> Result<Self, EvalError> {
        check_probabilities(probabilities, targets)?;
        let predictions: Vec<usize> = probabilities.iter().map(|row| most_probable(row)).collect();
        let confusion = ConfusionMatrix::of(targets, &predictions, probabilities[0].len())?;
        Ok(Self {
            accuracy: confusion.accuracy(),
            balanced_accuracy: confusion.balanced_accuracy(),
            macro_average: confusion.macro_average(),
            micro_average: confusion.micro_average(),
            weighted_average: confusion.weighted_average(),
            mcc: confusion.mcc(),
            cohen_kappa: confusion.cohen_kappa(),
            top_5_accuracy: top_k_accuracy(probabilities, targets, TOP_K)?,
            log_loss: log_loss(probabilities, targets)?,
            brier: brier(probabilities, targets)?,
            calibration: Calibration::of(probabilities, targets, CALIBRATION_BINS)?,
            per_class: confusion.per_class(),
            predictions,
            confusion,
        })
    }

    /// All single figures by the name they have in reports.
    pub fn by_name(&self) -> BTreeMap<String, f64> {
        [
            ("accuracy", self.accuracy),
            ("balanced_accuracy", self.balanced_accuracy),
            ("brier", self.brier),
            ("cohen_kappa", self.cohen_kappa),
            ("ece", self.calibration.ece),
            ("log_loss", self.log_loss),
            ("macro_f1", self.macro_average.f1),
            ("macro_precision", self.macro_average.precision),
            ("macro_recall", self.macro_average.recall),
            ("mcc", self.mcc),
            ("mce", self.calibration.mce),
            ("micro_f1", self.micro_average.f1),
            ("top_5_accuracy", self.top_5_accuracy),
            ("weighted_f1", self.weighted_average.f1),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }

    /// Bootstrap 95 % intervals of `accuracy`, `macro_f1` and `mcc`.
    ///
    /// # Errors
    /// [`EvalError::Length`] if targets or resamples belong to another number of examples.
    pub fn intervals(
        &self,
        targets: &[usize],
        resamples: &Resamples,
    ) -> Result<BTreeMap<String, [f64; 2]>, EvalError> {
        super::check_rows("targets", self.predictions.len(), targets.len())?;
        super::check_rows("resamples", self.predictions.len(), resamples.n_examples())?;
        let n_classes = self.confusion.n_classes();
        let (mut accuracy, mut macro_f1, mut mcc) = (Vec::new(), Vec::new(), Vec::new());
        let mut failed = None;
        resamples.for_each(|rows| {
            let drawn_targets: Vec<usize> = rows.iter().map(|row| targets[*row]).collect();
            let drawn_predictions: Vec<usize> =
                rows.iter().map(|row| self.predictions[*row]).collect();
            match ConfusionMatrix::of(&drawn_targets, &drawn_predictions, n_classes) {
                Ok(drawn) => {
                    accuracy.push(drawn.accuracy());
                    macro_f1.push(drawn.macro_average().f1);
                    mcc.push(drawn.mcc());
                }
                Err(error) => failed = Some(error),
            }
        });
        if let Some(error) = failed {
            return Err(error);
        }
        let named = [("accuracy", accuracy), ("macro_f1", macro_f1), ("mcc", mcc)];
        Ok(named
            .map(|(name, values)| (name.to_owned(), crate::resample::interval(values)))
            .into())
    }
}

#[cfg(test)]
mod tests {
    use super::Classification;
    use crate::{EvalError, Resamples};

    fn figures() -> (Classification, Vec<usize>) {
        let targets: Vec<usize> = (0..60).map(|row| row % 3).collect();
        let rows: Vec<Vec<f64>> = (0..60)
            .map(|row| {
                let said = if row % 5 == 0 { (row + 1) % 3 } else { row % 3 };
                (0..3)
                    .map(|class| if class == said { 0.8 } else { 0.1 })
                    .collect()
            })
            .collect();
        (Classification::of(&rows, &targets).unwrap(), targets)
    }

    #[test]
    fn figures_agree_with_each_other() {
        let (figures, _) = figures();
        assert!((figures.accuracy - 0.8).abs() < 1e-12);
        assert_eq!(figures.micro_average.f1, figures.accuracy);
        assert_eq!(figures.top_5_accuracy, 1.0);
        assert!(
            figures.calibration.ece < 1e-12,
            "80 % confidence, 80 % right"
        );
        assert_eq!(figures.by_name()["macro_f1"], figures.macro_average.f1);
    }

    #[test]
    fn intervals_hold_the_figure_and_depend_on_the_seed_alone() {
        let (figures, targets) = figures();
        let draw = |seed| {
            figures
                .intervals(&targets, &Resamples::seeded(60, 400, seed).unwrap())
                .unwrap()
        };
        let intervals = draw(3);
        for (name, [low, high]) in &intervals {
            let value = figures.by_name()[name];
            assert!(
                *low < value && value < *high,
                "{name}: {low} {value} {high}"
            );
        }
        assert_eq!(intervals, draw(3));
        assert_ne!(intervals, draw(4));
    }

    #[test]
    fn foreign_resamples_are_refused() {
        let (figures, targets) = figures();
        let error = figures
            .intervals(&targets, &Resamples::seeded(59, 10, 0).unwrap())
            .unwrap_err();
        assert!(matches!(
            error,
            EvalError::Length {
                expected: 60,
                found: 59,
                ..
            }
        ));
    }
}

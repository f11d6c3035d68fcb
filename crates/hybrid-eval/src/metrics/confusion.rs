//! The confusion matrix and every figure that follows from its counts.
//!
//! Definitions are scikit-learn's: macro averages run over the classes that occur in targets or
//! predictions, and 0/0 counts as 0.

use serde::{Deserialize, Serialize};

use super::{check_rows, ratio};
use crate::EvalError;

/// Counts of examples by actual and predicted class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfusionMatrix {
    n_classes: usize,
    counts: Vec<u64>,
}

/// Precision, recall and F1 averaged over classes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Averages {
    /// Share of the predictions of a class that are right.
    pub precision: f64,
    /// Share of the examples of a class that are found.
    pub recall: f64,
    /// Harmonic mean of the two, taken class by class before averaging.
    pub f1: f64,
}

/// Figures of one class.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ClassFigures {
    /// Share of the predictions of this class that are right.
    pub precision: f64,
    /// Share of the examples of this class that are found.
    pub recall: f64,
    /// Harmonic mean of precision and recall.
    pub f1: f64,
    /// Examples of this class.
    pub support: u64,
    /// Predictions of this class.
    pub predicted: u64,
}

/// Examples of one class that were taken for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfusedPair {
    /// The right class.
    pub actual: usize,
    /// The predicted class.
    pub predicted: usize,
    /// How many examples.
    pub count: u64,
}

impl ConfusionMatrix {
    /// Counts `(target, prediction)` pairs.
    ///
    /// # Errors
    /// [`EvalError::Empty`], [`EvalError::Length`], or [`EvalError::Index`] for a class that is not
    /// below `n_classes`.
    pub fn of(
        targets: &[usize],
        predictions: &[usize],
        n_classes: usize,
    ) -> Result<Self, EvalError> {
        check_rows("predictions", targets.len(), predictions.len())?;
        let mut counts = vec![0; n_classes * n_classes];
        for (row, (target, prediction)) in targets.iter().zip(predictions).enumerate() {
            for (what, found) in [("targets", *target), ("predictions", *prediction)] {
                if found >= n_classes {
                    return Err(EvalError::Index {
                        what,
                        row,
                        found,
                        limit: n_classes,
                    });
                }
            }
            counts[target * n_classes + prediction] += 1;
        }
        Ok(Self { n_classes, counts })
    }

    /// Number of classes.
    pub fn n_classes(&self) -> usize {
        self.n_classes
    }

    /// Examples of class `actual` that were predicted as `predicted`.
    ///
    /// # Panics
    /// If a class is not below [`n_classes`](Self::n_classes).
    pub fn count(&self, actual: usize, predicted: usize) -> u64 {
        assert!(
            predicted < self.n_classes,
            "class {predicted} of {}",
            self.n_classes
        );
        self.counts[actual * self.n_classes + predicted]
    }

    /// All counts: one row an actual class, one column a predicted class.
    pub fn rows(&self) -> Vec<Vec<u64>> {
        if self.n_classes == 0 {
            return Vec::new();
        }
        self.counts
            .chunks(self.n_classes)
            .map(<[u64]>::to_vec)
            .collect()
    }

    /// Examples in all.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Share of right predictions.
    pub fn accuracy(&self) -> f64 {
        ratio(self.correct() as f64, self.total() as f64)
    }

    /// Mean recall over the classes that have examples.
    pub fn balanced_accuracy(&self) -> f64 {
        let classes = self.per_class();
        let with_examples: Vec<f64> = classes
            .iter()
            .filter(|class| class.support > 0)
            .map(|class| class.recall)
            .collect();
        ratio(with_examples.iter().sum(), with_examples.len() as f64)
    }

    /// Matthews correlation coefficient for several classes (Gorodkin 2004, eq. 8); 0 when targets
    /// or predictions are all of one class.
    pub fn mcc(&self) -> f64 {
        let (actual, predicted) = self.margins();
        let total = self.total() as f64;
        let dot = |a: &[u64], b: &[u64]| {
            a.iter()
                .zip(b)
                .map(|(a, b)| *a as f64 * *b as f64)
                .sum::<f64>()
        };
        let covariance = self.correct() as f64 * total - dot(&actual, &predicted);
        let spread =
            (total * total - dot(&actual, &actual)) * (total * total - dot(&predicted, &predicted));
        ratio(covariance, spread.sqrt())
    }

    /// Cohen's kappa; 0 when targets and predictions are all of one class.
    pub fn cohen_kappa(&self) -> f64 {
        let (actual, predicted) = self.margins();
        let total = self.total() as f64;
        let by_chance = actual
            .iter()
            .zip(&predicted)
            .map(|(a, p)| *a as f64 * *p as f64)
            .sum::<f64>()
            / total;
        ratio(self.correct() as f64 - by_chance, total - by_chance)
    }

    /// Figures of each class.
    pub fn per_class(&self) -> Vec<ClassFigures> {
        let (actual, predicted) = self.margins();
        let figures = actual.into_iter().zip(predicted).enumerate();
        figures
            .map(|(class, (support, predicted))| {
                let right = self.count(class, class) as f64;
                ClassFigures {
                    precision: ratio(right, predicted as f64),
                    recall: ratio(right, support as f64),
                    f1: ratio(2.0 * right, (support + predicted) as f64),
                    support,
                    predicted,
                }
            })
            .collect()
    }

    /// Mean over the classes that occur in targets or predictions.
    pub fn macro_average(&self) -> Averages {
        self.average(|class| {
            if class.support + class.predicted > 0 {
                1.0
            } else {
                0.0
            }
        })
    }

    /// Mean over classes, each weighted by its number of examples.
    pub fn weighted_average(&self) -> Averages {
        self.average(|class| class.support as f64)
    }

    /// Pooled over all decisions; with one label an example all three equal the accuracy.
    pub fn micro_average(&self) -> Averages {
        let accuracy = self.accuracy();
        Averages {
            precision: accuracy,
            recall: accuracy,
            f1: accuracy,
        }
    }

    /// The `limit` most frequent errors, most frequent first; ties by class index.
    pub fn most_confused(&self, limit: usize) -> Vec<ConfusedPair> {
        let mut pairs: Vec<ConfusedPair> = (0..self.n_classes)
            .flat_map(|actual| (0..self.n_classes).map(move |predicted| (actual, predicted)))
            .filter(|(actual, predicted)| actual != predicted)
            .map(|(actual, predicted)| ConfusedPair {
                actual,
                predicted,
                count: self.count(actual, predicted),
            })
            .filter(|pair| pair.count > 0)
            .collect();
        pairs.sort_by_key(|pair| std::cmp::Reverse(pair.count));
        pairs.truncate(limit);
        pairs
    }

    fn average(&self, weight: impl Fn(&ClassFigures) -> f64) -> Averages {
        let classes = self.per_class();
        let weights: Vec<f64> = classes.iter().map(weight).collect();
        let total: f64 = weights.iter().sum();
        let mean = |figure: fn(&ClassFigures) -> f64| {
            let sum: f64 = classes
                .iter()
                .zip(&weights)
                .map(|(class, weight)| figure(class) * weight)
                .sum();
            ratio(sum, total)
        };
        Averages {
            precision: mean(|class| class.precision),
            recall: mean(|class| class.recall),
            f1: mean(|class| class.f1),
        }
    }

    fn correct(&self) -> u64 {
        (0..self.n_classes)
            .map(|class| self.count(class, class))
            .sum()
    }

    /// Examples and predictions of each class.
    fn margins(&self) -> (Vec<u64>, Vec<u64>) {
        let mut actual = vec![0; self.n_classes];
        let mut predicted = vec![0; self.n_classes];
        for (index, count) in self.counts.iter().enumerate() {
            actual[index / self.n_classes] += count;
            predicted[index % self.n_classes] += count;
        }
        (actual, predicted)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert, prop_assert_eq, proptest};

    use super::{ConfusedPair, ConfusionMatrix};
    use crate::EvalError;

    #[test]
    fn a_perfect_matrix_has_perfect_figures() {
        let matrix = ConfusionMatrix::of(&[0, 1, 2, 1], &[0, 1, 2, 1], 3).unwrap();
        assert_eq!(matrix.accuracy(), 1.0);
        assert_eq!(matrix.mcc(), 1.0);
        assert_eq!(matrix.cohen_kappa(), 1.0);
        assert_eq!(matrix.macro_average().f1, 1.0);
        assert!(matrix.most_confused(3).is_empty());
    }

    #[test]
    fn one_predicted_class_has_no_correlation() {
        let matrix = ConfusionMatrix::of(&[0, 1, 1], &[1, 1, 1], 2).unwrap();
        assert_eq!(matrix.mcc(), 0.0);
        assert_eq!(matrix.cohen_kappa(), 0.0);
        assert_eq!(matrix.balanced_accuracy(), 0.5);
    }

    #[test]
    fn absent_classes_do_not_dilute_the_macro_average() {
        let present = ConfusionMatrix::of(&[0, 1, 1], &[0, 1, 0], 2).unwrap();
        let padded = ConfusionMatrix::of(&[0, 1, 1], &[0, 1, 0], 9).unwrap();
        assert_eq!(present.macro_average(), padded.macro_average());
        assert_eq!(present.weighted_average(), padded.weighted_average());
    }

    #[test]
    fn errors_are_ranked_by_count_then_class() {
        let matrix = ConfusionMatrix::of(&[0, 0, 1, 2, 2], &[1, 1, 0, 0, 2], 3).unwrap();
        let expected =
            [(0, 1, 2), (1, 0, 1), (2, 0, 1)].map(|(actual, predicted, count)| ConfusedPair {
                actual,
                predicted,
                count,
            });
        assert_eq!(matrix.most_confused(9), expected);
        assert_eq!(matrix.most_confused(1), expected[..1]);
    }

    #[test]
    fn bad_input_is_named() {
        assert!(matches!(
            ConfusionMatrix::of(&[], &[], 2),
            Err(EvalError::Empty { .. })
        ));
        assert!(matches!(
            ConfusionMatrix::of(&[0], &[0, 1], 2),
            Err(EvalError::Length {
                expected: 1,
                found: 2,
                ..
            })
        ));
        let error = ConfusionMatrix::of(&[0, 1], &[0, 2], 2).unwrap_err();
        assert!(matches!(
            error,
            EvalError::Index {
                what: "predictions",
                row: 1,
                found: 2,
                limit: 2
            }
        ));
    }

    proptest! {
        #[test]
        fn figures_stay_in_range_and_ignore_the_names_of_classes(
            rows in proptest::collection::vec((0usize..5, 0usize..5), 1..60)
        ) {
            let (targets, predictions): (Vec<usize>, Vec<usize>) = rows.iter().copied().unzip();
            let matrix = ConfusionMatrix::of(&targets, &predictions, 5).unwrap();
            prop_assert!((-1.0 - 1e-12..=1.0 + 1e-12).contains(&matrix.mcc()));
            prop_assert!((0.0..=1.0 + 1e-12).contains(&matrix.macro_average().f1));
            prop_assert!((matrix.weighted_average().recall - matrix.accuracy()).abs() < 1e-12);
            let renamed = |classes: &[usize]| -> Vec<usize> { classes.iter().map(|class| 4 - class).collect() };
            let mirrored = ConfusionMatrix::of(&renamed(&targets), &renamed(&predictions), 5).unwrap();
            prop_assert_eq!(matrix.accuracy(), mirrored.accuracy());
            prop_assert!((matrix.mcc() - mirrored.mcc()).abs() < 1e-12);
            prop_assert!((matrix.cohen_kappa() - mirrored.cohen_kappa()).abs() < 1e-12);
        }
    }
}

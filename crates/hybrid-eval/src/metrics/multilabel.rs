//! Figures when an example may have several labels.

use super::{check_rows, ratio};
use crate::EvalError;

/// Figures of yes/no decisions, one a label and example. 0/0 counts as 0.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Multilabel {
    /// Share of examples with every label right.
    pub subset_accuracy: f64,
    /// Share of wrong decisions.
    pub hamming_loss: f64,
    /// F1 of each label, averaged over labels.
    pub f1_macro: f64,
    /// F1 over all decisions together.
    pub f1_micro: f64,
    /// F1 of each example, averaged over examples.
    pub f1_samples: f64,
}

#[derive(Clone, Copy, Default)]
struct Hits {
    both: f64,
    either: f64,
}

impl Hits {
    fn count(&mut self, target: bool, prediction: bool) {
        self.both += f64::from(u8::from(target && prediction));
        self.either += f64::from(u8::from(target)) + f64::from(u8::from(prediction));
    }

    fn f1(self) -> f64 {
        ratio(2.0 * self.both, self.either)
    }
}

impl Multilabel {
    /// Compares targets and predictions, both `[examples][labels]`.
    ///
    /// # Errors
    /// [`EvalError::Empty`], [`EvalError::Length`] or [`EvalError::Width`].
    pub fn of(targets: &[Vec<bool>], predictions: &[Vec<bool>]) -> Result<Self, EvalError> {
        check_rows("predictions", targets.len(), predictions.len())?;
        let expected = targets[0].len();
        let (mut all, mut by_label) = (Hits::default(), vec![Hits::default(); expected]);
        let (mut exact, mut wrong, mut f1_samples) = (0.0, 0.0, 0.0);
        for (row, (target, prediction)) in targets.iter().zip(predictions).enumerate() {
            for (what, found) in [("targets", target.len()), ("predictions", prediction.len())] {
                if found != expected {
                    return Err(EvalError::Width {
                        what,
                        row,
                        expected,
                        found,
                    });
                }
            }
            let mut sample = Hits::default();
            for ((t, p), label) in target.iter().zip(prediction).zip(&mut by_label) {
                for hits in [&mut all, &mut sample, label] {
                    hits.count(*t, *p);
                }
                wrong += f64::from(u8::from(t != p));
            }
            exact += f64::from(u8::from(target == prediction));
            f1_samples += sample.f1();
        }
        let rows = targets.len() as f64;
        let labels = expected as f64;
        Ok(Self {
            subset_accuracy: exact / rows,
            hamming_loss: ratio(wrong, rows * labels),
            f1_macro: ratio(by_label.into_iter().map(Hits::f1).sum(), labels),
            f1_micro: all.f1(),
            f1_samples: f1_samples / rows,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Multilabel;

    #[test]
    fn an_example_without_labels_counts_as_missed() {
        let figures = Multilabel::of(
            &[vec![true, false], vec![false, false]],
            &[vec![true, false], vec![false, false]],
        );
        let figures = figures.unwrap();
        assert_eq!((figures.subset_accuracy, figures.hamming_loss), (1.0, 0.0));
        assert_eq!(
            (figures.f1_micro, figures.f1_macro, figures.f1_samples),
            (1.0, 0.5, 0.5)
        );
    }
}

//! Is one candidate really better than another on the same examples?

use std::iter::Sum;

use serde::{Deserialize, Serialize};

use crate::EvalError;
use crate::metrics::check_rows;
use crate::resample::{Resamples, interval};

/// Slack for rounding when a shifted difference is compared with the observed one.
const SLACK: f64 = 1e-12;

/// Paired bootstrap over examples (Koehn 2004): each draw picks the same examples for both sides.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PairedComparison {
    /// Mean score (or other figure) of `a` minus that of `b`.
    pub difference: f64,
    /// 95 % percentile interval of the difference.
    pub interval: [f64; 2],
    /// Share of draws in which `a` is ahead: higher, or lower where [`TextFigures::compare`] knows
    /// that lower is better.
    ///
    /// [`TextFigures::compare`]: crate::TextFigures::compare
    pub win_rate: f64,
    /// Share of draws in which both are equal.
    pub tie_rate: f64,
    /// Share of draws in which `a` is not ahead.
    pub p_one_sided: f64,
    /// Share of draws whose difference strays from the observed one by at least its size: the
    /// chance of a difference this large if there were none.
    pub p_two_sided: f64,
    /// Number of draws.
    pub resamples: usize,
}

impl PairedComparison {
    /// Compares the scores of two candidates on the same examples, in the same order (1 for a right
    /// prediction and 0 for a wrong one compares accuracies).
    ///
    /// ```
    /// use hybrid_eval::{PairedComparison, Resamples};
    ///
    /// let a = [1.0, 1.0, 1.0, 1.0, 0.0];
    /// let b = [0.0, 0.0, 0.0, 1.0, 0.0];
    /// let compared = PairedComparison::of(&a, &b, &Resamples::seeded(5, 1000, 0)?)?;
    /// assert!((compared.difference - 0.6).abs() < 1e-12);
    /// assert!(compared.p_one_sided < 0.05);
    /// # Ok::<(), hybrid_eval::EvalError>(())
    /// ```
    ///
    /// # Errors
    /// [`EvalError::Empty`], or [`EvalError::Length`] if scores or resamples belong to another number
    /// of examples, or [`EvalError::NotFinite`].
    pub fn of(a: &[f64], b: &[f64], resamples: &Resamples) -> Result<Self, EvalError> {
        check_rows("scores", a.len(), b.len())?;
        check_rows("resamples", a.len(), resamples.n_examples())?;
        if let Some(row) = (0..a.len()).find(|row| !a[*row].is_finite() || !b[*row].is_finite()) {
            return Err(EvalError::NotFinite {
                what: "scores",
                row,
            });
        }
        let n = a.len() as f64;
        let difference = a.iter().sum::<f64>() / n - b.iter().sum::<f64>() / n;
        Ok(Self::drawn(difference, true, resamples, |rows| {
            let mean = |scores: &[f64]| rows.iter().map(|row| scores[*row]).sum::<f64>() / n;
            mean(a) - mean(b)
        }))
    }

    /// Compares a figure that is no mean over rows but comes from the sum of what is counted in each,
    /// such as BLEU. Each draw sums the counts of its rows anew.
    ///
    /// ```
    /// use hybrid_eval::{PairedComparison, Resamples};
    ///
    /// let figure = |total: &u32| f64::from(*total).sqrt();
    /// let resamples = Resamples::seeded(3, 100, 0)?;
    /// let compared = PairedComparison::of_counts(&[9, 9, 7], &[3, 3, 3], figure, &resamples)?;
    /// assert_eq!(compared.difference, 2.0);
    /// # Ok::<(), hybrid_eval::EvalError>(())
    /// ```
    ///
    /// # Errors
    /// [`EvalError::Empty`], or [`EvalError::Length`] if counts or resamples belong to another number
    /// of rows.
    pub fn of_counts<C>(
        a: &[C],
        b: &[C],
        figure: impl Fn(&C) -> f64,
        resamples: &Resamples,
    ) -> Result<Self, EvalError>
    where
        C: for<'row> Sum<&'row C>,
    {
        check_rows("counts", a.len(), b.len())?;
        check_rows("resamples", a.len(), resamples.n_examples())?;
        let difference = figure(&a.iter().sum()) - figure(&b.iter().sum());
        Ok(Self::drawn(difference, true, resamples, |rows| {
            let figure = |counts: &[C]| figure(&rows.iter().map(|row| &counts[*row]).sum());
            figure(a) - figure(b)
        }))
    }

    /// Collects the difference of each draw.
    pub(crate) fn drawn(
        difference: f64,
        higher_is_better: bool,
        resamples: &Resamples,
        mut difference_of: impl FnMut(&[usize]) -> f64,
    ) -> Self {
        let mut drawn = Vec::with_capacity(resamples.count());
        resamples.for_each(|rows| drawn.push(difference_of(rows)));
        let lead = |value: f64| if higher_is_better { value } else { -value };
        let share = |holds: &dyn Fn(f64) -> bool| {
            drawn.iter().filter(|value| holds(**value)).count() as f64 / drawn.len() as f64
        };
        Self {
            difference,
            win_rate: share(&|value| lead(value) > 0.0),
            tie_rate: share(&|value| value == 0.0),
            p_one_sided: share(&|value| lead(value) <= 0.0),
            p_two_sided: share(&|value| (value - difference).abs() >= difference.abs() - SLACK),
            resamples: drawn.len(),
            interval: interval(drawn),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::PairedComparison;
    use crate::{EvalError, Resamples};

    #[test]
    fn equal_candidates_tie() {
        let scores = [1.0, 0.0, 1.0];
        let compared =
            PairedComparison::of(&scores, &scores, &Resamples::seeded(3, 50, 0).unwrap()).unwrap();
        assert_eq!(
            (compared.difference, compared.tie_rate, compared.p_two_sided),
            (0.0, 1.0, 1.0)
        );
        assert_eq!(compared.interval, [0.0, 0.0]);
    }

    #[test]
    fn swapping_sides_flips_the_sign() {
        let (a, b) = ([1.0, 1.0, 0.0, 1.0], [0.0, 1.0, 1.0, 0.0]);
        let resamples = Resamples::seeded(4, 300, 9).unwrap();
        let ab = PairedComparison::of(&a, &b, &resamples).unwrap();
        let ba = PairedComparison::of(&b, &a, &resamples).unwrap();
        assert_eq!(ab.difference, -ba.difference);
        assert_eq!(ab.p_two_sided, ba.p_two_sided);
        assert!((ab.win_rate + ba.win_rate + ab.tie_rate - 1.0).abs() < 1e-12);
    }

    #[test]
    fn unpaired_scores_are_refused() {
        let resamples = Resamples::seeded(2, 5, 0).unwrap();
        assert!(matches!(
            PairedComparison::of(&[1.0, 0.0], &[1.0], &resamples),
            Err(EvalError::Length { .. })
        ));
        assert!(matches!(
            PairedComparison::of(&[1.0], &[1.0], &resamples),
            Err(EvalError::Length { .. })
        ));
    }
}

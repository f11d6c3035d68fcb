//! Bootstrap resampling: how far would a figure move on another sample of the same kind?

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::EvalError;

/// The bounds of a two-sided 95 % interval, as shares of the distribution.
const BOUNDS: [f64; 2] = [0.025, 0.975];

/// Draws of example indices with replacement (Efron 1979), each as long as the set itself.
#[derive(Debug, Clone)]
pub struct Resamples {
    n_examples: usize,
    source: Source,
}

#[derive(Debug, Clone)]
enum Source {
    /// Drawn anew on each use, so that many draws of many examples need no memory.
    Seeded {
        count: usize,
        seed: u64,
    },
    Given(Vec<Vec<usize>>),
}

impl Resamples {
    /// `count` draws of `n_examples` indices, the same for the same seed.
    ///
    /// # Errors
    /// [`EvalError::Empty`] if either number is 0.
    pub fn seeded(n_examples: usize, count: usize, seed: u64) -> Result<Self, EvalError> {
        if n_examples == 0 {
            return Err(EvalError::Empty { what: "examples" });
        }
        if count == 0 {
            return Err(EvalError::Empty { what: "resamples" });
        }
        Ok(Self {
            n_examples,
            source: Source::Seeded { count, seed },
        })
    }

    /// Draws made elsewhere, `[draws][n_examples]`.
    ///
    /// # Errors
    /// [`EvalError::Empty`], or [`EvalError::Width`] and [`EvalError::Index`] for a draw that is not
    /// `n_examples` indices below `n_examples`.
    pub fn given(draws: Vec<Vec<usize>>) -> Result<Self, EvalError> {
        let n_examples = draws.first().map_or(0, Vec::len);
        if n_examples == 0 {
            return Err(EvalError::Empty { what: "resamples" });
        }
        for (row, draw) in draws.iter().enumerate() {
            if draw.len() != n_examples {
                return Err(EvalError::Width {
                    what: "resamples",
                    row,
                    expected: n_examples,
                    found: draw.len(),
                });
            }
            if let Some(found) = draw.iter().copied().find(|index| *index >= n_examples) {
                return Err(EvalError::Index {
                    what: "resamples",
                    row,
                    found,
                    limit: n_examples,
                });
            }
        }
        Ok(Self {
            n_examples,
            source: Source::Given(draws),
        })
    }

    /// Number of examples that each draw comes from.
    pub fn n_examples(&self) -> usize {
        self.n_examples
    }

    /// Number of draws.
    pub fn count(&self) -> usize {
        match &self.source {
            Source::Seeded { count, .. } => *count,
            Source::Given(draws) => draws.len(),
        }
    }

    /// Hands each draw to `f`, in order.
    pub fn for_each(&self, mut f: impl FnMut(&[usize])) {
        match &self.source {
            Source::Given(draws) => draws.iter().for_each(|draw| f(draw)),
            Source::Seeded { count, seed } => {
                let mut rng = ChaCha8Rng::seed_from_u64(*seed);
                let mut draw = vec![0; self.n_examples];
                for _ in 0..*count {
                    draw.fill_with(|| rng.random_range(0..self.n_examples));
                    f(&draw);
                }
            }
        }
    }

    /// 95 % percentile interval of any figure of a draw.
    ///
    /// ```
    /// use hybrid_eval::Resamples;
    ///
    /// let right = [1.0, 1.0, 0.0, 1.0];
    /// let resamples = Resamples::seeded(right.len(), 500, 1)?;
    /// let [low, high] = resamples.interval(|rows| {
    ///     rows.iter().map(|row| right[*row]).sum::<f64>() / rows.len() as f64
    /// });
    /// assert!(low < 0.75 && 0.75 < high);
    /// # Ok::<(), hybrid_eval::EvalError>(())
    /// ```
    pub fn interval(&self, mut figure: impl FnMut(&[usize]) -> f64) -> [f64; 2] {
        let mut values = Vec::with_capacity(self.count());
        self.for_each(|draw| values.push(figure(draw)));
        interval(values)
    }
}

/// 95 % percentile interval of the values.
pub(crate) fn interval(mut values: Vec<f64>) -> [f64; 2] {
    values.sort_by(f64::total_cmp);
    BOUNDS.map(|share| percentile(&values, share))
}

/// The value below which `share` of the rising `sorted` values lie, with linear interpolation
/// (Hyndman & Fan 1996, definition 7, NumPy's default).
///
/// # Panics
/// If `sorted` is empty or `share` is outside `[0, 1]`.
pub fn percentile(sorted: &[f64], share: f64) -> f64 {
    assert!(
        (0.0..=1.0).contains(&share),
        "a share lies between 0 and 1, not at {share}"
    );
    let place = share * (sorted.len() - 1) as f64;
    let below = sorted[place.floor() as usize];
    let above = sorted[place.ceil() as usize];
    below + (above - below) * place.fract()
}

#[cfg(test)]
mod tests {
    use super::{Resamples, percentile};
    use crate::EvalError;

    #[test]
    fn percentiles_interpolate() {
        let sorted = [1.0, 2.0, 4.0, 8.0];
        assert_eq!(percentile(&sorted, 0.0), 1.0);
        assert_eq!(percentile(&sorted, 0.5), 3.0);
        assert_eq!(percentile(&sorted, 1.0), 8.0);
        assert_eq!(percentile(&[5.0], 0.3), 5.0);
    }

    #[test]
    fn seeded_draws_repeat() {
        let collect = |seed| {
            let mut draws = Vec::new();
            Resamples::seeded(5, 4, seed)
                .unwrap()
                .for_each(|draw| draws.push(draw.to_vec()));
            draws
        };
        assert_eq!(collect(1), collect(1));
        assert_ne!(collect(1), collect(2));
        assert!(collect(1).concat().into_iter().all(|index| index < 5));
        assert_eq!(collect(1).len(), 4);
    }

    #[test]
    fn given_draws_are_checked() {
        assert!(matches!(
            Resamples::given(vec![]),
            Err(EvalError::Empty { .. })
        ));
        assert!(matches!(
            Resamples::given(vec![vec![0, 1], vec![0]]),
            Err(EvalError::Width { row: 1, .. })
        ));
        assert!(matches!(
            Resamples::given(vec![vec![0, 2]]),
            Err(EvalError::Index {
                found: 2,
                limit: 2,
                ..
            })
        ));
    }
}

//! Principal components of rows that come in batches.
//!
//! As PEFT's `IncrementalPCA` (Ross et al. 2008, section 2.1): the components so far, each as long as
//! its singular value, stand for all earlier rows beside those of a new batch and what the mean moved.
//! The decomposition is exact to rounding, where PEFT's is of a random sketch.

use crate::decomposition::{Matrix, leading_right};

/// The leading components of the rows so far.
#[derive(Debug)]
pub(crate) struct Principal {
    most: usize,
    /// Rows of batches that alone have too few.
    waiting: Vec<f64>,
    n_rows: usize,
    mean: Vec<f64>,
    /// Summed squares of the distances from the mean.
    scatter: f64,
    found: Option<Components>,
    /// Whether the last batch left each component where it was.
    settled: Vec<bool>,
}

#[derive(Debug)]
struct Components {
    /// Singular values in falling order.
    values: Vec<f64>,
    /// `[most, columns]`, orthonormal rows whose largest values are positive.
    vectors: Matrix,
}

impl Principal {
    /// Of no rows yet; `most` components will be found, which are no more than columns.
    pub(crate) fn new(most: usize) -> Self {
        Self {
            most,
            waiting: Vec::new(),
            n_rows: 0,
            mean: Vec::new(),
            scatter: 0.0,
            found: None,
            settled: vec![false; most],
        }
    }

    /// How many rows there were.
    pub(crate) fn n_rows(&self, columns: usize) -> usize {
        self.n_rows + self.waiting.len() / columns
    }

    /// Whether there was no row.
    pub(crate) fn is_empty(&self) -> bool {
        self.n_rows == 0 && self.waiting.is_empty()
    }

    /// The share of the rows' variance along each component, in falling order; none when there were
    /// fewer rows than components.
    pub(crate) fn shares(&self) -> Option<Vec<f64>> {
        let of_all = self.scatter.max(f64::MIN_POSITIVE);
        let values = &self.found.as_ref()?.values;
        Some(values.iter().map(|s| s * s / of_all).collect())
    }

    /// Whether the last batch left the first `n` components where they were.
    pub(crate) fn has_settled(&self, n: usize) -> bool {
        self.settled[..n].iter().all(|settled| *settled)
    }

    /// The first `n` components, `[n, columns]`, divided by the roots of their singular values where
    /// that is asked for.
    pub(crate) fn first(&self, n: usize, whiten: bool) -> Option<Matrix> {
        let Components { values, vectors } = self.found.as_ref()?;
        let columns = vectors.columns;
        let rows = (0..n).flat_map(|row| {
            let length = if whiten { values[row].sqrt() } else { 1.0 };
            vectors.row(row).iter().map(move |value| value / length)
        });
        Some(Matrix::new(n, columns, rows.collect()))
    }

    /// Takes a batch in. A component has settled when the cosine of the angle between its new and its
    /// old direction is `tau` or more.
    ///
    /// # Shapes
    /// - `batch`: `[rows, columns]`
    pub(crate) fn take(&mut self, batch: &Matrix, tau: f64) {
        let columns = batch.columns;
        self.waiting.extend_from_slice(&batch.values);
        let n_new = self.waiting.len() / columns;
        if n_new < self.most {
            return;
        }
        let mut rows = std::mem::take(&mut self.waiting);
        let mean = mean_of(&rows, columns);
        for row in rows.chunks_mut(columns) {
            row.iter_mut().zip(&mean).for_each(|(x, mean)| *x -= mean);
        }
        self.scatter += rows.iter().map(|x| x * x).sum::<f64>();
        let (old, new) = (self.n_rows as f64, n_new as f64);
        if let Some(Components { values, vectors }) = &self.found {
            for (index, value) in values.iter().enumerate() {
                rows.extend(vectors.row(index).iter().map(|x| x * value));
            }
            let strength = (old / (old + new) * new).sqrt();
            let moved = self.mean.iter().zip(&mean);
            let moved: Vec<f64> = moved.map(|(a, b)| strength * (a - b)).collect();
            self.scatter += moved.iter().map(|x| x * x).sum::<f64>();
            rows.extend(moved);
        } else {
            self.mean = vec![0.0; columns];
        }
        for (own, mean) in self.mean.iter_mut().zip(&mean) {
            *own = (*own * old + mean * new) / (old + new);
        }
        self.n_rows += n_new;
        let all = Matrix::new(rows.len() / columns, columns, rows);
        let (values, mut vectors) = leading_right(&all, self.most);
        vectors.values.chunks_mut(columns).for_each(turn);
        if let Some(earlier) = &self.found {
            let cosine = |row| dot(vectors.row(row), earlier.vectors.row(row));
            self.settled = (0..self.most).map(|row| cosine(row) >= tau).collect();
        }
        self.found = Some(Components { values, vectors });
    }
}

fn mean_of(rows: &[f64], columns: usize) -> Vec<f64> {
    let mut mean = vec![0.0; columns];
    for row in rows.chunks(columns) {
        mean.iter_mut().zip(row).for_each(|(mean, x)| *mean += x);
    }
    let n = (rows.len() / columns) as f64;
    mean.iter_mut().for_each(|mean| *mean /= n);
    mean
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// A direction with a positive value at its largest place.
fn turn(vector: &mut [f64]) {
    let largest = vector.iter().copied();
    let largest = largest.fold(0.0, |a: f64, b| if b.abs() > a.abs() { b } else { a });
    if largest < 0.0 {
        vector.iter_mut().for_each(|value| *value = -*value);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Strategy, prop, proptest};

    use super::{Principal, dot, mean_of};
    use crate::decomposition::{Matrix, Singular, singular};

    const COLUMNS: usize = 5;

    fn batches() -> impl Strategy<Value = Vec<Matrix>> {
        let batch = (1usize..9).prop_flat_map(|rows| {
            prop::collection::vec(-3.0f64..3.0, rows * COLUMNS)
                .prop_map(move |values| Matrix::new(rows, COLUMNS, values))
        });
        prop::collection::vec(batch, 2..5)
    }

    fn centred(batches: &[Matrix]) -> Matrix {
        let mut rows: Vec<f64> = batches.iter().flat_map(|b| b.values.clone()).collect();
        let mean = mean_of(&rows, COLUMNS);
        for row in rows.chunks_mut(COLUMNS) {
            row.iter_mut().zip(&mean).for_each(|(x, mean)| *x -= mean);
        }
        Matrix::new(rows.len() / COLUMNS, COLUMNS, rows)
    }

    proptest! {
        /// With as many components as columns nothing is lost: the batches give what their rows give
        /// at once.
        #[test]
        fn batches_are_their_rows_together(batches in batches()) {
            let mut principal = Principal::new(COLUMNS);
            for batch in &batches {
                principal.take(batch, 0.99);
            }
            let n: usize = batches.iter().map(|batch| batch.rows).sum();
            assert_eq!(principal.n_rows(COLUMNS), n);
            let waiting = principal.waiting.len() / COLUMNS;
            assert!(waiting < COLUMNS);
            let Some(shares) = principal.shares() else {
                assert!(n < COLUMNS);
                return Ok(());
            };
            if waiting > 0 {
                return Ok(());
            }
            let rows = centred(&batches);
            let all = dot(&rows.values, &rows.values);
            let Singular { s, v, .. } = singular(&rows, rows.rows.min(COLUMNS));
            let vectors = principal.first(COLUMNS, false).unwrap();
            for (index, s) in s.iter().enumerate() {
                assert!((shares[index] - s * s / all).abs() < 1e-7);
                // Directions are told where there is some variance, and another one than beside.
                let near = [index.wrapping_sub(1), index + 1];
                let mut near = near.iter().filter_map(|near| shares.get(*near));
                let is_apart = near.all(|other| (other - shares[index]).abs() > 1e-2);
                if is_apart && shares[index] > 1e-2 {
                    let along = dot(vectors.row(index), v.row(index)).abs();
                    assert!((along - 1.0).abs() < 1e-5, "{along}");
                }
            }
        }
    }

    /// Rows along one direction far more than along the others.
    fn stretched(seed: usize) -> Matrix {
        let value = |place: usize| ((place * 37 + seed * 11) % 17) as f64 / 17.0 - 0.5;
        let stretch = |place: usize| [9.0, 3.0, 1.0, 0.3, 0.1][place % COLUMNS];
        let values = (0..20 * COLUMNS).map(|place| value(place) * stretch(place));
        Matrix::new(20, COLUMNS, values.collect())
    }

    #[test]
    fn components_settle_when_batches_say_the_same() {
        let mut principal = Principal::new(2);
        principal.take(&stretched(0), 0.9);
        assert!(!principal.has_settled(1) && principal.has_settled(0));
        principal.take(&stretched(0), 0.9);
        assert!(principal.has_settled(2));
        let vectors = principal.first(2, false).unwrap();
        assert!(vectors.row(0)[0] > 0.9 && vectors.row(1)[1] > 0.9);
        let turned = Matrix::new(20, COLUMNS, {
            let rows = stretched(1);
            let swapped = rows.values.chunks(COLUMNS).map(|row| {
                let mut row = row.to_vec();
                row.reverse();
                row.iter_mut().for_each(|value| *value *= 9.0);
                row
            });
            swapped.flatten().collect()
        });
        principal.take(&turned, 0.9);
        assert!(!principal.has_settled(1));
    }

    #[test]
    fn whitened_components_are_shorter_where_values_are_larger() {
        let mut principal = Principal::new(2);
        principal.take(&stretched(2), 0.9);
        let (plain, white) = (principal.first(2, false), principal.first(2, true));
        let (plain, white) = (plain.unwrap(), white.unwrap());
        let Singular { s, .. } = singular(&centred(&[stretched(2)]), 2);
        for (row, s) in s.iter().enumerate() {
            let length = dot(white.row(row), white.row(row)).sqrt();
            assert!((length - 1.0 / s.sqrt()).abs() < 1e-6);
            assert!((dot(plain.row(row), plain.row(row)) - 1.0).abs() < 1e-9);
        }
    }
}

//! Decompositions of matrices, on the host in double precision.

use burn::tensor::Tensor;
use nalgebra::{DMatrix, SymmetricEigen};

use crate::random::HostRandom;

/// A matrix, row by row.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Matrix {
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) values: Vec<f64>,
}

impl Matrix {
    pub(crate) fn new(rows: usize, columns: usize, values: Vec<f64>) -> Self {
        assert_eq!(values.len(), rows * columns, "values of a matrix");
        Self {
            rows,
            columns,
            values,
        }
    }

    /// A tensor's values.
    pub(crate) fn of(tensor: Tensor<2>) -> Self {
        let [rows, columns] = tensor.dims();
        let values = tensor.without_autodiff().into_data();
        Self::new(rows, columns, values.iter::<f64>().collect())
    }

    pub(crate) fn row(&self, row: usize) -> &[f64] {
        &self.values[row * self.columns..(row + 1) * self.columns]
    }

    fn row_mut(&mut self, row: usize) -> &mut [f64] {
        &mut self.values[row * self.columns..(row + 1) * self.columns]
    }

    pub(crate) fn transposed(&self) -> Self {
        let places = (0..self.columns).flat_map(|column| {
            (0..self.rows).map(move |row| self.values[row * self.columns + column])
        });
        Self::new(self.columns, self.rows, places.collect())
    }

    /// `self otherᵀ`.
    pub(crate) fn times_transposed(&self, other: &Self) -> Self {
        let products = (0..self.rows).flat_map(|row| {
            (0..other.rows).map(move |column| dot(self.row(row), other.row(column)))
        });
        Self::new(self.rows, other.rows, products.collect())
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The leading part of a singular value decomposition, `M ≈ U diag(S) V`.
#[derive(Debug, Clone)]
pub(crate) struct Singular {
    /// `[rows, rank]`, orthonormal columns.
    pub(crate) u: Matrix,
    /// In falling order.
    pub(crate) s: Vec<f64>,
    /// `[rank, columns]`, orthonormal rows.
    pub(crate) v: Matrix,
}

/// The `rank` largest singular values with their vectors: the eigenvectors of the smaller of `M Mᵀ`
/// and `Mᵀ M`, and their images. Vectors of values that are zero to rounding are zero.
pub(crate) fn singular(matrix: &Matrix, rank: usize) -> Singular {
    if matrix.rows > matrix.columns {
        let Singular { u, s, v } = singular(&matrix.transposed(), rank);
        return Singular {
            u: v.transposed(),
            s,
            v: u.transposed(),
        };
    }
    let (values, vectors) = eigen(&matrix.times_transposed(matrix));
    let n = matrix.rows;
    // Eigenvalues come in rising order.
    let leading: Vec<f64> = (n - rank..n)
        .rev()
        .flat_map(|index| (0..n).map(move |row| (row, index)))
        .map(|(row, index)| vectors.values[row * n + index])
        .collect();
    let leading = Matrix::new(rank, n, leading);
    let s: Vec<f64> = (n - rank..n)
        .rev()
        .map(|index| values[index].max(0.0).sqrt())
        .collect();
    let mut v = leading.times_transposed(&matrix.transposed());
    let least = s.first().copied().unwrap_or(0.0) * 1e-7;
    for (row, s) in s.iter().enumerate() {
        let up = if *s > least { 1.0 / s } else { 0.0 };
        v.row_mut(row).iter_mut().for_each(|value| *value *= up);
    }
    Singular {
        u: leading.transposed(),
        s,
        v,
    }
}

/// The `rank` largest singular values in falling order with their right vectors, `[rank, columns]`,
/// whose rows are orthonormal also where values are zero; `rank` is no more than the columns.
///
/// By subspace iteration from random directions (Halko et al. 2011, algorithm 4.4) until the squares
/// of the values stay, so it takes time in proportion to `rank` and is exact to rounding.
pub(crate) fn leading_right(matrix: &Matrix, rank: usize) -> (Vec<f64>, Matrix) {
    const MOST_STEPS: usize = 200;
    let (rows, columns) = (matrix.rows, matrix.columns);
    let width = (2 * rank + 8).min(columns);
    let values = DMatrix::from_row_slice(rows, columns, &matrix.values);
    let transposed = values.transpose();
    let first = HostRandom::new(0, 0).normal([columns, width], 1.0);
    let first = DMatrix::from_iterator(columns, width, first.iter::<f64>());
    let mut basis = first.qr().q();
    let mut along = &values * &basis;
    let mut before = f64::INFINITY;
    for _ in 0..MOST_STEPS {
        basis = (&transposed * &along).qr().q();
        along = &values * &basis;
        let (squares, _) = eigen(&gram(&along));
        let sum: f64 = squares.iter().rev().take(rank).sum();
        if (sum - before).abs() <= 1e-13 * sum {
            break;
        }
        before = sum;
    }
    let (squares, turns) = eigen(&gram(&along));
    let turns = DMatrix::from_row_slice(width, width, &turns.values);
    let vectors = basis * turns;
    let leading = (width - rank..width).rev();
    let of_place = |place: usize| vectors.column(place).iter().copied().collect::<Vec<f64>>();
    let s = leading.clone().map(|place| squares[place].max(0.0).sqrt());
    let v: Vec<f64> = leading.clone().flat_map(of_place).collect();
    (s.collect(), Matrix::new(rank, columns, v))
}

/// What PyTorch's `svd_lowrank` finds, but for signs: `rank` singular values with their vectors within
/// the space that `steps` of a power iteration make of random directions (Halko et al. 2011, algorithm
/// 5.1). `draw` gives the directions, row by row, by their number; `rank` is no more than either side.
pub(crate) fn randomised(
    matrix: &Matrix,
    rank: usize,
    steps: usize,
    draw: impl FnOnce(usize) -> Vec<f32>,
) -> Singular {
    if matrix.rows < matrix.columns {
        let Singular { u, s, v } = randomised(&matrix.transposed(), rank, steps, draw);
        return Singular {
            u: v.transposed(),
            s,
            v: u.transposed(),
        };
    }
    let (rows, columns) = (matrix.rows, matrix.columns);
    let values = DMatrix::from_row_slice(rows, columns, &matrix.values);
    let transposed = values.transpose();
    let first = draw(columns * rank).into_iter().map(f64::from);
    let first = DMatrix::from_row_iterator(columns, rank, first);
    let mut basis = (&values * first).qr().q();
    for _ in 0..steps {
        let inner = (&transposed * &basis).qr().q();
        basis = (&values * inner).qr().q();
    }
    // Column by column in memory: the basis and what it leaves of the matrix, transposed.
    let within = transposed * &basis;
    let of_basis =
        |matrix: &DMatrix<f64>| Matrix::new(rank, matrix.nrows(), matrix.as_slice().to_vec());
    let Singular { u, s, v } = singular(&of_basis(&within), rank);
    let u = u
        .transposed()
        .times_transposed(&of_basis(&basis).transposed());
    Singular {
        u: u.transposed(),
        s,
        v,
    }
}

/// `Mᵀ M`.
fn gram(matrix: &DMatrix<f64>) -> Matrix {
    let products = matrix.transpose() * matrix;
    // Of a symmetric matrix rows and columns are the same.
    Matrix::new(
        products.nrows(),
        products.ncols(),
        products.as_slice().to_vec(),
    )
}

/// The leading part of a QR decomposition, `M ≈ Q R`: the first `rank` columns of `M` made
/// orthonormal, `[rows, rank]`, and what maps to all of `M`, `[rank, columns]`.
///
/// By the Gram-Schmidt process, done twice (Giraud et al. 2005).
pub(crate) fn leading_qr(matrix: &Matrix, rank: usize) -> (Matrix, Matrix) {
    let columns = matrix.transposed();
    let mut q = Matrix::new(rank, matrix.rows, vec![0.0; rank * matrix.rows]);
    for index in 0..rank {
        let mut column = columns.row(index).to_vec();
        for _ in 0..2 {
            for earlier in 0..index {
                let along = dot(q.row(earlier), &column);
                let earlier = q.row(earlier).iter();
                column
                    .iter_mut()
                    .zip(earlier)
                    .for_each(|(x, q)| *x -= along * q);
            }
        }
        let length = dot(&column, &column).sqrt().max(f64::MIN_POSITIVE);
        let own = q.row_mut(index).iter_mut();
        own.zip(column).for_each(|(q, x)| *q = x / length);
    }
    let r = q.times_transposed(&columns);
    (q.transposed(), r)
}

/// Eigenvalues in rising order and eigenvectors as columns of a symmetric matrix.
fn eigen(matrix: &Matrix) -> (Vec<f64>, Matrix) {
    let n = matrix.rows;
    let found = SymmetricEigen::new(DMatrix::from_row_slice(n, n, &matrix.values));
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|a, b| found.eigenvalues[*a].total_cmp(&found.eigenvalues[*b]));
    let values = order.iter().map(|index| found.eigenvalues[*index]);
    // Column by column in memory.
    let vectors = found.eigenvectors.as_slice();
    let columns = order
        .iter()
        .flat_map(|index| &vectors[index * n..(index + 1) * n]);
    let columns = Matrix::new(n, n, columns.copied().collect());
    (values.collect(), columns.transposed())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Strategy, prop, proptest};

    use super::{Matrix, Singular, leading_qr, leading_right, randomised, singular};

    /// More columns than the iteration has directions, and values that fall slowly.
    #[test]
    fn few_leading_vectors_of_a_wide_matrix() {
        let (rows, columns, rank) = (90, 70, 4);
        let value = |place: usize| (place as f64 * 1.7 + (place as f64).sqrt()).sin();
        let stretch = |place: usize| 0.97f64.powi((place % columns) as i32);
        let values = (0..rows * columns).map(|place| value(place) * stretch(place));
        let matrix = Matrix::new(rows, columns, values.collect());
        let (s, v) = leading_right(&matrix, rank);
        let whole = singular(&matrix, rank);
        for (found, expected) in s.iter().zip(&whole.s) {
            assert!((found - expected).abs() < 1e-9 * whole.s[0]);
        }
        // The same subspace: what is left of each vector outside of it.
        let along = v.times_transposed(&whole.v);
        close(&along.times_transposed(&along), &identity(rank), 1e-6);
    }

    fn matrices() -> impl Strategy<Value = Matrix> {
        (1usize..9, 1usize..9).prop_flat_map(|(rows, columns)| {
            prop::collection::vec(-3.0f64..3.0, rows * columns)
                .prop_map(move |values| Matrix::new(rows, columns, values))
        })
    }

    fn close(a: &Matrix, b: &Matrix, tolerance: f64) {
        let difference = a.values.iter().zip(&b.values).map(|(a, b)| (a - b).abs());
        let largest = difference.fold(0.0, f64::max);
        assert!(largest <= tolerance, "{largest:e}: {a:?} instead of {b:?}");
    }

    fn identity(n: usize) -> Matrix {
        let one = |place| f64::from(u8::from(place % (n + 1) == 0));
        Matrix::new(n, n, (0..n * n).map(one).collect())
    }

    fn product(u: &Matrix, s: &[f64], v: &Matrix) -> Matrix {
        let mut scaled = v.clone();
        for (row, s) in s.iter().enumerate() {
            scaled.row_mut(row).iter_mut().for_each(|x| *x *= s);
        }
        u.times_transposed(&scaled.transposed())
    }

    proptest! {
        #[test]
        fn all_singular_values_make_the_matrix(matrix in matrices()) {
            let rank = matrix.rows.min(matrix.columns);
            let Singular { u, s, v } = singular(&matrix, rank);
            assert!(s.is_sorted_by(|a, b| a >= b) && s.iter().all(|s| *s >= 0.0));
            close(&product(&u, &s, &v), &matrix, 1e-6);
            if s[rank - 1] > 1e-3 * s[0] {
                close(&u.transposed().times_transposed(&u.transposed()), &identity(rank), 1e-7);
                close(&v.times_transposed(&v), &identity(rank), 1e-7);
            }
        }

        #[test]
        fn leading_vectors_are_those_of_the_whole(matrix in matrices(), rank in 1usize..9) {
            let rank = rank.min(matrix.columns);
            let (s, v) = leading_right(&matrix, rank);
            close(&v.times_transposed(&v), &identity(rank), 1e-9);
            let whole = singular(&matrix, matrix.rows.min(matrix.columns));
            for (index, s) in s.iter().enumerate() {
                let expected = whole.s.get(index).copied().unwrap_or(0.0);
                assert!((s - expected).abs() < 1e-6, "{s} instead of {expected}");
            }
            let images = v.times_transposed(&matrix);
            for (row, s) in s.iter().enumerate() {
                let length = images.row(row).iter().map(|x| x * x).sum::<f64>().sqrt();
                assert!((length - s).abs() < 1e-6);
            }
        }

        /// As many directions as the smaller side has values span all of it.
        #[test]
        fn all_random_directions_find_the_whole(matrix in matrices()) {
            let rank = matrix.rows.min(matrix.columns);
            let value = |place: usize| (place as f32 * 1.7).sin() + 0.1;
            let draw = |n: usize| -> Vec<f32> { (0..n).map(value).collect() };
            let Singular { u, s, v } = randomised(&matrix, rank, 2, draw);
            let whole = singular(&matrix, rank);
            if whole.s[rank - 1] > 1e-3 * whole.s[0] {
                close(&product(&u, &s, &v), &matrix, 1e-6);
                close(&u.transposed().times_transposed(&u.transposed()), &identity(rank), 1e-7);
            }
        }

        #[test]
        fn the_leading_columns_are_those_of_the_matrix(matrix in matrices()) {
            let rank = matrix.rows.min(matrix.columns);
            let (q, r) = leading_qr(&matrix, rank);
            let made = q.times_transposed(&r.transposed()).transposed();
            for column in 0..rank {
                let expected = matrix.transposed();
                for (a, b) in made.row(column).iter().zip(expected.row(column)) {
                    assert!((a - b).abs() < 1e-9);
                }
            }
        }
    }
}

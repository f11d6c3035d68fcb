//! Decompositions of matrices, on the host in double precision.

use burn::tensor::Tensor;

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
    let (values, vectors) = eigen(matrix.times_transposed(matrix));
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

/// Eigenvalues in rising order and eigenvectors as columns of a symmetric matrix: Householder
/// reduction to three diagonals, then implicit QL steps (Bowdler et al. 1968).
fn eigen(matrix: Matrix) -> (Vec<f64>, Matrix) {
    let n = matrix.rows;
    let mut v = matrix;
    let (mut diagonal, mut beside) = (v.row(n - 1).to_vec(), vec![0.0; n]);
    tridiagonal(&mut v, &mut diagonal, &mut beside);
    // Columns as rows: a rotation then runs along memory.
    let mut vectors = v.transposed();
    implicit_ql(&mut vectors, &mut diagonal, &mut beside);
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|a, b| diagonal[*a].total_cmp(&diagonal[*b]));
    let values = order.iter().map(|index| diagonal[*index]).collect();
    let sorted = order.iter().flat_map(|index| vectors.row(*index).to_vec());
    let sorted = Matrix::new(n, n, sorted.collect());
    (values, sorted.transposed())
}

fn tridiagonal(v: &mut Matrix, d: &mut [f64], e: &mut [f64]) {
    let n = d.len();
    let at = |row: usize, column: usize| row * n + column;
    for i in (1..n).rev() {
        let scale: f64 = d[..i].iter().map(|x| x.abs()).sum();
        let mut h = 0.0;
        if scale == 0.0 {
            e[i] = d[i - 1];
            for j in 0..i {
                d[j] = v.values[at(i - 1, j)];
                v.values[at(i, j)] = 0.0;
                v.values[at(j, i)] = 0.0;
            }
        } else {
            for x in &mut d[..i] {
                *x /= scale;
                h += *x * *x;
            }
            let f = d[i - 1];
            let g = if f > 0.0 { -h.sqrt() } else { h.sqrt() };
            e[i] = scale * g;
            h -= f * g;
            d[i - 1] = f - g;
            e[..i].fill(0.0);
            for j in 0..i {
                let f = d[j];
                v.values[at(j, i)] = f;
                let mut g = e[j] + v.values[at(j, j)] * f;
                for k in j + 1..i {
                    g += v.values[at(k, j)] * d[k];
                    e[k] += v.values[at(k, j)] * f;
                }
                e[j] = g;
            }
            let mut f = 0.0;
            for j in 0..i {
                e[j] /= h;
                f += e[j] * d[j];
            }
            let hh = f / (h + h);
            for j in 0..i {
                e[j] -= hh * d[j];
            }
            for j in 0..i {
                let (f, g) = (d[j], e[j]);
                for k in j..i {
                    v.values[at(k, j)] -= f * e[k] + g * d[k];
                }
                d[j] = v.values[at(i - 1, j)];
                v.values[at(i, j)] = 0.0;
            }
        }
        d[i] = h;
    }
    for i in 0..n - 1 {
        v.values[at(n - 1, i)] = v.values[at(i, i)];
        v.values[at(i, i)] = 1.0;
        let h = d[i + 1];
        if h != 0.0 {
            for k in 0..=i {
                d[k] = v.values[at(k, i + 1)] / h;
            }
            for j in 0..=i {
                let g: f64 = (0..=i)
                    .map(|k| v.values[at(k, i + 1)] * v.values[at(k, j)])
                    .sum();
                for k in 0..=i {
                    v.values[at(k, j)] -= g * d[k];
                }
            }
        }
        for k in 0..=i {
            v.values[at(k, i + 1)] = 0.0;
        }
    }
    for j in 0..n {
        d[j] = v.values[at(n - 1, j)];
        v.values[at(n - 1, j)] = 0.0;
    }
    v.values[at(n - 1, n - 1)] = 1.0;
    e[0] = 0.0;
}

/// `vectors` holds one vector a row.
fn implicit_ql(vectors: &mut Matrix, d: &mut [f64], e: &mut [f64]) {
    let n = d.len();
    e.copy_within(1..n, 0);
    e[n - 1] = 0.0;
    let (mut f, mut largest) = (0.0f64, 0.0f64);
    for l in 0..n {
        largest = largest.max(d[l].abs() + e[l].abs());
        let m = (l..n)
            .find(|m| e[*m].abs() <= f64::EPSILON * largest)
            .unwrap_or(n - 1);
        while m > l && e[l].abs() > f64::EPSILON * largest {
            let g = d[l];
            let p = (d[l + 1] - g) / (2.0 * e[l]);
            let r = if p < 0.0 { -p.hypot(1.0) } else { p.hypot(1.0) };
            d[l] = e[l] / (p + r);
            d[l + 1] = e[l] * (p + r);
            let (next, h) = (d[l + 1], g - d[l]);
            d[l + 2..].iter_mut().for_each(|x| *x -= h);
            f += h;
            let mut p = d[m];
            let (mut c, mut c2, mut c3) = (1.0, 1.0, 1.0);
            let (mut s, mut s2) = (0.0, 0.0);
            let beside = e[l + 1];
            for i in (l..m).rev() {
                c3 = c2;
                c2 = c;
                s2 = s;
                let g = c * e[i];
                let h = c * p;
                let r = p.hypot(e[i]);
                e[i + 1] = s * r;
                s = e[i] / r;
                c = p / r;
                p = c * d[i] - s * g;
                d[i + 1] = h + s * (c * g + s * d[i]);
                let (low, high) = vectors.values.split_at_mut((i + 1) * n);
                let pairs = low[i * n..].iter_mut().zip(&mut high[..n]);
                pairs.for_each(|(x, y)| {
                    let old = *y;
                    *y = s * *x + c * old;
                    *x = c * *x - s * old;
                });
            }
            p = -s * s2 * c3 * beside * e[l] / next;
            e[l] = s * p;
            d[l] = c * p;
        }
        d[l] += f;
        e[l] = 0.0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Strategy, prop, proptest};

    use super::{Matrix, Singular, leading_qr, singular};

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

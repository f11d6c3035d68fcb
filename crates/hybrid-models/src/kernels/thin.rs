//! Products with matrices of few rows. Burn's own product on flex lays their partner out anew, and
//! takes one thread where there are few sums: here the large matrix is read once, where it is.

use burn::tensor::Tensor;
use pulp::{Arch, Simd, WithSimd};
use rayon::iter::{IndexedParallelIterator, ParallelIterator};
use rayon::slice::ParallelSliceMut;

use super::host::{filled, has_processor, is_ours, read_both};
use crate::quantized::DotProducts;

/// Beyond so many rows a matrix is not thin.
const MOST: usize = 32;

/// Rows of the large matrix that a thread takes at a time.
const ROWS: usize = 16;

/// Columns of the large matrix that a thread takes at a time, when it sums over rows: with as many
/// sums as a first cache holds.
const COLUMNS: usize = 128;

/// Products of values from which on more threads than one take less time: a tenth of a millisecond's.
const MANY: usize = 1 << 21;

/// `x tᵀ`.
///
/// # Shapes
/// - `x`: `[rows, width]`, `t`: `[thin, width]` → `[rows, thin]`
pub(super) fn narrowed(x: &Tensor<2>, t: &Tensor<2>) -> Tensor<2> {
    let ([n_rows, width], [thin, _]) = (x.dims(), t.dims());
    if !is_thin(x, thin) {
        return x.clone().matmul(t.clone().transpose());
    }
    let n_products = n_rows * width * thin;
    filled([n_rows, thin], &x.device(), |y| {
        read_both(x, t, |x, t| {
            in_pieces(y, ROWS * thin, n_products, |index, y| {
                let start = index * ROWS * width;
                Arch::new().dispatch(DotProducts {
                    weight: &x[start..start + y.len() / thin * width],
                    x: t,
                    d_in: width,
                    y,
                });
            });
        });
    })
}

/// `h t`.
///
/// # Shapes
/// - `h`: `[rows, thin]`, `t`: `[thin, width]` → `[rows, width]`
pub(super) fn widened(h: &Tensor<2>, t: &Tensor<2>) -> Tensor<2> {
    let ([n_rows, thin], [_, width]) = (h.dims(), t.dims());
    if !is_thin(h, thin) {
        return h.clone().matmul(t.clone());
    }
    let n_products = n_rows * width * thin;
    filled([n_rows, width], &h.device(), |y| {
        read_both(h, t, |h, t| {
            in_pieces(y, ROWS * width, n_products, |index, y| {
                let start = index * ROWS * thin;
                let h = &h[start..start + y.len() / width * thin];
                Arch::new().dispatch(Sums { h, t, width, y });
            });
        });
    })
}

/// `hᵀ x`.
///
/// # Shapes
/// - `h`: `[rows, thin]`, `x`: `[rows, width]` → `[thin, width]`
pub(super) fn summed(h: &Tensor<2>, x: &Tensor<2>) -> Tensor<2> {
    let ([n_rows, thin], [_, width]) = (h.dims(), x.dims());
    if !is_thin(x, thin) {
        return h.clone().transpose().matmul(x.clone());
    }
    // Block after block of columns, each with its rows.
    let n_products = n_rows * width * thin;
    let n_blocks = width.div_ceil(COLUMNS);
    let mut blocks = vec![0.0; n_blocks * thin * COLUMNS];
    read_both(h, x, |h, x| {
        in_pieces(&mut blocks, thin * COLUMNS, n_products, |index, sums| {
            let first = index * COLUMNS;
            Arch::new().dispatch(RowSums {
                h,
                x,
                thin,
                width,
                first,
                n_columns: COLUMNS.min(width - first),
                sums,
            });
        });
    });
    filled([thin, width], &x.device(), |sums| {
        for (row, sums) in sums.chunks_exact_mut(width).enumerate() {
            let blocks = blocks.chunks_exact(thin * COLUMNS);
            for (sums, block) in sums.chunks_mut(COLUMNS).zip(blocks) {
                sums.copy_from_slice(&block[row * COLUMNS..][..sums.len()]);
            }
        }
    })
}

/// `xᵀ h`.
///
/// # Shapes
/// - `x`: `[rows, width]`, `h`: `[rows, thin]` → `[width, thin]`
pub(super) fn summed_across(x: &Tensor<2>, h: &Tensor<2>) -> Tensor<2> {
    let [_, thin] = h.dims();
    match is_thin(x, thin) {
        true => summed(h, x).transpose(),
        false => x.clone().transpose().matmul(h.clone()),
    }
}

/// Whether the loops here take less time than the device's product.
fn is_thin(x: &Tensor<2>, thin: usize) -> bool {
    is_ours(x) && has_processor(x) && (1..=MOST).contains(&thin)
}

/// Works on pieces of some length, at the same time where there are [`MANY`] products.
fn in_pieces(
    values: &mut [f32],
    length: usize,
    n_products: usize,
    work: impl Fn(usize, &mut [f32]) + Sync,
) {
    match n_products < MANY {
        true => {
            let pieces = values.chunks_mut(length).enumerate();
            pieces.for_each(|(index, piece)| work(index, piece));
        }
        false => {
            let pieces = values.par_chunks_mut(length).enumerate();
            pieces.for_each(|(index, piece)| work(index, piece));
        }
    }
}

/// Vectors of sums that are in registers together.
const TOGETHER: usize = 8;

/// Each row of `y` as the sum of the rows of `t`, each times its value of `h`.
struct Sums<'a> {
    h: &'a [f32],
    t: &'a [f32],
    width: usize,
    y: &'a mut [f32],
}

impl WithSimd for Sums<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let t: Vec<(&[S::f32s], &[f32])> = self
            .t
            .chunks_exact(self.width)
            .map(S::as_simd_f32s)
            .collect();
        let h = self.h.chunks_exact(t.len());
        for (h, y) in h.zip(self.y.chunks_exact_mut(self.width)) {
            let (vectors, rest) = S::as_mut_simd_f32s(y);
            let (several, single) = vectors.as_chunks_mut::<TOGETHER>();
            let n_several = several.len() * TOGETHER;
            for (index, y) in several.iter_mut().enumerate() {
                let mut sums = [simd.splat_f32s(0.0); TOGETHER];
                for (h, (t, _)) in h.iter().zip(&t) {
                    let h = simd.splat_f32s(*h);
                    let t = &t[index * TOGETHER..][..TOGETHER];
                    for (sum, t) in sums.iter_mut().zip(t) {
                        *sum = simd.mul_add_e_f32s(h, *t, *sum);
                    }
                }
                *y = sums;
            }
            for (index, y) in single.iter_mut().enumerate() {
                let mut sum = simd.splat_f32s(0.0);
                for (h, (t, _)) in h.iter().zip(&t) {
                    sum = simd.mul_add_e_f32s(simd.splat_f32s(*h), t[n_several + index], sum);
                }
                *y = sum;
            }
            for (index, y) in rest.iter_mut().enumerate() {
                *y = h.iter().zip(&t).map(|(h, (_, rest))| h * rest[index]).sum();
            }
        }
    }
}

/// Some columns of `hᵀ x`, added to `sums`, whose rows have room for [`COLUMNS`].
struct RowSums<'a> {
    h: &'a [f32],
    x: &'a [f32],
    thin: usize,
    width: usize,
    first: usize,
    n_columns: usize,
    sums: &'a mut [f32],
}

/// Rows that are added to a sum while it is in a register.
const ADDED: usize = 4;

impl WithSimd for RowSums<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let columns = self.first..self.first + self.n_columns;
        let row = |row: usize| &self.x[row * self.width..][columns.clone()];
        let n_rows = self.h.len() / self.thin;
        let n_together = n_rows / ADDED * ADDED;
        for start in (0..n_together).step_by(ADDED) {
            let rows: [&[f32]; ADDED] = std::array::from_fn(|place| row(start + place));
            let h = &self.h[start * self.thin..][..ADDED * self.thin];
            add::<S, ADDED>(simd, rows, h, self.thin, self.n_columns, self.sums);
        }
        for last in n_together..n_rows {
            let h = &self.h[last * self.thin..][..self.thin];
            add::<S, 1>(simd, [row(last)], h, self.thin, self.n_columns, self.sums);
        }
    }
}

/// Adds rows of `x`, each times its values of `h`, to the rows of `sums`.
#[inline(always)]
fn add<S: Simd, const N: usize>(
    simd: S,
    x: [&[f32]; N],
    h: &[f32],
    thin: usize,
    n_columns: usize,
    sums: &mut [f32],
) {
    let x = x.map(S::as_simd_f32s);
    for (place, sums) in sums.chunks_exact_mut(COLUMNS).enumerate() {
        let h: [f32; N] = std::array::from_fn(|row| h[row * thin + place]);
        let spread = h.map(|h| simd.splat_f32s(h));
        let (vectors, rest) = S::as_mut_simd_f32s(&mut sums[..n_columns]);
        for (index, sum) in vectors.iter_mut().enumerate() {
            for (h, (x, _)) in spread.iter().zip(&x) {
                *sum = simd.mul_add_e_f32s(*h, x[index], *sum);
            }
        }
        for (index, sum) in rest.iter_mut().enumerate() {
            let products = h.iter().zip(&x).map(|(h, (_, rest))| h * rest[index]);
            *sum += products.sum::<f32>();
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Tensor;

    use super::{COLUMNS, ROWS, narrowed, summed, widened};
    use crate::kernels::tests::{close, values};

    fn host(x: Tensor<2>) -> Vec<f32> {
        x.into_data().iter::<f32>().collect()
    }

    /// Sizes that fill pieces, blocks and vectors, and such that do not.
    #[test]
    fn thin_products_are_products() {
        // The last with many threads.
        for rows in [1, 3, ROWS, 2 * ROWS + 7, 1100] {
            for width in [1, 5, 64, 100, COLUMNS, 2 * COLUMNS + 3] {
                for thin in [1, 2, 8, 13, 40] {
                    // Sums of many rows that do not cancel.
                    let x = values([rows, width], 0.1) + 1.0;
                    let (t, h) = (values([thin, width], 0.2), values([rows, thin], 0.3) + 1.0);
                    let found = host(narrowed(&x, &t));
                    close(&found, &host(x.clone().matmul(t.clone().transpose())));
                    close(&host(widened(&h, &t)), &host(h.clone().matmul(t)));
                    let expected = host(h.clone().transpose().matmul(x.clone()));
                    close(&host(summed(&h, &x)), &expected);
                }
            }
        }
    }

    /// Views: a transposed matrix, and some rows of one.
    #[test]
    fn thin_products_of_views_are_products() {
        let t = values([20, 8], 0.4).transpose();
        let x = values([40, 20], 0.5).slice([7..30, 0..20]);
        let found = host(narrowed(&x, &t));
        close(&found, &host(x.clone().matmul(t.clone().transpose())));
        let h = narrowed(&x, &t);
        close(&host(widened(&h, &t)), &host(h.clone().matmul(t)));
        close(&host(summed(&h, &x)), &host(h.transpose().matmul(x)));
    }
}

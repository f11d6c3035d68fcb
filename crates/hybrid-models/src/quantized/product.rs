//! Products with a quantised weight: some rows are dequantised, used and dropped at a time.

use std::ops::Range;

use burn::tensor::{Device, Tensor, TensorData};
use pulp::{Arch, Simd, WithSimd};
use rayon::iter::{IndexedParallelIterator, ParallelIterator};
use rayon::slice::ParallelSliceMut;

use super::QuantizedWeight;
use crate::device::is_host;

/// Most values that are dequantised at a time for a matrix product: 1 MiB, which a processor's
/// second cache can hold.
const CHUNK_VALUES: usize = 1 << 18;

/// Values that a thread dequantises at a time: 16 KiB, which its first cache holds beside what
/// they are multiplied with.
const PIECE_VALUES: usize = 1 << 12;

/// Up to this many rows of activations are multiplied by dot products on the host: a piece of the
/// weight is used while it is in the first caches, and there is no room needed for a chunk.
const FEW_ROWS: usize = 8;

/// `x Wᵀ` for a weight `[d_out, d_in]`.
///
/// # Shapes
/// - `x`: `[rows, d_in]` → `[rows, d_out]`
pub(super) fn product(weight: &QuantizedWeight, x: Tensor<2>) -> Tensor<2> {
    let [n_rows, _] = x.dims();
    let device = x.device();
    if n_rows <= FEW_ROWS && !device.is_autodiff() && is_host(&device) {
        return dot_products(weight, x);
    }
    let parts = chunks(weight).map(|rows| {
        let chunk = chunk(weight, rows, &device);
        x.clone().matmul(chunk.transpose())
    });
    let mut parts: Vec<Tensor<2>> = parts.collect();
    match parts.len() {
        1 => parts.remove(0),
        _ => Tensor::cat(parts, 1),
    }
}

/// The rows of a weight in chunks of bounded size.
fn chunks(weight: &QuantizedWeight) -> impl Iterator<Item = Range<usize>> + use<> {
    let (n_rows, step) = (weight.n_rows, rows_in(weight, CHUNK_VALUES));
    let starts = (0..n_rows).step_by(step);
    starts.map(move |start| start..n_rows.min(start + step))
}

fn rows_in(weight: &QuantizedWeight, n_values: usize) -> usize {
    (n_values / weight.row_len).max(1)
}

/// Some rows of the weight on a device, without autodiff.
fn chunk(weight: &QuantizedWeight, rows: Range<usize>, device: &Device) -> Tensor<2> {
    let mut values = vec![0.0; rows.len() * weight.row_len];
    let step = rows_in(weight, PIECE_VALUES);
    let pieces = values.par_chunks_mut(step * weight.row_len);
    pieces.enumerate().for_each(|(index, values)| {
        let start = rows.start + index * step;
        weight.dequantize_into(start..rows.end.min(start + step), values);
    });
    let data = TensorData::new(values, [rows.len(), weight.row_len]);
    Tensor::from_data(data, &device.clone().inner())
}

/// `x Wᵀ` on the host, for a few rows of `x`: the bytes of the weight are read once.
fn dot_products(weight: &QuantizedWeight, x: Tensor<2>) -> Tensor<2> {
    let [n_rows, d_in] = x.dims();
    let device = x.device();
    let x: Vec<f32> = x.into_data().iter::<f32>().collect();
    let step = rows_in(weight, PIECE_VALUES);
    let mut y = vec![0.0; weight.n_rows * n_rows];
    y.par_chunks_mut(step * n_rows).enumerate().for_each_init(
        || vec![0.0; step * d_in],
        |values, (index, y)| {
            let start = index * step;
            let rows = start..start + y.len() / n_rows;
            let values = &mut values[..rows.len() * d_in];
            weight.dequantize_into(rows, values);
            Arch::new().dispatch(DotProducts {
                weight: values,
                x: &x,
                d_in,
                y,
            });
        },
    );
    Tensor::<2>::from_data(TensorData::new(y, [weight.n_rows, n_rows]), &device).transpose()
}

/// Dot products of each row of a weight with each row of `x`.
pub(crate) struct DotProducts<'a> {
    pub(crate) weight: &'a [f32],
    pub(crate) x: &'a [f32],
    pub(crate) d_in: usize,
    pub(crate) y: &'a mut [f32],
}

/// Rows of `x` that share a value of the weight while it is in a register.
const TOGETHER: usize = 4;

impl WithSimd for DotProducts<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let d_in = self.d_in;
        let weight = self.weight.chunks_exact(d_in);
        for (weight, y) in weight.zip(self.y.chunks_exact_mut(self.x.len() / d_in)) {
            let row = |index: usize| &self.x[index * d_in..(index + 1) * d_in];
            let (several, single) = y.as_chunks_mut::<TOGETHER>();
            let n_several = several.len() * TOGETHER;
            for (index, y) in several.iter_mut().enumerate() {
                let rows = std::array::from_fn(|place| row(index * TOGETHER + place));
                *y = dots::<S, TOGETHER, 2>(simd, weight, rows);
            }
            for (index, y) in single.iter_mut().enumerate() {
                [*y] = dots::<S, 1, 4>(simd, weight, [row(n_several + index)]);
            }
        }
    }
}

/// The dot product of `a` with each row. `SUMS` sums a row are kept, so that no addition waits for
/// the one before.
#[inline(always)]
fn dots<S: Simd, const ROWS: usize, const SUMS: usize>(
    simd: S,
    a: &[f32],
    rows: [&[f32]; ROWS],
) -> [f32; ROWS] {
    let mut sums = [[simd.splat_f32s(0.0); SUMS]; ROWS];
    let (a, a_rest) = S::as_simd_f32s(a);
    let (a, a_single) = a.as_chunks::<SUMS>();
    let rows = rows.map(|row| S::as_simd_f32s(row));
    let vectors = rows.map(|(row, _)| row.as_chunks::<SUMS>());
    for (place, a) in a.iter().enumerate() {
        for (sums, (row, _)) in sums.iter_mut().zip(&vectors) {
            for ((sum, a), b) in sums.iter_mut().zip(a).zip(&row[place]) {
                *sum = simd.mul_add_e_f32s(*a, *b, *sum);
            }
        }
    }
    for (place, a) in a_single.iter().enumerate() {
        for (sums, (_, single)) in sums.iter_mut().zip(&vectors) {
            sums[0] = simd.mul_add_e_f32s(*a, single[place], sums[0]);
        }
    }
    let mut dots = [0.0; ROWS];
    for ((dot, sums), (_, b_rest)) in dots.iter_mut().zip(sums).zip(rows) {
        let sum = sums[1..]
            .iter()
            .fold(sums[0], |all, sum| simd.add_f32s(all, *sum));
        let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
        *dot = simd.reduce_sum_f32s(sum) + rest;
    }
    dots
}

#[cfg(test)]
mod tests {
    use pulp::Arch;

    use super::{DotProducts, FEW_ROWS};

    /// Lengths that fill whole vectors, several of them, and neither; any number of rows.
    #[test]
    fn dot_products_are_sums_of_products() {
        let value = |index: usize| (index * 37 % 101) as f32 / 50.0 - 1.0;
        for d_in in [1, 7, 32, 100, 576] {
            let weight: Vec<f32> = (0..3 * d_in).map(value).collect();
            for n_rows in 1..=FEW_ROWS {
                let x: Vec<f32> = (5..5 + n_rows * d_in).map(value).collect();
                let mut y = vec![f32::NAN; 3 * n_rows];
                Arch::new().dispatch(DotProducts {
                    weight: &weight,
                    x: &x,
                    d_in,
                    y: &mut y,
                });
                let expected = weight.chunks(d_in).flat_map(|weight| {
                    let dot = |x: &[f32]| -> f64 {
                        let pairs = weight.iter().zip(x);
                        pairs.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
                    };
                    x.chunks(d_in).map(dot).collect::<Vec<f64>>()
                });
                for (found, expected) in y.iter().zip(expected) {
                    let difference = (f64::from(*found) - expected).abs();
                    assert!(difference < 1e-4, "{d_in}, {n_rows}: {difference}");
                }
            }
        }
    }
}

//! Products with a quantised weight: some rows are dequantised, used and dropped at a time.

use std::ops::Range;

use burn::tensor::{Device, Tensor, TensorData};
use rayon::iter::{IndexedParallelIterator, ParallelIterator};
use rayon::slice::ParallelSliceMut;

use super::QuantizedWeight;
use crate::device::is_host;
use crate::vectorized::vectorized;

/// Most values that are dequantised at a time for a matrix product: 1 MiB, which a processor's
/// second cache can hold.
const CHUNK_VALUES: usize = 1 << 18;

/// Values that a thread dequantises at a time: 64 KiB.
const PIECE_VALUES: usize = 1 << 14;

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
            vectorized(DotProducts {
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
struct DotProducts<'a> {
    weight: &'a [f32],
    x: &'a [f32],
    d_in: usize,
    y: &'a mut [f32],
}

impl pulp::NullaryFnOnce for DotProducts<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let n_rows = self.x.len() / self.d_in;
        let weight = self.weight.chunks_exact(self.d_in);
        for (weight, y) in weight.zip(self.y.chunks_exact_mut(n_rows)) {
            for (x, y) in self.x.chunks_exact(self.d_in).zip(y) {
                *y = dot(weight, x);
            }
        }
    }
}

/// Sums in many places at once, so that no addition waits for the one before.
#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 32;
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let mut sums = [0.0f32; LANES];
    for (a, b) in a.iter().zip(b) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}

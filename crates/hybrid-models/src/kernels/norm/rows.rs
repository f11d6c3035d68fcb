//! Norms and their gradients on a processor, one row after the other.

use burn::tensor::Tensor;
use pulp::NullaryFnOnce;

use crate::NormKind;
use crate::kernels::host::{changed, read_both};
use crate::vectorized::vectorized;

/// What a norm does, on values that are ours.
///
/// # Shapes
/// - `x`: `[batch, seq, d_model]`, `weight`, `bias`: `[d_model]` → as `x`
pub(super) fn normalized(
    kind: NormKind,
    x: Tensor<3>,
    weight: &Tensor<1>,
    bias: Option<Tensor<1>>,
    epsilon: f64,
) -> Tensor<3> {
    let bias = bias.unwrap_or_else(|| weight.zeros_like());
    changed(x, |values| {
        read_both(weight, &bias, |weight, bias| {
            vectorized(Forward {
                kind,
                values,
                weight,
                bias,
                epsilon: epsilon as f32,
            });
        });
    })
}

/// The gradient of a norm's input, from that of its result. With `x̂` for the normalised row and
/// `g = slope · weight`, it is `(g - mean g - x̂ mean(g x̂)) / σ`, without `mean g` where no mean
/// was taken off (Ba et al. 2016; Zhang and Sennrich 2019).
///
/// # Shapes
/// - `x`, `slope`: `[batch, seq, d_model]`, `weight`: `[d_model]` → as `x`
pub(super) fn slope(
    kind: NormKind,
    x: &Tensor<3>,
    weight: &Tensor<1>,
    epsilon: f64,
    slope: Tensor<3>,
) -> Tensor<3> {
    changed(slope, |slopes| {
        read_both(x, weight, |x, weight| {
            vectorized(Backward {
                kind,
                x,
                weight,
                epsilon: epsilon as f32,
                slopes,
            });
        });
    })
}

/// Sums that are added up side by side, which is how many fit a vector or two.
const LANES: usize = 16;

/// The sum of a function of the values of rows, place by place.
#[inline(always)]
fn sum<const N: usize>(rows: [&[f32]; N], term: impl Fn([f32; N]) -> f32) -> f32 {
    let length = rows[0].len();
    let whole = length / LANES * LANES;
    let mut sums = [0.0; LANES];
    for start in (0..whole).step_by(LANES) {
        let rows = rows.map(|row| &row[start..start + LANES]);
        for (place, sum) in sums.iter_mut().enumerate() {
            *sum += term(rows.map(|row| row[place]));
        }
    }
    let rest = (whole..length).map(|place| term(rows.map(|row| row[place])));
    sums.iter().sum::<f32>() + rest.sum::<f32>()
}

/// What is taken off a row, and what it is divided by.
#[inline(always)]
fn statistics(kind: NormKind, row: &[f32], epsilon: f32) -> (f32, f32) {
    let n = row.len() as f32;
    let mean = match kind {
        NormKind::Layer => sum([row], |[x]| x) / n,
        NormKind::Rms => 0.0,
    };
    let square = sum([row], |[x]| (x - mean) * (x - mean)) / n;
    (mean, (square + epsilon).sqrt())
}

struct Forward<'a> {
    kind: NormKind,
    values: &'a mut [f32],
    weight: &'a [f32],
    bias: &'a [f32],
    epsilon: f32,
}

impl NullaryFnOnce for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        for row in self.values.chunks_exact_mut(self.weight.len()) {
            let (mean, divisor) = statistics(self.kind, row, self.epsilon);
            let factor = 1.0 / divisor;
            for (x, (weight, bias)) in row.iter_mut().zip(self.weight.iter().zip(self.bias)) {
                *x = (*x - mean) * factor * weight + bias;
            }
        }
    }
}

struct Backward<'a> {
    kind: NormKind,
    x: &'a [f32],
    weight: &'a [f32],
    epsilon: f32,
    slopes: &'a mut [f32],
}

impl NullaryFnOnce for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let d_model = self.weight.len();
        let rows = self.slopes.chunks_exact_mut(d_model);
        for (slopes, x) in rows.zip(self.x.chunks_exact(d_model)) {
            let (mean, divisor) = statistics(self.kind, x, self.epsilon);
            let (factor, n) = (1.0 / divisor, d_model as f32);
            let of_mean = match self.kind {
                NormKind::Layer => sum([slopes, self.weight], |[slope, weight]| slope * weight) / n,
                NormKind::Rms => 0.0,
            };
            let along = sum([slopes, self.weight, x], |[slope, weight, x]| {
                slope * weight * (x - mean)
            });
            let along = along * factor * factor / n;
            for (slope, (weight, x)) in slopes.iter_mut().zip(self.weight.iter().zip(x)) {
                *slope = (*slope * weight - of_mean - (x - mean) * along) * factor;
            }
        }
    }
}

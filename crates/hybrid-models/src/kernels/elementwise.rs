//! Functions of single values, in loops that the compiler turns into vector instructions.

use burn::tensor::{Tensor, activation};
use pulp::NullaryFnOnce;

use super::host::{changed, is_ours, read};
use crate::vectorized::vectorized;

/// `function(x)` of each value of a tensor that is ours.
///
/// # Shapes
/// - `x`: any → the same
pub(super) fn map<const D: usize>(x: Tensor<D>, function: impl Fn(f32) -> f32) -> Tensor<D> {
    changed(x, |values| vectorized(Map { values, function }))
}

/// `function(x, y)` of each pair of values of tensors that are ours.
///
/// # Shapes
/// - `x`, `y`: of one shape → the same
pub(super) fn zip<const D: usize>(
    x: Tensor<D>,
    y: Tensor<D>,
    function: impl Fn(f32, f32) -> f32,
) -> Tensor<D> {
    changed(x, |values| {
        read(&y, |others| {
            vectorized(Zip {
                values,
                others,
                function,
            });
        });
    })
}

/// The softmax of the last axis, by Burn where values are not ours.
///
/// # Shapes
/// - `x`: any → the same
pub(super) fn softmax<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if !is_ours(&x) {
        return activation::softmax(x, D - 1);
    }
    let row_len = x.dims()[D - 1];
    changed(x, |values| vectorized(Softmax { values, row_len }))
}

struct Map<'a, F> {
    values: &'a mut [f32],
    function: F,
}

impl<F: Fn(f32) -> f32> NullaryFnOnce for Map<'_, F> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        for value in self.values {
            *value = (self.function)(*value);
        }
    }
}

struct Zip<'a, F> {
    values: &'a mut [f32],
    others: &'a [f32],
    function: F,
}

impl<F: Fn(f32, f32) -> f32> NullaryFnOnce for Zip<'_, F> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        for (value, other) in self.values.iter_mut().zip(self.others) {
            *value = (self.function)(*value, *other);
        }
    }
}

struct Softmax<'a> {
    values: &'a mut [f32],
    row_len: usize,
}

/// Values that are taken together, each into a sum or maximum of its own place.
const LANES: usize = 16;

impl NullaryFnOnce for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        for row in self.values.chunks_exact_mut(self.row_len) {
            let mut most = [f32::NEG_INFINITY; LANES];
            for values in row.chunks(LANES) {
                for (most, value) in most.iter_mut().zip(values) {
                    *most = if *value > *most { *value } else { *most };
                }
            }
            let most = most.into_iter().fold(f32::NEG_INFINITY, f32::max);
            let mut sums = [0.0; LANES];
            for values in row.chunks_mut(LANES) {
                for (sum, value) in sums.iter_mut().zip(values) {
                    *value = exp(*value - most);
                    *sum += *value;
                }
            }
            let sum: f32 = sums.iter().sum();
            for value in row {
                *value /= sum;
            }
        }
    }
}

/// `exp(x)` to two units in the last place from -87 on; below it is 0, and above 88 as there.
///
/// With `n` the nearest integer to `x / ln 2`: `2^n exp(x - n ln 2)`, the second factor by its
/// series up to the seventh power.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    /// Adding it leaves the nearest integer in the lowest bits.
    const SHIFT: f32 = 12_582_912.0;
    /// ln 2 in two parts, the first of which has few bits: products with it are exact.
    const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    let is_small = x < -87.0;
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + SHIFT;
    let n = shifted - SHIFT;
    let rest = x - n * LN_2[0] - n * LN_2[1];
    let mut series = 1.0 / 5040.0;
    for divisor in [720.0, 120.0, 24.0, 6.0, 2.0, 1.0, 1.0] {
        series = series * rest + 1.0 / divisor;
    }
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0f32.to_bits()));
    if is_small { 0.0 } else { series * power }
}

/// The logistic function.
#[inline(always)]
pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// How likely a standard normal variable is below `x`, to 3e-7, and `exp(-x² / 2)` (Abramowitz and
/// Stegun 1964, 7.1.26).
#[inline(always)]
pub(super) fn normal(x: f32) -> (f32, f32) {
    const FACTORS: [f32; 5] = [
        1.061_405_4,
        -1.453_152,
        1.421_413_7,
        -0.284_496_74,
        0.254_829_6,
    ];
    let bell = exp(-0.5 * x * x);
    let t = 1.0 / (1.0 + 0.327_591_1 * std::f32::consts::FRAC_1_SQRT_2 * x.abs());
    let mut sum = 0.0;
    for factor in FACTORS {
        sum = (sum + factor) * t;
    }
    let tail = 0.5 * sum * bell;
    (if x < 0.0 { tail } else { 1.0 - tail }, bell)
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Tensor, activation};

    use super::{exp, normal, sigmoid, softmax};
    use crate::kernels::tests::{close, device};

    #[test]
    fn exponentials_are_those_of_twice_the_digits() {
        for step in -8700..=8800 {
            let x = step as f32 / 100.0;
            let expected = f64::from(x).exp();
            let error = (f64::from(exp(x)) - expected).abs() / expected;
            assert!(error < 2.4e-7, "{error:e} at {x}");
        }
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(f32::INFINITY), exp(88.0));
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn a_sigmoid_has_its_ends_and_its_middle() {
        assert_eq!(sigmoid(0.0), 0.5);
        assert_eq!(sigmoid(40.0), 1.0);
        assert!(sigmoid(-40.0) < 1e-17);
    }

    /// Rows that fill no lanes, some, and more; values that count for nothing, and one that is not
    /// a number.
    #[test]
    fn shares_of_a_row_are_those_of_the_parts() {
        let host = |x: Tensor<2>| x.into_data().iter::<f32>().collect::<Vec<f32>>();
        for row_len in [1, 15, 16, 37] {
            let values = (0..3 * row_len).map(|i| (i * 37 % 101) as f32 - 50.0);
            let values: Vec<f32> = values.collect();
            let x = Tensor::<1>::from_floats(values.as_slice(), &device()).reshape([3, row_len]);
            close(&host(softmax(x.clone())), &host(activation::softmax(x, 1)));
        }
        let of = |values: [f32; 3]| host(softmax(Tensor::from_floats([values], &device())));
        assert_eq!(of([0.0, -1e9, 0.0]), [0.5, 0.0, 0.5]);
        assert!(of([0.0, f32::NAN, 1.0]).iter().any(|share| share.is_nan()));
    }

    /// The integral of the density from 0 on, by Simpson's rule.
    #[test]
    fn the_normal_distribution_is_the_integral_of_its_density() {
        const STEP: f64 = 0.01;
        let density = |x: f64| (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
        let mut below = 0.5;
        for step in 0..600 {
            let x = f64::from(step) * STEP;
            for (x, expected) in [(x, below), (-x, 1.0 - below)] {
                let (found, bell) = normal(x as f32);
                let error = (f64::from(found) - expected).abs();
                assert!(error < 3e-7, "{error:e} at {x}");
                assert!((f64::from(bell) - (-0.5 * x * x).exp()).abs() < 3e-7);
            }
            let middle = density(x + STEP / 2.0);
            below += STEP / 6.0 * (density(x) + 4.0 * middle + density(x + STEP));
        }
    }
}

//! DoRA: LoRA turns the columns of a weight, and their lengths are trained apart (Liu et al. 2024,
//! equation 5).
//!
//! `y = x V diag(m / |V|) + b` with `V = W + s A B`, and `|V|` the lengths of its columns. In the
//! gradient `|V|` is a constant (section 4.3). It comes from products of thin matrices: `V` itself
//! is formed by merging only.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};

use crate::frozen;

/// The lengths of a site's columns.
#[derive(Module, Debug)]
pub(crate) struct Magnitude {
    /// `m`, `[d_out]`.
    pub(crate) magnitude: Param<Tensor<1>>,
    /// Of the base's columns, `[d_out]`.
    #[module(skip)]
    squared_lengths: Tensor<1>,
}

impl Magnitude {
    /// The lengths of the base's own columns, so the adapted base starts as the base.
    ///
    /// # Shapes
    /// - `weight`: `[d_in, d_out]`
    pub(crate) fn init(weight: &Tensor<2>, device: &Device) -> Self {
        let squares = weight.clone().without_autodiff().square();
        let squared_lengths: Tensor<1> = squares.sum_dim(0).squeeze_dim(0);
        Self {
            magnitude: frozen::copy(&squared_lengths.clone().sqrt(), device),
            squared_lengths,
        }
    }

    /// `m / |V|`.
    ///
    /// # Shapes
    /// - `weight`: `[d_in, d_out]`, `a`: `[d_in, rank]`, `b`: `[rank, d_out]` → `[d_out]`
    pub(crate) fn gain(
        &self,
        weight: &Tensor<2>,
        a: Tensor<2>,
        b: Tensor<2>,
        scale: f64,
    ) -> Tensor<1> {
        let turned = a.clone().transpose();
        let crossed = turned.clone().matmul(weight.clone());
        let own = turned.matmul(a).matmul(b.clone());
        let change = (crossed.mul_scalar(2.0 * scale) + own.mul_scalar(scale * scale)) * b;
        let squares = self.squared_lengths.clone() + change.sum_dim(0).squeeze_dim(0);
        self.magnitude.val() / squares.clamp_min(f32::MIN_POSITIVE).sqrt()
    }

    /// `V diag(m / |V|)` of `V`.
    ///
    /// # Shapes
    /// - `sum`: `[d_in, d_out]` → the same
    pub(crate) fn merged(&self, sum: Tensor<2>) -> Tensor<2> {
        let lengths = sum.clone().square().sum_dim(0).sqrt();
        sum * (frozen::plain(&self.magnitude).unsqueeze::<2>() / lengths)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Tensor, TensorData, Tolerance};

    use super::Magnitude;

    fn matrix(rows: usize, columns: usize, shift: f32) -> Tensor<2> {
        let values: Vec<f32> = (0..rows * columns)
            .map(|i| (i as f32 * 1.7 + shift).sin())
            .collect();
        Tensor::from_data(TensorData::new(values, [rows, columns]), &Device::flex())
    }

    #[test]
    fn lengths_of_the_dense_sum_come_from_thin_products() {
        let (weight, a, b) = (matrix(5, 4, 0.0), matrix(5, 2, 1.0), matrix(2, 4, 2.0));
        let magnitude = Magnitude::init(&weight, &Device::flex());
        let dense = weight.clone() + a.clone().matmul(b.clone()).mul_scalar(0.7);
        let gain = magnitude.gain(&weight, a, b, 0.7);
        let expected = magnitude.merged(dense.clone());
        (dense * gain.unsqueeze::<2>())
            .into_data()
            .assert_approx_eq::<f32>(&expected.into_data(), Tolerance::absolute(1e-5));
    }
}

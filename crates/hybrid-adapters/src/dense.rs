//! A linear layer that is trained.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData, module};

use crate::random::HostRandom;

/// `y = x W + b`.
#[derive(Module, Debug)]
pub(crate) struct Dense {
    /// `[d_in, d_out]`.
    weight: Param<Tensor<2>>,
    /// `[d_out]`.
    bias: Param<Tensor<1>>,
}

impl Dense {
    /// Values uniform in `±1/sqrt(d_in)`, as PyTorch draws them.
    pub(crate) fn init(
        d_in: usize,
        d_out: usize,
        random: &mut HostRandom,
        device: &Device,
    ) -> Self {
        let limit = 1.0 / (d_in as f64).sqrt();
        Self {
            weight: Param::from_data(random.uniform([d_in, d_out], limit), device),
            bias: Param::from_data(random.uniform([d_out], limit), device),
        }
    }

    /// # Shapes
    /// - `weight`: `[d_in, d_out]`, `bias`: `[d_out]`
    pub(crate) fn from_data(weight: TensorData, bias: TensorData, device: &Device) -> Self {
        Self {
            weight: Param::from_data(weight, device),
            bias: Param::from_data(bias, device),
        }
    }

    pub(crate) fn weight(&self) -> &Param<Tensor<2>> {
        &self.weight
    }

    pub(crate) fn bias(&self) -> &Param<Tensor<1>> {
        &self.bias
    }

    /// # Shapes
    /// - `x`: `[rows, d_in]` → `[rows, d_out]`
    pub(crate) fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        module::linear(x, self.weight.val(), Some(self.bias.val()))
    }
}

/// Layers through `sizes`, with the numbers of `random`.
pub(crate) fn init(sizes: &[usize], random: &mut HostRandom, device: &Device) -> Vec<Dense> {
    let pairs = sizes.windows(2);
    pairs
        .map(|pair| Dense::init(pair[0], pair[1], random, device))
        .collect()
}

/// The same with zeros in the last layer, so that they give zeros at the start.
pub(crate) fn with_last_zero(mut layers: Vec<Dense>, device: &Device) -> Vec<Dense> {
    if let Some(last) = layers.pop() {
        let [d_in, d_out] = last.weight.val().dims();
        let zeros = |n: usize| vec![0.0f32; n];
        let weight = TensorData::new(zeros(d_in * d_out), [d_in, d_out]);
        let bias = TensorData::new(zeros(d_out), [d_out]);
        layers.push(Dense::from_data(weight, bias, device));
    }
    layers
}

/// Layer after layer, with a function in between.
///
/// # Shapes
/// - `x`: `[rows, d_in]` of the first → `[rows, d_out]` of the last
pub(crate) fn through(
    layers: &[Dense],
    x: Tensor<2>,
    between: fn(Tensor<2>) -> Tensor<2>,
) -> Tensor<2> {
    let mut layers = layers.iter();
    let first = layers.next().map_or(x.clone(), |layer| layer.forward(x));
    layers.fold(first, |x, layer| layer.forward(between(x)))
}

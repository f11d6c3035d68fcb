//! Frozen layers: plain tensors with the identity of their site.
//!
//! They hold no `Param`: a base cannot be trained by accident, and backward computes no weight
//! gradient for it.

use burn::tensor::{Int, Tensor};

use crate::kernels::normalize;
use crate::{SiteId, Weight};

/// A frozen linear layer, `y = x W + b`.
#[derive(Debug, Clone)]
pub struct Linear {
    /// Where this layer sits in the base.
    pub site: SiteId,
    /// `[d_in, d_out]`.
    pub weight: Weight,
    /// `[d_out]`.
    pub bias: Option<Tensor<1>>,
}

impl Linear {
    /// # Shapes
    /// - `x`: `[batch, seq, d_in]` → `[batch, seq, d_out]`
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        self.weight.linear(x, self.bias.clone())
    }
}

/// `x W + b` as one matrix product over all rows of the batch.
///
/// # Shapes
/// - `x`: `[batch, seq, d_in]`, `weight`: `[d_in, d_out]`, `bias`: `[d_out]` →
///   `[batch, seq, d_out]`
pub fn linear(x: Tensor<3>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<3> {
    let [batch, seq, d_in] = x.dims();
    let [_, d_out] = weight.dims();
    // Burn's own `linear` keeps a product per batch row when `seq` is a multiple of 16.
    let y = x.reshape([batch * seq, d_in]).matmul(weight);
    let y = match bias {
        Some(bias) => y + bias.unsqueeze(),
        None => y,
    };
    y.reshape([batch, seq, d_out])
}

/// A frozen normalisation of the last axis.
#[derive(Debug, Clone)]
pub struct Norm {
    /// Where this layer sits in the base.
    pub site: SiteId,
    /// What is normalised.
    pub kind: NormKind,
    /// Gain, `[d_model]`.
    pub weight: Tensor<1>,
    /// Shift, `[d_model]`.
    pub bias: Option<Tensor<1>>,
    /// Added to the variance, or to the mean square.
    pub epsilon: f64,
}

/// What a [`Norm`] normalises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// Mean and variance (Ba et al. 2016, eq. 4).
    Layer,
    /// The root mean square alone (Zhang and Sennrich 2019, eq. 4).
    Rms,
}

impl Norm {
    /// # Shapes
    /// - `x`: `[batch, seq, d_model]` → the same
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let (weight, bias) = (self.weight.clone(), self.bias.clone());
        normalize(self.kind, x, weight, bias, self.epsilon)
    }
}

/// A frozen lookup table.
#[derive(Debug, Clone)]
pub struct Embedding {
    /// Where this table sits in the base.
    pub site: SiteId,
    /// `[n, d_model]`.
    pub weight: Weight,
}

impl Embedding {
    /// # Shapes
    /// - `ids`: `[batch, seq]` → `[batch, seq, d_model]`
    pub fn forward(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        self.weight.rows(ids)
    }
}

/// Any frozen layer: what a site holds.
#[derive(Debug, Clone)]
pub enum Layer {
    /// At a linear site.
    Linear(Linear),
    /// At a norm site.
    Norm(Norm),
    /// At an embedding site.
    Embedding(Embedding),
}

impl Layer {
    /// Where this layer sits in the base.
    pub fn site(&self) -> SiteId {
        match self {
            Self::Linear(layer) => layer.site,
            Self::Norm(layer) => layer.site,
            Self::Embedding(layer) => layer.site,
        }
    }

    /// The bias of a linear layer or the shift of a norm, `[d_out]`.
    pub fn bias(&self) -> Option<&Tensor<1>> {
        match self {
            Self::Linear(layer) => layer.bias.as_ref(),
            Self::Norm(layer) => layer.bias.as_ref(),
            Self::Embedding(_) => None,
        }
    }

    /// Shape of the weight, followed by the shape of the bias where there is one.
    pub(crate) fn shape(&self) -> Vec<usize> {
        let weight: Vec<usize> = match self {
            Self::Linear(layer) => layer.weight.dims().into(),
            Self::Norm(layer) => layer.weight.dims().into(),
            Self::Embedding(layer) => layer.weight.dims().into(),
        };
        let bias = self.bias().into_iter().flat_map(|bias| bias.dims());
        weight.into_iter().chain(bias).collect()
    }
}

/// A layer in its place, to be replaced.
pub(crate) enum LayerPlace<'a> {
    Linear(&'a mut Linear),
    Norm(&'a mut Norm),
    Embedding(&'a mut Embedding),
}

impl LayerPlace<'_> {
    /// Puts `layer` here if it is of this site.
    pub(crate) fn replace_if_same_site(self, layer: &Layer) {
        match (self, layer) {
            (Self::Linear(place), Layer::Linear(layer)) if place.site == layer.site => {
                *place = layer.clone()
            }
            (Self::Norm(place), Layer::Norm(layer)) if place.site == layer.site => {
                *place = layer.clone()
            }
            (Self::Embedding(place), Layer::Embedding(layer)) if place.site == layer.site => {
                *place = layer.clone()
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Tensor, TensorData, Tolerance};

    use super::{Norm, NormKind};
    use crate::{SiteKind, SiteTable};

    fn norm(kind: NormKind, bias: Option<[f32; 3]>, epsilon: f64) -> Norm {
        let device = Device::flex();
        let site = SiteTable::default().add(
            "norm",
            None,
            false,
            SiteKind::Norm {
                d_model: 3,
                bias: bias.is_some(),
            },
        );
        Norm {
            site,
            kind,
            weight: Tensor::from_floats([2.0, -1.0, 0.5], &device),
            bias: bias.map(|bias| Tensor::from_floats(bias, &device)),
            epsilon,
        }
    }

    /// Rows of different sizes, so that a norm over the wrong axis is seen.
    #[test]
    fn a_root_mean_square_norm_does_not_centre() {
        let device = Device::flex();
        let x = Tensor::<3>::from_floats([[[3.0, -4.0, 0.0], [1.0, 1.0, 1.0]]], &device);
        let y = norm(NormKind::Rms, None, 0.25).forward(x.clone());
        let first = (25.0f32 / 3.0 + 0.25).sqrt();
        let second = 1.25f32.sqrt();
        let expected = TensorData::from([[
            [6.0 / first, 4.0 / first, 0.0],
            [2.0 / second, -1.0 / second, 0.5 / second],
        ]]);
        y.into_data()
            .assert_approx_eq::<f32>(&expected, Tolerance::absolute(1e-6));
        let shifted = norm(NormKind::Rms, Some([1.0, 2.0, 3.0]), 0.25).forward(x);
        let values: Vec<f32> = shifted.into_data().iter().collect();
        assert!((values[2] - 3.0).abs() < 1e-6, "{values:?}");
    }

    #[test]
    fn a_layer_norm_centres() {
        let device = Device::flex();
        let x = Tensor::<3>::from_floats([[[1.0, 2.0, 3.0]]], &device);
        let y = norm(NormKind::Layer, None, 1e-9).forward(x);
        let deviation = (2.0f32 / 3.0).sqrt();
        let expected = TensorData::from([[[-2.0 / deviation, 0.0, 0.5 / deviation]]]);
        y.into_data()
            .assert_approx_eq::<f32>(&expected, Tolerance::absolute(1e-5));
    }
}

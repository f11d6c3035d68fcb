//! Frozen layers: plain tensors with the identity of their site.
//!
//! They hold no `Param`: a base cannot be trained by accident, and backward computes no weight
//! gradient for it.

use burn::tensor::{Int, Tensor, module};

use crate::SiteId;

/// A frozen linear layer, `y = x W + b`.
#[derive(Debug, Clone)]
pub struct Linear {
    /// Where this layer sits in the base.
    pub site: SiteId,
    /// `[d_in, d_out]`.
    pub weight: Tensor<2>,
    /// `[d_out]`.
    pub bias: Option<Tensor<1>>,
}

impl Linear {
    /// # Shapes
    /// - `x`: `[batch, seq, d_in]` → `[batch, seq, d_out]`
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        linear(x, self.weight.clone(), self.bias.clone())
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

/// A frozen layer norm (Ba et al. 2016).
#[derive(Debug, Clone)]
pub struct LayerNorm {
    /// Where this layer sits in the base.
    pub site: SiteId,
    /// Gain, `[d_model]`.
    pub weight: Tensor<1>,
    /// Shift, `[d_model]`.
    pub bias: Tensor<1>,
    /// Added to the variance.
    pub epsilon: f64,
}

impl LayerNorm {
    /// # Shapes
    /// - `x`: `[batch, seq, d_model]` → the same
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        self.forward_with(x, self.weight.clone(), self.bias.clone())
    }

    /// The same normalisation with another gain and shift (LayerNorm tuning, BitFit).
    ///
    /// # Shapes
    /// - `x`: `[batch, seq, d_model]` → the same; `weight`, `bias`: `[d_model]`
    pub fn forward_with(&self, x: Tensor<3>, weight: Tensor<1>, bias: Tensor<1>) -> Tensor<3> {
        module::layer_norm(x, weight, Some(bias), self.epsilon)
    }
}

/// A frozen lookup table.
#[derive(Debug, Clone)]
pub struct Embedding {
    /// Where this table sits in the base.
    pub site: SiteId,
    /// `[n, d_model]`.
    pub weight: Tensor<2>,
}

impl Embedding {
    /// # Shapes
    /// - `ids`: `[batch, seq]` → `[batch, seq, d_model]`
    pub fn forward(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        module::embedding(self.weight.clone(), ids)
    }
}

/// Any frozen layer: what a site holds.
#[derive(Debug, Clone)]
pub enum Layer {
    /// At a linear site.
    Linear(Linear),
    /// At a norm site.
    Norm(LayerNorm),
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

    /// Shape of the weight, followed by the shape of the bias where there is one.
    pub(crate) fn shape(&self) -> Vec<usize> {
        match self {
            Self::Linear(layer) => {
                let bias = layer.bias.iter().flat_map(|bias| bias.dims());
                layer.weight.dims().into_iter().chain(bias).collect()
            }
            Self::Norm(layer) => layer
                .weight
                .dims()
                .into_iter()
                .chain(layer.bias.dims())
                .collect(),
            Self::Embedding(layer) => layer.weight.dims().into(),
        }
    }
}

/// A layer in its place, to be replaced.
pub(crate) enum LayerPlace<'a> {
    Linear(&'a mut Linear),
    Norm(&'a mut LayerNorm),
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

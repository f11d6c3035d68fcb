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
        module::linear(x, self.weight.clone(), self.bias.clone())
    }
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

//! One post-norm transformer layer (Vaswani et al. 2017, section 3.1).

use burn::tensor::Tensor;

use super::{Activation, Attention};
use crate::layers::LayerPlace;
use crate::{Hooks, LayerNorm, Linear, SiteId};

/// Attention and feed-forward, each followed by residual connection and norm.
#[derive(Debug, Clone)]
pub(crate) struct EncoderLayer {
    pub(crate) attention: Attention,
    pub(crate) attention_block: SiteId,
    pub(crate) attention_norm: LayerNorm,
    pub(crate) up: Linear,
    pub(crate) activation: Activation,
    pub(crate) down: Linear,
    pub(crate) feed_forward_block: SiteId,
    pub(crate) feed_forward_norm: LayerNorm,
}

impl EncoderLayer {
    /// # Shapes
    /// - `x`: `[batch, seq, d_model]`, `bias`: `[batch, 1, 1, seq]` → `[batch, seq, d_model]`
    pub(crate) fn forward(&self, x: Tensor<3>, bias: &Tensor<4>, hooks: &dyn Hooks) -> Tensor<3> {
        let attended = hooks.block(
            self.attention_block,
            self.attention.forward(x.clone(), bias, hooks),
        );
        let x = hooks.norm(&self.attention_norm, attended + x);
        let inner = self.activation.forward(hooks.linear(&self.up, x.clone()));
        let fed = hooks.block(self.feed_forward_block, hooks.linear(&self.down, inner));
        hooks.norm(&self.feed_forward_norm, fed + x)
    }

    pub(crate) fn places(&mut self) -> impl Iterator<Item = LayerPlace<'_>> {
        let attention = &mut self.attention;
        [
            LayerPlace::Linear(&mut attention.query),
            LayerPlace::Linear(&mut attention.key),
            LayerPlace::Linear(&mut attention.value),
            LayerPlace::Linear(&mut attention.output),
            LayerPlace::Norm(&mut self.attention_norm),
            LayerPlace::Linear(&mut self.up),
            LayerPlace::Linear(&mut self.down),
            LayerPlace::Norm(&mut self.feed_forward_norm),
        ]
        .into_iter()
    }
}

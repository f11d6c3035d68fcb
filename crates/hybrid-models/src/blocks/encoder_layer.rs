//! One post-norm transformer layer (Vaswani et al. 2017, section 3.1).

use burn::tensor::Tensor;

use super::{Attention, FeedForward, SelfInputs};
use crate::layers::LayerPlace;
use crate::{Hooks, Norm, SiteId};

/// Attention and feed-forward, each followed by residual connection and norm.
#[derive(Debug, Clone)]
pub(crate) struct EncoderLayer {
    pub(crate) attention: Attention,
    pub(crate) attention_block: SiteId,
    pub(crate) attention_norm: Norm,
    pub(crate) feed_forward: FeedForward,
    pub(crate) feed_forward_block: SiteId,
    pub(crate) feed_forward_norm: Norm,
}

impl EncoderLayer {
    /// # Shapes
    /// - `x`: `[batch, seq, d_model]`, or `[1, tokens, d_model]` when packed → the same
    pub(crate) fn forward(
        &self,
        x: Tensor<3>,
        inputs: SelfInputs<'_>,
        hooks: &dyn Hooks,
    ) -> Tensor<3> {
        let attended = self.attention.forward(x.clone(), inputs, hooks);
        let attended = hooks.block(self.attention_block, &x, attended);
        let x = hooks.norm(&self.attention_norm, attended + x);
        let fed = self.feed_forward.forward(x.clone(), hooks);
        let fed = hooks.block(self.feed_forward_block, &x, fed);
        hooks.norm(&self.feed_forward_norm, fed + x)
    }

    pub(crate) fn places(&mut self) -> impl Iterator<Item = LayerPlace<'_>> {
        self.attention
            .places()
            .chain([LayerPlace::Norm(&mut self.attention_norm)])
            .chain(self.feed_forward.places())
            .chain([LayerPlace::Norm(&mut self.feed_forward_norm)])
    }
}

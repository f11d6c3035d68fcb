//! One pre-norm transformer layer (Radford et al. 2019, section 2.3).

use burn::tensor::Tensor;

use super::{Attention, FeedForward, SelfInputs};
use crate::layers::LayerPlace;
use crate::{Hooks, Norm, SiteId};

/// Attention and feed-forward, each on a normalised input and followed by a residual connection.
#[derive(Debug, Clone)]
pub(crate) struct DecoderLayer {
    pub(crate) attention_norm: Norm,
    pub(crate) attention: Attention,
    pub(crate) attention_block: SiteId,
    /// Whether attention sees the model's window only.
    pub(crate) sliding: bool,
    pub(crate) feed_forward_norm: Norm,
    pub(crate) feed_forward: FeedForward,
    pub(crate) feed_forward_block: SiteId,
}

impl DecoderLayer {
    /// # Shapes
    /// - `x`: `[batch, seq, d_model]`, or `[1, tokens, d_model]` when packed → the same
    pub(crate) fn forward(
        &self,
        x: Tensor<3>,
        inputs: SelfInputs<'_>,
        hooks: &dyn Hooks,
    ) -> Tensor<3> {
        let normed = hooks.norm(&self.attention_norm, x.clone());
        let attended = self.attention.forward(normed.clone(), inputs, hooks);
        let x = hooks.block(self.attention_block, &normed, attended) + x;
        let normed = hooks.norm(&self.feed_forward_norm, x.clone());
        let fed = self.feed_forward.forward(normed.clone(), hooks);
        hooks.block(self.feed_forward_block, &normed, fed) + x
    }

    pub(crate) fn places(&mut self) -> impl Iterator<Item = LayerPlace<'_>> {
        [
            LayerPlace::Norm(&mut self.attention_norm),
            LayerPlace::Norm(&mut self.feed_forward_norm),
        ]
        .into_iter()
        .chain(self.attention.places())
        .chain(self.feed_forward.places())
    }
}

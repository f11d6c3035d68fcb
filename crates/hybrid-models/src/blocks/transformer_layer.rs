//! One layer of an encoder-decoder (Vaswani et al. 2017, section 3.1), its norms after the residual
//! connections, as there, or before the sub-layers (Xiong et al. 2020, figure 1).

use burn::tensor::Tensor;

use super::{Attention, CrossAttention, FeedForward, Memory, SelfInputs};
use crate::layers::LayerPlace;
use crate::{Hooks, Norm, SiteId, TokenRanks};

/// Self-attention, attention to the encoder in a decoder, and feed-forward.
#[derive(Debug, Clone)]
pub(crate) struct TransformerLayer {
    pub(crate) attention: SubLayer<Attention>,
    pub(crate) cross_attention: Option<SubLayer<CrossAttention>>,
    pub(crate) feed_forward: SubLayer<FeedForward>,
}

/// What a layer computes, with its norm and its residual connection.
#[derive(Debug, Clone)]
pub(crate) struct SubLayer<F> {
    pub(crate) function: F,
    pub(crate) norm: Norm,
    /// Whether the input is normalised, and not the sum.
    pub(crate) norm_first: bool,
    pub(crate) block: SiteId,
}

impl<F> SubLayer<F> {
    /// # Shapes
    /// - `x`: `[batch, seq, d_model]` → the same
    fn forward(
        &self,
        x: Tensor<3>,
        hooks: &dyn Hooks,
        apply: impl FnOnce(&F, Tensor<3>) -> Tensor<3>,
    ) -> Tensor<3> {
        if self.norm_first {
            let normed = hooks.norm(&self.norm, x.clone());
            let y = apply(&self.function, normed.clone());
            return hooks.block(self.block, &normed, y) + x;
        }
        let y = apply(&self.function, x.clone());
        let y = hooks.block(self.block, &x, y);
        hooks.norm(&self.norm, y + x)
    }
}

impl TransformerLayer {
    /// `memory` is a decoder's; without `ranks`, hooks do not act on the layer.
    ///
    /// # Shapes
    /// - `x`: `[batch, seq, d_model]` → the same
    pub(crate) fn forward(
        &self,
        x: Tensor<3>,
        inputs: SelfInputs<'_>,
        memory: Option<Memory<'_>>,
        ranks: Option<&TokenRanks>,
        hooks: &dyn Hooks,
    ) -> Tensor<3> {
        let attend = |attention: &Attention, x| attention.forward(x, inputs, hooks);
        let x = self.attention.forward(x, hooks, attend);
        let x = match self.cross_attention.as_ref().zip(memory) {
            Some((cross, memory)) => {
                let attend = |attention: &CrossAttention, x| attention.forward(x, memory, hooks);
                cross.forward(x, hooks, attend)
            }
            None => x,
        };
        let feed = |feed_forward: &FeedForward, x| feed_forward.forward(x, hooks);
        let y = self.feed_forward.forward(x, hooks, feed);
        match ranks {
            Some(ranks) => hooks.layer(self.feed_forward.block, ranks, y),
            None => y,
        }
    }

    pub(crate) fn places(&mut self) -> impl Iterator<Item = LayerPlace<'_>> {
        let cross = self.cross_attention.iter_mut().flat_map(|cross| {
            let norm = [LayerPlace::Norm(&mut cross.norm)];
            cross.function.places().chain(norm)
        });
        let norms = [&mut self.attention.norm, &mut self.feed_forward.norm];
        let norms = norms.into_iter().map(LayerPlace::Norm);
        self.attention
            .function
            .places()
            .chain(self.feed_forward.function.places())
            .chain(norms)
            .chain(cross)
    }
}

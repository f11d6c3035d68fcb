//! What the layers of one forward attend with.

use burn::tensor::{Int, Tensor};

use crate::blocks::{DecoderLayer, Rotation, SelfInputs, Sight};
use crate::kernels::Packing;
use crate::{Hooks, KeyValue, TokenRanks};

/// What the layers of one forward attend with.
#[derive(Debug, Clone)]
pub struct DecoderAttention {
    /// `[1 or batch, 1, 1 or seq, keys]`; none when all is seen.
    pub(super) full: Option<Tensor<4>>,
    /// The same within the window.
    pub(super) sliding: Option<Tensor<4>>,
    /// In place of both, what the tokens of a tree see, and what they see within the window.
    pub(super) sights: Option<[Vec<Sight>; 2]>,
    pub(super) rotation: Option<Rotation>,
    pub(super) prefix: Option<Vec<KeyValue>>,
    /// None when hooks do not act on layers.
    pub(super) ranks: Option<TokenRanks>,
    /// None when padding goes through the layers, too.
    pub(super) packing: Option<Packing>,
}

impl DecoderAttention {
    /// The same, but that padding goes through no layer and comes out of the last one as zeros, where
    /// that is worth it and `hooks` take tokens alone. Tokens are what they are with it. Not for a
    /// forward with a cache.
    ///
    /// # Shapes
    /// - `mask`: `[batch, seq]`
    #[must_use]
    pub fn packed(self, mask: &Tensor<2, Int>, hooks: &dyn Hooks) -> Self {
        Self {
            packing: Packing::for_hooks(mask, hooks),
            ..self
        }
    }

    /// What all layers of this kind are given.
    pub(super) fn inputs(&self, layer: &DecoderLayer) -> SelfInputs<'_> {
        SelfInputs {
            bias: match layer.sliding {
                true => self.sliding.as_ref(),
                false => self.full.as_ref(),
            },
            sights: self
                .sights
                .as_ref()
                .map(|sights| sights[usize::from(layer.sliding)].as_slice()),
            rotation: self.rotation.as_ref(),
            packing: self.packing.as_ref(),
            ..SelfInputs::default()
        }
    }

    /// What leaves a layer.
    pub(super) fn finish(
        &self,
        layer: &DecoderLayer,
        y: Tensor<3>,
        hooks: &dyn Hooks,
    ) -> Tensor<3> {
        match &self.ranks {
            Some(ranks) => hooks.layer(layer.feed_forward_block, ranks, y),
            None => y,
        }
    }
}

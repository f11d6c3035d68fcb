//! What may act on a base while it runs.

use burn::tensor::{Int, Tensor};

use crate::{Embedding, LayerNorm, Linear, SiteId};

/// What may act on a base while it runs. Every method defaults to "nothing happens".
///
/// A layer passes itself, so an implementation sees the site (`base.site`), the frozen weight and
/// the activations. Pooled vectors pass as `[batch, 1, d_model]`.
pub trait Hooks {
    /// A linear site: LoRA, IA3, BitFit, unfrozen weights, heads.
    fn linear(&self, base: &Linear, x: Tensor<3>) -> Tensor<3> {
        base.forward(x)
    }

    /// A norm site: LayerNorm tuning, BitFit.
    fn norm(&self, base: &LayerNorm, x: Tensor<3>) -> Tensor<3> {
        base.forward(x)
    }

    /// An embedding site: unfrozen embeddings.
    fn embedding(&self, base: &Embedding, ids: Tensor<2, Int>) -> Tensor<3> {
        base.forward(ids)
    }

    /// The output of a sub-layer, before its residual connection: bottleneck adapters.
    fn block(&self, _site: SiteId, x: Tensor<3>) -> Tensor<3> {
        x
    }
}

/// The base as it is.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoHooks;

impl Hooks for NoHooks {}

//! What may act on a base while it runs.

use burn::tensor::{Int, Tensor};

use crate::{Embedding, Linear, Norm, Recomputation, SiteId};

/// A stack of transformer layers within a base.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stack {
    /// The layers that read the input with sight in both directions.
    Encoder,
    /// The layers that read from left to right; in an encoder-decoder those that write the output.
    Decoder,
}

/// Sizes of a stack that matter to what hooks put in front of its tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StackShape {
    /// Which stack.
    pub stack: Stack,
    /// Where its word vectors sit.
    pub words: SiteId,
    /// Number of word vectors.
    pub vocab: usize,
    /// What word vectors are multiplied with before hooks see them.
    pub word_scale: f64,
    /// Size of a word vector.
    pub d_model: usize,
    /// Number of layers.
    pub n_layers: usize,
    /// Number of query heads of self-attention.
    pub n_heads: usize,
    /// Number of key and value heads of self-attention.
    pub n_kv_heads: usize,
    /// Size of one head.
    pub d_head: usize,
}

/// Keys and values of one layer's self-attention, both
/// `[1 or batch, n_kv_heads, positions, d_head]`.
#[derive(Debug, Clone)]
pub struct KeyValue {
    /// What queries are compared with, position encoding included.
    pub key: Tensor<4>,
    /// What is mixed.
    pub value: Tensor<4>,
}

/// States that the queries of a layer's self-attention also attend to, apart from all others.
#[derive(Debug, Clone)]
pub struct Aside {
    /// What keys and values are made of, without position encoding, `[1, n, d_model]`.
    pub states: Tensor<3>,
    /// What the result is multiplied with before it is added, `[1]`.
    pub gate: Tensor<1>,
}

/// What may act on a base while it runs. Every method defaults to "nothing happens".
///
/// A layer passes itself, so an implementation sees the site (`base.site`), the frozen weight and
/// the activations. Pooled vectors pass as `[batch, 1, d_model]`.
pub trait Hooks {
    /// A linear site: LoRA, IA3, BitFit, unfrozen weights, heads.
    fn linear(&self, base: &Linear, x: Tensor<3>) -> Tensor<3> {
        base.forward(x)
    }

    /// What the layers of an encoder or a decoder are run again with in backward; without it they
    /// keep their activations.
    fn recomputation(&self) -> Option<&Recomputation> {
        None
    }

    /// A norm site: LayerNorm tuning, BitFit.
    fn norm(&self, base: &Norm, x: Tensor<3>) -> Tensor<3> {
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

    /// The token vectors that enter a stack, before positions are added: soft prompts stand in
    /// front of them. The base takes every vector in front for a token that is seen, also in front
    /// of padding, and counts positions from the first of them.
    ///
    /// # Shapes
    /// - `words`: `[batch, seq, d_model]` → `[batch, n_virtual + seq, d_model]`
    fn embedded(&self, _stack: Stack, words: Tensor<3>) -> Tensor<3> {
        words
    }

    /// States that a layer's self-attention attends to aside, by the layer's key projection:
    /// LLaMA-adapters. Layers whose projections are one are not asked.
    fn aside(&self, _key: &Linear) -> Option<Aside> {
        None
    }

    /// Keys and values in front of those of a stack's self-attention, one for each layer: prefix
    /// tuning. They are used as they are, without position encoding; the tokens' positions begin
    /// after them. Called once a forward, and with a cache only when that is empty.
    fn key_values(&self, _stack: Stack) -> Option<Vec<KeyValue>> {
        None
    }
}

/// The base as it is.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoHooks;

impl Hooks for NoHooks {}

//! What may act on a base while it runs.

use burn::tensor::{Device, Int, Tensor};

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

/// Where the last positions of hidden states stand among the tokens of their rows; positions before
/// those come from hooks.
#[derive(Debug, Clone)]
pub struct TokenRanks {
    /// How many tokens of the row stand before, below 0 where there is padding, `[1 or batch, seq]`.
    pub from_start: Tensor<2, Int>,
    /// How many tokens of the row come after, below 0 where there is padding, `[1 or batch, seq]`;
    /// none when rows may go on.
    pub from_end: Option<Tensor<2, Int>>,
}

impl TokenRanks {
    /// Of whole rows with padding on either side.
    ///
    /// # Shapes
    /// - `mask`, 1 for tokens and 0 for padding: `[batch, seq]`
    pub(crate) fn of_rows(mask: &Tensor<2, Int>) -> Self {
        let counted = mask.clone().cumsum(1);
        let all = mask.clone().sum_dim(1);
        Self {
            from_start: counted.clone() * mask.clone() - 1,
            from_end: Some((all - counted + 1) * mask.clone() - 1),
        }
    }

    /// Of the last `seq` positions of rows that may go on.
    ///
    /// # Shapes
    /// - `mask`, 1 for tokens and 0 for padding: `[batch, past + seq]`
    pub(crate) fn of_started_rows(mask: &Tensor<2, Int>, seq: usize) -> Self {
        let [_, width] = mask.dims();
        let from_start = mask.clone().cumsum(1) * mask.clone() - 1;
        Self {
            from_start: from_start.narrow(1, width - seq, seq),
            from_end: None,
        }
    }

    /// Of `seq` tokens after `past` others.
    pub(crate) fn after(past: usize, seq: usize, device: &Device) -> Self {
        let places = Tensor::<1, Int>::arange(past as i64..(past + seq) as i64, device);
        Self {
            from_start: places.unsqueeze(),
            from_end: None,
        }
    }
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

    /// Whether [`Hooks::linear`] does anything at a site. Where it does not, the gradient of the
    /// input is all that backward needs.
    fn acts_on_linear(&self, _site: SiteId) -> bool {
        true
    }

    /// Whether all that happens within layers treats each token by itself, so that rows may come without
    /// their padding, as `[1, tokens, width]`. It does not where something stands in front of the
    /// tokens, or where a row has something for itself.
    fn takes_tokens_alone(&self) -> bool {
        false
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

    /// The output `y` of a sub-layer, before its residual connection, for the input `x` of its first
    /// linear layers: bottleneck adapters.
    fn block(&self, _site: SiteId, _x: &Tensor<3>, y: Tensor<3>) -> Tensor<3> {
        y
    }

    /// Whether [`Hooks::layer`] does anything: else it is not called.
    fn acts_on_layers(&self) -> bool {
        false
    }

    /// The output of a whole layer, by the site of its last sub-layer: ReFT.
    fn layer(&self, _last_block: SiteId, _ranks: &TokenRanks, y: Tensor<3>) -> Tensor<3> {
        y
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

    /// The hooks to use over rows whose tokens are these, where that makes a difference: gates that
    /// average over a row. Asked for by the layers of an encoder when hooks act on layers.
    fn over(&self, _ranks: &TokenRanks) -> Option<Box<dyn Hooks + '_>> {
        None
    }

    /// What stands in front of one layer's keys and values, by the layer's output projection, given
    /// the input of its other projections: gated prefixes. It may be another for each row.
    fn prefix(&self, _output: &Linear, _x: &Tensor<3>, prefix: &KeyValue) -> KeyValue {
        prefix.clone()
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

impl Hooks for NoHooks {
    fn acts_on_linear(&self, _site: SiteId) -> bool {
        false
    }

    fn takes_tokens_alone(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Int, Tensor};

    use super::TokenRanks;

    #[test]
    fn ranks_count_tokens_alone() {
        let host = |x: Tensor<2, Int>| x.into_data().iter::<i64>().collect::<Vec<_>>();
        let mask = Tensor::from_ints([[1, 1, 1, 0], [0, 0, 1, 1]], &Device::flex());
        let ranks = TokenRanks::of_rows(&mask);
        assert_eq!(host(ranks.from_start), [0, 1, 2, -1, -1, -1, 0, 1]);
        let from_end = ranks.from_end.map(host);
        assert_eq!(from_end.unwrap(), [2, 1, 0, -1, -1, -1, 1, 0]);
        let ranks = TokenRanks::of_started_rows(&mask, 2);
        assert_eq!(host(ranks.from_start), [2, -1, 0, 1]);
        assert!(ranks.from_end.is_none());
        let ranks = TokenRanks::after(3, 2, &Device::flex());
        assert_eq!(host(ranks.from_start), [3, 4]);
    }
}

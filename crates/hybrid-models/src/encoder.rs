//! The frozen post-norm stack that BERT, RoBERTa and DistilBERT share.

use std::ops::Range;

use burn::tensor::{Int, Tensor, TensorData};

use crate::blocks::{EncoderLayer, SelfInputs};
use crate::kernels::Packing;
use crate::layers::LayerPlace;
use crate::{Embedding, Hooks, KeyValue, ModelError, NoHooks, Norm, Stack, StackShape, TokenRanks};

/// Token ids of a padded batch.
#[derive(Debug, Clone)]
pub struct EncoderBatch {
    /// `[batch, seq]`.
    pub input_ids: Tensor<2, Int>,
    /// 1 for tokens, 0 for padding, `[batch, seq]`.
    pub attention_mask: Tensor<2, Int>,
    /// Segment of each token, `[batch, seq]`; all 0 when left out. Architectures with a single
    /// segment or none pay no attention to it.
    pub token_type_ids: Option<Tensor<2, Int>>,
}

/// How positions are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PositionRule {
    /// From 0, padding included.
    FromZero,
    /// From `pad_id + 1` over the tokens that are not `pad_id`; padding has position `pad_id`.
    AfterPadding { pad_id: usize },
}

/// What the layers of one forward attend with.
#[derive(Debug, Clone)]
pub struct EncoderAttention {
    /// 0 for tokens, the lowest number for padding, `[batch, 1, 1, seq]`.
    bias: Tensor<4>,
    /// One a layer.
    prefix: Option<Vec<KeyValue>>,
    /// None when hooks do not act on layers.
    ranks: Option<TokenRanks>,
    /// None when padding goes through the layers, too.
    packing: Option<Packing>,
}

impl EncoderAttention {
    /// The same, but that padding goes through no layer and comes out of the last one as zeros, where
    /// that is worth it and `hooks` take tokens alone. Tokens are what they are with it.
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

    /// Positions before the first token that a prefix takes.
    fn n_prefix(&self) -> usize {
        let first = self.prefix.as_ref().and_then(|layers| layers.first());
        first.map_or(0, |prefix| prefix.key.dims()[2])
    }

    /// Runs the layer with this index.
    fn through(
        &self,
        layer: &EncoderLayer,
        index: usize,
        hidden: Tensor<3>,
        hooks: &dyn Hooks,
    ) -> Tensor<3> {
        let over = self.ranks.as_ref().and_then(|ranks| hooks.over(ranks));
        let hooks = over.as_deref().unwrap_or(hooks);
        let inputs = SelfInputs {
            bias: Some(&self.bias),
            prefix: self.prefix.as_ref().map(|layers| &layers[index]),
            packing: self.packing.as_ref(),
            ..SelfInputs::default()
        };
        let y = layer.forward(hidden, inputs, hooks);
        match &self.ranks {
            Some(ranks) => hooks.layer(layer.feed_forward_block, ranks, y),
            None => y,
        }
    }
}

/// A frozen encoder.
#[derive(Debug, Clone)]
pub struct Encoder {
    pub(crate) words: Embedding,
    pub(crate) positions: Embedding,
    pub(crate) token_types: Option<Embedding>,
    pub(crate) embedding_norm: Norm,
    pub(crate) layers: Vec<EncoderLayer>,
    pub(crate) position_rule: PositionRule,
    pub(crate) n_heads: usize,
}

impl Encoder {
    /// Number of transformer layers.
    pub fn n_layers(&self) -> usize {
        self.layers.len()
    }

    /// Size of the hidden states.
    pub fn d_model(&self) -> usize {
        self.words.weight.dims()[1]
    }

    /// Number of attention heads.
    pub fn n_heads(&self) -> usize {
        self.n_heads
    }

    /// Size of the feed-forward layers' hidden features.
    pub fn d_ff(&self) -> usize {
        self.layers
            .first()
            .map_or(0, |layer| layer.feed_forward.up.weight.dims()[1])
    }

    /// Longest sequence that has positions.
    pub fn max_positions(&self) -> usize {
        let rows = self.positions.weight.dims()[0];
        match self.position_rule {
            PositionRule::FromZero => rows,
            PositionRule::AfterPadding { pad_id } => rows.saturating_sub(pad_id + 1),
        }
    }

    /// Size of the vocabulary.
    pub fn vocab_size(&self) -> usize {
        self.words.weight.dims()[0]
    }

    /// What the layers attend with.
    ///
    /// # Shapes
    /// - `batch`: `[batch, seq]`
    pub fn attention(&self, batch: &EncoderBatch, hooks: &dyn Hooks) -> EncoderAttention {
        let [size, seq] = batch.attention_mask.dims();
        let hidden = batch.attention_mask.clone().float() - 1.0;
        EncoderAttention {
            bias: (hidden * f32::MAX).reshape([size, 1, 1, seq]),
            prefix: hooks.key_values(Stack::Encoder),
            ranks: hooks
                .acts_on_layers()
                .then(|| TokenRanks::of_rows(&batch.attention_mask)),
            packing: None,
        }
    }

    /// The input of the first layer, with what `hooks` put in front of the tokens.
    ///
    /// # Shapes
    /// - `batch`: `[batch, seq]` → `[batch, n_virtual + seq, d_model]`
    ///
    /// # Panics
    /// If an id is not in the vocabulary or there are more positions than
    /// [`max_positions`](Self::max_positions).
    pub fn embed(
        &self,
        batch: &EncoderBatch,
        attention: &EncoderAttention,
        hooks: &dyn Hooks,
    ) -> Tensor<3> {
        let [size, seq] = batch.input_ids.dims();
        let words = hooks.embedding(&self.words, batch.input_ids.clone());
        let words = hooks.embedded(Stack::Encoder, words);
        let n_virtual = words.dims()[1] - seq;
        let positions = self.position_ids(&batch.input_ids, n_virtual, attention.n_prefix());
        let mut sum = words + hooks.embedding(&self.positions, positions);
        if let Some(token_types) = &self.token_types {
            let [n_types, _] = token_types.weight.dims();
            let device = batch.input_ids.device();
            let ids = match &batch.token_type_ids {
                Some(ids) if n_types > 1 && n_virtual > 0 => {
                    let in_front = Tensor::zeros([size, n_virtual], &device);
                    Tensor::cat(vec![in_front, ids.clone()], 1)
                }
                Some(ids) if n_types > 1 => ids.clone(),
                _ => Tensor::zeros([1, 1], &device),
            };
            sum = sum + hooks.embedding(token_types, ids);
        }
        hooks.norm(&self.embedding_norm, sum)
    }

    /// # Shapes
    /// - `[batch, seq]` → `[1 or batch, n_virtual + seq]`
    fn position_ids(
        &self,
        input_ids: &Tensor<2, Int>,
        n_virtual: usize,
        n_prefix: usize,
    ) -> Tensor<2, Int> {
        let [_, seq] = input_ids.dims();
        let from = |first: usize| {
            let end = first + n_virtual + seq;
            Tensor::<1, Int>::arange(first as i64..end as i64, &input_ids.device()).unsqueeze()
        };
        match self.position_rule {
            PositionRule::FromZero => from(n_prefix),
            // Vectors have no id that could be the padding's.
            PositionRule::AfterPadding { pad_id } if n_virtual > 0 => from(pad_id + 1 + n_prefix),
            PositionRule::AfterPadding { pad_id } => {
                let is_token = input_ids.clone().not_equal_elem(pad_id as i64).int();
                (is_token.clone().cumsum(1) + n_prefix as i64) * is_token + pad_id as i64
            }
        }
    }

    /// Runs some layers, one after the other.
    ///
    /// # Shapes
    /// - `hidden`: `[batch, seq, d_model]` → the same
    ///
    /// # Panics
    /// If there are not so many.
    pub fn layers(
        &self,
        layers: Range<usize>,
        hidden: Tensor<3>,
        attention: &EncoderAttention,
        hooks: &dyn Hooks,
    ) -> Tensor<3> {
        let run = |hidden, index| self.layer(index, hidden, attention, hooks);
        match &attention.packing {
            Some(packing) => packing.unpack(layers.fold(packing.pack(hidden), run)),
            None => layers.fold(hidden, run),
        }
    }

    /// # Shapes
    /// - `hidden`: `[batch, seq, d_model]`, or `[1, tokens, d_model]` when packed → the same
    fn layer(
        &self,
        index: usize,
        hidden: Tensor<3>,
        attention: &EncoderAttention,
        hooks: &dyn Hooks,
    ) -> Tensor<3> {
        let layer = &self.layers[index];
        match (&attention.prefix, hooks.recomputation()) {
            (None, Some(recomputation)) => {
                let (layer, attention) = (layer.clone(), attention.clone());
                recomputation.layer(&hidden, move |hidden, hooks| {
                    attention.through(&layer, index, hidden, hooks)
                })
            }
            _ => attention.through(layer, index, hidden, hooks),
        }
    }

    /// The last hidden states.
    ///
    /// # Shapes
    /// - `batch`: `[batch, seq]` → `[batch, n_virtual + seq, d_model]`
    ///
    /// # Panics
    /// As [`embed`](Self::embed), and if `hooks` have keys for fewer layers than there are.
    pub fn forward(&self, batch: &EncoderBatch, hooks: &dyn Hooks) -> Tensor<3> {
        let attention = self.attention(batch, hooks);
        let embedded = self.embed(batch, &attention, hooks);
        self.layers(0..self.n_layers(), embedded, &attention, hooks)
    }

    pub(crate) fn shape(&self) -> StackShape {
        StackShape {
            stack: Stack::Encoder,
            words: self.words.site,
            vocab: self.vocab_size(),
            word_scale: 1.0,
            d_model: self.d_model(),
            n_layers: self.n_layers(),
            n_heads: self.n_heads,
            n_kv_heads: self.n_heads,
            d_head: self.d_model() / self.n_heads,
        }
    }

    /// Keys and values of tokens that are all that is read.
    ///
    /// # Errors
    /// [`ModelError::UnknownToken`], [`ModelError::TooManyPositions`].
    pub(crate) fn key_values(&self, ids: &[i64]) -> Result<Vec<KeyValue>, ModelError> {
        let (vocab, limit) = (self.vocab_size(), self.max_positions());
        if let Some(id) = ids.iter().find(|id| !(0..vocab as i64).contains(*id)) {
            let (row, id) = (0, *id);
            return Err(ModelError::UnknownToken { row, id, vocab });
        }
        if ids.len() > limit {
            let positions = ids.len();
            return Err(ModelError::TooManyPositions { positions, limit });
        }
        let data = TensorData::new(ids.to_vec(), [1, ids.len()]);
        let input_ids = Tensor::<2, Int>::from_data(data, &self.words.weight.device());
        let batch = EncoderBatch {
            attention_mask: input_ids.ones_like(),
            token_type_ids: None,
            input_ids,
        };
        let attention = self.attention(&batch, &NoHooks);
        let mut hidden = self.embed(&batch, &attention, &NoHooks);
        let mut key_values = Vec::with_capacity(self.n_layers());
        for (index, layer) in self.layers.iter().enumerate() {
            let (_, own) = layer.attention.project(hidden.clone(), None, &NoHooks);
            key_values.push(own);
            hidden = self.layer(index, hidden, &attention, &NoHooks);
        }
        Ok(key_values)
    }

    pub(crate) fn places(&mut self) -> impl Iterator<Item = LayerPlace<'_>> {
        [
            LayerPlace::Embedding(&mut self.words),
            LayerPlace::Embedding(&mut self.positions),
        ]
        .into_iter()
        .chain(self.token_types.as_mut().map(LayerPlace::Embedding))
        .chain([LayerPlace::Norm(&mut self.embedding_norm)])
        .chain(self.layers.iter_mut().flat_map(EncoderLayer::places))
    }
}

//! The frozen pre-norm stack that GPT-2 and the Llama family share.

mod attention;
mod places;

use std::ops::Range;

use burn::tensor::{Int, Tensor, TensorData};

use crate::blocks::{DecoderLayer, KvCache, SelfInputs, padding_bias};
use crate::layers::LayerPlace;
use crate::rope::Rope;
use crate::{Embedding, Hooks, KeyValue, ModelError, NoHooks, Norm, Stack, StackShape, TokenRanks};
pub use attention::DecoderAttention;
use places::Places;
pub(crate) use places::TreeTokens;

/// Token ids of a padded batch, or of the next tokens after those in a cache.
#[derive(Debug, Clone)]
pub struct DecoderBatch {
    /// `[batch, seq]`.
    pub input_ids: Tensor<2, Int>,
    /// 1 for tokens, 0 for padding on either side, `[batch, cached + seq]`; all tokens when left
    /// out. What hooks have put in front is not in it.
    pub attention_mask: Option<Tensor<2, Int>>,
    /// `[batch, seq]`, counted without what hooks put in front. When left out, positions count all
    /// places, those of padding too.
    pub position_ids: Option<Tensor<2, Int>>,
}

impl DecoderBatch {
    /// Rows with padding on either side, their tokens counted from 0.
    ///
    /// # Shapes
    /// - `input_ids`, `attention_mask`: `[batch, seq]`
    pub fn padded(input_ids: Tensor<2, Int>, attention_mask: Tensor<2, Int>) -> Self {
        let counted = attention_mask.clone().cumsum(1) - 1;
        Self {
            input_ids,
            position_ids: Some(counted.clamp_min(0)),
            attention_mask: Some(attention_mask),
        }
    }

    /// Where the tokens stand in their rows, after `past` places in a cache.
    fn ranks(&self, past: usize) -> TokenRanks {
        let [_, seq] = self.input_ids.dims();
        match (&self.attention_mask, &self.position_ids) {
            (Some(mask), _) => TokenRanks::of_started_rows(mask, seq),
            (None, Some(positions)) => TokenRanks {
                from_start: positions.clone(),
                from_end: None,
            },
            (None, None) => TokenRanks::after(past, seq, &self.input_ids.device()),
        }
    }
}

/// How places in a sequence are told apart.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "there is one in a model")]
pub(crate) enum Positions {
    /// A table of vectors that are added to those of the words.
    Learned(Embedding),
    /// Turned queries and keys.
    Rotary(Rope),
}

/// A frozen decoder.
#[derive(Debug, Clone)]
pub struct Decoder {
    pub(crate) words: Embedding,
    pub(crate) positions: Positions,
    pub(crate) layers: Vec<DecoderLayer>,
    pub(crate) final_norm: Norm,
    /// Positions that sliding layers see, the present one included.
    pub(crate) window: Option<usize>,
}

impl Decoder {
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
        self.layers
            .first()
            .map_or(0, |layer| layer.attention.heads.n_heads)
    }

    /// Number of key and value heads.
    pub fn n_kv_heads(&self) -> usize {
        self.layers
            .first()
            .map_or(0, |layer| layer.attention.heads.n_kv_heads)
    }

    /// Size of one head.
    pub fn d_head(&self) -> usize {
        self.layers
            .first()
            .map_or(0, |layer| layer.attention.heads.d_head)
    }

    /// Size of the feed-forward layers' hidden features.
    pub fn d_ff(&self) -> usize {
        self.layers
            .first()
            .map_or(0, |layer| layer.feed_forward.up.weight.dims()[1])
    }

    /// Size of the vocabulary.
    pub fn vocab_size(&self) -> usize {
        self.words.weight.dims()[0]
    }

    /// Longest sequence that the model is made for. Rotary positions go on beyond it, learned ones
    /// do not.
    pub fn max_positions(&self) -> usize {
        match &self.positions {
            Positions::Learned(table) => table.weight.dims()[0],
            Positions::Rotary(rope) => rope.max_positions(),
        }
    }

    /// Whether a sequence of this length has positions.
    ///
    /// # Errors
    /// [`ModelError::TooManyPositions`] when positions are learned and do not suffice.
    pub(crate) fn check_length(&self, positions: usize) -> Result<(), ModelError> {
        let limit = match &self.positions {
            Positions::Learned(table) => table.weight.dims()[0],
            Positions::Rotary(_) => return Ok(()),
        };
        match positions > limit {
            true => Err(ModelError::TooManyPositions { positions, limit }),
            false => Ok(()),
        }
    }

    /// Whether every id has an embedding.
    ///
    /// # Errors
    /// [`ModelError::UnknownToken`].
    pub(crate) fn check_ids(&self, row: usize, ids: &[i64]) -> Result<(), ModelError> {
        let vocab = self.vocab_size();
        let unknown = |id: &&i64| !(0..vocab as i64).contains(*id);
        match ids.iter().find(unknown) {
            Some(id) => Err(ModelError::UnknownToken {
                row,
                id: *id,
                vocab,
            }),
            None => Ok(()),
        }
    }

    /// The first layer whose output on a sequence is not finite, counted from 0.
    pub fn faulty_layer(&self, ids: &[i64], hooks: &dyn Hooks) -> Option<usize> {
        let device = self.words.weight.device();
        let n_ids = ids.len();
        let input_ids = Tensor::from_data(TensorData::new(ids.to_vec(), [1, n_ids]), &device);
        let batch = DecoderBatch {
            input_ids,
            attention_mask: None,
            position_ids: None,
        };
        let (mut hidden, attention) = self.begin(&batch, None, hooks).ok()?;
        (0..self.n_layers()).find(|index| {
            let layer = *index..index + 1;
            hidden = self.layers(layer, hidden.clone(), &attention, None, hooks);
            hidden
                .to_data()
                .iter::<f32>()
                .any(|value| !value.is_finite())
        })
    }

    pub(crate) fn shape(&self) -> StackShape {
        StackShape {
            stack: Stack::Decoder,
            words: self.words.site,
            vocab: self.vocab_size(),
            word_scale: 1.0,
            d_model: self.d_model(),
            n_layers: self.n_layers(),
            n_heads: self.n_heads(),
            n_kv_heads: self.n_kv_heads(),
            d_head: self.d_head(),
        }
    }

    /// Keys and values of tokens that are all that is read.
    ///
    /// # Errors
    /// [`ModelError::UnknownToken`], [`ModelError::TooManyPositions`].
    pub(crate) fn key_values(&self, ids: &[i64]) -> Result<Vec<KeyValue>, ModelError> {
        self.check_ids(0, ids)?;
        let data = TensorData::new(ids.to_vec(), [1, ids.len()]);
        let batch = DecoderBatch {
            input_ids: Tensor::from_data(data, &self.words.weight.device()),
            attention_mask: None,
            position_ids: None,
        };
        let mut cache = self.new_cache(ids.len());
        self.forward(&batch, Some(&mut cache), &NoHooks)?;
        Ok(cache.key_values())
    }

    /// An empty cache with room for `capacity` positions, more when they are needed.
    pub fn new_cache(&self, capacity: usize) -> KvCache {
        KvCache::new(self.n_layers(), capacity)
    }

    /// The input of the first layer, with what `hooks` put in front of the tokens, and what the
    /// layers attend with. Hooks put something in front of the first tokens of a cache only.
    ///
    /// # Shapes
    /// - `batch`: `[batch, seq]` → `[batch, n_virtual + seq, d_model]`
    ///
    /// # Errors
    /// [`ModelError::BatchShape`], or [`ModelError::TooManyPositions`] when positions are learned.
    ///
    /// # Panics
    /// If an id is not in the vocabulary.
    pub fn begin(
        &self,
        batch: &DecoderBatch,
        cache: Option<&mut KvCache>,
        hooks: &dyn Hooks,
    ) -> Result<(Tensor<3>, DecoderAttention), ModelError> {
        self.begin_with(batch, None, cache, hooks)
    }

    fn begin_with(
        &self,
        batch: &DecoderBatch,
        tree: Option<&TreeTokens>,
        cache: Option<&mut KvCache>,
        hooks: &dyn Hooks,
    ) -> Result<(Tensor<3>, DecoderAttention), ModelError> {
        let [size, seq] = batch.input_ids.dims();
        let held = cache.as_ref().map_or(0, |cache| cache.len());
        let mut n_virtual = cache.as_ref().map_or(0, |cache| cache.n_virtual);
        let mut words = hooks.embedding(&self.words, batch.input_ids.clone());
        let mut prefix = None;
        if held == 0 {
            words = hooks.embedded(Stack::Decoder, words);
            prefix = hooks.key_values(Stack::Decoder);
        }
        let n_soft = words.dims()[1] - seq;
        let n_prefix = prefix
            .as_ref()
            .and_then(|layers| layers.first())
            .map_or(0, |first| first.key.dims()[2]);
        if held == 0 {
            n_virtual = n_soft + n_prefix;
            if let Some(cache) = cache {
                cache.n_virtual = n_virtual;
            }
        }
        let places = Places {
            past: held + n_prefix,
            own: n_soft + seq,
            n_soft,
            n_virtual,
        };
        let width = places.keys() - n_virtual;
        check_shape("attention_mask", &batch.attention_mask, [size, width])?;
        check_shape("position_ids", &batch.position_ids, [size, seq])?;
        let position_ids = places.position_ids(batch);
        let (hidden, rotation) = match &self.positions {
            Positions::Learned(table) => {
                self.check_length(match &batch.position_ids {
                    None => places.keys(),
                    Some(_) => 1 + position_ids.clone().max().into_scalar::<i64>().max(0) as usize,
                })?;
                (words + hooks.embedding(table, position_ids), None)
            }
            Positions::Rotary(rope) => (words, Some(rope.rotation(position_ids))),
        };
        let padding = batch.attention_mask.as_ref();
        let padding = padding.map(|mask| padding_bias(mask, n_virtual));
        let device = batch.input_ids.device();
        let any = |sliding| self.layers.iter().any(|layer| layer.sliding == sliding);
        let bias = |sliding, window| match tree {
            None if any(sliding) => places::bias(&places, window, padding.clone(), &device),
            _ => None,
        };
        let sights = |tree: &TreeTokens| {
            [(false, None), (true, self.window)].map(|(sliding, window)| match any(sliding) {
                true => tree.sights(&places, window, &device),
                false => Vec::new(),
            })
        };
        let attention = DecoderAttention {
            full: bias(false, None),
            sliding: bias(true, self.window),
            sights: tree.map(sights),
            rotation,
            prefix,
            ranks: hooks.acts_on_layers().then(|| batch.ranks(width - seq)),
            packing: None,
        };
        Ok((hidden, attention))
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
        attention: &DecoderAttention,
        mut cache: Option<&mut KvCache>,
        hooks: &dyn Hooks,
    ) -> Tensor<3> {
        let run = |hidden, index| self.layer(index, hidden, attention, cache.as_deref_mut(), hooks);
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
        attention: &DecoderAttention,
        cache: Option<&mut KvCache>,
        hooks: &dyn Hooks,
    ) -> Tensor<3> {
        let layer = &self.layers[index];
        if let (None, None, Some(recomputation)) =
            (&attention.prefix, &cache, hooks.recomputation())
        {
            let (layer, attention) = (layer.clone(), attention.clone());
            return recomputation.layer(&hidden, move |hidden, hooks| {
                let y = layer.forward(hidden, attention.inputs(&layer), hooks);
                attention.finish(&layer, y, hooks)
            });
        }
        let inputs = SelfInputs {
            prefix: attention.prefix.as_ref().map(|layers| &layers[index]),
            cache: cache.map(|cache| &mut cache.layers[index]),
            ..attention.inputs(layer)
        };
        let y = layer.forward(hidden, inputs, hooks);
        attention.finish(layer, y, hooks)
    }

    /// The last layer's output, normalised.
    ///
    /// # Shapes
    /// - `hidden`: `[batch, seq, d_model]` → the same
    pub fn finish(&self, hidden: Tensor<3>, hooks: &dyn Hooks) -> Tensor<3> {
        hooks.norm(&self.final_norm, hidden)
    }

    /// The last hidden states. With a cache, `batch` has the tokens after those in it, and their
    /// keys and values are added to it.
    ///
    /// # Shapes
    /// - `batch`: `[batch, seq]` → `[batch, n_virtual + seq, d_model]`
    ///
    /// # Errors
    /// As [`begin`](Self::begin).
    ///
    /// # Panics
    /// As [`begin`](Self::begin), and if `hooks` have keys for fewer layers than there are.
    pub fn forward(
        &self,
        batch: &DecoderBatch,
        mut cache: Option<&mut KvCache>,
        hooks: &dyn Hooks,
    ) -> Result<Tensor<3>, ModelError> {
        let (hidden, attention) = self.begin(batch, cache.as_deref_mut(), hooks)?;
        Ok(self.through_layers(hidden, &attention, cache, hooks))
    }

    /// The last hidden state of each row's last token that is not `padding_id`; without such an id,
    /// of the last place that the mask does not hide.
    ///
    /// # Shapes
    /// - `batch`: `[batch, seq]` → `[batch, d_model]`
    ///
    /// # Errors
    /// As [`begin`](Self::begin).
    ///
    /// # Panics
    /// As [`forward`](Self::forward).
    pub fn last_token(
        &self,
        batch: &DecoderBatch,
        padding_id: Option<usize>,
        hooks: &dyn Hooks,
    ) -> Result<Tensor<2>, ModelError> {
        let hidden = self.forward(batch, None, hooks)?;
        let [size, seq] = batch.input_ids.dims();
        let [_, all, d_model] = hidden.dims();
        let counted = Tensor::<1, Int>::arange(0..seq as i64, &batch.input_ids.device());
        let counted = counted.unsqueeze::<2>().expand([size, seq]);
        let counted = match (padding_id, &batch.attention_mask) {
            (Some(padding_id), _) => {
                let ids = batch.input_ids.clone();
                counted * ids.not_equal_elem(padding_id as i64).int()
            }
            (None, Some(mask)) => counted * mask.clone(),
            (None, None) => counted,
        };
        let last = counted.max_dim(1) + (all - seq) as i64;
        let last = last.unsqueeze_dim::<3>(2).expand([size, 1, d_model]);
        Ok(hidden.gather(1, last).reshape([size, d_model]))
    }

    /// The last hidden states of tokens of a tree, whose path the cache holds.
    ///
    /// # Shapes
    /// - `ids`: one a token → `[1, n_virtual + tokens, d_model]`
    ///
    /// # Errors
    /// As [`begin`](Self::begin).
    pub(crate) fn forward_tree(
        &self,
        ids: &[i64],
        tree: &TreeTokens,
        cache: &mut KvCache,
        hooks: &dyn Hooks,
    ) -> Result<Tensor<3>, ModelError> {
        let device = self.words.weight.device();
        let ints = |values: Vec<i64>| -> Tensor<2, Int> {
            let n_values = values.len();
            Tensor::from_data(TensorData::new(values, [1, n_values]), &device)
        };
        let depths = tree.depths.iter().map(|depth| *depth as i64);
        let batch = DecoderBatch {
            input_ids: ints(ids.to_vec()),
            attention_mask: None,
            position_ids: Some(ints(depths.collect())),
        };
        let (hidden, attention) = self.begin_with(&batch, Some(tree), Some(cache), hooks)?;
        Ok(self.through_layers(hidden, &attention, Some(cache), hooks))
    }

    fn through_layers(
        &self,
        hidden: Tensor<3>,
        attention: &DecoderAttention,
        cache: Option<&mut KvCache>,
        hooks: &dyn Hooks,
    ) -> Tensor<3> {
        let hidden = self.layers(0..self.n_layers(), hidden, attention, cache, hooks);
        self.finish(hidden, hooks)
    }

    pub(crate) fn places(&mut self) -> impl Iterator<Item = LayerPlace<'_>> {
        let table = match &mut self.positions {
            Positions::Learned(table) => Some(LayerPlace::Embedding(table)),
            Positions::Rotary(_) => None,
        };
        [LayerPlace::Embedding(&mut self.words)]
            .into_iter()
            .chain(table)
            .chain(self.layers.iter_mut().flat_map(DecoderLayer::places))
            .chain([LayerPlace::Norm(&mut self.final_norm)])
    }
}

fn check_shape(
    what: &'static str,
    ids: &Option<Tensor<2, Int>>,
    expected: [usize; 2],
) -> Result<(), ModelError> {
    match ids {
        Some(ids) if ids.dims() != expected => Err(ModelError::BatchShape {
            what,
            expected: expected.to_vec(),
            found: ids.dims().to_vec(),
        }),
        _ => Ok(()),
    }
}

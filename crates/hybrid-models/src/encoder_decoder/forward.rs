//! Reading an input and the targets of it.

use std::ops::Range;

use burn::tensor::{Int, Tensor, TensorData};

use super::EncoderDecoder;
use crate::blocks::{KvCache, Memory, SelfInputs, padding_bias};
use crate::head::{rows_at, sum_of_logits};
use crate::losses::cross_entropy_sum;
use crate::{EncoderBatch, Hooks, IGNORED, KeyValue, ModelError, TokenRanks};

/// An encoder's output, for a decoder to attend to.
#[derive(Debug, Clone)]
pub struct Encoded {
    /// `[batch, n_virtual + seq, d_model]`.
    pub states: Tensor<3>,
    /// Hides padding, `[batch, 1, 1, n_virtual + seq]`.
    pub(super) bias: Tensor<4>,
}

/// Keys and values of the targets so far, and those of the encoder's output.
#[derive(Debug, Clone)]
pub struct EncoderDecoderCache {
    pub(super) own: KvCache,
    /// One a layer.
    pub(super) memory: Vec<Option<KeyValue>>,
}

impl EncoderDecoderCache {
    /// Positions of targets held, those of hooks included.
    pub fn len(&self) -> usize {
        self.own.len()
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.own.is_empty()
    }
}

impl EncoderDecoder {
    /// An empty cache with room for `capacity` targets, more when they are needed.
    pub fn new_cache(&self, capacity: usize) -> EncoderDecoderCache {
        EncoderDecoderCache {
            own: KvCache::new(self.n_decoder_layers(), capacity),
            memory: vec![None; self.n_decoder_layers()],
        }
    }

    /// Reads an input.
    ///
    /// # Shapes
    /// - `batch`: `[batch, seq]`
    ///
    /// # Errors
    /// [`ModelError::BatchShape`], [`ModelError::TooManyPositions`].
    ///
    /// # Panics
    /// If an id is not in the vocabulary, or if `hooks` have keys for fewer layers than there are.
    pub fn encode(&self, batch: &EncoderBatch, hooks: &dyn Hooks) -> Result<Encoded, ModelError> {
        self.run_encoder(batch, hooks, |_| ())
    }

    /// The encoder's hidden states: those that enter the first layer and those that leave each
    /// layer, the last ones normalised where the model does so.
    ///
    /// # Shapes
    /// - `batch`: `[batch, seq]` → each `[batch, n_virtual + seq, d_model]`
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    ///
    /// # Panics
    /// As [`encode`](Self::encode).
    pub fn encoder_states(
        &self,
        batch: &EncoderBatch,
        hooks: &dyn Hooks,
    ) -> Result<Vec<Tensor<3>>, ModelError> {
        let mut states = Vec::new();
        let encoded = self.run_encoder(batch, hooks, |hidden| states.push(hidden.clone()))?;
        states.push(encoded.states);
        Ok(states)
    }

    /// `entering` sees what enters each layer.
    fn run_encoder(
        &self,
        batch: &EncoderBatch,
        hooks: &dyn Hooks,
        mut entering: impl FnMut(&Tensor<3>),
    ) -> Result<Encoded, ModelError> {
        let (ids, mask) = (&batch.input_ids, &batch.attention_mask);
        if mask.dims() != ids.dims() {
            return Err(ModelError::BatchShape {
                what: "attention_mask",
                expected: ids.dims().to_vec(),
                found: mask.dims().to_vec(),
            });
        }
        let begun = self.encoder.begin(ids, Some(mask), 0, hooks)?;
        let in_front = begun.hidden.dims()[1] - ids.dims()[1];
        let mut hidden = begun.hidden;
        let ranks = hooks.acts_on_layers().then(|| TokenRanks::of_rows(mask));
        for (index, layer) in self.encoder.layers.iter().enumerate() {
            entering(&hidden);
            let inputs = SelfInputs {
                bias: begun.bias.as_ref(),
                prefix: begun.prefix.as_ref().map(|layers| &layers[index]),
                ..SelfInputs::default()
            };
            hidden = layer.forward(hidden, inputs, None, ranks.as_ref(), hooks);
        }
        Ok(Encoded {
            states: self.encoder.finish(hidden, hooks),
            bias: padding_bias(mask, in_front),
        })
    }

    /// The decoder's last hidden states. With a cache, `ids` are those after the ones in it, and
    /// their keys and values are added to it.
    ///
    /// # Shapes
    /// - `ids`: `[batch, seq]` → `[batch, n_virtual + seq, d_model]`
    ///
    /// # Errors
    /// [`ModelError::BatchShape`], [`ModelError::TooManyPositions`].
    ///
    /// # Panics
    /// If an id is not in the vocabulary, or if `hooks` have keys for fewer layers than there are.
    pub fn decode(
        &self,
        ids: &Tensor<2, Int>,
        encoded: &Encoded,
        cache: Option<&mut EncoderDecoderCache>,
        hooks: &dyn Hooks,
    ) -> Result<Tensor<3>, ModelError> {
        self.run_decoder(ids, encoded, cache, hooks, |_| ())
    }

    /// The decoder's hidden states: those that enter the first layer and those that leave each
    /// layer, the last ones normalised where the model does so.
    ///
    /// # Shapes
    /// - `ids`: `[batch, seq]` → each `[batch, n_virtual + seq, d_model]`
    ///
    /// # Errors
    /// As [`decode`](Self::decode).
    ///
    /// # Panics
    /// As [`decode`](Self::decode).
    pub fn decoder_states(
        &self,
        ids: &Tensor<2, Int>,
        encoded: &Encoded,
        hooks: &dyn Hooks,
    ) -> Result<Vec<Tensor<3>>, ModelError> {
        let mut states = Vec::new();
        let entering = |hidden: &Tensor<3>| states.push(hidden.clone());
        let last = self.run_decoder(ids, encoded, None, hooks, entering)?;
        states.push(last);
        Ok(states)
    }

    /// The first layer whose output is not finite on an input and what is written for it, counted
    /// from 0 over the encoder's layers and then the decoder's.
    pub fn faulty_layer(
        &self,
        input: &EncoderBatch,
        ids: &Tensor<2, Int>,
        hooks: &dyn Hooks,
    ) -> Option<usize> {
        let encoder = self.encoder_states(input, hooks).ok()?;
        let encoded = self.encode(input, hooks).ok()?;
        let decoder = self.decoder_states(ids, &encoded, hooks).ok()?;
        // The first state of each stack is no layer's.
        let outputs = encoder
            .into_iter()
            .skip(1)
            .chain(decoder.into_iter().skip(1));
        let finite = |x: Tensor<3>| x.into_data().iter::<f32>().all(f32::is_finite);
        outputs.map(finite).position(|finite| !finite)
    }

    fn run_decoder(
        &self,
        ids: &Tensor<2, Int>,
        encoded: &Encoded,
        mut cache: Option<&mut EncoderDecoderCache>,
        hooks: &dyn Hooks,
        mut entering: impl FnMut(&Tensor<3>),
    ) -> Result<Tensor<3>, ModelError> {
        let [batch, seq] = ids.dims();
        let [inputs, _, _] = encoded.states.dims();
        if batch != inputs {
            return Err(ModelError::BatchShape {
                what: "decoder_input_ids",
                expected: vec![inputs, seq],
                found: vec![batch, seq],
            });
        }
        let held = cache.as_ref().map_or(0, |cache| cache.len());
        let begun = self.decoder.begin(ids, None, held, hooks)?;
        let mut hidden = begun.hidden;
        let mut n_virtual = cache.as_ref().map_or(0, |cache| cache.own.n_virtual);
        if held == 0 {
            let prefix = begun.prefix.as_ref().and_then(|layers| layers.first());
            n_virtual = hidden.dims()[1] - seq + prefix.map_or(0, |first| first.key.dims()[2]);
            if let Some(cache) = cache.as_deref_mut() {
                cache.own.n_virtual = n_virtual;
            }
        }
        let past = held.saturating_sub(n_virtual);
        let ranks = hooks
            .acts_on_layers()
            .then(|| TokenRanks::after(past, seq, &ids.device()));
        for (index, layer) in self.decoder.layers.iter().enumerate() {
            entering(&hidden);
            let (own, kept) = match cache.as_deref_mut() {
                Some(EncoderDecoderCache { own, memory }) => {
                    (Some(&mut own.layers[index]), Some(&mut memory[index]))
                }
                None => (None, None),
            };
            let inputs = SelfInputs {
                bias: begun.bias.as_ref(),
                prefix: begun.prefix.as_ref().map(|layers| &layers[index]),
                cache: own,
                ..SelfInputs::default()
            };
            let memory = Some(Memory {
                states: &encoded.states,
                bias: &encoded.bias,
                kept,
            });
            hidden = layer.forward(hidden, inputs, memory, ranks.as_ref(), hooks);
        }
        Ok(self.decoder.finish(hidden, hooks))
    }

    /// Logits of the vocabulary at every place.
    ///
    /// # Shapes
    /// - `hidden`, of [`decode`](Self::decode): `[batch, seq, d_model]` → `[batch, seq, vocab]`
    pub fn logits(&self, hidden: Tensor<3>, hooks: &dyn Hooks) -> Tensor<3> {
        let hidden = match self.output_scale {
            1.0 => hidden,
            scale => hidden.mul_scalar(scale),
        };
        let logits = hooks.linear(&self.output, hidden);
        match &self.logits_bias {
            Some(bias) => logits + bias.values.clone().unsqueeze(),
            None => logits,
        }
    }

    /// Logits of the vocabulary at chosen places: `row * seq + position` each. No other place
    /// reaches the output layer.
    ///
    /// # Shapes
    /// - `hidden`, of [`decode`](Self::decode): `[batch, seq, d_model]` → `[places, vocab]`
    ///
    /// # Panics
    /// If a place is outside of `hidden`.
    pub fn logits_at(&self, hidden: Tensor<3>, places: &[usize], hooks: &dyn Hooks) -> Tensor<2> {
        self.logits_of(rows_at(hidden, places), hooks)
    }

    /// # Shapes
    /// - `rows`: `[rows, d_model]` → `[rows, vocab]`
    fn logits_of(&self, rows: Tensor<2>, hooks: &dyn Hooks) -> Tensor<2> {
        self.logits(rows.unsqueeze_dim(1), hooks).squeeze_dim(1)
    }

    /// The sum of a loss over the logits of the targets, each given the input and the targets before
    /// it. `loss` is given the logits of some targets, as few at a time as keeps them small, and
    /// which of all targets they are, row by row. [`IGNORED`] asks for nothing.
    ///
    /// # Shapes
    /// - `batch`: `[batch, seq]`, `labels`: `[batch, labels]`, given to `loss`: `[group, vocab]` → `[1]`
    ///
    /// # Errors
    /// As [`target_logits`](Self::target_logits).
    ///
    /// # Panics
    /// As [`encode`](Self::encode).
    pub fn target_sum(
        &self,
        batch: &EncoderBatch,
        labels: &Tensor<2, Int>,
        hooks: &dyn Hooks,
        loss: impl Fn(Tensor<2>, Range<usize>) -> Tensor<1>,
    ) -> Result<Tensor<1>, ModelError> {
        let (rows, _) = self.target_states(batch, labels, hooks)?;
        Ok(self.sum_of(&rows, hooks, loss))
    }

    fn sum_of(
        &self,
        rows: &Tensor<2>,
        hooks: &dyn Hooks,
        loss: impl Fn(Tensor<2>, Range<usize>) -> Tensor<1>,
    ) -> Tensor<1> {
        let logits = |rows| self.logits_of(rows, hooks);
        sum_of_logits(&self.output, rows, hooks, logits, loss)
    }

    /// Logits of the targets, each given the input and the targets before it, and those targets,
    /// row by row. [`IGNORED`] asks for nothing.
    ///
    /// # Shapes
    /// - `batch`: `[batch, seq]`, `labels`: `[batch, labels]` → `[targets, vocab]` and `[targets]`
    ///
    /// # Errors
    /// [`ModelError::NoTarget`] when no label is left, and as [`encode`](Self::encode) and
    /// [`decode`](Self::decode).
    ///
    /// # Panics
    /// As [`encode`](Self::encode).
    pub fn target_logits(
        &self,
        batch: &EncoderBatch,
        labels: &Tensor<2, Int>,
        hooks: &dyn Hooks,
    ) -> Result<(Tensor<2>, Tensor<1, Int>), ModelError> {
        let (rows, targets) = self.target_states(batch, labels, hooks)?;
        Ok((self.logits_of(rows, hooks), targets))
    }

    /// The last hidden states of the places that predict a target, and those targets.
    fn target_states(
        &self,
        batch: &EncoderBatch,
        labels: &Tensor<2, Int>,
        hooks: &dyn Hooks,
    ) -> Result<(Tensor<2>, Tensor<1, Int>), ModelError> {
        let [_, seq] = labels.dims();
        let all = labels.to_data();
        let (indices, targets): (Vec<usize>, Vec<i64>) = all
            .iter::<i64>()
            .enumerate()
            .filter(|(_, label)| *label != IGNORED)
            .unzip();
        if targets.is_empty() {
            return Err(ModelError::NoTarget);
        }
        let encoded = self.encode(batch, hooks)?;
        let ids = self.tokens.shift_right(labels);
        let hidden = self.decode(&ids, &encoded, None, hooks)?;
        let n_virtual = hidden.dims()[1] - seq;
        let places: Vec<usize> = indices
            .into_iter()
            .map(|index| index + (index / seq + 1) * n_virtual)
            .collect();
        let n_targets = targets.len();
        let targets = TensorData::new(targets, [n_targets]);
        let targets = Tensor::from_data(targets, &labels.device());
        Ok((rows_at(hidden, &places), targets))
    }

    /// Mean negative log-likelihood of the labels that are not [`IGNORED`], as Transformers'
    /// conditional generation models define it.
    ///
    /// # Shapes
    /// - `batch`: `[batch, seq]`, `labels`: `[batch, labels]` → `[1]`
    ///
    /// # Errors
    /// As [`target_logits`](Self::target_logits).
    ///
    /// # Panics
    /// As [`encode`](Self::encode).
    pub fn loss(
        &self,
        batch: &EncoderBatch,
        labels: &Tensor<2, Int>,
        hooks: &dyn Hooks,
    ) -> Result<Tensor<1>, ModelError> {
        let (rows, targets) = self.target_states(batch, labels, hooks)?;
        let loss = |logits, range| cross_entropy_sum(logits, targets.clone().slice([range]));
        let sum = self.sum_of(&rows, hooks, loss);
        let [n_targets] = targets.dims();
        Ok(sum.div_scalar(n_targets as f64))
    }
}

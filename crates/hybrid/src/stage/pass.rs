//! Loss and gradients of one piece of a batch.
//!
//! A language model learns label words as the field does since PET (Schick and Schuetze 2021): by a
//! softmax over the label words alone, which is how they are scored, too. Other texts it learns token
//! by token; the prompt's own tokens are never targets.

use std::ops::Range;
use std::sync::Arc;

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::{Int, Tensor, TensorData};
use hybrid_adapters::Trainable;
use hybrid_data::Encoding;
use hybrid_models::{DecoderModel, EncoderBatch, EncoderDecoder, Hooks, IGNORED};
use hybrid_optim::{cross_entropy_sum, with_margin};

use super::prefix::{Lower, Prefix};
use crate::HybridError;
use crate::local_model::{LanguageBase, LocalModel};
use crate::recipe::AdapterStage;

/// What is trained on.
pub(super) struct Input {
    /// The rendered rows as tokens; of a language model's row, prompt and wanted text, which an
    /// encoder-decoder reads apart.
    pub(super) encodings: Vec<Encoding>,
    pub(super) targets: Targets,
    /// The lowest layer that is trained.
    pub(super) lowest_layer: usize,
    /// What lies under that layer.
    pub(super) prefix: Arc<Prefix>,
}

/// What is to be learned of each row.
pub(super) enum Targets {
    /// A class, by a classifier head.
    Head(Vec<usize>),
    /// Where the answer starts and ends in the row's passage, by a span head.
    Spans(Vec<SpanTarget>),
    /// A class, by the label word that a language model says next.
    LabelWords {
        /// The class of each row.
        classes: Vec<usize>,
        /// The first tokens of each class's label words.
        tokens: Vec<Vec<i32>>,
    },
    /// The tokens from a place on, by a language model: how many come before them in each row.
    Tokens(Vec<usize>),
}

/// An answer in a row: its first and last token, counted from the first one of the passage.
pub(super) struct SpanTarget {
    pub(super) passage: Range<usize>,
    pub(super) first: usize,
    pub(super) last: usize,
}

impl Input {
    /// What the loss of some rows is averaged over: the rows, their starts and ends, or their wanted
    /// tokens.
    pub(super) fn weight(&self, rows: &[usize]) -> usize {
        match &self.targets {
            Targets::Head(_) | Targets::LabelWords { .. } => rows.len(),
            Targets::Spans(_) => 2 * rows.len(),
            Targets::Tokens(begins) => rows
                .iter()
                .map(|row| self.encodings[*row].len() - begins[*row])
                .sum(),
        }
    }
}

/// Rows of a batch that are computed together.
pub(super) struct Piece {
    pub(super) rows: Vec<usize>,
    /// Of dropout and of hidden tokens.
    pub(super) seed: u64,
}

/// One pass over the pieces of a batch.
pub(super) struct Pass<'p> {
    pub(super) config: &'p AdapterStage,
    pub(super) input: &'p Input,
    pub(super) trainable: &'p Trainable,
    /// What the loss of the whole batch is averaged over.
    pub(super) weight: usize,
}

impl Pass<'_> {
    /// A piece's share of the loss, and its gradients.
    pub(super) fn backward(
        &self,
        model: &LocalModel,
        piece: &Piece,
    ) -> Result<(f64, GradientsParams), HybridError> {
        // Leaves of their own: pieces that share one would share a graph, and wait for each other.
        let autodiff = model.device.clone().autodiff();
        let trainable = self.trainable.clone().fork(&autodiff);
        let mut loss = self
            .loss(model, &trainable, piece)?
            .div_scalar(self.weight as f64);
        let trains_adapters = !self.config.methods.is_empty();
        if trains_adapters && let Some(penalty) = trainable.adapters.penalty() {
            let share = self.input.weight(&piece.rows) as f64 / self.weight as f64;
            loss = loss + penalty.mul_scalar(share);
        }
        let value = f64::from(loss.clone().into_scalar::<f32>());
        let mut gradients = loss.backward();
        let gradients = GradientsParams::from_module(&mut gradients, &trainable);
        Ok((value, gradients))
    }

    /// The summed loss of a piece.
    fn loss(
        &self,
        model: &LocalModel,
        trainable: &Trainable,
        piece: &Piece,
    ) -> Result<Tensor<1>, HybridError> {
        let adapters = &trainable.adapters;
        let hooks: &dyn Hooks = match self.config.recompute_layers {
            true => &adapters.training_recomputed(piece.seed),
            false => &adapters.training(piece.seed),
        };
        let (logits, targets) = match &self.input.targets {
            Targets::Head(classes) => {
                let logits = self.head_logits(model, trainable, piece, hooks)?;
                (logits, of_rows(classes, &piece.rows))
            }
            Targets::Spans(spans) => self.span_logits(model, trainable, piece, spans, hooks)?,
            Targets::LabelWords { classes, tokens } => {
                let logits = self.label_logits(model, trainable, piece, tokens, hooks)?;
                (logits, of_rows(classes, &piece.rows))
            }
            Targets::Tokens(begins) => {
                return self.token_loss(model, trainable, piece, begins, hooks);
            }
        };
        Ok(self.loss_of(logits, &targets))
    }

    fn loss_of(&self, logits: Tensor<2>, targets: &[i32]) -> Tensor<1> {
        let data = TensorData::new(targets.to_vec(), [targets.len()]);
        let targets: Tensor<1, Int> = Tensor::from_data(data, &logits.device());
        let logits = with_margin(logits, targets.clone(), self.config.margin);
        cross_entropy_sum(logits, targets, self.config.label_smoothing)
    }

    fn head_logits(
        &self,
        model: &LocalModel,
        trainable: &Trainable,
        piece: &Piece,
        hooks: &dyn Hooks,
    ) -> Result<Tensor<2>, HybridError> {
        let (encodings, rows) = (&self.input.encodings, &piece.rows);
        let head = trainable.head.as_ref().expect("the stage trains a head");
        let prefix = &self.input.prefix;
        let pooled = match prefix.lower(model, encodings, rows, &trainable.adapters)? {
            Lower::Pooled(pooled) => pooled,
            Lower::Hidden(hidden) => {
                let (hidden, batch) = self.encoder_states(model, piece, hidden, hooks);
                model
                    .encoder()
                    .pool(hidden, &batch, head.pooling(), hooks)?
            }
        };
        Ok(head.forward(pooled))
    }

    /// The last hidden states of an encoder, and the batch that they are of. Tokens are hidden above
    /// the frozen layers only.
    fn encoder_states(
        &self,
        model: &LocalModel,
        piece: &Piece,
        lower: Tensor<3>,
        hooks: &dyn Hooks,
    ) -> (Tensor<3>, EncoderBatch) {
        let (encodings, rows) = (&self.input.encodings, &piece.rows);
        let share = self.config.token_dropout;
        let batch = match share > 0.0 {
            true => model.batch_with_hidden_tokens(encodings, rows, share, piece.seed),
            false => model.batch(encodings, rows),
        };
        let hidden = self.input.prefix.upper(model, lower, &batch, hooks);
        (hidden, batch)
    }

    /// For each row the logits of the start over the tokens of its passage, then for each row those
    /// of the end, and the places of the answers.
    fn span_logits(
        &self,
        model: &LocalModel,
        trainable: &Trainable,
        piece: &Piece,
        spans: &[SpanTarget],
        hooks: &dyn Hooks,
    ) -> Result<(Tensor<2>, Vec<i32>), HybridError> {
        let (encodings, rows) = (&self.input.encodings, &piece.rows);
        let head = trainable.span_head.as_ref();
        let head = head.expect("the stage trains a span head");
        let prefix = &self.input.prefix;
        let lower = match prefix.lower(model, encodings, rows, &trainable.adapters)? {
            Lower::Hidden(hidden) => hidden,
            Lower::Pooled(_) => unreachable!("the states of tokens are not pooled"),
        };
        let (hidden, batch) = self.encoder_states(model, piece, lower, hooks);
        let [_, seq] = batch.input_ids.dims();
        let [size, length, d_model] = hidden.dims();
        let of_tokens = hidden.slice([0..size, length - seq..length, 0..d_model]);
        let logits = Tensor::cat(head.forward(of_tokens).into(), 0);
        let mut outside = vec![OUTSIDE; size * seq];
        for (row, outside) in rows.iter().zip(outside.chunks_mut(seq)) {
            outside[spans[*row].passage.clone()].fill(0.0);
        }
        let outside = TensorData::new(outside, [size, seq]);
        let outside: Tensor<2> = Tensor::from_data(outside, &model.device);
        let place = |token: fn(&SpanTarget) -> usize| {
            let spans = rows.iter().map(|row| &spans[*row]);
            spans.map(move |span| (span.passage.start + token(span)) as i32)
        };
        let targets = place(|span| span.first).chain(place(|span| span.last));
        Ok((logits + outside.repeat(&[2, 1]), targets.collect()))
    }

    /// The last hidden states of a decoder, and how many places of each row come before its
    /// tokens.
    fn decoder_states(
        &self,
        model: &LocalModel,
        base: &DecoderModel,
        trainable: &Trainable,
        piece: &Piece,
        hooks: &dyn Hooks,
    ) -> Result<(Tensor<3>, usize), HybridError> {
        let (encodings, rows) = (&self.input.encodings, &piece.rows);
        let prefix = &self.input.prefix;
        let batch = model.batch(encodings, rows);
        let [_, seq] = batch.input_ids.dims();
        let lower = match prefix.lower(model, encodings, rows, &trainable.adapters)? {
            Lower::Hidden(hidden) => hidden,
            Lower::Pooled(_) => unreachable!("a decoder's states are not pooled"),
        };
        let hidden = prefix.upper_of_decoder(base, lower, &batch, hooks)?;
        let n_virtual = hidden.dims()[1] - seq;
        Ok((hidden, n_virtual))
    }

    /// For each row and class, the logit of the class's label words as the next token: the
    /// logarithm of their mean exponential, so that a softmax over classes is what label scoring
    /// computes.
    fn label_logits(
        &self,
        model: &LocalModel,
        trainable: &Trainable,
        piece: &Piece,
        tokens: &[Vec<i32>],
        hooks: &dyn Hooks,
    ) -> Result<Tensor<2>, HybridError> {
        let logits = match model.language() {
            LanguageBase::Decoder(base) => {
                let (hidden, n_virtual) =
                    self.decoder_states(model, base, trainable, piece, hooks)?;
                let [_, seq, _] = hidden.dims();
                let last = |(place, row): (usize, &usize)| {
                    place * seq + n_virtual + self.input.encodings[*row].len() - 1
                };
                let places: Vec<usize> = piece.rows.iter().enumerate().map(last).collect();
                base.logits_at(hidden, &places, hooks)?
            }
            LanguageBase::EncoderDecoder(base) => self.first_logits(model, base, piece, hooks)?,
        };
        let class = |words: &Vec<i32>| {
            let ids = TensorData::new(words.clone(), [words.len()]);
            let ids: Tensor<1, Int> = Tensor::from_data(ids, &model.device);
            let of_words = logits.clone().select(1, ids);
            if words.len() == 1 {
                return of_words;
            }
            let best = of_words.clone().detach().max_dim(1);
            (of_words - best.clone()).exp().mean_dim(1).log() + best
        };
        Ok(Tensor::cat(tokens.iter().map(class).collect(), 1))
    }

    /// The summed loss of the wanted tokens at the places before them.
    fn token_loss(
        &self,
        model: &LocalModel,
        trainable: &Trainable,
        piece: &Piece,
        begins: &[usize],
        hooks: &dyn Hooks,
    ) -> Result<Tensor<1>, HybridError> {
        let wanted = |row: &usize| &self.input.encodings[*row].ids[begins[*row]..];
        let targets = piece.rows.iter().flat_map(wanted);
        let targets: Vec<i32> = targets.map(|id| *id as i32).collect();
        let loss = |logits, range| self.loss_of(logits, &targets[range]);
        let base = match model.language() {
            LanguageBase::Decoder(base) => base,
            LanguageBase::EncoderDecoder(base) => {
                let (batch, labels) = self.inputs_and_labels(model, piece, begins)?;
                return Ok(base.target_sum(&batch, &labels, hooks, loss)?);
            }
        };
        let (hidden, n_virtual) = self.decoder_states(model, base, trainable, piece, hooks)?;
        let [_, seq, _] = hidden.dims();
        let mut places = Vec::with_capacity(targets.len());
        for (place, row) in piece.rows.iter().enumerate() {
            let wanted = begins[*row]..self.input.encodings[*row].len();
            places.extend(wanted.map(|index| place * seq + n_virtual + index - 1));
        }
        Ok(base.sum_at(hidden, &places, hooks, loss)?)
    }

    /// An encoder-decoder's logits of the first token that is not given.
    fn first_logits(
        &self,
        model: &LocalModel,
        base: &EncoderDecoder,
        piece: &Piece,
        hooks: &dyn Hooks,
    ) -> Result<Tensor<2>, HybridError> {
        let encoded = base.encode(&model.batch(&self.input.encodings, &piece.rows), hooks)?;
        let given = [vec![base.tokens().start], model.frame()?.before].concat();
        let (n_rows, n_given) = (piece.rows.len(), given.len());
        let ids = TensorData::new(given.repeat(n_rows), [n_rows, n_given]);
        let ids = Tensor::from_data(ids, &model.device);
        let hidden = base.decode(&ids, &encoded, None, hooks)?;
        let [_, seq, _] = hidden.dims();
        let places: Vec<usize> = (1..=n_rows).map(|row| row * seq - 1).collect();
        Ok(base.logits_at(hidden, &places, hooks))
    }

    /// What an encoder-decoder reads and what it is to write.
    fn inputs_and_labels(
        &self,
        model: &LocalModel,
        piece: &Piece,
        begins: &[usize],
    ) -> Result<(EncoderBatch, Tensor<2, Int>), HybridError> {
        let (mut inputs, mut wanted) = (Vec::new(), Vec::new());
        for row in &piece.rows {
            let ids = self.input.encodings[*row].ids.iter();
            let mut ids: Vec<i64> = ids.map(|id| i64::from(*id)).collect();
            wanted.push(ids.split_off(begins[*row]));
            inputs.push(ids);
        }
        let seq = wanted.iter().map(Vec::len).max().unwrap_or(0);
        for ids in &mut wanted {
            ids.resize(seq, IGNORED);
        }
        let labels = TensorData::new(wanted.concat(), [inputs.len(), seq]);
        let labels = Tensor::from_data(labels, &model.device);
        Ok((model.input_batch(&inputs)?, labels))
    }
}

/// Taken off the logits of tokens that are not of the passage: none of them is an answer.
const OUTSIDE: f32 = -1e9;

fn of_rows(classes: &[usize], rows: &[usize]) -> Vec<i32> {
    rows.iter().map(|row| classes[*row] as i32).collect()
}

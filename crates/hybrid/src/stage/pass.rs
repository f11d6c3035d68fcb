//! Loss and gradients of one piece of a batch.
//!
//! A language model learns label words as the field does since PET (Schick and Schuetze 2021): by a
//! softmax over the label words alone, which is how they are scored, too. Other texts it learns token
//! by token; the prompt's own tokens are never targets.
//!
//! Several trainings may learn from the same piece in one forward; each has a loss of its own, and as
//! their parameters are apart, the gradients of the sum are those of each.

mod states;

use std::ops::Range;
use std::sync::Arc;

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::{Int, Tensor, TensorData};
use hybrid_adapters::Trainable;
use hybrid_data::Encoding;
use hybrid_models::{EncoderBatch, EncoderDecoder, Hooks, IGNORED};
use hybrid_optim::{cross_entropy_sum, with_margin};

use super::prefix::Prefix;
use crate::HybridError;
use crate::local_model::{LanguageBase, LocalModel};
use crate::recipe::AdapterStage;
use states::States;

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

/// One of those that learn from the same pieces.
#[derive(Clone, Copy)]
pub(super) struct Learner<'p> {
    pub(super) config: &'p AdapterStage,
    pub(super) trainable: &'p Trainable,
}

/// One pass over the pieces of a batch.
pub(super) struct Pass<'p> {
    pub(super) input: &'p Input,
    /// One or more, whose settings ask for the same forward.
    pub(super) learners: &'p [Learner<'p>],
    /// What the loss of the whole batch is averaged over.
    pub(super) weight: usize,
}

impl Pass<'_> {
    /// For each of some learners a piece's share of the loss, and its gradients.
    pub(super) fn backward(
        &self,
        model: &LocalModel,
        piece: &Piece,
        learners: Range<usize>,
    ) -> Result<Vec<(f64, GradientsParams)>, HybridError> {
        // Leaves of their own: pieces that share one would share a graph, and wait for each other.
        let autodiff = model.device.clone().autodiff();
        let learners = &self.learners[learners];
        let fork = |learner: &Learner<'_>| learner.trainable.clone().fork(&autodiff);
        let forked: Vec<Trainable> = learners.iter().map(fork).collect();
        let learners = learners.iter().zip(&forked);
        let learners = learners.map(|(learner, trainable)| Learner {
            config: learner.config,
            trainable,
        });
        let learners: Vec<Learner<'_>> = learners.collect();
        let states = States::of_each(self.input, &learners, model, piece)?;
        let mut losses = Vec::with_capacity(learners.len());
        for (learner, states) in learners.iter().zip(states) {
            let turn = Turn {
                input: self.input,
                learner: *learner,
                model,
                piece,
                hooks: &learner.trainable.adapters.training(piece.seed),
            };
            losses.push(turn.share_of_loss(states, self.weight)?);
        }
        let value = |loss: &Tensor<1>| f64::from(loss.clone().into_scalar::<f32>());
        let values: Vec<f64> = losses.iter().map(value).collect();
        let sum = losses.into_iter().reduce(|sum, loss| sum + loss);
        let mut gradients = sum.expect("somebody learns").backward();
        let of_each = |(value, trainable): (f64, &Trainable)| {
            let gradients = GradientsParams::from_module(&mut gradients, trainable);
            (value, gradients)
        };
        Ok(values.into_iter().zip(&forked).map(of_each).collect())
    }
}

/// A learner at a piece.
struct Turn<'p> {
    input: &'p Input,
    learner: Learner<'p>,
    model: &'p LocalModel,
    piece: &'p Piece,
    hooks: &'p dyn Hooks,
}

impl Turn<'_> {
    /// The piece's share of the loss of a batch that is averaged over `weight`.
    fn share_of_loss(&self, states: States, weight: usize) -> Result<Tensor<1>, HybridError> {
        let loss = self.loss(states)?.div_scalar(weight as f64);
        let trains_adapters = !self.learner.config.methods.is_empty();
        let penalty = self.learner.trainable.adapters.penalty();
        Ok(match penalty.filter(|_| trains_adapters) {
            Some(penalty) => {
                let share = self.input.weight(&self.piece.rows) as f64 / weight as f64;
                loss + penalty.mul_scalar(share)
            }
            None => loss,
        })
    }

    /// The summed loss of the piece.
    fn loss(&self, states: States) -> Result<Tensor<1>, HybridError> {
        let rows = &self.piece.rows;
        let (logits, targets) = match &self.input.targets {
            Targets::Head(classes) => (self.head_logits(states)?, of_rows(classes, rows)),
            Targets::Spans(spans) => self.span_logits(states, spans),
            Targets::LabelWords { classes, tokens } => {
                (self.label_logits(states, tokens)?, of_rows(classes, rows))
            }
            Targets::Tokens(begins) => return self.token_loss(states, begins),
        };
        Ok(self.loss_of(logits, &targets))
    }

    fn loss_of(&self, logits: Tensor<2>, targets: &[i32]) -> Tensor<1> {
        let data = TensorData::new(targets.to_vec(), [targets.len()]);
        let targets: Tensor<1, Int> = Tensor::from_data(data, &logits.device());
        let config = self.learner.config;
        let logits = with_margin(logits, targets.clone(), config.margin);
        cross_entropy_sum(logits, targets, config.label_smoothing)
    }

    fn head_logits(&self, states: States) -> Result<Tensor<2>, HybridError> {
        let head = self.learner.trainable.head.as_ref();
        let head = head.expect("the stage trains a head");
        let pooled = match states {
            States::Pooled(pooled) => pooled,
            other => {
                let (hidden, batch) = other.hidden();
                let encoder = self.model.encoder();
                encoder.pool(hidden, &batch, head.pooling(), self.hooks)?
            }
        };
        Ok(head.forward(pooled))
    }

    /// For each row the logits of the start over the tokens of its passage, then for each row those
    /// of the end, and the places of the answers.
    fn span_logits(&self, states: States, spans: &[SpanTarget]) -> (Tensor<2>, Vec<i32>) {
        let rows = &self.piece.rows;
        let head = self.learner.trainable.span_head.as_ref();
        let head = head.expect("the stage trains a span head");
        let (hidden, batch) = states.hidden();
        let [_, seq] = batch.input_ids.dims();
        let [size, length, d_model] = hidden.dims();
        let of_tokens = hidden.slice([0..size, length - seq..length, 0..d_model]);
        let logits = Tensor::cat(head.forward(of_tokens).into(), 0);
        let mut outside = vec![OUTSIDE; size * seq];
        for (row, outside) in rows.iter().zip(outside.chunks_mut(seq)) {
            outside[spans[*row].passage.clone()].fill(0.0);
        }
        let outside = TensorData::new(outside, [size, seq]);
        let outside: Tensor<2> = Tensor::from_data(outside, &self.model.device);
        let place = |token: fn(&SpanTarget) -> usize| {
            let spans = rows.iter().map(|row| &spans[*row]);
            spans.map(move |span| (span.passage.start + token(span)) as i32)
        };
        let targets = place(|span| span.first).chain(place(|span| span.last));
        (logits + outside.repeat(&[2, 1]), targets.collect())
    }

    /// For each row and class, the logit of the class's label words as the next token: the
    /// logarithm of their mean exponential, so that a softmax over classes is what label scoring
    /// computes.
    fn label_logits(&self, states: States, tokens: &[Vec<i32>]) -> Result<Tensor<2>, HybridError> {
        let logits = match self.model.language() {
            LanguageBase::Decoder(base) => {
                let (hidden, n_virtual) = states.hidden_after();
                let [_, seq, _] = hidden.dims();
                let last = |(place, row): (usize, &usize)| {
                    place * seq + n_virtual + self.input.encodings[*row].len() - 1
                };
                let rows = self.piece.rows.iter().enumerate();
                let places: Vec<usize> = rows.map(last).collect();
                base.logits_at(hidden, &places, self.hooks)?
            }
            LanguageBase::EncoderDecoder(base) => self.first_logits(base)?,
        };
        let class = |words: &Vec<i32>| {
            let ids = TensorData::new(words.clone(), [words.len()]);
            let ids: Tensor<1, Int> = Tensor::from_data(ids, &self.model.device);
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
    fn token_loss(&self, states: States, begins: &[usize]) -> Result<Tensor<1>, HybridError> {
        let rows = &self.piece.rows;
        let wanted = |row: &usize| &self.input.encodings[*row].ids[begins[*row]..];
        let targets = rows.iter().flat_map(wanted);
        let targets: Vec<i32> = targets.map(|id| *id as i32).collect();
        let loss = |logits, range| self.loss_of(logits, &targets[range]);
        let base = match self.model.language() {
            LanguageBase::Decoder(base) => base,
            LanguageBase::EncoderDecoder(base) => {
                let (batch, labels) = self.inputs_and_labels(begins)?;
                return Ok(base.target_sum(&batch, &labels, self.hooks, loss)?);
            }
        };
        let (hidden, n_virtual) = states.hidden_after();
        let [_, seq, _] = hidden.dims();
        let mut places = Vec::with_capacity(targets.len());
        for (place, row) in rows.iter().enumerate() {
            let wanted = begins[*row]..self.input.encodings[*row].len();
            places.extend(wanted.map(|index| place * seq + n_virtual + index - 1));
        }
        Ok(base.sum_at(hidden, &places, self.hooks, loss)?)
    }

    /// An encoder-decoder's logits of the first token that is not given.
    fn first_logits(&self, base: &EncoderDecoder) -> Result<Tensor<2>, HybridError> {
        let (model, rows) = (self.model, &self.piece.rows);
        let encoded = base.encode(&model.batch(&self.input.encodings, rows), self.hooks)?;
        let given = [vec![base.tokens().start], model.frame()?.before].concat();
        let (n_rows, n_given) = (rows.len(), given.len());
        let ids = TensorData::new(given.repeat(n_rows), [n_rows, n_given]);
        let ids = Tensor::from_data(ids, &model.device);
        let hidden = base.decode(&ids, &encoded, None, self.hooks)?;
        let [_, seq, _] = hidden.dims();
        let places: Vec<usize> = (1..=n_rows).map(|row| row * seq - 1).collect();
        Ok(base.logits_at(hidden, &places, self.hooks))
    }

    /// What an encoder-decoder reads and what it is to write.
    fn inputs_and_labels(
        &self,
        begins: &[usize],
    ) -> Result<(EncoderBatch, Tensor<2, Int>), HybridError> {
        let (mut inputs, mut wanted) = (Vec::new(), Vec::new());
        for row in &self.piece.rows {
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
        let labels = Tensor::from_data(labels, &self.model.device);
        Ok((self.model.input_batch(&inputs)?, labels))
    }
}

/// Taken off the logits of tokens that are not of the passage: none of them is an answer.
const OUTSIDE: f32 = -1e9;

fn of_rows(classes: &[usize], rows: &[usize]) -> Vec<i32> {
    rows.iter().map(|row| classes[*row] as i32).collect()
}

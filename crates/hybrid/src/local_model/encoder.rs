//! A sentence encoder in this process: texts to vectors and to class probabilities.

use std::collections::HashMap;

use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Int, Tensor, TensorData};
use hybrid_adapters::{Adapters, ClassifierHead, unit_rows};
use hybrid_data::{BatchOrder, Encoding, PaddedBatch, length_buckets, pad};
use hybrid_eval::EncoderSize;
use hybrid_models::{EncoderBatch, Hooks, NoHooks, Pooling};
use hybrid_prompts::PromptModel;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{INFERENCE, LocalModel};
use crate::{HybridError, parallel};

/// Most values that are kept of texts read before.
const MAX_KEPT: usize = 16 << 20;

/// Hidden states of texts under a layer that no adapter below changes.
#[derive(Debug, Default)]
pub(super) struct LowerStates {
    /// Layers that they have gone through.
    layers: usize,
    /// By text `[seq, d_model]`.
    states: HashMap<String, Vec<f32>>,
    n_values: usize,
}

impl LowerStates {
    /// Those of other layers are of no use.
    fn under(&mut self, layers: usize) {
        if self.layers != layers {
            *self = Self {
                layers,
                ..Self::default()
            };
        }
    }

    fn keep(&mut self, text: &str, states: Vec<f32>) {
        if self.n_values + states.len() <= MAX_KEPT {
            self.n_values += states.len();
            self.states.insert(text.to_owned(), states);
        }
    }

    /// Those of all of these texts, `[rows, seq, d_model]` with zeros for padding; none when one is
    /// missing.
    fn of(&self, texts: &[&str], [seq, d_model]: [usize; 2], device: &Device) -> Option<Tensor<3>> {
        let known: Vec<&Vec<f32>> = texts
            .iter()
            .map(|text| self.states.get(*text))
            .collect::<Option<_>>()?;
        let mut values = vec![0.0; texts.len() * seq * d_model];
        for (slot, states) in values.chunks_mut(seq * d_model).zip(known) {
            slot[..states.len()].copy_from_slice(states);
        }
        let data = TensorData::new(values, [texts.len(), seq, d_model]);
        Some(Tensor::from_data(data, device))
    }
}

/// What is read off a text's pooled vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Reading {
    /// The vector at unit length.
    Unit(Pooling),
    /// The active head's log-probabilities.
    LogProbabilities(Pooling),
}

/// Readings of texts under the active adapter and head.
#[derive(Debug, Default)]
pub(super) struct Kept {
    readings: HashMap<Reading, HashMap<String, Vec<f32>>>,
    n_values: usize,
}

/// What is read off a batch.
struct Read {
    values: Vec<Vec<f32>>,
    /// By row, padding included, what lies under the adapters' lowest layer; nothing when it was known
    /// or is not kept.
    new_lower: Vec<Vec<f32>>,
}

impl LocalModel {
    /// The encoder's sizes, for estimates of work.
    pub(super) fn size(&self) -> EncoderSize {
        let encoder = &self.encoder().encoder;
        EncoderSize {
            n_layers: encoder.n_layers(),
            d_model: encoder.d_model(),
            d_ff: encoder.d_ff(),
        }
    }

    /// The padded batch of some rows.
    pub(crate) fn batch(&self, encodings: &[Encoding], rows: &[usize]) -> EncoderBatch {
        to_encoder_batch(&pad(encodings, rows, self.tokenizer.pad_id()), &self.device)
    }

    /// Unit vectors of texts under a pooling of choice.
    ///
    /// # Errors
    /// [`HybridError::Data`] when the tokenizer refuses a text, [`HybridError::Model`] when the
    /// base has no such pooling, [`HybridError::Interrupted`].
    pub(crate) fn embed_pooled(
        &mut self,
        texts: &[String],
        pooling: Pooling,
    ) -> Result<Vec<Vec<f32>>, HybridError> {
        self.read(texts, Reading::Unit(pooling))
    }

    /// The padded batch of some rows, in which each token but the first is hidden with chance
    /// `probability`.
    pub(crate) fn batch_with_hidden_tokens(
        &self,
        encodings: &[Encoding],
        rows: &[usize],
        probability: f64,
        seed: u64,
    ) -> EncoderBatch {
        let mut padded = pad(encodings, rows, self.tokenizer.pad_id());
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        for (index, seen) in padded.mask.iter_mut().enumerate() {
            if index % padded.seq != 0 && random.random_bool(probability) {
                *seen = 0;
            }
        }
        to_encoder_batch(&padded, &self.device)
    }

    /// A reading of each text. A text that was read before, since the last
    /// [`activate`](Self::activate) or [`forget`](Self::forget), is not read again.
    fn read(&mut self, texts: &[String], reading: Reading) -> Result<Vec<Vec<f32>>, HybridError> {
        let known = self.kept.readings.remove(&reading).unwrap_or_default();
        let mut new: Vec<String> = Vec::new();
        let mut places = HashMap::new();
        for text in texts.iter().filter(|text| !known.contains_key(*text)) {
            places.entry(text.as_str()).or_insert_with(|| {
                new.push(text.clone());
                new.len() - 1
            });
        }
        let read = self.read_new(&new, reading)?;
        let rows = texts.iter().map(|text| match places.get(text.as_str()) {
            Some(place) => read[*place].clone(),
            None => known[text].clone(),
        });
        let rows = rows.collect();
        let mut known = known;
        for (text, row) in new.into_iter().zip(read) {
            if self.kept.n_values + row.len() > MAX_KEPT {
                break;
            }
            self.kept.n_values += row.len();
            known.insert(text, row);
        }
        self.kept.readings.insert(reading, known);
        Ok(rows)
    }

    /// Reads texts batch by batch in order of length.
    fn read_new(
        &mut self,
        texts: &[String],
        reading: Reading,
    ) -> Result<Vec<Vec<f32>>, HybridError> {
        let encodings = self.encode(texts)?;
        let lengths: Vec<usize> = encodings.iter().map(Encoding::len).collect();
        let batches = length_buckets(&lengths, INFERENCE, BatchOrder::Sorted);
        let mut lower = self.lower.take();
        let adapters = self.active.as_ref().map(|active| &active.adapters);
        let lowest = adapters.and_then(Adapters::lowest_layer);
        let n_layers = self.encoder().encoder.n_layers();
        if let Some(lower) = &mut lower {
            lower.under(lowest.unwrap_or(n_layers));
        }
        let model = &*self;
        let read = parallel::try_map(&batches, self.threads(), |rows| {
            model.check_interrupt()?;
            let of_rows: Vec<&str> = rows.iter().map(|row| texts[*row].as_str()).collect();
            let batch = model.batch(&encodings, rows);
            model.read_batch(&of_rows, &batch, reading, lower.as_ref())
        })?;
        let mut rows_out = vec![Vec::new(); texts.len()];
        let mut flops = 0.0;
        for (rows, Read { values, new_lower }) in batches.iter().zip(read) {
            let longest = rows.iter().map(|row| lengths[*row]).max().unwrap_or(0);
            flops += self.size().forward_flops(rows.len(), longest);
            for (row, value) in rows.iter().zip(values) {
                rows_out[*row] = value;
            }
            for (row, mut states) in rows.iter().zip(new_lower) {
                states.truncate(lengths[*row] * self.d_model());
                states.shrink_to_fit();
                if let Some(lower) = &mut lower {
                    lower.keep(&texts[*row], states);
                }
            }
        }
        self.lower = lower;
        self.count_tokens(&encodings);
        self.count_flops(flops);
        Ok(rows_out)
    }

    /// The readings of some texts, which go on from kept states where all of them have some.
    fn read_batch(
        &self,
        texts: &[&str],
        batch: &EncoderBatch,
        reading: Reading,
        lower: Option<&LowerStates>,
    ) -> Result<Read, HybridError> {
        let hooks: &dyn Hooks = match &self.active {
            Some(trainable) => &trainable.adapters,
            None => &NoHooks,
        };
        let encoder = &self.encoder().encoder;
        let [n_rows, seq] = batch.input_ids.dims();
        let sizes = [seq, encoder.d_model()];
        // Over no layer there is nothing to keep.
        let lower = lower.filter(|lower| lower.layers > 0);
        let layers = lower.map_or(0, |lower| lower.layers);
        let known = lower.and_then(|lower| lower.of(texts, sizes, &self.device));
        let attention = encoder.attention(batch, hooks);
        let attention = attention.packed(&batch.attention_mask, hooks);
        let mut new_lower = Vec::new();
        let under = match known {
            Some(known) => known,
            None => {
                let embedded = encoder.embed(batch, &attention, hooks);
                let under = encoder.layers(0..layers, embedded, &attention, hooks);
                if lower.is_some() {
                    let [seq, d_model] = sizes;
                    new_lower = host_rows(under.clone().reshape([n_rows, seq * d_model]));
                }
                under
            }
        };
        let hidden = encoder.layers(layers..encoder.n_layers(), under, &attention, hooks);
        let (Reading::Unit(pooling) | Reading::LogProbabilities(pooling)) = reading;
        let pooled = self.encoder().pool(hidden, batch, pooling, hooks)?;
        let values = host_rows(match (reading, self.head()) {
            (Reading::LogProbabilities(_), Some(head)) => log_softmax(head.forward(pooled), 1),
            _ => unit_rows(pooled),
        });
        Ok(Read { values, new_lower })
    }
}

impl PromptModel for LocalModel {
    type Error = HybridError;

    /// Unit vectors, one a text.
    fn embed(&mut self, texts: &[String]) -> Result<Vec<Vec<f32>>, HybridError> {
        self.embed_pooled(texts, self.pooling)
    }

    /// Log-probabilities of the labels when a head is active.
    fn classify(&mut self, texts: &[String]) -> Result<Option<Vec<Vec<f32>>>, HybridError> {
        let Some(pooling) = self.head().map(ClassifierHead::pooling) else {
            return Ok(None);
        };
        let rows = match self.is_language_model() {
            true => self.classify_by_last_token(texts),
            false => self.read(texts, Reading::LogProbabilities(pooling)),
        };
        rows.map(Some)
    }
}

/// The rows of `[rows, d]` on the host.
pub(crate) fn host_rows(x: Tensor<2>) -> Vec<Vec<f32>> {
    let [_, width] = x.dims();
    let data = x.into_data();
    let values: Vec<f32> = data.iter::<f32>().collect();
    values.chunks(width).map(<[f32]>::to_vec).collect()
}

fn to_encoder_batch(batch: &PaddedBatch, device: &Device) -> EncoderBatch {
    let ints = |values: &[u32]| -> Tensor<2, Int> {
        let values: Vec<i32> = values.iter().map(|value| *value as i32).collect();
        Tensor::from_data(
            TensorData::new(values, [batch.rows.len(), batch.seq]),
            device,
        )
    };
    EncoderBatch {
        input_ids: ints(&batch.ids),
        attention_mask: ints(&batch.mask),
        token_type_ids: Some(ints(&batch.type_ids)),
    }
}

//! A base in this process: texts to vectors and to class probabilities.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Int, Tensor, TensorData};
use hybrid_adapters::{Trainable, unit_rows};
use hybrid_data::{BatchLimits, BatchOrder, Encoding, PaddedBatch, Tokenizer, length_buckets, pad};
use hybrid_eval::EncoderSize;
use hybrid_models::{EncoderBatch, Hooks, Model, NoHooks, Pooling};
use hybrid_prompts::PromptModel;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::{HybridError, interrupt, parallel};

/// Rows and padded tokens of one inference batch. Fixed, so that the same texts give the same
/// bytes in a run and in a later `eval`.
pub(crate) const INFERENCE: BatchLimits = BatchLimits {
    max_rows: 64,
    max_tokens: 2048,
};

/// Most values that are kept of texts read before.
const MAX_KEPT: usize = 16 << 20;

/// A base on a device with, perhaps, a trained adapter and head.
pub struct LocalModel {
    pub(crate) base: Model,
    pub(crate) tokenizer: Tokenizer,
    pub(crate) device: Device,
    /// How texts are pooled when they are compared with label words.
    pub(crate) pooling: Pooling,
    active: Option<Trainable>,
    kept: Kept,
    /// The run that ends when the user asks to stop.
    run: Option<PathBuf>,
    tokens: Arc<AtomicU64>,
    flops: f64,
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
struct Kept {
    readings: HashMap<Reading, HashMap<String, Vec<f32>>>,
    n_values: usize,
}

impl LocalModel {
    /// A base without adapter.
    pub fn new(base: Model, tokenizer: Tokenizer, device: Device, pooling: Pooling) -> Self {
        Self {
            base,
            tokenizer,
            device,
            pooling,
            active: None,
            kept: Kept::default(),
            run: None,
            tokens: Arc::default(),
            flops: 0.0,
        }
    }

    /// Runs with these adapters and head from now on, or with the bare base.
    pub fn activate(&mut self, trainable: Option<Trainable>) {
        self.active = trainable;
        self.forget();
    }

    /// Drops what was kept of texts: what comes now counts its own work.
    pub(crate) fn forget(&mut self) {
        self.kept = Kept::default();
    }

    /// From now on, when the user asks to stop, reading ends with an error that names this run.
    pub(crate) fn work_for(&mut self, run: &Path) {
        self.run = Some(run.to_owned());
    }

    /// # Errors
    /// [`HybridError::Interrupted`] when the user asked to stop the run.
    pub(crate) fn check_interrupt(&self) -> Result<(), HybridError> {
        match &self.run {
            Some(run) if interrupt::asked() => Err(HybridError::Interrupted { run: run.clone() }),
            _ => Ok(()),
        }
    }

    /// Tokens read by the base so far, padding not counted.
    pub fn tokens(&self) -> u64 {
        self.tokens.load(Ordering::Relaxed)
    }

    /// The count of [`tokens`](Self::tokens), for one who watches while another uses the model.
    pub(crate) fn token_counter(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.tokens)
    }

    /// Estimated floating point operations so far.
    pub fn flops(&self) -> f64 {
        self.flops
    }

    /// The adapters and head that are active.
    pub(crate) fn active(&self) -> Option<&Trainable> {
        self.active.as_ref()
    }

    pub(crate) fn count_flops(&mut self, flops: f64) {
        self.flops += flops;
    }

    /// The base's sizes, for estimates of work.
    pub(crate) fn size(&self) -> EncoderSize {
        let encoder = &self.base.encoder;
        EncoderSize {
            n_layers: encoder.n_layers(),
            d_model: encoder.d_model(),
            d_ff: encoder.d_ff(),
        }
    }

    /// Token ids of texts, truncated to the longest input.
    ///
    /// # Errors
    /// [`HybridError::Data`] when the tokenizer refuses a text.
    pub(crate) fn encode(&self, texts: &[String]) -> Result<Vec<Encoding>, HybridError> {
        Ok(self.tokenizer.encode(texts)?)
    }

    pub(crate) fn count_tokens<'a>(&mut self, encodings: impl IntoIterator<Item = &'a Encoding>) {
        let tokens = encodings.into_iter().map(|encoding| encoding.len() as u64);
        self.tokens.fetch_add(tokens.sum(), Ordering::Relaxed);
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
        let model = &*self;
        let read = parallel::try_map(&batches, self.threads(), |rows| {
            model.check_interrupt()?;
            model.read_batch(&model.batch(&encodings, rows), reading)
        })?;
        let mut rows_out = vec![Vec::new(); texts.len()];
        let mut flops = 0.0;
        for (rows, values) in batches.iter().zip(read) {
            let longest = rows.iter().map(|row| lengths[*row]).max().unwrap_or(0);
            flops += self.size().forward_flops(rows.len(), longest);
            for (row, value) in rows.iter().zip(values) {
                rows_out[*row] = value;
            }
        }
        self.count_tokens(&encodings);
        self.count_flops(flops);
        Ok(rows_out)
    }

    fn read_batch(
        &self,
        batch: &EncoderBatch,
        reading: Reading,
    ) -> Result<Vec<Vec<f32>>, HybridError> {
        let hooks: &dyn Hooks = match &self.active {
            Some(trainable) => &trainable.adapters,
            None => &NoHooks,
        };
        let hidden = self.base.encoder.forward(batch, hooks);
        let (Reading::Unit(pooling) | Reading::LogProbabilities(pooling)) = reading;
        let pooled = self.base.pool(hidden, batch, pooling, hooks)?;
        let head = self.active.as_ref().and_then(|active| active.head.as_ref());
        Ok(host_rows(match (reading, head) {
            (Reading::LogProbabilities(_), Some(head)) => log_softmax(head.forward(pooled), 1),
            _ => unit_rows(pooled),
        }))
    }

    /// How many batches are computed at once.
    pub(crate) fn threads(&self) -> usize {
        parallel::threads(&self.device)
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
        let head = self.active.as_ref().and_then(|active| active.head.as_ref());
        match head.map(|head| head.pooling()) {
            Some(pooling) => self
                .read(texts, Reading::LogProbabilities(pooling))
                .map(Some),
            None => Ok(None),
        }
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

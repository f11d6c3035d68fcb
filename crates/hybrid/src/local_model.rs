//! A base in this process: texts to vectors and to class probabilities.

use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Int, Tensor, TensorData};
use hybrid_adapters::Trainable;
use hybrid_data::{BatchLimits, BatchOrder, Encoding, PaddedBatch, Tokenizer, length_buckets, pad};
use hybrid_eval::EncoderSize;
use hybrid_models::{EncoderBatch, Hooks, Model, NoHooks, Pooling};
use hybrid_prompts::PromptModel;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::HybridError;

/// Rows and padded tokens of one inference batch. Fixed, so that the same texts give the same
/// bytes in a run and in a later `eval`.
const INFERENCE: BatchLimits = BatchLimits {
    max_rows: 64,
    max_tokens: 2048,
};

/// A base on a device with, perhaps, a trained adapter and head.
pub struct LocalModel {
    pub(crate) base: Model,
    pub(crate) tokenizer: Tokenizer,
    pub(crate) device: Device,
    /// How texts are pooled when they are compared with label words.
    pub(crate) pooling: Pooling,
    active: Option<Trainable>,
    tokens: u64,
    flops: f64,
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
            tokens: 0,
            flops: 0.0,
        }
    }

    /// Runs with these adapters and head from now on, or with the bare base.
    pub fn activate(&mut self, trainable: Option<Trainable>) {
        self.active = trainable;
    }

    /// Tokens read by the base so far, padding not counted.
    pub fn tokens(&self) -> u64 {
        self.tokens
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
        self.tokens += encodings
            .into_iter()
            .map(|encoding| encoding.ids.len() as u64)
            .sum::<u64>();
    }

    /// The padded batch of some rows.
    pub(crate) fn batch(&self, encodings: &[Encoding], rows: &[usize]) -> EncoderBatch {
        to_encoder_batch(&pad(encodings, rows, self.tokenizer.pad_id()), &self.device)
    }

    /// Unit vectors of texts under a pooling of choice.
    ///
    /// # Errors
    /// [`HybridError::Data`] when the tokenizer refuses a text, [`HybridError::Model`] when the
    /// base has no such pooling.
    pub(crate) fn embed_pooled(
        &mut self,
        texts: &[String],
        pooling: Pooling,
    ) -> Result<Vec<Vec<f32>>, HybridError> {
        self.pooled(texts, pooling, |_, pooled| unit_rows(pooled))
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

    /// Runs `read` on the pooled vectors of all texts, batch by batch in order of length, and puts
    /// the rows it returns into the order of the texts.
    fn pooled(
        &mut self,
        texts: &[String],
        pooling: Pooling,
        read: impl Fn(&Option<Trainable>, Tensor<2>) -> Tensor<2>,
    ) -> Result<Vec<Vec<f32>>, HybridError> {
        let encodings = self.encode(texts)?;
        let lengths: Vec<usize> = encodings
            .iter()
            .map(|encoding| encoding.ids.len())
            .collect();
        let mut rows_out = vec![Vec::new(); texts.len()];
        let (size, mut flops) = (self.size(), 0.0);
        for rows in length_buckets(&lengths, INFERENCE, BatchOrder::Sorted) {
            let batch = self.batch(&encodings, &rows);
            let hooks: &dyn Hooks = match &self.active {
                Some(trainable) => &trainable.adapters,
                None => &NoHooks,
            };
            let hidden = self.base.encoder.forward(&batch, hooks);
            let pooled = self.base.pool(hidden, &batch, pooling, hooks)?;
            let values = host_rows(read(&self.active, pooled));
            flops += size.forward_flops(rows.len(), batch.input_ids.dims()[1]);
            for (row, value) in rows.iter().zip(values) {
                rows_out[*row] = value;
            }
        }
        self.count_tokens(&encodings);
        self.count_flops(flops);
        Ok(rows_out)
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
        let Some(pooling) = self
            .active
            .as_ref()
            .and_then(|active| active.head.as_ref())
            .map(|head| head.pooling())
        else {
            return Ok(None);
        };
        let read = |active: &Option<Trainable>, pooled| {
            let head = active
                .as_ref()
                .and_then(|active| active.head.as_ref())
                .expect("checked above");
            log_softmax(head.forward(pooled), 1)
        };
        self.pooled(texts, pooling, read).map(Some)
    }
}

/// `[rows, d]` scaled to unit length row by row.
pub(crate) fn unit_rows(x: Tensor<2>) -> Tensor<2> {
    let norm = x
        .clone()
        .powf_scalar(2.0)
        .sum_dim(1)
        .sqrt()
        .clamp_min(1e-12);
    x / norm
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

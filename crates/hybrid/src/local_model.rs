//! A base in this process with its tokenizer and, perhaps, a trained adapter.
//!
//! What can be asked of it depends on its kind: a sentence encoder embeds and classifies texts; a
//! decoder scores and continues prompts, and so does an encoder-decoder, which reads the prompt with
//! the one half and writes what follows it with the other.

mod encoder;
mod encoder_decoder;
mod language;
mod last_token;
mod memory;
mod passages;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use burn::tensor::Device;
use hybrid_adapters::{ClassifierHead, Trainable};
use hybrid_data::{BatchLimits, Encoding, Tokenizer};
use hybrid_eval::{EncoderSize, TrainingPass};
use hybrid_models::{Base, DecoderModel, EncoderDecoder, Model, Pooling};
use hybrid_prompts::ChatTemplate;

pub(crate) use encoder::host_rows;
use encoder::{Kept, LowerStates};
pub(crate) use encoder_decoder::encoding;
pub(crate) use memory::Memory;
pub(crate) use passages::SpanLogits;

use crate::{HybridError, interrupt, parallel};

/// Rows and padded tokens of one inference batch. Fixed, so that the same texts give the same
/// bytes in a run and in a later `eval`.
pub(crate) const INFERENCE: BatchLimits = BatchLimits {
    max_rows: 64,
    max_tokens: 2048,
};

/// A base of one of the kinds that the loop works with.
pub(crate) enum LoadedBase {
    /// Reads texts.
    Encoder(Box<Model>),
    /// Continues prompts.
    Decoder(Box<DecoderModel>),
    /// Answers prompts.
    EncoderDecoder(Box<EncoderDecoder>),
}

/// A base that continues or answers prompts.
#[derive(Clone, Copy)]
pub(crate) enum LanguageBase<'m> {
    /// Reads prompt and continuation as one sequence.
    Decoder(&'m DecoderModel),
    /// Reads the prompt and writes apart from it.
    EncoderDecoder(&'m EncoderDecoder),
}

/// A base on a device with, perhaps, a trained adapter and head.
pub struct LocalModel {
    pub(crate) base: LoadedBase,
    pub(crate) tokenizer: Tokenizer,
    pub(crate) device: Device,
    /// How an encoder's texts are pooled when they are compared with label words.
    pub(crate) pooling: Pooling,
    /// How a language model was taught to read conversations.
    chat_template: Option<ChatTemplate>,
    /// Most tokens of an input, with what follows it in the same context.
    max_length: usize,
    active: Option<Trainable>,
    kept: Kept,
    /// What lies under the active adapters, while states are scored on the same texts.
    lower: Option<LowerStates>,
    /// What a language model has answered under adapters that have a name.
    memory: Memory,
    /// The name of the active adapters, if what they answer may be remembered.
    name: Option<String>,
    /// The run that ends when the user asks to stop.
    run: Option<PathBuf>,
    tokens: Arc<AtomicU64>,
    flops: f64,
}

impl LoadedBase {
    /// The base whatever its kind.
    pub(crate) fn as_base(&self) -> &dyn Base {
        match self {
            Self::Encoder(model) => &**model,
            Self::Decoder(model) => &**model,
            Self::EncoderDecoder(model) => &**model,
        }
    }
}

impl LocalModel {
    /// A sentence encoder without adapter.
    pub fn new(base: Model, tokenizer: Tokenizer, device: Device, pooling: Pooling) -> Self {
        let max_length = base.encoder.max_positions();
        Self {
            pooling,
            ..Self::of_base(
                LoadedBase::Encoder(Box::new(base)),
                tokenizer,
                device,
                max_length,
            )
        }
    }

    /// A language model without adapter. Its prompts, with what follows them, have at most
    /// `max_length` tokens.
    pub fn of_decoder(
        base: DecoderModel,
        tokenizer: Tokenizer,
        chat_template: Option<ChatTemplate>,
        device: Device,
        max_length: usize,
    ) -> Self {
        let base = LoadedBase::Decoder(Box::new(base));
        Self {
            chat_template,
            ..Self::of_base(base, tokenizer, device, max_length)
        }
    }

    /// An encoder-decoder without adapter. Its prompts have at most `max_length` tokens.
    pub fn of_encoder_decoder(
        base: EncoderDecoder,
        tokenizer: Tokenizer,
        chat_template: Option<ChatTemplate>,
        device: Device,
        max_length: usize,
    ) -> Self {
        let base = LoadedBase::EncoderDecoder(Box::new(base));
        Self {
            chat_template,
            ..Self::of_base(base, tokenizer, device, max_length)
        }
    }

    fn of_base(base: LoadedBase, tokenizer: Tokenizer, device: Device, max_length: usize) -> Self {
        Self {
            base,
            tokenizer,
            device,
            pooling: Pooling::Mean,
            chat_template: None,
            max_length,
            active: None,
            kept: Kept::default(),
            lower: None,
            memory: Memory::default(),
            name: Some(String::new()),
            run: None,
            tokens: Arc::default(),
            flops: 0.0,
        }
    }

    /// Whether the base scores and continues prompts.
    pub(crate) fn is_language_model(&self) -> bool {
        !matches!(self.base, LoadedBase::Encoder(_))
    }

    /// The encoder.
    ///
    /// # Panics
    /// If the base is none.
    pub(crate) fn encoder(&self) -> &Model {
        match &self.base {
            LoadedBase::Encoder(model) => model,
            LoadedBase::Decoder(_) | LoadedBase::EncoderDecoder(_) => {
                panic!("a language model is asked for what only an encoder does")
            }
        }
    }

    /// The base of a language model.
    ///
    /// # Panics
    /// If the base is an encoder.
    pub(crate) fn language(&self) -> LanguageBase<'_> {
        match &self.base {
            LoadedBase::Decoder(model) => LanguageBase::Decoder(model),
            LoadedBase::EncoderDecoder(model) => LanguageBase::EncoderDecoder(model),
            LoadedBase::Encoder(_) => panic!("an encoder is asked for what it never writes"),
        }
    }

    /// Number of transformer layers, of both stacks where there are two.
    pub(crate) fn n_layers(&self) -> usize {
        match &self.base {
            LoadedBase::Encoder(model) => model.encoder.n_layers(),
            LoadedBase::Decoder(model) => model.decoder.n_layers(),
            LoadedBase::EncoderDecoder(model) => {
                model.n_encoder_layers() + model.n_decoder_layers()
            }
        }
    }

    /// Width of the hidden states.
    pub(crate) fn d_model(&self) -> usize {
        match &self.base {
            LoadedBase::Encoder(model) => model.encoder.d_model(),
            LoadedBase::Decoder(model) => model.decoder.d_model(),
            LoadedBase::EncoderDecoder(model) => model.d_model(),
        }
    }

    /// Longest input that the base is made for.
    pub(crate) fn max_positions(&self) -> usize {
        match &self.base {
            LoadedBase::Encoder(model) => model.encoder.max_positions(),
            LoadedBase::Decoder(model) => model.decoder.max_positions(),
            LoadedBase::EncoderDecoder(model) => model.max_positions().unwrap_or(usize::MAX),
        }
    }

    /// Runs with these adapters and head from now on, or with the bare base. A language model's
    /// answers are remembered under `name`; a state without a name is asked anew each time.
    pub(crate) fn activate(&mut self, trainable: Option<Trainable>, name: Option<&str>) {
        self.name = match &trainable {
            Some(_) => name.map(str::to_owned),
            None => Some(String::new()),
        };
        self.active = trainable;
        self.forget();
    }

    /// Drops what was kept of texts: what comes now counts its own work.
    pub(crate) fn forget(&mut self) {
        self.kept = Kept::default();
    }

    /// From now on an encoder keeps, or keeps no more, what lies under the lowest layer on which its
    /// adapters act, so that texts that are read under one adapter after the other go through those
    /// layers once. It counts as if nothing were kept.
    pub(crate) fn keep_lower_states(&mut self, keep: bool) {
        self.lower = keep.then(LowerStates::default);
    }

    /// From now on, when the user asks to stop, reading ends with an error that names this run;
    /// and what a language model answers is remembered in `memory`.
    pub(crate) fn work_for(&mut self, run: &Path, memory: Memory) {
        self.run = Some(run.to_owned());
        self.memory = memory;
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

    /// The classifier head that is active.
    pub(crate) fn head(&self) -> Option<&ClassifierHead> {
        self.active().and_then(|active| active.head.as_ref())
    }

    /// Whether answers are asked for with prompts: a language model without a classifier head.
    pub(crate) fn is_prompted(&self) -> bool {
        self.is_language_model() && self.head().is_none()
    }

    /// Estimated operations of a pass through the lowest `n_layers` layers.
    pub(crate) fn forward_flops(&self, n_layers: usize, rows: usize, seq: usize) -> f64 {
        match &self.base {
            LoadedBase::Encoder(_) => {
                let size = EncoderSize {
                    n_layers,
                    ..self.size()
                };
                size.forward_flops(rows, seq)
            }
            LoadedBase::Decoder(_) | LoadedBase::EncoderDecoder(_) => {
                self.language_flops(n_layers, rows * seq)
            }
        }
    }

    /// Estimated operations of a training pass.
    pub(crate) fn training_flops(&self, pass: TrainingPass) -> f64 {
        match &self.base {
            LoadedBase::Encoder(_) => self.size().training_flops(pass),
            LoadedBase::Decoder(_) | LoadedBase::EncoderDecoder(_) => {
                let tokens = pass.rows * pass.seq;
                let trained = self.n_layers().saturating_sub(pass.lowest_layer);
                let below = if pass.cached { 0 } else { pass.lowest_layer };
                // Forward, the gradient of the states, and that of the adapters.
                self.language_flops(below + 2 * trained, tokens)
                    + 6.0 * pass.adapter_parameters as f64 * tokens as f64
            }
        }
    }

    pub(crate) fn count_flops(&mut self, flops: f64) {
        self.flops += flops;
    }

    /// Token ids of texts, truncated to the longest input.
    ///
    /// # Errors
    /// [`HybridError::Data`] when the tokenizer refuses a text.
    pub(crate) fn encode(&self, texts: &[String]) -> Result<Vec<Encoding>, HybridError> {
        Ok(self.tokenizer.encode(texts)?)
    }

    /// The tokens of one text, with those that the tokenizer puts around it or without.
    ///
    /// # Errors
    /// [`HybridError::Data`] when the tokenizer refuses the text.
    pub(crate) fn ids(
        &self,
        text: &str,
        add_special_tokens: bool,
    ) -> Result<Vec<i64>, HybridError> {
        let ids = self.tokenizer.ids(text, add_special_tokens)?;
        Ok(ids.into_iter().map(i64::from).collect())
    }

    pub(crate) fn count_tokens<'a>(&mut self, encodings: impl IntoIterator<Item = &'a Encoding>) {
        let tokens = encodings.into_iter().map(|encoding| encoding.len() as u64);
        self.tokens.fetch_add(tokens.sum(), Ordering::Relaxed);
    }

    /// How many batches are computed at once.
    pub(crate) fn threads(&self) -> usize {
        parallel::threads(&self.device)
    }
}

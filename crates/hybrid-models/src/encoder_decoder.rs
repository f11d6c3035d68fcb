//! Encoder-decoders: the frozen model that T5, BART and Marian share.

mod forward;
mod score;
mod stack;
mod target_reader;
mod target_tokens;

use std::path::Path;

use burn::tensor::{Device, TensorData};

use crate::checkpoint::Checkpoint;
use crate::config_file::ConfigFile;
use crate::layers::LayerPlace;
use crate::{Base, BaseKind, Layer, LayerTable, Linear, ModelError, StackShape, bart, marian, t5};
pub use forward::{Encoded, EncoderDecoderCache};
pub use score::TargetRequest;
pub(crate) use stack::{FixedTensor, LayerStack, Positions, WordScale};
pub(crate) use target_tokens::DefaultTokens;
pub use target_tokens::TargetTokens;

/// A family of encoder-decoders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    T5,
    Bart,
    Marian,
}

impl Family {
    const ALL: [Self; 3] = [Self::T5, Self::Bart, Self::Marian];

    fn model_type(self) -> &'static str {
        match self {
            Self::T5 => "t5",
            Self::Bart => "bart",
            Self::Marian => "marian",
        }
    }

    /// Classes of Transformers whose checkpoints fit: with an output layer and without, which then
    /// is the word vectors'.
    fn classes(self) -> [&'static str; 2] {
        match self {
            Self::T5 => ["T5ForConditionalGeneration", "T5Model"],
            Self::Bart => ["BartForConditionalGeneration", "BartModel"],
            Self::Marian => ["MarianMTModel", "MarianModel"],
        }
    }

    /// The family of a configuration's `model_type`.
    ///
    /// # Errors
    /// [`ModelError::UnknownArchitecture`], [`ModelError::MissingKey`].
    pub(crate) fn of(config: &ConfigFile) -> Result<Self, ModelError> {
        let found = config.text("model_type")?;
        Self::ALL
            .into_iter()
            .find(|family| family.model_type() == found)
            .ok_or_else(|| unknown(config, found, &Self::ALL.map(Self::model_type)))
    }

    /// # Errors
    /// [`ModelError::UnknownArchitecture`] for a class with another head.
    fn check_class(self, config: &ConfigFile) -> Result<(), ModelError> {
        let classes = self.classes();
        match config.class()? {
            Some(class) if !classes.contains(&class) => Err(unknown(config, class, &classes)),
            _ => Ok(()),
        }
    }
}

fn unknown(config: &ConfigFile, found: &str, known: &[&'static str]) -> ModelError {
    ModelError::UnknownArchitecture {
        path: config.path().to_owned(),
        found: found.to_owned(),
        known: known.to_vec(),
    }
}

/// The configuration of a folder, with its family.
fn read(folder: &Path) -> Result<(ConfigFile, Family), ModelError> {
    let config = ConfigFile::read(folder)?;
    let family = Family::of(&config)?;
    family.check_class(&config)?;
    config.refuse("quantization_config")?;
    Ok((config, family))
}

/// What a family makes of a configuration and a checkpoint.
pub(crate) struct Parts {
    pub(crate) encoder: LayerStack,
    pub(crate) decoder: LayerStack,
    /// What the decoder's output is multiplied with before `output`.
    pub(crate) output_scale: f64,
    pub(crate) output: Linear,
    /// `[1, vocab]`.
    pub(crate) logits_bias: Option<FixedTensor>,
    pub(crate) tokens: DefaultTokens,
}

/// A frozen encoder-decoder with its output layer. Clones share their tensors.
#[derive(Debug, Clone)]
pub struct EncoderDecoder {
    family: Family,
    encoder: LayerStack,
    decoder: LayerStack,
    output_scale: f64,
    output: Linear,
    logits_bias: Option<FixedTensor>,
    tokens: TargetTokens,
    layers: LayerTable,
}

impl EncoderDecoder {
    /// Loads the model of a folder.
    ///
    /// # Errors
    /// [`ModelError`], naming the file and the key or tensor at fault.
    pub fn load(folder: &Path, device: &Device) -> Result<Self, ModelError> {
        let (config, family) = read(folder)?;
        let checkpoint = Checkpoint::open(folder)?;
        Self::of_checkpoint(folder, &config, family, checkpoint, device)
    }

    /// The model that a folder's configuration describes before any training, drawn from `seed` as
    /// Transformers initialises it. Weights in the folder are not looked at.
    ///
    /// # Errors
    /// [`ModelError::NoInitialisation`] for another model than T5, and an error of the
    /// configuration.
    pub fn random(folder: &Path, seed: u64, device: &Device) -> Result<Self, ModelError> {
        let config = ConfigFile::read(folder)?;
        let found = config.text("model_type")?;
        if found != Family::T5.model_type() {
            return Err(ModelError::NoInitialisation {
                path: config.path().to_owned(),
                found: found.to_owned(),
            });
        }
        let (config, family) = read(folder)?;
        let starts = t5::starts(&config)?;
        let checkpoint = Checkpoint::drawn(config.path(), Box::new(starts), seed);
        Self::of_checkpoint(folder, &config, family, checkpoint, device)
    }

    fn of_checkpoint(
        folder: &Path,
        config: &ConfigFile,
        family: Family,
        checkpoint: Checkpoint,
        device: &Device,
    ) -> Result<Self, ModelError> {
        let (parts, layers) = match family {
            Family::T5 => t5::load(config, checkpoint, device)?,
            Family::Bart => bart::load(config, checkpoint, device)?,
            Family::Marian => marian::load(config, checkpoint, device)?,
        };
        let [_, vocab] = parts.output.weight.dims();
        Ok(Self {
            family,
            encoder: parts.encoder,
            decoder: parts.decoder,
            output_scale: parts.output_scale,
            output: parts.output,
            logits_bias: parts.logits_bias,
            tokens: TargetTokens::read(folder, config, &parts.tokens, vocab)?,
            layers,
        })
    }

    /// Token ids that targets are made with.
    pub fn tokens(&self) -> &TargetTokens {
        &self.tokens
    }

    /// Number of transformer layers that read the input.
    pub fn n_encoder_layers(&self) -> usize {
        self.encoder.layers.len()
    }

    /// Number of transformer layers that write the output.
    pub fn n_decoder_layers(&self) -> usize {
        self.decoder.layers.len()
    }

    /// Size of the hidden states.
    pub fn d_model(&self) -> usize {
        self.decoder.words.weight.dims()[1]
    }

    /// Size of the output's vocabulary.
    pub fn vocab_size(&self) -> usize {
        self.output.weight.dims()[1]
    }

    /// Longest input and longest target that have positions; none when there is no end to them.
    pub fn max_positions(&self) -> Option<usize> {
        let limits = [self.encoder.max_positions(), self.decoder.max_positions()];
        limits.into_iter().flatten().min()
    }
}

impl Base for EncoderDecoder {
    fn model_type(&self) -> &'static str {
        self.family.model_type()
    }

    fn kind(&self) -> BaseKind {
        BaseKind::EncoderDecoder
    }

    fn layers(&self) -> &LayerTable {
        &self.layers
    }

    fn replace(&mut self, layer: Layer) -> Result<(), ModelError> {
        let output = [LayerPlace::Linear(&mut self.output)];
        let stacks = self.encoder.places().chain(self.decoder.places());
        self.layers.replace(layer, stacks.chain(output))
    }

    fn stacks(&self) -> Vec<StackShape> {
        vec![self.encoder.shape(), self.decoder.shape()]
    }

    fn n_parameters(&self) -> usize {
        let fixed = [&self.encoder, &self.decoder].map(LayerStack::fixed);
        let fixed = fixed.into_iter().flatten();
        let tables: usize = fixed.map(|table| table.values.shape().num_elements()).sum();
        self.layers.n_parameters() + tables
    }

    fn named_tensors(&self) -> Vec<(String, TensorData)> {
        let mut named = self.layers.named_tensors();
        let tables = [self.encoder.fixed(), self.decoder.fixed()];
        for fixed in tables.into_iter().flatten().chain(&self.logits_bias) {
            let key = fixed.key.clone();
            named.extend(key.map(|key| (key, fixed.values.to_data())));
        }
        named
    }
}

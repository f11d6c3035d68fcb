//! A decoder with its head, and the sites of both.

use std::ops::Range;
use std::path::Path;

use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::checkpoint::Checkpoint;
use crate::config_file::ConfigFile;
use crate::head::{linear_rows, rows_at, sum_of_logits};
use crate::layers::LayerPlace;
use crate::llama::Member;
use crate::loader::{LinearShape, Loader, Part};
use crate::losses::{IGNORED, cross_entropy_sum};
use crate::{
    Base, BaseKind, Decoder, DecoderBatch, Hooks, KeyValue, Layer, LayerTable, Linear, ModelError,
    StackShape, WeightFormat, gpt2, llama,
};

/// A frozen decoder with its head. Clones share their tensors.
#[derive(Debug, Clone)]
pub struct DecoderModel {
    /// Token ids to hidden states.
    pub decoder: Decoder,
    architecture: DecoderArchitecture,
    head: DecoderHead,
    /// The id that sequence classification takes for padding.
    pad_id: Option<usize>,
    /// The ids that end a sequence.
    eos_ids: Vec<i64>,
    layers: LayerTable,
}

/// Where a batch predicts its labels.
struct TargetStates {
    /// The last hidden states, `[batch, n_virtual + seq, d_model]`.
    hidden: Tensor<3>,
    /// `row * (n_virtual + seq) + position` before each label.
    places: Vec<usize>,
    /// The labels, `[places]`.
    targets: Tensor<1, Int>,
}

/// What a model computes on top of its decoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DecoderTask {
    Headless,
    CausalLm,
    SequenceClassification,
}

/// A family of decoders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DecoderArchitecture {
    Gpt2,
    Llama(Member),
}

#[derive(Debug, Clone)]
enum DecoderHead {
    None,
    /// Logits of the next token.
    Output(Linear),
    /// Logits of labels, from the last token.
    Score(Linear),
}

impl DecoderArchitecture {
    const ALL: [Self; 5] = [
        Self::Gpt2,
        Self::Llama(Member::Llama),
        Self::Llama(Member::Mistral),
        Self::Llama(Member::Qwen2),
        Self::Llama(Member::Qwen3),
    ];

    /// The architecture of a configuration's `model_type`.
    ///
    /// # Errors
    /// [`ModelError::UnknownArchitecture`], [`ModelError::MissingKey`].
    pub(crate) fn of(config: &ConfigFile) -> Result<Self, ModelError> {
        let all = Self::ALL.map(|architecture| (architecture.model_type(), architecture));
        config.choose(config.text("model_type")?, &all)
    }

    /// `model_type` in `config.json`.
    pub(crate) fn model_type(self) -> &'static str {
        match self {
            Self::Gpt2 => "gpt2",
            Self::Llama(Member::Llama) => "llama",
            Self::Llama(Member::Mistral) => "mistral",
            Self::Llama(Member::Qwen2) => "qwen2",
            Self::Llama(Member::Qwen3) => "qwen3",
        }
    }

    /// The decoder's module name in models with a head.
    fn body(self) -> &'static str {
        match self {
            Self::Gpt2 => "transformer",
            Self::Llama(_) => "model",
        }
    }

    /// The word embeddings' module name.
    fn words(self) -> &'static str {
        match self {
            Self::Gpt2 => "wte",
            Self::Llama(_) => "embed_tokens",
        }
    }

    /// The task of a configuration's class; headless when it names none.
    fn task(self, config: &ConfigFile) -> Result<DecoderTask, ModelError> {
        let Some(found) = config.class()? else {
            return Ok(DecoderTask::Headless);
        };
        let classes: &[_] = match self {
            Self::Gpt2 => &gpt2::CLASSES,
            Self::Llama(member) => member.classes(),
        };
        config.choose(found, classes)
    }

    fn load(self, config: &ConfigFile, loader: &mut Loader<'_>) -> Result<Decoder, ModelError> {
        match self {
            Self::Gpt2 => gpt2::load(config, loader),
            Self::Llama(member) => llama::load(member, config, loader),
        }
    }

    /// Whether a checkpoint may hold `name` though the model that is loaded has no use for it: a
    /// buffer, or a head that is not used.
    fn may_go_unused(self, name: &str) -> bool {
        let buffers: &[&str] = match self {
            Self::Gpt2 => &[".attn.bias", ".attn.masked_bias"],
            Self::Llama(_) => &["rotary_emb.inv_freq"],
        };
        buffers.iter().any(|buffer| name.ends_with(buffer))
            || ["lm_head.", "score."]
                .iter()
                .any(|head| name.starts_with(head))
    }
}

impl Base for DecoderModel {
    fn model_type(&self) -> &'static str {
        self.architecture.model_type()
    }

    fn kind(&self) -> BaseKind {
        BaseKind::Decoder
    }

    fn layers(&self) -> &LayerTable {
        &self.layers
    }

    fn replace(&mut self, layer: Layer) -> Result<(), ModelError> {
        let head = match &mut self.head {
            DecoderHead::None => None,
            DecoderHead::Output(linear) | DecoderHead::Score(linear) => {
                Some(LayerPlace::Linear(linear))
            }
        };
        self.layers
            .replace(layer, self.decoder.places().chain(head))
    }

    fn stacks(&self) -> Vec<StackShape> {
        vec![self.decoder.shape()]
    }

    fn key_values(&self, ids: &[i64]) -> Result<Vec<KeyValue>, ModelError> {
        self.decoder.key_values(ids)
    }
}

impl DecoderModel {
    /// Loads the class that `config.json` names in `architectures`, with its head.
    ///
    /// # Errors
    /// [`ModelError`], naming the file and the key or tensor at fault.
    pub fn load(folder: &Path, device: &Device) -> Result<Self, ModelError> {
        Self::load_with(folder, WeightFormat::Float32, device)
    }

    /// As [`load`](Self::load), with the weights held in another format.
    ///
    /// # Errors
    /// [`ModelError`], naming the file and the key or tensor at fault;
    /// [`ModelError::UnsupportedFormat`].
    pub fn load_with(
        folder: &Path,
        format: WeightFormat,
        device: &Device,
    ) -> Result<Self, ModelError> {
        let config = ConfigFile::read(folder)?;
        let task = DecoderArchitecture::of(&config)?.task(&config)?;
        format.check(device)?;
        let checkpoint = Checkpoint::open(folder)?;
        let mut model = Self::from_checkpoint(&config, checkpoint, task, format, device)?;
        if let Some(generation) = ConfigFile::read_generation(folder)?
            && generation.has("eos_token_id")
        {
            model.eos_ids = generation.ids("eos_token_id")?;
        }
        Ok(model)
    }

    /// Loads the decoder alone, as `AutoModel` does: site paths have no prefix, and a head in the
    /// checkpoint is left there.
    ///
    /// # Errors
    /// [`ModelError`], naming the file and the key or tensor at fault.
    pub fn load_headless(folder: &Path, device: &Device) -> Result<Self, ModelError> {
        let config = ConfigFile::read(folder)?;
        let checkpoint = Checkpoint::open(folder)?;
        let (task, format) = (DecoderTask::Headless, WeightFormat::Float32);
        Self::from_checkpoint(&config, checkpoint, task, format, device)
    }

    /// Builds a model of an opened checkpoint.
    ///
    /// # Errors
    /// [`ModelError`], naming the file and the key or tensor at fault.
    pub(crate) fn from_checkpoint(
        config: &ConfigFile,
        checkpoint: Checkpoint,
        task: DecoderTask,
        format: WeightFormat,
        device: &Device,
    ) -> Result<Self, ModelError> {
        config.refuse("quantization_config")?;
        let architecture = DecoderArchitecture::of(config)?;
        let prefix = format!("{}.", architecture.body());
        let prefixed = checkpoint.contains(&format!("{prefix}{}.weight", architecture.words()));
        let (key_prefix, site_prefix) = (
            if prefixed {
                prefix.clone()
            } else {
                String::new()
            },
            match task {
                DecoderTask::Headless => String::new(),
                DecoderTask::CausalLm | DecoderTask::SequenceClassification => prefix,
            },
        );
        let mut loader =
            Loader::new(checkpoint, device, key_prefix, site_prefix).with_format(format);
        let decoder = architecture.load(config, &mut loader)?;
        let head = match task {
            DecoderTask::Headless => DecoderHead::None,
            DecoderTask::CausalLm => {
                let default = architecture == DecoderArchitecture::Gpt2;
                let tied = config.switch_or("tie_word_embeddings", default)?;
                DecoderHead::Output(loader.output("lm_head", None, &decoder.words, tied)?)
            }
            DecoderTask::SequenceClassification => {
                let shape = LinearShape {
                    d_in: decoder.d_model(),
                    d_out: config.n_labels()?,
                    bias: false,
                };
                DecoderHead::Score(loader.linear(Part::Head, "score", shape)?)
            }
        };
        Ok(Self {
            decoder,
            architecture,
            head,
            pad_id: config.optional_id("pad_token_id")?,
            eos_ids: config.ids("eos_token_id")?,
            layers: loader.finish(|name| architecture.may_go_unused(name))?,
        })
    }

    /// The tokens that end a sequence, as `generation_config.json` or `config.json` names them.
    pub fn eos_ids(&self) -> &[i64] {
        &self.eos_ids
    }

    fn lacks(&self, part: &'static str) -> ModelError {
        ModelError::NoSuchPart {
            architecture: self.model_type(),
            part,
        }
    }

    fn output(&self) -> Result<&Linear, ModelError> {
        match &self.head {
            DecoderHead::Output(linear) => Ok(linear),
            DecoderHead::None | DecoderHead::Score(_) => Err(self.lacks("language model head")),
        }
    }

    /// Logits of the next token at every position.
    ///
    /// # Shapes
    /// - `batch`: `[batch, seq]` → `[batch, n_virtual + seq, vocab]`
    ///
    /// # Errors
    /// [`ModelError::NoSuchPart`] without that head, and as [`Decoder::begin`].
    pub fn logits(&self, batch: &DecoderBatch, hooks: &dyn Hooks) -> Result<Tensor<3>, ModelError> {
        let output = self.output()?;
        Ok(hooks.linear(output, self.decoder.forward(batch, None, hooks)?))
    }

    /// Logits of the next token at chosen places of the last hidden states: `row * seq + position`
    /// each. No other place reaches the output layer.
    ///
    /// # Shapes
    /// - `hidden`: `[batch, seq, d_model]` → `[places, vocab]`
    ///
    /// # Errors
    /// [`ModelError::NoSuchPart`] without that head.
    ///
    /// # Panics
    /// If a place is outside of `hidden`.
    pub fn logits_at(
        &self,
        hidden: Tensor<3>,
        places: &[usize],
        hooks: &dyn Hooks,
    ) -> Result<Tensor<2>, ModelError> {
        let output = self.output()?;
        Ok(linear_rows(output, rows_at(hidden, places), hooks))
    }

    /// The sum of a loss over the logits of the next token at chosen places. `loss` is given the
    /// logits of some places, as few at a time as keeps them small, and which of `places` they are.
    ///
    /// # Shapes
    /// - `hidden`: `[batch, seq, d_model]`, given to `loss`: `[group, vocab]` → `[1]`
    ///
    /// # Errors
    /// As [`logits_at`](Self::logits_at).
    ///
    /// # Panics
    /// As [`logits_at`](Self::logits_at), and without places.
    pub fn sum_at(
        &self,
        hidden: Tensor<3>,
        places: &[usize],
        hooks: &dyn Hooks,
        loss: impl Fn(Tensor<2>, Range<usize>) -> Tensor<1>,
    ) -> Result<Tensor<1>, ModelError> {
        let output = self.output()?;
        let rows = rows_at(hidden, places);
        let logits = |rows| linear_rows(output, rows, hooks);
        Ok(sum_of_logits(output, &rows, hooks, logits, loss))
    }

    /// The mean of a sequence's last hidden states, `d_model` values: a vector of its text.
    ///
    /// # Errors
    /// [`ModelError::EmptyPrompt`] without tokens, [`ModelError::UnknownToken`], and as
    /// [`Decoder::begin`].
    pub fn embed(&self, ids: &[i64], hooks: &dyn Hooks) -> Result<Vec<f32>, ModelError> {
        if ids.is_empty() {
            return Err(ModelError::EmptyPrompt { row: 0 });
        }
        self.decoder.check_ids(0, ids)?;
        let data = TensorData::new(ids.to_vec(), [1, ids.len()]);
        let batch = DecoderBatch {
            input_ids: Tensor::from_data(data, &self.decoder.words.weight.device()),
            attention_mask: None,
            position_ids: None,
        };
        let hidden = self.decoder.forward(&batch, None, hooks)?;
        Ok(hidden.mean_dim(1).into_data().iter::<f32>().collect())
    }

    /// Logits at the places that predict a label, and those labels, row by row. The label of a
    /// token is predicted at the place before it; [`IGNORED`] asks for nothing, and neither does
    /// the first token of a row, unless hooks put something in front of it.
    ///
    /// # Shapes
    /// - `batch`, `labels`: `[batch, seq]` → `[targets, vocab]` and `[targets]`
    ///
    /// # Errors
    /// [`ModelError::NoTarget`] when no label is left, [`ModelError::BatchShape`],
    /// [`ModelError::NoSuchPart`], and as [`Decoder::begin`].
    pub fn target_logits(
        &self,
        batch: &DecoderBatch,
        labels: &Tensor<2, Int>,
        hooks: &dyn Hooks,
    ) -> Result<(Tensor<2>, Tensor<1, Int>), ModelError> {
        let states = self.target_states(batch, labels, hooks)?;
        let logits = self.logits_at(states.hidden, &states.places, hooks)?;
        Ok((logits, states.targets))
    }

    fn target_states(
        &self,
        batch: &DecoderBatch,
        labels: &Tensor<2, Int>,
        hooks: &dyn Hooks,
    ) -> Result<TargetStates, ModelError> {
        let [size, seq] = batch.input_ids.dims();
        if labels.dims() != [size, seq] {
            return Err(ModelError::BatchShape {
                what: "labels",
                expected: vec![size, seq],
                found: labels.dims().to_vec(),
            });
        }
        self.output()?;
        let hidden = self.decoder.forward(batch, None, hooks)?;
        let n_virtual = hidden.dims()[1] - seq;
        let (mut places, mut targets) = (Vec::new(), Vec::new());
        for (index, label) in labels.to_data().iter::<i64>().enumerate() {
            let (row, position) = (index / seq, n_virtual + index % seq);
            if label != IGNORED && position > 0 {
                places.push(row * (n_virtual + seq) + position - 1);
                targets.push(label);
            }
        }
        if targets.is_empty() {
            return Err(ModelError::NoTarget);
        }
        let n_targets = targets.len();
        let targets = TensorData::new(targets, [n_targets]);
        Ok(TargetStates {
            hidden,
            places,
            targets: Tensor::from_data(targets, &labels.device()),
        })
    }

    /// Mean negative log-likelihood of the labels, as Transformers' causal language models define
    /// it.
    ///
    /// # Shapes
    /// - `batch`, `labels`: `[batch, seq]` → `[1]`
    ///
    /// # Errors
    /// As [`target_logits`](Self::target_logits).
    pub fn loss(
        &self,
        batch: &DecoderBatch,
        labels: &Tensor<2, Int>,
        hooks: &dyn Hooks,
    ) -> Result<Tensor<1>, ModelError> {
        let TargetStates {
            hidden,
            places,
            targets,
        } = self.target_states(batch, labels, hooks)?;
        let loss = |logits, range| cross_entropy_sum(logits, targets.clone().slice([range]));
        let sum = self.sum_at(hidden, &places, hooks, loss)?;
        Ok(sum.div_scalar(places.len() as f64))
    }

    /// Logits of the labels of whole rows, from each row's last token that is not the padding's.
    /// A model without a padding id takes the last place that the mask does not hide.
    ///
    /// # Shapes
    /// - `batch`: `[batch, seq]` → `[batch, n_labels]`
    ///
    /// # Errors
    /// [`ModelError::NoSuchPart`] without that head, and as [`Decoder::begin`].
    pub fn classify(
        &self,
        batch: &DecoderBatch,
        hooks: &dyn Hooks,
    ) -> Result<Tensor<2>, ModelError> {
        let DecoderHead::Score(score) = &self.head else {
            return Err(self.lacks("sequence classification head"));
        };
        let pooled = self.decoder.last_token(batch, self.pad_id, hooks)?;
        Ok(linear_rows(score, pooled, hooks))
    }
}

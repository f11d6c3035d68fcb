//! An encoder with its head, and the sites of both.

use std::path::Path;

use burn::tensor::{Device, Tensor};

use crate::architecture::{self, Architecture, Task};
use crate::checkpoint::Checkpoint;
use crate::config_file::ConfigFile;
use crate::head::{Head, linear_rows};
use crate::kernels::Activation;
use crate::layers::LayerPlace;
use crate::loader::{LinearShape, Loader, Part};
use crate::{
    Base, BaseKind, Encoder, EncoderBatch, Hooks, KeyValue, Layer, LayerTable, Linear, ModelError,
    Pooling, StackShape, pooling,
};

/// A frozen encoder with its head. Clones share their tensors.
#[derive(Debug, Clone)]
pub struct Model {
    /// Token ids to hidden states.
    pub encoder: Encoder,
    architecture: Architecture,
    pooler: Option<Linear>,
    head: Head,
    layers: LayerTable,
}

impl Base for Model {
    fn model_type(&self) -> &'static str {
        self.architecture.model_type()
    }

    fn kind(&self) -> BaseKind {
        BaseKind::Encoder
    }

    fn layers(&self) -> &LayerTable {
        &self.layers
    }

    fn replace(&mut self, layer: Layer) -> Result<(), ModelError> {
        let pooler = self.pooler.as_mut().map(LayerPlace::Linear);
        let places = self.encoder.places().chain(pooler);
        self.layers.replace(layer, places.chain(self.head.places()))
    }

    fn stacks(&self) -> Vec<StackShape> {
        vec![self.encoder.shape()]
    }

    fn key_values(&self, ids: &[i64]) -> Result<Vec<KeyValue>, ModelError> {
        self.encoder.key_values(ids)
    }
}

impl Model {
    /// Loads the class that `config.json` names in `architectures`, with its head.
    ///
    /// # Errors
    /// [`ModelError`], naming the file and the key or tensor at fault.
    pub fn load(folder: &Path, device: &Device) -> Result<Self, ModelError> {
        let config = ConfigFile::read(folder)?;
        let architecture = Architecture::of(&config)?;
        let task = architecture.task(&config)?;
        Self::load_task(folder, &config, architecture, task, device)
    }

    /// Loads the encoder alone, as `AutoModel` does: site paths have no prefix, and a head in the
    /// checkpoint is left there.
    ///
    /// # Errors
    /// [`ModelError`], naming the file and the key or tensor at fault.
    pub fn load_encoder(folder: &Path, device: &Device) -> Result<Self, ModelError> {
        let config = ConfigFile::read(folder)?;
        let architecture = Architecture::of(&config)?;
        Self::load_task(folder, &config, architecture, Task::Headless, device)
    }

    fn load_task(
        folder: &Path,
        config: &ConfigFile,
        architecture: Architecture,
        task: Task,
        device: &Device,
    ) -> Result<Self, ModelError> {
        let plan = architecture.plan(config)?;
        let checkpoint = Checkpoint::open(folder)?;
        let prefix = format!("{}.", architecture.model_type());
        let prefixed = checkpoint.contains(&format!("{prefix}embeddings.word_embeddings.weight"));
        let key_prefix = if prefixed {
            prefix.clone()
        } else {
            String::new()
        };
        let site_prefix = if task == Task::Headless {
            String::new()
        } else {
            prefix
        };
        let mut loader = Loader::new(checkpoint, device, key_prefix, site_prefix);
        let encoder = architecture::load_encoder(&plan, &mut loader)?;
        let pooler = match task {
            Task::SequenceClassification => architecture == Architecture::Bert,
            Task::Headless => loader.has_body_weight("pooler.dense"),
            _ => false,
        };
        let pooler = match pooler {
            true => {
                let shape = LinearShape {
                    d_in: plan.d_model,
                    d_out: plan.d_model,
                    bias: true,
                };
                Some(loader.linear(Part::Body, "pooler.dense", shape)?)
            }
            false => None,
        };
        let head = Head::load(
            task,
            architecture,
            config,
            &plan,
            &encoder.words,
            &mut loader,
        )?;
        let layers = loader.finish(|name| architecture.may_go_unused(name))?;
        Ok(Self {
            encoder,
            architecture,
            pooler,
            head,
            layers,
        })
    }

    /// One vector a row.
    ///
    /// # Shapes
    /// - `hidden`: `[batch, seq, d_model]` → `[batch, d_model]`
    ///
    /// # Errors
    /// [`ModelError::NoSuchPart`] for [`Pooling::Pooler`] without that layer, and for
    /// [`Pooling::Last`], which is for decoders.
    pub fn pool(
        &self,
        hidden: Tensor<3>,
        batch: &EncoderBatch,
        pooling: Pooling,
        hooks: &dyn Hooks,
    ) -> Result<Tensor<2>, ModelError> {
        match pooling {
            Pooling::Cls => Ok(pooling::first_token(hidden)),
            Pooling::Mean => Ok(pooling::mean(hidden, batch)),
            Pooling::Pooler => {
                let pooler = self.pooler.as_ref().ok_or_else(|| self.lacks("pooler"))?;
                Ok(Activation::Tanh.forward(linear_rows(
                    pooler,
                    pooling::first_token(hidden),
                    hooks,
                )))
            }
            Pooling::Last => Err(self.lacks("last token that has read the whole text")),
        }
    }

    fn lacks(&self, part: &'static str) -> ModelError {
        ModelError::NoSuchPart {
            architecture: self.model_type(),
            part,
        }
    }

    /// Logits of the labels of whole rows.
    ///
    /// # Shapes
    /// - `batch`: `[batch, seq]` → `[batch, n_labels]`
    ///
    /// # Errors
    /// [`ModelError::NoSuchPart`] without that head.
    pub fn classify(
        &self,
        batch: &EncoderBatch,
        hooks: &dyn Hooks,
    ) -> Result<Tensor<2>, ModelError> {
        let Head::SequenceClassification {
            transform,
            classifier,
        } = &self.head
        else {
            return Err(self.lacks("sequence classification head"));
        };
        let hidden = self.encoder.forward(batch, hooks);
        let pooled = match transform {
            None => self.pool(hidden, batch, Pooling::Pooler, hooks)?,
            Some((linear, activation)) => {
                activation.forward(linear_rows(linear, pooling::first_token(hidden), hooks))
            }
        };
        Ok(linear_rows(classifier, pooled, hooks))
    }

    /// Logits of the vocabulary at every position.
    ///
    /// # Shapes
    /// - `batch`: `[batch, seq]` → `[batch, seq, vocab]`
    ///
    /// # Errors
    /// [`ModelError::NoSuchPart`] without that head.
    pub fn masked_lm(
        &self,
        batch: &EncoderBatch,
        hooks: &dyn Hooks,
    ) -> Result<Tensor<3>, ModelError> {
        let Head::MaskedLm {
            transform,
            activation,
            norm,
            decoder,
        } = &self.head
        else {
            return Err(self.lacks("masked language model head"));
        };
        let hidden = self.encoder.forward(batch, hooks);
        let hidden = activation.forward(hooks.linear(transform, hidden));
        Ok(hooks.linear(decoder, hooks.norm(norm, hidden)))
    }

    /// Logits of the labels of every token.
    ///
    /// # Shapes
    /// - `batch`: `[batch, seq]` → `[batch, seq, n_labels]`
    ///
    /// # Errors
    /// [`ModelError::NoSuchPart`] without that head.
    pub fn classify_tokens(
        &self,
        batch: &EncoderBatch,
        hooks: &dyn Hooks,
    ) -> Result<Tensor<3>, ModelError> {
        let Head::TokenClassification(classifier) = &self.head else {
            return Err(self.lacks("token classification head"));
        };
        Ok(hooks.linear(classifier, self.encoder.forward(batch, hooks)))
    }

    /// Logits of where an answer starts and ends.
    ///
    /// # Shapes
    /// - `batch`: `[batch, seq]` → twice `[batch, seq]`
    ///
    /// # Errors
    /// [`ModelError::NoSuchPart`] without that head.
    pub fn answer_span(
        &self,
        batch: &EncoderBatch,
        hooks: &dyn Hooks,
    ) -> Result<[Tensor<2>; 2], ModelError> {
        let Head::SpanAnswering(outputs) = &self.head else {
            return Err(self.lacks("span answering head"));
        };
        let logits = hooks.linear(outputs, self.encoder.forward(batch, hooks));
        let [size, seq, _] = logits.dims();
        let of = |index: usize| {
            logits
                .clone()
                .slice([0..size, 0..seq, index..index + 1])
                .reshape([size, seq])
        };
        Ok([of(0), of(1)])
    }
}

//! A model: an encoder, its head, and the sites of both.

use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};

use crate::architecture::{self, Architecture, Task};
use crate::blocks::Activation;
use crate::checkpoint::Checkpoint;
use crate::config_file::ConfigFile;
use crate::head::{Head, linear_rows};
use crate::loader::{KeyedLayer, Loader, Part};
use crate::{
    Encoder, EncoderBatch, Hooks, Layer, Linear, ModelError, Pooling, SiteId, SiteTable, pooling,
};

/// A frozen model. Clones share their tensors.
#[derive(Debug, Clone)]
pub struct Model {
    /// Token ids to hidden states.
    pub encoder: Encoder,
    architecture: Architecture,
    pooler: Option<Linear>,
    head: Head,
    sites: SiteTable,
    /// By site; nothing at block sites.
    layers: Vec<Option<KeyedLayer>>,
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
            Task::Headless => loader.has_encoder_weight("pooler.dense"),
            _ => false,
        };
        let pooler = match pooler {
            true => {
                Some(loader.linear(Part::Encoder, "pooler.dense", plan.d_model, plan.d_model)?)
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
        let Loader {
            checkpoint,
            sites,
            mut layers,
            ..
        } = loader;
        checkpoint.finish(|name| architecture.may_go_unused(name))?;
        layers.resize(sites.len(), None);
        Ok(Self {
            encoder,
            architecture,
            pooler,
            head,
            sites,
            layers,
        })
    }

    /// `model_type` in `config.json`, e.g. `bert`.
    pub fn model_type(&self) -> &'static str {
        self.architecture.model_type()
    }

    /// All sites, in the order in which the forward reaches them.
    pub fn sites(&self) -> &SiteTable {
        &self.sites
    }

    /// Number of weights, tied ones counted once.
    pub fn n_parameters(&self) -> usize {
        let size = |keyed: &KeyedLayer| {
            let (weight, bias) = tensors(&keyed.layer);
            let weight = if keyed.weight_key.is_some() {
                weight.shape().num_elements()
            } else {
                0
            };
            weight + bias.map_or(0, |bias| bias.shape().num_elements())
        };
        self.layers.iter().flatten().map(size).sum()
    }

    /// The frozen layer at a site; nothing at a block site.
    ///
    /// # Panics
    /// If `site` comes from another model with more sites.
    pub fn layer_at(&self, site: SiteId) -> Option<&Layer> {
        self.layers[site.index()].as_ref().map(|keyed| &keyed.layer)
    }

    /// Replaces the frozen layer at its site, as merging an adapter does. Other clones of this
    /// model keep theirs.
    ///
    /// # Errors
    /// [`ModelError::ReplacementShape`] if the shapes or the kind of layer differ.
    ///
    /// # Panics
    /// If the layer's site comes from another model with more sites.
    pub fn replace(&mut self, layer: Layer) -> Result<(), ModelError> {
        let site = layer.site();
        let expected = self.layer_at(site).map_or(Vec::new(), Layer::shape);
        let same_kind = self
            .layer_at(site)
            .is_some_and(|old| std::mem::discriminant(old) == std::mem::discriminant(&layer));
        if !same_kind || expected != layer.shape() {
            let site = self.sites.get(site).path.clone();
            return Err(ModelError::ReplacementShape {
                site,
                expected,
                found: layer.shape(),
            });
        }
        for place in self.places() {
            place.replace_if_same_site(&layer);
        }
        if let Some(keyed) = &mut self.layers[site.index()] {
            keyed.layer = layer;
        }
        Ok(())
    }

    fn places(&mut self) -> impl Iterator<Item = crate::layers::LayerPlace<'_>> {
        let pooler = self.pooler.as_mut().map(crate::layers::LayerPlace::Linear);
        self.encoder
            .places()
            .chain(pooler)
            .chain(self.head.places())
    }

    /// Every tensor under its key in a Hugging Face checkpoint, in that layout (linear weights
    /// `[d_out, d_in]`); a tied decoder's weight is left out.
    pub fn named_tensors(&self) -> Vec<(String, TensorData)> {
        let mut named = Vec::new();
        for keyed in self.layers.iter().flatten() {
            let (weight, bias) = tensors(&keyed.layer);
            named.extend(keyed.weight_key.clone().map(|key| (key, weight)));
            named.extend(keyed.bias_key.clone().zip(bias));
        }
        named
    }

    /// One vector a row.
    ///
    /// # Shapes
    /// - `hidden`: `[batch, seq, d_model]` → `[batch, d_model]`
    ///
    /// # Errors
    /// [`ModelError::NoSuchPart`] for [`Pooling::Pooler`] without that layer.
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

/// Weight and bias in the layout of a checkpoint.
fn tensors(layer: &Layer) -> (TensorData, Option<TensorData>) {
    let bias = |bias: &Tensor<1>| bias.clone().into_data();
    match layer {
        Layer::Linear(linear) => (
            linear.weight.clone().transpose().into_data(),
            linear.bias.as_ref().map(bias),
        ),
        Layer::Norm(norm) => (norm.weight.clone().into_data(), Some(bias(&norm.bias))),
        Layer::Embedding(embedding) => (embedding.weight.clone().into_data(), None),
    }
}

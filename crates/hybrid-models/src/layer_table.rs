//! The frozen layers of a base by site, and what adapters see of a base.

use std::path::Path;

use burn::tensor::{Tensor, TensorData};

use crate::architecture::Architecture;
use crate::config_file::ConfigFile;
use crate::decoder_model::DecoderArchitecture;
use crate::encoder_decoder::Family;
use crate::layers::LayerPlace;
use crate::{KeyValue, Layer, ModelError, SiteId, SiteTable, StackShape};

/// How a base reads and writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BaseKind {
    /// Tokens to hidden states with sight in both directions.
    Encoder,
    /// Tokens from left to right.
    Decoder,
    /// A decoder that attends to an encoder's output.
    EncoderDecoder,
}

impl BaseKind {
    /// The kind of the model in a folder, by its `config.json`.
    ///
    /// # Errors
    /// [`ModelError::UnknownArchitecture`], or an error of the configuration.
    pub fn of_folder(folder: &Path) -> Result<Self, ModelError> {
        let config = ConfigFile::read(folder)?;
        let mut all = Vec::new();
        for (kind, error) in [
            (Self::Encoder, Architecture::of(&config).err()),
            (Self::Decoder, DecoderArchitecture::of(&config).err()),
            (Self::EncoderDecoder, Family::of(&config).err()),
        ] {
            match error {
                None => return Ok(kind),
                Some(ModelError::UnknownArchitecture { known, .. }) => all.extend(known),
                Some(error) => return Err(error),
            }
        }
        Err(ModelError::UnknownArchitecture {
            path: config.path().to_owned(),
            found: config.text("model_type")?.to_owned(),
            known: all,
        })
    }
}

/// A frozen model of any kind, as adapters see it: sites, the layers at them, and a way to replace
/// a layer, which merging needs.
pub trait Base {
    /// `model_type` in `config.json`, e.g. `bert`.
    fn model_type(&self) -> &'static str;

    /// How the base reads and writes.
    fn kind(&self) -> BaseKind;

    /// All frozen layers.
    fn layers(&self) -> &LayerTable;

    /// Replaces the frozen layer at its site, as merging an adapter does. Other clones of this
    /// base keep theirs.
    ///
    /// # Errors
    /// [`ModelError::ReplacementShape`] if the shapes or the kind of layer differ.
    ///
    /// # Panics
    /// If the layer's site comes from another base with more sites.
    fn replace(&mut self, layer: Layer) -> Result<(), ModelError>;

    /// The stacks in front of whose tokens hooks can put something, in the order of the forward;
    /// none when there is no such place.
    fn stacks(&self) -> Vec<StackShape> {
        Vec::new()
    }

    /// Keys and values that tokens have when they are all that is read, one entry a layer, as
    /// [`crate::Hooks::key_values`] takes them.
    ///
    /// # Errors
    /// [`ModelError::NoSuchPart`] when the base does not read tokens alone,
    /// [`ModelError::UnknownToken`], [`ModelError::TooManyPositions`].
    fn key_values(&self, _ids: &[i64]) -> Result<Vec<KeyValue>, ModelError> {
        Err(ModelError::NoSuchPart {
            architecture: self.model_type(),
            part: "keys of tokens alone",
        })
    }

    /// All sites, in the order in which the forward reaches them.
    fn sites(&self) -> &SiteTable {
        self.layers().sites()
    }

    /// The frozen layer at a site; nothing at a block site.
    ///
    /// # Panics
    /// If `site` comes from another base with more sites.
    fn layer_at(&self, site: SiteId) -> Option<&Layer> {
        self.layers().get(site)
    }

    /// Number of weights, tied ones counted once.
    fn n_parameters(&self) -> usize {
        self.layers().n_parameters()
    }

    /// Every tensor under its key in a Hugging Face checkpoint and in that layout; the weight of a
    /// tied output layer is left out.
    fn named_tensors(&self) -> Vec<(String, TensorData)> {
        self.layers().named_tensors()
    }
}

/// The frozen layers of a base, by site.
#[derive(Debug, Clone, Default)]
pub struct LayerTable {
    sites: SiteTable,
    /// Nothing at block sites.
    layers: Vec<Option<KeyedLayer>>,
}

/// A layer with the checkpoint keys of its tensors.
#[derive(Debug, Clone)]
pub(crate) struct KeyedLayer {
    pub(crate) layer: Layer,
    pub(crate) weight_key: Option<String>,
    /// Whether the weight is another layer's, and not stored: a tied output layer.
    pub(crate) tied: bool,
    pub(crate) bias_key: Option<String>,
    /// Whether the checkpoint has a linear weight as `[d_in, d_out]`.
    pub(crate) input_first: bool,
}

impl LayerTable {
    pub(crate) fn new(sites: SiteTable, mut layers: Vec<Option<KeyedLayer>>) -> Self {
        layers.resize(sites.len(), None);
        Self { sites, layers }
    }

    /// Layers that come from no checkpoint, for a base of one's own.
    ///
    /// # Panics
    /// If a layer's site is not in `sites`.
    pub fn without_checkpoint(sites: SiteTable, layers: Vec<Layer>) -> Self {
        let mut keyed = vec![None; sites.len()];
        for layer in layers {
            let index = layer.site().index();
            keyed[index] = Some(KeyedLayer {
                layer,
                weight_key: None,
                tied: false,
                bias_key: None,
                input_first: false,
            });
        }
        Self::new(sites, keyed)
    }

    /// All sites, in the order in which the forward reaches them.
    pub fn sites(&self) -> &SiteTable {
        &self.sites
    }

    /// The frozen layer at a site; nothing at a block site.
    ///
    /// # Panics
    /// If `site` comes from another base with more sites.
    pub fn get(&self, site: SiteId) -> Option<&Layer> {
        self.layers[site.index()].as_ref().map(|keyed| &keyed.layer)
    }

    /// Whether the checkpoint has the linear weight at a site as `[d_in, d_out]`, as GPT-2's
    /// `Conv1D` does, where PyTorch's linear layers have `[d_out, d_in]`.
    ///
    /// # Panics
    /// If `site` comes from another base with more sites.
    pub fn input_first(&self, site: SiteId) -> bool {
        self.layers[site.index()]
            .as_ref()
            .is_some_and(|keyed| keyed.input_first)
    }

    /// Whether the weight at a site is another layer's: an output layer that shares the word vectors.
    ///
    /// # Panics
    /// If `site` comes from another base with more sites.
    pub fn is_tied(&self, site: SiteId) -> bool {
        self.layers[site.index()]
            .as_ref()
            .is_some_and(|keyed| keyed.tied)
    }

    /// Number of weights, tied ones counted once.
    pub fn n_parameters(&self) -> usize {
        let size = |keyed: &KeyedLayer| {
            let weight = match keyed.stored_key() {
                Some(_) => keyed.n_values(),
                None => 0,
            };
            let bias = keyed.layer.bias();
            weight + bias.map_or(0, |bias| bias.shape().num_elements())
        };
        self.layers.iter().flatten().map(size).sum()
    }

    /// Every tensor under its key in a Hugging Face checkpoint and in that layout.
    pub fn named_tensors(&self) -> Vec<(String, TensorData)> {
        let mut named = Vec::new();
        for keyed in self.layers.iter().flatten() {
            if let Some(key) = keyed.stored_key() {
                named.push((key.to_owned(), keyed.stored_weight()));
            }
            let bias = keyed.layer.bias().map(Tensor::to_data);
            named.extend(keyed.bias_key.clone().zip(bias));
        }
        named
    }

    /// Puts a layer here and at its place in the model.
    ///
    /// # Errors
    /// [`ModelError::ReplacementShape`] if the shapes or the kind of layer differ.
    pub(crate) fn replace<'a>(
        &mut self,
        layer: Layer,
        places: impl IntoIterator<Item = LayerPlace<'a>>,
    ) -> Result<(), ModelError> {
        let site = layer.site();
        let old = self.get(site);
        let expected = old.map_or(Vec::new(), Layer::shape);
        let same_kind =
            old.is_some_and(|old| std::mem::discriminant(old) == std::mem::discriminant(&layer));
        if !same_kind || expected != layer.shape() {
            let site = self.sites.get(site).path.clone();
            return Err(ModelError::ReplacementShape {
                site,
                expected,
                found: layer.shape(),
            });
        }
        for place in places {
            place.replace_if_same_site(&layer);
        }
        // A tied layer keeps its weight when either of the two gets another one: from then on it has
        // a weight of its own.
        let is_table = matches!(layer, Layer::Embedding(_));
        for keyed in self.layers.iter_mut().flatten() {
            keyed.tied &= !is_table && keyed.layer.site() != site;
        }
        if let Some(keyed) = &mut self.layers[site.index()] {
            keyed.layer = layer;
        }
        Ok(())
    }
}

impl KeyedLayer {
    /// The key of the weight, if it is stored.
    fn stored_key(&self) -> Option<&str> {
        self.weight_key.as_deref().filter(|_| !self.tied)
    }

    /// Number of values of the weight.
    fn n_values(&self) -> usize {
        match &self.layer {
            Layer::Linear(linear) => linear.weight.dims().iter().product(),
            Layer::Norm(norm) => norm.weight.dims().iter().product(),
            Layer::Embedding(embedding) => embedding.weight.dims().iter().product(),
        }
    }

    fn stored_weight(&self) -> TensorData {
        match &self.layer {
            Layer::Linear(linear) if !self.input_first => {
                linear.weight.clone().transpose().to_data()
            }
            Layer::Linear(linear) => linear.weight.to_data(),
            Layer::Norm(norm) => norm.weight.to_data(),
            Layer::Embedding(embedding) => embedding.weight.to_data(),
        }
    }
}

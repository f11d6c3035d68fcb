//! Takes layers out of a checkpoint, places them at their sites and remembers their keys.

use burn::tensor::{Device, Tensor};

use crate::checkpoint::Checkpoint;
use crate::{Embedding, Layer, LayerNorm, Linear, ModelError, SiteId, SiteKind, SiteTable};

/// Which part of a model a layer belongs to; decides its prefixes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Part {
    /// The encoder outside its layers.
    Encoder,
    /// One of the encoder's layers.
    EncoderLayer(usize),
    /// The task head: its paths have no prefix.
    Head,
}

/// A layer with the checkpoint keys of its tensors.
#[derive(Debug, Clone)]
pub(crate) struct KeyedLayer {
    pub(crate) layer: Layer,
    /// `None` when the tensor is another layer's (a tied decoder).
    pub(crate) weight_key: Option<String>,
    pub(crate) bias_key: Option<String>,
}

/// Builds the layers of one model, in the order in which the forward reaches them.
pub(crate) struct Loader<'a> {
    pub(crate) checkpoint: Checkpoint,
    device: &'a Device,
    /// Before encoder keys in the checkpoint: `bert.` or nothing.
    key_prefix: String,
    /// Before encoder paths in site names.
    site_prefix: String,
    pub(crate) sites: SiteTable,
    pub(crate) layers: Vec<Option<KeyedLayer>>,
}

impl<'a> Loader<'a> {
    pub(crate) fn new(
        checkpoint: Checkpoint,
        device: &'a Device,
        key_prefix: String,
        site_prefix: String,
    ) -> Self {
        Self {
            checkpoint,
            device,
            key_prefix,
            site_prefix,
            sites: SiteTable::default(),
            layers: Vec::new(),
        }
    }

    fn place(&mut self, part: Part, path: &str, kind: SiteKind) -> (SiteId, String) {
        let (site_path, key, layer, head) = match part {
            Part::Encoder => (
                format!("{}{path}", self.site_prefix),
                format!("{}{path}", self.key_prefix),
                None,
                false,
            ),
            Part::EncoderLayer(layer) => (
                format!("{}{path}", self.site_prefix),
                format!("{}{path}", self.key_prefix),
                Some(layer),
                false,
            ),
            Part::Head => (path.to_owned(), path.to_owned(), None, true),
        };
        (self.sites.add(site_path, layer, head, kind), key)
    }

    fn keep(&mut self, layer: Layer, weight_key: Option<String>, bias_key: Option<String>) {
        self.layers.resize(layer.site().index(), None);
        self.layers.push(Some(KeyedLayer {
            layer,
            weight_key,
            bias_key,
        }));
    }

    fn tensor<const D: usize>(
        &mut self,
        key: &str,
        shape: [usize; D],
    ) -> Result<Tensor<D>, ModelError> {
        Ok(Tensor::from_data(
            self.checkpoint.take(key, &shape)?,
            self.device,
        ))
    }

    /// Whether the checkpoint has an encoder layer of this path.
    pub(crate) fn has_encoder_weight(&self, path: &str) -> bool {
        self.checkpoint
            .contains(&format!("{}{path}.weight", self.key_prefix))
    }

    /// A linear layer with a bias.
    pub(crate) fn linear(
        &mut self,
        part: Part,
        path: &str,
        d_in: usize,
        d_out: usize,
    ) -> Result<Linear, ModelError> {
        let (site, key) = self.place(
            part,
            path,
            SiteKind::Linear {
                d_in,
                d_out,
                bias: true,
            },
        );
        let (weight_key, bias_key) = (format!("{key}.weight"), format!("{key}.bias"));
        // On disk `[d_out, d_in]`; a transposed view costs no copy.
        let weight = self.tensor(&weight_key, [d_out, d_in])?.transpose();
        let bias = Some(self.tensor(&bias_key, [d_out])?);
        let linear = Linear { site, weight, bias };
        self.keep(
            Layer::Linear(linear.clone()),
            Some(weight_key),
            Some(bias_key),
        );
        Ok(linear)
    }

    /// The output projection of a masked language model. Its weight is the word embeddings'
    /// (Press and Wolf 2017) when `tied`; its bias is under `bias_key`.
    pub(crate) fn decoder(
        &mut self,
        path: &str,
        bias_key: &str,
        words: &Embedding,
        tied: bool,
    ) -> Result<Linear, ModelError> {
        let [vocab, d_model] = words.weight.dims();
        let (site, key) = self.place(
            Part::Head,
            path,
            SiteKind::Linear {
                d_in: d_model,
                d_out: vocab,
                bias: true,
            },
        );
        let weight_key = (!tied).then(|| format!("{key}.weight"));
        let weight = match &weight_key {
            Some(key) => self.tensor(key, [vocab, d_model])?,
            None => words.weight.clone(),
        };
        let bias = Some(self.tensor(bias_key, [vocab])?);
        let linear = Linear {
            site,
            weight: weight.transpose(),
            bias,
        };
        self.keep(
            Layer::Linear(linear.clone()),
            weight_key,
            Some(bias_key.to_owned()),
        );
        Ok(linear)
    }

    /// A layer norm.
    pub(crate) fn norm(
        &mut self,
        part: Part,
        path: &str,
        d_model: usize,
        epsilon: f64,
    ) -> Result<LayerNorm, ModelError> {
        let (site, key) = self.place(part, path, SiteKind::Norm { d_model });
        let (weight_key, bias_key) = (format!("{key}.weight"), format!("{key}.bias"));
        let weight = self.tensor(&weight_key, [d_model])?;
        let bias = self.tensor(&bias_key, [d_model])?;
        let norm = LayerNorm {
            site,
            weight,
            bias,
            epsilon,
        };
        self.keep(Layer::Norm(norm.clone()), Some(weight_key), Some(bias_key));
        Ok(norm)
    }

    /// A lookup table of the encoder.
    pub(crate) fn embedding(
        &mut self,
        path: &str,
        n: usize,
        d_model: usize,
    ) -> Result<Embedding, ModelError> {
        let (site, key) = self.place(Part::Encoder, path, SiteKind::Embedding { n, d_model });
        let weight_key = format!("{key}.weight");
        let weight = self.tensor(&weight_key, [n, d_model])?;
        let embedding = Embedding { site, weight };
        self.keep(Layer::Embedding(embedding.clone()), Some(weight_key), None);
        Ok(embedding)
    }

    /// The output of a sub-layer of encoder layer `layer`.
    pub(crate) fn block(&mut self, layer: usize, path: &str, d_model: usize) -> SiteId {
        self.place(Part::EncoderLayer(layer), path, SiteKind::Block { d_model })
            .0
    }
}

//! Takes layers out of a checkpoint, places them at their sites and remembers their keys.

use burn::tensor::{Device, Tensor};

use crate::checkpoint::Checkpoint;
use crate::encoder_decoder::FixedTensor;
use crate::layer_table::{KeyedLayer, LayerTable};
use crate::{
    Embedding, Layer, Linear, ModelError, Norm, NormKind, SiteId, SiteKind, SiteTable, Weight,
    WeightFormat,
};

/// Which part of a model a layer belongs to; decides its prefixes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Part {
    /// The body outside its transformer layers.
    Body,
    /// One of the transformer layers.
    Layer(usize),
    /// The task head: its paths have no prefix.
    Head,
}

/// Sizes of a linear layer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LinearShape {
    pub(crate) d_in: usize,
    pub(crate) d_out: usize,
    pub(crate) bias: bool,
}

/// Builds the layers of one model, in the order in which the forward reaches them.
pub(crate) struct Loader<'a> {
    checkpoint: Checkpoint,
    device: &'a Device,
    format: WeightFormat,
    /// Before body keys in the checkpoint: `bert.` or nothing.
    key_prefix: String,
    /// Before body paths in site names.
    site_prefix: String,
    sites: SiteTable,
    layers: Vec<Option<KeyedLayer>>,
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
            format: WeightFormat::Float32,
            key_prefix,
            site_prefix,
            sites: SiteTable::default(),
            layers: Vec::new(),
        }
    }

    /// Holds matrices in another format than as 32-bit floats.
    pub(crate) fn with_format(mut self, format: WeightFormat) -> Self {
        self.format = format;
        self
    }

    /// All layers, when the checkpoint has no tensor left but those that `unused` knows.
    ///
    /// # Errors
    /// [`ModelError::ExtraTensor`].
    pub(crate) fn finish(self, unused: impl Fn(&str) -> bool) -> Result<LayerTable, ModelError> {
        self.checkpoint.finish(unused)?;
        Ok(LayerTable::new(self.sites, self.layers))
    }

    fn place(&mut self, part: Part, path: &str, kind: SiteKind) -> (SiteId, String) {
        let site_path = format!("{}{path}", self.site_prefix);
        let (site_path, layer, head) = match part {
            Part::Body => (site_path, None, false),
            Part::Layer(layer) => (site_path, Some(layer), false),
            Part::Head => (path.to_owned(), None, true),
        };
        (
            self.sites.add(site_path, layer, head, kind),
            self.key(part, path),
        )
    }

    fn key(&self, part: Part, path: &str) -> String {
        match part {
            Part::Body | Part::Layer(_) => format!("{}{path}", self.key_prefix),
            Part::Head => path.to_owned(),
        }
    }

    fn keep(
        &mut self,
        layer: Layer,
        weight_key: Option<String>,
        bias_key: Option<String>,
        input_first: bool,
    ) {
        self.layers.resize(layer.site().index(), None);
        self.layers.push(Some(KeyedLayer {
            layer,
            weight_key,
            tied: false,
            bias_key,
            input_first,
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

    fn matrix(&mut self, key: &str, shape: [usize; 2]) -> Result<Weight, ModelError> {
        if self.format == WeightFormat::Keep
            && let Some(blocks) = self.checkpoint.take_quantized(key, &shape)?
        {
            return Ok(Weight::kept(blocks, self.device));
        }
        if self.format == WeightFormat::Bfloat16 {
            let values = self.checkpoint.take(key, &shape)?;
            return Ok(Weight::bfloat16(values, self.device));
        }
        Ok(self.tensor(key, shape)?.into())
    }

    /// Whether the checkpoint has a weight of the body under this path.
    pub(crate) fn has_body_weight(&self, path: &str) -> bool {
        self.checkpoint
            .contains(&format!("{}{path}.weight", self.key_prefix))
    }

    /// A linear layer, its weight `[d_out, d_in]` on disk.
    pub(crate) fn linear(
        &mut self,
        part: Part,
        path: &str,
        shape: LinearShape,
    ) -> Result<Linear, ModelError> {
        self.linear_layer(part, path, shape, false)
    }

    /// GPT-2's `Conv1D`: a linear layer with a bias, its weight `[d_in, d_out]` on disk.
    pub(crate) fn conv1d(
        &mut self,
        part: Part,
        path: &str,
        d_in: usize,
        d_out: usize,
    ) -> Result<Linear, ModelError> {
        let shape = LinearShape {
            d_in,
            d_out,
            bias: true,
        };
        self.linear_layer(part, path, shape, true)
    }

    fn linear_layer(
        &mut self,
        part: Part,
        path: &str,
        shape: LinearShape,
        input_first: bool,
    ) -> Result<Linear, ModelError> {
        let LinearShape { d_in, d_out, bias } = shape;
        let (site, key) = self.place(part, path, SiteKind::Linear { d_in, d_out, bias });
        let weight_key = format!("{key}.weight");
        let weight = match input_first {
            true => self.matrix(&weight_key, [d_in, d_out])?,
            false => {
                let weight = self.matrix(&weight_key, [d_out, d_in])?;
                weight.transpose().laid_out_for_products()
            }
        };
        let bias_key = bias.then(|| format!("{key}.bias"));
        let bias = match &bias_key {
            Some(key) => Some(self.tensor(key, [d_out])?),
            None => None,
        };
        let linear = Linear { site, weight, bias };
        let layer = Layer::Linear(linear.clone());
        self.keep(layer, Some(weight_key), bias_key, input_first);
        Ok(linear)
    }

    /// The output layer of a language model. Its weight is the word embeddings' (Press and Wolf
    /// 2017) when `tied`, unless the checkpoint has another one for it; its bias, where there is
    /// one, is under `bias_key`.
    pub(crate) fn output(
        &mut self,
        path: &str,
        bias_key: Option<&str>,
        words: &Embedding,
        tied: bool,
    ) -> Result<Linear, ModelError> {
        let [vocab, d_model] = words.weight.dims();
        let kind = SiteKind::Linear {
            d_in: d_model,
            d_out: vocab,
            bias: bias_key.is_some(),
        };
        let (site, key) = self.place(Part::Head, path, kind);
        let weight_key = format!("{key}.weight");
        let own = match tied && !self.checkpoint.contains(&weight_key) {
            true => None,
            false => Some(self.matrix(&weight_key, [vocab, d_model])?),
        };
        let own = own.filter(|own| !tied || !own.is_same(&words.weight));
        let is_tied = own.is_none();
        let weight = own.unwrap_or_else(|| words.weight.clone());
        let bias = match bias_key {
            Some(key) => Some(self.tensor(key, [vocab])?),
            None => None,
        };
        let linear = Linear {
            site,
            weight: weight.transpose(),
            bias,
        };
        let bias_key = bias_key.map(str::to_owned);
        let layer = Layer::Linear(linear.clone());
        self.keep(layer, Some(weight_key), bias_key, false);
        if let Some(Some(kept)) = self.layers.last_mut() {
            kept.tied = is_tied;
        }
        Ok(linear)
    }

    /// A layer norm with gain and shift, or a root mean square norm with a gain alone.
    pub(crate) fn norm(
        &mut self,
        part: Part,
        path: &str,
        kind: NormKind,
        d_model: usize,
        epsilon: f64,
    ) -> Result<Norm, ModelError> {
        let has_bias = kind == NormKind::Layer;
        let site_kind = SiteKind::Norm {
            d_model,
            bias: has_bias,
        };
        let (site, key) = self.place(part, path, site_kind);
        let weight_key = format!("{key}.weight");
        let weight = self.tensor(&weight_key, [d_model])?;
        let bias_key = has_bias.then(|| format!("{key}.bias"));
        let bias = match &bias_key {
            Some(key) => Some(self.tensor(key, [d_model])?),
            None => None,
        };
        let norm = Norm {
            site,
            kind,
            weight,
            bias,
            epsilon,
        };
        self.keep(Layer::Norm(norm.clone()), Some(weight_key), bias_key, false);
        Ok(norm)
    }

    /// A lookup table of the body.
    pub(crate) fn embedding(
        &mut self,
        path: &str,
        n: usize,
        d_model: usize,
    ) -> Result<Embedding, ModelError> {
        let (site, key) = self.place(Part::Body, path, SiteKind::Embedding { n, d_model });
        let weight_key = format!("{key}.weight");
        let weight = self.matrix(&weight_key, [n, d_model])?;
        let embedding = Embedding { site, weight };
        let layer = Layer::Embedding(embedding.clone());
        self.keep(layer, Some(weight_key), None, false);
        Ok(embedding)
    }

    /// The word vectors of one stack: those that stacks share, unless the checkpoint has others
    /// under this path.
    pub(crate) fn stack_words(
        &mut self,
        path: &str,
        shared: &Embedding,
    ) -> Result<Embedding, ModelError> {
        let weight_key = self.key(Part::Body, &format!("{path}.weight"));
        if !self.checkpoint.contains(&weight_key) {
            return Ok(shared.clone());
        }
        let [n, d_model] = shared.weight.dims();
        let weight = self.matrix(&weight_key, [n, d_model])?;
        if weight.is_same(&shared.weight) {
            return Ok(shared.clone());
        }
        let (site, _) = self.place(Part::Body, path, SiteKind::Embedding { n, d_model });
        let embedding = Embedding { site, weight };
        let layer = Layer::Embedding(embedding.clone());
        self.keep(layer, Some(weight_key), None, false);
        Ok(embedding)
    }

    /// A tensor that is no layer, if the checkpoint has it.
    pub(crate) fn fixed(
        &mut self,
        part: Part,
        path: &str,
        shape: [usize; 2],
    ) -> Result<Option<FixedTensor>, ModelError> {
        let key = self.key(part, path);
        if !self.checkpoint.contains(&key) {
            return Ok(None);
        }
        let values = self.tensor(&key, shape)?;
        let key = Some(key);
        Ok(Some(FixedTensor { key, values }))
    }

    /// The output of a sub-layer of transformer layer `layer`.
    pub(crate) fn block(&mut self, layer: usize, path: &str, d_model: usize) -> SiteId {
        self.place(Part::Layer(layer), path, SiteKind::Block { d_model })
            .0
    }
}

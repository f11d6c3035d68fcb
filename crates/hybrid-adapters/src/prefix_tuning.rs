//! Prefix tuning: trained keys and values in front of those of every layer (Li and Liang 2021,
//! section 4.2).
//!
//! With `prefix_projection` they come out of two layers with `tanh` between them (section 4.3).
//! Over an encoder-decoder they stand in front of the decoder's self-attention alone, and the
//! layers share them as PEFT shares them: of `L` pairs, decoder layer `i` takes pair `2i mod L`
//! (with `num_transformer_submodules = 1`, pair `i`).

use burn::module::{Module, Param};
use burn::tensor::{Tensor, TensorData};
use hybrid_models::{KeyValue, Stack, StackShape};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::dense::{self, Dense};
use crate::error::wrong_setting;
use crate::method::{Building, Method};
use crate::virtual_tokens::{Asked, Planned, not_mergeable};
use crate::{AdapterError, frozen};

/// How many keys and what they come from, with PEFT's names and meanings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PrefixTuningConfig {
    /// Keys and values in front of those of the tokens.
    #[schemars(range(min = 1))]
    pub num_virtual_tokens: usize,
    /// Size of a layer's keys: the base's, which is taken when this is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_dim: Option<usize>,
    /// As PEFT counts the stacks of the base: it says which layers share keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_transformer_submodules: Option<usize>,
    /// Whether keys and values come out of two layers.
    #[serde(default)]
    pub prefix_projection: bool,
    /// Features between those layers; `token_dim` when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoder_hidden_size: Option<usize>,
    /// Where keys and values start; anywhere when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_weights: Option<PrefixInit>,
    /// Tokens whose keys and values in the base are the first values: cut off or repeated to the
    /// number of keys. PEFT's files do not have this key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_token_ids: Option<Vec<i64>>,
}

/// Where keys and values start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PrefixInit {
    /// All zero: every key is as near, and no value adds anything.
    Zero,
}

/// Keys and values, or what they come from.
#[derive(Module, Debug)]
pub(crate) struct PrefixTuning {
    /// `[n_virtual, 2 * n_pairs * n_kv_heads * d_head]` in the order of layer, key or value, head;
    /// `[n_virtual, n_kv_heads * d_head]` under a projection.
    embedding: Param<Tensor<2>>,
    pub(crate) transform: Option<Vec<Dense>>,
    #[module(skip)]
    layers: LayerKeys,
}

/// How layers take keys and values out of one table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LayerKeys {
    shape: StackShape,
    n_pairs: usize,
    /// Pairs from one layer's to the next one's.
    stride: usize,
}

const METHOD: &str = "prefix_tuning";

impl PrefixTuningConfig {
    fn asked(&self) -> Asked {
        Asked {
            method: METHOD,
            num_virtual_tokens: self.num_virtual_tokens,
            token_dim: self.token_dim,
            num_transformer_submodules: self.num_transformer_submodules,
        }
    }

    fn check(&self) -> Result<(), AdapterError> {
        let wrong = wrong_setting(METHOD);
        if self.encoder_hidden_size == Some(0) {
            return wrong("encoder_hidden_size", "1 or more", "0".to_owned());
        }
        if self.init_token_ids.is_some() && self.prefix_projection {
            let found = "beside prefix_projection".to_owned();
            return wrong("init_token_ids", "nothing that two layers change", found);
        }
        if self.init_token_ids.is_some() && self.init_weights.is_some() {
            let found = "beside init_weights".to_owned();
            return wrong("init_token_ids", "one start alone", found);
        }
        Ok(())
    }
}

impl LayerKeys {
    /// # Errors
    /// [`AdapterError::Setting`] for a decoder with more layers than its encoder.
    pub(crate) fn new(method: &'static str, planned: &Planned) -> Result<Self, AdapterError> {
        let (pairs, layers) = (planned.first.n_layers, planned.last.n_layers);
        if layers > pairs {
            let found = format!("{layers} layers over an encoder of {pairs}");
            let wrong = wrong_setting(method);
            return wrong("num_layers", "a decoder no deeper than its encoder", found);
        }
        Ok(Self {
            shape: planned.last,
            n_pairs: pairs,
            stride: planned.n_stacks,
        })
    }

    /// Values of one key: `2 * n_pairs * n_kv_heads * d_head`.
    pub(crate) fn width(&self) -> usize {
        2 * self.n_pairs * width(&self.shape)
    }

    /// Keys and values of each layer of a stack, if they stand in front of that one's.
    ///
    /// # Shapes
    /// - `rows`: `[n_virtual, 2 * n_pairs * n_kv_heads * d_head]`
    pub(crate) fn of_stack(
        &self,
        stack: Stack,
        rows: impl FnOnce() -> Tensor<2>,
    ) -> Option<Vec<KeyValue>> {
        let StackShape {
            n_layers,
            n_kv_heads,
            d_head,
            ..
        } = self.shape;
        if stack != self.shape.stack {
            return None;
        }
        let rows = rows();
        let [n_virtual, _] = rows.dims();
        let parts = rows.reshape([n_virtual, 2 * self.n_pairs, n_kv_heads, d_head]);
        // [2 * n_pairs, n_kv_heads, n_virtual, d_head]
        let parts = parts.permute([1, 2, 0, 3]);
        let pair = |layer: usize| {
            let first = 2 * (layer * self.stride % self.n_pairs);
            KeyValue {
                key: parts.clone().narrow(0, first, 1),
                value: parts.clone().narrow(0, first + 1, 1),
            }
        };
        Some((0..n_layers).map(pair).collect())
    }
}

impl PrefixTuning {
    /// Values normal with deviation 1, as PyTorch draws tables, or those of given tokens.
    ///
    /// # Errors
    /// [`AdapterError::Setting`]; [`AdapterError::Model`] for an unknown token, or a base that
    /// keys cannot stand in front of.
    pub(crate) fn init(
        config: &PrefixTuningConfig,
        building: &Building<'_>,
    ) -> Result<Self, AdapterError> {
        let asked = config.asked();
        let planned = asked.plan(building.base, width)?;
        config.check()?;
        let layers = LayerKeys::new(METHOD, &planned)?;
        let n_virtual = config.num_virtual_tokens;
        let (token, all) = (width(&planned.last), layers.width());
        let mut random = building.random_part(0);
        let mut drawn = |width: usize| {
            Param::from_data(random.normal([n_virtual, width], 1.0), building.device)
        };
        let (embedding, transform) = match (&config.init_token_ids, config.init_weights) {
            (_, init) if config.prefix_projection => {
                let embedding = drawn(token);
                let sizes = [token, config.encoder_hidden_size.unwrap_or(token), all];
                let between = dense::init(&sizes, &mut building.random_part(1), building.device);
                let zero = |between: Vec<Dense>| dense::with_last_zero(between, building.device);
                let between = if init.is_some() {
                    zero(between)
                } else {
                    between
                };
                (embedding, Some(between))
            }
            (Some(ids), _) => {
                let ids = asked.fitted(ids, n_virtual)?;
                let rows = rows(building.base.key_values(&ids)?);
                (frozen::copy(&rows, building.device), None)
            }
            (None, Some(PrefixInit::Zero)) => {
                let zeros = TensorData::new(vec![0.0f32; n_virtual * all], [n_virtual, all]);
                (Param::from_data(zeros, building.device), None)
            }
            (None, None) => (drawn(all), None),
        };
        Ok(Self {
            embedding,
            transform,
            layers,
        })
    }

    /// Keys and values of all pairs.
    ///
    /// # Shapes
    /// - `[n_virtual, 2 * n_pairs * n_kv_heads * d_head]`
    fn rows(&self) -> Tensor<2> {
        match &self.transform {
            Some(layers) => dense::through(layers, self.embedding.val(), Tensor::tanh),
            None => self.embedding.val(),
        }
    }

    /// The same function without the projection.
    pub(crate) fn encoded(self) -> Self {
        let rows = self.rows();
        let device = self.embedding.val().device();
        Self {
            embedding: match self.transform {
                Some(_) => frozen::copy(&rows, &device),
                None => self.embedding,
            },
            transform: None,
            ..self
        }
    }
}

/// Size of one layer's keys.
pub(crate) fn width(shape: &StackShape) -> usize {
    shape.n_kv_heads * shape.d_head
}

/// # Shapes
/// - one entry a layer, `[1, n_kv_heads, n_virtual, d_head]` →
///   `[n_virtual, 2 * layers * n_kv_heads * d_head]`
pub(crate) fn rows(layers: Vec<KeyValue>) -> Tensor<2> {
    let flat = |x: Tensor<4>| {
        let [_, n_heads, n_virtual, d_head] = x.dims();
        x.swap_dims(1, 2).reshape([n_virtual, n_heads * d_head])
    };
    let layers = layers.into_iter();
    let parts = layers.flat_map(|layer| [flat(layer.key), flat(layer.value)]);
    Tensor::cat(parts.collect(), 1)
}

impl Method for PrefixTuning {
    fn name(&self) -> &'static str {
        METHOD
    }

    fn in_front(&self) -> bool {
        true
    }

    fn key_values(&self, stack: Stack) -> Option<Vec<KeyValue>> {
        self.layers.of_stack(stack, || self.rows())
    }

    fn mergeable(&self) -> Result<(), AdapterError> {
        Err(not_mergeable(METHOD))
    }
}

//! Bottleneck adapters: two small layers after a sub-layer, with a residual connection
//! (Houlsby et al. 2019, section 2.1; Pfeiffer et al. 2020 for the single placement).
//!
//! `h + f(h W_down + b_down) W_up + b_up`, on the output of the sub-layer before the base's own
//! residual connection. Pfeiffer's adapter is put there as well; its other choices (norms around
//! the adapter) are left out. `W_up` and `b_up` are zero at the start, so the adapted base starts
//! as the base.

use burn::module::{Module, Param};
use burn::tensor::{Tensor, TensorData, activation, module};
use hybrid_models::{Linear, Site, SiteId, SiteKind};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::AdapterError;
use crate::method::{Building, Method};
use crate::site_map::SiteMap;
use crate::targets::{Selection, Selector, Targets};

/// Size and places of the adapters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BottleneckConfig {
    /// Features between the two layers.
    #[schemars(range(min = 1))]
    pub bottleneck_size: usize,
    /// After which sub-layers.
    pub placement: Placement,
    /// The function in between.
    pub activation: Activation,
    /// Sub-layers that are left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exclude_modules: Option<Targets>,
    /// Transformer layers to act on; all when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers_to_transform: Option<Vec<usize>>,
}

impl Default for BottleneckConfig {
    fn default() -> Self {
        Self {
            bottleneck_size: 64,
            placement: Placement::Houlsby,
            activation: Activation::Gelu,
            exclude_modules: None,
            layers_to_transform: None,
        }
    }
}

/// After which sub-layers of a transformer layer adapters stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Placement {
    /// After each sub-layer.
    Houlsby,
    /// After the last sub-layer, the feed-forward one.
    Pfeiffer,
}

/// The function between the two layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `max(x, 0)`.
    Relu,
    /// `x Phi(x)`, exact.
    Gelu,
    /// `x sigmoid(x)`.
    Silu,
    /// `tanh(x)`.
    Tanh,
}

impl Activation {
    fn apply(self, x: Tensor<2>) -> Tensor<2> {
        match self {
            Self::Relu => activation::relu(x),
            Self::Gelu => activation::gelu(x),
            Self::Silu => activation::silu(x),
            Self::Tanh => activation::tanh(x),
        }
    }
}

/// One adapter.
#[derive(Module, Debug)]
pub(crate) struct Pair {
    /// `[d_model, bottleneck]`.
    down_weight: Param<Tensor<2>>,
    /// `[bottleneck]`.
    down_bias: Param<Tensor<1>>,
    /// `[bottleneck, d_model]`.
    up_weight: Param<Tensor<2>>,
    /// `[d_model]`.
    up_bias: Param<Tensor<1>>,
}

/// Adapters by block site.
#[derive(Module, Debug)]
pub(crate) struct Bottleneck {
    pairs: SiteMap<Pair>,
    #[module(skip)]
    activation: Activation,
}

const METHOD: &str = "bottleneck";

impl Bottleneck {
    /// Adapters at the selected blocks; `W_down` is normal with deviation 0.02.
    ///
    /// # Errors
    /// [`AdapterError::Setting`], [`AdapterError::NoTarget`] or [`AdapterError::Pattern`].
    pub(crate) fn init(
        config: &BottleneckConfig,
        building: &Building<'_>,
    ) -> Result<Self, AdapterError> {
        if config.bottleneck_size == 0 {
            return Err(AdapterError::Setting {
                method: METHOD,
                key: "bottleneck_size",
                expected: "1 or more",
                found: "0".to_owned(),
            });
        }
        let selector = Selector::new(Selection {
            method: METHOD,
            targets: None,
            exclude: config.exclude_modules.as_ref(),
            layers: config.layers_to_transform.as_deref(),
            layers_pattern: None,
        })?;
        let mut sites =
            building.select(&selector, |kind| matches!(kind, SiteKind::Block { .. }))?;
        if config.placement == Placement::Pfeiffer {
            let all = sites.clone();
            sites.retain(|site| {
                !all.iter()
                    .any(|later| later.layer == site.layer && later.id > site.id)
            });
        }
        let pairs = SiteMap::build(sites, |site| {
            Ok::<_, AdapterError>(Pair::init(config, building, site))
        })?;
        Ok(Self {
            pairs,
            activation: config.activation,
        })
    }

    pub(crate) fn pairs(&self) -> &SiteMap<Pair> {
        &self.pairs
    }
}

impl Pair {
    fn init(config: &BottleneckConfig, building: &Building<'_>, site: &Site) -> Self {
        let SiteKind::Block { d_model } = site.kind else {
            unreachable!("only blocks are selected")
        };
        let size = config.bottleneck_size;
        let zeros = |length: usize| vec![0.0f32; length];
        let device = building.device;
        Self {
            down_weight: Param::from_data(
                building.random(site.id).normal([d_model, size], 0.02),
                device,
            ),
            down_bias: Param::from_data(TensorData::new(zeros(size), [size]), device),
            up_weight: Param::from_data(
                TensorData::new(zeros(size * d_model), [size, d_model]),
                device,
            ),
            up_bias: Param::from_data(TensorData::new(zeros(d_model), [d_model]), device),
        }
    }
}

impl Method for Bottleneck {
    fn name(&self) -> &'static str {
        METHOD
    }

    fn sites(&self) -> Vec<SiteId> {
        self.pairs.sites().collect()
    }

    fn block(&self, site: SiteId, x: Tensor<3>) -> Tensor<3> {
        let Some(pair) = self.pairs.get(site) else {
            return x;
        };
        let [batch, seq, d_model] = x.dims();
        let rows = x.clone().reshape([batch * seq, d_model]);
        let narrow = self.activation.apply(module::linear(
            rows,
            pair.down_weight.val(),
            Some(pair.down_bias.val()),
        ));
        let wide = module::linear(narrow, pair.up_weight.val(), Some(pair.up_bias.val()));
        x + wide.reshape([batch, seq, d_model])
    }

    fn mergeable(&self) -> Result<(), AdapterError> {
        Err(AdapterError::NotMergeable {
            method: METHOD,
            reason: "its activation lies between its two layers",
        })
    }

    fn merge_linear(&self, inner: Linear) -> Result<Linear, AdapterError> {
        self.mergeable().map(|()| inner)
    }
}

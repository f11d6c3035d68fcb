//! Bottleneck adapters: two small layers after a sub-layer, with a residual connection
//! (Houlsby et al. 2019, section 2.1; Pfeiffer et al. 2020 for the single placement), or beside it
//! (He et al. 2022, table 1, the scaled parallel adapter).
//!
//! `h + s (f(h W_down + b_down) W_up + b_up)`, on the output `h` of the sub-layer before the base's
//! own residual connection; beside it, `h + s (f(x W_down + b_down) W_up + b_up)` with the input `x`
//! of the sub-layer's function, normalised where the base normalises first. Pfeiffer's adapter is put
//! there as well; its other choices (norms around the adapter) are left out. `W_up` and `b_up` are
//! zero at the start, so the adapted base starts as the base.
//!
//! Mix-and-Match (He et al. 2022, section 4.6) is a stack of [`PrefixTuningConfig`] and an adapter
//! beside the feed-forward sub-layer with `scaling` 4.
//!
//! [`PrefixTuningConfig`]: crate::PrefixTuningConfig

use burn::module::{Module, Param};
use burn::tensor::{Tensor, TensorData, activation, module};
use hybrid_models::{Site, SiteId, SiteKind};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::AdapterError;
use crate::error::wrong_setting;
use crate::method::{Building, Method};
use crate::site_map::SiteMap;
use crate::site_method::in_rows;
use crate::targets::{Selection, Selector, Targets, nothing_selected};

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
    /// What the adapters' outputs are multiplied with.
    pub scaling: f64,
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
            scaling: 1.0,
            exclude_modules: None,
            layers_to_transform: None,
        }
    }
}

/// Where in a transformer layer adapters stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Placement {
    /// After each sub-layer.
    Houlsby,
    /// After the last sub-layer, the feed-forward one.
    Pfeiffer,
    /// Beside the last sub-layer.
    Parallel,
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
    pub(crate) fn apply(self, x: Tensor<2>) -> Tensor<2> {
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
    #[module(skip)]
    scaling: f64,
    #[module(skip)]
    parallel: bool,
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
        let wrong = wrong_setting(METHOD);
        if config.bottleneck_size == 0 {
            return wrong("bottleneck_size", "1 or more", "0".to_owned());
        }
        if !config.scaling.is_finite() {
            return wrong("scaling", "a finite number", config.scaling.to_string());
        }
        let sites = config.placement.blocks(
            METHOD,
            config.exclude_modules.as_ref(),
            config.layers_to_transform.as_deref(),
            building,
        )?;
        let pairs = SiteMap::build(sites, |site| {
            Ok::<_, AdapterError>(Pair::init(config, building, site))
        })?;
        Ok(Self {
            pairs,
            activation: config.activation,
            scaling: config.scaling,
            parallel: config.placement == Placement::Parallel,
        })
    }

    pub(crate) fn pairs(&self) -> &SiteMap<Pair> {
        &self.pairs
    }
}

impl Placement {
    /// The selected sub-layers.
    ///
    /// # Errors
    /// [`AdapterError::NoTarget`] or [`AdapterError::Pattern`].
    pub(crate) fn blocks<'b>(
        self,
        method: &'static str,
        exclude: Option<&Targets>,
        layers: Option<&[usize]>,
        building: &'b Building<'_>,
    ) -> Result<Vec<&'b Site>, AdapterError> {
        let selector = Selector::new(Selection {
            method,
            targets: None,
            exclude,
            layers,
            layers_pattern: None,
        })?;
        let is_block = |site: &Site| matches!(site.kind, SiteKind::Block { .. });
        let mut selected =
            building.select(&selector, |kind| matches!(kind, SiteKind::Block { .. }))?;
        if self != Self::Houlsby {
            let blocks = || building.base.sites().iter().filter(|site| is_block(site));
            selected.retain(|site| {
                !blocks().any(|later| later.layer == site.layer && later.id > site.id)
            });
        }
        match selected.is_empty() {
            true => {
                let sites = building.base.sites();
                let key = "exclude_modules";
                Err(nothing_selected(method, key, exclude, layers, sites))
            }
            false => Ok(selected),
        }
    }
}

/// Features of what leaves a block.
pub(crate) fn width(site: &Site) -> usize {
    match site.kind {
        SiteKind::Block { d_model } => d_model,
        _ => unreachable!("only blocks are selected"),
    }
}

impl Pair {
    pub(crate) fn init(config: &BottleneckConfig, building: &Building<'_>, site: &Site) -> Self {
        let (d_model, size) = (width(site), config.bottleneck_size);
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

    /// # Shapes
    /// - `rows`: `[rows, d_model]` → the same
    pub(crate) fn forward(&self, rows: Tensor<2>, activation: Activation) -> Tensor<2> {
        let (down, up) = (&self.down_weight, &self.up_weight);
        let narrow = module::linear(rows, down.val(), Some(self.down_bias.val()));
        let narrow = activation.apply(narrow);
        module::linear(narrow, up.val(), Some(self.up_bias.val()))
    }
}

impl Method for Bottleneck {
    fn name(&self) -> &'static str {
        METHOD
    }

    fn sites(&self) -> Vec<SiteId> {
        self.pairs.sites().collect()
    }

    fn block(&self, site: SiteId, x: &Tensor<3>, y: Tensor<3>) -> Tensor<3> {
        let Some(pair) = self.pairs.get(site) else {
            return y;
        };
        let input = if self.parallel { x } else { &y };
        let added = in_rows(input.clone(), |rows| pair.forward(rows, self.activation));
        match self.scaling {
            1.0 => y + added,
            scaling => y + added.mul_scalar(scaling),
        }
    }

    fn mergeable(&self) -> Result<(), AdapterError> {
        Err(AdapterError::NotMergeable {
            method: METHOD,
            reason: "its activation lies between its two layers",
        })
    }
}

#[cfg(test)]
mod tests {
    use burn::module::Param;
    use burn::tensor::{Device, Tensor, TensorData, Tolerance};
    use hybrid_models::{SiteKind, SiteTable};

    use super::{Activation, Bottleneck, Pair};
    use crate::method::Method;
    use crate::site_map::SiteMap;

    /// After the sub-layer the adapter reads its output, beside it its input.
    #[test]
    fn outputs_are_those_computed_plainly() {
        let device = Device::flex();
        let mut sites = SiteTable::default();
        let site = sites.add("mlp", Some(0), false, SiteKind::Block { d_model: 2 });
        let param = |values: Vec<f32>, shape: [usize; 2]| {
            Param::from_data(TensorData::new(values, shape), &device)
        };
        let row = |values: Vec<f32>| {
            let n = values.len();
            Param::from_data(TensorData::new(values, [n]), &device)
        };
        let pair = Pair {
            down_weight: param(vec![1.0, -2.0], [2, 1]),
            down_bias: row(vec![0.5]),
            up_weight: param(vec![3.0, -1.0], [1, 2]),
            up_bias: row(vec![0.25, 0.0]),
        };
        let pairs = SiteMap::build(sites.iter(), |_| Ok::<_, ()>(pair.clone())).unwrap();
        let [x, y] = [[2.0, 0.5], [1.0, -1.0]];
        for (parallel, [a, b]) in [(false, y), (true, x)] {
            let adapter = Bottleneck {
                pairs: pairs.clone(),
                activation: Activation::Relu,
                scaling: 4.0,
                parallel,
            };
            let [x, y] = [x, y].map(|row| Tensor::<3>::from_data([[row]], &device));
            let found = adapter.block(site, &x, y).into_data();
            let inner: f32 = f32::max(a - 2.0 * b + 0.5, 0.0);
            let expected = [1.0 + 4.0 * (3.0 * inner + 0.25), -1.0 - 4.0 * inner];
            let expected = TensorData::from([[expected]]);
            found.assert_approx_eq::<f32>(&expected, Tolerance::absolute(1e-5));
        }
    }
}

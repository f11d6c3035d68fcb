//! LayerNorm tuning: gain and shift of the norms are trained (Zhao et al. 2023, section 3;
//! PEFT's `LN_TUNING`).

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use hybrid_models::{Layer, Norm, SiteId, SiteKind};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::method::{Building, Method};
use crate::site_map::SiteMap;
use crate::targets::{Selection, Selector, Targets};
use crate::{AdapterError, frozen};

/// Which norms are trained; all of them when nothing is given.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LayerNormConfig {
    /// Norms that are trained.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_modules: Option<Targets>,
    /// Norms that are left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exclude_modules: Option<Targets>,
    /// Transformer layers to act on; all when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers_to_transform: Option<Vec<usize>>,
}

/// Gain, and shift where the norm has one, in place of the base's, both `[d_model]`.
#[derive(Module, Debug)]
pub(crate) struct TunedNorm {
    pub(crate) weight: Param<Tensor<1>>,
    pub(crate) bias: Option<Param<Tensor<1>>>,
}

/// Trainable copies of norms.
#[derive(Module, Debug)]
pub(crate) struct LayerNormTuning {
    norms: SiteMap<TunedNorm>,
}

const METHOD: &str = "layer_norm";

impl LayerNormTuning {
    /// Copies of the selected norms.
    ///
    /// # Errors
    /// [`AdapterError::NoTarget`] or [`AdapterError::Pattern`].
    pub(crate) fn init(
        config: &LayerNormConfig,
        building: &Building<'_>,
    ) -> Result<Self, AdapterError> {
        let selector = Selector::new(Selection {
            method: METHOD,
            targets: config.target_modules.as_ref(),
            exclude: config.exclude_modules.as_ref(),
            layers: config.layers_to_transform.as_deref(),
            layers_pattern: None,
        })?;
        let sites = building.select(&selector, |kind| matches!(kind, SiteKind::Norm { .. }))?;
        let norms = SiteMap::build(sites, |site| {
            let Some(Layer::Norm(norm)) = building.base.layer_at(site.id) else {
                return Err(AdapterError::Missing {
                    name: format!("{}.weight", site.path),
                });
            };
            let bias = norm.bias.as_ref();
            Ok(TunedNorm {
                weight: frozen::copy(&norm.weight, building.device),
                bias: bias.map(|bias| frozen::copy(bias, building.device)),
            })
        })?;
        Ok(Self { norms })
    }

    pub(crate) fn norms(&self) -> &SiteMap<TunedNorm> {
        &self.norms
    }
}

impl Method for LayerNormTuning {
    fn name(&self) -> &'static str {
        METHOD
    }

    fn sites(&self) -> Vec<SiteId> {
        self.norms.sites().collect()
    }

    fn replaces(&self) -> Vec<SiteId> {
        self.sites()
    }

    fn replace_norm(&self, base: &Norm) -> Option<Norm> {
        let tuned = self.norms.get(base.site)?;
        Some(Norm {
            weight: tuned.weight.val(),
            bias: tuned.bias.as_ref().map(Param::val),
            ..base.clone()
        })
    }
}

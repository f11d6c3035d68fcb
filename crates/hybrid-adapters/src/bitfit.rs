//! BitFit: only biases are trained (Ben Zaken et al. 2022, section 3).

use burn::module::Module;
use hybrid_models::{Linear, Norm, SiteId, SiteKind};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::AdapterError;
use crate::bias::{self, Biases};
use crate::method::{Building, Method};
use crate::targets::{Selection, Selector, Targets};

/// Which biases are trained; all of them when nothing is given.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BitfitConfig {
    /// Linear layers and norms whose bias is trained.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_modules: Option<Targets>,
    /// Layers and norms that are left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exclude_modules: Option<Targets>,
    /// Transformer layers to act on; all when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers_to_transform: Option<Vec<usize>>,
}

/// Trainable copies of biases.
#[derive(Module, Debug)]
pub(crate) struct Bitfit {
    biases: Biases,
}

const METHOD: &str = "bitfit";

impl Bitfit {
    /// Copies of the selected biases; layers without a bias are passed over.
    ///
    /// # Errors
    /// [`AdapterError::NoTarget`] or [`AdapterError::Pattern`].
    pub(crate) fn init(
        config: &BitfitConfig,
        building: &Building<'_>,
    ) -> Result<Self, AdapterError> {
        let selector = Selector::new(Selection {
            method: METHOD,
            targets: config.target_modules.as_ref(),
            exclude: config.exclude_modules.as_ref(),
            layers: config.layers_to_transform.as_deref(),
            layers_pattern: None,
        })?;
        let has_bias = |kind: &SiteKind| {
            matches!(
                kind,
                SiteKind::Linear { bias: true, .. } | SiteKind::Norm { bias: true, .. }
            )
        };
        let sites = building.select(&selector, has_bias)?;
        Ok(Self {
            biases: bias::copy(building, sites)?,
        })
    }

    pub(crate) fn biases(&self) -> &Biases {
        &self.biases
    }
}

impl Method for Bitfit {
    fn name(&self) -> &'static str {
        METHOD
    }

    fn sites(&self) -> Vec<SiteId> {
        bias::sites(&self.biases)
    }

    fn replaces(&self) -> Vec<SiteId> {
        self.sites()
    }

    fn replace_linear(&self, base: &Linear) -> Option<Linear> {
        bias::replace_linear(&self.biases, base)
    }

    fn replace_norm(&self, base: &Norm) -> Option<Norm> {
        bias::replace_norm(&self.biases, base)
    }
}

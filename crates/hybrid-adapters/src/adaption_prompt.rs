//! LLaMA-Adapter: trained vectors that the upper layers attend to aside (Zhang et al. 2023,
//! equations 3 to 6, first version).
//!
//! In each of the last layers the queries also attend to `P: [adapter_len, d_model]`, by keys and
//! values of the layer's own projections and in a softmax of its own; what they find there, times a
//! gate `g`, is added before the output projection. `g` is 0 at the start.

use burn::module::{Module, Param};
use burn::tensor::{Tensor, TensorData};
use hybrid_models::{Aside, Linear, Site, SiteId, SiteKind};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::AdapterError;
use crate::method::{Building, Method};
use crate::site_map::SiteMap;
use crate::targets::{Targets, ends_with_name, nothing_selected};

/// How many vectors in how many layers, with PEFT's names and meanings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AdaptionPromptConfig {
    /// Name of the self-attention modules; those of all layers when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_modules: Option<String>,
    /// Vectors in each layer.
    #[schemars(range(min = 1))]
    pub adapter_len: usize,
    /// Layers, counted from the last; all when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub adapter_layers: Option<usize>,
}

/// The vectors of one layer.
#[derive(Module, Debug)]
pub(crate) struct GatedPrompt {
    /// `[1, adapter_len, d_model]`.
    pub(crate) adaption_prompt: Param<Tensor<3>>,
    /// `[1]`.
    pub(crate) adaption_gate: Param<Tensor<1>>,
}

/// Vectors by the key projection of their layer.
#[derive(Module, Debug)]
pub(crate) struct AdaptionPrompt {
    prompts: SiteMap<GatedPrompt>,
}

const METHOD: &str = "adaption_prompt";

/// What key projections are called.
const KEYS: [&str; 4] = ["k_proj", "key", "k_lin", "k"];

/// The module that a key projection belongs to.
pub(crate) fn attention_of(key: &str) -> Option<&str> {
    let (module, name) = key.rsplit_once('.')?;
    let is_cross = ["EncDecAttention", "encoder_attn"]
        .iter()
        .any(|name| ends_with_name(module, name));
    (KEYS.contains(&name) && !is_cross).then_some(module)
}

impl AdaptionPrompt {
    /// Vectors normal with deviation 1 and gates of 0 in the last layers.
    ///
    /// # Errors
    /// [`AdapterError::Setting`] or [`AdapterError::NoTarget`].
    pub(crate) fn init(
        config: &AdaptionPromptConfig,
        building: &Building<'_>,
    ) -> Result<Self, AdapterError> {
        let target = config.target_modules.as_deref();
        let keys: Vec<&Site> = building
            .base
            .sites()
            .iter()
            .filter(|site| {
                let module = attention_of(&site.path);
                let fits = |module| target.is_none_or(|target| ends_with_name(module, target));
                matches!(site.kind, SiteKind::Linear { .. }) && module.is_some_and(fits)
            })
            .collect();
        if keys.is_empty() {
            let targets = target.map(|target| Targets::names(&[target]));
            let sites = building.base.sites();
            let key = "target_modules";
            return Err(nothing_selected(METHOD, key, targets.as_ref(), None, sites));
        }
        let wrong = |key, expected, found: usize| {
            Err(AdapterError::Setting {
                method: METHOD,
                key,
                expected,
                found: found.to_string(),
            })
        };
        if config.adapter_len == 0 {
            return wrong("adapter_len", "1 or more", 0);
        }
        let n_layers = config.adapter_layers.unwrap_or(keys.len());
        if !(1..=keys.len()).contains(&n_layers) {
            let expected = "1 or more, up to the layers of the base";
            return wrong("adapter_layers", expected, n_layers);
        }
        let upper = keys[keys.len() - n_layers..].iter().copied();
        let prompts = SiteMap::build(upper, |site| {
            let SiteKind::Linear { d_in, .. } = site.kind else {
                unreachable!("only linear sites are selected")
            };
            let prompt = building
                .random(site.id)
                .normal([1, config.adapter_len, d_in], 1.0);
            Ok::<_, AdapterError>(GatedPrompt {
                adaption_prompt: Param::from_data(prompt, building.device),
                adaption_gate: Param::from_data(
                    TensorData::new(vec![0.0f32], [1]),
                    building.device,
                ),
            })
        })?;
        Ok(Self { prompts })
    }

    pub(crate) fn prompts(&self) -> &SiteMap<GatedPrompt> {
        &self.prompts
    }
}

impl Method for AdaptionPrompt {
    fn name(&self) -> &'static str {
        METHOD
    }

    fn sites(&self) -> Vec<SiteId> {
        self.prompts.sites().collect()
    }

    fn aside(&self, key: &Linear) -> Option<Aside> {
        let prompt = self.prompts.get(key.site)?;
        Some(Aside {
            states: prompt.adaption_prompt.val(),
            gate: prompt.adaption_gate.val(),
        })
    }

    fn mergeable(&self) -> Result<(), AdapterError> {
        Err(AdapterError::NotMergeable {
            method: METHOD,
            reason: "its vectors are attended to aside",
        })
    }
}

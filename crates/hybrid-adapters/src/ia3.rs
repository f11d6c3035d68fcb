//! IA3: learned scales of activations (Liu et al. 2022, section 3.3).
//!
//! At a feed-forward site the input is scaled, `y = (l * x) W + b`; at any other the output with
//! its bias, `y = l * (x W + b)`, as PEFT does. All scales are 1 at the start.

use burn::module::{Module, Param};
use burn::tensor::{Tensor, TensorData};
use hybrid_models::{Linear, Site, SiteId, SiteKind};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::method::{Building, Inner, Method, Pass};
use crate::site_map::SiteMap;
use crate::targets::{Selection, Selector, Targets};
use crate::{AdapterError, frozen};

/// Which activations are scaled.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Ia3Config {
    /// Linear layers that get a scale.
    pub target_modules: Targets,
    /// Those of them whose input is scaled instead of their output. A name fits every path that
    /// ends with it, also within a word, as in PEFT.
    pub feedforward_modules: Targets,
    /// Layers that are left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exclude_modules: Option<Targets>,
    /// Transformer layers to act on; all when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers_to_transform: Option<Vec<usize>>,
}

impl Default for Ia3Config {
    /// Keys, values and output projections, as PEFT chooses for each architecture; for DistilBERT,
    /// which it does not know, the same places.
    fn default() -> Self {
        let feedforward = [
            "output.dense",
            "out_lin",
            "ffn.lin2",
            "mlp.c_proj",
            "down_proj",
            "wo",
            "fc2",
        ];
        let all = [
            "key", "value", "k_lin", "v_lin", "c_attn", "k_proj", "v_proj", "k", "v",
        ]
        .iter()
        .chain(&feedforward)
        .copied();
        Self {
            target_modules: Targets::names(&all.collect::<Vec<_>>()),
            feedforward_modules: Targets::names(&feedforward),
            exclude_modules: None,
            layers_to_transform: None,
        }
    }
}

/// The scale of one site: `[d_in]` of a feed-forward site, else `[d_out]`.
#[derive(Module, Debug)]
pub(crate) struct Scale {
    pub(crate) ia3_l: Param<Tensor<1>>,
    #[module(skip)]
    pub(crate) feedforward: bool,
}

/// Scales by site.
#[derive(Module, Debug)]
pub(crate) struct Ia3 {
    scales: SiteMap<Scale>,
}

const METHOD: &str = "ia3";

impl Ia3 {
    /// Scales of 1 at the selected sites.
    ///
    /// # Errors
    /// [`AdapterError::NoTarget`], [`AdapterError::UnsupportedTarget`], [`AdapterError::Pattern`],
    /// or [`AdapterError::Setting`] when a feed-forward name is no target.
    pub(crate) fn init(config: &Ia3Config, building: &Building<'_>) -> Result<Self, AdapterError> {
        if let (Targets::Names(targets), Targets::Names(feedforward)) =
            (&config.target_modules, &config.feedforward_modules)
            && let Some(name) = feedforward.iter().find(|name| !targets.contains(name))
        {
            return Err(AdapterError::Setting {
                method: METHOD,
                key: "feedforward_modules",
                expected: "a subset of target_modules",
                found: format!("{name:?}"),
            });
        }
        let selector = Selector::new(Selection {
            method: METHOD,
            targets: Some(&config.target_modules),
            exclude: config.exclude_modules.as_ref(),
            layers: config.layers_to_transform.as_deref(),
            layers_pattern: None,
        })?;
        let feedforward = feedforward(config)?;
        let sites = building.linear_sites(METHOD, &selector)?;
        let scales = SiteMap::build(sites, |site| {
            let feedforward = feedforward(&format!("{}{}", building.prefix, site.path));
            let data = TensorData::new(
                vec![1.0f32; length(site, feedforward)],
                [length(site, feedforward)],
            );
            Ok::<_, AdapterError>(Scale {
                ia3_l: Param::from_data(data, building.device),
                feedforward,
            })
        })?;
        Ok(Self { scales })
    }

    pub(crate) fn scales(&self) -> &SiteMap<Scale> {
        &self.scales
    }
}

/// Whether a path is a feed-forward site.
fn feedforward(config: &Ia3Config) -> Result<impl Fn(&str) -> bool + '_, AdapterError> {
    let pattern = match &config.feedforward_modules {
        Targets::Names(_) => None,
        pattern => Some(Selector::new(Selection {
            method: METHOD,
            targets: Some(pattern),
            exclude: None,
            layers: None,
            layers_pattern: None,
        })?),
    };
    Ok(
        move |path: &str| match (&config.feedforward_modules, &pattern) {
            (Targets::Names(names), _) => names.iter().any(|name| path.ends_with(name)),
            (_, Some(selector)) => selector.fits(path),
            (_, None) => false,
        },
    )
}

fn length(site: &Site, feedforward: bool) -> usize {
    match site.kind {
        SiteKind::Linear { d_in, d_out, .. } => {
            if feedforward {
                d_in
            } else {
                d_out
            }
        }
        _ => unreachable!("only linear sites are selected"),
    }
}

impl Method for Ia3 {
    fn name(&self) -> &'static str {
        METHOD
    }

    fn sites(&self) -> Vec<SiteId> {
        self.scales.sites().collect()
    }

    fn wraps(&self) -> Vec<SiteId> {
        self.sites()
    }

    fn linear(&self, base: &Linear, x: Tensor<3>, _pass: Pass, inner: Inner<'_>) -> Tensor<3> {
        let Some(scale) = self.scales.get(base.site) else {
            return inner(x);
        };
        let factors = scale.ia3_l.val().unsqueeze::<3>();
        match scale.feedforward {
            true => inner(x * factors),
            false => inner(x) * factors,
        }
    }

    fn merge_linear(&self, inner: Linear) -> Result<Linear, AdapterError> {
        let Some(scale) = self.scales.get(inner.site) else {
            return Ok(inner);
        };
        let factors = frozen::plain(&scale.ia3_l);
        Ok(match scale.feedforward {
            true => Linear {
                weight: (inner.weight.dense() * factors.unsqueeze_dim::<2>(1)).into(),
                ..inner
            },
            false => Linear {
                weight: (inner.weight.dense() * factors.clone().unsqueeze_dim::<2>(0)).into(),
                bias: inner.bias.map(|bias| bias * factors),
                site: inner.site,
            },
        })
    }
}

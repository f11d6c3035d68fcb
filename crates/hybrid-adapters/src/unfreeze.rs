//! Unfreezing: trainable copies of whole layers take the place of the base's (PEFT's
//! `modules_to_save`).

use std::collections::BTreeSet;

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use hybrid_models::{Base, Embedding, Layer, Linear, Norm, Site, SiteId, SiteKind};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::method::{Building, Method};
use crate::site_map::SiteMap;
use crate::targets::{Selection, Selector, Targets, nothing_selected};
use crate::{AdapterError, frozen};

/// Which layers are unfrozen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UnfreezeConfig {
    /// Layers, or modules that hold them: `layer.11` unfreezes all of the twelfth layer, a pattern
    /// fits a layer when it fits its path or the path of a module around it.
    pub modules: Targets,
}

/// A linear layer or an embedding: `[d_in, d_out]` with perhaps a bias, or `[n, d_model]`.
#[derive(Module, Debug)]
pub(crate) struct Matrix {
    pub(crate) weight: Param<Tensor<2>>,
    pub(crate) bias: Option<Param<Tensor<1>>>,
    /// Whether files have a linear weight as `[d_in, d_out]`.
    #[module(skip)]
    pub(crate) input_first: bool,
}

/// A norm, both `[d_model]`.
#[derive(Module, Debug)]
pub(crate) struct UnfrozenNorm {
    pub(crate) weight: Param<Tensor<1>>,
    pub(crate) bias: Option<Param<Tensor<1>>>,
}

/// Trainable copies by site.
#[derive(Module, Debug)]
pub(crate) struct Unfreeze {
    linears: SiteMap<Matrix>,
    embeddings: SiteMap<Matrix>,
    norms: SiteMap<UnfrozenNorm>,
}

const METHOD: &str = "unfreeze";

/// The layers that a configuration unfreezes, in forward order.
///
/// # Errors
/// [`AdapterError::NoTarget`] or [`AdapterError::Pattern`].
pub(crate) fn unfrozen_sites<'b>(
    config: &UnfreezeConfig,
    base: &'b dyn Base,
    prefix: &str,
) -> Result<Vec<&'b Site>, AdapterError> {
    let selector = Selector::new(Selection {
        method: METHOD,
        targets: Some(&config.modules),
        exclude: None,
        layers: None,
        layers_pattern: None,
    })?;
    if config.modules.is_all_linear() {
        return selector.select(base.sites(), prefix, |_| true);
    }
    let sites: Vec<&Site> = base
        .sites()
        .iter()
        .filter(|site| !matches!(site.kind, SiteKind::Block { .. }))
        .filter(|site| {
            let path = format!("{prefix}{}", site.path);
            selector.fits(&path)
                || path
                    .match_indices('.')
                    .any(|(end, _)| selector.fits(&path[..end]))
        })
        .collect();
    match sites.is_empty() {
        true => Err(nothing_selected(
            METHOD,
            "modules",
            Some(&config.modules),
            None,
            base.sites(),
        )),
        false => Ok(sites),
    }
}

fn missing(site: &Site) -> AdapterError {
    AdapterError::Missing {
        name: format!("{}.weight", site.path),
    }
}

impl Unfreeze {
    /// Copies of the selected layers.
    ///
    /// # Errors
    /// [`AdapterError::NoTarget`] or [`AdapterError::Pattern`].
    pub(crate) fn init(
        config: &UnfreezeConfig,
        building: &Building<'_>,
    ) -> Result<Self, AdapterError> {
        let sites = unfrozen_sites(config, building.base, building.prefix)?;
        let (base, device) = (building.base, building.device);
        let held = |wanted: fn(&Layer) -> bool| {
            sites
                .iter()
                .copied()
                .filter(move |site| base.layer_at(site.id).is_some_and(wanted))
        };
        let linears = SiteMap::build(held(|layer| matches!(layer, Layer::Linear(_))), |site| {
            let Some(Layer::Linear(linear)) = base.layer_at(site.id) else {
                return Err(missing(site));
            };
            let bias = linear.bias.as_ref().map(|bias| frozen::copy(bias, device));
            Ok(Matrix {
                weight: frozen::copy(&linear.weight.dense(), device),
                bias,
                input_first: base.layers().input_first(site.id),
            })
        })?;
        let embeddings =
            SiteMap::build(held(|layer| matches!(layer, Layer::Embedding(_))), |site| {
                let Some(Layer::Embedding(embedding)) = base.layer_at(site.id) else {
                    return Err(missing(site));
                };
                Ok(Matrix {
                    weight: frozen::copy(&embedding.weight.dense(), device),
                    bias: None,
                    input_first: false,
                })
            })?;
        let norms = SiteMap::build(held(|layer| matches!(layer, Layer::Norm(_))), |site| {
            let Some(Layer::Norm(norm)) = base.layer_at(site.id) else {
                return Err(missing(site));
            };
            let bias = norm.bias.as_ref().map(|bias| frozen::copy(bias, device));
            Ok(UnfrozenNorm {
                weight: frozen::copy(&norm.weight, device),
                bias,
            })
        })?;
        Ok(Self {
            linears,
            embeddings,
            norms,
        })
    }

    pub(crate) fn linears(&self) -> &SiteMap<Matrix> {
        &self.linears
    }

    pub(crate) fn embeddings(&self) -> &SiteMap<Matrix> {
        &self.embeddings
    }

    pub(crate) fn norms(&self) -> &SiteMap<UnfrozenNorm> {
        &self.norms
    }
}

impl Method for Unfreeze {
    fn name(&self) -> &'static str {
        METHOD
    }

    fn sites(&self) -> Vec<SiteId> {
        let sites: BTreeSet<SiteId> = self
            .linears
            .sites()
            .chain(self.embeddings.sites())
            .chain(self.norms.sites())
            .collect();
        sites.into_iter().collect()
    }

    fn replaces(&self) -> Vec<SiteId> {
        self.sites()
    }

    fn replace_linear(&self, base: &Linear) -> Option<Linear> {
        let own = self.linears.get(base.site)?;
        Some(Linear {
            site: base.site,
            weight: own.weight.val().into(),
            bias: own.bias.as_ref().map(Param::val),
        })
    }

    fn replace_norm(&self, base: &Norm) -> Option<Norm> {
        let own = self.norms.get(base.site)?;
        Some(Norm {
            weight: own.weight.val(),
            bias: own.bias.as_ref().map(Param::val),
            ..base.clone()
        })
    }

    fn replace_embedding(&self, base: &Embedding) -> Option<Embedding> {
        let own = self.embeddings.get(base.site)?;
        Some(Embedding {
            site: base.site,
            weight: own.weight.val().into(),
        })
    }
}

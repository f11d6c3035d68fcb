//! Unfreezing: trainable copies of whole layers take the place of the base's (PEFT's
//! `modules_to_save`).

use std::collections::BTreeSet;

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use hybrid_models::{Embedding, Layer, LayerNorm, Linear, Site, SiteId, SiteKind};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::method::{Base, Building, Method};
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
}

/// A norm, both `[d_model]`.
#[derive(Module, Debug)]
pub(crate) struct Norm {
    pub(crate) weight: Param<Tensor<1>>,
    pub(crate) bias: Param<Tensor<1>>,
}

/// Trainable copies by site.
#[derive(Module, Debug)]
pub(crate) struct Unfreeze {
    linears: SiteMap<Matrix>,
    embeddings: SiteMap<Matrix>,
    norms: SiteMap<Norm>,
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
                .filter(move |site| base.layer(site.id).is_some_and(wanted))
        };
        let linears = SiteMap::build(held(|layer| matches!(layer, Layer::Linear(_))), |site| {
            let Some(Layer::Linear(linear)) = base.layer(site.id) else {
                return Err(missing(site));
            };
            let bias = linear.bias.as_ref().map(|bias| frozen::copy(bias, device));
            Ok(Matrix {
                weight: frozen::copy(&linear.weight, device),
                bias,
            })
        })?;
        let embeddings =
            SiteMap::build(held(|layer| matches!(layer, Layer::Embedding(_))), |site| {
                let Some(Layer::Embedding(embedding)) = base.layer(site.id) else {
                    return Err(missing(site));
                };
                Ok(Matrix {
                    weight: frozen::copy(&embedding.weight, device),
                    bias: None,
                })
            })?;
        let norms = SiteMap::build(held(|layer| matches!(layer, Layer::Norm(_))), |site| {
            let Some(Layer::Norm(norm)) = base.layer(site.id) else {
                return Err(missing(site));
            };
            Ok(Norm {
                weight: frozen::copy(&norm.weight, device),
                bias: frozen::copy(&norm.bias, device),
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

    pub(crate) fn norms(&self) -> &SiteMap<Norm> {
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
            weight: own.weight.val(),
            bias: own.bias.as_ref().map(Param::val),
        })
    }

    fn replace_norm(&self, base: &LayerNorm) -> Option<LayerNorm> {
        let own = self.norms.get(base.site)?;
        Some(LayerNorm {
            weight: own.weight.val(),
            bias: own.bias.val(),
            ..base.clone()
        })
    }

    fn replace_embedding(&self, base: &Embedding) -> Option<Embedding> {
        let own = self.embeddings.get(base.site)?;
        Some(Embedding {
            site: base.site,
            weight: own.weight.val(),
        })
    }
}

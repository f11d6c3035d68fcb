//! Trainable copies of biases, shared by BitFit and by LoRA's bias modes.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use hybrid_models::{Layer, Linear, Norm, Site, SiteId};

use crate::method::Building;
use crate::site_map::SiteMap;
use crate::{AdapterError, frozen};

/// A bias in place of the base's, `[d_out]`.
#[derive(Module, Debug)]
pub(crate) struct Bias {
    pub(crate) bias: Param<Tensor<1>>,
}

/// Biases in place of the base's, by site.
pub(crate) type Biases = SiteMap<Bias>;

/// The bias of a linear layer or the shift of a norm.
pub(crate) fn of<'b>(building: &Building<'b>, site: &Site) -> Option<&'b Tensor<1>> {
    building.base.layer_at(site.id).and_then(Layer::bias)
}

/// Copies the biases of `sites`, all of which must have one.
pub(crate) fn copy<'s>(
    building: &Building<'_>,
    sites: impl IntoIterator<Item = &'s Site>,
) -> Result<Biases, AdapterError> {
    SiteMap::build(sites, |site| {
        let name = || AdapterError::Missing {
            name: format!("{}.bias", site.path),
        };
        let bias = of(building, site).ok_or_else(name)?;
        Ok(Bias {
            bias: frozen::copy(bias, building.device),
        })
    })
}

/// The layer with its bias replaced, when there is one for its site.
pub(crate) fn replace_linear(biases: &Biases, base: &Linear) -> Option<Linear> {
    let bias = biases.get(base.site)?;
    Some(Linear {
        bias: Some(bias.bias.val()),
        ..base.clone()
    })
}

/// The norm with its shift replaced, when there is one for its site.
pub(crate) fn replace_norm(biases: &Biases, base: &Norm) -> Option<Norm> {
    let bias = biases.get(base.site)?;
    Some(Norm {
        bias: Some(bias.bias.val()),
        ..base.clone()
    })
}

/// Adapted sites.
pub(crate) fn sites(biases: &Biases) -> Vec<SiteId> {
    biases.sites().collect()
}

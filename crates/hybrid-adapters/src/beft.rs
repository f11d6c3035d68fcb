//! BEFT: a bias on top of a layer's own, of value projections by default (Huang et al. 2025,
//! arXiv:2509.15974).
//!
//! `y = f(x) + b`. Unlike BitFit's biases it also stands where the layer has none, and then does
//! not merge, as in PEFT.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use hybrid_models::{Linear, SiteId};

use crate::method::{Building, Inner, Method, Pass, PeftName};
use crate::site_map::SiteMap;
use crate::site_method::{ANY_START, PeftForm, SiteConfig, site_settings};
use crate::site_place::at_places;
use crate::{AdapterError, Targets, frozen};

pub(crate) const FORM: PeftForm = PeftForm {
    method: "beft",
    peft_type: "BEFT",
    keys: &["target_modules"],
    neutral: &[ANY_START],
    only: &[],
    fan_in_fan_out: false,
};

site_settings! {
    /// BEFT's settings, with PEFT's names and meanings.
    BeftConfig as FORM on (Targets::names(&["value", "v_lin", "v_proj", "v"])) {}
}

/// Biases by site.
#[derive(Module, Debug)]
pub(crate) struct Beft {
    sites: SiteMap<Added>,
}

/// The bias of one site.
#[derive(Module, Debug)]
pub(crate) struct Added {
    /// `[1, d_out]`.
    beft_bias: Param<Tensor<2>>,
}

impl Beft {
    /// All zero, so the adapted base starts as the base.
    ///
    /// # Errors
    /// [`AdapterError::NoTarget`], [`AdapterError::UnsupportedTarget`], [`AdapterError::Pattern`]
    /// or [`AdapterError::Setting`].
    pub(crate) fn init(config: &BeftConfig, building: &Building<'_>) -> Result<Self, AdapterError> {
        let sites = at_places(config.selection(), building, |place, _| {
            Ok(Added {
                beft_bias: place.filled([1, place.d_out], 0.0),
            })
        })?;
        Ok(Self { sites })
    }
}

impl Method for Beft {
    fn name(&self) -> &'static str {
        FORM.method
    }

    fn sites(&self) -> Vec<SiteId> {
        self.sites.sites().collect()
    }

    fn wraps(&self) -> Vec<SiteId> {
        self.sites()
    }

    fn linear(&self, base: &Linear, x: Tensor<3>, _pass: Pass, inner: Inner<'_>) -> Tensor<3> {
        match self.sites.get(base.site) {
            Some(added) => inner(x) + added.beft_bias.val().unsqueeze::<3>(),
            None => inner(x),
        }
    }

    fn merge_linear(&self, inner: Linear) -> Result<Linear, AdapterError> {
        let Some(added) = self.sites.get(inner.site) else {
            return Ok(inner);
        };
        let Some(bias) = &inner.bias else {
            return Err(AdapterError::NotMergeable {
                method: FORM.method,
                reason: "it has no place in a layer without a bias",
            });
        };
        let own = frozen::plain(&added.beft_bias).squeeze_dim::<1>(0);
        Ok(Linear {
            bias: Some(bias.clone() + own),
            ..inner
        })
    }

    fn peft_name(&self, name: &str) -> Option<PeftName> {
        let key = name.strip_prefix("sites.")?.to_owned();
        let stored = key.clone();
        Some(PeftName { key, stored })
    }
}

//! DEFT, decompositional efficient fine-tuning: a part of a layer's outputs is taken away and another
//! is put in its place (NeurIPS 2025, in PEFT's formulation).
//!
//! `y = f(x) - P relu(P)^T W x + s P R x` with `P: [d_out, r]`, `R: [r, d_in]` and the base's own weight
//! `W`. With `para` the last term is left out. `R` begins so that both terms are the same. PEFT's other
//! way from `P` to a projection, `qr`, is left out.

use burn::module::{Module, Param};
use burn::tensor::{Tensor, activation};
use hybrid_models::Linear;

use crate::method::Pass;
use crate::site_method::{
    ANY_START, Act, NO_BIAS, PeftForm, SiteMethod, Written, dropped, site_settings, whole,
};
use crate::site_place::Place;
use crate::{AdapterError, frozen};

pub(crate) const FORM: PeftForm = PeftForm {
    method: "deft",
    peft_type: "DEFT",
    keys: &[
        "r",
        "alpha",
        "para",
        "deft_dropout",
        "target_modules",
        "exclude_modules",
        "layers_to_transform",
        "layers_pattern",
    ],
    neutral: &[ANY_START, ("init_scale", Written::Number(1.0))],
    only: &[NO_BIAS, ("decomposition_method", Written::Text("relu"))],
    fan_in_fan_out: true,
};

site_settings! {
    /// DEFT's settings, with PEFT's names and meanings.
    DeftConfig as FORM {
        /// Number of output directions; at most as many as a layer has outputs are used.
        #[schemars(range(min = 1))]
        r: usize = 8,
        /// The scale `s`, times `r`; it is 1 when this is left out.
        #[serde(skip_serializing_if = "Option::is_none")]
        alpha: Option<usize> = None,
        /// Whether nothing is put in the place of what is taken away.
        para: bool = false,
        /// Share of the input's values that are dropped while training.
        #[schemars(range(min = 0.0, max = 0.99))]
        #[serde(serialize_with = "whole")]
        deft_dropout: f64 = 0.0,
    }
}

/// The factors of one site.
#[derive(Module, Debug)]
pub(crate) struct Deft {
    /// `[d_out, r]`.
    deft_p: Param<Tensor<2>>,
    /// `[r, d_in]`.
    deft_r: Option<Param<Tensor<2>>>,
    #[module(skip)]
    scale: f64,
    #[module(skip)]
    dropout: f64,
}

impl SiteMethod for Deft {
    type Config = DeftConfig;

    const FORM: &'static PeftForm = &FORM;

    const ACT: Act = Act::Beside;

    const RENAMED: &'static [(&'static str, &'static str)] =
        &[("deft_p", "deft_P"), ("deft_r", "deft_R")];

    /// `P` normal with deviation 0.02; `R` so that the adapted base starts as the base.
    fn init(config: &DeftConfig, place: &Place<'_>, _made: &[Self]) -> Result<Self, AdapterError> {
        let r = place.rank(config.r.min(place.d_out), place.d_out)?;
        let scale = match config.alpha {
            None | Some(0) => 1.0,
            Some(alpha) => alpha as f64 / r as f64,
        };
        let p = place.param(place.random().normal([place.d_out, r], 0.02));
        let start = || {
            let right = activation::relu(frozen::plain(&p));
            let start = place.weight().matmul(right).transpose().div_scalar(scale);
            place.param(start.into_data())
        };
        Ok(Self {
            deft_r: (!config.para).then(start),
            deft_p: p,
            scale,
            dropout: place.share("deft_dropout", config.deft_dropout)?,
        })
    }

    fn act(&self, base: &Linear, rows: Tensor<2>, pass: Pass) -> Tensor<2> {
        let p = self.deft_p.val();
        let removing = base.weight.dense().matmul(activation::relu(p.clone()));
        let removed = rows.clone().matmul(removing);
        let narrow = match &self.deft_r {
            Some(r) => {
                let rows = dropped(rows, self.dropout, base, pass);
                rows.matmul(r.val().transpose()).mul_scalar(self.scale) - removed
            }
            None => removed.neg(),
        };
        narrow.matmul(p.transpose())
    }

    fn next_to_base(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use burn::module::Param;
    use burn::tensor::{Device, Tensor, TensorData, Tolerance};
    use hybrid_models::{Linear, SiteKind, SiteTable};

    use super::Deft;
    use crate::method::Pass;
    use crate::site_method::SiteMethod;

    #[test]
    fn one_part_of_the_outputs_takes_the_place_of_another() {
        let device = Device::flex();
        let mut sites = SiteTable::default();
        let kind = SiteKind::Linear {
            d_in: 2,
            d_out: 2,
            bias: false,
        };
        let base = Linear {
            site: sites.add("dense", Some(0), false, kind),
            weight: Tensor::<2>::from_data([[1.0, 2.0], [3.0, 4.0]], &device).into(),
            bias: None,
        };
        let param = |values: [f32; 2], shape: [usize; 2]| {
            Param::from_data(TensorData::new(values.to_vec(), shape), &device)
        };
        let mut deft = Deft {
            deft_p: param([2.0, -1.0], [2, 1]),
            deft_r: Some(param([0.5, 1.0], [1, 2])),
            scale: 3.0,
            dropout: 0.0,
        };
        let close = |deft: &Deft, along: f32| {
            let rows = Tensor::<2>::from_data([[1.0, -1.0]], &device);
            let found = deft.act(&base, rows, Pass::Inference).into_data();
            let expected = TensorData::from([[2.0 * along, -along]]);
            found.assert_approx_eq::<f32>(&expected, Tolerance::absolute(1e-5));
        };
        // The outputs are (-2, -2); relu(P) = (2, 0) takes -4 of them, R puts 3 (0.5 - 1) there.
        close(&deft, -1.5 + 4.0);
        deft.deft_r = None;
        close(&deft, 4.0);
    }
}

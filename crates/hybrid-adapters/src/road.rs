//! RoAd: pairs of a layer's outputs are rotated and stretched (Liao and Monz 2024, equation 4).
//!
//! `y = c * f(x) + s * g(f(x))` with `c = alpha cos(theta)`, `s = alpha sin(theta)`, and `g` turning by a right angle
//! the pairs that are half a group apart: `(h_1, h_2)` becomes `(-h_2, h_1)`. `road_1` has one angle and one
//! length a pair, `road_2` one an output, `road_4` two an output: one for `c` and one for `s`. The bias is
//! turned too.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use hybrid_models::Linear;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::AdapterError;
use crate::method::Pass;
use crate::site_method::{ANY_START, Act, PeftForm, SiteMethod, site_settings};
use crate::site_place::Place;

pub(crate) const FORM: PeftForm = PeftForm {
    method: "road",
    peft_type: "ROAD",
    keys: &["variant", "group_size", "target_modules"],
    neutral: &[ANY_START],
    only: &[],
    fan_in_fan_out: false,
};

site_settings! {
    /// RoAd's settings, with PEFT's names and meanings.
    RoadConfig as FORM {
        /// How many angles and lengths there are.
        variant: RoadVariant = RoadVariant::Road1,
        /// Number of outputs whose halves make pairs.
        #[schemars(range(min = 2))]
        group_size: usize = 64,
    }
}

/// How many angles and lengths RoAd has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RoadVariant {
    /// One a pair of outputs.
    #[serde(rename = "road_1")]
    Road1,
    /// One an output.
    #[serde(rename = "road_2")]
    Road2,
    /// Two an output.
    #[serde(rename = "road_4")]
    Road4,
}

/// The angles and lengths of one site: `[d_out / 2]`, `[d_out]` or `[2 d_out]`.
#[derive(Module, Debug)]
pub(crate) struct Road {
    road_theta: Param<Tensor<1>>,
    road_alpha: Param<Tensor<1>>,
    #[module(skip)]
    group: usize,
}

impl SiteMethod for Road {
    type Config = RoadConfig;

    const FORM: &'static PeftForm = &FORM;

    const ACT: Act = Act::After;

    /// Angles of zero and lengths of one, so the adapted base starts as the base.
    fn init(config: &RoadConfig, place: &Place<'_>, _made: &[Self]) -> Result<Self, AdapterError> {
        let (d_out, group) = (place.d_out, config.group_size);
        let group = place.divisor("group_size", group, &[d_out])?;
        if !group.is_multiple_of(2) {
            return Err(place.wrong("group_size", "an even number", group));
        }
        let n = match config.variant {
            RoadVariant::Road1 => d_out / 2,
            RoadVariant::Road2 => d_out,
            RoadVariant::Road4 => 2 * d_out,
        };
        Ok(Self {
            road_theta: place.filled([n], 0.0),
            road_alpha: place.filled([n], 1.0),
            group,
        })
    }

    fn act(&self, _base: &Linear, rows: Tensor<2>, _pass: Pass) -> Tensor<2> {
        let ([n_rows, d_out], half) = (rows.dims(), self.group / 2);
        let (theta, alpha) = (self.road_theta.val(), self.road_alpha.val());
        let [n] = theta.dims();
        let groups = d_out / self.group;
        let [cosine, sine] = if n == 2 * d_out {
            // A group's values for `c`, then those for `s`.
            let of = |values: Tensor<1>, part: usize| {
                let parts = values.reshape([groups, 2, self.group]).narrow(1, part, 1);
                parts.reshape([d_out])
            };
            [
                of(alpha.clone(), 0) * of(theta.clone(), 0).cos(),
                of(alpha, 1) * of(theta, 1).sin(),
            ]
        } else {
            let each = |values: Tensor<1>| {
                let halves = values.reshape([groups, n / groups / half, half]);
                halves.repeat_dim(1, d_out / n).reshape([d_out])
            };
            [
                each(alpha.clone() * theta.clone().cos()),
                each(alpha * theta.sin()),
            ]
        };
        let halves = rows.clone().reshape([n_rows * groups, 2, half]);
        let (first, second) = (halves.clone().narrow(1, 0, 1), halves.narrow(1, 1, 1));
        let turned = Tensor::cat(vec![-second, first], 1).reshape([n_rows, d_out]);
        rows * cosine.unsqueeze::<2>() + turned * sine.unsqueeze::<2>()
    }
}

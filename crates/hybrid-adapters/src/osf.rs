//! OSF, orthogonal subspace fine-tuning: the lesser singular directions of a weight are trained,
//! apart from the leading ones, which are kept (Nayak et al. 2025, in PEFT's formulation).
//!
//! `y = f(x) + U diag(S) V x - U0 diag(S0) V0 x`, where `U0 diag(S0) V0` is the base's own weight
//! without its `effective_rank` leading singular directions, and `U`, `S` and `V` start as `U0`,
//! `S0` and `V0`. Gradients of `U` and `V` lose what lies along the leading directions. Files hold
//! `U`, `S` and `V` alone: the others come from the base, and neither depends on how singular
//! vectors are signed.

use burn::module::{Module, Param};
use burn::tensor::{Tensor, TensorData};
use hybrid_models::Linear;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::decomposition::{Matrix, Singular, singular};
use crate::method::Pass;
use crate::pattern_map::PatternMap;
use crate::site_method::{ANY_START, Act, PeftForm, SiteMethod, Written, site_settings};
use crate::site_place::Place;
use crate::{AdapterError, frozen};

pub(crate) const FORM: PeftForm = PeftForm {
    method: "osf",
    peft_type: "OSF",
    keys: &["effective_rank", "rank_pattern", "target_modules"],
    // PEFT passes over the second.
    neutral: &[ANY_START, ("target_svd_config", Written::Nothing)],
    only: &[],
    fan_in_fan_out: false,
};

site_settings! {
    /// OSF's settings, with PEFT's names and meanings.
    OsfConfig as FORM {
        /// How many leading singular directions are kept; half of them when left out.
        #[serde(skip_serializing_if = "Option::is_none")]
        effective_rank: Option<OsfRank> = None,
        /// The same by pattern, which is looked for anywhere in a path.
        #[serde(skip_serializing_if = "PatternMap::is_empty")]
        rank_pattern: PatternMap<OsfRank> = PatternMap::default(),
    }
}

/// How many singular directions of a weight are kept.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum OsfRank {
    /// So many.
    Count(usize),
    /// A share of them, over 0 and up to 1.
    Share(f64),
}

/// The trained directions of one site.
#[derive(Module, Debug)]
pub(crate) struct Osf {
    /// `[d_out, rank]`.
    u_low: Param<Tensor<2>>,
    /// `[rank]`.
    s_low: Param<Tensor<1>>,
    /// `[rank, d_in]`.
    v_low: Param<Tensor<2>>,
    /// Where they start.
    #[module(skip)]
    first: Directions,
    /// The leading directions of the outputs, `[d_out, effective_rank]`.
    #[module(skip)]
    u_high: Tensor<2>,
    /// Those of the inputs, `[effective_rank, d_in]`.
    #[module(skip)]
    v_high: Tensor<2>,
}

/// Singular directions, with the shapes of [`Osf`]'s.
#[derive(Debug, Clone)]
struct Directions {
    u: Tensor<2>,
    s: Tensor<1>,
    v: Tensor<2>,
}

impl Directions {
    /// `U diag(S) V x`.
    ///
    /// # Shapes
    /// - `rows`: `[rows, d_in]` → `[rows, d_out]`
    fn image(&self, rows: Tensor<2>) -> Tensor<2> {
        let along = rows.matmul(self.v.clone().transpose()) * self.s.clone().unsqueeze::<2>();
        along.matmul(self.u.clone().transpose())
    }
}

/// A parameter whose gradient is what `across` leaves of it: `across` is a symmetric linear map.
fn led(param: &Param<Tensor<2>>, across: impl FnOnce(Tensor<2>) -> Tensor<2>) -> Tensor<2> {
    let value = param.val();
    if !value.is_autodiff() {
        return value;
    }
    let plain = frozen::plain(param);
    plain.clone() + across(value - plain)
}

impl SiteMethod for Osf {
    type Config = OsfConfig;

    const FORM: &'static PeftForm = &FORM;

    const ACT: Act = Act::Beside;

    const RENAMED: &'static [(&'static str, &'static str)] = &[
        ("u_low", "osf_svd_params.U_low"),
        ("s_low", "osf_svd_params.S_low"),
        ("v_low", "osf_svd_params.V_low"),
    ];

    /// The lesser singular directions of the weight, so the adapted base starts as the base.
    fn init(config: &OsfConfig, place: &Place<'_>, _made: &[Self]) -> Result<Self, AdapterError> {
        let most = place.d_in.min(place.d_out);
        let by_part = place.by_part("rank_pattern", &config.rank_pattern)?;
        let kept = match by_part.or(config.effective_rank) {
            None => most / 2,
            Some(OsfRank::Count(count)) => count,
            Some(OsfRank::Share(share)) if share > 0.0 && share <= 1.0 => {
                (most as f64 * share) as usize
            }
            Some(OsfRank::Share(number)) => number as usize,
        };
        if !(1..most).contains(&kept) {
            let expected = "from 1 to less than the smaller side of every adapted layer";
            return Err(place.wrong("effective_rank", expected, kept));
        }
        let weight = Matrix::of(place.weight().transpose());
        let Singular { u, s, v } = singular(&weight, most);
        let (u, v) = (u.transposed(), v);
        let rows = |matrix: &Matrix, from: usize, to: usize| {
            let values = matrix.values[from * matrix.columns..to * matrix.columns].iter();
            let values: Vec<f32> = values.map(|value| *value as f32).collect();
            TensorData::new(values, [to - from, matrix.columns])
        };
        let low: Vec<f32> = s[kept..].iter().map(|s| *s as f32).collect();
        let low = TensorData::new(low, [most - kept]);
        let of_outputs = place.frozen::<2>(rows(&u, kept, most)).transpose();
        let of_inputs = rows(&v, kept, most);
        Ok(Self {
            u_low: place.param(of_outputs.to_data()),
            s_low: place.param(low.clone()),
            v_low: place.param(of_inputs.clone()),
            first: Directions {
                u: of_outputs,
                s: place.frozen(low),
                v: place.frozen(of_inputs),
            },
            u_high: place.frozen::<2>(rows(&u, 0, kept)).transpose(),
            v_high: place.frozen(rows(&v, 0, kept)),
        })
    }

    fn act(&self, _base: &Linear, rows: Tensor<2>, _pass: Pass) -> Tensor<2> {
        let (u_high, v_high) = (&self.u_high, &self.v_high);
        let now = Directions {
            u: led(&self.u_low, |u| {
                let along = u_high.clone().transpose().matmul(u.clone());
                u - u_high.clone().matmul(along)
            }),
            s: self.s_low.val(),
            v: led(&self.v_low, |v| {
                let along = v.clone().matmul(v_high.clone().transpose());
                v - along.matmul(v_high.clone())
            }),
        };
        now.image(rows.clone()) - self.first.image(rows)
    }
}

#[cfg(test)]
mod tests {
    use burn::module::Param;
    use burn::tensor::{Device, Tensor, TensorData, Tolerance};

    use super::{Directions, Osf};
    use crate::method::Pass;
    use crate::site_method::SiteMethod;
    use hybrid_models::{Linear, SiteKind, SiteTable};

    /// A diagonal weight: the first direction is kept, the second trained.
    #[test]
    fn gradients_lose_what_lies_along_kept_directions() {
        let device = Device::flex();
        let mut sites = SiteTable::default();
        let kind = SiteKind::Linear {
            d_in: 2,
            d_out: 2,
            bias: false,
        };
        let base = Linear {
            site: sites.add("dense", Some(0), false, kind),
            weight: Tensor::<2>::from_data([[3.0, 0.0], [0.0, 2.0]], &device).into(),
            bias: None,
        };
        let tracked = device.clone().autodiff();
        let matrix = |values: [f32; 2], shape: [usize; 2]| TensorData::new(values.to_vec(), shape);
        let osf = Osf {
            u_low: Param::from_data(matrix([0.5, 1.0], [2, 1]), &tracked),
            s_low: Param::from_data(TensorData::from([2.0f32]), &tracked),
            v_low: Param::from_data(matrix([0.0, 1.0], [1, 2]), &tracked),
            first: Directions {
                u: Tensor::from_data(matrix([0.0, 1.0], [2, 1]), &device),
                s: Tensor::from_data([2.0], &device),
                v: Tensor::from_data(matrix([0.0, 1.0], [1, 2]), &device),
            },
            u_high: Tensor::from_data(matrix([1.0, 0.0], [2, 1]), &device),
            v_high: Tensor::from_data(matrix([1.0, 0.0], [1, 2]), &device),
        };
        let rows = Tensor::<2>::from_data([[5.0, 7.0]], &device);
        let found = osf.act(&base, rows, Pass::Inference);
        let expected = TensorData::from([[0.5 * 2.0 * 7.0, 0.0]]);
        let tolerance = Tolerance::absolute(1e-5);
        found
            .to_data()
            .assert_approx_eq::<f32>(&expected, tolerance);
        let gradients = found.sum().backward();
        let gradient = |param: &Param<Tensor<2>>| param.val().grad(&gradients).unwrap().into_data();
        // Without the projection these were (14, 14) and (15, 21).
        let of_u = TensorData::from([[0.0], [14.0]]);
        gradient(&osf.u_low).assert_approx_eq::<f32>(&of_u, tolerance);
        let of_v = TensorData::from([[0.0, 21.0]]);
        gradient(&osf.v_low).assert_approx_eq::<f32>(&of_v, tolerance);
    }
}

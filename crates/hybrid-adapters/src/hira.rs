//! HiRA: the update is the Hadamard product of the weight and a low-rank matrix (Huang et al. 2025,
//! equation 3).
//!
//! `y = f(x) + (W * (B A)) x`. The product has the rank of neither factor and no thinner form, so it is
//! formed in each forward, as in PEFT.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use hybrid_models::Linear;

use crate::AdapterError;
use crate::method::Pass;
use crate::pattern_map::PatternMap;
use crate::site_method::{ANY_START, Act, PeftForm, SiteMethod, dropped, site_settings};
use crate::site_place::Place;

pub(crate) const FORM: PeftForm = PeftForm {
    method: "hira",
    peft_type: "HIRA",
    keys: &[
        "r",
        "hira_dropout",
        "rank_pattern",
        "target_modules",
        "exclude_modules",
        "layers_to_transform",
        "layers_pattern",
    ],
    neutral: &[ANY_START],
    only: &[],
    fan_in_fan_out: true,
};

site_settings! {
    /// HiRA's settings, with PEFT's names and meanings.
    HiraConfig as FORM {
        /// Rank of the matrix that the weight is multiplied by.
        #[schemars(range(min = 1))]
        r: usize = 32,
        /// Share of the input's values that are dropped while training.
        #[schemars(range(min = 0.0, max = 0.99))]
        hira_dropout: f64 = 0.0,
        /// Ranks of their own, by pattern.
        #[serde(skip_serializing_if = "PatternMap::is_empty")]
        rank_pattern: PatternMap<usize> = PatternMap::default(),
    }
}

/// The factors of one site.
#[derive(Module, Debug)]
pub(crate) struct Hira {
    /// `[r, d_in]`.
    hira_a: Param<Tensor<2>>,
    /// `[d_out, r]`.
    hira_b: Param<Tensor<2>>,
    #[module(skip)]
    dropout: f64,
}

impl SiteMethod for Hira {
    type Config = HiraConfig;

    const FORM: &'static PeftForm = &FORM;

    const ACT: Act = Act::Beside;

    const RENAMED: &'static [(&'static str, &'static str)] =
        &[("hira_a", "hira_A"), ("hira_b", "hira_B")];

    /// `B` zero, so the adapted base starts as the base; `A` as PEFT's Kaiming initialisation has it.
    fn init(config: &HiraConfig, place: &Place<'_>, _made: &[Self]) -> Result<Self, AdapterError> {
        let r = place.by_pattern("rank_pattern", &config.rank_pattern, config.r)?;
        let r = place.rank(r, place.d_in.min(place.d_out))?;
        Ok(Self {
            hira_a: place.param(place.random().kaiming([r, place.d_in])),
            hira_b: place.filled([place.d_out, r], 0.0),
            dropout: place.share("hira_dropout", config.hira_dropout)?,
        })
    }

    fn act(&self, base: &Linear, rows: Tensor<2>, pass: Pass) -> Tensor<2> {
        let factor = self
            .hira_a
            .val()
            .transpose()
            .matmul(self.hira_b.val().transpose());
        dropped(rows, self.dropout, base, pass).matmul(base.weight.dense() * factor)
    }

    fn next_to_base(&self) -> bool {
        true
    }
}

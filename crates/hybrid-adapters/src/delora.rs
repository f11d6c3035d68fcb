//! DeLoRA: a low-rank update whose length is trained apart from its directions (Bini et al. 2025,
//! equation 5).
//!
//! `y = f(x) + B S A (n * x)` with `S = diag(lambda / (r |a_i| |b_i|))` for the rows `a_i` of `A` and the columns
//! `b_i` of `B`, and `n` the lengths of the base's own weights from each input, which stay as they are
//! and are stored with the adapter.

use burn::module::{Module, Param};
use burn::tensor::{Tensor, TensorData};
use hybrid_models::Linear;

use crate::AdapterError;
use crate::method::Pass;
use crate::named_tensors;
use crate::pattern_map::PatternMap;
use crate::site_method::{
    ANY_START, Act, KeptTensor, NO_BIAS, Owner, PeftForm, SiteMethod, dropped, site_settings, whole,
};
use crate::site_place::Place;

pub(crate) const FORM: PeftForm = PeftForm {
    method: "delora",
    peft_type: "DELORA",
    keys: &[
        "r",
        "delora_lambda",
        "module_dropout",
        "rank_pattern",
        "lambda_pattern",
        "target_modules",
        "exclude_modules",
        "layers_to_transform",
        "layers_pattern",
    ],
    neutral: &[ANY_START],
    only: &[NO_BIAS],
    fan_in_fan_out: false,
};

site_settings! {
    /// DeLoRA's settings, with PEFT's names and meanings.
    DeloraConfig as FORM {
        /// Rank of the update.
        #[schemars(range(min = 1))]
        r: usize = 8,
        /// First length of the update.
        #[serde(serialize_with = "whole")]
        delora_lambda: f64 = 15.0,
        /// Share of the input's values that are dropped while training.
        #[schemars(range(min = 0.0, max = 0.99))]
        module_dropout: f64 = 0.0,
        /// Ranks of their own, by pattern.
        #[serde(skip_serializing_if = "PatternMap::is_empty")]
        rank_pattern: PatternMap<usize> = PatternMap::default(),
        /// First lengths of their own, by pattern.
        #[serde(skip_serializing_if = "PatternMap::is_empty")]
        lambda_pattern: PatternMap<f64> = PatternMap::default(),
    }
}

/// The factors and the length of one site.
#[derive(Module, Debug)]
pub(crate) struct Delora {
    /// `[r, d_in]`.
    delora_a: Param<Tensor<2>>,
    /// `[d_out, r]`.
    delora_b: Param<Tensor<2>>,
    /// `[1]`.
    delora_lambda: Param<Tensor<1>>,
    /// `n`, `[d_in]`.
    #[module(skip)]
    lengths: Tensor<1>,
    #[module(skip)]
    dropout: f64,
}

const KEY_LENGTHS: &str = "delora_w_norm";

impl SiteMethod for Delora {
    type Config = DeloraConfig;

    const FORM: &'static PeftForm = &FORM;

    const ACT: Act = Act::Beside;

    const RENAMED: &'static [(&'static str, &'static str)] =
        &[("delora_a", "delora_A"), ("delora_b", "delora_B")];

    /// `B` zero, so the adapted base starts as the base; `A` as PEFT's Kaiming initialisation has it.
    fn init(
        config: &DeloraConfig,
        place: &Place<'_>,
        _made: &[Self],
    ) -> Result<Self, AdapterError> {
        let r = place.by_pattern("rank_pattern", &config.rank_pattern, config.r)?;
        let r = place.rank(r, place.d_in.min(place.d_out))?;
        let (key, patterns) = ("lambda_pattern", &config.lambda_pattern);
        let lambda = place.by_pattern(key, patterns, config.delora_lambda)?;
        let lambda = place.finite("delora_lambda", lambda)?;
        Ok(Self {
            delora_a: place.param(place.random().kaiming([r, place.d_in])),
            delora_b: place.filled([place.d_out, r], 0.0),
            delora_lambda: place.filled([1], lambda as f32),
            lengths: place.weight().square().sum_dim(1).sqrt().squeeze_dim(1),
            dropout: place.share("module_dropout", config.module_dropout)?,
        })
    }

    fn act(&self, base: &Linear, rows: Tensor<2>, pass: Pass) -> Tensor<2> {
        let (a, b) = (self.delora_a.val(), self.delora_b.val());
        let [r, _] = a.dims();
        let of_a = length(a.clone(), 1).transpose();
        let of_b = length(b.clone(), 0);
        let lambda = self.delora_lambda.val().unsqueeze::<2>();
        let scales = lambda.mul_scalar(1.0 / r as f64) / (of_a * of_b);
        let rows = dropped(rows, self.dropout, base, pass);
        let narrow = (rows * self.lengths.clone().unsqueeze::<2>()).matmul(a.transpose());
        (narrow * scales).matmul(b.transpose())
    }

    fn kept(&self) -> Vec<KeptTensor> {
        vec![KeptTensor {
            key: KEY_LENGTHS,
            data: named_tensors::read(self.lengths.clone()),
            owner: Owner::Site,
        }]
    }

    fn keep(&mut self, key: &str, data: &TensorData) -> Result<(), AdapterError> {
        if key == KEY_LENGTHS {
            self.lengths = Tensor::from_data(data.clone(), &self.lengths.device());
        }
        Ok(())
    }
}

/// Lengths along a dimension, at least PEFT's 1e-4. The bound is taken before the root, whose slope
/// at zero is none.
fn length(matrix: Tensor<2>, dim: usize) -> Tensor<2> {
    matrix.square().sum_dim(dim).clamp_min(1e-8).sqrt()
}

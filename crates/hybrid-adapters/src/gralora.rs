//! GraLoRA: the weight is cut into a grid of blocks, each with a low-rank update of its own (Jung et
//! al. 2025, equation 5).
//!
//! `y_j = f(x)_j + s sum_l B_jl A_jl x_l` for `k` parts `x_l` of the input and `y_j` of the output, with
//! `s = alpha / (r + hybrid_r)`. A block has rank `r / k`; `A: [k, d_in / k, r]` has those of an input part, by
//! output part, and `B: [k, r, d_out / k]` those of an output part, by input part. With `hybrid_r` there is
//! LoRA's update of that rank beside the blocks.

use burn::module::{Module, Param};
use burn::tensor::{Tensor, TensorData};
use hybrid_models::Linear;

use crate::AdapterError;
use crate::method::Pass;
use crate::site_method::{
    ANY_START, Act, NO_BIAS, PeftForm, SiteMethod, dropped, site_settings, whole,
};
use crate::site_place::Place;

pub(crate) const FORM: PeftForm = PeftForm {
    method: "gralora",
    peft_type: "GRALORA",
    keys: &[
        "r",
        "hybrid_r",
        "alpha",
        "gralora_dropout",
        "gralora_k",
        "target_modules",
        "layers_to_transform",
        "layers_pattern",
    ],
    neutral: &[ANY_START],
    only: &[NO_BIAS],
    fan_in_fan_out: true,
};

site_settings! {
    /// GraLoRA's settings, with PEFT's names and meanings.
    GraloraConfig as FORM {
        /// Rank of a row of blocks: `gralora_k` times that of a block.
        #[schemars(range(min = 1))]
        r: usize = 32,
        /// Rank of LoRA's update beside the blocks.
        hybrid_r: usize = 0,
        /// Numerator of the scale.
        #[serde(serialize_with = "whole")]
        alpha: f64 = 64.0,
        /// Share of the input's values that are dropped while training.
        #[schemars(range(min = 0.0, max = 0.99))]
        gralora_dropout: f64 = 0.0,
        /// Number of parts of the input, and of the output.
        #[schemars(range(min = 1))]
        gralora_k: usize = 2,
    }
}

/// The factors of one site.
#[derive(Module, Debug)]
pub(crate) struct Gralora {
    /// `[k, d_in / k, r]`.
    gralora_a: Param<Tensor<3>>,
    /// `[k, r, d_out / k]`.
    gralora_b: Param<Tensor<3>>,
    /// `[hybrid_r, d_in]`.
    general_a: Option<Param<Tensor<2>>>,
    /// `[d_out, hybrid_r]`.
    general_b: Option<Param<Tensor<2>>>,
    #[module(skip)]
    scale: f64,
    #[module(skip)]
    dropout: f64,
}

impl SiteMethod for Gralora {
    type Config = GraloraConfig;

    const FORM: &'static PeftForm = &FORM;

    const ACT: Act = Act::Beside;

    const RENAMED: &'static [(&'static str, &'static str)] = &[
        ("gralora_a", "gralora_A"),
        ("gralora_b", "gralora_B"),
        ("general_a", "gralora_A_general.weight"),
        ("general_b", "gralora_B_general.weight"),
    ];

    /// `B` zero, so the adapted base starts as the base; `A` as PEFT's Kaiming initialisation has it.
    fn init(
        config: &GraloraConfig,
        place: &Place<'_>,
        _made: &[Self],
    ) -> Result<Self, AdapterError> {
        let (d_in, d_out) = (place.d_in, place.d_out);
        let limit = d_in.min(d_out);
        let r = place.rank(config.r, limit)?;
        let k = place.divisor("gralora_k", config.gralora_k, &[d_in, d_out, r])?;
        let hybrid_r = match config.hybrid_r {
            0 => None,
            rank => Some(place.rank(rank, limit)?),
        };
        let mut random = place.random();
        let a = random.uniform([k, d_in / k, r], 1.0 / ((d_in / k) as f64).sqrt());
        let general: Option<TensorData> = hybrid_r.map(|rank| random.kaiming([rank, d_in]));
        let alpha = place.finite("alpha", config.alpha)?;
        Ok(Self {
            gralora_a: place.param(a),
            gralora_b: place.filled([k, r, d_out / k], 0.0),
            general_a: general.map(|values| place.param(values)),
            general_b: hybrid_r.map(|rank| place.filled([d_out, rank], 0.0)),
            scale: alpha / (r + config.hybrid_r) as f64,
            dropout: place.share("gralora_dropout", config.gralora_dropout)?,
        })
    }

    fn act(&self, base: &Linear, rows: Tensor<2>, pass: Pass) -> Tensor<2> {
        let [k, part_in, r] = self.gralora_a.dims();
        let [_, _, part_out] = self.gralora_b.dims();
        let rows = dropped(rows, self.dropout, base, pass);
        let [n_rows, _] = rows.dims();
        let parts = rows.clone().reshape([n_rows, k, part_in]).swap_dims(0, 1);
        // From [input part, rows, (output part, rank)] to [output part, rows, (input part, rank)].
        let narrow = parts
            .matmul(self.gralora_a.val())
            .reshape([k, n_rows, k, r / k]);
        let narrow = narrow.permute([2, 1, 0, 3]).reshape([k, n_rows, r]);
        let parts = narrow.matmul(self.gralora_b.val()).swap_dims(0, 1);
        let mut side = parts.reshape([n_rows, k * part_out]);
        if let (Some(a), Some(b)) = (&self.general_a, &self.general_b) {
            let general = rows.matmul(a.val().transpose());
            side = side + general.matmul(b.val().transpose());
        }
        side.mul_scalar(self.scale)
    }
}

//! MiSS, the successor of Bone: every block of `r` inputs gets the same small matrix (Kang and Yin
//! 2024).
//!
//! `y = f(x) + D^T (x_1 + ... + x_n)` for the blocks `x_i` of `x`, the last filled up with zeros, and
//! `D: [r, d_out]`. `mini` repeats a narrower `D` over the outputs. `bat` adds to the weight, cut into blocks
//! `W_oi` of `r` times `r`, the matrix `W_oi D_o + D_o` of its row of blocks: it depends on the base's own
//! weight, so the sum is formed as in PEFT.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use hybrid_models::Linear;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::AdapterError;
use crate::method::Pass;
use crate::site_method::{Act, NO_BIAS, PeftForm, SiteMethod, dropped, site_settings};
use crate::site_place::Place;

pub(crate) const FORM: PeftForm = PeftForm {
    method: "miss",
    peft_type: "MISS",
    keys: &[
        "r",
        "miss_dropout",
        "mini_r",
        "init_weights",
        "target_modules",
        "exclude_modules",
        "layers_to_transform",
        "layers_pattern",
    ],
    neutral: &[],
    only: &[NO_BIAS],
    fan_in_fan_out: false,
};

site_settings! {
    /// MiSS's settings, with PEFT's names and meanings.
    MissConfig as FORM {
        /// Size of a block of inputs.
        #[schemars(range(min = 1))]
        r: usize = 64,
        /// Share of the input's values that are dropped while training; not with `bat`.
        #[schemars(range(min = 0.0, max = 0.99))]
        miss_dropout: f64 = 0.0,
        /// Number of outputs after which `mini` repeats itself.
        #[schemars(range(min = 1))]
        mini_r: usize = 1,
        /// Which of the three forms, by PEFT's name of its start.
        init_weights: MissForm = MissForm::Plain(true),
    }
}

/// The forms of MiSS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum MissForm {
    /// One matrix for all blocks. It starts at zero, or with `false` anywhere.
    Plain(bool),
    /// One of the others, which start at zero.
    Other(OtherMissForm),
}

/// The forms of MiSS that have a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OtherMissForm {
    /// Each block of outputs has a matrix, and the weight takes part.
    Bat,
    /// One narrow matrix for all blocks, repeated over the outputs.
    Mini,
}

/// The matrices of one site.
#[derive(Module, Debug)]
pub(crate) struct Miss {
    /// `D` of the plain form, `[r, d_out]`, and of `mini`, `[r, mini_r]`.
    miss_block: Option<Param<Tensor<2>>>,
    /// `D` of `bat`, `[d_out / r, r, r]`.
    bat_block: Option<Param<Tensor<3>>>,
    /// How often `D` stands side by side.
    #[module(skip)]
    repeated: usize,
    #[module(skip)]
    dropout: f64,
}

impl SiteMethod for Miss {
    type Config = MissConfig;

    const FORM: &'static PeftForm = &FORM;

    const ACT: Act = Act::Beside;

    const RENAMED: &'static [(&'static str, &'static str)] = &[("bat_block", "miss_block")];

    /// Zero, so the adapted base starts as the base.
    fn init(config: &MissConfig, place: &Place<'_>, _made: &[Self]) -> Result<Self, AdapterError> {
        let (r, d_out) = (place.rank(config.r, place.d_in)?, place.d_out);
        let mut miss = Self {
            miss_block: None,
            bat_block: None,
            repeated: 1,
            dropout: place.share("miss_dropout", config.miss_dropout)?,
        };
        match config.init_weights {
            MissForm::Plain(true) => miss.miss_block = Some(place.filled([r, d_out], 0.0)),
            MissForm::Plain(false) => {
                miss.miss_block = Some(place.param(place.random().kaiming([r, d_out])));
            }
            MissForm::Other(OtherMissForm::Mini) => {
                let width = place.divisor("mini_r", config.mini_r, &[d_out])?;
                miss.repeated = d_out / width;
                miss.miss_block = Some(place.filled([r, width], 0.0));
            }
            MissForm::Other(OtherMissForm::Bat) => {
                let r = place.divisor("r", r, &[place.d_in, d_out])?;
                miss.bat_block = Some(place.filled([d_out / r, r, r], 0.0));
            }
        }
        Ok(miss)
    }

    fn act(&self, base: &Linear, rows: Tensor<2>, pass: Pass) -> Tensor<2> {
        match (&self.miss_block, &self.bat_block) {
            (Some(block), _) => {
                let rows = dropped(rows, self.dropout, base, pass);
                self.plain(block.val(), rows)
            }
            (None, Some(block)) => rows.matmul(of_weight(base.weight.dense(), block.val())),
            (None, None) => unreachable!("a form has its matrix"),
        }
    }

    fn next_to_base(&self) -> bool {
        self.bat_block.is_some()
    }
}

impl Miss {
    fn plain(&self, block: Tensor<2>, rows: Tensor<2>) -> Tensor<2> {
        let ([n_rows, d_in], [r, _]) = (rows.dims(), block.dims());
        let n_blocks = d_in.div_ceil(r);
        let missing = n_blocks * r - d_in;
        let filled = match missing {
            0 => rows,
            _ => {
                let zeros = Tensor::zeros([n_rows, missing], &rows.device().without_autodiff());
                Tensor::cat(vec![rows, zeros], 1)
            }
        };
        let sums = filled
            .reshape([n_rows, n_blocks, r])
            .sum_dim(1)
            .squeeze_dim::<2>(1);
        sums.matmul(block).repeat_dim(1, self.repeated)
    }
}

/// What `bat` adds to a weight.
///
/// # Shapes
/// - `weight`: `[d_in, d_out]`, `block`: `[d_out / r, r, r]` → `[d_in, d_out]`
fn of_weight(weight: Tensor<2>, block: Tensor<3>) -> Tensor<2> {
    let ([d_in, d_out], [n_out, r, _]) = (weight.dims(), block.dims());
    let n_in = d_in / r;
    // PEFT's `[n_out, inputs' blocks, outputs within, inputs within]`.
    let parts = weight.reshape([n_in, r, n_out, r]).permute([2, 0, 3, 1]);
    let turned = parts.reshape([n_out, n_in * r, r]).matmul(block.clone());
    let sum = turned.reshape([n_out, n_in, r, r]) + block.unsqueeze_dim::<4>(1);
    sum.permute([1, 3, 0, 2]).reshape([d_in, d_out])
}

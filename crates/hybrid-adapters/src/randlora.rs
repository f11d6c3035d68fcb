//! RandLoRA: a full-rank update from many frozen low-rank ones, each scaled by trained diagonals
//! (Albert et al. 2025, equation 4).
//!
//! `y = f(x) + s sum_i B_i L_i A_i G_i x` with `s = alpha / r`, as many bases as make the rank full, and
//! `L_i`, `G_i` diagonal; where the layer narrows, the sum is transposed. All `A_i` are one, `A`. `A` and `B`
//! serve all layers, cut to their sizes, are drawn as PEFT draws them from `projection_prng_key`, and are
//! stored with the adapter. As in PEFT the bases are laid end to end by rank on the side of `A` and by
//! base on the side of `B`.

use burn::module::{Module, Param};
use burn::tensor::{Tensor, TensorData};
use hybrid_models::Linear;

use crate::AdapterError;
use crate::method::Pass;
use crate::shared_pair::SharedPair;
use crate::site_method::{
    ANY_START, Act, KeptTensor, NO_BIAS, Owner, PeftForm, SiteMethod, dropped, site_settings, whole,
};
use crate::site_place::Place;
use crate::torch_random::{TorchRandom, bfloat16};

pub(crate) const FORM: PeftForm = PeftForm {
    method: "randlora",
    peft_type: "RANDLORA",
    keys: &[
        "r",
        "projection_prng_key",
        "save_projection",
        "sparse",
        "very_sparse",
        "randlora_dropout",
        "randlora_alpha",
        "target_modules",
        "layers_to_transform",
        "layers_pattern",
    ],
    neutral: &[ANY_START],
    only: &[NO_BIAS],
    fan_in_fan_out: true,
};

site_settings! {
    /// RandLoRA's settings, with PEFT's names and meanings.
    RandloraConfig as FORM {
        /// Rank of a base. Fewer and larger ones train fewer values.
        #[schemars(range(min = 1))]
        r: usize = 32,
        /// Seed of the frozen matrices.
        projection_prng_key: u64 = 0,
        /// Whether PEFT's files hold the frozen matrices; else they are drawn again.
        save_projection: bool = true,
        /// Whether two thirds of the frozen values are zero, and the others alike in size.
        sparse: bool = false,
        /// Whether all but one in the root of the smaller side are zero.
        very_sparse: bool = false,
        /// Share of the input's values that are dropped while training.
        #[schemars(range(min = 0.0, max = 0.99))]
        randlora_dropout: f64 = 0.0,
        /// Numerator of the scale.
        #[serde(serialize_with = "whole")]
        randlora_alpha: f64 = 640.0,
    }
}

/// The diagonals of one site, and the matrices of all.
#[derive(Module, Debug)]
pub(crate) struct Randlora {
    /// `L`, `[r, bases]`.
    randlora_lambda: Param<Tensor<2>>,
    /// `G`, `[bases, smaller side]`.
    randlora_gamma: Param<Tensor<2>>,
    /// `A`, `[r, 1, smaller of the largest sides]`, and `B`, `[larger of the largest sides, bases, r]`.
    #[module(skip)]
    shared: SharedPair<3>,
    #[module(skip)]
    narrows: bool,
    #[module(skip)]
    larger: usize,
    #[module(skip)]
    scale: f64,
    #[module(skip)]
    dropout: f64,
}

impl SiteMethod for Randlora {
    type Config = RandloraConfig;

    const FORM: &'static PeftForm = &FORM;

    const ACT: Act = Act::Beside;

    /// `L` zero, so the adapted base starts as the base, and `G` at one over its longer side.
    fn init(
        config: &RandloraConfig,
        place: &Place<'_>,
        made: &[Self],
    ) -> Result<Self, AdapterError> {
        let (smaller, larger) = (place.d_in.min(place.d_out), place.d_in.max(place.d_out));
        let r = place.rank(config.r, smaller)?;
        let bases = smaller.div_ceil(r);
        let shared = match made.first() {
            Some(other) => other.shared.clone(),
            None => {
                let [d_in, d_out] = place.largest();
                let [a, b] = matrices(config, d_in.min(d_out), d_in.max(d_out));
                SharedPair {
                    a: place.frozen(a),
                    b: place.frozen(b),
                    keys: ["randlora_A", "randlora_B"],
                    owner: Owner::AllAndEach,
                    stored: config.save_projection,
                }
            }
        };
        Ok(Self {
            randlora_lambda: place.filled([r, bases], 0.0),
            randlora_gamma: place.filled([bases, smaller], 1.0 / bases.max(smaller) as f32),
            shared,
            narrows: place.d_in > place.d_out,
            larger,
            scale: place.finite("randlora_alpha", config.randlora_alpha)? / r as f64,
            dropout: place.share("randlora_dropout", config.randlora_dropout)?,
        })
    }

    fn act(&self, base: &Linear, rows: Tensor<2>, pass: Pass) -> Tensor<2> {
        let [bases, smaller] = self.randlora_gamma.dims();
        let [r, _] = self.randlora_lambda.dims();
        let a = self.shared.a.clone().narrow(2, 0, smaller)
            * self.randlora_lambda.val().unsqueeze_dim::<3>(2)
            * self.randlora_gamma.val().unsqueeze_dim::<3>(0);
        let of_smaller = a.reshape([r * bases, smaller]);
        let b = self
            .shared
            .b
            .clone()
            .narrow(0, 0, self.larger)
            .narrow(1, 0, bases);
        let of_larger = b.reshape([self.larger, bases * r]);
        let rows = dropped(rows, self.dropout, base, pass);
        let side = match self.narrows {
            true => rows.matmul(of_larger).matmul(of_smaller),
            false => rows
                .matmul(of_smaller.transpose())
                .matmul(of_larger.transpose()),
        };
        side.mul_scalar(self.scale)
    }

    fn kept(&self) -> Vec<KeptTensor> {
        self.shared.kept()
    }

    fn keep(&mut self, key: &str, data: &TensorData) -> Result<(), AdapterError> {
        self.shared.keep(key, data);
        Ok(())
    }
}

/// `A` and `B` of deviation one, as PEFT draws them.
fn matrices(config: &RandloraConfig, smaller: usize, larger: usize) -> [TensorData; 2] {
    let (r, bases) = (config.r, smaller.div_ceil(config.r));
    let mut random = TorchRandom::new(config.projection_prng_key);
    let (n_a, n_b) = (r * smaller, larger * bases * r);
    let sparsity = match (config.very_sparse, config.sparse) {
        (true, _) => Some((smaller as f64).sqrt()),
        (false, true) => Some(3.0),
        (false, false) => None,
    };
    let [a, b] = match sparsity {
        Some(sparsity) => [n_a, n_b].map(|n| {
            let share = (1.0 / (2.0 * sparsity)) as f32;
            let sign = |unit: f32| match unit {
                unit if unit < share => -1.0,
                unit if unit > 1.0 - share => 1.0,
                _ => 0.0,
            };
            let signs: Vec<f32> = (0..n).map(|_| sign(random.unit(24))).collect();
            let deviation = deviation(&signs);
            signs
                .iter()
                .map(|sign| sign / deviation)
                .collect::<Vec<f32>>()
        }),
        None => {
            let a = random.kaiming_bfloat16(n_a, smaller);
            let mut b = vec![0.0; n_b];
            for base in 0..bases {
                let drawn = random.kaiming_bfloat16(larger * r, r);
                for (row, values) in drawn.chunks(r).enumerate() {
                    let start = (row * bases + base) * r;
                    b[start..start + r].copy_from_slice(values);
                }
            }
            [a, b].map(|values| {
                let deviation = bfloat16(deviation(&values));
                let scaled = values.iter().map(|value| bfloat16(value / deviation));
                scaled.collect::<Vec<f32>>()
            })
        }
    };
    [
        TensorData::new(a, [r, 1, smaller]),
        TensorData::new(b, [larger, bases, r]),
    ]
}

/// PyTorch's `std`, which divides by one less than the number of values.
fn deviation(values: &[f32]) -> f32 {
    let n = values.len() as f64;
    let mean = values.iter().map(|value| f64::from(*value)).sum::<f64>() / n;
    let squares = values
        .iter()
        .map(|value| (f64::from(*value) - mean).powi(2));
    (squares.sum::<f64>() / (n - 1.0)).sqrt() as f32
}

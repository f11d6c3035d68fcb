//! VeRA: one pair of frozen random matrices for all layers, and trained vectors that scale it in each
//! (Kopiczko et al. 2023, equation 2).
//!
//! `y = f(x) + b * (B (d * (A x)))`. `A` and `B` are cut to a layer's sizes, drawn as PEFT draws them
//! from `projection_prng_key`, and stored with the adapter.

use burn::module::{Module, Param};
use burn::tensor::{Tensor, TensorData};
use hybrid_models::Linear;

use crate::AdapterError;
use crate::method::Pass;
use crate::shared_pair::SharedPair;
use crate::site_method::{
    ANY_START, Act, KeptTensor, NO_BIAS, PeftForm, SiteMethod, dropped, site_settings,
};
use crate::site_place::Place;
use crate::torch_random::TorchRandom;

pub(crate) const FORM: PeftForm = PeftForm {
    method: "vera",
    peft_type: "VERA",
    keys: &[
        "r",
        "projection_prng_key",
        "save_projection",
        "vera_dropout",
        "d_initial",
        "target_modules",
        "layers_to_transform",
        "layers_pattern",
    ],
    neutral: &[ANY_START],
    only: &[NO_BIAS],
    fan_in_fan_out: true,
};

site_settings! {
    /// VeRA's settings, with PEFT's names and meanings.
    VeraConfig as FORM {
        /// Rank of the frozen matrices; it may exceed the layers' sizes.
        #[schemars(range(min = 1))]
        r: usize = 256,
        /// Seed of the frozen matrices.
        projection_prng_key: u64 = 0,
        /// Whether PEFT's files hold the frozen matrices; else they are drawn again.
        save_projection: bool = true,
        /// Share of the input's values that are dropped while training.
        #[schemars(range(min = 0.0, max = 0.99))]
        vera_dropout: f64 = 0.0,
        /// First value of `d`.
        d_initial: f64 = 0.1,
    }
}

/// The vectors of one site, and the matrices of all.
#[derive(Module, Debug)]
pub(crate) struct Vera {
    /// `b`, `[d_out]`.
    vera_lambda_b: Param<Tensor<1>>,
    /// `d`, `[r]`.
    vera_lambda_d: Param<Tensor<1>>,
    /// `A`, `[r, largest d_in]`, and `B`, `[largest d_out, r]`.
    #[module(skip)]
    shared: SharedPair<2>,
    #[module(skip)]
    dropout: f64,
}

impl SiteMethod for Vera {
    type Config = VeraConfig;

    const FORM: &'static PeftForm = &FORM;

    const ACT: Act = Act::Beside;

    /// `b` zero, so the adapted base starts as the base, and `d` at `d_initial`.
    fn init(config: &VeraConfig, place: &Place<'_>, made: &[Self]) -> Result<Self, AdapterError> {
        let r = place.rank(config.r, usize::MAX)?;
        let d_initial = place.finite("d_initial", config.d_initial)?;
        let shared = match made.first() {
            Some(other) => other.shared.clone(),
            None => {
                let random = TorchRandom::new(config.projection_prng_key);
                let keys = ["vera_A", "vera_B"];
                SharedPair::drawn(place, [r, r], random, keys, config.save_projection)
            }
        };
        Ok(Self {
            vera_lambda_b: place.filled([place.d_out], 0.0),
            vera_lambda_d: place.filled([r], d_initial as f32),
            shared,
            dropout: place.share("vera_dropout", config.vera_dropout)?,
        })
    }

    fn act(&self, base: &Linear, rows: Tensor<2>, pass: Pass) -> Tensor<2> {
        let ([_, d_in], [d_out]) = (rows.dims(), self.vera_lambda_b.dims());
        let a = self.shared.a.clone().narrow(1, 0, d_in).transpose();
        let b = self.shared.b.clone().narrow(0, 0, d_out).transpose();
        let narrow = dropped(rows, self.dropout, base, pass).matmul(a);
        let narrow = narrow * self.vera_lambda_d.val().unsqueeze::<2>();
        narrow.matmul(b) * self.vera_lambda_b.val().unsqueeze::<2>()
    }

    fn kept(&self) -> Vec<KeptTensor> {
        self.shared.kept()
    }

    fn keep(&mut self, key: &str, data: &TensorData) -> Result<(), AdapterError> {
        self.shared.keep(key, data);
        Ok(())
    }
}

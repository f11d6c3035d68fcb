//! PVeRA: VeRA whose inner features are drawn while training (arXiv:2512.07703).
//!
//! `y = f(x) + b * (B z)` with `z = m` after training and `z = m + e * exp(v / 2)` while training, where
//! `m` and `v` are the two halves of `d * (A x)` and `e` is normal. `A` and `B` are those of VeRA, `A` of
//! twice the rank: cut to a layer's sizes, drawn as PEFT draws them, and stored with the adapter.

use burn::module::{Module, Param};
use burn::tensor::{Tensor, TensorData};
use hybrid_models::Linear;

use crate::AdapterError;
use crate::method::Pass;
use crate::random::HostRandom;
use crate::shared_pair::SharedPair;
use crate::site_method::{
    ANY_START, Act, KeptTensor, NO_BIAS, PeftForm, SiteMethod, Written, dropped, site_settings,
    whole,
};
use crate::site_place::Place;
use crate::torch_random::TorchRandom;

pub(crate) const FORM: PeftForm = PeftForm {
    method: "pvera",
    peft_type: "PVERA",
    keys: &[
        "r",
        "projection_prng_key",
        "save_projection",
        "pvera_dropout",
        "d_initial",
        "target_modules",
        "layers_to_transform",
        "layers_pattern",
    ],
    // Seeds what is drawn while training, which here comes from the run's own seed.
    neutral: &[ANY_START, ("generator_seed", Written::Nothing)],
    only: &[NO_BIAS, ("sample_at_inference", Written::Flag(false))],
    fan_in_fan_out: true,
};

site_settings! {
    /// PVeRA's settings, with PEFT's names and meanings.
    PveraConfig as FORM {
        /// Number of inner features; it may exceed the layers' sizes.
        #[schemars(range(min = 1))]
        r: usize = 256,
        /// Seed of the frozen matrices.
        projection_prng_key: u64 = 0,
        /// Whether PEFT's files hold the frozen matrices; else they are drawn again.
        save_projection: bool = true,
        /// Share of the input's values that are dropped while training.
        #[schemars(range(min = 0.0, max = 0.99))]
        #[serde(serialize_with = "whole")]
        pvera_dropout: f64 = 0.0,
        /// First value of `d`.
        #[serde(serialize_with = "whole")]
        d_initial: f64 = 0.1,
    }
}

/// The vectors of one site, and the matrices of all.
#[derive(Module, Debug)]
pub(crate) struct Pvera {
    /// `b`, `[d_out]`.
    pvera_lambda_b: Param<Tensor<1>>,
    /// `d`, `[2 r]`.
    pvera_lambda_d: Param<Tensor<1>>,
    /// `A`, `[2 r, largest d_in]`, and `B`, `[largest d_out, r]`.
    #[module(skip)]
    shared: SharedPair<2>,
    #[module(skip)]
    dropout: f64,
}

impl SiteMethod for Pvera {
    type Config = PveraConfig;

    const FORM: &'static PeftForm = &FORM;

    const ACT: Act = Act::Beside;

    /// `b` zero, so the adapted base starts as the base, and `d` at `d_initial`.
    fn init(config: &PveraConfig, place: &Place<'_>, made: &[Self]) -> Result<Self, AdapterError> {
        let r = place.rank(config.r, usize::MAX / 2)?;
        let d_initial = place.finite("d_initial", config.d_initial)?;
        let shared = match made.first() {
            Some(other) => other.shared.clone(),
            None => {
                let random = TorchRandom::new(config.projection_prng_key);
                let keys = ["pvera_A", "pvera_B"];
                SharedPair::drawn(place, [2 * r, r], random, keys, config.save_projection)
            }
        };
        Ok(Self {
            pvera_lambda_b: place.filled([place.d_out], 0.0),
            pvera_lambda_d: place.filled([2 * r], d_initial as f32),
            shared,
            dropout: place.share("pvera_dropout", config.pvera_dropout)?,
        })
    }

    fn act(&self, base: &Linear, rows: Tensor<2>, pass: Pass) -> Tensor<2> {
        let ([_, d_in], [d_out]) = (rows.dims(), self.pvera_lambda_b.dims());
        let [_, r] = self.shared.b.dims();
        let a = self.shared.a.clone().narrow(1, 0, d_in).transpose();
        let b = self.shared.b.clone().narrow(0, 0, d_out).transpose();
        let rows = dropped(rows, self.dropout, base, pass);
        let d = self.pvera_lambda_d.val().unsqueeze::<2>();
        let inner = match pass {
            Pass::Inference => rows.matmul(a.narrow(1, 0, r)) * d.narrow(1, 0, r),
            Pass::Training { seed } => {
                let both = rows.matmul(a) * d;
                let mean = both.clone().narrow(1, 0, r);
                let spread = both.narrow(1, r, r).mul_scalar(0.5).exp();
                // Apart from the numbers of dropout at the same site.
                let stream = 2 << 32 | base.site.index() as u64;
                let drawn = HostRandom::new(seed, stream).normal(mean.dims(), 1.0);
                let drawn = Tensor::from_data(drawn, &mean.device().without_autodiff());
                mean + spread * drawn
            }
        };
        inner.matmul(b) * self.pvera_lambda_b.val().unsqueeze::<2>()
    }

    fn kept(&self) -> Vec<KeptTensor> {
        self.shared.kept()
    }

    fn keep(&mut self, key: &str, data: &TensorData) -> Result<(), AdapterError> {
        self.shared.keep(key, data);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use burn::module::Param;
    use burn::tensor::{Device, Tensor, TensorData, Tolerance};
    use hybrid_models::{Linear, SiteKind, SiteTable};

    use super::Pvera;
    use crate::method::Pass;
    use crate::random::HostRandom;
    use crate::shared_pair::SharedPair;
    use crate::site_method::{Owner, SiteMethod};

    #[test]
    fn features_are_the_mean_or_drawn_around_it() {
        let device = Device::flex();
        let mut sites = SiteTable::default();
        let kind = SiteKind::Linear {
            d_in: 2,
            d_out: 1,
            bias: false,
        };
        let base = Linear {
            site: sites.add("dense", Some(0), false, kind),
            weight: Tensor::zeros([2, 1], &device).into(),
            bias: None,
        };
        let param = |values: Vec<f32>| {
            let n = values.len();
            Param::from_data(TensorData::new(values, [n]), &device)
        };
        let pvera = Pvera {
            pvera_lambda_b: param(vec![0.5]),
            pvera_lambda_d: param(vec![2.0, -1.0]),
            shared: SharedPair {
                a: Tensor::from_data([[1.0, 2.0], [3.0, 4.0]], &device),
                b: Tensor::from_data([[4.0]], &device),
                keys: ["pvera_A", "pvera_B"],
                owner: Owner::All,
                stored: true,
            },
            dropout: 0.0,
        };
        let close = |pass: Pass, inner: f32| {
            let rows = Tensor::<2>::from_data([[1.0, -1.0]], &device);
            let found = pvera.act(&base, rows, pass).into_data();
            let expected = TensorData::from([[2.0 * inner]]);
            found.assert_approx_eq::<f32>(&expected, Tolerance::absolute(1e-5));
        };
        // Both rows of A give -1: the mean is -2, the logarithm of the variance 1.
        close(Pass::Inference, -2.0);
        let drawn: Vec<f32> = HostRandom::new(7, 2 << 32)
            .normal([1, 1], 1.0)
            .iter::<f32>()
            .collect();
        close(Pass::Training { seed: 7 }, -2.0 + drawn[0] * 0.5f32.exp());
    }
}

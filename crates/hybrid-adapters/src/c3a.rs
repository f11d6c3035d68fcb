//! C3A: the update is a grid of circulant blocks (Chen et al. 2024, equation 8).
//!
//! `y_m[i] = f(x)_m[i] + (1 / d_in) sum_n sum_s w_mn[s] x_n[(i + s) mod b]` for parts of size `b` of input and
//! output. Each block multiplies in the frequency domain, where it is diagonal. Parts are small, so the
//! transform is a product with its cosines and sines, and no matrix of the layer's size is formed.
//!
//! The gradient is that of this function. PEFT's own backward (0.21) turns the gradient of the input
//! around within each part, so what lies below an adapted layer learns something else there.

use std::f64::consts::TAU;

use burn::module::{Module, Param};
use burn::tensor::{Tensor, TensorData};
use hybrid_models::Linear;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::AdapterError;
use crate::method::Pass;
use crate::pattern_map::PatternMap;
use crate::site_method::{Act, NO_BIAS, PeftForm, SiteMethod, site_settings};
use crate::site_place::Place;

pub(crate) const FORM: PeftForm = PeftForm {
    method: "c3a",
    peft_type: "C3A",
    keys: &[
        "block_size",
        "block_size_pattern",
        "init_weights",
        "target_modules",
        "layers_to_transform",
        "layers_pattern",
    ],
    neutral: &[],
    only: &[NO_BIAS],
    fan_in_fan_out: false,
};

site_settings! {
    /// C3A's settings, with PEFT's names and meanings.
    C3aConfig as FORM {
        /// Size of a block; it divides both sides of every layer.
        #[schemars(range(min = 1))]
        block_size: usize = 256,
        /// Sizes of their own, by pattern.
        #[serde(skip_serializing_if = "PatternMap::is_empty")]
        block_size_pattern: PatternMap<usize> = PatternMap::default(),
        /// How the blocks start.
        init_weights: C3aInit = C3aInit::Drawn(C3aDistribution::XavierUniform),
    }
}

/// How the blocks of C3A start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum C3aInit {
    /// `true`: at zero, so that the adapted base starts as the base; `false`: as `xavier_uniform`.
    Zero(bool),
    /// Anywhere.
    Drawn(C3aDistribution),
}

/// What the blocks of C3A are drawn from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum C3aDistribution {
    /// The standard normal distribution.
    Gaussian,
    /// Glorot and Bengio 2010, for the layer's sizes.
    XavierUniform,
    /// Plus or minus one over the root of the layer's input.
    KaimingUniform,
}

/// The blocks of one site.
#[derive(Module, Debug)]
pub(crate) struct C3a {
    /// `w`, `[d_out / size, d_in / size, size]`.
    c3a_kernel: Param<Tensor<3>>,
    /// Cosines and sines of all frequencies up to half of the size, `[size, 2 frequencies]`.
    #[module(skip)]
    waves: Tensor<2>,
    /// The same weighted as the transform back weights them, `[2 frequencies, size]`.
    #[module(skip)]
    back: Tensor<2>,
}

impl SiteMethod for C3a {
    type Config = C3aConfig;

    const FORM: &'static PeftForm = &FORM;

    const ACT: Act = Act::Beside;

    fn init(config: &C3aConfig, place: &Place<'_>, made: &[Self]) -> Result<Self, AdapterError> {
        let (d_in, d_out) = (place.d_in, place.d_out);
        let (key, patterns) = ("block_size_pattern", &config.block_size_pattern);
        let size = place.by_pattern(key, patterns, config.block_size)?;
        let size = place.divisor("block_size", size, &[d_in, d_out])?;
        let shape = [d_out / size, d_in / size, size];
        let mut random = place.random();
        let kernel = match config.init_weights {
            C3aInit::Zero(true) => place.filled(shape, 0.0),
            C3aInit::Drawn(C3aDistribution::Gaussian) => place.param(random.normal(shape, 1.0)),
            C3aInit::Zero(false) | C3aInit::Drawn(C3aDistribution::XavierUniform) => {
                let limit = (6.0 / (d_in + d_out) as f64).sqrt();
                place.param(random.uniform(shape, limit))
            }
            C3aInit::Drawn(C3aDistribution::KaimingUniform) => {
                place.param(random.uniform(shape, 1.0 / (d_in as f64).sqrt()))
            }
        };
        let (waves, back) = match made.iter().find(|other| other.waves.dims()[0] == size) {
            Some(other) => (other.waves.clone(), other.back.clone()),
            None => {
                let back: Tensor<2> = place.frozen(waves(size, true));
                (place.frozen::<2>(waves(size, false)).transpose(), back)
            }
        };
        Ok(Self {
            c3a_kernel: kernel,
            waves,
            back,
        })
    }

    fn act(&self, _base: &Linear, rows: Tensor<2>, _pass: Pass) -> Tensor<2> {
        let kernel = self.c3a_kernel.val();
        let ([n_out, n_in, size], [n_rows, d_in]) = (kernel.dims(), rows.dims());
        let n = size / 2 + 1;
        // `[frequencies, first, second]` of `[first, second, size]`: cosine and sine parts.
        let parts = |values: Tensor<3>| {
            let [first, second, _] = values.dims();
            let all = values
                .reshape([first * second, size])
                .matmul(self.waves.clone());
            let all = all.reshape([first, second, 2 * n]).permute([2, 0, 1]);
            [all.clone().narrow(0, 0, n), all.narrow(0, n, n)]
        };
        let [x_cosine, x_sine] = parts(rows.reshape([n_rows, n_in, size]));
        let [w_cosine, w_sine] = parts(kernel).map(|part| part.swap_dims(1, 2));
        // With transforms `X = x_cosine - i x_sine` and `W` alike: the conjugate of `W`, times `X`.
        let cosine =
            x_cosine.clone().matmul(w_cosine.clone()) + x_sine.clone().matmul(w_sine.clone());
        let sine = x_sine.matmul(w_cosine) - x_cosine.matmul(w_sine);
        let y = Tensor::cat(vec![cosine, sine], 0).permute([1, 2, 0]);
        let y = y.reshape([n_rows * n_out, 2 * n]).matmul(self.back.clone());
        y.reshape([n_rows, n_out * size])
            .mul_scalar(1.0 / d_in as f64)
    }
}

/// Cosines of the frequencies up to half of `size`, and below them sines: `[2 frequencies, size]`.
/// For the transform back each counts for its mirror image too, over the size.
fn waves(size: usize, back: bool) -> TensorData {
    let n = size / 2 + 1;
    let weight = |frequency: usize| match (back, frequency == 0 || 2 * frequency == size) {
        (false, _) => 1.0,
        (true, true) => 1.0 / size as f64,
        (true, false) => 2.0 / size as f64,
    };
    let angle = |frequency, step| TAU * (frequency * step % size) as f64 / size as f64;
    let wave = |of: fn(f64) -> f64| {
        let all = (0..n).flat_map(move |frequency| (0..size).map(move |step| (frequency, step)));
        all.map(move |(frequency, step)| (weight(frequency) * of(angle(frequency, step))) as f32)
    };
    let values: Vec<f32> = wave(f64::cos).chain(wave(f64::sin)).collect();
    TensorData::new(values, [2 * n, size])
}

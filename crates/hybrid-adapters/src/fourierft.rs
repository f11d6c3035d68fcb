//! FourierFT: the update is a matrix of which a few entries of the spectrum are trained (Gao et al.
//! 2024, equations 2 to 4).
//!
//! `y = f(x) + s Re(ifft2(F)) x`, where `F: [d_out, d_in]` is zero but at `n_frequency` places `(u, v)`.
//! Those are PyTorch's permutation under `random_loc_seed`, the same for all layers of one size; files do
//! not hold them. The entry `c` at `(u, v)` adds `c cos(2 pi (p u / d_out + q v / d_in))` at `(p, q)`, which is a
//! sum of two products of a function of `p` and one of `q`: so the update goes beside the layer as thin
//! products, and is never formed while training.

use std::f64::consts::TAU;

use burn::module::{Module, Param};
use burn::tensor::{Tensor, TensorData};
use hybrid_models::Linear;

use crate::AdapterError;
use crate::method::Pass;
use crate::pattern_map::PatternMap;
use crate::site_method::{Act, NO_BIAS, PeftForm, SiteMethod, site_settings};
use crate::site_place::Place;
use crate::torch_random::TorchRandom;

pub(crate) const FORM: PeftForm = PeftForm {
    method: "fourierft",
    peft_type: "FOURIERFT",
    keys: &[
        "n_frequency",
        "scaling",
        "random_loc_seed",
        "init_weights",
        "n_frequency_pattern",
        "target_modules",
        "exclude_modules",
        "layers_to_transform",
        "layers_pattern",
    ],
    neutral: &[],
    only: &[NO_BIAS],
    fan_in_fan_out: true,
};

site_settings! {
    /// FourierFT's settings, with PEFT's names and meanings.
    FourierftConfig as FORM {
        /// Number of trained entries of a layer's spectrum.
        #[schemars(range(min = 1))]
        n_frequency: usize = 1000,
        /// Scale of the update.
        scaling: f64 = 150.0,
        /// Seed of the places of the entries.
        random_loc_seed: u64 = 777,
        /// Whether the entries start at zero, and the adapted base as the base; else they are drawn
        /// from the standard normal distribution, as in the paper.
        init_weights: bool = false,
        /// Numbers of entries of their own, by pattern.
        #[serde(skip_serializing_if = "PatternMap::is_empty")]
        n_frequency_pattern: PatternMap<usize> = PatternMap::default(),
    }
}

/// The entries of one site.
#[derive(Module, Debug)]
pub(crate) struct Fourierft {
    /// `c`, `[n_frequency]`.
    fourierft_spectrum: Param<Tensor<1>>,
    /// Cosines and sines of `q v / d_in`, `[d_in, 2 n_frequency]`.
    #[module(skip)]
    of_inputs: Tensor<2>,
    /// Cosines and negative sines of `p u / d_out`, `[2 n_frequency, d_out]`.
    #[module(skip)]
    of_outputs: Tensor<2>,
    #[module(skip)]
    scale: f64,
}

impl SiteMethod for Fourierft {
    type Config = FourierftConfig;

    const FORM: &'static PeftForm = &FORM;

    const ACT: Act = Act::Beside;

    fn init(
        config: &FourierftConfig,
        place: &Place<'_>,
        made: &[Self],
    ) -> Result<Self, AdapterError> {
        let (key, patterns) = ("n_frequency_pattern", &config.n_frequency_pattern);
        let n = place.by_pattern(key, patterns, config.n_frequency)?;
        let (d_in, d_out) = (place.d_in, place.d_out);
        if !(1..=d_in * d_out).contains(&n) {
            let expected = "from 1 to the number of weights of every adapted layer";
            return Err(place.wrong("n_frequency", expected, n));
        }
        let sizes = ([d_in, 2 * n], [2 * n, d_out]);
        let fits = |other: &&Self| (other.of_inputs.dims(), other.of_outputs.dims()) == sizes;
        let (of_inputs, of_outputs) = match made.iter().find(fits) {
            Some(other) => (other.of_inputs.clone(), other.of_outputs.clone()),
            None => {
                let mut random = TorchRandom::new(config.random_loc_seed);
                let places = random.permutation(d_in * d_out, n);
                let (rows, columns): (Vec<usize>, Vec<usize>) = places
                    .iter()
                    .map(|place| (place / d_in, place % d_in))
                    .unzip();
                let of_inputs = waves(&columns, d_in, 1.0);
                let of_outputs = waves(&rows, d_out, -1.0);
                (
                    place.frozen::<2>(of_inputs).transpose(),
                    place.frozen(of_outputs),
                )
            }
        };
        Ok(Self {
            fourierft_spectrum: match config.init_weights {
                true => place.filled([n], 0.0),
                false => place.param(place.random().normal([n], 1.0)),
            },
            of_inputs,
            of_outputs,
            scale: place.finite("scaling", config.scaling)? / (d_in * d_out) as f64,
        })
    }

    fn act(&self, _base: &Linear, rows: Tensor<2>, _pass: Pass) -> Tensor<2> {
        let spectrum = self.fourierft_spectrum.val().mul_scalar(self.scale);
        let twice = Tensor::cat(vec![spectrum.clone(), spectrum], 0);
        let waves = rows.matmul(self.of_inputs.clone()) * twice.unsqueeze::<2>();
        waves.matmul(self.of_outputs.clone())
    }
}

/// Cosines of each frequency over a side of `size`, and below them its sines by `sign`:
/// `[2 frequencies, size]`.
fn waves(frequencies: &[usize], size: usize, sign: f64) -> TensorData {
    let angle = |step: usize| TAU * step as f64 / size as f64;
    let cosines: Vec<f32> = (0..size).map(|step| angle(step).cos() as f32).collect();
    let sines: Vec<f32> = (0..size)
        .map(|step| (sign * angle(step).sin()) as f32)
        .collect();
    let values: Vec<f32> = [&cosines, &sines]
        .into_iter()
        .flat_map(|wave| {
            let of = move |frequency: &usize| {
                let frequency = *frequency;
                (0..size).map(move |step| wave[step * frequency % size])
            };
            frequencies.iter().flat_map(of)
        })
        .collect();
    TensorData::new(values, [2 * frequencies.len(), size])
}

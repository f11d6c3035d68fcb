//! WaveFT: the update is a matrix of which a few wavelet coefficients are trained (Bilican et al.
//! 2025, in PEFT's formulation).
//!
//! `y = f(x) + s V x`, where `V: [d_out, d_in]` is put together by one step of the inverse wavelet
//! transform from four bands of coefficients, which are zero but at `n_frequency` places. Those are
//! PyTorch's permutation under `random_loc_seed`, the same for all layers of one size; files do not
//! hold them. Without `use_idwt` the coefficients are the values of `V` themselves. `V` is formed
//! in each forward, as in PEFT.

use burn::module::{Module, Param};
use burn::tensor::{IndexingUpdateOp, Int, Tensor, TensorData};
use hybrid_models::Linear;

use crate::AdapterError;
use crate::method::Pass;
use crate::pattern_map::PatternMap;
use crate::site_method::{Act, NO_BIAS, PeftForm, SiteMethod, site_settings};
use crate::site_place::Place;
use crate::torch_random::TorchRandom;

mod wavelets;

pub(crate) const FORM: PeftForm = PeftForm {
    method: "waveft",
    peft_type: "WAVEFT",
    keys: &[
        "n_frequency",
        "scaling",
        "wavelet_family",
        "use_idwt",
        "random_loc_seed",
        "proportional_parameters",
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
    /// WaveFT's settings, with PEFT's names and meanings.
    WaveftConfig as FORM {
        /// Number of trained coefficients of a layer.
        #[schemars(range(min = 1))]
        n_frequency: usize = 2592,
        /// Scale of the update.
        scaling: f64 = 25.0,
        /// The wavelet: `db1` (Haar's) to `db10`, `sym2` to `sym10` or `coif1` to `coif4`.
        wavelet_family: String = "db1".to_owned(),
        /// Whether the update is put together from wavelets.
        use_idwt: bool = true,
        /// Seed of the places of the coefficients.
        random_loc_seed: u64 = 777,
        /// Whether layers share the coefficients of all of them in proportion to their sizes.
        proportional_parameters: bool = false,
        /// Whether the coefficients start at zero, and the adapted base as the base; else they are
        /// drawn from a narrow normal distribution.
        init_weights: bool = true,
        /// Numbers of coefficients of their own, by pattern.
        #[serde(skip_serializing_if = "PatternMap::is_empty")]
        n_frequency_pattern: PatternMap<usize> = PatternMap::default(),
    }
}

/// The coefficients of one site.
#[derive(Module, Debug)]
pub(crate) struct Waveft {
    /// `[n_frequency]`.
    waveft_spectrum: Param<Tensor<1>>,
    /// Where they stand among the bands, row by row.
    #[module(skip)]
    places: Tensor<1, Int>,
    #[module(skip)]
    bands: Bands,
    #[module(skip)]
    scale: f64,
}

/// The four bands of an update, averages before differences: `[inputs, outputs]`.
#[derive(Debug, Clone, Copy)]
struct Bands {
    d_in: usize,
    d_out: usize,
    /// None where the coefficients are the values of the update.
    wavelet: Option<Wavelet>,
}

/// A wavelet by the filter that puts averages together.
#[derive(Debug, Clone, Copy)]
struct Wavelet {
    low: &'static [f64],
}

impl Wavelet {
    /// The value of the filter that puts differences together.
    fn high(self, at: usize) -> f64 {
        let value = self.low[self.low.len() - 1 - at];
        if at.is_multiple_of(2) { value } else { -value }
    }

    /// Coefficients on a side that is to have `size` values: an even number, enough that none of
    /// the values needs coefficients beyond the ends.
    fn coefficients(self, size: usize) -> usize {
        (size + self.low.len() - 2).next_multiple_of(2)
    }

    /// One step of the inverse transform along the first side, but for what needs coefficients
    /// beyond the ends.
    ///
    /// # Shapes
    /// - `bands`: `[coefficients, columns]`, the first half averages, the second differences →
    ///   `[coefficients - (length of the filter) + 2, columns]`
    fn joined(self, bands: Tensor<2>) -> Tensor<2> {
        let [coefficients, columns] = bands.dims();
        let (half, steps) = (coefficients / 2, self.low.len() / 2);
        let pairs = half + 1 - steps;
        let filtered = |tap: usize, step: usize| {
            let first = steps - 1 - step;
            let low = bands.clone().narrow(0, first, pairs);
            let high = bands.clone().narrow(0, half + first, pairs);
            low.mul_scalar(self.low[tap]) + high.mul_scalar(self.high(tap))
        };
        // Each coefficient lies under the filter at every second value.
        let [even, odd] = [0, 1].map(|phase| {
            let sum = |sum, step| sum + filtered(2 * step + phase, step);
            (1..steps).fold(filtered(phase, 0), sum)
        });
        Tensor::stack::<3>(vec![even, odd], 1).reshape([2 * pairs, columns])
    }
}

impl Bands {
    fn sides(self) -> [usize; 2] {
        let side = |size| match self.wavelet {
            Some(wavelet) => wavelet.coefficients(size),
            None => size,
        };
        [side(self.d_in), side(self.d_out)]
    }

    /// Where the coefficient stands that PEFT draws at `(row, column)` of a weight `[d_out, d_in]`.
    fn place(self, row: usize, column: usize) -> usize {
        let [inputs, outputs] = self.sides();
        let inner = [
            column + (inputs - self.d_in) / 2,
            row + (outputs - self.d_out) / 2,
        ];
        let [input, output] = match self.wavelet {
            Some(_) => exchanged(inner, [inputs / 2, outputs / 2]),
            None => inner,
        };
        input * outputs + output
    }

    /// The update out of all coefficients, `[inputs outputs]` → `[d_in, d_out]`.
    fn update(self, coefficients: Tensor<1>) -> Tensor<2> {
        let bands = coefficients.reshape(self.sides());
        let Some(wavelet) = self.wavelet else {
            return bands;
        };
        let by_outputs = wavelet.joined(wavelet.joined(bands).transpose());
        let whole = by_outputs.transpose();
        whole.slice([0..self.d_in, 0..self.d_out])
    }
}

/// A place in the layout in which each side has averages before differences. PEFT has the bands
/// with averages along one side and differences along the other in each other's place.
fn exchanged([input, output]: [usize; 2], [of_inputs, of_outputs]: [usize; 2]) -> [usize; 2] {
    match (input >= of_inputs, output >= of_outputs) {
        (true, false) => [input - of_inputs, output + of_outputs],
        (false, true) => [input + of_inputs, output - of_outputs],
        _ => [input, output],
    }
}

impl SiteMethod for Waveft {
    type Config = WaveftConfig;

    const FORM: &'static PeftForm = &FORM;

    const ACT: Act = Act::Beside;

    fn init(
        config: &WaveftConfig,
        place: &Place<'_>,
        _made: &[Self],
    ) -> Result<Self, AdapterError> {
        let n = n_coefficients(config, place)?;
        let (d_in, d_out) = (place.d_in, place.d_out);
        if !(1..=d_in * d_out).contains(&n) {
            let expected = "from 1 to the number of weights of every adapted layer";
            return Err(place.wrong("n_frequency", expected, n));
        }
        let Some(wavelet) = wavelets::by_name(&config.wavelet_family) else {
            let expected = "db1 to db10, sym2 to sym10 or coif1 to coif4";
            return Err(place.wrong("wavelet_family", expected, &config.wavelet_family));
        };
        let bands = Bands {
            d_in,
            d_out,
            wavelet: config.use_idwt.then_some(wavelet),
        };
        let chosen = TorchRandom::new(config.random_loc_seed).permutation(d_in * d_out, n);
        let places = chosen
            .iter()
            .map(|chosen| bands.place(chosen / d_in, chosen % d_in) as i64);
        let places = TensorData::new(places.collect::<Vec<i64>>(), [n]);
        Ok(Self {
            waveft_spectrum: match config.init_weights {
                true => place.filled([n], 0.0),
                false => place.param(place.random().normal([n], 0.01)),
            },
            places: Tensor::from_data(places, &place.device()),
            bands,
            scale: place.finite("scaling", config.scaling)?,
        })
    }

    fn act(&self, _base: &Linear, rows: Tensor<2>, _pass: Pass) -> Tensor<2> {
        let spectrum = self.waveft_spectrum.val().mul_scalar(self.scale);
        let [inputs, outputs] = self.bands.sides();
        let device = spectrum.device().without_autodiff();
        let none = Tensor::<1>::zeros([inputs * outputs], &device);
        let places = self.places.clone();
        let all = none.select_assign(0, places, spectrum, IndexingUpdateOp::Add);
        rows.matmul(self.bands.update(all))
    }
}

/// How many coefficients a site has.
fn n_coefficients(config: &WaveftConfig, place: &Place<'_>) -> Result<usize, AdapterError> {
    if !config.proportional_parameters {
        let (key, patterns) = ("n_frequency_pattern", &config.n_frequency_pattern);
        return place.by_pattern(key, patterns, config.n_frequency);
    }
    let size = |[d_in, d_out]: [usize; 2]| (d_in * d_out) as f64;
    let sizes: f64 = place.shapes.iter().map(|shape| size(*shape)).sum();
    let of_all = (config.n_frequency * place.shapes.len()) as f64;
    let share = size([place.d_in, place.d_out]) / sizes;
    // PEFT rounds halves to even numbers.
    Ok((share * of_all).round_ties_even().max(1.0) as usize)
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Tensor, TensorData, Tolerance};

    use super::{Bands, wavelets};

    /// The filters are orthonormal to their own shifts by two, but for PEFT's `coif4`.
    #[test]
    fn filters_keep_lengths() {
        for name in [
            "db1", "db2", "db7", "db10", "sym2", "sym9", "coif1", "coif3",
        ] {
            let low = wavelets::by_name(name).unwrap().low;
            for shift in (0..low.len()).step_by(2) {
                let pairs = low.iter().zip(&low[shift..]);
                let product: f64 = pairs.map(|(a, b)| a * b).sum();
                let expected = if shift == 0 { 1.0 } else { 0.0 };
                assert!(
                    (product - expected).abs() < 1e-7,
                    "{name}: {shift}: {product}"
                );
            }
        }
        assert!(wavelets::by_name("coif5").is_none());
    }

    /// Of PEFT's `waverec2d` over the bands 1 to 4, rows of each along the outputs.
    #[test]
    fn bands_join_as_in_peft() {
        let device = Device::flex();
        let bands = Bands {
            d_in: 2,
            d_out: 2,
            wavelet: wavelets::by_name("db1"),
        };
        // A = 1, rows' difference 2, columns' difference 3, both 4.
        let mut values = [0.0f32; 4];
        for (row, column, value) in [(0, 0, 1.0), (0, 1, 2.0), (1, 0, 3.0), (1, 1, 4.0)] {
            values[bands.place(row, column)] = value;
        }
        let coefficients = Tensor::<1>::from_data(TensorData::from(values), &device);
        let found = bands.update(coefficients).transpose().into_data();
        let signs =
            |row: f32, column: f32| (1.0 + 2.0 * row + 3.0 * column + 4.0 * row * column) / 2.0;
        let expected = TensorData::from([
            [signs(1.0, 1.0), signs(1.0, -1.0)],
            [signs(-1.0, 1.0), signs(-1.0, -1.0)],
        ]);
        found.assert_approx_eq::<f32>(&expected, Tolerance::absolute(1e-6));
    }

    #[test]
    fn any_wavelet_fits_any_size() {
        let device = Device::flex();
        for name in ["db1", "db3", "sym10", "coif4"] {
            let wavelet = wavelets::by_name(name);
            for (d_in, d_out) in [(1, 1), (5, 8), (3, 2), (32, 17)] {
                let bands = Bands {
                    d_in,
                    d_out,
                    wavelet,
                };
                let [inputs, outputs] = bands.sides();
                let ones = Tensor::<1>::ones([inputs * outputs], &device);
                assert_eq!(bands.update(ones).dims(), [d_in, d_out], "{name}");
                let mut places: Vec<usize> = (0..d_in * d_out)
                    .map(|place| bands.place(place / d_in, place % d_in))
                    .collect();
                assert!(places.iter().all(|place| *place < inputs * outputs));
                places.sort_unstable();
                places.dedup();
                assert_eq!(places.len(), d_in * d_out, "{name}");
            }
        }
    }
}

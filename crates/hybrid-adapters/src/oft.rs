//! OFT: the input of a layer is rotated block by block (Qiu et al. 2023, section 3; with Cayley's
//! transform as a series, Qiu et al. 2025).
//!
//! `y = f(R x)`, where `R` has orthogonal blocks `(1 - Q) (1 + Q)^-1`, or the first terms of
//! `1 + 2 (Q + Q^2 + ...)`, and each `Q` is skew-symmetric with the trained values above its diagonal. With
//! `coft` the norm of `Q` stays below `eps` over the root of the number of blocks: a longer one acts, and
//! is told its gradient, as if it were shortened.

use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor, TensorData};
use hybrid_models::Linear;

use crate::AdapterError;
use crate::cayley::cayley;
use crate::method::Pass;
use crate::site_method::{ANY_START, Act, NO_BIAS, PeftForm, SiteMethod, Written, site_settings};
use crate::site_place::Place;

pub(crate) const FORM: PeftForm = PeftForm {
    method: "oft",
    peft_type: "OFT",
    keys: &[
        "r",
        "oft_block_size",
        "coft",
        "eps",
        "block_share",
        "use_cayley_neumann",
        "num_cayley_neumann_terms",
        "target_modules",
        "exclude_modules",
        "layers_to_transform",
        "layers_pattern",
    ],
    // PEFT's forward does not use its dropout.
    neutral: &[ANY_START, ("module_dropout", Written::Number(0.0))],
    only: &[NO_BIAS],
    fan_in_fan_out: true,
};

site_settings! {
    /// OFT's settings, with PEFT's names and meanings.
    OftConfig as FORM {
        /// Number of blocks; 0 when their size is given.
        r: usize = 0,
        /// Size of a block; 0 when their number is given. A size, or number, that does not divide a
        /// layer's input gives way to the nearest one that does.
        oft_block_size: usize = 32,
        /// Whether rotations stay near the identity.
        coft: bool = false,
        /// How near, with `coft`.
        eps: f64 = 6e-5,
        /// Whether all blocks of a layer are one.
        block_share: bool = false,
        /// Whether Cayley's transform is cut off as a series.
        use_cayley_neumann: bool = true,
        /// Number of terms of the series.
        num_cayley_neumann_terms: usize = 5,
    }
}

/// The blocks of one site.
#[derive(Module, Debug)]
pub(crate) struct Oft {
    /// Above the diagonals, row by row: `[blocks, size (size - 1) / 2]`.
    oft_r: Param<Tensor<2>>,
    /// Which of the values, of their negatives, and of a zero behind them stands where in a block,
    /// `[size size]`.
    #[module(skip)]
    places: Tensor<1, Int>,
    #[module(skip)]
    size: usize,
    /// Terms of the series.
    #[module(skip)]
    terms: Option<usize>,
    /// Largest norm of a block's `Q`.
    #[module(skip)]
    limit: Option<f64>,
}

impl SiteMethod for Oft {
    type Config = OftConfig;

    const FORM: &'static PeftForm = &FORM;

    const ACT: Act = Act::Before;

    const RENAMED: &'static [(&'static str, &'static str)] = &[("oft_r", "oft_R.weight")];

    /// All zero, so the adapted base starts as the base.
    fn init(config: &OftConfig, place: &Place<'_>, _made: &[Self]) -> Result<Self, AdapterError> {
        let size = match (config.r, config.oft_block_size) {
            (0, size) if size > 0 => nearest_divisor(place.d_in, size),
            (r, 0) if r > 0 => place.d_in / nearest_divisor(place.d_in, r),
            both => {
                let expected = "0 beside an oft_block_size, or more beside an oft_block_size of 0";
                return Err(place.wrong("r", expected, both));
            }
        };
        let blocks = if config.block_share {
            1
        } else {
            place.d_in / size
        };
        let n = size * (size - 1) / 2;
        let limit = place.finite("eps", config.eps)? / (blocks as f64).sqrt();
        let indices = TensorData::new(places(size), [size * size]);
        Ok(Self {
            oft_r: place.filled([blocks, n], 0.0),
            places: Tensor::from_data(indices, &place.device()),
            size,
            terms: config
                .use_cayley_neumann
                .then_some(config.num_cayley_neumann_terms),
            limit: config.coft.then_some(limit),
        })
    }

    fn act(&self, _base: &Linear, rows: Tensor<2>, _pass: Pass) -> Tensor<2> {
        let ([n_rows, d_in], size) = (rows.dims(), self.size);
        let rotations = self.rotations();
        let rotated = match rotations.dims() {
            [1, _, _] => {
                let blocks = rows.reshape([n_rows * d_in / size, size]);
                return blocks
                    .matmul(rotations.squeeze_dim(0))
                    .reshape([n_rows, d_in]);
            }
            _ => rows
                .reshape([n_rows, d_in / size, size])
                .swap_dims(0, 1)
                .matmul(rotations),
        };
        rotated.swap_dims(0, 1).reshape([n_rows, d_in])
    }
}

impl Oft {
    /// `[blocks, size, size]`.
    fn rotations(&self) -> Tensor<3> {
        let skew = self.skew();
        let Some(terms) = self.terms else {
            return cayley(skew);
        };
        let one = Tensor::<2>::eye(self.size, &skew.device().without_autodiff());
        let mut sum = skew.zeros_like() + one.unsqueeze::<3>();
        if terms < 2 {
            return sum;
        }
        sum = sum + skew.clone().mul_scalar(2.0);
        if terms == 2 {
            return sum;
        }
        // As PEFT counts them: the last power is the first that is not doubled, the third or later.
        let mut power = skew.clone().matmul(skew.clone());
        for _ in 2..(terms - 1).max(3) {
            sum = sum + power.clone().mul_scalar(2.0);
            power = power.matmul(skew.clone());
        }
        sum + power
    }

    /// `[blocks, size, size]`.
    fn skew(&self) -> Tensor<3> {
        let values = self.oft_r.val();
        let [blocks, _] = values.dims();
        let zero = Tensor::zeros([blocks, 1], &values.device().without_autodiff());
        let all = Tensor::cat(vec![values.clone(), -values, zero], 1);
        let skew = all.select(1, self.places.clone());
        let skew = skew.reshape([blocks, self.size, self.size]);
        let Some(limit) = self.limit else {
            return skew;
        };
        let plain = skew.clone().without_autodiff();
        let norms = plain.clone().square().sum_dim(2).sum_dim(1).sqrt();
        let shares = (norms.clamp_min(f32::MIN_POSITIVE).recip() * limit).clamp_max(1.0);
        let shortened = plain.clone() * shares;
        skew + (shortened - plain)
    }
}

/// For each place of a block, row by row, the index of its value among those above the diagonal,
/// their negatives, and zero.
fn places(size: usize) -> Vec<i64> {
    let n = size * (size - 1) / 2;
    let above = |row: usize, column: usize| row * size - row * (row + 1) / 2 + column - row - 1;
    let place = |row: usize, column: usize| match row.cmp(&column) {
        std::cmp::Ordering::Less => above(row, column),
        std::cmp::Ordering::Greater => n + above(column, row),
        std::cmp::Ordering::Equal => 2 * n,
    };
    (0..size * size)
        .map(|index| place(index / size, index % size) as i64)
        .collect()
}

/// The divisor of `size` nearest to `wanted`, the smaller one of two.
fn nearest_divisor(size: usize, wanted: usize) -> usize {
    if wanted >= size {
        return size;
    }
    let divides = |number: &usize| size.is_multiple_of(*number);
    let above = (wanted..=size).find(divides).unwrap_or(size);
    let below = (1..=wanted).rev().find(divides).unwrap_or(1);
    match wanted - below <= above - wanted {
        true => below,
        false => above,
    }
}

#[cfg(test)]
mod tests {
    use super::{nearest_divisor, places};

    #[test]
    fn values_stand_above_the_diagonal_and_their_negatives_below() {
        assert_eq!(places(3), [6, 0, 1, 3, 6, 2, 4, 5, 6]);
        assert_eq!(places(1), [0]);
    }

    #[test]
    fn sizes_that_do_not_divide_give_way() {
        assert_eq!(nearest_divisor(48, 32), 24);
        assert_eq!(nearest_divisor(48, 16), 16);
        assert_eq!(nearest_divisor(48, 100), 48);
        assert_eq!(nearest_divisor(48, 5), 4);
    }
}

//! BOFT: the input of a layer goes through several block rotations with shuffles between, which mix
//! all of it, and its outputs are scaled (Liu et al. 2023, equation 4).
//!
//! `y = s * (W R x) + b` with `R = P_n D_n P_n^T ... P_1 D_1 P_1^T`: `D_i` has orthogonal blocks
//! `(1 - Q) (1 + Q)^-1` with `Q = (M - M^T) / 2`, and `P_i` is the shuffle of a butterfly. PEFT computes more
//! than one factor with its CUDA extension only; elsewhere it takes one whatever
//! `boft_n_butterfly_factor` says, and stores that one. So files of both kinds carry the same settings,
//! and the number of factors is that of their tensors.

use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor, TensorData};
use hybrid_models::Linear;

use crate::AdapterError;
use crate::cayley::cayley;
use crate::method::{Inner, Pass};
use crate::site_method::{ANY_START, Act, NO_BIAS, PeftForm, SiteMethod, Written, site_settings};
use crate::site_place::Place;

pub(crate) const FORM: PeftForm = PeftForm {
    method: "boft",
    peft_type: "BOFT",
    keys: &[
        "boft_block_size",
        "boft_block_num",
        "boft_n_butterfly_factor",
        "target_modules",
        "exclude_modules",
        "layers_to_transform",
        "layers_pattern",
    ],
    neutral: &[ANY_START, ("boft_dropout", Written::Number(0.0))],
    only: &[NO_BIAS],
    fan_in_fan_out: true,
};

site_settings! {
    /// BOFT's settings, with PEFT's names and meanings.
    BoftConfig as FORM {
        /// Size of a block; 0 when their number is given.
        boft_block_size: usize = 4,
        /// Number of blocks; 0 when their size is given.
        boft_block_num: usize = 0,
        /// Number of factors, each of which mixes twice as many blocks as the one before. PEFT reads
        /// more than one with its CUDA extension only.
        #[schemars(range(min = 1))]
        boft_n_butterfly_factor: usize = 1,
    }
}

/// The rotations and scales of one site.
#[derive(Module, Debug)]
pub(crate) struct Boft {
    /// `M`, `[factors, blocks, size, size]`.
    boft_r: Param<Tensor<4>>,
    /// `s`, `[d_out, 1]`.
    boft_s: Param<Tensor<2>>,
    /// For each factor after the first, which input is at each place within it, and then back, `[d_in]`.
    #[module(skip)]
    shuffles: Vec<(Tensor<1, Int>, Tensor<1, Int>)>,
}

impl SiteMethod for Boft {
    type Config = BoftConfig;

    const FORM: &'static PeftForm = &FORM;

    const ACT: Act = Act::Before;

    const RENAMED: &'static [(&'static str, &'static str)] = &[("boft_r", "boft_R")];

    /// `M` zero and `s` one, so the adapted base starts as the base.
    fn init(config: &BoftConfig, place: &Place<'_>, made: &[Self]) -> Result<Self, AdapterError> {
        let d_in = place.d_in;
        let size = match (config.boft_block_size, config.boft_block_num) {
            (size, 0) => place.divisor("boft_block_size", size, &[d_in])?,
            (0, blocks) => d_in / place.divisor("boft_block_num", blocks, &[d_in])?,
            both => {
                let expected = "0 beside a boft_block_num, or more beside a boft_block_num of 0";
                return Err(place.wrong("boft_block_size", expected, both));
            }
        };
        let factors = match place.stored_shape(KEY_R) {
            Some(shape) => shape.first().copied().unwrap_or(0),
            None => config.boft_n_butterfly_factor,
        };
        let key = "boft_n_butterfly_factor";
        let fits = |factors: usize| {
            let mixed = u32::try_from(factors - 1)
                .ok()
                .and_then(|n| 2usize.checked_pow(n));
            let mixed = mixed.and_then(|n| n.checked_mul(size));
            factors == 1 || size % 2 == 0 && mixed.is_some_and(|n| d_in.is_multiple_of(n))
        };
        if factors == 0 || !fits(factors) {
            let expected = "1, or a number of doublings of an even block that divide the input";
            return Err(place.wrong(key, expected, factors));
        }
        let fits = |other: &&Self| {
            let [of_other, blocks, ..] = other.boft_r.dims();
            (of_other, blocks * size) == (factors, d_in)
        };
        let shuffles = match made.iter().find(fits) {
            Some(other) => other.shuffles.clone(),
            None => (1..factors)
                .map(|factor| {
                    let to = shuffle(d_in, size << factor, size / 2);
                    let mut back = vec![0; d_in];
                    to.iter()
                        .enumerate()
                        .for_each(|(from, to)| back[*to] = from);
                    let indices = |values: Vec<usize>| {
                        let values: Vec<i64> = values.into_iter().map(|v| v as i64).collect();
                        Tensor::from_data(TensorData::new(values, [d_in]), &place.device())
                    };
                    (indices(back), indices(to))
                })
                .collect(),
        };
        Ok(Self {
            boft_r: place.filled([factors, d_in / size, size, size], 0.0),
            boft_s: place.filled([place.d_out, 1], 1.0),
            shuffles,
        })
    }

    fn act(&self, _base: &Linear, rows: Tensor<2>, _pass: Pass) -> Tensor<2> {
        let free = self.boft_r.val();
        let [factors, blocks, size, _] = free.dims();
        let [n_rows, d_in] = rows.dims();
        let free = free.reshape([factors * blocks, size, size]);
        let skew = (free.clone() - free.swap_dims(1, 2)).mul_scalar(0.5);
        let rotations = cayley(skew);
        (0..factors).rev().fold(rows, |rows, factor| {
            let rotations = rotations.clone().narrow(0, factor * blocks, blocks);
            let rotate = |rows: Tensor<2>| {
                let parts = rows.reshape([n_rows, blocks, size]).swap_dims(0, 1);
                let parts = parts.matmul(rotations).swap_dims(0, 1);
                parts.reshape([n_rows, d_in])
            };
            match factor.checked_sub(1).map(|index| &self.shuffles[index]) {
                None => rotate(rows),
                Some((to, back)) => rotate(rows.select(1, to.clone())).select(1, back.clone()),
            }
        })
    }

    /// The scale of what is beside the bias needs the bias alone.
    fn next_to_base(&self) -> bool {
        true
    }

    fn forward(&self, base: &Linear, x: Tensor<3>, pass: Pass, inner: Inner<'_>) -> Tensor<3> {
        let [batch, seq, d_in] = x.dims();
        let rows = self.act(base, x.reshape([batch * seq, d_in]), pass);
        let y = inner(rows.reshape([batch, seq, d_in]));
        let scale = self.scales().unsqueeze::<3>();
        match &base.bias {
            None => y * scale,
            Some(bias) => {
                let bias = bias.clone().unsqueeze::<3>();
                (y - bias.clone()) * scale + bias
            }
        }
    }

    fn merge(&self, inner: Linear) -> Linear {
        let weight = inner.weight.dense();
        let [d_in, _] = weight.dims();
        let whole = Tensor::<2>::eye(d_in, &weight.device());
        let rotation = self.act(&inner, whole, Pass::Inference);
        let weight = rotation.matmul(weight) * self.scales().unsqueeze::<2>();
        Linear {
            weight: weight.into(),
            ..inner
        }
    }
}

const KEY_R: &str = "boft_R";

impl Boft {
    /// `[d_out]`.
    fn scales(&self) -> Tensor<1> {
        self.boft_s.val().squeeze_dim(1)
    }
}

/// Within each `block` of `size` inputs, the even ones of its parts of `part` inputs, then the odd
/// ones: which input is at each place.
fn shuffle(size: usize, block: usize, part: usize) -> Vec<usize> {
    let parts = block / part;
    let order = (0..parts).step_by(2).chain((1..parts).step_by(2));
    let order: Vec<usize> = order.collect();
    (0..size)
        .map(|place| {
            let (start, within) = (place - place % block, place % block);
            start + order[within / part] * part + within % part
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::shuffle;

    /// Against `block_butterfly_perm` of PEFT 0.21.
    #[test]
    fn shuffles_are_those_of_peft() {
        let expected = [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15];
        assert_eq!(shuffle(16, 8, 2), expected);
        let expected = [0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15];
        assert_eq!(shuffle(16, 16, 2), expected);
    }
}

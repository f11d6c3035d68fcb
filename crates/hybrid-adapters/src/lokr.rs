//! LoKr: the update is the Kronecker product of a small matrix and a low-rank one (Yeh et al. 2023,
//! LyCORIS, section 3.3; Edalati et al. 2022).
//!
//! `y = f(x) + s (W1 kron W2) x` with `s = alpha / r`, `W1: [out_1, in_1]` and `W2: [out_2, in_2]`, where
//! `out_1 out_2 = d_out` and `in_1 in_2 = d_in`. Each of the two is whole or a product of rank `r`. With
//! `x` as a matrix `[in_1, in_2]` the update is `W1 x W2^T`, so it is never formed while training.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use hybrid_models::Linear;

use crate::AdapterError;
use crate::loha::{OF_CONVOLUTIONS, UpdateDropout};
use crate::method::Pass;
use crate::pattern_map::PatternMap;
use crate::site_method::{ANY_START, Act, PeftForm, SiteMethod, site_settings, whole};
use crate::site_place::Place;

pub(crate) const FORM: PeftForm = PeftForm {
    method: "lokr",
    peft_type: "LOKR",
    keys: &[
        "r",
        "alpha",
        "rank_dropout",
        "module_dropout",
        "rank_dropout_scale",
        "decompose_both",
        "decompose_factor",
        "rank_pattern",
        "alpha_pattern",
        "target_modules",
        "exclude_modules",
        "layers_to_transform",
        "layers_pattern",
    ],
    neutral: &[ANY_START, OF_CONVOLUTIONS],
    only: &[],
    fan_in_fan_out: false,
};

site_settings! {
    /// LoKr's settings, with PEFT's names and meanings.
    LokrConfig as FORM {
        /// Rank of a matrix that is a product.
        #[schemars(range(min = 1))]
        r: usize = 8,
        /// Numerator of the scale.
        #[serde(serialize_with = "whole")]
        alpha: f64 = 8.0,
        /// Share of the outputs whose update is dropped while training.
        #[schemars(range(min = 0.0, max = 0.99))]
        rank_dropout: f64 = 0.0,
        /// Share of the steps in which a layer's whole update is dropped while training.
        #[schemars(range(min = 0.0, max = 0.99))]
        module_dropout: f64 = 0.0,
        /// Whether `rank_dropout` scales up the outputs that are left.
        rank_dropout_scale: bool = false,
        /// Whether `W1` may be a product too.
        decompose_both: bool = false,
        /// What the sides of `W1` come near, where it divides; -1: the root of the layer's sizes.
        decompose_factor: i64 = -1,
        /// Ranks of their own, by pattern.
        #[serde(skip_serializing_if = "PatternMap::is_empty")]
        rank_pattern: PatternMap<usize> = PatternMap::default(),
        /// Alphas of their own, by pattern.
        #[serde(skip_serializing_if = "PatternMap::is_empty")]
        alpha_pattern: PatternMap<f64> = PatternMap::default(),
    }
}

/// The matrices of one site.
#[derive(Module, Debug)]
pub(crate) struct Lokr {
    /// `[out_1, in_1]`.
    lokr_w1: Option<Param<Tensor<2>>>,
    /// `[out_1, r]`, where `W1` is a product.
    lokr_w1_a: Option<Param<Tensor<2>>>,
    /// `[r, in_1]`.
    lokr_w1_b: Option<Param<Tensor<2>>>,
    /// `[out_2, in_2]`.
    lokr_w2: Option<Param<Tensor<2>>>,
    /// `[out_2, r]`, where `W2` is a product.
    lokr_w2_a: Option<Param<Tensor<2>>>,
    /// `[r, in_2]`.
    lokr_w2_b: Option<Param<Tensor<2>>>,
    #[module(skip)]
    scale: f64,
    #[module(skip)]
    dropout: UpdateDropout,
}

impl SiteMethod for Lokr {
    type Config = LokrConfig;

    const FORM: &'static PeftForm = &FORM;

    const ACT: Act = Act::Beside;

    /// `W1`, or its first factor, zero, so the adapted base starts as the base; the others as PEFT's
    /// Kaiming initialisation has them.
    fn init(config: &LokrConfig, place: &Place<'_>, _made: &[Self]) -> Result<Self, AdapterError> {
        let r = place.by_pattern("rank_pattern", &config.rank_pattern, config.r)?;
        let r = place.rank(r, usize::MAX)?;
        let alpha = place.by_pattern("alpha_pattern", &config.alpha_pattern, config.alpha)?;
        let factor = match config.decompose_factor {
            -1 => None,
            factor if factor > 0 => Some(factor as usize),
            factor => {
                return Err(place.wrong("decompose_factor", "-1 or a factor of 1 or more", factor));
            }
        };
        let ([in_1, in_2], [out_1, out_2]) = (
            factorized(place.d_in, factor),
            factorized(place.d_out, factor),
        );
        let whole_1 = !config.decompose_both || 2 * r >= out_1.max(in_1);
        let whole_2 = 2 * r >= out_2.max(in_2);
        let mut random = place.random();
        let mut kaiming = |shape| place.param(random.kaiming(shape));
        Ok(Self {
            lokr_w1: whole_1.then(|| place.filled([out_1, in_1], 0.0)),
            lokr_w1_a: (!whole_1).then(|| place.filled([out_1, r], 0.0)),
            lokr_w1_b: (!whole_1).then(|| kaiming([r, in_1])),
            lokr_w2: whole_2.then(|| kaiming([out_2, in_2])),
            lokr_w2_a: (!whole_2).then(|| kaiming([out_2, r])),
            lokr_w2_b: (!whole_2).then(|| kaiming([r, in_2])),
            scale: place.finite("alpha", alpha)? / r as f64,
            dropout: UpdateDropout::new(
                place,
                config.rank_dropout,
                config.rank_dropout_scale,
                config.module_dropout,
            )?,
        })
    }

    fn act(&self, base: &Linear, rows: Tensor<2>, pass: Pass) -> Tensor<2> {
        let w1 = product(&self.lokr_w1, &self.lokr_w1_a, &self.lokr_w1_b);
        let w2 = product(&self.lokr_w2, &self.lokr_w2_a, &self.lokr_w2_b);
        let ([out_1, in_1], [out_2, in_2]) = (w1.dims(), w2.dims());
        let [n_rows, _] = rows.dims();
        let right = rows.reshape([n_rows * in_1, in_2]).matmul(w2.transpose());
        let right = right.reshape([n_rows, in_1, out_2]).swap_dims(1, 2);
        let left = right.reshape([n_rows * out_2, in_1]).matmul(w1.transpose());
        let left = left.reshape([n_rows, out_2, out_1]).swap_dims(1, 2);
        let side = left.reshape([n_rows, out_1 * out_2]).mul_scalar(self.scale);
        self.dropout.apply(side, base, pass)
    }
}

type Factor = Option<Param<Tensor<2>>>;

fn product(whole: &Factor, a: &Factor, b: &Factor) -> Tensor<2> {
    match (whole, a, b) {
        (Some(whole), _, _) => whole.val(),
        (None, Some(a), Some(b)) => a.val().matmul(b.val()),
        _ => unreachable!("a matrix is whole or a product"),
    }
}

/// Two numbers with the product `size`, the smaller one first: `factor` where it divides, else the
/// pair with the least sum whose smaller one does not exceed it. With a factor that divides, that one
/// comes first even when it is the larger.
fn factorized(size: usize, factor: Option<usize>) -> [usize; 2] {
    if let Some(factor) = factor
        && size.is_multiple_of(factor)
    {
        return [factor, size / factor];
    }
    let limit = factor.unwrap_or(size);
    let mut pair = [1, size];
    while pair[0] < pair[1] {
        let Some(smaller) = (pair[0] + 1..=size).find(|divisor| size.is_multiple_of(*divisor))
        else {
            break;
        };
        let next = [smaller, size / smaller];
        if next[0] + next[1] > 1 + size || next[0] > limit {
            break;
        }
        pair = next;
    }
    pair.sort_unstable();
    pair
}

#[cfg(test)]
mod tests {
    use super::factorized;

    /// The examples of PEFT's documentation, and one that goes past the root.
    #[test]
    fn sizes_come_apart_as_in_peft() {
        assert_eq!(factorized(256, None), [16, 16]);
        assert_eq!(factorized(128, None), [8, 16]);
        assert_eq!(factorized(127, None), [1, 127]);
        assert_eq!(factorized(128, Some(4)), [4, 32]);
        assert_eq!(factorized(30, Some(4)), [3, 10]);
        assert_eq!(factorized(8, Some(4)), [4, 2]);
    }
}

//! HRA: the input of a layer goes through a chain of reflections (Yuan et al. 2024, equation 4).
//!
//! `y = f(H_r ... H_1 x)` with `H_i = 1 - 2 u_i u_i^T` and unit vectors `u_i`, the trained ones normalised. With
//! `apply_GS` the vectors are made orthogonal first (Gram and Schmidt), and the chain is
//! `1 - 2 U U^T`. Reflections act on the rows one by one: no matrix of the layer's size is formed.

use burn::module::{Module, Param};
use burn::tensor::{Tensor, TensorData};
use hybrid_models::Linear;

use crate::AdapterError;
use crate::gram_schmidt::{orthonormal, unit};
use crate::method::Pass;
use crate::site_method::{ANY_START, Act, NO_BIAS, PeftForm, SiteMethod, site_settings};
use crate::site_place::Place;

pub(crate) const FORM: PeftForm = PeftForm {
    method: "hra",
    peft_type: "HRA",
    keys: &[
        "r",
        "apply_GS",
        "target_modules",
        "exclude_modules",
        "layers_to_transform",
        "layers_pattern",
    ],
    neutral: &[ANY_START],
    only: &[NO_BIAS],
    fan_in_fan_out: false,
};

site_settings! {
    /// HRA's settings, with PEFT's names and meanings.
    HraConfig as FORM {
        /// Number of reflections. An even number starts as pairs that undo each other.
        #[schemars(range(min = 1))]
        r: usize = 8,
        /// Whether the vectors are made orthogonal.
        #[serde(rename = "apply_GS")]
        apply_gs: bool = false,
    }
}

/// The vectors of one site.
#[derive(Module, Debug)]
pub(crate) struct Hra {
    /// `[d_in, r]`.
    hra_u: Param<Tensor<2>>,
    #[module(skip)]
    orthogonal: bool,
}

impl SiteMethod for Hra {
    type Config = HraConfig;

    const FORM: &'static PeftForm = &FORM;

    const ACT: Act = Act::Before;

    /// Pairs of equal vectors, so the adapted base starts as the base unless they are odd in number
    /// or made orthogonal.
    fn init(config: &HraConfig, place: &Place<'_>, _made: &[Self]) -> Result<Self, AdapterError> {
        let (r, d_in) = (place.rank(config.r, place.d_in)?, place.d_in);
        let mut random = place.random();
        let values = match r.is_multiple_of(2) {
            false => random.kaiming([d_in, r]),
            true => {
                let half: Vec<f32> = random.kaiming([d_in, r / 2]).iter::<f32>().collect();
                let twice = half.into_iter().flat_map(|value| [value, value]);
                TensorData::new(twice.collect::<Vec<f32>>(), [d_in, r])
            }
        };
        Ok(Self {
            hra_u: place.param(values),
            orthogonal: config.apply_gs,
        })
    }

    fn act(&self, _base: &Linear, rows: Tensor<2>, _pass: Pass) -> Tensor<2> {
        let vectors = self.hra_u.val();
        match self.orthogonal {
            true => {
                let vectors = orthonormal(vectors);
                let along = rows.clone().matmul(vectors.clone()).mul_scalar(2.0);
                rows - along.matmul(vectors.transpose())
            }
            false => (0..vectors.dims()[1]).rev().fold(rows, |rows, index| {
                let vector = unit(vectors.clone().narrow(1, index, 1));
                let along = rows.clone().matmul(vector.clone()).mul_scalar(2.0);
                rows - along.matmul(vector.transpose())
            }),
        }
    }
}

//! GLoRA: scales and shifts of a layer's weight and bias (Chavan et al. 2023, in PEFT's
//! formulation).
//!
//! `y = (W + W * A + B) x + b + b * D + E + W C` with products `*` value by value, `A` and `B:
//! [d_out, d_in]`, `C: [d_in]`, `D` and `E: [d_out]`. Each is a low-rank product, a value for each
//! output (or, of `C`, each input), one value for all, or nothing. Over a layer without bias there
//! are only `A` and `B`.

use burn::module::{Module, Param};
use burn::tensor::{Tensor, TensorData};
use hybrid_models::Linear;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::AdapterError;
use crate::method::Pass;
use crate::site_method::{
    ANY_START, Act, KeptTensor, NO_BIAS, Owner, PeftForm, SiteMethod, site_settings,
};
use crate::site_place::Place;

pub(crate) const FORM: PeftForm = PeftForm {
    method: "glora",
    peft_type: "GLORA",
    keys: &[
        "r",
        "config_A_B",
        "config_C",
        "config_D_E",
        "target_modules",
    ],
    neutral: &[ANY_START],
    only: &[NO_BIAS],
    fan_in_fan_out: false,
};

site_settings! {
    /// GLoRA's settings, with PEFT's names and meanings.
    GloraConfig as FORM {
        /// Rank of low-rank products.
        #[schemars(range(min = 1))]
        r: usize = 8,
        /// What the weight's scale `A` and shift `B` are.
        #[serde(rename = "config_A_B")]
        config_a_b: GloraWeight = GloraWeight::Lora,
        /// What `C` is, whose image the bias gets.
        #[serde(rename = "config_C")]
        config_c: GloraImage = GloraImage::Lora,
        /// What the bias's scale `D` and shift `E` are.
        #[serde(rename = "config_D_E")]
        config_d_e: GloraBias = GloraBias::Constant,
    }
}

/// What a scale or shift of a weight is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum GloraWeight {
    /// A low-rank product.
    Lora,
    /// A value for each output.
    Vector,
    /// One value.
    Constant,
    /// Nothing.
    None,
}

/// What the vector is whose image a bias gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum GloraImage {
    /// A product of a matrix and a vector.
    Lora,
    /// A value for each input.
    Vector,
    /// Nothing.
    None,
}

/// What a scale or shift of a bias is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum GloraBias {
    /// A value for each output.
    Vector,
    /// One value.
    Constant,
    /// Nothing.
    None,
}

/// Trained values of a weight or of an input, `[height, width]` with outputs, or inputs, first.
#[derive(Module, Debug)]
struct Support {
    /// `[height, r]`.
    xd: Option<Param<Tensor<2>>>,
    /// `[r, width]`.
    xu: Option<Param<Tensor<2>>>,
    /// `[height, 1]`.
    column: Option<Param<Tensor<2>>>,
    /// `[1]`.
    constant: Option<Param<Tensor<1>>>,
}

impl Support {
    /// `[width or 1, height or 1]`: none where there is nothing.
    fn transposed(&self) -> Option<Tensor<2>> {
        match (&self.xd, &self.xu, &self.column, &self.constant) {
            (Some(xd), Some(xu), ..) => Some(xu.val().transpose().matmul(xd.val().transpose())),
            (_, _, Some(column), _) => Some(column.val().transpose()),
            (_, _, _, Some(constant)) => Some(constant.val().unsqueeze()),
            _ => None,
        }
    }
}

/// The values of one site.
#[derive(Module, Debug)]
pub(crate) struct Glora {
    glora_a: Support,
    glora_b: Support,
    glora_c: Support,
    /// `[d_out]`, or `[1]` for all.
    glora_d: Option<Param<Tensor<1>>>,
    /// `[d_out]`, or `[1]` for all.
    glora_e: Option<Param<Tensor<1>>>,
    #[module(skip)]
    d_in: usize,
    #[module(skip)]
    d_out: usize,
}

impl Glora {
    /// What the weight gets, `[d_in, d_out]` or broadcast to that.
    fn of_weight(&self, weight: Tensor<2>) -> Option<Tensor<2>> {
        let scale = self.glora_a.transposed()?;
        let shift = self.glora_b.transposed()?;
        Some(weight * scale + shift)
    }

    /// What the bias gets, `[1, d_out]`.
    fn of_bias(&self, base: &Linear) -> Option<Tensor<2>> {
        let bias = base.bias.clone()?;
        let scaled = self.glora_d.as_ref().map(|d| bias * d.val());
        let shift = self.glora_e.as_ref().map(|e| {
            let e = e.val();
            e.expand([self.d_out])
        });
        let image = self.glora_c.transposed().map(|c| {
            let image = c.reshape([1, self.d_in]).matmul(base.weight.dense());
            image.squeeze_dim(0)
        });
        let parts = [scaled, shift, image].into_iter().flatten();
        let sum = parts.reduce(|sum: Tensor<1>, part| sum + part)?;
        Some(sum.unsqueeze())
    }
}

const KEYS_OF_NOTHING: [&str; 5] = [
    "glora_A.zeros",
    "glora_B.zeros",
    "glora_C.zeros",
    "glora_D.zeros",
    "glora_E.zeros",
];

impl SiteMethod for Glora {
    type Config = GloraConfig;

    const FORM: &'static PeftForm = &FORM;

    const ACT: Act = Act::Beside;

    const SHIFTS: bool = true;

    const RENAMED: &'static [(&'static str, &'static str)] = &[
        ("glora_a.xd", "glora_A.Xd"),
        ("glora_a.xu", "glora_A.Xu"),
        ("glora_a.column", "glora_A.X"),
        ("glora_a.constant", "glora_A.X"),
        ("glora_b.xd", "glora_B.Xd"),
        ("glora_b.xu", "glora_B.Xu"),
        ("glora_b.column", "glora_B.X"),
        ("glora_b.constant", "glora_B.X"),
        ("glora_c.xd", "glora_C.Xd"),
        ("glora_c.xu", "glora_C.Xu"),
        ("glora_c.column", "glora_C.X"),
        ("glora_d", "glora_D.X"),
        ("glora_e", "glora_E.X"),
    ];

    /// The second factors of low-rank products as PEFT's Kaiming initialisation has them, all else
    /// zero, so the adapted base starts as the base.
    fn init(config: &GloraConfig, place: &Place<'_>, _made: &[Self]) -> Result<Self, AdapterError> {
        let (d_in, d_out) = (place.d_in, place.d_out);
        let has_bias = place.bias().is_some();
        let (image, of_bias) = match has_bias {
            true => (config.config_c, config.config_d_e),
            false => (GloraImage::None, GloraBias::None),
        };
        let has_none = (image, of_bias) == (GloraImage::None, GloraBias::None);
        if config.config_a_b == GloraWeight::None && has_none {
            let expected = "something to train at every adapted layer";
            return Err(place.wrong("config_A_B", expected, config.config_a_b));
        }
        let r = place.rank(config.r, d_in.max(d_out))?;
        let mut random = place.random();
        let nothing = || Support {
            xd: None,
            xu: None,
            column: None,
            constant: None,
        };
        let mut product = |height: usize, width: usize| Support {
            xd: Some(place.filled([height, r], 0.0)),
            xu: Some(place.param(random.kaiming([r, width]))),
            ..nothing()
        };
        let column = |height: usize| Support {
            column: Some(place.filled([height, 1], 0.0)),
            ..nothing()
        };
        let mut weight = || match config.config_a_b {
            GloraWeight::Lora => product(d_out, d_in),
            GloraWeight::Vector => column(d_out),
            GloraWeight::Constant => Support {
                constant: Some(place.filled([1], 0.0)),
                ..nothing()
            },
            GloraWeight::None => nothing(),
        };
        let bias = || match of_bias {
            GloraBias::Vector => Some(place.filled([d_out], 0.0)),
            GloraBias::Constant => Some(place.filled([1], 0.0)),
            GloraBias::None => None,
        };
        Ok(Self {
            glora_a: weight(),
            glora_b: weight(),
            glora_c: match image {
                GloraImage::Lora => product(d_in, 1),
                GloraImage::Vector => column(d_in),
                GloraImage::None => nothing(),
            },
            glora_d: bias(),
            glora_e: bias(),
            d_in,
            d_out,
        })
    }

    fn act(&self, base: &Linear, rows: Tensor<2>, _pass: Pass) -> Tensor<2> {
        let [n_rows, _] = rows.dims();
        let changed = self.of_weight(base.weight.dense());
        let changed = changed.map(|weight| rows.matmul(weight));
        match (changed, self.of_bias(base)) {
            (Some(changed), Some(shift)) => changed + shift,
            (Some(changed), None) => changed,
            (None, Some(shift)) => shift.expand([n_rows, self.d_out]),
            (None, None) => unreachable!("something is trained at every site"),
        }
    }

    fn next_to_base(&self) -> bool {
        true
    }

    /// PEFT stores zeros in the place of nothing.
    fn kept(&self) -> Vec<KeptTensor> {
        let (d_in, d_out) = (self.d_in, self.d_out);
        let shapes = [
            vec![d_out, d_in],
            vec![d_out, d_in],
            vec![d_in, 1],
            vec![d_out],
            vec![d_out],
        ];
        let is_there = [
            self.glora_a.transposed().is_some(),
            self.glora_b.transposed().is_some(),
            self.glora_c.transposed().is_some(),
            self.glora_d.is_some(),
            self.glora_e.is_some(),
        ];
        let all = KEYS_OF_NOTHING.into_iter().zip(shapes).zip(is_there);
        let absent = all.filter(|(_, is_there)| !is_there);
        absent
            .map(|((key, shape), _)| KeptTensor {
                key,
                data: TensorData::zeros::<f32, _>(shape),
                owner: Owner::Site,
            })
            .collect()
    }

    fn keep(&mut self, key: &str, data: &TensorData) -> Result<(), AdapterError> {
        let mut keys = KEYS_OF_NOTHING.into_iter();
        let Some(key) = keys.find(|known| *known == key) else {
            return Ok(());
        };
        match data.iter::<f32>().find(|value| *value != 0.0) {
            None => Ok(()),
            Some(value) => Err(AdapterError::Setting {
                method: FORM.method,
                key,
                expected: "zeros, which stand for nothing",
                found: value.to_string(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::module::Param;
    use burn::tensor::{Device, Tensor, TensorData, Tolerance};
    use hybrid_models::{Linear, SiteKind, SiteTable};

    use super::{Glora, Support};
    use crate::method::Pass;
    use crate::site_method::SiteMethod;

    #[test]
    fn weight_and_bias_are_scaled_and_shifted() {
        let device = Device::flex();
        let mut sites = SiteTable::default();
        let kind = SiteKind::Linear {
            d_in: 2,
            d_out: 2,
            bias: true,
        };
        let base = Linear {
            site: sites.add("dense", Some(0), false, kind),
            weight: Tensor::<2>::from_data([[1.0, 2.0], [3.0, 4.0]], &device).into(),
            bias: Some(Tensor::from_data([1.0, -1.0], &device)),
        };
        let matrix = |values: &[f32], shape: [usize; 2]| {
            Some(Param::from_data(
                TensorData::new(values.to_vec(), shape),
                &device,
            ))
        };
        let vector = |values: &[f32]| {
            let data = TensorData::new(values.to_vec(), [values.len()]);
            Some(Param::from_data(data, &device))
        };
        let glora = Glora {
            // Outputs first: [[2, 0], [4, 0]].
            glora_a: Support {
                xd: matrix(&[1.0, 2.0], [2, 1]),
                xu: matrix(&[2.0, 0.0], [1, 2]),
                column: None,
                constant: None,
            },
            glora_b: Support {
                xd: None,
                xu: None,
                column: matrix(&[1.0, -1.0], [2, 1]),
                constant: None,
            },
            glora_c: Support {
                xd: None,
                xu: None,
                column: matrix(&[1.0, 2.0], [2, 1]),
                constant: None,
            },
            glora_d: vector(&[2.0]),
            glora_e: vector(&[0.5, 0.25]),
            d_in: 2,
            d_out: 2,
        };
        let rows = Tensor::<2>::from_data([[1.0, 1.0]], &device);
        let found = glora.act(&base, rows, Pass::Inference).into_data();
        // Of the weight (2, 8) + (0, 0), (1, -1) from each input; of the bias twice itself, the
        // shift, and the image of (1, 2): (7, 10).
        let expected =
            TensorData::from([[2.0 + 2.0 + 2.0 + 0.5 + 7.0, 8.0 - 2.0 - 2.0 + 0.25 + 10.0]]);
        found.assert_approx_eq::<f32>(&expected, Tolerance::absolute(1e-5));
        let merged = glora.merge(base);
        let weight = TensorData::from([[1.0 + 2.0 + 1.0, 2.0 + 8.0 - 1.0], [3.0 + 1.0, 4.0 - 1.0]]);
        let found = merged.weight.dense().into_data();
        found.assert_approx_eq::<f32>(&weight, Tolerance::absolute(1e-5));
        let bias = TensorData::from([1.0 + 2.0 + 0.5 + 7.0, -1.0 - 2.0 + 0.25 + 10.0]);
        let found = merged.bias.unwrap().into_data();
        found.assert_approx_eq::<f32>(&bias, Tolerance::absolute(1e-5));
    }
}

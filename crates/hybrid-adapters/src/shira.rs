//! SHiRA: a few values of the weight are trained, at random places (Bhardwaj et al. 2024, section 3).
//!
//! `y = f(x) + S x`, where `S: [d_out, d_in]` is zero but at `r (d_in + d_out)` places, as many as LoRA of rank
//! `r` has values. The places are drawn as PEFT draws them and stored with the adapter. `S` is formed in
//! each forward, as in PEFT: its gradient is that of the weight at its places.

use burn::module::{Module, Param};
use burn::tensor::{IndexingUpdateOp, Int, Tensor, TensorData};
use hybrid_models::Linear;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::AdapterError;
use crate::method::Pass;
use crate::site_method::{ANY_START, Act, KeptTensor, Owner, PeftForm, SiteMethod, site_settings};
use crate::site_place::Place;
use crate::torch_random::TorchRandom;

pub(crate) const FORM: PeftForm = PeftForm {
    method: "shira",
    peft_type: "SHIRA",
    keys: &["r", "mask_type", "random_seed", "target_modules"],
    neutral: &[ANY_START],
    only: &[],
    fan_in_fan_out: true,
};

site_settings! {
    /// SHiRA's settings, with PEFT's names and meanings.
    ShiraConfig as FORM {
        /// Rank of the LoRA that has as many values.
        #[schemars(range(min = 1))]
        r: usize = 32,
        /// How the places are chosen.
        mask_type: ShiraMask = ShiraMask::Random,
        /// Seed of the places; PyTorch's own when left out.
        #[serde(skip_serializing_if = "Option::is_none")]
        random_seed: Option<u64> = None,
    }
}

/// How SHiRA's places are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ShiraMask {
    /// Each as likely.
    Random,
}

/// The values of one site.
#[derive(Module, Debug)]
pub(crate) struct Shira {
    /// `[r (d_in + d_out)]`.
    shira_weight: Param<Tensor<1>>,
    /// Rows and columns of the values in `S`, `[2, r (d_in + d_out)]`.
    #[module(skip)]
    indices: TensorData,
    /// The same as places in `S` transposed, row by row.
    #[module(skip)]
    places: Tensor<1, Int>,
    #[module(skip)]
    d_in: usize,
    #[module(skip)]
    d_out: usize,
}

const KEY_INDICES: &str = "shira_indices";

impl SiteMethod for Shira {
    type Config = ShiraConfig;

    const FORM: &'static PeftForm = &FORM;

    const ACT: Act = Act::Beside;

    /// All zero, so the adapted base starts as the base.
    fn init(config: &ShiraConfig, place: &Place<'_>, _made: &[Self]) -> Result<Self, AdapterError> {
        let (d_in, d_out) = (place.d_in, place.d_out);
        let size = d_in * d_out;
        let r = place.rank(config.r, size / (d_in + d_out))?;
        let n = r * (d_in + d_out);
        let seed = config.random_seed.unwrap_or(TorchRandom::DEFAULT_SEED);
        let mut chosen = TorchRandom::new(seed).permutation(size, n);
        chosen.sort_unstable();
        let rows = chosen.iter().map(|place| (place / d_in) as i32);
        let columns = chosen.iter().map(|place| (place % d_in) as i32);
        let indices = TensorData::new(rows.chain(columns).collect::<Vec<i32>>(), [2, n]);
        Ok(Self {
            shira_weight: place.filled([n], 0.0),
            places: Tensor::from_data(places(&indices, d_out), &place.device()),
            indices,
            d_in,
            d_out,
        })
    }

    fn act(&self, _base: &Linear, rows: Tensor<2>, _pass: Pass) -> Tensor<2> {
        let values = self.shira_weight.val();
        let none = Tensor::<1>::zeros(
            [self.d_in * self.d_out],
            &values.device().without_autodiff(),
        );
        let all = none.select_assign(0, self.places.clone(), values, IndexingUpdateOp::Add);
        rows.matmul(all.reshape([self.d_in, self.d_out]))
    }

    fn kept(&self) -> Vec<KeptTensor> {
        vec![KeptTensor {
            key: KEY_INDICES,
            data: self.indices.clone(),
            owner: Owner::Site,
        }]
    }

    fn keep(&mut self, key: &str, data: &TensorData) -> Result<(), AdapterError> {
        if key != KEY_INDICES {
            return Ok(());
        }
        let indices = data.clone().convert::<i32>();
        let values: Vec<i64> = indices.iter::<i64>().collect();
        let (rows, columns) = values.split_at(values.len() / 2);
        for (values, size) in [(rows, self.d_out), (columns, self.d_in)] {
            let within = 0..size as i64;
            if let Some(value) = values.iter().find(|value| !within.contains(value)) {
                return Err(AdapterError::Setting {
                    method: FORM.method,
                    key: KEY_INDICES,
                    expected: "rows and columns of the layer's weight",
                    found: format!("{value} for {size} of them"),
                });
            }
        }
        let device = self.places.device();
        self.places = Tensor::from_data(places(&indices, self.d_out), &device);
        self.indices = indices;
        Ok(())
    }
}

/// Places in a matrix with rows of `d_out` values that has these columns and rows.
fn places(indices: &TensorData, d_out: usize) -> TensorData {
    let all: Vec<i64> = indices.iter::<i64>().collect();
    let (rows, columns) = all.split_at(all.len() / 2);
    let pairs = rows.iter().zip(columns);
    let places: Vec<i64> = pairs
        .map(|(row, column)| column * d_out as i64 + row)
        .collect();
    let n = places.len();
    TensorData::new(places, [n])
}

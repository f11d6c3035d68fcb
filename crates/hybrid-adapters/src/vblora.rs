//! VB-LoRA: LoRA's factors are put together from the vectors of one bank (Li et al. 2024, equations 3
//! and 4).
//!
//! `y = f(x) + B A x`, where each part of `v` values of a row of `A` or a column of `B` is the mean of the `k`
//! vectors of the bank with the largest logits, weighted by the softmax over those. Bank and logits
//! are trained; as in PEFT both are drawn, so the adapted base starts near the base, not as the base.
//!
//! With `save_only_topk_weights` PEFT's files hold the chosen vectors and their weights alone. What is
//! read from one chooses among those for good.

use std::collections::BTreeMap;

use burn::module::{Module, Param};
use burn::tensor::activation::softmax;
use burn::tensor::{IndexingUpdateOp, Tensor, TensorData};
use hybrid_models::{Linear, SiteId};

use crate::AdapterError;
use crate::method::{Building, Inner, Kept, Method, Pass, PeftName};
use crate::site_map::SiteMap;
use crate::site_method::{NO_BIAS, PeftForm, SiteConfig, dropped, in_rows, site_settings};
use crate::site_place::{Place, at_places};

pub(crate) const FORM: PeftForm = PeftForm {
    method: "vblora",
    peft_type: "VBLORA",
    keys: &[
        "r",
        "num_vectors",
        "vector_length",
        "topk",
        "save_only_topk_weights",
        "vblora_dropout",
        "init_vector_bank_bound",
        "init_logits_std",
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
    /// VB-LoRA's settings, with PEFT's names and meanings.
    VbloraConfig as FORM {
        /// Rank of the update.
        #[schemars(range(min = 1))]
        r: usize = 4,
        /// Number of vectors in the bank.
        #[schemars(range(min = 1))]
        num_vectors: usize = 256,
        /// Length of a vector; it divides both sides of every layer.
        #[schemars(range(min = 1))]
        vector_length: usize = 256,
        /// Number of vectors that a part is the mean of.
        #[schemars(range(min = 1))]
        topk: usize = 2,
        /// Whether PEFT's files hold the chosen vectors alone.
        save_only_topk_weights: bool = false,
        /// Share of the input's values that are dropped while training.
        #[schemars(range(min = 0.0, max = 0.99))]
        vblora_dropout: f64 = 0.0,
        /// Largest size of a first value in the bank.
        init_vector_bank_bound: f64 = 0.02,
        /// Deviation of the first logits.
        init_logits_std: f64 = 0.1,
    }
}

/// The bank, and logits by site.
#[derive(Module, Debug)]
pub(crate) struct Vblora {
    sites: SiteMap<Logits>,
    /// `[num_vectors, vector_length]`.
    vblora_vector_bank: Param<Tensor<2>>,
    #[module(skip)]
    topk: usize,
    #[module(skip)]
    dropout: f64,
}

/// The logits of one site.
#[derive(Module, Debug)]
pub(crate) struct Logits {
    /// `[r, d_in / vector_length, num_vectors]`.
    vblora_logits_a: Param<Tensor<3>>,
    /// `[d_out / vector_length, r, num_vectors]`.
    vblora_logits_b: Param<Tensor<3>>,
}

const LOGITS_A: &str = "vblora_logits_A";
const LOGITS_B: &str = "vblora_logits_B";
const BANK: &str = "vblora_vector_bank";

impl Vblora {
    /// The bank uniform, the logits normal, as PEFT draws them.
    ///
    /// # Errors
    /// [`AdapterError::Setting`], [`AdapterError::Rank`], [`AdapterError::NoTarget`] or
    /// [`AdapterError::UnsupportedTarget`].
    pub(crate) fn init(
        config: &VbloraConfig,
        building: &Building<'_>,
    ) -> Result<Self, AdapterError> {
        let sites = at_places(config.selection(), building, |place, _| {
            Logits::init(config, place)
        })?;
        let shape = [config.num_vectors, config.vector_length];
        let bound = config.init_vector_bank_bound;
        let bank = building.random_part(0).uniform(shape, bound);
        Ok(Self {
            sites,
            vblora_vector_bank: Param::from_data(bank, building.device),
            topk: config.topk,
            dropout: config.vblora_dropout,
        })
    }

    /// The factors of a site, `[r, d_in]` and `[d_out, r]`.
    fn factors(&self, logits: &Logits) -> [Tensor<2>; 2] {
        let ([_, length], [r, n_in, _], [n_out, ..]) = (
            self.vblora_vector_bank.dims(),
            logits.vblora_logits_a.dims(),
            logits.vblora_logits_b.dims(),
        );
        let a = self.means(logits.vblora_logits_a.val());
        let b = self.means(logits.vblora_logits_b.val());
        let b = b.reshape([n_out, r, length]).swap_dims(1, 2);
        [
            a.reshape([r, n_in * length]),
            b.reshape([n_out * length, r]),
        ]
    }

    /// Weighted means of the chosen vectors, `[parts, vector_length]` for logits of that many parts.
    fn means(&self, logits: Tensor<3>) -> Tensor<2> {
        let [first, second, n] = logits.dims();
        let logits = logits.reshape([first * second, n]);
        let plain = logits.clone().without_autodiff();
        let (_, chosen) = plain.clone().topk_with_indices(self.topk, 1);
        let ones = Tensor::ones(chosen.dims(), &plain.device());
        let chosen = plain
            .zeros_like()
            .scatter(1, chosen, ones, IndexingUpdateOp::Add);
        let others = chosen.equal_elem(0.0);
        let weights = softmax(logits.mask_fill(others, f32::MIN), 1);
        weights.matmul(self.vblora_vector_bank.val())
    }

    fn side(&self, logits: &Logits, base: &Linear, rows: Tensor<2>, pass: Pass) -> Tensor<2> {
        let [a, b] = self.factors(logits);
        let rows = dropped(rows, self.dropout, base, pass);
        rows.matmul(a.transpose()).matmul(b.transpose())
    }
}

impl Logits {
    fn init(config: &VbloraConfig, place: &Place<'_>) -> Result<Self, AdapterError> {
        let (d_in, d_out, n) = (place.d_in, place.d_out, config.num_vectors);
        let length = place.divisor("vector_length", config.vector_length, &[d_in, d_out])?;
        let r = place.rank(config.r, d_in.min(d_out))?;
        if !(1..=n).contains(&config.topk) {
            let expected = "from 1 to num_vectors";
            return Err(place.wrong("topk", expected, config.topk));
        }
        place.share("vblora_dropout", config.vblora_dropout)?;
        place.finite("init_vector_bank_bound", config.init_vector_bank_bound)?;
        let deviation = place.finite("init_logits_std", config.init_logits_std)?;
        let mut random = place.random();
        Ok(Self {
            vblora_logits_a: place.param(random.normal([r, d_in / length, n], deviation)),
            vblora_logits_b: place.param(random.normal([d_out / length, r, n], deviation)),
        })
    }
}

impl Method for Vblora {
    fn name(&self) -> &'static str {
        FORM.method
    }

    fn sites(&self) -> Vec<SiteId> {
        self.sites.sites().collect()
    }

    fn wraps(&self) -> Vec<SiteId> {
        self.sites()
    }

    fn linear(&self, base: &Linear, x: Tensor<3>, pass: Pass, inner: Inner<'_>) -> Tensor<3> {
        match self.sites.get(base.site) {
            Some(logits) => {
                inner(x.clone()) + in_rows(x, |rows| self.side(logits, base, rows, pass))
            }
            None => inner(x),
        }
    }

    fn merge_linear(&self, inner: Linear) -> Result<Linear, AdapterError> {
        let Some(logits) = self.sites.get(inner.site) else {
            return Ok(inner);
        };
        let [a, b] = self.factors(logits);
        Ok(Linear {
            weight: (inner.weight.dense() + a.transpose().matmul(b.transpose())).into(),
            ..inner
        })
    }

    /// In the model PEFT's first layer has the bank.
    fn peft_name(&self, name: &str) -> Option<PeftName> {
        if name == BANK {
            let (first, _) = self.sites.iter().next()?;
            return Some(PeftName {
                key: format!("{first}.{BANK}"),
                stored: Kept::of_all_sites(BANK),
            });
        }
        let (path, field) = name.strip_prefix("sites.")?.rsplit_once('.')?;
        let tensor = match field {
            "vblora_logits_a" => LOGITS_A,
            _ => LOGITS_B,
        };
        let key = format!("{path}.{tensor}");
        let stored = key.clone();
        Some(PeftName { key, stored })
    }
}

const INDICES: &str = "_topk_indices";
const WEIGHTS: &str = "_topk_weights";

/// Puts the chosen vectors and all but the last of their weights in the place of logits.
pub(crate) fn without_logits(tensors: &mut BTreeMap<String, TensorData>, topk: usize) {
    let is_logits = |key: &String| key.ends_with(LOGITS_A) || key.ends_with(LOGITS_B);
    let keys: Vec<String> = tensors
        .keys()
        .filter(|key| is_logits(key))
        .cloned()
        .collect();
    for key in keys {
        let Some(logits) = tensors.remove(&key) else {
            continue;
        };
        let [first, second, n] = [0, 1, 2].map(|dim| logits.shape()[dim]);
        let values: Vec<f32> = logits.iter::<f32>().collect();
        let (mut indices, mut weights) = (Vec::new(), Vec::new());
        for part in values.chunks(n) {
            let mut order: Vec<usize> = (0..n).collect();
            order.sort_by(|a, b| part[*b].total_cmp(&part[*a]));
            order.truncate(topk);
            let shares: Vec<f32> = order
                .iter()
                .map(|i| (part[*i] - part[order[0]]).exp())
                .collect();
            let sum: f32 = shares.iter().sum();
            weights.extend(shares[..topk - 1].iter().map(|share| share / sum));
            indices.extend(order.into_iter().map(|index| index as i32));
        }
        let indices = TensorData::new(indices, [first, second, topk]);
        // The smallest whole numbers that PEFT takes for so many vectors.
        let indices = match n {
            n if n < 1 << 8 => indices.convert::<u8>(),
            n if n < 1 << 15 => indices.convert::<i16>(),
            _ => indices,
        };
        tensors.insert(format!("{key}{INDICES}"), indices);
        let weights = TensorData::new(weights, [first, second, topk - 1]);
        tensors.insert(format!("{key}{WEIGHTS}"), weights);
    }
}

/// Puts logits in the place of chosen vectors and their weights: what is not chosen gets the lowest.
///
/// # Errors
/// [`AdapterError::Missing`], [`AdapterError::Shape`], or [`AdapterError::Setting`] for a vector that
/// the bank does not have.
pub(crate) fn with_logits(
    tensors: &mut BTreeMap<String, TensorData>,
    config: &VbloraConfig,
) -> Result<(), AdapterError> {
    let ends = |key: &&String| key.ends_with(INDICES);
    let keys: Vec<String> = tensors.keys().filter(ends).cloned().collect();
    for key in keys {
        let stem = key.trim_end_matches(INDICES);
        let name = format!("{stem}{WEIGHTS}");
        let (Some(indices), Some(weights)) = (tensors.remove(&key), tensors.remove(&name)) else {
            return Err(AdapterError::Missing { name });
        };
        let (n, topk) = (config.num_vectors, config.topk);
        let parts: Vec<usize> = indices.shape().as_slice().to_vec();
        for (name, data, last) in [(&key, &indices, topk), (&name, &weights, topk - 1)] {
            let mut expected = parts.clone();
            expected.truncate(2);
            expected.push(last);
            let found = data.shape().as_slice().to_vec();
            if found != expected {
                let name = name.clone();
                return Err(AdapterError::Shape {
                    name,
                    expected,
                    found,
                });
            }
        }
        let chosen: Vec<usize> = indices.iter::<f32>().map(|index| index as usize).collect();
        if let Some(index) = chosen.iter().find(|index| **index >= n) {
            return Err(AdapterError::Setting {
                method: FORM.method,
                key: "num_vectors",
                expected: "more than every chosen vector's index",
                found: format!("{n} beside {index} in {key}"),
            });
        }
        let weights: Vec<f32> = weights.iter::<f32>().collect();
        let mut logits = vec![f32::MIN; parts[0] * parts[1] * n];
        for (part, chosen) in chosen.chunks(topk).enumerate() {
            let given = &weights[part * (topk - 1)..(part + 1) * (topk - 1)];
            let last = 1.0 - given.iter().sum::<f32>();
            for (index, weight) in chosen.iter().zip(given.iter().chain([&last])) {
                logits[part * n + index] = weight.ln().max(f32::MIN);
            }
        }
        tensors.insert(
            stem.to_owned(),
            TensorData::new(logits, [parts[0], parts[1], n]),
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use burn::tensor::{TensorData, Tolerance};

    use super::{VbloraConfig, with_logits, without_logits};

    #[test]
    fn chosen_vectors_stand_for_their_logits() {
        let config = VbloraConfig {
            num_vectors: 4,
            ..VbloraConfig::default()
        };
        let key = "layer.vblora_logits_A".to_owned();
        let logits = TensorData::new(vec![0.5f32, 2.0, -1.0, 1.5], [1, 1, 4]);
        let mut tensors = BTreeMap::from([(key.clone(), logits)]);
        without_logits(&mut tensors, 2);
        let indices = &tensors["layer.vblora_logits_A_topk_indices"];
        assert_eq!(indices.iter::<i64>().collect::<Vec<i64>>(), [1, 3]);
        let weight = 1.0 / (1.0 + (-0.5f32).exp());
        let expected = TensorData::new(vec![weight], [1, 1, 1]);
        tensors["layer.vblora_logits_A_topk_weights"]
            .assert_approx_eq::<f32>(&expected, Tolerance::absolute(1e-6));
        with_logits(&mut tensors, &config).unwrap();
        let read: Vec<f32> = tensors[&key].iter().collect();
        assert!(
            (read[1] - read[3] - 0.5).abs() < 1e-5 && read[0] == f32::MIN,
            "{read:?}"
        );

        without_logits(&mut tensors, 2);
        let fewer = VbloraConfig {
            num_vectors: 3,
            ..config
        };
        let error = with_logits(&mut tensors, &fewer).unwrap_err().to_string();
        assert!(error.contains("num_vectors"), "{error}");
    }
}

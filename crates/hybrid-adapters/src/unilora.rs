//! UniLoRA: the values of LoRA's factors at all sites are those of one short trained vector, dealt
//! out at random (Li et al. 2025).
//!
//! `y = f(x) + B A x` with `A_ij = theta_k / sqrt(n_k)`, `k` the place in the vector that the value
//! has and `n_k` how many values of all factors have it; `B` alike. So the projection of the vector
//! is an isometry. Each place serves as many values as any other, or one more. PEFT shuffles them
//! by NumPy's generator from `proj_seed`, over all sites in the order of the model's modules; files
//! hold them with `save_indices`.

use std::collections::BTreeMap;

use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor, TensorData};
use hybrid_models::{Linear, SiteId};

use crate::AdapterError;
use crate::error::wrong_setting;
use crate::method::{Building, Inner, Kept, Method, Pass, PeftName};
use crate::module_order::in_module_order;
use crate::named_tensors;
use crate::numpy_random::NumpyRandom;
use crate::site_method::{NO_BIAS, PeftForm, SiteConfig, dropped, in_rows, site_settings};
use crate::site_place::shape;
use crate::targets::Selector;

pub(crate) const FORM: PeftForm = PeftForm {
    method: "unilora",
    peft_type: "UNILORA",
    keys: &[
        "r",
        "proj_seed",
        "theta_d_length",
        "unilora_dropout",
        "init_theta_d_bound",
        "init_weights",
        "save_indices",
        "target_modules",
        "layers_to_transform",
        "layers_pattern",
    ],
    neutral: &[],
    only: &[NO_BIAS],
    fan_in_fan_out: true,
};

site_settings! {
    /// UniLoRA's settings, with PEFT's names and meanings.
    UniloraConfig as FORM {
        /// Rank of the update.
        #[schemars(range(min = 1))]
        r: usize = 4,
        /// Seed of the places that the values of the factors have in the vector.
        proj_seed: u64 = 42,
        /// Length of the vector, which is all that is trained.
        #[schemars(range(min = 1))]
        theta_d_length: usize = 256,
        /// Share of the input's values that are dropped while training.
        #[schemars(range(min = 0.0, max = 0.99))]
        unilora_dropout: f64 = 0.0,
        /// Largest size of a first value.
        init_theta_d_bound: f64 = 0.02,
        /// Whether the first values are within that bound; else they are drawn from the standard
        /// normal distribution.
        init_weights: bool = true,
        /// Whether PEFT's files hold the places; else they are drawn again.
        save_indices: bool = false,
    }
}

/// The vector, and where the values of each site's factors stand in it.
#[derive(Module, Debug)]
pub(crate) struct Unilora {
    /// `theta`, `[theta_d_length]`.
    unilora_theta_d: Param<Tensor<1>>,
    #[module(skip)]
    sites: BTreeMap<SiteId, Dealt>,
    /// Path of the site that PyTorch lists first.
    #[module(skip)]
    first: String,
    #[module(skip)]
    dropout: f64,
    /// Whether files hold the places.
    #[module(skip)]
    stored: bool,
}

/// Places and scales of the values of one site's factors.
#[derive(Debug, Clone)]
struct Dealt {
    path: String,
    /// Of `A`, `[r, d_in]`.
    a: Factor,
    /// Of `B`, `[d_out, r]`.
    b: Factor,
}

#[derive(Debug, Clone)]
struct Factor {
    indices: Tensor<1, Int>,
    scales: Tensor<2>,
}

const THETA: &str = "unilora_theta_d";
const INDICES: &str = "unilora_indices_";
const SCALES: &str = "unilora_scales_";

impl UniloraConfig {
    /// # Errors
    /// [`AdapterError::Setting`].
    fn check(&self) -> Result<(), AdapterError> {
        let wrong = wrong_setting(FORM.method);
        let bound = self.init_theta_d_bound;
        for (key, value) in [("r", self.r), ("theta_d_length", self.theta_d_length)] {
            if !(1..=u32::MAX as usize).contains(&value) {
                return wrong(key, "1 or more, below 2³²", value.to_string());
            }
        }
        if !(0.0..1.0).contains(&self.unilora_dropout) {
            let found = self.unilora_dropout.to_string();
            return wrong("unilora_dropout", "a share from 0 to below 1", found);
        }
        if !bound.is_finite() || bound <= 0.0 {
            return wrong(
                "init_theta_d_bound",
                "a finite number above 0",
                bound.to_string(),
            );
        }
        Ok(())
    }

    /// For each value of all factors, one after the other, its place in the vector.
    fn places(&self, n: usize) -> Vec<u32> {
        let length = self.theta_d_length;
        let mut random = NumpyRandom::new(self.proj_seed);
        let even = (0..length as u32).flat_map(|place| std::iter::repeat_n(place, n / length));
        let mut places: Vec<u32> = even.collect();
        if !n.is_multiple_of(length) {
            places.extend(random.choice(length as u32, (n % length) as u32));
        }
        random.shuffle(&mut places);
        places
    }
}

impl Unilora {
    /// The vector uniform within the bound, so the adapted base starts near the base, not as the
    /// base.
    ///
    /// # Errors
    /// [`AdapterError::Setting`], [`AdapterError::NoTarget`], [`AdapterError::UnsupportedTarget`]
    /// or [`AdapterError::Pattern`].
    pub(crate) fn init(
        config: &UniloraConfig,
        building: &Building<'_>,
    ) -> Result<Self, AdapterError> {
        config.check()?;
        let sites = building.linear_sites(FORM.method, &Selector::new(config.selection())?)?;
        let sites = in_module_order(building.base.model_type(), sites);
        let sizes = sites.iter().map(|site| shape(site).iter().sum::<usize>());
        let places = config.places(config.r * sizes.sum::<usize>());
        let mut counts = vec![0u32; config.theta_d_length];
        places.iter().for_each(|place| counts[*place as usize] += 1);
        let device = building.device.clone().without_autodiff();
        let mut left = places.as_slice();
        let mut factor = |shape: [usize; 2]| {
            let (own, rest) = left.split_at(shape[0] * shape[1]);
            left = rest;
            let scale = |place: &u32| 1.0 / (counts[*place as usize] as f32).sqrt();
            let scales: Vec<f32> = own.iter().map(scale).collect();
            let indices: Vec<i32> = own.iter().map(|place| *place as i32).collect();
            Factor {
                indices: Tensor::from_data(TensorData::new(indices, [own.len()]), &device),
                scales: Tensor::from_data(TensorData::new(scales, shape), &device),
            }
        };
        let dealt = sites.iter().map(|site| {
            let [d_in, d_out] = shape(site);
            let dealt = Dealt {
                path: site.path.clone(),
                a: factor([config.r, d_in]),
                b: factor([d_out, config.r]),
            };
            (site.id, dealt)
        });
        let dealt: BTreeMap<SiteId, Dealt> = dealt.collect();
        let (mut random, length) = (building.random_part(0), [config.theta_d_length]);
        let theta = match config.init_weights {
            true => random.uniform(length, config.init_theta_d_bound),
            false => random.normal(length, 1.0),
        };
        Ok(Self {
            unilora_theta_d: Param::from_data(theta, building.device),
            first: sites
                .first()
                .map_or(String::new(), |site| site.path.clone()),
            sites: dealt,
            dropout: config.unilora_dropout,
            stored: config.save_indices,
        })
    }

    /// The factors of a site, `[r, d_in]` and `[d_out, r]`.
    fn factors(&self, dealt: &Dealt) -> [Tensor<2>; 2] {
        let theta = self.unilora_theta_d.val();
        [&dealt.a, &dealt.b].map(|factor| {
            let values = theta.clone().select(0, factor.indices.clone());
            values.reshape(factor.scales.dims()) * factor.scales.clone()
        })
    }

    fn side(&self, dealt: &Dealt, base: &Linear, rows: Tensor<2>, pass: Pass) -> Tensor<2> {
        let [a, b] = self.factors(dealt);
        let rows = dropped(rows, self.dropout, base, pass);
        rows.matmul(a.transpose()).matmul(b.transpose())
    }
}

impl Method for Unilora {
    fn name(&self) -> &'static str {
        FORM.method
    }

    fn sites(&self) -> Vec<SiteId> {
        self.sites.keys().copied().collect()
    }

    fn wraps(&self) -> Vec<SiteId> {
        self.sites()
    }

    fn linear(&self, base: &Linear, x: Tensor<3>, pass: Pass, inner: Inner<'_>) -> Tensor<3> {
        match self.sites.get(&base.site) {
            Some(dealt) => inner(x.clone()) + in_rows(x, |rows| self.side(dealt, base, rows, pass)),
            None => inner(x),
        }
    }

    fn merge_linear(&self, inner: Linear) -> Result<Linear, AdapterError> {
        let Some(dealt) = self.sites.get(&inner.site) else {
            return Ok(inner);
        };
        let [a, b] = self.factors(dealt);
        Ok(Linear {
            weight: (inner.weight.dense() + a.transpose().matmul(b.transpose())).into(),
            ..inner
        })
    }

    /// In the model PEFT's first layer has the vector.
    fn peft_name(&self, name: &str) -> Option<PeftName> {
        (name == THETA).then(|| PeftName {
            key: format!("{}.{THETA}", self.first),
            stored: Kept::of_all_sites(THETA),
        })
    }

    fn kept(&self) -> Vec<Kept> {
        let sites = self.sites.values().filter(|_| self.stored);
        let of_site = |dealt: &Dealt| {
            [("A", &dealt.a), ("B", &dealt.b)].map(|(name, factor)| {
                let indices: Vec<i64> = factor.indices.to_data().iter::<i64>().collect();
                let indices = TensorData::new(indices, factor.scales.dims());
                let scales = named_tensors::read(factor.scales.clone());
                let key = |tensor: &str| format!("{}.{tensor}{name}", dealt.path);
                [
                    Kept::needed(key(INDICES), indices),
                    Kept::needed(key(SCALES), scales),
                ]
            })
        };
        sites.flat_map(of_site).flatten().collect()
    }

    fn keep(&mut self, stored: &str, data: &TensorData) -> Result<(), AdapterError> {
        let [length] = self.unilora_theta_d.dims();
        for dealt in self.sites.values_mut() {
            let tensor = stored.strip_prefix(&dealt.path);
            let Some(tensor) = tensor.and_then(|rest| rest.strip_prefix('.')) else {
                continue;
            };
            let factor = match tensor.ends_with('A') {
                true => &mut dealt.a,
                false => &mut dealt.b,
            };
            let device = factor.scales.device();
            if tensor.starts_with(SCALES) {
                factor.scales = Tensor::from_data(data.clone(), &device);
                continue;
            }
            let indices: Vec<i32> = data.clone().convert::<i32>().iter::<i32>().collect();
            let within = 0..length as i64;
            if let Some(index) = indices
                .iter()
                .find(|index| !within.contains(&i64::from(**index)))
            {
                return Err(AdapterError::Setting {
                    method: FORM.method,
                    key: "theta_d_length",
                    expected: "more than every index of a file",
                    found: format!("{length} beside {index} in {stored}"),
                });
            }
            let indices = TensorData::new(indices, [factor.indices.dims()[0]]);
            factor.indices = Tensor::from_data(indices, &device);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::UniloraConfig;

    #[test]
    fn places_of_a_vector_serve_alike() {
        let config = UniloraConfig {
            theta_d_length: 12,
            ..UniloraConfig::default()
        };
        for n in [5, 24, 41] {
            let places = config.places(n);
            assert_eq!(places.len(), n);
            let count = |place: &u32| places.iter().filter(|other| *other == place).count();
            let few = n / 12;
            assert!((0..12).all(|place| (few..=few + 1).contains(&count(&place))));
            assert_ne!(
                places,
                UniloraConfig {
                    proj_seed: 7,
                    ..config.clone()
                }
                .places(n)
            );
        }
    }
}

//! TinyLoRA: between the leading singular vectors of the weight, a matrix that a very short trained
//! vector mixes out of random ones (Morris et al. 2026).
//!
//! `y = f(x) + B R A x` with `R = sum_i v_i P_i`. `A: [r, d_in]` and `B: [d_out, r]` are the
//! singular vectors of the `r` largest singular values, each with their root; the `P_i: [r, r]` are
//! drawn as PEFT draws them, from `projection_seed` plus the place of the site among the model's
//! modules. With `weight_tying` groups of neighbouring sites share one `v`. Singular vectors are
//! only as definite as the values are different, so files hold `A` and `B`.

use std::collections::BTreeMap;

use burn::module::{Module, Param};
use burn::tensor::{Tensor, TensorData};
use hybrid_models::{Layer, Linear, Site, SiteId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::AdapterError;
use crate::decomposition::{Matrix, leading_right};
use crate::error::wrong_setting;
use crate::method::{Building, Inner, Kept, Method, Pass, PeftName};
use crate::module_order::in_module_order;
use crate::named_tensors;
use crate::site_method::{NO_BIAS, PeftForm, SiteConfig, dropped, in_rows, site_settings};
use crate::targets::Selector;
use crate::torch_random::TorchRandom;

pub(crate) const FORM: PeftForm = PeftForm {
    method: "tinylora",
    peft_type: "TINYLORA",
    keys: &[
        "r",
        "u",
        "weight_tying",
        "projection_seed",
        "save_projection",
        "init_v_bound",
        "init_weights",
        "tinylora_dropout",
        "target_modules",
        "layers_to_transform",
        "layers_pattern",
    ],
    neutral: &[],
    only: &[NO_BIAS],
    fan_in_fan_out: true,
};

site_settings! {
    /// TinyLoRA's settings, with PEFT's names and meanings.
    TinyloraConfig as FORM {
        /// Number of singular vectors; at most as many as a layer has are used.
        #[schemars(range(min = 1))]
        r: usize = 2,
        /// Length of a trained vector.
        #[schemars(range(min = 1))]
        u: usize = 64,
        /// How many layers share a vector, from 0, each has its own, to 1, all share one.
        #[schemars(range(min = 0.0, max = 1.0))]
        weight_tying: f64 = 0.0,
        /// Seed of the random matrices.
        projection_seed: u64 = 42,
        /// Whether PEFT's files hold the random matrices; else they are drawn again.
        save_projection: bool = true,
        /// Largest size of a first value that is not zero.
        init_v_bound: f64 = 0.02,
        /// How the vectors start.
        init_weights: TinyloraInit = TinyloraInit::Zero(true),
        /// Share of the input's values that are dropped while training.
        #[schemars(range(min = 0.0, max = 0.99))]
        tinylora_dropout: f64 = 0.0,
    }
}

/// How the vectors of TinyLoRA start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum TinyloraInit {
    /// `true`: at zero, so that the adapted base starts as the base; `false`: as `uniform`, where
    /// PEFT leaves what memory held.
    Zero(bool),
    /// Anywhere.
    Drawn(TinyloraDistribution),
}

/// What the vectors of TinyLoRA are drawn from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TinyloraDistribution {
    /// All values within `init_v_bound` as likely.
    Uniform,
}

/// The vectors, and what stands around them at each site.
#[derive(Module, Debug)]
pub(crate) struct Tinylora {
    /// `v` of each group, `[u]`.
    tinylora_v: Vec<Param<Tensor<1>>>,
    #[module(skip)]
    sites: BTreeMap<SiteId, Projected>,
    /// Path of the site that PyTorch lists first.
    #[module(skip)]
    first: String,
    #[module(skip)]
    dropout: f64,
    /// Whether files hold the random matrices.
    #[module(skip)]
    stored: bool,
}

/// The frozen tensors of one site.
#[derive(Debug, Clone)]
struct Projected {
    path: String,
    /// The vector that is the site's.
    group: usize,
    /// `A`, `[r, d_in]`.
    a: Tensor<2>,
    /// `B`, `[d_out, r]`.
    b: Tensor<2>,
    /// `P`, `[u, r, r]`.
    p: Tensor<3>,
}

const VECTORS: &str = "tinylora_v";
const A: &str = "tinylora_A";
const B: &str = "tinylora_B";
const P: &str = "tinylora_P";

impl TinyloraConfig {
    /// # Errors
    /// [`AdapterError::Setting`].
    fn check(&self) -> Result<(), AdapterError> {
        let wrong = wrong_setting(FORM.method);
        for (key, value) in [("r", self.r), ("u", self.u)] {
            if value == 0 {
                return wrong(key, "1 or more", value.to_string());
            }
        }
        if !(0.0..=1.0).contains(&self.weight_tying) {
            let found = self.weight_tying.to_string();
            return wrong("weight_tying", "a number from 0 to 1", found);
        }
        if !(0.0..1.0).contains(&self.tinylora_dropout) {
            let found = self.tinylora_dropout.to_string();
            return wrong("tinylora_dropout", "a share from 0 to below 1", found);
        }
        match self.init_v_bound.is_finite() {
            true => Ok(()),
            false => wrong(
                "init_v_bound",
                "a finite number",
                self.init_v_bound.to_string(),
            ),
        }
    }

    /// Whether the vectors start at zero.
    pub(crate) fn starts_at_zero(&self) -> bool {
        self.init_weights == TinyloraInit::Zero(true)
    }

    /// The group of each of `n` sites in module order.
    fn groups(&self, n: usize) -> impl Iterator<Item = usize> {
        // Python rounds halves to even numbers.
        let wanted = (n as f64 * (1.0 - self.weight_tying)).round_ties_even();
        let n_groups = (wanted as usize).max(1);
        let size = (n / n_groups).max(1);
        (0..n).map(move |place| (place / size).min(n_groups - 1))
    }

    /// What stands around the vector at the site with this place among the model's modules.
    fn projected(
        &self,
        site: &Site,
        place: usize,
        group: usize,
        building: &Building<'_>,
    ) -> Projected {
        let Some(Layer::Linear(linear)) = building.base.layer_at(site.id) else {
            unreachable!("only linear sites are selected")
        };
        let weight = Matrix::of(linear.weight.dense());
        let r = self.r.min(weight.rows).min(weight.columns);
        // Of the transposed weight: the right vectors are the outputs'.
        let (values, right) = leading_right(&weight, r);
        let left = right.times_transposed(&weight);
        let (roots, inverses): (Vec<f64>, Vec<f64>) = values
            .iter()
            .map(|value| value.sqrt())
            .map(|root| (root, if root > 0.0 { 1.0 / root } else { 0.0 }))
            .unzip();
        let device = building.device.clone().without_autodiff();
        let scaled = |matrix: &Matrix, factors: &[f64]| -> Tensor<2> {
            let rows = (0..r).flat_map(|row| {
                let factor = factors[row];
                matrix
                    .row(row)
                    .iter()
                    .map(move |value| (value * factor) as f32)
            });
            let data = TensorData::new(rows.collect::<Vec<f32>>(), [r, matrix.columns]);
            Tensor::from_data(data, &device)
        };
        let mut random = TorchRandom::new(self.projection_seed.wrapping_add(place as u64));
        let p = random.normal([self.u, r, r], 1.0 / (r as f64).sqrt());
        Projected {
            path: site.path.clone(),
            group,
            a: scaled(&left, &inverses),
            b: scaled(&right, &roots).transpose(),
            p: Tensor::from_data(p, &device),
        }
    }
}

impl Tinylora {
    /// # Errors
    /// [`AdapterError::Setting`], [`AdapterError::NoTarget`], [`AdapterError::UnsupportedTarget`]
    /// or [`AdapterError::Pattern`].
    pub(crate) fn init(
        config: &TinyloraConfig,
        building: &Building<'_>,
    ) -> Result<Self, AdapterError> {
        config.check()?;
        let sites = building.linear_sites(FORM.method, &Selector::new(config.selection())?)?;
        let sites = in_module_order(building.base.model_type(), sites);
        let groups: Vec<usize> = config.groups(sites.len()).collect();
        let projected = sites.iter().zip(&groups).enumerate();
        let projected = projected.map(|(place, (site, group))| {
            (site.id, config.projected(site, place, *group, building))
        });
        let projected: BTreeMap<SiteId, Projected> = projected.collect();
        let n_groups = groups.last().map_or(0, |last| last + 1);
        let vectors = (0..n_groups as u32).map(|group| {
            let values = match config.starts_at_zero() {
                true => TensorData::new(vec![0.0f32; config.u], [config.u]),
                false => building
                    .random_part(group)
                    .uniform([config.u], config.init_v_bound),
            };
            Param::from_data(values, building.device)
        });
        Ok(Self {
            tinylora_v: vectors.collect(),
            sites: projected,
            first: sites
                .first()
                .map_or(String::new(), |site| site.path.clone()),
            dropout: config.tinylora_dropout,
            stored: config.save_projection,
        })
    }

    /// `R`, `[r, r]`.
    fn mixed(&self, site: &Projected) -> Tensor<2> {
        let v = self.tinylora_v[site.group].val();
        let [u, r, _] = site.p.dims();
        let mixed = v.reshape([1, u]).matmul(site.p.clone().reshape([u, r * r]));
        mixed.reshape([r, r])
    }

    fn side(&self, site: &Projected, rows: Tensor<2>) -> Tensor<2> {
        let narrow = rows.matmul(site.a.clone().transpose());
        let narrow = narrow.matmul(self.mixed(site).transpose());
        narrow.matmul(site.b.clone().transpose())
    }
}

impl Method for Tinylora {
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
        let Some(site) = self.sites.get(&base.site) else {
            return inner(x);
        };
        let side = |rows| self.side(site, dropped(rows, self.dropout, base, pass));
        inner(x.clone()) + in_rows(x, side)
    }

    fn merge_linear(&self, inner: Linear) -> Result<Linear, AdapterError> {
        let Some(site) = self.sites.get(&inner.site) else {
            return Ok(inner);
        };
        let weight = inner.weight.dense();
        let [d_in, _] = weight.dims();
        let whole = Tensor::<2>::eye(d_in, &weight.device());
        Ok(Linear {
            weight: (weight + self.side(site, whole)).into(),
            ..inner
        })
    }

    /// In the model PEFT's first layer has all vectors.
    fn peft_name(&self, name: &str) -> Option<PeftName> {
        name.starts_with(VECTORS).then(|| PeftName {
            key: format!("{}.{name}", self.first),
            stored: Kept::of_all_sites(name),
        })
    }

    fn kept(&self) -> Vec<Kept> {
        let of_site = |site: &Projected| {
            let key = |tensor: &str| format!("{}.{tensor}", site.path);
            let mut kept = vec![
                Kept::needed(key(A), named_tensors::read(site.a.clone())),
                Kept::needed(key(B), named_tensors::read(site.b.clone())),
            ];
            if self.stored {
                let p = named_tensors::read(site.p.clone());
                kept.push(Kept::needed(key(P), p));
            }
            kept
        };
        self.sites.values().flat_map(of_site).collect()
    }

    fn keep(&mut self, stored: &str, data: &TensorData) -> Result<(), AdapterError> {
        for site in self.sites.values_mut() {
            let tensor = stored.strip_prefix(&site.path);
            let device = site.a.device();
            match tensor.and_then(|rest| rest.strip_prefix('.')) {
                Some(A) => site.a = Tensor::from_data(data.clone(), &device),
                Some(B) => site.b = Tensor::from_data(data.clone(), &device),
                Some(P) => site.p = Tensor::from_data(data.clone(), &device),
                _ => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::TinyloraConfig;

    /// As PEFT has it: halves are rounded to even, and what is left over joins the last group.
    #[test]
    fn neighbours_share_a_vector() {
        let groups = |weight_tying: f64, n: usize| {
            let config = TinyloraConfig {
                weight_tying,
                ..TinyloraConfig::default()
            };
            config.groups(n).collect::<Vec<usize>>()
        };
        assert_eq!(groups(0.0, 4), [0, 1, 2, 3]);
        assert_eq!(groups(1.0, 4), [0, 0, 0, 0]);
        assert_eq!(groups(0.5, 5), [0, 0, 1, 1, 1]);
        assert_eq!(groups(0.5, 7), [0, 1, 2, 3, 3, 3, 3]);
        assert_eq!(groups(0.7, 3), [0, 0, 0]);
    }
}

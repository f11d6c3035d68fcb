//! Compacter: bottleneck adapters whose weights are sums of Kronecker products (Karimi Mahabadi et
//! al. 2021, section 3).
//!
//! `W = sum over i of A_i ⊗ (s_i t_i)` with `n` small matrices `A_i: [n, n]` that all adapters share
//! and factors of low rank of each adapter's own, `s_i: [d_in / n, rank]` and `t_i: [rank, d_out / n]`.
//! The adapter is `h + f(h W_down + b_down) W_up + b_up` at the places of a bottleneck adapter. The
//! `t_i` of `W_up` and `b_up` are zero at the start, so the adapted base starts as the base.

use burn::module::{Module, Param};
use burn::tensor::{Tensor, TensorData, module};
use hybrid_models::{Site, SiteId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::AdapterError;
use crate::bottleneck::{Activation, Placement, width};
use crate::error::wrong_setting;
use crate::method::{Building, Method, PeftName};
use crate::random::HostRandom;
use crate::site_map::SiteMap;
use crate::site_method::in_rows;
use crate::targets::Targets;

/// Size, structure and places of the adapters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CompacterConfig {
    /// Features between the two layers: a multiple of `phm_dim`.
    #[schemars(range(min = 1))]
    pub bottleneck_size: usize,
    /// Number of Kronecker products in a weight, and size of the matrices that are shared: a divisor
    /// of the base's `d_model`.
    #[schemars(range(min = 1))]
    pub phm_dim: usize,
    /// Rank of the factors.
    #[schemars(range(min = 1))]
    pub phm_rank: usize,
    /// Where adapters stand.
    pub placement: Placement,
    /// The function in between.
    pub activation: Activation,
    /// Sub-layers that are left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exclude_modules: Option<Targets>,
    /// Transformer layers to act on; all when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers_to_transform: Option<Vec<usize>>,
}

impl Default for CompacterConfig {
    fn default() -> Self {
        Self {
            bottleneck_size: 24,
            phm_dim: 4,
            phm_rank: 1,
            placement: Placement::Houlsby,
            activation: Activation::Gelu,
            exclude_modules: None,
            layers_to_transform: None,
        }
    }
}

/// One adapter's own tensors.
#[derive(Module, Debug)]
pub(crate) struct PhmPair {
    /// `[n, d_model / n, rank]`.
    down_left: Param<Tensor<3>>,
    /// `[n, rank, bottleneck / n]`.
    down_right: Param<Tensor<3>>,
    /// `[bottleneck]`.
    down_bias: Param<Tensor<1>>,
    /// `[n, bottleneck / n, rank]`.
    up_left: Param<Tensor<3>>,
    /// `[n, rank, d_model / n]`.
    up_right: Param<Tensor<3>>,
    /// `[d_model]`.
    up_bias: Param<Tensor<1>>,
}

/// Adapters by block site, with what they share.
#[derive(Module, Debug)]
pub(crate) struct Compacter {
    /// `[n, n, n]`: one matrix after the other.
    phm_rule: Param<Tensor<3>>,
    pairs: SiteMap<PhmPair>,
    #[module(skip)]
    activation: Activation,
    #[module(skip)]
    parallel: bool,
}

const METHOD: &str = "compacter";

impl Compacter {
    /// Shared matrices normal with variance `1 / n`, factors so that the values of `W_down` have
    /// deviation 0.02, as those of a bottleneck adapter.
    ///
    /// # Errors
    /// [`AdapterError::Setting`], [`AdapterError::NoTarget`] or [`AdapterError::Pattern`].
    pub(crate) fn init(
        config: &CompacterConfig,
        building: &Building<'_>,
    ) -> Result<Self, AdapterError> {
        let wrong = wrong_setting(METHOD);
        let (size, n) = (config.bottleneck_size, config.phm_dim);
        if n == 0 {
            return wrong("phm_dim", "1 or more", "0".to_owned());
        }
        if config.phm_rank == 0 {
            return wrong("phm_rank", "1 or more", "0".to_owned());
        }
        if size == 0 || !size.is_multiple_of(n) {
            let found = format!("{size} with phm_dim = {n}");
            return wrong("bottleneck_size", "a multiple of phm_dim", found);
        }
        let sites = config.placement.blocks(
            METHOD,
            config.exclude_modules.as_ref(),
            config.layers_to_transform.as_deref(),
            building,
        )?;
        if let Some(site) = sites.iter().find(|site| !width(site).is_multiple_of(n)) {
            let found = format!("{n} at {} of {} features", site.path, width(site));
            return wrong("phm_dim", "a divisor of the base's d_model", found);
        }
        let deviation = 1.0 / (n as f64).sqrt();
        let rule = building.random_part(0).normal([n, n, n], deviation);
        let pairs = SiteMap::build(sites, |site| {
            Ok::<_, AdapterError>(PhmPair::init(config, building, site))
        })?;
        Ok(Self {
            phm_rule: Param::from_data(rule, building.device),
            pairs,
            activation: config.activation,
            parallel: config.placement == Placement::Parallel,
        })
    }
}

impl PhmPair {
    fn init(config: &CompacterConfig, building: &Building<'_>, site: &Site) -> Self {
        let (n, rank) = (config.phm_dim, config.phm_rank);
        let [wide, narrow] = [width(site) / n, config.bottleneck_size / n];
        let deviation = (0.02 / (rank as f64).sqrt()).sqrt();
        let mut random: HostRandom = building.random(site.id);
        let mut drawn = |shape| Param::from_data(random.normal(shape, deviation), building.device);
        let zeros = |length: usize| vec![0.0f32; length];
        let row = |length: usize| {
            Param::from_data(TensorData::new(zeros(length), [length]), building.device)
        };
        let nothing = TensorData::new(zeros(n * rank * wide), [n, rank, wide]);
        Self {
            down_left: drawn([n, wide, rank]),
            down_right: drawn([n, rank, narrow]),
            down_bias: row(n * narrow),
            up_left: drawn([n, narrow, rank]),
            up_right: Param::from_data(nothing, building.device),
            up_bias: row(n * wide),
        }
    }
}

/// The sum of Kronecker products.
///
/// # Shapes
/// - `rule`: `[n, n, n]`, `left`: `[n, d_in / n, rank]`, `right`: `[n, rank, d_out / n]` →
///   `[d_in, d_out]`
fn weight(rule: Tensor<3>, left: Tensor<3>, right: Tensor<3>) -> Tensor<2> {
    let ([n, rows, _], [_, _, columns]) = (left.dims(), right.dims());
    let factors = left.matmul(right).reshape([n, rows * columns]);
    let products = rule.reshape([n, n * n]).transpose().matmul(factors);
    products
        .reshape([n, n, rows, columns])
        .swap_dims(1, 2)
        .reshape([n * rows, n * columns])
}

impl Method for Compacter {
    fn name(&self) -> &'static str {
        METHOD
    }

    fn sites(&self) -> Vec<SiteId> {
        self.pairs.sites().collect()
    }

    fn block(&self, site: SiteId, x: &Tensor<3>, y: Tensor<3>) -> Tensor<3> {
        let Some(pair) = self.pairs.get(site) else {
            return y;
        };
        let rule = self.phm_rule.val();
        let down = weight(rule.clone(), pair.down_left.val(), pair.down_right.val());
        let up = weight(rule, pair.up_left.val(), pair.up_right.val());
        let input = if self.parallel { x } else { &y };
        let added = in_rows(input.clone(), |rows| {
            let narrow = module::linear(rows, down, Some(pair.down_bias.val()));
            module::linear(self.activation.apply(narrow), up, Some(pair.up_bias.val()))
        });
        y + added
    }

    fn peft_name(&self, name: &str) -> Option<PeftName> {
        let key = name.strip_prefix("pairs.").unwrap_or(name).to_owned();
        let stored = key.clone();
        Some(PeftName { key, stored })
    }

    fn mergeable(&self) -> Result<(), AdapterError> {
        Err(AdapterError::NotMergeable {
            method: METHOD,
            reason: "its activation lies between its two layers",
        })
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Tensor, TensorData, Tolerance};

    use super::weight;

    #[test]
    fn weights_are_sums_of_kronecker_products() {
        let (n, rows, rank, columns) = (2, 3, 2, 1);
        let value = |place: usize| ((place * 7 + 3) % 11) as f32 - 5.0;
        let values = |start: usize, shape: [usize; 3]| -> Vec<f32> {
            (start..start + shape.iter().product::<usize>())
                .map(value)
                .collect()
        };
        let shapes = [[n, n, n], [n, rows, rank], [n, rank, columns]];
        let [rule, left, right] = [(0, shapes[0]), (50, shapes[1]), (90, shapes[2])]
            .map(|(start, shape)| values(start, shape));
        let mut expected = vec![0.0f32; n * rows * n * columns];
        for product in 0..n {
            for (a, b) in (0..n).flat_map(|a| (0..n).map(move |b| (a, b))) {
                for (c, e) in (0..rows).flat_map(|c| (0..columns).map(move |e| (c, e))) {
                    let factor: f32 = (0..rank)
                        .map(|k| {
                            left[(product * rows + c) * rank + k]
                                * right[(product * rank + k) * columns + e]
                        })
                        .sum();
                    expected[(a * rows + c) * n * columns + b * columns + e] +=
                        rule[(product * n + a) * n + b] * factor;
                }
            }
        }
        let device = Device::flex();
        let tensor = |values: Vec<f32>, shape: [usize; 3]| {
            Tensor::<3>::from_data(TensorData::new(values, shape), &device)
        };
        let found = weight(
            tensor(rule, shapes[0]),
            tensor(left, shapes[1]),
            tensor(right, shapes[2]),
        );
        let expected = TensorData::new(expected, [n * rows, n * columns]);
        found
            .into_data()
            .assert_approx_eq::<f32>(&expected, Tolerance::absolute(1e-4));
    }
}

//! Several LoRAs or IA3s as one: weighted sums, and what keeps them from standing in each other's way.
//!
//! With weights `w` and scales `s` of adapters with factors `A`, `B`:
//!
//! - `linear`: `A = Σ sgn(w) sqrt(|w s|) A`, `B = Σ sqrt(|w s|) B`, in which the adapters also mix;
//! - `cat`: the factors side by side, exactly the weighted sum `Σ w s A B`, of all ranks together;
//! - `svd`: the leading part of that sum's singular value decomposition;
//! - `ties` (Yadav et al. 2023, section 3): the largest values of each alone, then of each value the
//!   sign that the adapters agree on, then the mean of those with that sign;
//! - `dare_linear`, `dare_ties` (Yu et al. 2023, section 3.2): values dropped at random, the rest
//!   scaled up;
//! - `magnitude_prune`: the largest values of each alone.
//!
//! The last four act on `A` and `B` apart, as PEFT's `add_weighted_adapter` does, and with `_svd` on
//! the products, of which the leading part is taken. A negative weight takes an adapter away, so a task
//! vector can be negated or moved from one adapter to another (Ilharco et al. 2022).
//!
//! IA3s have `linear` alone, the weighted sum of their scales (see `scales`).

use std::collections::BTreeMap;

use burn::tensor::{Device, TensorData};
use hybrid_models::Base;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::any_method::AnyMethod;
use crate::decomposition::{Matrix, Singular, singular};
use crate::lora::Pair;
use crate::pattern_map::PatternMap;
use crate::random::HostRandom;
use crate::{AdapterConfig, AdapterError, Adapters, LoraConfig, LoraInit, Targets};

mod scales;
#[cfg(test)]
mod tests;

/// How several adapters become one, with the names of PEFT's `add_weighted_adapter`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CombineConfig {
    /// The rule.
    pub combination_type: CombinationType,
    /// Rank of the result where a decomposition gives it; the largest rank when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub svd_rank: Option<usize>,
    /// Share of the values that are kept, where some are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub density: Option<f64>,
    /// What decides the sign of a value, for the rules with `ties`.
    #[serde(default)]
    pub majority_sign_method: MajoritySign,
    /// Of the values that are dropped at random.
    #[serde(default)]
    pub seed: u64,
}

/// The rule by which several adapters become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CombinationType {
    /// Sums of the factors; of IA3s, of the scales.
    Linear,
    /// Factors side by side.
    Cat,
    /// The leading part of the sum.
    Svd,
    /// Large values with the sign that most have.
    Ties,
    /// The same of the products.
    TiesSvd,
    /// Random values, scaled up.
    DareLinear,
    /// The same of the products.
    DareLinearSvd,
    /// Random values with the sign that most have.
    DareTies,
    /// The same of the products.
    DareTiesSvd,
    /// Large values.
    MagnitudePrune,
    /// The same of the products.
    MagnitudePruneSvd,
}

/// What decides the sign of a value.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MajoritySign {
    /// The sum of the adapters' values.
    #[default]
    Total,
    /// How many adapters have it.
    Frequency,
}

/// Which values of each adapter are kept.
#[derive(Clone, Copy)]
enum Kept {
    All,
    Largest,
    Random,
}

impl CombinationType {
    fn kept(self) -> Kept {
        match self {
            Self::Linear | Self::Cat | Self::Svd => Kept::All,
            Self::Ties | Self::TiesSvd | Self::MagnitudePrune | Self::MagnitudePruneSvd => {
                Kept::Largest
            }
            Self::DareLinear | Self::DareLinearSvd | Self::DareTies | Self::DareTiesSvd => {
                Kept::Random
            }
        }
    }

    fn agrees_on_signs(self) -> bool {
        matches!(
            self,
            Self::Ties | Self::TiesSvd | Self::DareTies | Self::DareTiesSvd
        )
    }

    fn is_of_products(self) -> bool {
        matches!(
            self,
            Self::Svd
                | Self::TiesSvd
                | Self::DareLinearSvd
                | Self::DareTiesSvd
                | Self::MagnitudePruneSvd
        )
    }
}

/// One adapter out of several over the same base, each with its weight, which may be negative.
///
/// Each must be a single LoRA without DoRA and without biases, or each a single IA3.
///
/// # Errors
/// [`AdapterError::NotCombinable`] for stacks that are not that, or ranks that differ where the rule
/// wants one; [`AdapterError::Setting`] for a density or weight out of its range;
/// [`AdapterError::Rank`] when the ranks side by side are more than a weight has.
pub fn combine(
    adapters: &[(&Adapters, f64)],
    config: &CombineConfig,
    base: &dyn Base,
    device: &Device,
) -> Result<Adapters, AdapterError> {
    config.validate()?;
    if let Some((_, weight)) = adapters.iter().find(|(_, weight)| !weight.is_finite()) {
        return Err(setting("weight", "a finite number", weight.to_string()));
    }
    let is_ia3 = |stack: &Adapters| matches!(stack.stack(), [AnyMethod::Ia3(_)]);
    if adapters.iter().any(|(adapters, _)| is_ia3(adapters)) {
        return match config.combination_type {
            CombinationType::Linear => scales::combined(adapters, base, device),
            _ => Err(AdapterError::NotCombinable {
                reason: "IA3s have weighted sums alone: `linear`",
            }),
        };
    }
    let mut sites: BTreeMap<String, Vec<(f64, Pair)>> = BTreeMap::new();
    let mut largest = 0;
    for (adapters, weight) in adapters {
        for (path, pair) in pairs(adapters)? {
            largest = largest.max(pair.a.columns);
            sites.entry(path).or_default().push((*weight, pair));
        }
    }
    if sites.is_empty() {
        return Err(AdapterError::NotCombinable {
            reason: "there is no LoRA to combine",
        });
    }
    let rank = match config.combination_type {
        CombinationType::Cat => {
            let ranks = |pairs: &Vec<(f64, Pair)>| pairs.iter().map(|(_, p)| p.a.columns).sum();
            sites.values().map(ranks).max().unwrap_or(0)
        }
        rule if rule.is_of_products() => config.svd_rank.unwrap_or(largest),
        _ => largest,
    };
    let lora = LoraConfig {
        r: rank,
        lora_alpha: rank as f64,
        target_modules: Targets::Names(sites.keys().cloned().collect()),
        init_lora_weights: LoraInit::Uniform,
        rank_pattern: PatternMap::default(),
        alpha_pattern: PatternMap::default(),
        ..LoraConfig::default()
    };
    let fresh = Adapters::init(&[AdapterConfig::Lora(lora)], base, 0, device)?;
    let mut tensors = BTreeMap::new();
    for (stream, (path, pairs)) in sites.into_iter().enumerate() {
        let first = &pairs[0].1;
        let (part, names) = (first.part, first.names);
        let (a, b) = config.combined(pairs, rank, stream as u64)?;
        for (name, matrix) in names.iter().zip([a, b]) {
            let values: Vec<f32> = matrix.values.iter().map(|value| *value as f32).collect();
            let data = TensorData::new(values, [matrix.rows, matrix.columns]);
            tensors.insert(format!("stack.0.Lora.{part}.{path}.{name}"), data);
        }
    }
    fresh.load_named_tensors(&tensors)
}

/// The factors of a stack that is a single LoRA, by path.
fn pairs(adapters: &Adapters) -> Result<Vec<(String, Pair)>, AdapterError> {
    let not = |reason| Err(AdapterError::NotCombinable { reason });
    match adapters.stack() {
        [AnyMethod::Lora(lora)] => match lora.pairs() {
            Some(pairs) => Ok(pairs),
            None => not("lengths of columns and biases do not add up: use_dora, bias, lora_bias"),
        },
        _ => not("each must be a single LoRA, or each a single IA3"),
    }
}

fn setting(key: &'static str, expected: &'static str, found: String) -> AdapterError {
    AdapterError::Setting {
        method: "combine",
        key,
        expected,
        found,
    }
}

impl CombineConfig {
    fn validate(&self) -> Result<(), AdapterError> {
        let expected = "a share above 0, up to 1";
        match (self.combination_type.kept(), self.density) {
            (Kept::All, _) => {}
            (_, None) => return Err(setting("density", expected, "left out".to_owned())),
            (_, Some(share)) if share > 0.0 && share <= 1.0 => {}
            (_, Some(share)) => return Err(setting("density", expected, share.to_string())),
        }
        match self.svd_rank {
            Some(0) => Err(setting("svd_rank", "1 or more", "0".to_owned())),
            _ => Ok(()),
        }
    }

    /// The factors of one site, `[d_in, rank]` and `[rank, d_out]`.
    fn combined(
        &self,
        pairs: Vec<(f64, Pair)>,
        rank: usize,
        stream: u64,
    ) -> Result<(Matrix, Matrix), AdapterError> {
        let rule = self.combination_type;
        if rule == CombinationType::Cat {
            return Ok(side_by_side(pairs, rank));
        }
        if rule.is_of_products() {
            let products = pairs.iter().map(|(_, pair)| pair.product()).collect();
            let weights: Vec<f64> = pairs.iter().map(|(weight, _)| *weight).collect();
            let sum = self.merged(products, &weights, stream);
            let Singular { u, s, mut v } = singular(&sum, rank.min(sum.rows.min(sum.columns)));
            for (row, s) in v.values.chunks_mut(v.columns).zip(s) {
                row.iter_mut().for_each(|value| *value *= s);
            }
            return Ok((u, v));
        }
        if pairs.iter().any(|(_, pair)| pair.a.columns != rank) {
            return Err(AdapterError::NotCombinable {
                reason: "their ranks differ; `cat` and the rules with `svd` take any ranks",
            });
        }
        let strengths: Vec<f64> = pairs
            .iter()
            .map(|(weight, pair)| weight * pair.scale)
            .collect();
        let of_a: Vec<f64> = strengths
            .iter()
            .map(|x| x.abs().sqrt().copysign(*x))
            .collect();
        let of_b: Vec<f64> = strengths.iter().map(|x| x.abs().sqrt()).collect();
        let (a, b) = pairs.into_iter().map(|(_, pair)| (pair.a, pair.b)).unzip();
        let streams = [2 * stream, 2 * stream + 1];
        Ok((
            self.merged(a, &of_a, streams[0]),
            self.merged(b, &of_b, streams[1]),
        ))
    }

    /// The weighted sum of what is kept of each matrix.
    fn merged(&self, matrices: Vec<Matrix>, weights: &[f64], stream: u64) -> Matrix {
        let density = self.density.unwrap_or(1.0);
        let mut random = HostRandom::new(self.seed, stream);
        let kept: Vec<Matrix> = matrices
            .into_iter()
            .map(|matrix| match self.combination_type.kept() {
                Kept::All => matrix,
                Kept::Largest => largest_values(matrix, density),
                Kept::Random => random_values(matrix, density, &mut random),
            })
            .collect();
        let (rows, columns) = (kept[0].rows, kept[0].columns);
        let sum = |place: usize| {
            let values = kept.iter().map(|matrix| matrix.values[place]);
            if !self.combination_type.agrees_on_signs() {
                return values
                    .zip(weights)
                    .map(|(value, weight)| value * weight)
                    .sum();
            }
            let sign: f64 = match self.majority_sign_method {
                MajoritySign::Total => values.clone().sum(),
                MajoritySign::Frequency => values.clone().map(sign_of).sum(),
            };
            let agreed = if sign >= 0.0 { 1.0 } else { -1.0 };
            let of_agreed = values
                .zip(weights)
                .filter(|(value, _)| sign_of(*value) == agreed);
            let (sum, n) = of_agreed.fold((0.0, 0.0), |(sum, n), (value, weight)| {
                (sum + value * weight, n + 1.0)
            });
            sum / f64::max(n, 1.0)
        };
        Matrix::new(rows, columns, (0..rows * columns).map(sum).collect())
    }
}

/// The sign of a value, 0 of 0.
fn sign_of(value: f64) -> f64 {
    if value == 0.0 { 0.0 } else { value.signum() }
}

/// All factors, each weighted by its first; what is left of the rank is zero.
fn side_by_side(pairs: Vec<(f64, Pair)>, rank: usize) -> (Matrix, Matrix) {
    let (d_in, d_out) = (pairs[0].1.a.rows, pairs[0].1.b.columns);
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for (weight, pair) in pairs {
        let strength = weight * pair.scale;
        a.extend(
            pair.a
                .transposed()
                .values
                .into_iter()
                .map(|value| value * strength),
        );
        b.extend(pair.b.values);
    }
    a.resize(rank * d_in, 0.0);
    b.resize(rank * d_out, 0.0);
    (
        Matrix::new(rank, d_in, a).transposed(),
        Matrix::new(rank, d_out, b),
    )
}

/// The largest values, the others zero.
fn largest_values(mut matrix: Matrix, density: f64) -> Matrix {
    let n_kept = (density * matrix.values.len() as f64) as usize;
    let mut order: Vec<usize> = (0..matrix.values.len()).collect();
    order.sort_by(|a, b| matrix.values[*b].abs().total_cmp(&matrix.values[*a].abs()));
    for place in order.into_iter().skip(n_kept) {
        matrix.values[place] = 0.0;
    }
    matrix
}

/// A random share of the values, scaled up to keep the mean, the others zero.
fn random_values(mut matrix: Matrix, density: f64, random: &mut HostRandom) -> Matrix {
    let kept = random.chances([matrix.values.len()], density);
    for (value, kept) in matrix.values.iter_mut().zip(kept.iter::<bool>()) {
        *value = if kept { *value / density } else { 0.0 };
    }
    matrix
}

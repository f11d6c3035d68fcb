//! LoRA: a low-rank side path next to a frozen linear layer (Hu et al. 2021, equation 3).
//!
//! `y = x W + b + s (x A) B` with `A: [d_in, rank]`, `B: [rank, d_out]` and `s = alpha / rank`, or
//! `alpha / sqrt(rank)` with rank stabilisation (Kalajdzievski 2023). The dense sum `W + s A B` is
//! never formed while training, so backward forms no gradient of the size of `W` either. With
//! `use_dora` the columns of the sum have lengths of their own (see `dora`).

use burn::module::{Module, Param};
use burn::tensor::{Bool, Tensor, TensorData};
use hybrid_models::{Layer, Linear, Norm, Site, SiteId, SiteKind};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::bias::{self, Biases};
use crate::dora::Magnitude;
use crate::method::{Building, Inner, Method, Pass};
use crate::pattern_map::PatternMap;
use crate::random::HostRandom;
use crate::site_map::SiteMap;
use crate::targets::{Selection, Selector, Targets};
use crate::{AdapterError, frozen};

/// LoRA's settings, with PEFT's names and meanings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LoraConfig {
    /// Rank of the update.
    #[schemars(range(min = 1))]
    pub r: usize,
    /// Numerator of the scale.
    pub lora_alpha: f64,
    /// Share of the input's values that are dropped before `A` while training.
    #[schemars(range(min = 0.0, max = 0.99))]
    pub lora_dropout: f64,
    /// Which biases are trained too.
    pub bias: BiasMode,
    /// Linear layers to adapt.
    pub target_modules: Targets,
    /// Layers that are left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exclude_modules: Option<Targets>,
    /// Transformer layers to act on; all when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers_to_transform: Option<Vec<usize>>,
    /// Names before the layer index in a path; found by themselves when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers_pattern: Option<Vec<String>>,
    /// Divide by `sqrt(rank)` instead of by the rank.
    pub use_rslora: bool,
    /// Train the lengths of the weight's columns apart from their directions.
    pub use_dora: bool,
    /// Ranks of their own, by pattern.
    #[serde(skip_serializing_if = "PatternMap::is_empty")]
    pub rank_pattern: PatternMap<usize>,
    /// Alphas of their own, by pattern.
    #[serde(skip_serializing_if = "PatternMap::is_empty")]
    pub alpha_pattern: PatternMap<f64>,
}

impl Default for LoraConfig {
    /// PEFT's defaults; queries and values, whatever the architecture calls them.
    fn default() -> Self {
        Self {
            r: 8,
            lora_alpha: 8.0,
            lora_dropout: 0.0,
            bias: BiasMode::None,
            target_modules: Targets::names(&[
                "query", "value", "q_lin", "v_lin", "q_proj", "v_proj", "c_attn", "q", "v",
            ]),
            exclude_modules: None,
            layers_to_transform: None,
            layers_pattern: None,
            use_rslora: false,
            use_dora: false,
            rank_pattern: PatternMap::default(),
            alpha_pattern: PatternMap::default(),
        }
    }
}

/// Which biases of the base are trained beside the factors.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BiasMode {
    /// None.
    #[default]
    None,
    /// Those of the adapted layers.
    LoraOnly,
    /// All of the base, norms included.
    All,
}

/// The factors of one site.
#[derive(Module, Debug)]
pub(crate) struct Factors {
    /// `[d_in, rank]`.
    pub(crate) lora_a: Param<Tensor<2>>,
    /// `[rank, d_out]`.
    pub(crate) lora_b: Param<Tensor<2>>,
    /// With `use_dora`.
    pub(crate) dora: Option<Magnitude>,
    #[module(skip)]
    scale: f64,
    #[module(skip)]
    dropout: f64,
}

/// Factors by site, and biases in place of the base's.
#[derive(Module, Debug)]
pub(crate) struct Lora {
    factors: SiteMap<Factors>,
    biases: Biases,
}

const METHOD: &str = "lora";

impl Lora {
    /// Factors at the selected sites: `A` uniform in `±1/sqrt(d_in)` (PEFT's Kaiming initialisation
    /// with `a = sqrt(5)`), `B` zero, so the adapted base starts as the base.
    ///
    /// # Errors
    /// [`AdapterError::Rank`] if a rank exceeds `min(d_in, d_out)`; [`AdapterError::Setting`],
    /// [`AdapterError::NoTarget`], [`AdapterError::UnsupportedTarget`] or [`AdapterError::Pattern`].
    pub(crate) fn init(config: &LoraConfig, building: &Building<'_>) -> Result<Self, AdapterError> {
        config.validate()?;
        let selector = Selector::new(Selection {
            method: METHOD,
            targets: Some(&config.target_modules),
            exclude: config.exclude_modules.as_ref(),
            layers: config.layers_to_transform.as_deref(),
            layers_pattern: config.layers_pattern.as_deref(),
        })?;
        let sites = building.linear_sites(METHOD, &selector)?;
        let factors = SiteMap::build(sites.iter().copied(), |site| {
            Factors::init(config, building, site)
        })?;
        let has_bias = |site: &Site| bias::of(building, site).is_some();
        let biases = match config.bias {
            BiasMode::None => SiteMap::empty(),
            BiasMode::LoraOnly => {
                bias::copy(building, sites.into_iter().filter(|site| has_bias(site)))?
            }
            BiasMode::All => {
                let free = |site: &&Site| has_bias(site) && !building.replaced.contains(&site.id);
                bias::copy(building, building.base.sites().iter().filter(free))?
            }
        };
        Ok(Self { factors, biases })
    }

    pub(crate) fn factors(&self) -> &SiteMap<Factors> {
        &self.factors
    }

    pub(crate) fn biases(&self) -> &Biases {
        &self.biases
    }
}

impl LoraConfig {
    fn validate(&self) -> Result<(), AdapterError> {
        let wrong = |key, expected, found: String| {
            Err(AdapterError::Setting {
                method: METHOD,
                key,
                expected,
                found,
            })
        };
        if self.r == 0 || self.rank_pattern.iter().any(|(_, rank)| *rank == 0) {
            return wrong("r", "a rank of 1 or more", "0".to_owned());
        }
        if !(0.0..1.0).contains(&self.lora_dropout) {
            return wrong(
                "lora_dropout",
                "a share from 0 to below 1",
                self.lora_dropout.to_string(),
            );
        }
        if !self.lora_alpha.is_finite()
            || self
                .alpha_pattern
                .iter()
                .any(|(_, alpha)| !alpha.is_finite())
        {
            return wrong("lora_alpha", "a finite number", self.lora_alpha.to_string());
        }
        Ok(())
    }
}

impl Factors {
    fn init(
        config: &LoraConfig,
        building: &Building<'_>,
        site: &Site,
    ) -> Result<Self, AdapterError> {
        let SiteKind::Linear { d_in, d_out, .. } = site.kind else {
            unreachable!("only linear sites are selected")
        };
        let path = format!("{}{}", building.prefix, site.path);
        let rank = config
            .rank_pattern
            .first(METHOD, "rank_pattern", &path)?
            .copied()
            .unwrap_or(config.r);
        let alpha = config
            .alpha_pattern
            .first(METHOD, "alpha_pattern", &path)?
            .copied()
            .unwrap_or(config.lora_alpha);
        let limit = d_in.min(d_out);
        if rank > limit {
            return Err(AdapterError::Rank {
                site: site.path.clone(),
                rank,
                limit,
                d_in,
                d_out,
            });
        }
        let a = building
            .random(site.id)
            .uniform([d_in, rank], 1.0 / (d_in as f64).sqrt());
        let b = TensorData::new(vec![0.0f32; rank * d_out], [rank, d_out]);
        let dora = match building.base.layer_at(site.id) {
            Some(Layer::Linear(linear)) if config.use_dora => {
                Some(Magnitude::init(&linear.weight.dense(), building.device))
            }
            _ => None,
        };
        Ok(Self {
            lora_a: Param::from_data(a, building.device),
            lora_b: Param::from_data(b, building.device),
            dora,
            scale: alpha
                / if config.use_rslora {
                    (rank as f64).sqrt()
                } else {
                    rank as f64
                },
            dropout: config.lora_dropout,
        })
    }

    /// What the site computes; `y` is what it computes without the factors.
    ///
    /// # Shapes
    /// - `x`: `[batch, seq, d_in]`, `y`: `[batch, seq, d_out]` → `[batch, seq, d_out]`
    fn forward(&self, base: &Linear, x: Tensor<3>, y: Tensor<3>, pass: Pass) -> Tensor<3> {
        let [batch, seq, d_in] = x.dims();
        let rows = x.reshape([batch * seq, d_in]);
        let (rows, dropped) = match pass {
            Pass::Training { seed } if self.dropout > 0.0 => {
                let random = HostRandom::new(seed, base.site.index() as u64);
                (drop_out(rows, self.dropout, random), true)
            }
            _ => (rows, false),
        };
        let up = if dropped {
            1.0 / (1.0 - self.dropout)
        } else {
            1.0
        };
        let [_, _, d_out] = y.dims();
        let whole = |rows: Tensor<2>| rows.reshape([batch, seq, d_out]);
        let side = whole(self.side(rows.clone(), up));
        let Some(dora) = &self.dora else {
            return y + side;
        };
        let [a, b] = [&self.lora_a, &self.lora_b].map(frozen::plain);
        let gain = dora
            .gain(&base.weight.dense(), a, b, self.scale)
            .unsqueeze::<3>();
        let plain = match (&base.bias, dropped) {
            (_, true) => whole(rows.matmul(base.weight.dense()).mul_scalar(up)),
            (Some(bias), false) => y.clone() - bias.clone().unsqueeze(),
            (None, false) => y.clone(),
        };
        y + plain * gain.clone().sub_scalar(1.0) + side * gain
    }

    /// The side path, on rows so that both factors stay plain matrices.
    ///
    /// # Shapes
    /// - `rows`: `[rows, d_in]` → `[rows, d_out]`
    fn side(&self, rows: Tensor<2>, up: f64) -> Tensor<2> {
        let narrow = rows.matmul(self.lora_a.val());
        narrow.mul_scalar(self.scale * up).matmul(self.lora_b.val())
    }
}

/// Sets a share of the values to zero (Srivastava et al. 2014); scaling up the rest is left to the
/// caller. The mask is drawn on the host: every device, and every thread that works on a piece of a
/// batch, drops the same values under the same seed.
pub(crate) fn drop_out(rows: Tensor<2>, share: f64, mut random: HostRandom) -> Tensor<2> {
    let device = rows.device().without_autodiff();
    let dropped = random.chances(rows.dims(), share);
    rows.mask_fill(Tensor::<2, Bool>::from_data(dropped, &device), 0.0)
}

impl Method for Lora {
    fn name(&self) -> &'static str {
        METHOD
    }

    fn sites(&self) -> Vec<SiteId> {
        self.factors.sites().chain(self.biases.sites()).collect()
    }

    fn replaces(&self) -> Vec<SiteId> {
        bias::sites(&self.biases)
    }

    fn replace_linear(&self, base: &Linear) -> Option<Linear> {
        bias::replace_linear(&self.biases, base)
    }

    fn replace_norm(&self, base: &Norm) -> Option<Norm> {
        bias::replace_norm(&self.biases, base)
    }

    fn wraps(&self) -> Vec<SiteId> {
        self.factors.sites().collect()
    }

    fn next_to_base(&self) -> Vec<SiteId> {
        let has_lengths = |site: &SiteId| {
            let factors = self.factors.get(*site);
            factors.is_some_and(|factors| factors.dora.is_some())
        };
        self.factors.sites().filter(has_lengths).collect()
    }

    fn linear(&self, base: &Linear, x: Tensor<3>, pass: Pass, inner: Inner<'_>) -> Tensor<3> {
        match self.factors.get(base.site) {
            Some(factors) => factors.forward(base, x.clone(), inner(x), pass),
            None => inner(x),
        }
    }

    fn merge_linear(&self, inner: Linear) -> Result<Linear, AdapterError> {
        let Some(factors) = self.factors.get(inner.site) else {
            return Ok(inner);
        };
        let delta = frozen::plain(&factors.lora_a)
            .matmul(frozen::plain(&factors.lora_b))
            .mul_scalar(factors.scale);
        let sum = inner.weight.dense() + delta;
        Ok(Linear {
            weight: match &factors.dora {
                Some(dora) => dora.merged(sum),
                None => sum,
            }
            .into(),
            ..inner
        })
    }
}

#[cfg(test)]
mod tests;

//! AdaLoRA: a low-rank side path in the form of a singular value decomposition, whose ranks go where
//! they matter (Zhang et al. 2023, equations 3 and 4).
//!
//! `y = x W + b + s ((x A) * E) B` with `A: [d_in, rank]`, `E: [rank]`, `B: [rank, d_out]` and
//! `s = alpha / (init_r + 1e-5)`: PEFT counts the ranks of the start, also after some are gone. The
//! loss gets `orth_reg_weight` times the mean of `|AᵀA - I|` and `|BBᵀ - I|` over all sites (equation
//! 4). While training, [`RankAllocator`] sets the `E` of ranks to zero that count least.

use std::collections::BTreeMap;

use burn::module::{Module, Param};
use burn::tensor::{Tensor, TensorData};
use hybrid_models::{Linear, Norm, Site, SiteId, SiteKind};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::bias::{self, Biases};
use crate::error::wrong_setting;
use crate::lora::{self, BiasMode, dropped_rows};
use crate::method::{Building, Inner, Method, Pass};
use crate::site_map::SiteMap;
use crate::site_method::in_rows;
use crate::site_place::within;
use crate::targets::{Selection, Selector, Targets};
use crate::{AdapterError, frozen};

mod allocator;

pub use allocator::RankAllocator;

/// AdaLoRA's settings, with PEFT's names and meanings. Steps count from 0.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AdaloraConfig {
    /// Mean rank of a site at the end.
    #[schemars(range(min = 1))]
    pub target_r: usize,
    /// Rank of every site at the start.
    #[schemars(range(min = 1))]
    pub init_r: usize,
    /// Steps at the start with all ranks.
    pub tinit: usize,
    /// Steps at the end with the ranks that are left.
    pub tfinal: usize,
    /// Steps from one reduction to the next.
    #[serde(rename = "deltaT")]
    #[schemars(range(min = 1))]
    pub delta_t: usize,
    /// How much of the mean sensitivity is kept at each step.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub beta1: f64,
    /// How much of the mean uncertainty is kept at each step.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub beta2: f64,
    /// Weight of the loss that keeps the factors orthogonal.
    #[schemars(range(min = 0.0))]
    pub orth_reg_weight: f64,
    /// Steps of the whole training; those of the stage when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_step: Option<usize>,
    /// Which ranks of each site are left, by `{path}.lora_E`: an adapter with its ranks chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rank_pattern: Option<BTreeMap<String, Vec<bool>>>,
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
}

impl Default for AdaloraConfig {
    /// PEFT's defaults; queries and values, whatever the architecture calls them.
    fn default() -> Self {
        Self {
            target_r: 8,
            init_r: 12,
            tinit: 0,
            tfinal: 0,
            delta_t: 1,
            beta1: 0.85,
            beta2: 0.85,
            orth_reg_weight: 0.5,
            total_step: None,
            rank_pattern: None,
            lora_alpha: 8.0,
            lora_dropout: 0.0,
            bias: BiasMode::None,
            target_modules: Targets::queries_and_values(),
            exclude_modules: None,
            layers_to_transform: None,
            layers_pattern: None,
        }
    }
}

impl AdaloraConfig {
    fn validate(&self) -> Result<(), AdapterError> {
        let wrong = wrong_setting(METHOD);
        for (key, value) in [
            ("init_r", self.init_r),
            ("target_r", self.target_r),
            ("deltaT", self.delta_t),
        ] {
            if value == 0 {
                return wrong(key, "1 or more", "0".to_owned());
            }
        }
        if self.target_r > self.init_r {
            let expected = "at most init_r";
            return wrong("target_r", expected, self.target_r.to_string());
        }
        for (key, beta) in [("beta1", self.beta1), ("beta2", self.beta2)] {
            if !(beta > 0.0 && beta < 1.0) {
                return wrong(key, "a share above 0 and below 1", beta.to_string());
            }
        }
        if !(self.orth_reg_weight.is_finite() && self.orth_reg_weight >= 0.0) {
            let expected = "a finite number from 0 on";
            return wrong(
                "orth_reg_weight",
                expected,
                self.orth_reg_weight.to_string(),
            );
        }
        if !(0.0..1.0).contains(&self.lora_dropout) {
            let expected = "a share from 0 to below 1";
            return wrong("lora_dropout", expected, self.lora_dropout.to_string());
        }
        if !self.lora_alpha.is_finite() {
            return wrong("lora_alpha", "a finite number", self.lora_alpha.to_string());
        }
        if let Some(total) = self.total_step
            && self.tinit + self.tfinal >= total
        {
            let expected = "more than tinit + tfinal: ranks are reduced in the steps between";
            return wrong("total_step", expected, total.to_string());
        }
        Ok(())
    }

    /// The rank of a site. PEFT takes an `alpha` of 0 and below for the rank itself.
    fn rank(&self, path: &str) -> usize {
        let pattern = self.rank_pattern.as_ref();
        let kept = pattern.and_then(|pattern| pattern.get(&format!("{path}.lora_E")));
        kept.map_or(self.init_r, |kept| {
            kept.iter().filter(|kept| **kept).count()
        })
    }

    /// The sites that a pattern leaves no rank, by path.
    pub(crate) fn emptied(&self) -> impl Iterator<Item = &str> {
        let pattern = self.rank_pattern.iter().flatten();
        let emptied = pattern.filter(|(_, kept)| !kept.contains(&true));
        emptied.filter_map(|(key, _)| key.strip_suffix(".lora_E"))
    }

    fn scale(&self) -> f64 {
        let ranks = self.init_r as f64;
        let alpha = match self.lora_alpha > 0.0 {
            true => self.lora_alpha,
            false => ranks,
        };
        alpha / (ranks + 1e-5)
    }
}

/// The decomposition of one site's update.
#[derive(Module, Debug)]
pub(crate) struct Triplets {
    /// Right singular vectors, `[d_in, rank]`.
    pub(crate) lora_a: Param<Tensor<2>>,
    /// Singular values, `[rank]`.
    pub(crate) lora_e: Param<Tensor<1>>,
    /// Left singular vectors, `[rank, d_out]`.
    pub(crate) lora_b: Param<Tensor<2>>,
}

/// Decompositions by site, and biases in place of the base's.
#[derive(Module, Debug)]
pub(crate) struct Adalora {
    triplets: SiteMap<Triplets>,
    biases: Biases,
    #[module(skip)]
    scale: f64,
    #[module(skip)]
    dropout: f64,
    #[module(skip)]
    orthogonal: f64,
}

const METHOD: &str = "adalora";

impl Adalora {
    /// Vectors normal with deviation 0.02 and values of 0 at the selected sites, so the adapted base
    /// starts as the base. Sites of which a pattern leaves no rank are passed over.
    ///
    /// # Errors
    /// [`AdapterError::Rank`] if `init_r` exceeds `min(d_in, d_out)`; [`AdapterError::Setting`],
    /// [`AdapterError::NoTarget`], [`AdapterError::UnsupportedTarget`] or [`AdapterError::Pattern`].
    pub(crate) fn init(
        config: &AdaloraConfig,
        building: &Building<'_>,
    ) -> Result<Self, AdapterError> {
        config.validate()?;
        let selector = Selector::new(Selection {
            method: METHOD,
            targets: Some(&config.target_modules),
            exclude: config.exclude_modules.as_ref(),
            layers: config.layers_to_transform.as_deref(),
            layers_pattern: config.layers_pattern.as_deref(),
        })?;
        let sites = building.linear_sites(METHOD, &selector)?;
        let rank = |site: &Site| config.rank(&format!("{}{}", building.prefix, site.path));
        let kept = sites.iter().copied().filter(|site| rank(site) > 0);
        let triplets = SiteMap::build(kept, |site| Triplets::init(config, building, site))?;
        Ok(Self {
            triplets,
            biases: lora::biases(config.bias, building, &sites)?,
            scale: config.scale(),
            dropout: config.lora_dropout,
            orthogonal: config.orth_reg_weight,
        })
    }

    pub(crate) fn triplets(&self) -> &SiteMap<Triplets> {
        &self.triplets
    }

    pub(crate) fn biases(&self) -> &Biases {
        &self.biases
    }
}

impl Triplets {
    fn init(
        config: &AdaloraConfig,
        building: &Building<'_>,
        site: &Site,
    ) -> Result<Self, AdapterError> {
        let SiteKind::Linear { d_in, d_out, .. } = site.kind else {
            unreachable!("only linear sites are selected")
        };
        within(site, config.init_r, d_in.min(d_out), [d_in, d_out])?;
        let rank = config.rank(&format!("{}{}", building.prefix, site.path));
        let mut random = building.random(site.id);
        let device = building.device;
        Ok(Self {
            lora_a: Param::from_data(random.normal([d_in, rank], 0.02), device),
            lora_e: Param::from_data(TensorData::new(vec![0.0f32; rank], [rank]), device),
            lora_b: Param::from_data(random.normal([rank, d_out], 0.02), device),
        })
    }

    /// How far the vectors are from orthonormal: `|AᵀA - I| + |BBᵀ - I|`.
    fn skewness(&self) -> Tensor<1> {
        let (a, b) = (self.lora_a.val(), self.lora_b.val());
        let gram = [
            a.clone().transpose().matmul(a),
            b.clone().matmul(b.transpose()),
        ];
        let [of_a, of_b] = gram.map(|gram| {
            let [rank, _] = gram.dims();
            let identity = Tensor::<2>::eye(rank, &gram.device().without_autodiff());
            let squares = (gram - identity).square().sum();
            squares.clamp_min(f32::MIN_POSITIVE).sqrt()
        });
        of_a + of_b
    }
}

impl Method for Adalora {
    fn name(&self) -> &'static str {
        METHOD
    }

    fn sites(&self) -> Vec<SiteId> {
        self.triplets.sites().chain(self.biases.sites()).collect()
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
        self.triplets.sites().collect()
    }

    /// # Shapes
    /// - `x`: `[batch, seq, d_in]` → `[batch, seq, d_out]`
    fn linear(&self, base: &Linear, x: Tensor<3>, pass: Pass, inner: Inner<'_>) -> Tensor<3> {
        let Some(site) = self.triplets.get(base.site) else {
            return inner(x);
        };
        let side = |rows| {
            let (rows, up) = dropped_rows(rows, self.dropout, base.site, pass);
            let values = site.lora_e.val().mul_scalar(self.scale * up);
            let narrow = rows.matmul(site.lora_a.val()) * values.unsqueeze::<2>();
            narrow.matmul(site.lora_b.val())
        };
        inner(x.clone()) + in_rows(x, side)
    }

    fn merge_linear(&self, inner: Linear) -> Result<Linear, AdapterError> {
        let Some(site) = self.triplets.get(inner.site) else {
            return Ok(inner);
        };
        let values = frozen::plain(&site.lora_e).mul_scalar(self.scale);
        let narrow = frozen::plain(&site.lora_a) * values.unsqueeze::<2>();
        let delta = narrow.matmul(frozen::plain(&site.lora_b));
        Ok(Linear {
            weight: (inner.weight.dense() + delta).into(),
            ..inner
        })
    }

    fn penalty(&self) -> Option<Tensor<1>> {
        let skewness = self.triplets.iter().map(|(_, site)| site.skewness());
        let n_factors = 2 * self.triplets.iter().count();
        let sum = skewness.reduce(|sum, site| sum + site)?;
        Some(sum.mul_scalar(self.orthogonal / n_factors as f64))
    }
}

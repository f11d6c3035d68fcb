//! LoRA's settings.

use hybrid_models::Site;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{EvaConfig, LoraInit, METHOD};
use crate::AdapterError;
use crate::method::Building;
use crate::pattern_map::PatternMap;
use crate::site_place::within;
use crate::targets::Targets;

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
    /// Linear layers and embeddings to adapt.
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
    /// Where the factors start.
    #[serde(skip_serializing_if = "is_default")]
    pub init_lora_weights: LoraInit,
    /// How `init_lora_weights = "eva"` does it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eva_config: Option<EvaConfig>,
    /// Train a bias of the side path.
    #[serde(skip_serializing_if = "is_default")]
    pub lora_bias: bool,
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
            target_modules: Targets::queries_and_values(),
            exclude_modules: None,
            layers_to_transform: None,
            layers_pattern: None,
            use_rslora: false,
            use_dora: false,
            init_lora_weights: LoraInit::default(),
            eva_config: None,
            lora_bias: false,
            rank_pattern: PatternMap::default(),
            alpha_pattern: PatternMap::default(),
        }
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
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

impl LoraConfig {
    pub(super) fn validate(&self) -> Result<(), AdapterError> {
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
        let plain = [LoraInit::Uniform, LoraInit::Random];
        if self.lora_bias && (self.use_dora || !plain.contains(&self.init_lora_weights)) {
            let expected = "false beside use_dora or named first values";
            return wrong("lora_bias", expected, "true".to_owned());
        }
        if let Some(eva) = &self.eva_config {
            if self.init_lora_weights != LoraInit::Eva {
                let expected = "left out without init_lora_weights = \"eva\"";
                return wrong("eva_config", expected, "given".to_owned());
            }
            eva.validate()?;
        }
        if self.init_lora_weights.is_of_weight() && !self.scales_are_positive() {
            let expected = "above 0 where factors start as a part of the weight";
            return wrong("lora_alpha", expected, self.lora_alpha.to_string());
        }
        let mut ranks = self
            .rank_pattern
            .iter()
            .map(|(_, rank)| rank)
            .chain([&self.r]);
        if self.init_lora_weights == LoraInit::Orthogonal
            && let Some(rank) = ranks.find(|rank| !rank.is_multiple_of(2))
        {
            let expected = "even for init_lora_weights = \"orthogonal\"";
            return wrong("r", expected, rank.to_string());
        }
        Ok(())
    }

    fn scales_are_positive(&self) -> bool {
        let alphas = self.alpha_pattern.iter().map(|(_, alpha)| *alpha);
        alphas.chain([self.lora_alpha]).all(|alpha| alpha > 0.0)
    }

    /// Rank and scale at a site with a weight of this shape.
    ///
    /// # Errors
    /// [`AdapterError::Rank`] or [`AdapterError::Pattern`].
    pub(super) fn rank_and_scale(
        &self,
        building: &Building<'_>,
        site: &Site,
        [d_in, d_out]: [usize; 2],
    ) -> Result<(usize, f64), AdapterError> {
        let (rank, alpha) = self.rank_and_alpha(building.prefix, &site.path)?;
        within(site, rank, d_in.min(d_out), [d_in, d_out])?;
        let ranks = rank as f64;
        let scale = alpha / if self.use_rslora { ranks.sqrt() } else { ranks };
        Ok((rank, scale))
    }

    /// Rank and alpha at a site, below `prefix` in the names that patterns use: those that data chose
    /// before those of a pattern.
    ///
    /// # Errors
    /// [`AdapterError::Pattern`].
    pub(super) fn rank_and_alpha(
        &self,
        prefix: &str,
        path: &str,
    ) -> Result<(usize, f64), AdapterError> {
        let full = format!("{prefix}{path}");
        let own_rank = self.rank_pattern.first(METHOD, "rank_pattern", &full)?;
        let own_alpha = self.alpha_pattern.first(METHOD, "alpha_pattern", &full)?;
        let rank = own_rank.copied().unwrap_or(self.r);
        let alpha = own_alpha.copied().unwrap_or(self.lora_alpha);
        Ok(match (&self.eva_config, self.chosen_rank(path)) {
            (Some(eva), Some(chosen)) if eva.adjust_scaling_factors => {
                (chosen, alpha * (chosen as f64 / rank as f64))
            }
            (_, chosen) => (chosen.unwrap_or(rank), alpha),
        })
    }

    /// The rank that data chose for a site.
    pub(super) fn chosen_rank(&self, path: &str) -> Option<usize> {
        self.eva_config.as_ref()?.ranks.as_ref()?.get(path).copied()
    }
}

pub(super) fn wrong<T>(
    key: &'static str,
    expected: &'static str,
    found: String,
) -> Result<T, AdapterError> {
    Err(AdapterError::Setting {
        method: METHOD,
        key,
        expected,
        found,
    })
}

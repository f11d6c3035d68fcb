//! LoRA's start by explained variance: `A` from what the sites see (Paischer et al. 2024, section 3).
//!
//! The rows of PEFT's `A` are the right singular vectors of the centred inputs of a site, `B` is zero.
//! Every site gets up to `rho` times its rank of candidates; of those of all sites the ones that stand
//! for the largest share of their site's variance are taken, as many as there are ranks in all. A site
//! may so end with none. What PEFT calls `tau` says when enough was seen.
//!
//! PEFT goes over its data again and again until the vectors settle; here whoever shows the batches
//! decides when they end. PEFT hands out more ranks than a weight's smaller side has, this does not;
//! and with `whiten` it divides by a root once for each site that shares an input, this divides once.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::config::wrong;
use super::{LoraConfig, LoraInit};
use crate::AdapterError;

/// Settings of `init_lora_weights = "eva"`, with PEFT's names and meanings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EvaConfig {
    /// A site gets at most so many times its rank.
    #[schemars(range(min = 1.0))]
    pub rho: f64,
    /// A vector has settled when the cosine of the angle by which a batch moves it is this or more.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub tau: f64,
    /// See only the tokens that a language model is to write, where that is known.
    pub use_label_mask: bool,
    /// Divide each vector by the root of its singular value.
    pub whiten: bool,
    /// Change alpha with the rank, so that the scale stays.
    pub adjust_scaling_factors: bool,
    /// The ranks that data chose, by the path of the site. An adapter stage finds them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ranks: Option<BTreeMap<String, usize>>,
}

impl Default for EvaConfig {
    /// PEFT's defaults.
    fn default() -> Self {
        Self {
            rho: 2.0,
            tau: 0.99,
            use_label_mask: true,
            whiten: false,
            adjust_scaling_factors: true,
            ranks: None,
        }
    }
}

impl EvaConfig {
    pub(super) fn validate(&self) -> Result<(), AdapterError> {
        if !self.rho.is_finite() || self.rho < 1.0 {
            let expected = "a number of 1 or more";
            return wrong("eva_config.rho", expected, self.rho.to_string());
        }
        if !(0.0..=1.0).contains(&self.tau) {
            let expected = "a number from 0 to 1";
            return wrong("eva_config.tau", expected, self.tau.to_string());
        }
        Ok(())
    }
}

impl LoraConfig {
    /// Whether data is still to choose ranks and first values.
    pub(super) fn waits_for_inputs(&self) -> bool {
        let chosen = self
            .eva_config
            .as_ref()
            .is_some_and(|eva| eva.ranks.is_some());
        self.init_lora_weights == LoraInit::Eva && !chosen
    }

    /// Refuses to start where data would have to say how.
    ///
    /// # Errors
    /// [`AdapterError::Setting`].
    pub(crate) fn check_start(&self) -> Result<(), AdapterError> {
        match self.waits_for_inputs() {
            true => wrong(
                "init_lora_weights",
                "another start where nothing shows what the sites see: an adapter stage does with \
                 its fit rows, `ExplainedVariance` with any batches",
                "\"eva\" without them".to_owned(),
            ),
            false => Ok(()),
        }
    }

    /// These settings as PEFT writes them when data has chosen ranks: with a pattern for each site
    /// that differs.
    pub(crate) fn with_chosen_patterns<'p>(
        &self,
        prefix: &str,
        paths: impl Iterator<Item = &'p str>,
    ) -> Result<Self, AdapterError> {
        if self
            .eva_config
            .as_ref()
            .is_none_or(|eva| eva.ranks.is_none())
        {
            return Ok(self.clone());
        }
        let (mut ranks, mut alphas) = (Vec::new(), Vec::new());
        for path in paths {
            let (rank, alpha) = self.rank_and_alpha(prefix, path)?;
            let name = || format!("{prefix}{path}");
            if rank != self.r {
                ranks.push((name(), rank));
            }
            if alpha != self.lora_alpha {
                alphas.push((name(), alpha));
            }
        }
        Ok(Self {
            rank_pattern: ranks.into_iter().collect(),
            alpha_pattern: alphas.into_iter().collect(),
            ..self.clone()
        })
    }
}

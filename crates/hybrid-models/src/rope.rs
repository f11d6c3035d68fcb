//! Frequencies of rotary position embedding, scaled to longer contexts as Transformers 5 does it
//! (`modeling_rope_utils.py`), read from `rope_parameters` or from the older `rope_theta` and
//! `rope_scaling`.

use std::f64::consts::TAU;

use burn::tensor::{Int, Tensor};

use crate::ModelError;
use crate::blocks::Rotation;
use crate::config_file::ConfigFile;

/// Rotary position embedding of one model.
#[derive(Debug, Clone)]
pub(crate) struct Rope {
    theta: f64,
    d_head: usize,
    /// Positions that the model's configuration speaks of.
    max_positions: usize,
    scaling: Scaling,
}

/// How frequencies are changed for contexts longer than those of pretraining.
#[derive(Debug, Clone, PartialEq)]
enum Scaling {
    /// Not at all.
    Default,
    /// All divided by `factor` (Chen et al. 2023).
    Linear { factor: f64 },
    /// A larger `theta` beyond `max_positions`.
    Dynamic { factor: f64 },
    /// Interpolation of the slow ones (Peng et al. 2023).
    Yarn {
        factor: f64,
        /// Sines and cosines are multiplied with it.
        attention_factor: f64,
        beta_fast: f64,
        beta_slow: f64,
        truncate: bool,
        original_positions: usize,
    },
    /// That of Llama 3.1.
    Llama3 {
        factor: f64,
        low_freq_factor: f64,
        high_freq_factor: f64,
        original_positions: usize,
    },
}

const TYPES: &str = "one of default, linear, dynamic, yarn, llama3";

/// Keys of some variant. A variant passes over those of others, as Transformers does.
const KEYS: [&str; 14] = [
    "attention_factor",
    "beta_fast",
    "beta_slow",
    "factor",
    "high_freq_factor",
    "low_freq_factor",
    "mscale",
    "mscale_all_dim",
    "original_max_position_embeddings",
    "partial_rotary_factor",
    "rope_theta",
    "rope_type",
    "truncate",
    "type",
];

impl Rope {
    /// Reads both spellings; `rope_scaling` comes before `rope_parameters` where both are there.
    ///
    /// # Errors
    /// [`ModelError::InvalidValue`] or [`ModelError::MissingKey`], naming the key.
    pub(crate) fn read(config: &ConfigFile, d_head: usize) -> Result<Self, ModelError> {
        let max_positions = config.size("max_position_embeddings")?;
        let old = config.section("rope_scaling")?;
        let section = match old {
            Some(section) => Some(section),
            None => config.section("rope_parameters")?,
        };
        let theta = config.positive_or("rope_theta", 10_000.0)?;
        let (theta, scaling) = match &section {
            Some(section) => {
                if let Some(unknown) = section.names().find(|name| !KEYS.contains(name)) {
                    section.refuse(unknown)?;
                }
                whole_heads(section)?;
                let original = config.optional_size("original_max_position_embeddings")?;
                let scaling = Scaling::read(section, original, max_positions)?;
                (section.positive_or("rope_theta", theta)?, scaling)
            }
            None => (theta, Scaling::Default),
        };
        whole_heads(config)?;
        let least = if matches!(scaling, Scaling::Dynamic { .. }) {
            4
        } else {
            2
        };
        if !d_head.is_multiple_of(2) || d_head < least {
            let expected = format!("an even size of {least} or more for rotary positions");
            return Err(config.invalid("head_dim", expected, d_head));
        }
        Ok(Self {
            theta,
            d_head,
            max_positions,
            scaling,
        })
    }

    /// Positions that the model's configuration speaks of.
    pub(crate) fn max_positions(&self) -> usize {
        self.max_positions
    }

    /// Sines and cosines of positions.
    ///
    /// # Shapes
    /// - `positions`: `[1 or batch, seq]`
    pub(crate) fn rotation(&self, positions: Tensor<2, Int>) -> Rotation {
        let seq = match self.scaling {
            Scaling::Dynamic { .. } => {
                1 + positions.clone().max().into_scalar::<i64>().max(0) as usize
            }
            _ => 0,
        };
        let scale = match self.scaling {
            Scaling::Yarn {
                attention_factor, ..
            } => attention_factor,
            _ => 1.0,
        };
        Rotation::new(positions, &self.frequencies(seq), scale)
    }

    /// `d_head / 2` frequencies for a sequence of `seq` positions.
    fn frequencies(&self, seq: usize) -> Vec<f32> {
        let d_head = self.d_head as f64;
        let plain = |theta: f64| {
            (0..self.d_head / 2).map(move |pair| theta.powf(-2.0 * pair as f64 / d_head))
        };
        let frequencies: Vec<f64> = match &self.scaling {
            Scaling::Default => plain(self.theta).collect(),
            Scaling::Linear { factor } => plain(self.theta).map(|f| f / factor).collect(),
            Scaling::Dynamic { factor } => {
                let max_positions = self.max_positions as f64;
                let seq = (seq as f64).max(max_positions);
                let stretch = factor * seq / max_positions - (factor - 1.0);
                plain(self.theta * stretch.powf(d_head / (d_head - 2.0))).collect()
            }
            Scaling::Yarn {
                factor,
                beta_fast,
                beta_slow,
                truncate,
                original_positions,
                ..
            } => {
                // The pair that turns `rotations` times in the original context.
                let pair_of = |rotations: f64| {
                    let turns = *original_positions as f64 / (rotations * TAU);
                    d_head * turns.ln() / (2.0 * self.theta.ln())
                };
                let (low, high) = (pair_of(*beta_fast), pair_of(*beta_slow));
                let (low, high) = match truncate {
                    true => (low.floor(), high.ceil()),
                    false => (low, high),
                };
                let (low, high) = (low.max(0.0), high.min(d_head - 1.0));
                let width = if low == high { 0.001 } else { high - low };
                let blend = |(pair, frequency): (usize, f64)| {
                    let interpolated = ((pair as f64 - low) / width).clamp(0.0, 1.0);
                    frequency / factor * interpolated + frequency * (1.0 - interpolated)
                };
                plain(self.theta).enumerate().map(blend).collect()
            }
            Scaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_positions,
            } => {
                let change = |frequency: f64| {
                    let turns = *original_positions as f64 * frequency / TAU;
                    if turns > *high_freq_factor {
                        frequency
                    } else if turns < *low_freq_factor {
                        frequency / factor
                    } else {
                        let kept = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor);
                        (1.0 - kept) * frequency / factor + kept * frequency
                    }
                };
                plain(self.theta).map(change).collect()
            }
        };
        frequencies.into_iter().map(|f| f as f32).collect()
    }
}

/// Refuses heads of which a part only is turned.
fn whole_heads(config: &ConfigFile) -> Result<(), ModelError> {
    let key = "partial_rotary_factor";
    match config.positive_or(key, 1.0)? {
        1.0 => Ok(()),
        part => Err(config.invalid(key, "1", part)),
    }
}

impl Scaling {
    /// `original` is the key beside the section, which comes before the one within.
    fn read(
        section: &ConfigFile,
        original: Option<usize>,
        max_positions: usize,
    ) -> Result<Self, ModelError> {
        let key = if section.has("rope_type") {
            "rope_type"
        } else {
            "type"
        };
        let original_positions = || match original {
            Some(original) => Ok(original),
            None => section.size_or("original_max_position_embeddings", max_positions),
        };
        match section.optional_text(key)?.unwrap_or("default") {
            "default" => Ok(Self::Default),
            "linear" => Ok(Self::Linear {
                factor: section.positive("factor")?,
            }),
            "dynamic" => Ok(Self::Dynamic {
                factor: section.positive("factor")?,
            }),
            "yarn" => {
                let factor = section.positive("factor")?;
                let logarithmic = |mscale: f64| match factor <= 1.0 {
                    true => 1.0,
                    false => 0.1 * mscale * factor.ln() + 1.0,
                };
                let given = section.optional_positive("attention_factor")?;
                let over = section.optional_positive("mscale")?;
                let under = section.optional_positive("mscale_all_dim")?;
                let attention_factor = match (given, over, under) {
                    (Some(given), _, _) => given,
                    (None, Some(over), Some(under)) => logarithmic(over) / logarithmic(under),
                    _ => logarithmic(1.0),
                };
                Ok(Self::Yarn {
                    factor,
                    attention_factor,
                    beta_fast: section.positive_or("beta_fast", 32.0)?,
                    beta_slow: section.positive_or("beta_slow", 1.0)?,
                    truncate: section.switch_or("truncate", true)?,
                    original_positions: original_positions()?,
                })
            }
            "llama3" => {
                let low_freq_factor = section.positive("low_freq_factor")?;
                let high_freq_factor = section.positive("high_freq_factor")?;
                if high_freq_factor <= low_freq_factor {
                    let expected = format!("more than low_freq_factor {low_freq_factor}");
                    return Err(section.invalid("high_freq_factor", expected, high_freq_factor));
                }
                Ok(Self::Llama3 {
                    factor: section.positive("factor")?,
                    low_freq_factor,
                    high_freq_factor,
                    original_positions: original_positions()?,
                })
            }
            other => Err(section.invalid(key, TYPES, other)),
        }
    }
}

#[cfg(test)]
#[expect(
    clippy::excessive_precision,
    reason = "numbers as the reference prints them"
)]
mod tests;

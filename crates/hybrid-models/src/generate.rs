//! Continuing prompts: greedy, by sampling, or by beam search.

mod beam;
mod logits;
#[cfg(test)]
mod markov;
mod reader;
mod sampling;

use burn::tensor::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use logits::LogitsProcessor;
pub use reader::Reader;

use crate::{DecoderModel, Hooks, ModelError};
use reader::DecoderReader;

/// New tokens that a decoder's cache has room for at once; beyond them it grows.
const ROOM: usize = 1024;

/// How prompts are continued.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GenerationConfig {
    /// The most tokens that are added.
    #[schemars(range(min = 1))]
    pub max_new_tokens: usize,
    /// Tokens that end a sequence; such a token is the last of the sequence's ids.
    pub eos_ids: Vec<i64>,
    /// How the next token is chosen.
    pub decoding: Decoding,
    /// Makes tokens less likely that have occurred, prompt included, when above 1.
    pub repetition_penalty: f64,
    /// Further changes of the scores, in this order, after the repetition penalty and before those
    /// of sampling.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub processors: Vec<LogitsProcessor>,
}

impl Default for GenerationConfig {
    fn default() -> Self {
        Self {
            max_new_tokens: 64,
            eos_ids: Vec::new(),
            decoding: Decoding::Greedy,
            repetition_penalty: 1.0,
            processors: Vec::new(),
        }
    }
}

/// How the next token is chosen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "method", rename_all = "snake_case", deny_unknown_fields)]
pub enum Decoding {
    /// The best one.
    Greedy,
    /// One drawn by probability, after temperature, `top_k`, `top_p` and `min_p` in this order.
    Sample(SampleConfig),
    /// The sequence of the best score among several that are kept.
    Beam(BeamConfig),
}

/// Settings of sampling.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SampleConfig {
    /// Divides the scores.
    pub temperature: f64,
    /// Keeps this many of the best tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_k: Option<usize>,
    /// Keeps the most likely tokens until they have this share of the probability.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f64>,
    /// Keeps tokens with at least this share of the best one's probability.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_p: Option<f64>,
    /// The same seed draws the same tokens on every device, but for rounding; each row has its own
    /// numbers.
    pub seed: u64,
}

impl Default for SampleConfig {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: None,
            top_p: None,
            min_p: None,
            seed: 0,
        }
    }
}

/// Settings of beam search.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BeamConfig {
    /// Sequences that are kept.
    #[schemars(range(min = 1))]
    pub n_beams: usize,
    /// A finished sequence's score is the sum of its log-probabilities over its length to this
    /// power: above 0 longer ones win more often (Wu et al. 2016, eq. 14, without its constants).
    pub length_penalty: f64,
    /// When the search ends.
    pub early_stopping: EarlyStopping,
}

impl Default for BeamConfig {
    fn default() -> Self {
        Self {
            n_beams: 4,
            length_penalty: 1.0,
            early_stopping: EarlyStopping::Unlikely,
        }
    }
}

/// When beam search ends before the most tokens are added: Transformers' `early_stopping`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EarlyStopping {
    /// When `n_beams` sequences are finished (`true`).
    Full,
    /// When no running sequence, ended now, would be better than the worst finished one (`false`).
    #[default]
    Unlikely,
    /// When no running sequence can become better than the worst finished one (`"never"`).
    Never,
}

/// One continuation.
#[derive(Debug, Clone, PartialEq)]
pub struct Generated {
    /// The tokens that were added, the one that ended the sequence included.
    pub ids: Vec<i64>,
    /// Why there are no more.
    pub finish: Finish,
    /// The length-penalised score of beam search.
    pub score: Option<f64>,
}

/// Why a continuation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// A token of `eos_ids` came.
    EndOfSequence,
    /// The caller said so.
    Stopped,
    /// As many tokens as allowed were added.
    Length,
}

impl GenerationConfig {
    /// Refuses settings that mean nothing.
    ///
    /// # Errors
    /// [`ModelError::GenerationSetting`].
    pub fn validate(&self) -> Result<(), ModelError> {
        let wrong = |key, expected, found: String| {
            Err(ModelError::GenerationSetting {
                key,
                expected,
                found,
            })
        };
        if self.max_new_tokens == 0 {
            return wrong("max_new_tokens", "1 or more", "0".to_owned());
        }
        if let Decoding::Beam(beam) = &self.decoding {
            if beam.n_beams == 0 {
                return wrong("n_beams", "1 or more", "0".to_owned());
            }
            if !beam.length_penalty.is_finite() {
                let found = beam.length_penalty.to_string();
                return wrong("length_penalty", "a finite number", found);
            }
        }
        let mut processors = self.processors().into_iter();
        processors.try_for_each(|processor| processor.validate())
    }

    /// Everything that changes scores, in order.
    fn processors(&self) -> Vec<LogitsProcessor> {
        let mut all = Vec::new();
        if self.repetition_penalty != 1.0 {
            all.push(LogitsProcessor::RepetitionPenalty(self.repetition_penalty));
        }
        all.extend(self.processors.iter().cloned());
        if let Decoding::Sample(sample) = &self.decoding {
            if sample.temperature != 1.0 {
                all.push(LogitsProcessor::Temperature(sample.temperature));
            }
            all.extend(sample.top_k.map(LogitsProcessor::TopK));
            all.extend(sample.top_p.map(LogitsProcessor::TopP));
            all.extend(sample.min_p.map(LogitsProcessor::MinP));
        }
        all
    }
}

/// Continues what `reader` has read.
///
/// `ends` is asked whether a row ends, given its number and all tokens added to it so far. Without
/// beam search it is asked once for each new token, in order, so that it can also pass tokens on;
/// with beam search it is asked for every candidate.
///
/// # Shapes
/// - `logits`: `[rows, vocab]`, of the token after each of `prompts`
///
/// # Errors
/// [`ModelError::GenerationSetting`], [`ModelError::LogitsNotFinite`],
/// [`ModelError::NoTokenLeft`], or an error of the reader.
pub fn generate(
    reader: &mut dyn Reader,
    logits: Tensor<2>,
    prompts: &[Vec<i64>],
    config: &GenerationConfig,
    ends: &mut dyn FnMut(usize, &[i64]) -> bool,
) -> Result<Vec<Generated>, ModelError> {
    config.validate()?;
    match config.decoding {
        Decoding::Beam(beam) => beam::search(reader, logits, prompts, config, beam, ends),
        Decoding::Greedy => sampling::one_by_one(reader, logits, prompts, config, None, ends),
        Decoding::Sample(sample) => {
            sampling::one_by_one(reader, logits, prompts, config, Some(sample.seed), ends)
        }
    }
}

impl DecoderModel {
    /// Continues prompts, one continuation a prompt; shorter ones get padding in front. With a
    /// key-value cache each token is read once.
    ///
    /// `ends` is asked whether a row ends, as [`generate`](crate::generate) describes.
    ///
    /// # Errors
    /// [`ModelError::EmptyPrompt`]; [`ModelError::UnknownToken`];
    /// [`ModelError::TooManyPositions`] when the model's positions are learned and do not suffice;
    /// [`ModelError::NoSuchPart`] without a language model head; and as
    /// [`generate`](crate::generate).
    pub fn generate(
        &self,
        prompts: &[Vec<i64>],
        config: &GenerationConfig,
        hooks: &dyn Hooks,
        ends: &mut dyn FnMut(usize, &[i64]) -> bool,
    ) -> Result<Vec<Generated>, ModelError> {
        config.validate()?;
        if let Some(row) = prompts.iter().position(Vec::is_empty) {
            return Err(ModelError::EmptyPrompt { row });
        }
        for (row, ids) in prompts.iter().enumerate() {
            self.decoder.check_ids(row, ids)?;
        }
        let Some(longest) = prompts.iter().map(Vec::len).max() else {
            return Ok(Vec::new());
        };
        self.decoder.check_length(longest + config.max_new_tokens)?;
        let capacity = longest + config.max_new_tokens.min(ROOM);
        let (mut reader, logits) = DecoderReader::start(self, prompts, capacity, hooks)?;
        generate(&mut reader, logits, prompts, config, ends)
    }
}

/// Scores on the host, all finite.
fn host_rows(
    logits: Tensor<2>,
    step: usize,
    reader: &dyn Reader,
) -> Result<Vec<Vec<f32>>, ModelError> {
    let [_, vocab] = logits.dims();
    let values: Vec<f32> = logits.into_data().iter::<f32>().collect();
    let rows: Vec<Vec<f32>> = values.chunks(vocab).map(<[f32]>::to_vec).collect();
    match rows
        .iter()
        .position(|row| row.iter().any(|score| !score.is_finite()))
    {
        None => Ok(rows),
        Some(row) => Err(ModelError::LogitsNotFinite {
            step,
            row,
            layer: reader.faulty_layer(row),
        }),
    }
}

#[cfg(test)]
mod tests;

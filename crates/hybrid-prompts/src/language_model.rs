//! The seam to a language model, and checks of what comes back.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::chat_template::ChatTemplate;
use crate::error::PromptError;

/// The text of one prompt in two pieces, of which the first is the same for many prompts.
///
/// A model reads `shared` followed by `own` as one text: where it is cut says what is worth
/// computing once (the keys and values of the shared piece's tokens), and changes no result.
/// Prompts of one batch that share their first piece follow each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptText {
    /// What other prompts begin with as well; may be empty.
    pub shared: Arc<str>,
    /// The rest.
    pub own: String,
    /// Whether the text spells out its special tokens, as chat templates do. If it does not, the
    /// model puts those in front that begin each of its sequences.
    pub has_special_tokens: bool,
}

impl PromptText {
    /// The text as the model reads it.
    pub fn whole(&self) -> String {
        format!("{}{}", self.shared, self.own)
    }

    /// The piece that ends the text.
    pub(crate) fn last_piece(&self) -> &str {
        if self.own.is_empty() {
            &self.shared
        } else {
            &self.own
        }
    }
}

/// A prompt and the texts whose probability after it is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScoreRequest {
    /// The prompt.
    pub prompt: PromptText,
    /// What may follow it. Each is tokenised on its own, without special tokens, and put behind the
    /// prompt's tokens.
    pub continuations: Arc<[String]>,
}

/// How probable a continuation is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ContinuationScore {
    /// The sum over its tokens of the natural logarithm of each one's probability, given the prompt
    /// and the tokens before.
    pub log_probability: f64,
    /// How many tokens it has.
    pub n_tokens: usize,
}

/// How a model continues a prompt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct GenerateOptions {
    /// Most tokens that are generated.
    pub max_tokens: usize,
    /// Texts that end an output where they appear; they are not part of it.
    pub stop: Vec<String>,
    /// Logits are divided by this before a token is drawn; 0 takes the most probable token.
    pub temperature: f64,
    /// Only this many of the most probable tokens may be drawn; 0 for no limit.
    pub top_k: usize,
    /// Only the most probable tokens that together reach this probability may be drawn.
    pub top_p: f64,
    /// Only tokens at least this share as probable as the most probable one may be drawn.
    pub min_p: f64,
    /// Logits of tokens that were read or generated already are divided by this where positive
    /// and multiplied where negative; 1 for none (Keskar et al. 2019).
    pub repetition_penalty: f64,
    /// The one source of randomness. An output depends on it and on its own prompt, not on the
    /// other prompts of a batch.
    pub seed: u64,
}

impl Default for GenerateOptions {
    /// Greedy, at most 64 tokens.
    fn default() -> Self {
        Self {
            max_tokens: 64,
            stop: Vec::new(),
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            seed: 0,
        }
    }
}

/// Why an output ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// The model ended it.
    EndOfText,
    /// A stop string appeared.
    Stop,
    /// It has as many tokens as were allowed.
    MaxTokens,
}

/// A model's output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generated {
    /// The text, without the prompt, special tokens and the stop string.
    pub text: String,
    /// How many tokens were generated.
    pub n_tokens: usize,
    /// Why it ends.
    pub finish: Finish,
}

/// What prompts need of a language model; local or remote.
///
/// Answers are pure functions of what is asked: they depend neither on the other prompts of a batch
/// nor on what was asked before. Failures are handed on with [`PromptError::model`].
pub trait LanguageModel {
    /// The score of each continuation of each prompt, in order.
    ///
    /// # Errors
    /// [`PromptError::Model`] for the model's own.
    fn score(
        &mut self,
        requests: &[ScoreRequest],
    ) -> Result<Vec<Vec<ContinuationScore>>, PromptError>;

    /// One output a prompt, in order.
    ///
    /// # Errors
    /// [`PromptError::Model`] for the model's own.
    fn generate(
        &mut self,
        prompts: &[PromptText],
        options: &GenerateOptions,
    ) -> Result<Vec<Generated>, PromptError>;

    /// How many tokens each text has by itself, special tokens that the model adds not counted.
    ///
    /// # Errors
    /// [`PromptError::Model`] for the tokenizer's own.
    fn count_tokens(&self, texts: &[&str]) -> Result<Vec<usize>, PromptError>;

    /// Most tokens of a prompt with what follows it, special tokens that the model adds not
    /// counted.
    fn context_length(&self) -> usize;

    /// Whether what follows a prompt takes room in the prompt's context; not so of a model that
    /// reads and writes apart.
    fn continues_context(&self) -> bool {
        true
    }

    /// The model's own chat template, if it has one.
    fn chat_template(&self) -> Option<&ChatTemplate>;
}

/// The scores of requests, checked.
pub(crate) fn scored(
    model: &mut dyn LanguageModel,
    requests: &[ScoreRequest],
) -> Result<Vec<Vec<ContinuationScore>>, PromptError> {
    let rows = model.score(requests)?;
    same_number("rows of scores", requests.len(), rows.len())?;
    for (request, row) in requests.iter().zip(&rows) {
        same_number("scores a prompt", request.continuations.len(), row.len())?;
        for (continuation, score) in request.continuations.iter().zip(row) {
            if score.n_tokens == 0 {
                return Err(PromptError::EmptyContinuation {
                    continuation: continuation.clone(),
                });
            }
            if !score.log_probability.is_finite() {
                return Err(PromptError::NotFinite {
                    text: format!("{}{continuation}", request.prompt.whole()),
                });
            }
        }
    }
    Ok(rows)
}

/// The outputs for prompts, checked.
pub(crate) fn generated(
    model: &mut dyn LanguageModel,
    prompts: &[PromptText],
    options: &GenerateOptions,
) -> Result<Vec<Generated>, PromptError> {
    let outputs = model.generate(prompts, options)?;
    same_number("outputs", prompts.len(), outputs.len())?;
    for output in &outputs {
        if output.n_tokens > options.max_tokens {
            return Err(PromptError::ModelShape {
                what: "generated tokens",
                expected: options.max_tokens,
                found: output.n_tokens,
            });
        }
    }
    Ok(outputs)
}

/// How many tokens each text has, checked.
pub(crate) fn token_counts(
    model: &dyn LanguageModel,
    texts: &[&str],
) -> Result<Vec<usize>, PromptError> {
    let counts = model.count_tokens(texts)?;
    same_number("token counts", texts.len(), counts.len())?;
    Ok(counts)
}

fn same_number(what: &'static str, expected: usize, found: usize) -> Result<(), PromptError> {
    if expected == found {
        return Ok(());
    }
    Err(PromptError::ModelShape {
        what,
        expected,
        found,
    })
}

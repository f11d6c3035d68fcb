//! What can be wrong with prompts and their search.

use std::error::Error;

use hybrid_data::DataError;

use crate::search::Trial;

/// Why a prompt could not be made, rendered, scored or found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PromptError {
    /// A template that is not valid Jinja.
    #[error("template `{template}` is not valid")]
    Template {
        /// The template.
        template: String,
        /// What the template engine said.
        source: minijinja::Error,
    },
    /// A template that names something which is no input field.
    #[error(
        "template `{template}` uses `{field}`; known fields are {}",
        list(known)
    )]
    UnknownField {
        /// The template.
        template: String,
        /// The name it uses.
        field: String,
        /// The fields there are.
        known: Vec<String>,
    },
    /// A template whose text is the same for every input.
    #[error("template `{template}` never uses the input; put one of {} into it, as in `{{{{ {} }}}}`", list(known), known.first().map_or("text", String::as_str))]
    DropsInput {
        /// The template.
        template: String,
        /// The fields there are.
        known: Vec<String>,
    },
    /// A template that fails on some input.
    #[error("template `{template}` could not be filled in")]
    Render {
        /// The template.
        template: String,
        /// What the template engine said.
        source: minijinja::Error,
    },
    /// A model's chat template that is not valid Jinja.
    #[error("the model's chat template is not valid")]
    ChatTemplate {
        /// What the template engine said.
        source: minijinja::Error,
    },
    /// A chat template that refuses the messages, fails on them or takes too long.
    #[error("the model's chat template could not render {n_messages} messages")]
    ChatRender {
        /// How many messages it was given.
        n_messages: usize,
        /// What the template engine said.
        source: minijinja::Error,
    },
    /// A prompt in chat format for a model without chat template.
    #[error("the prompt is in chat format, but the model has no chat template")]
    NoChatTemplate,
    /// A part of a prompt that an encoder does not read.
    #[error("the prompt has {part}, which a sentence encoder does not read")]
    LanguageModelOnly {
        /// The part.
        part: &'static str,
    },
    /// Label words for a label that does not exist.
    #[error("label words are given for `{label}`, which is none of the {n_labels} labels")]
    UnknownLabel {
        /// The label.
        label: String,
        /// How many labels there are.
        n_labels: usize,
    },
    /// A label without words.
    #[error("label `{label}` has no label words")]
    NoLabelWords {
        /// The label.
        label: String,
    },
    /// One word that stands for two labels.
    #[error("the label word `{word}` stands for `{first}` and for `{second}`")]
    SharedLabelWord {
        /// The word.
        word: String,
        /// A label.
        first: String,
        /// Another label.
        second: String,
    },
    /// A continuation that is no token to the model.
    #[error("`{continuation}` has no tokens, so it cannot be scored")]
    EmptyContinuation {
        /// The continuation.
        continuation: String,
    },
    /// A prompt that is too long even with the input cut away.
    #[error("the prompt takes {needed} tokens without its input, and {limit} are allowed")]
    DoesNotFit {
        /// Tokens of the instruction and template alone.
        needed: usize,
        /// Tokens that a prompt may have.
        limit: usize,
    },
    /// Demonstrations by nearness without anything that embeds texts.
    #[error("the nearest demonstrations are wanted, but nothing embeds texts")]
    NoEmbedding,
    /// Demonstrations from the model's own answers where it gives none.
    #[error("demonstrations cannot be bootstrapped where the model gives no answers of its own")]
    NoOwnAnswers,
    /// An output without text.
    #[error("the model generated nothing")]
    EmptyOutput,
    /// An output that names no label.
    #[error("the output `{output}` names no label")]
    NoLabelInOutput {
        /// The output.
        output: String,
    },
    /// An output that is no part of the field that it should quote.
    #[error("the output `{output}` is no part of the field `{field}`")]
    NotInField {
        /// The field.
        field: String,
        /// The output.
        output: String,
    },
    /// A search over nothing.
    #[error("the search space holds no {what}")]
    EmptySpace {
        /// What is missing.
        what: &'static str,
    },
    /// A search over more prompts than can be tried one by one.
    #[error("the search space holds {n_prompts} prompts; at most {most} can be tried one by one")]
    LargeSpace {
        /// How many prompts there are.
        n_prompts: usize,
        /// How many can be tried.
        most: usize,
    },
    /// A setting that cannot work.
    #[error("`{setting}` is {found}, expected at least {least}")]
    Setting {
        /// The setting.
        setting: &'static str,
        /// Its value.
        found: usize,
        /// The least value that works.
        least: usize,
    },
    /// An example that cannot be scored.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The model failed.
    #[error("the model failed on a batch of {n_texts} texts")]
    Model {
        /// How many texts it was given.
        n_texts: usize,
        /// What it said.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The model returned other than one vector of one width for each text.
    #[error("the model returned {found} {what}, expected {expected}")]
    ModelShape {
        /// What was counted.
        what: &'static str,
        /// How many there should be.
        expected: usize,
        /// How many there are.
        found: usize,
    },
    /// The model returned a number that is not finite.
    #[error("the model returned a value that is not finite for the text `{text}`")]
    NotFinite {
        /// The text.
        text: String,
    },
    /// A model's answer could not be recorded.
    #[error("an answer of the model could not be recorded")]
    Record {
        /// What failed.
        source: Box<dyn Error + Send + Sync>,
    },
    /// A budget that is too small to score a single prompt.
    #[error("scoring the first prompt takes {needed} tokens, and {left} are left of the budget")]
    Budget {
        /// Tokens of the first trial.
        needed: u64,
        /// Tokens left.
        left: u64,
    },
    /// The observer stopped the search before a single prompt was scored.
    #[error("the search was stopped before a prompt was scored")]
    StoppedEarly,
    /// A search that failed on its way; what it had found is kept.
    #[error("prompt search failed after {} trials", trials.len())]
    Search {
        /// The finished trials, in order.
        trials: Vec<Trial>,
        /// What failed.
        source: Box<PromptError>,
    },
}

impl PromptError {
    /// A failure of a model on a batch of texts. An error that is of this kind already stays as it
    /// is, so that models that wrap models hand the inner one's error on.
    pub fn model(n_texts: usize, error: impl Error + Send + Sync + 'static) -> Self {
        let error: Box<dyn Error + Send + Sync> = Box::new(error);
        match error.downcast::<Self>() {
            Ok(inner) => *inner,
            Err(source) => Self::Model { n_texts, source },
        }
    }

    /// Refuses a setting that is less than what works.
    pub(crate) fn at_least(
        setting: &'static str,
        found: usize,
        least: usize,
    ) -> Result<usize, Self> {
        if found < least {
            return Err(Self::Setting {
                setting,
                found,
                least,
            });
        }
        Ok(found)
    }
}

/// Names in words.
fn list(names: &[String]) -> String {
    if names.is_empty() {
        "none".to_owned()
    } else {
        format!("`{}`", names.join("`, `"))
    }
}

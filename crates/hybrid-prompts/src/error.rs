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
    /// A search over nothing.
    #[error("the search space holds no {what}")]
    EmptySpace {
        /// What is missing.
        what: &'static str,
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

/// Names in words.
fn list(names: &[String]) -> String {
    if names.is_empty() {
        "none".to_owned()
    } else {
        format!("`{}`", names.join("`, `"))
    }
}

//! Examples to text: templates, label words and the search over them.
//!
//! A [`Prompt`] is a [`Template`] that turns an example's fields into the text a model reads, and
//! the label words that stand for each class. With a sentence encoder it classifies without any
//! training: the class whose averaged label-word vector is nearest to the input's vector
//! ([`score`]). [`search`] finds the best prompt of a [`SearchSpace`].
//!
//! Prompts are text, never tensors: this crate pulls no tensor library and talks to a model through
//! [`PromptModel`] alone.
//!
//! ```
//! use std::collections::BTreeSet;
//! use hybrid_prompts::Template;
//!
//! let fields = BTreeSet::from(["text".to_owned()]);
//! let template = Template::for_fields("customer question: {{ text }}", &fields)?;
//! let example = [("text".to_owned(), "where is my card?".to_owned())].into();
//! assert_eq!(template.render(&example)?, "customer question: where is my card?");
//! // A template that drops the input is refused, as is one with an unknown field.
//! assert!(Template::for_fields("customer question:", &fields).is_err());
//! assert!(Template::for_fields("{{ txt }}", &fields).is_err());
//! # Ok::<(), hybrid_prompts::PromptError>(())
//! ```

mod error;
#[cfg(test)]
mod fake_model;
mod label_words;
mod library;
mod model;
mod prompt;
mod scoring;
mod search;
mod template;

pub use error::PromptError;
pub use label_words::{label_phrase, label_words};
pub use library::{default_label_patterns, default_templates};
pub use model::PromptModel;
pub use prompt::Prompt;
pub use scoring::{SIMILARITY_SCALE, Scores, label_vectors, score, score_by_similarity};
pub use search::{
    SearchEvent, SearchOutcome, SearchRequest, SearchSpace, SearchStrategy, Trial, search,
};
pub use template::Template;

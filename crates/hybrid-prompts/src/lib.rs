//! Examples to text: templates, label words, demonstrations, instructions and the search over them.
//!
//! A [`Prompt`] is a [`Template`] that turns an example's fields into the text a model reads, and
//! the label words that stand for each class. With a sentence encoder ([`PromptModel`]) it
//! classifies without any training: the class whose averaged label-word vector is nearest to the
//! input's vector ([`score`]). [`search`] finds the best prompt of a [`SearchSpace`].
//!
//! For a [`LanguageModel`] a prompt also has an instruction, [`Demonstrations`] and a format, in
//! plain text or through the model's own [`ChatTemplate`]. It classifies by the probabilities of
//! label words, with contextual calibration, or generates answers that are read as a label, a span
//! or free text ([`score_language`], [`Objective`]). [`search_language`] finds the best prompt under
//! a budget of tokens; a [`PromptedModel`] remembers what the model answered, which is all that an
//! interrupted search needs to go on.
//!
//! Prompts are text, never tensors: this crate pulls no tensor library and talks to models through
//! the two traits alone.
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

mod answers;
mod chat_template;
mod demonstration;
mod error;
#[cfg(test)]
mod fake_language_model;
#[cfg(test)]
mod fake_model;
mod instruction;
mod instruction_writer;
mod label_scoring;
mod label_words;
mod language_model;
mod language_scoring;
mod library;
mod model;
mod neighbours;
mod output;
mod prompt;
mod prompted_model;
mod rendering;
mod sampling;
mod scoring;
mod search;
mod template;

pub use answers::{Answer, Answered, Answers, Record};
pub use chat_template::{ChatTemplate, Message};
pub use demonstration::{Demonstration, DemonstrationChoice, Demonstrations};
pub use error::PromptError;
pub use instruction::{Edit, EditKind, InstructionGrammar};
pub use instruction_writer::{Mistake, WritingTask, write_instructions};
pub use label_scoring::{Calibration, LabelScoring, LengthNormalization};
pub use label_words::{label_phrase, label_words};
pub use language_model::{
    ContinuationScore, Finish, GenerateOptions, Generated, LanguageModel, PromptText, ScoreRequest,
};
pub use language_scoring::{
    ClassScores, LanguageScores, Objective, OutputMetric, classify_language, score_language,
};
pub use library::{
    TaskKind, default_instructions, default_label_patterns, default_language_templates,
    default_templates,
};
pub use model::PromptModel;
pub use neighbours::Embed;
pub use output::{Output, OutputKind, parse_output};
pub use prompt::{Prompt, PromptFormat};
pub use prompted_model::{FittedPrompts, PromptedModel};
pub use rendering::{Fitted, Renderer, continuation};
pub use scoring::{SIMILARITY_SCALE, Scores, label_vectors, score, score_by_similarity};
pub use search::{
    BestSoFar, Criterion, InstructionProposals, LanguageSearch, SearchEvent, SearchOutcome,
    SearchRequest, SearchSpace, SearchStrategy, Trial, search, search_language,
};
pub use template::Template;

//! Errors of this crate, and what they mean for the exit code.

use std::error::Error;
use std::path::PathBuf;

use hybrid_adapters::AdapterError;
use hybrid_data::DataError;
use hybrid_eval::EvalError;
use hybrid_models::ModelError;
use hybrid_optim::OptimError;
use hybrid_prompts::PromptError;

use crate::recipe::RecipeError;

/// What can go wrong in a run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HybridError {
    /// The recipe is faulty.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// The examples are faulty.
    #[error(transparent)]
    Data(#[from] DataError),
    /// Files of examples are not there.
    #[error(
        "{folder}: {}; put them there, or name another folder with --set data.folder=FOLDER",
        missing.join("; ")
    )]
    NoData {
        /// The folder of the recipe.
        folder: PathBuf,
        /// Each key with its file.
        missing: Vec<String>,
    },
    /// The base cannot be found or read, or the device is not there.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// An adapter does not fit the base, or its file is faulty.
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    /// A template or label word is faulty.
    #[error(transparent)]
    Prompt(#[from] PromptError),
    /// Training cannot go on.
    #[error(transparent)]
    Optim(#[from] OptimError),
    /// A figure or the report cannot be made.
    #[error(transparent)]
    Eval(#[from] EvalError),
    /// A file of the run cannot be written.
    #[error("{path}: cannot be written: {source}")]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file of a run or artifact cannot be read.
    #[error("{path}: cannot be read: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file of a run or artifact is not what this program wrote.
    #[error("{path}: not a file of this program's making: {reason}")]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A journal line is no event.
    #[error("{path}:{line}: not a journal event: {source}")]
    Journal {
        /// The journal.
        path: PathBuf,
        /// Line, counted from 1.
        line: usize,
        /// Why.
        source: serde_json::Error,
    },
    /// Another process works on the run.
    #[error("{path}: another process works on this run; wait for it, or choose another --out")]
    Locked {
        /// The run folder.
        path: PathBuf,
    },
    /// The run was begun with another recipe, device, data or base.
    #[error("{path}: this run was begun otherwise; changed: {}\n  \
        go on as it was begun, choose another --out, or start over with --fresh", changes.join("; "))]
    Changed {
        /// The run folder.
        path: PathBuf,
        /// What differs: `key: old -> new`.
        changes: Vec<String>,
    },
    /// The folder holds something else than a run.
    #[error("{path}: the folder is not empty and holds no run; choose another --out")]
    NotARun {
        /// The folder.
        path: PathBuf,
    },
    /// Where a folder is to be written, there is a file, or a folder that is not empty.
    #[error("{path}: exists already; choose another --out")]
    Occupied {
        /// The file or folder.
        path: PathBuf,
    },
    /// Label words that the next token cannot tell apart.
    #[error(
        "the label words of {first:?} ({}) and {second:?} ({}) begin with the same token, so \
        training cannot tell them apart; give other label words", words[0], words[1]
    )]
    SharedFirstToken {
        /// One label.
        first: String,
        /// The other label.
        second: String,
        /// The words of both.
        words: [String; 2],
    },
    /// A tokenizer that belongs to another model.
    #[error(
        "{path}: the tokenizer needs a vocabulary of {found} tokens, but the model has {expected}; \
        use the tokenizer that belongs to the model"
    )]
    Vocabulary {
        /// The model.
        path: PathBuf,
        /// Tokens of the model's vocabulary.
        expected: usize,
        /// One more than the tokenizer's largest token id.
        found: usize,
    },
    /// The loss of an update is no number: the training went too far.
    #[error(
        "step {step}: the loss is not finite{}; lower the learning rate, or bound the norm",
        layer.map_or(String::new(), |layer| {
            format!(", and the first layer with such an output is {layer}")
        })
    )]
    Diverged {
        /// The update, counted from 1.
        step: usize,
        /// The first layer of a language model whose output is not finite, counted from 0, if it is
        /// a layer's.
        layer: Option<usize>,
    },
    /// The user stopped the run.
    #[error("stopped; all finished work is saved in {run}: the same command goes on from here")]
    Interrupted {
        /// The run folder.
        run: PathBuf,
    },
    /// A model that reads but does not write.
    #[error("{path}: an encoder writes no text; generate takes a decoder or an encoder-decoder")]
    WritesNothing {
        /// The model.
        path: PathBuf,
    },
    /// An option of the command line that does not fit the model.
    #[error("{option}: {reason}")]
    Option {
        /// The option.
        option: &'static str,
        /// Why it does not fit.
        reason: &'static str,
    },
    /// An input line is not what the command reads.
    #[error("{origin}:{line}: {reason}")]
    Input {
        /// The file, or `standard input`.
        origin: String,
        /// Line, counted from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
}

impl HybridError {
    /// 2 for input that must be changed, 1 for work that failed or was stopped.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Optim(
                OptimError::InvalidSetting { .. }
                | OptimError::GroupPattern { .. }
                | OptimError::EmptyGroup { .. },
            )
            | Self::Eval(EvalError::Read { .. } | EvalError::Format { .. }) => 2,
            Self::Optim(_) | Self::Eval(_) | Self::Diverged { .. } | Self::Interrupted { .. } => 1,
            _ => 2,
        }
    }
}

/// An error with its causes, in one line where they have one each. A cause whose text an error
/// above it repeats is not repeated.
pub(crate) fn describe(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let reason = error.to_string();
        if !text.contains(&reason) {
            text = format!("{text}: {reason}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use hybrid_data::DataError;
    use hybrid_eval::EvalError;

    use super::{HybridError, describe};

    fn absent() -> std::io::Error {
        std::io::Error::new(std::io::ErrorKind::NotFound, "it went away")
    }

    #[test]
    fn causes_are_told_once() {
        let path = PathBuf::from("a.jsonl");
        let error = HybridError::from(DataError::Read {
            path: path.clone(),
            source: absent(),
        });
        assert_eq!(describe(&error), "a.jsonl: cannot be read: it went away");
        let error = HybridError::Read {
            path,
            source: absent(),
        };
        assert_eq!(describe(&error), "a.jsonl: cannot be read: it went away");
    }

    #[test]
    fn a_report_that_cannot_be_read_is_the_users_to_mend() {
        let unreadable = EvalError::Read {
            path: PathBuf::from("report.json"),
            source: absent(),
        };
        assert_eq!(HybridError::from(unreadable).exit_code(), 2);
        let empty = EvalError::Empty { what: "targets" };
        assert_eq!(HybridError::from(empty).exit_code(), 1);
    }
}

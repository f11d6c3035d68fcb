//! Hybrid fine-tuning of language models.
#![doc = include_str!("../../../README.md")]
#![recursion_limit = "256"]

mod alternate;
mod artifact;
mod candidate;
pub mod cli;
mod criterion;
mod error;
mod evaluate;
mod generator;
mod inputs;
mod interrupt;
mod journal;
mod local_model;
mod merged;
mod model_tokenizer;
mod open_model;
mod parallel;
mod peft_artifact;
mod preflight;
mod progress;
pub mod recipe;
mod run;
mod run_folder;
mod spans;
mod stage;
mod summary;
mod task;
mod tensors;
mod text_stream;

pub use artifact::{Artifact, ArtifactDescription};
pub use candidate::{AdapterRecord, Candidate};
pub use error::HybridError;
pub use inputs::Inputs;
pub use journal::{Event, StopReason};
pub use local_model::LocalModel;
pub use model_tokenizer::{gguf_vocabulary, load_chat_template, load_tokenizer};
pub use progress::Show;
pub use run::{TrainOptions, train};
pub use task::TaskSettings;
pub use text_stream::TextStream;

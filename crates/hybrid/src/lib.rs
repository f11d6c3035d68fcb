//! Hybrid fine-tuning of language models.

#![recursion_limit = "256"]

pub mod recipe;
mod error;
mod run_folder;
mod journal;
mod tensors;
mod interrupt;
mod progress;
mod task;
mod local_model;
mod evaluate;
mod candidate;
mod stage;
mod alternate;
mod preflight;
mod artifact;
mod merged;
mod summary;
mod run;
pub mod cli;

pub use artifact::{Artifact, ArtifactDescription};
pub use candidate::{AdapterRecord, Candidate};
pub use error::HybridError;
pub use journal::{Event, StopReason};
pub use local_model::LocalModel;
pub use progress::Show;
pub use run::{TrainOptions, train};

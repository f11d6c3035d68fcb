//! `cargo xtask bench-peers`: hybrid beside other programs, on the same work and in one run.

use std::process::ExitCode;

use clap::Subcommand;

use crate::error::XtaskError;

mod decoding;
mod document;
mod exported;
mod growth;
mod machine;
mod process;
mod python;
mod summary;
mod training;

/// What is compared.
#[derive(Debug, Subcommand)]
pub(crate) enum Comparison {
    /// Reading and writing with SmolLM2, beside llama.cpp and Transformers.
    Decoding(decoding::Arguments),
    /// Training and prompt search, beside Transformers with PEFT and others.
    Training(training::Arguments),
    /// How the time and memory of hybrid's own training grow.
    Growth(growth::Arguments),
}

/// Runs all programs and writes the figures down.
pub(crate) fn run(comparison: &Comparison) -> Result<ExitCode, XtaskError> {
    match comparison {
        Comparison::Decoding(arguments) => decoding::run(arguments),
        Comparison::Training(arguments) => training::run(arguments),
        Comparison::Growth(arguments) => growth::run(arguments),
    }
}

//! One integration binary over the public faces of all crates.
//!
//! Every test that reads golden fixtures has `parity` in its name and walks the folder that
//! `HYBRID_FIXTURES` names (default: `tests/fixtures`) on the device that `HYBRID_DEVICE` names
//! (default: `flex`).

#![recursion_limit = "256"]

mod any_base;
mod backends;
mod bad_input;
mod contracts;
mod decoder_reference;
mod fixtures;
mod parity_adapters;
mod parity_metrics;
mod parity_models;
mod parity_objectives;
mod parity_real;
mod parity_seq2seq;
mod parity_tokenizer;
mod parity_training;
mod peft_reference;
mod seq2seq_reference;
mod tiny_task;
mod train;
mod training_run;

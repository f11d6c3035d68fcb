//! One integration binary over the public faces of all crates.
//!
//! Every test that reads golden fixtures has `parity` in its name and walks the folder that
//! `HYBRID_FIXTURES` names (`tests/fixtures` without it, and for kinds of fixtures that it has none of)
//! on the device that `HYBRID_DEVICE` names (default: `flex`). `HYBRID_TOLERANCE` widens what such tests allow (default: 0).

#![recursion_limit = "256"]

mod any_base;
mod backends;
mod bad_input;
mod bad_input_disk;
mod bad_input_language;
mod bad_input_preflight;
mod classifier_reference;
mod contracts;
mod decoder_reference;
mod encoder_decoder_loop;
mod eva_reference;
mod fixtures;
mod language;
mod parity_adapter_commands;
mod parity_adapters;
mod parity_bad_gguf;
mod parity_bfloat16;
mod parity_chat;
mod parity_generate;
mod parity_gguf;
mod parity_kept;
mod parity_merging;
mod parity_metrics;
mod parity_models;
mod parity_objectives;
mod parity_real;
mod parity_seq2seq;
mod parity_tokenizer;
mod parity_training;
mod passages;
mod peft_classifiers;
mod peft_folders;
mod peft_reference;
mod prompt_search;
mod reference;
mod run_comparison;
mod seq2seq_reference;
mod tiny_model;
mod tiny_task;
mod train;
mod train_data;
mod train_merge;
mod train_output;
mod train_predict;
mod train_resume;
mod train_stages;
mod train_variants;
mod trainer_reference;
mod training_run;

//! PEFT's file format: `adapter_config.json` and `adapter_model.safetensors`, both ways.
//!
//! LoRA, IA3, LayerNorm tuning, all methods of `site_method`, prompt tuning, prefix tuning and P-tuning
//! have a place in it, each with unfrozen layers beside it (`modules_to_save`). Keys are `base_model.model.` + module path +
//! tensor, linear weights `[d_out, d_in]`. What stands in front of the tokens is one tensor,
//! `prompt_embeddings`, without the network it may come from; beside it keys start with
//! `base_model.`.

use crate::AdapterConfig;

mod config_file;
mod config_text;
mod keys;
mod load;
mod save;
mod tensor_file;

pub use keys::{load_torch_tensors, torch_tensors};
pub use load::load_peft;
pub use save::{peft_has, save_peft};

const CONFIG: &str = "adapter_config.json";
const TENSORS: &str = "adapter_model.safetensors";
const PROMPT: &str = "prompt_embeddings";

/// What every key of a file starts with, but that of [`PROMPT`].
fn key_start(method: &AdapterConfig) -> &'static str {
    match method.is_in_front() {
        true => "base_model.",
        false => "base_model.model.",
    }
}

/// A whole key: `start`, what stands before the base's paths, and the key of a place, unless that is
/// whole.
fn full_key(start: &str, prefix: &str, key: &str) -> String {
    match is_whole(key) {
        true => key.to_owned(),
        false => format!("{start}{prefix}{key}"),
    }
}

/// Whether a key is that of [`PROMPT`] or of a tensor that all sites share: below no module.
fn is_whole(key: &str) -> bool {
    let shared = key.strip_prefix("base_model.");
    key == PROMPT || shared.is_some_and(|name| !name.contains('.'))
}

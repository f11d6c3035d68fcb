//! PEFT's file format: `adapter_config.json` and `adapter_model.safetensors`, both ways;
//! `adapter_model.bin` is read where that is not there.
//!
//! LoRA, IA3, LayerNorm tuning, all methods of `site_method`, prompt tuning, prefix tuning,
//! cartridges and P-tuning have a place in it, each with unfrozen layers beside it
//! (`modules_to_save`). Keys are `base_model.model.` + module path + tensor, linear weights
//! `[d_out, d_in]`. What stands in front of the tokens is one tensor, `prompt_embeddings`, without
//! the network it may come from; beside it keys start with `base_model.`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::TensorData;
use hybrid_models::Layer;

use crate::{AdapterConfig, AdapterError, cartridge};

mod classifier;
mod config_file;
mod config_text;
mod inspect;
mod key_lists;
mod keys;
mod load;
mod save;
mod tensor_file;
mod torch_file;
mod values;

pub use classifier::load_peft_classifier;
pub use inspect::{PeftSummary, inspect_peft};
pub use load::load_peft;
pub use save::{peft_has, peft_has_head, save_peft};
pub use values::{load_torch_tensors, torch_tensors};

/// The PEFT release whose keys are known, and written.
pub(crate) const PEFT_VERSION: &str = "0.21.2";

const CONFIG: &str = "adapter_config.json";
const TENSORS: &str = "adapter_model.safetensors";
const OLD_TENSORS: &str = "adapter_model.bin";
const PROMPT: &str = "prompt_embeddings";

/// Keys without anything before them: [`PROMPT`], what multitask prompts have beside it, and a
/// cartridge's part of it.
const BARE: [&str; 4] = [
    PROMPT,
    "prefix_task_cols",
    "prefix_task_rows",
    cartridge::FROZEN,
];

/// What stands before the numbers of tensors that several sites share each.
const NUMBERED: [&str; 1] = ["tinylora_v."];

/// The tensors of an adapter's folder as float32, and the file that holds them.
///
/// # Errors
/// [`AdapterError::Read`] or [`AdapterError::Format`].
fn read_tensors(folder: &Path) -> Result<(PathBuf, BTreeMap<String, TensorData>), AdapterError> {
    let (path, old) = (folder.join(TENSORS), folder.join(OLD_TENSORS));
    if !path.exists() && old.exists() {
        let tensors = torch_file::read(&old)?;
        return Ok((old, tensors));
    }
    let tensors = tensor_file::read(&path)?;
    Ok((path, tensors))
}

/// What every key of a file starts with, but those in [`BARE`].
fn key_start(method: &AdapterConfig) -> &'static str {
    match method.is_in_front() {
        true => "base_model.",
        false => "base_model.model.",
    }
}

/// The weight of an embedding or an output layer as files have it, `[n, d_model]`.
fn stored_table(layer: &Layer) -> Option<TensorData> {
    let data = match layer {
        Layer::Embedding(embedding) => embedding.weight.to_data(),
        Layer::Linear(linear) => linear.weight.clone().transpose().to_data(),
        Layer::Norm(_) => return None,
    };
    Some(data.convert::<f32>())
}

/// A whole key: `start`, what stands before the base's paths, and the key of a place, unless that
/// is whole.
fn full_key(start: &str, prefix: &str, key: &str) -> String {
    match is_whole(key) {
        true => key.to_owned(),
        false => format!("{start}{prefix}{key}"),
    }
}

/// Whether a path is that of a module or leads into it.
fn is_within(path: &str, module: &str) -> bool {
    let rest = path.strip_prefix(module);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Whether a key is one of [`BARE`] or of a tensor that all sites share, or several: below no
/// module.
fn is_whole(key: &str) -> bool {
    let of_several = |name: &str| NUMBERED.iter().any(|start| name.starts_with(start));
    let shared = key.strip_prefix("base_model.");
    BARE.contains(&key) || shared.is_some_and(|name| !name.contains('.') || of_several(name))
}

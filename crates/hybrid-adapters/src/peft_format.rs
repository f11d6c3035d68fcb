//! PEFT's file format: `adapter_config.json` and `adapter_model.safetensors`, both ways.
//!
//! LoRA, IA3 and LayerNorm tuning have a place in it, each with unfrozen layers beside it
//! (`modules_to_save`). Keys are `base_model.model.` + module path + tensor, linear weights
//! `[d_out, d_in]`.

mod config_file;
mod config_text;
mod keys;
mod load;
mod save;
mod tensor_file;

pub use keys::torch_tensors;
pub use load::load_peft;
pub use save::{peft_has, save_peft};

const CONFIG: &str = "adapter_config.json";
const TENSORS: &str = "adapter_model.safetensors";
const KEY_PREFIX: &str = "base_model.model.";

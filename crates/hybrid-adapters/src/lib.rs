//! Small trainable modules over a frozen base: LoRA, IA3, BitFit, soft prompts, heads and more, in
//! PEFT's file format.
//!
//! A stack of methods ([`Adapters`]) acts on a base through its hooks; the base is neither wrapped
//! nor changed. The stack and a [`ClassifierHead`] or [`SpanHead`] are Burn modules of their own, so optimiser,
//! checkpoints and autodiff see nothing else.

#![recursion_limit = "256"]

mod adapters;
mod bias;
mod bitfit;
mod bottleneck;
mod compose;
mod config;
mod dense;
mod dora;
mod error;
mod frozen;
mod head;
mod ia3;
mod layer_norm;
mod lora;
mod lstm;
mod merge;
mod method;
mod named_tensors;
mod p_tuning;
mod pattern_map;
mod peft_format;
mod prefix_tuning;
mod prompt_tuning;
mod random;
mod recomputed;
mod site_map;
mod span_head;
mod targets;
mod trainable;
mod unfreeze;
mod virtual_tokens;

pub use adapters::Adapters;
pub use bitfit::BitfitConfig;
pub use bottleneck::{Activation, BottleneckConfig, Placement};
pub use config::AdapterConfig;
pub use error::AdapterError;
pub use head::{ClassifierHead, HeadConfig, head_from_tensors, head_to_tensors, unit_rows};
pub use ia3::Ia3Config;
pub use layer_norm::LayerNormConfig;
pub use lora::{BiasMode, LoraConfig};
pub use p_tuning::{PTuningConfig, Reparameterization};
pub use pattern_map::PatternMap;
pub use peft_format::{load_peft, load_torch_tensors, peft_has, save_peft, torch_tensors};
pub use prefix_tuning::{PrefixInit, PrefixTuningConfig};
pub use prompt_tuning::{PromptTuningConfig, PromptTuningInit};
pub use span_head::SpanHead;
pub use targets::Targets;
pub use trainable::Trainable;
pub use unfreeze::UnfreezeConfig;

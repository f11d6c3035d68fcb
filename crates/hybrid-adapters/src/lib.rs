//! Small trainable modules over a frozen base: LoRA, IA3, BitFit, soft prompts, heads and more, in
//! PEFT's file format.
//!
//! A stack of methods ([`Adapters`]) acts on a base through its hooks; the base is neither wrapped
//! nor changed. The stack and a [`ClassifierHead`] or [`SpanHead`] are Burn modules of their own, so optimiser,
//! checkpoints and autodiff see nothing else.

#![recursion_limit = "256"]

mod adalora;
mod adamss;
mod adapter_set;
mod adapters;
mod adaption_prompt;
mod any_method;
mod beft;
mod bias;
mod bitfit;
mod boft;
mod bottleneck;
mod by_row;
mod c3a;
mod cartridge;
mod catalogue;
mod cayley;
mod combine;
mod compacter;
mod compose;
mod config;
mod decomposition;
mod deft;
mod delora;
mod dense;
mod dora;
mod error;
mod fourierft;
mod frozen;
mod glora;
mod gralora;
mod gram_schmidt;
mod head;
mod hira;
mod hra;
mod ia3;
mod layer_norm;
mod lily;
mod loha;
mod lokr;
mod lora;
mod loreft;
mod lstm;
mod merge;
mod method;
mod miss;
mod module_order;
mod multitask_prompt_tuning;
mod named_tensors;
mod numpy_random;
mod oft;
#[cfg(test)]
mod one_linear;
mod osf;
mod p_tuning;
mod pattern_map;
mod peanut;
mod peft_format;
mod poly;
mod prefix_tuning;
mod principal;
mod prompt_tuning;
mod pvera;
mod randlora;
mod random;
mod recomputed;
mod road;
mod shared_pair;
mod shira;
mod side_by_side;
mod site_map;
mod site_method;
mod site_place;
mod span_head;
mod targets;
mod tinylora;
mod torch_random;
mod trainable;
mod trainable_tokens;
mod training_memory;
mod unfreeze;
mod unilora;
mod unipelt;
mod vblora;
mod vera;
mod virtual_tokens;
mod waveft;

pub use adalora::{AdaloraConfig, RankAllocator};
pub use adamss::AdamssConfig;
pub use adapter_set::AdapterSet;
pub use adapters::Adapters;
pub use adaption_prompt::AdaptionPromptConfig;
pub use beft::BeftConfig;
pub use bitfit::BitfitConfig;
pub use boft::BoftConfig;
pub use bottleneck::{Activation, BottleneckConfig, Placement};
pub use by_row::RowAdapters;
pub use c3a::{C3aConfig, C3aDistribution, C3aInit};
pub use cartridge::CartridgeConfig;
pub use catalogue::{MethodInfo, catalogue};
pub use combine::{CombinationType, CombineConfig, MajoritySign, combine};
pub use compacter::CompacterConfig;
pub use config::AdapterConfig;
pub use deft::DeftConfig;
pub use delora::DeloraConfig;
pub use error::AdapterError;
pub use fourierft::FourierftConfig;
pub use glora::{GloraBias, GloraConfig, GloraImage, GloraWeight};
pub use gralora::GraloraConfig;
pub use head::{
    ClassifierHead, HeadConfig, HeadForm, head_from_tensors, head_to_tensors, unit_rows,
};
pub use hira::HiraConfig;
pub use hra::HraConfig;
pub use ia3::Ia3Config;
pub use layer_norm::LayerNormConfig;
pub use lily::LilyConfig;
pub use loha::LohaConfig;
pub use lokr::LokrConfig;
pub use lora::{BiasMode, EvaConfig, ExplainedVariance, LoraConfig, LoraInit};
pub use loreft::LoreftConfig;
pub use miss::{MissConfig, MissForm, OtherMissForm};
pub use multitask_prompt_tuning::MultitaskPromptTuningConfig;
pub use oft::OftConfig;
pub use osf::{OsfConfig, OsfRank};
pub use p_tuning::{PTuningConfig, Reparameterization};
pub use pattern_map::PatternMap;
pub use peanut::PeanutConfig;
pub use peft_format::{
    PeftSummary, inspect_peft, load_peft, load_peft_classifier, load_torch_tensors, peft_has,
    peft_has_head, save_peft, torch_tensors,
};
pub use poly::PolyConfig;
pub use prefix_tuning::{PrefixInit, PrefixTuningConfig};
pub use prompt_tuning::{PromptTuningConfig, PromptTuningInit};
pub use pvera::PveraConfig;
pub use randlora::RandloraConfig;
pub use road::{RoadConfig, RoadVariant};
pub use shira::{ShiraConfig, ShiraMask};
pub use side_by_side::SideBySide;
pub use span_head::SpanHead;
pub use targets::Targets;
pub use tinylora::{TinyloraConfig, TinyloraDistribution, TinyloraInit};
pub use trainable::Trainable;
pub use trainable_tokens::TrainableTokensConfig;
pub use training_memory::TrainingMemory;
pub use unfreeze::UnfreezeConfig;
pub use unilora::UniloraConfig;
pub use unipelt::UnipeltConfig;
pub use vblora::VbloraConfig;
pub use vera::VeraConfig;
pub use waveft::WaveftConfig;

//! The keys of what stands in front of the tokens.

use hybrid_models::{Base, StackShape};
use serde_json::{Value, json};

use super::Keys;
use crate::{
    CartridgeConfig, MultitaskPromptTuningConfig, PTuningConfig, PrefixTuningConfig,
    PromptTuningConfig,
};

/// The sizes that PEFT takes from the base's configuration. Those of a prefix are its keys'.
fn in_front(
    num_virtual_tokens: usize,
    num_transformer_submodules: Option<usize>,
    base: &dyn Base,
    is_prefix: bool,
) -> Keys {
    let stacks = base.stacks();
    let stack = stacks.first();
    let size = |of: fn(&StackShape) -> usize| json!(stack.map(of));
    let (heads, token_dim) = match is_prefix {
        true => (
            size(|stack| stack.n_kv_heads),
            size(|stack| stack.n_kv_heads * stack.d_head),
        ),
        false => (size(|stack| stack.n_heads), size(|stack| stack.d_model)),
    };
    vec![
        ("num_attention_heads", heads),
        ("num_layers", size(|stack| stack.n_layers)),
        (
            "num_transformer_submodules",
            json!(num_transformer_submodules.unwrap_or(stacks.len())),
        ),
        ("num_virtual_tokens", json!(num_virtual_tokens)),
        ("token_dim", token_dim),
    ]
}

/// The size within a small network: PEFT puts that of a vector for none.
fn hidden_size(given: Option<usize>, keys: &Keys) -> Value {
    let token_dim = keys.iter().find(|(key, _)| *key == "token_dim");
    match (given, token_dim) {
        (None, Some((_, token_dim))) => token_dim.clone(),
        (given, _) => json!(given),
    }
}

pub(super) fn prompt_tuning(config: &PromptTuningConfig, base: &dyn Base) -> Keys {
    let (n_virtual, n_stacks) = (config.num_virtual_tokens, config.num_transformer_submodules);
    let mut keys = in_front(n_virtual, n_stacks, base, false);
    keys.extend([
        ("peft_type", json!("PROMPT_TUNING")),
        ("prompt_tuning_init", json!(config.prompt_tuning_init)),
        (
            "prompt_tuning_init_text",
            json!(config.prompt_tuning_init_text),
        ),
        ("tokenizer_kwargs", Value::Null),
        (
            "tokenizer_name_or_path",
            json!(config.tokenizer_name_or_path),
        ),
    ]);
    keys
}

pub(super) fn multitask(config: &MultitaskPromptTuningConfig, base: &dyn Base) -> Keys {
    let (n_virtual, n_stacks) = (config.num_virtual_tokens, config.num_transformer_submodules);
    let mut keys = in_front(n_virtual, n_stacks, base, false);
    keys.extend([
        ("num_ranks", json!(config.num_ranks)),
        ("num_tasks", json!(config.num_tasks)),
        ("peft_type", json!("MULTITASK_PROMPT_TUNING")),
        ("prompt_tuning_init", json!("RANDOM")),
        ("prompt_tuning_init_state_dict_path", Value::Null),
        ("prompt_tuning_init_task", json!(0)),
        ("prompt_tuning_init_text", Value::Null),
        ("tokenizer_kwargs", Value::Null),
        ("tokenizer_name_or_path", Value::Null),
    ]);
    keys
}

pub(super) fn prefix_tuning(config: &PrefixTuningConfig, base: &dyn Base) -> Keys {
    let (n_virtual, n_stacks) = (config.num_virtual_tokens, config.num_transformer_submodules);
    let mut keys = in_front(n_virtual, n_stacks, base, true);
    keys.extend([
        (
            "encoder_hidden_size",
            hidden_size(config.encoder_hidden_size, &keys),
        ),
        ("init_weights", json!(config.init_weights)),
        ("peft_type", json!("PREFIX_TUNING")),
        ("prefix_projection", json!(config.prefix_projection)),
    ]);
    keys
}

pub(super) fn cartridge(config: &CartridgeConfig, base: &dyn Base) -> Keys {
    let (n_virtual, n_stacks) = (config.num_virtual_tokens, config.num_transformer_submodules);
    let mut keys = in_front(n_virtual, n_stacks, base, true);
    keys.extend([
        ("num_frozen_tokens", json!(config.num_frozen_tokens)),
        ("peft_type", json!("CARTRIDGE")),
    ]);
    keys
}

pub(super) fn p_tuning(config: &PTuningConfig, base: &dyn Base) -> Keys {
    let (n_virtual, n_stacks) = (config.num_virtual_tokens, config.num_transformer_submodules);
    let mut keys = in_front(n_virtual, n_stacks, base, false);
    keys.extend([
        ("encoder_dropout", json!(config.encoder_dropout)),
        (
            "encoder_hidden_size",
            hidden_size(config.encoder_hidden_size, &keys),
        ),
        ("encoder_num_layers", json!(config.encoder_num_layers)),
        (
            "encoder_reparameterization_type",
            json!(config.encoder_reparameterization_type),
        ),
        ("peft_type", json!("P_TUNING")),
    ]);
    keys
}

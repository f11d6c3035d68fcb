//! The keys of `adapter_config.json` by method, and what each means for the result.

/// Keys of every method that say nothing about the result.
pub(super) const NEUTRAL: [&str; 10] = [
    "auto_mapping",
    "base_model_name_or_path",
    "fan_in_fan_out",
    "inference_mode",
    "modules_to_save",
    "peft_type",
    "peft_version",
    "revision",
    "runtime_config",
    "task_type",
];

/// The keys of one method.
pub(super) struct Keys {
    /// Keys of our own configuration, with the same meaning.
    pub(super) used: &'static [&'static str],
    /// Keys that say nothing about what stored tensors compute.
    pub(super) neutral: &'static [&'static str],
    /// Keys that change the result unless they are off.
    pub(super) off: &'static [&'static str],
}

pub(super) const LORA: Keys = Keys {
    used: &[
        "r",
        "lora_alpha",
        "lora_dropout",
        "bias",
        "target_modules",
        "exclude_modules",
        "layers_to_transform",
        "layers_pattern",
        "use_rslora",
        "use_dora",
        "init_lora_weights",
        "lora_bias",
        "rank_pattern",
        "alpha_pattern",
    ],
    neutral: &[
        "trainable_token_indices",
        "eva_config",
        "megatron_config",
        "megatron_core",
        "qalora_group_size",
    ],
    off: &[
        "alora_invocation_tokens",
        "arrow_config",
        "corda_config",
        "ensure_weight_tying",
        "kasa_config",
        "layer_replication",
        "loftq_config",
        "lora_ga_config",
        "monteclora_config",
        "target_parameters",
        "use_bdlora",
        "use_qalora",
        "velora_config",
    ],
};

pub(super) const TRAINABLE_TOKENS: Keys = Keys {
    used: &["target_modules", "token_indices", "init_weights"],
    neutral: &[],
    off: &[],
};

pub(super) const ADALORA: Keys = Keys {
    used: &[
        "target_r",
        "init_r",
        "tinit",
        "tfinal",
        "deltaT",
        "beta1",
        "beta2",
        "orth_reg_weight",
        "total_step",
        "rank_pattern",
        "lora_alpha",
        "lora_dropout",
        "bias",
        "target_modules",
        "exclude_modules",
        "layers_to_transform",
        "layers_pattern",
    ],
    // PEFT passes over them: a rank of its own, first values, and LoRA's other scales.
    neutral: &[
        "alpha_pattern",
        "eva_config",
        "init_lora_weights",
        "megatron_config",
        "megatron_core",
        "qalora_group_size",
        "r",
        "use_rslora",
    ],
    off: &[
        "alora_invocation_tokens",
        "arrow_config",
        "corda_config",
        "ensure_weight_tying",
        "kasa_config",
        "layer_replication",
        "loftq_config",
        "lora_bias",
        "lora_ga_config",
        "monteclora_config",
        "target_parameters",
        "trainable_token_indices",
        "use_bdlora",
        "use_dora",
        "use_qalora",
        "velora_config",
    ],
};

pub(super) const IA3: Keys = Keys {
    used: &["target_modules", "feedforward_modules", "exclude_modules"],
    neutral: &["init_ia3_weights"],
    off: &[],
};

pub(super) const LN_TUNING: Keys = Keys {
    used: &["target_modules", "exclude_modules"],
    neutral: &[],
    off: &[],
};

pub(super) const PROMPT_TUNING: Keys = Keys {
    used: &[
        "num_virtual_tokens",
        "token_dim",
        "num_transformer_submodules",
        "prompt_tuning_init",
        "prompt_tuning_init_text",
        "tokenizer_name_or_path",
    ],
    neutral: &["num_attention_heads", "num_layers", "tokenizer_kwargs"],
    off: &[],
};

pub(super) const PREFIX_TUNING: Keys = Keys {
    used: &[
        "num_virtual_tokens",
        "token_dim",
        "num_transformer_submodules",
        "prefix_projection",
        "encoder_hidden_size",
        "init_weights",
    ],
    neutral: &["num_attention_heads", "num_layers"],
    off: &[],
};

pub(super) const CARTRIDGE: Keys = Keys {
    used: &[
        "num_virtual_tokens",
        "num_frozen_tokens",
        "token_dim",
        "num_transformer_submodules",
    ],
    neutral: &["num_attention_heads", "num_layers"],
    off: &[],
};

pub(super) const P_TUNING: Keys = Keys {
    used: &[
        "num_virtual_tokens",
        "token_dim",
        "num_transformer_submodules",
        "encoder_reparameterization_type",
        "encoder_hidden_size",
        "encoder_num_layers",
        "encoder_dropout",
    ],
    neutral: &["num_attention_heads", "num_layers"],
    off: &[],
};

pub(super) const MULTITASK_PROMPT_TUNING: Keys = Keys {
    used: &[
        "num_virtual_tokens",
        "token_dim",
        "num_transformer_submodules",
        "num_ranks",
        "num_tasks",
    ],
    // The values are stored, wherever they started.
    neutral: &[
        "num_attention_heads",
        "num_layers",
        "prompt_tuning_init",
        "prompt_tuning_init_state_dict_path",
        "prompt_tuning_init_task",
        "prompt_tuning_init_text",
        "tokenizer_kwargs",
        "tokenizer_name_or_path",
    ],
    off: &[],
};

pub(super) const ADAPTION_PROMPT: Keys = Keys {
    used: &["target_modules", "adapter_len", "adapter_layers"],
    neutral: &[],
    off: &[],
};

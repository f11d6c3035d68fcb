//! One method of a stack, as recipes describe it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::adalora::AdaloraConfig;
use crate::adaption_prompt::AdaptionPromptConfig;
use crate::bitfit::BitfitConfig;
use crate::bottleneck::BottleneckConfig;
use crate::ia3::Ia3Config;
use crate::layer_norm::LayerNormConfig;
use crate::lora::{LoraConfig, LoraInit};
use crate::multitask_prompt_tuning::MultitaskPromptTuningConfig;
use crate::p_tuning::PTuningConfig;
use crate::prefix_tuning::PrefixTuningConfig;
use crate::prompt_tuning::PromptTuningConfig;
use crate::trainable_tokens::TrainableTokensConfig;
use crate::unfreeze::UnfreezeConfig;

/// One method of a stack.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "method", rename_all = "snake_case", deny_unknown_fields)]
pub enum AdapterConfig {
    /// A low-rank side path next to linear layers.
    Lora(LoraConfig),
    /// LoRA whose ranks go where they matter.
    Adalora(AdaloraConfig),
    /// Learned scales of activations.
    Ia3(Ia3Config),
    /// Biases only.
    Bitfit(BitfitConfig),
    /// Gain and shift of norms.
    LayerNorm(LayerNormConfig),
    /// Two small layers after a sub-layer.
    Bottleneck(BottleneckConfig),
    /// Whole layers.
    Unfreeze(UnfreezeConfig),
    /// Vectors of a few tokens.
    TrainableTokens(TrainableTokensConfig),
    /// Vectors in front of the words.
    PromptTuning(PromptTuningConfig),
    /// Keys and values in front of those of every layer.
    PrefixTuning(PrefixTuningConfig),
    /// Vectors in front of the words that come out of a small network.
    PTuning(PTuningConfig),
    /// Vectors in front of the words, in a version for each of several tasks.
    MultitaskPromptTuning(MultitaskPromptTuningConfig),
    /// Vectors that the upper layers attend to aside.
    AdaptionPrompt(AdaptionPromptConfig),
}

impl AdapterConfig {
    /// The method's name, as the `method` key gives it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Lora(_) => "lora",
            Self::Adalora(_) => "adalora",
            Self::Ia3(_) => "ia3",
            Self::Bitfit(_) => "bitfit",
            Self::LayerNorm(_) => "layer_norm",
            Self::Bottleneck(_) => "bottleneck",
            Self::Unfreeze(_) => "unfreeze",
            Self::TrainableTokens(_) => "trainable_tokens",
            Self::PromptTuning(_) => "prompt_tuning",
            Self::PrefixTuning(_) => "prefix_tuning",
            Self::PTuning(_) => "p_tuning",
            Self::MultitaskPromptTuning(_) => "multitask_prompt_tuning",
            Self::AdaptionPrompt(_) => "adaption_prompt",
        }
    }

    /// What the method puts in front of the tokens, counted in tokens.
    pub fn n_virtual_tokens(&self) -> usize {
        match self {
            Self::PromptTuning(config) => config.num_virtual_tokens,
            Self::PrefixTuning(config) => config.num_virtual_tokens,
            Self::PTuning(config) => config.num_virtual_tokens,
            Self::MultitaskPromptTuning(config) => config.num_virtual_tokens,
            _ => 0,
        }
    }

    /// Whether an adapted base starts as the base.
    pub fn starts_as_identity(&self) -> bool {
        match self {
            Self::Lora(config) => config.init_lora_weights != LoraInit::Random,
            Self::TrainableTokens(config) => config.init_weights,
            other => !other.is_in_front(),
        }
    }

    /// Whether the method puts something in front of the tokens.
    pub fn is_in_front(&self) -> bool {
        matches!(
            self,
            Self::PromptTuning(_)
                | Self::PrefixTuning(_)
                | Self::PTuning(_)
                | Self::MultitaskPromptTuning(_)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::AdapterConfig;

    #[test]
    fn a_config_survives_json_and_names_its_method() {
        for text in [
            r#"{"method": "lora", "r": 4, "target_modules": "all-linear", "rank_pattern": {"b": 1, "a": 2}}"#,
            r#"{"method": "adalora", "deltaT": 3, "rank_pattern": {"a.lora_E": [true, false]}}"#,
            r#"{"method": "ia3"}"#,
            r#"{"method": "bitfit", "exclude_modules": ["key"]}"#,
            r#"{"method": "layer_norm"}"#,
            r#"{"method": "bottleneck", "placement": "pfeiffer"}"#,
            r#"{"method": "unfreeze", "modules": ["layer.1"]}"#,
            r#"{"method": "trainable_tokens", "token_indices": [3, 1]}"#,
            r#"{"method": "prompt_tuning", "num_virtual_tokens": 4, "prompt_tuning_init": "SAMPLE_VOCAB"}"#,
            r#"{"method": "prefix_tuning", "num_virtual_tokens": 4, "init_token_ids": [1, 2]}"#,
            r#"{"method": "multitask_prompt_tuning", "num_virtual_tokens": 4, "num_tasks": 3, "task": 1}"#,
            r#"{"method": "adaption_prompt", "adapter_len": 4, "adapter_layers": 2}"#,
            r#"{"method": "p_tuning", "num_virtual_tokens": 4, "encoder_reparameterization_type": "LSTM"}"#,
        ] {
            let config: AdapterConfig = serde_json::from_str(text).unwrap();
            let value = serde_json::to_value(&config).unwrap();
            assert_eq!(value["method"], config.name());
            assert_eq!(
                serde_json::from_value::<AdapterConfig>(value).unwrap(),
                config
            );
        }
    }

    #[test]
    fn unknown_keys_are_refused() {
        for text in [
            r#"{"method": "lora", "rnak": 4}"#,
            r#"{"method": "dora"}"#,
            r#"{"r": 4}"#,
            r#"{"method": "prompt_tuning"}"#,
        ] {
            assert!(
                serde_json::from_str::<AdapterConfig>(text).is_err(),
                "{text}"
            );
        }
    }
}

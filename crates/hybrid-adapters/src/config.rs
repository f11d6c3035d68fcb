//! One method of a stack, as recipes describe it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::adalora::AdaloraConfig;
use crate::adamss::AdamssConfig;
use crate::adaption_prompt::AdaptionPromptConfig;
use crate::beft::BeftConfig;
use crate::bitfit::BitfitConfig;
use crate::boft::BoftConfig;
use crate::bottleneck::BottleneckConfig;
use crate::c3a::{C3aConfig, C3aInit};
use crate::cartridge::CartridgeConfig;
use crate::compacter::CompacterConfig;
use crate::deft::DeftConfig;
use crate::delora::DeloraConfig;
use crate::fourierft::FourierftConfig;
use crate::glora::GloraConfig;
use crate::gralora::GraloraConfig;
use crate::hira::HiraConfig;
use crate::hra::HraConfig;
use crate::ia3::Ia3Config;
use crate::layer_norm::LayerNormConfig;
use crate::lily::LilyConfig;
use crate::loha::LohaConfig;
use crate::lokr::LokrConfig;
use crate::lora::{LoraConfig, LoraInit};
use crate::loreft::LoreftConfig;
use crate::miss::{MissConfig, MissForm};
use crate::multitask_prompt_tuning::MultitaskPromptTuningConfig;
use crate::oft::OftConfig;
use crate::osf::OsfConfig;
use crate::p_tuning::PTuningConfig;
use crate::peanut::PeanutConfig;
use crate::poly::PolyConfig;
use crate::prefix_tuning::PrefixTuningConfig;
use crate::prompt_tuning::PromptTuningConfig;
use crate::pvera::PveraConfig;
use crate::randlora::RandloraConfig;
use crate::road::RoadConfig;
use crate::shira::ShiraConfig;
use crate::site_method::{PeftForm, SiteConfig};
use crate::tinylora::TinyloraConfig;
use crate::trainable_tokens::TrainableTokensConfig;
use crate::unfreeze::UnfreezeConfig;
use crate::unilora::UniloraConfig;
use crate::unipelt::UnipeltConfig;
use crate::vblora::VbloraConfig;
use crate::vera::VeraConfig;
use crate::waveft::WaveftConfig;
use crate::{
    adamss, beft, boft, c3a, deft, delora, fourierft, glora, gralora, hira, hra, lily, loha, lokr,
    miss, oft, osf, peanut, poly, pvera, randlora, road, shira, tinylora, unilora, vblora, vera,
    waveft,
};

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
    /// Two small layers after a sub-layer or beside it.
    Bottleneck(BottleneckConfig),
    /// The same with weights that are sums of Kronecker products.
    Compacter(CompacterConfig),
    /// A few directions of the hidden states of some tokens.
    Loreft(LoreftConfig),
    /// LoRA, a prefix and adapters behind gates.
    Unipelt(UnipeltConfig),
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
    /// Keys and values in front of those of every layer, of which the first stay.
    Cartridge(CartridgeConfig),
    /// One pair of frozen random matrices for all linear layers, and trained scales in each.
    Vera(VeraConfig),
    /// A Hadamard product of two low-rank matrices next to linear layers.
    Loha(LohaConfig),
    /// A Kronecker product of two small matrices next to linear layers.
    Lokr(LokrConfig),
    /// A few entries of the spectrum of an update next to linear layers.
    Fourierft(FourierftConfig),
    /// Rotations of blocks of linear layers' inputs.
    Oft(OftConfig),
    /// Rotations of blocks of linear layers' inputs with shuffles between, and scales of outputs.
    Boft(BoftConfig),
    /// Reflections of linear layers' inputs.
    Hra(HraConfig),
    /// One small matrix for all blocks of a linear layer.
    Miss(MissConfig),
    /// Many frozen random pairs of matrices with trained scales next to linear layers.
    Randlora(RandloraConfig),
    /// LoRA's factors from the vectors of one bank.
    Vblora(VbloraConfig),
    /// The weight of linear layers times a low-rank matrix, value by value.
    Hira(HiraConfig),
    /// A low-rank side path whose length is trained apart.
    Delora(DeloraConfig),
    /// A low-rank side path for each block of a linear layer.
    Gralora(GraloraConfig),
    /// Circulant blocks next to linear layers.
    C3a(C3aConfig),
    /// Rotations of pairs of linear layers' outputs.
    Road(RoadConfig),
    /// A few values of linear layers' weights.
    Shira(ShiraConfig),
    /// A low-rank side path that each of several tasks mixes out of the same skills.
    Poly(PolyConfig),
    /// VeRA whose inner features are drawn while training.
    Pvera(PveraConfig),
    /// A small network's output for the weight of linear layers.
    Peanut(PeanutConfig),
    /// Other outputs in the place of a part of linear layers' outputs.
    Deft(DeftConfig),
    /// A few wavelet coefficients of an update next to linear layers.
    Waveft(WaveftConfig),
    /// Scales and shifts of linear layers' weights and biases.
    Glora(GloraConfig),
    /// The lesser singular directions of linear layers' weights.
    Osf(OsfConfig),
    /// Low-rank updates of outputs that are alike, within the leading singular directions.
    Adamss(AdamssConfig),
    /// LoRA's factors from the values of one short vector.
    Unilora(UniloraConfig),
    /// A very short vector between the leading singular vectors of linear layers' weights.
    Tinylora(TinyloraConfig),
    /// A bias on top of linear layers' own.
    Beft(BeftConfig),
    /// Low-rank side paths next to linear layers with factors that layers share and mix.
    Lily(LilyConfig),
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
            Self::Compacter(_) => "compacter",
            Self::Loreft(_) => "loreft",
            Self::Unipelt(_) => "unipelt",
            Self::Unfreeze(_) => "unfreeze",
            Self::TrainableTokens(_) => "trainable_tokens",
            Self::PromptTuning(_) => "prompt_tuning",
            Self::PrefixTuning(_) => "prefix_tuning",
            Self::PTuning(_) => "p_tuning",
            Self::MultitaskPromptTuning(_) => "multitask_prompt_tuning",
            Self::AdaptionPrompt(_) => "adaption_prompt",
            Self::Cartridge(_) => "cartridge",
            config => config.at_sites().map_or("", |config| config.form().method),
        }
    }

    /// The settings of a method that is a function of each linear site's tensors.
    pub(crate) fn at_sites(&self) -> Option<&dyn SiteConfig> {
        Some(match self {
            Self::Vera(config) => config,
            Self::Loha(config) => config,
            Self::Lokr(config) => config,
            Self::Fourierft(config) => config,
            Self::Oft(config) => config,
            Self::Boft(config) => config,
            Self::Hra(config) => config,
            Self::Miss(config) => config,
            Self::Randlora(config) => config,
            Self::Vblora(config) => config,
            Self::Hira(config) => config,
            Self::Delora(config) => config,
            Self::Gralora(config) => config,
            Self::C3a(config) => config,
            Self::Road(config) => config,
            Self::Shira(config) => config,
            Self::Poly(config) => config,
            Self::Pvera(config) => config,
            Self::Peanut(config) => config,
            Self::Deft(config) => config,
            Self::Waveft(config) => config,
            Self::Glora(config) => config,
            Self::Osf(config) => config,
            Self::Adamss(config) => config,
            Self::Unilora(config) => config,
            Self::Tinylora(config) => config,
            Self::Beft(config) => config,
            Self::Lily(config) => config,
            _ => return None,
        })
    }

    /// Whether the base with the method's first values computes what the base computes.
    pub fn starts_as_base(&self) -> bool {
        match self {
            Self::Lora(config) => config.init_lora_weights != LoraInit::Random,
            Self::TrainableTokens(config) => config.init_weights,
            Self::Fourierft(config) => config.init_weights,
            Self::Hra(config) => config.r.is_multiple_of(2) && !config.apply_gs,
            Self::Miss(config) => config.init_weights != MissForm::Plain(false),
            Self::Vblora(_) => false,
            Self::C3a(config) => config.init_weights == C3aInit::Zero(true),
            Self::Poly(config) => config.init_weights,
            Self::Deft(config) => !config.para,
            Self::Waveft(config) => config.init_weights,
            Self::Unilora(_) => false,
            Self::Tinylora(config) => config.starts_at_zero(),
            Self::Lily(config) => config.init_weights,
            config => !config.is_in_front(),
        }
    }

    /// What the method puts in front of the tokens, counted in tokens.
    pub fn n_virtual_tokens(&self) -> usize {
        match self {
            Self::PromptTuning(config) => config.num_virtual_tokens,
            Self::PrefixTuning(config) => config.num_virtual_tokens,
            Self::Unipelt(config) => config.num_virtual_tokens,
            Self::PTuning(config) => config.num_virtual_tokens,
            Self::MultitaskPromptTuning(config) => config.num_virtual_tokens,
            Self::Cartridge(config) => config.num_virtual_tokens,
            _ => 0,
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
                | Self::Cartridge(_)
                | Self::Unipelt(_)
        )
    }
}

/// How PEFT's files have the methods of [`AdapterConfig::at_sites`].
pub(crate) const FORMS: [&PeftForm; 28] = [
    &vera::FORM,
    &loha::FORM,
    &lokr::FORM,
    &fourierft::FORM,
    &oft::FORM,
    &boft::FORM,
    &hra::FORM,
    &miss::FORM,
    &randlora::FORM,
    &vblora::FORM,
    &hira::FORM,
    &delora::FORM,
    &gralora::FORM,
    &c3a::FORM,
    &road::FORM,
    &shira::FORM,
    &poly::FORM,
    &pvera::FORM,
    &peanut::FORM,
    &deft::FORM,
    &waveft::FORM,
    &glora::FORM,
    &osf::FORM,
    &adamss::FORM,
    &unilora::FORM,
    &tinylora::FORM,
    &beft::FORM,
    &lily::FORM,
];

#[cfg(test)]
mod tests {
    use super::{AdapterConfig, FORMS};

    #[test]
    fn a_config_survives_json_and_names_its_method() {
        for text in [
            r#"{"method": "lora", "r": 4, "target_modules": "all-linear", "rank_pattern": {"b": 1, "a": 2}}"#,
            r#"{"method": "adalora", "deltaT": 3, "rank_pattern": {"a.lora_E": [true, false]}}"#,
            r#"{"method": "ia3"}"#,
            r#"{"method": "bitfit", "exclude_modules": ["key"]}"#,
            r#"{"method": "layer_norm"}"#,
            r#"{"method": "bottleneck", "placement": "parallel", "scaling": 4.0}"#,
            r#"{"method": "compacter", "phm_dim": 2}"#,
            r#"{"method": "unipelt", "r": 2, "activation": "relu"}"#,
            r#"{"method": "loreft", "suffix_positions": 2, "tied_weights": true}"#,
            r#"{"method": "unfreeze", "modules": ["layer.1"]}"#,
            r#"{"method": "trainable_tokens", "token_indices": [3, 1]}"#,
            r#"{"method": "prompt_tuning", "num_virtual_tokens": 4, "prompt_tuning_init": "SAMPLE_VOCAB"}"#,
            r#"{"method": "prefix_tuning", "num_virtual_tokens": 4, "init_token_ids": [1, 2]}"#,
            r#"{"method": "multitask_prompt_tuning", "num_virtual_tokens": 4, "num_tasks": 3, "task": 1}"#,
            r#"{"method": "adaption_prompt", "adapter_len": 4, "adapter_layers": 2}"#,
            r#"{"method": "p_tuning", "num_virtual_tokens": 4, "encoder_reparameterization_type": "LSTM"}"#,
            r#"{"method": "loha", "alpha": 3.5, "rank_pattern": {"b": 1}}"#,
            r#"{"method": "hra", "apply_GS": true}"#,
            r#"{"method": "miss", "init_weights": "bat"}"#,
            r#"{"method": "c3a", "init_weights": "gaussian"}"#,
            r#"{"method": "road", "variant": "road_4"}"#,
            r#"{"method": "shira", "random_seed": 3}"#,
            r#"{"method": "poly", "n_tasks": 3, "task": 2}"#,
            r#"{"method": "peanut", "depth": 2, "act_fn": "silu"}"#,
            r#"{"method": "deft", "alpha": 3}"#,
            r#"{"method": "waveft", "wavelet_family": "sym3", "n_frequency_pattern": {"b": 1}}"#,
            r#"{"method": "glora", "config_A_B": "vector", "config_C": "none"}"#,
            r#"{"method": "osf", "effective_rank": 0.25, "rank_pattern": {"b": 1, "a": 0.5}}"#,
            r#"{"method": "adamss", "use_dynamic_rank": true}"#,
            r#"{"method": "cartridge", "num_virtual_tokens": 4, "num_frozen_tokens": 2}"#,
            r#"{"method": "unilora", "theta_d_length": 12, "save_indices": true}"#,
            r#"{"method": "tinylora", "init_weights": "uniform", "weight_tying": 0.5}"#,
            r#"{"method": "beft"}"#,
            r#"{"method": "lily", "stride_A": 2, "num_B": 3}"#,
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

    /// Every key that files have is a setting, and each method starts from what it says.
    #[test]
    fn forms_name_the_settings() {
        for form in FORMS {
            let config = serde_json::json!({"method": form.method});
            let config: AdapterConfig = serde_json::from_value(config).unwrap();
            let own = config.at_sites().unwrap();
            assert_eq!(own.form().peft_type, form.peft_type);
            assert_eq!(config.name(), form.method);
            assert_eq!(form.method, form.peft_type.to_lowercase());
            let optional = |key: &str| {
                key.ends_with("_pattern")
                    || [
                        "exclude_modules",
                        "layers_to_transform",
                        "random_seed",
                        "alpha",
                        "effective_rank",
                    ]
                    .contains(&key)
            };
            let values = own.values();
            for key in form.keys.iter().filter(|key| !optional(key)) {
                assert!(values.contains_key(*key), "{}: {key}", form.method);
            }
        }
    }

    #[test]
    fn unknown_keys_are_refused() {
        for text in [
            r#"{"method": "lora", "rnak": 4}"#,
            r#"{"method": "dora"}"#,
            r#"{"r": 4}"#,
            r#"{"method": "prompt_tuning"}"#,
            r#"{"method": "vera", "lora_alpha": 4}"#,
            r#"{"method": "miss", "init_weights": "bta"}"#,
        ] {
            assert!(
                serde_json::from_str::<AdapterConfig>(text).is_err(),
                "{text}"
            );
        }
    }
}

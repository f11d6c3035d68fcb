//! What there is to choose from: every method with its paper, where it acts and whether it merges.

use burn::tensor::Device;
use hybrid_models::Base;
use serde::Serialize;
use serde_json::{Value, json};

use crate::{AdapterConfig, AdapterError, Adapters};

/// What a method is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct MethodInfo {
    /// Its name in recipes.
    pub name: &'static str,
    /// What it does, in a few words.
    pub does: &'static str,
    /// Where it comes from.
    pub paper: &'static str,
    /// Where it may act.
    pub acts_on: &'static str,
    /// Whether the base's weights can hold its effect.
    pub merges: bool,
    /// Its `peft_type`, where PEFT has it.
    pub peft_type: Option<&'static str>,
    /// The settings that it cannot do without, as a recipe has them in JSON.
    #[serde(skip)]
    needed: &'static str,
}

const fn method(
    name: &'static str,
    does: &'static str,
    paper: &'static str,
    acts_on: &'static str,
    merges: bool,
    peft_type: Option<&'static str>,
    needed: &'static str,
) -> MethodInfo {
    MethodInfo {
        name,
        does,
        paper,
        acts_on,
        merges,
        peft_type,
        needed,
    }
}

const LINEAR: &str = "linear layers";
const WORDS: &str = "in front of the words";

/// All methods, in the order of [`AdapterConfig`].
#[rustfmt::skip]
const CATALOGUE: [MethodInfo; 45] = [
    method("lora", "a low-rank side path; also rsLoRA (use_rslora), DoRA (use_dora), PiSSA, OLoRA, EVA (init_lora_weights)", "Hu et al. 2021, arXiv:2106.09685", "linear layers, embeddings", true, Some("LORA"), "{}"),
    method("adalora", "LoRA whose ranks go where they matter", "Zhang et al. 2023, arXiv:2303.10512", LINEAR, true, Some("ADALORA"), "{}"),
    method("ia3", "scales of activations", "Liu et al. 2022, arXiv:2205.05638", LINEAR, true, Some("IA3"), "{}"),
    method("bitfit", "biases alone", "Ben Zaken et al. 2022, arXiv:2106.10199", "biases", true, None, "{}"),
    method("layer_norm", "gain and shift of norms", "Zhao et al. 2023, arXiv:2312.11420", "norms", true, Some("LN_TUNING"), "{}"),
    method("bottleneck", "two small layers after a sub-layer or beside it (placement), there with prefix_tuning: Mix-and-Match", "Houlsby et al. 2019, arXiv:1902.00751", "sub-layers", false, None, "{}"),
    method("compacter", "two small layers out of Kronecker products", "Karimi Mahabadi et al. 2021, arXiv:2106.04647", "sub-layers", false, None, "{}"),
    method("loreft", "a few directions of hidden states, at the first and last tokens", "Wu et al. 2024, arXiv:2404.03592", "whole layers", false, None, "{}"),
    method("unipelt", "LoRA, a prefix and adapters behind gates", "Mao et al. 2022, arXiv:2110.07577", "all layers of an encoder", false, None, "{}"),
    method("unfreeze", "whole layers", "PEFT's modules_to_save", "any layer", true, None, r#"{"modules": "all-linear"}"#),
    method("trainable_tokens", "vectors of a few tokens", "PEFT's TrainableTokens", "embeddings", true, Some("TRAINABLE_TOKENS"), r#"{"token_indices": [0]}"#),
    method("prompt_tuning", "vectors before the words", "Lester et al. 2021, arXiv:2104.08691", WORDS, false, Some("PROMPT_TUNING"), r#"{"num_virtual_tokens": 16}"#),
    method("prefix_tuning", "keys and values before those of all layers", "Li and Liang 2021, arXiv:2101.00190", "all self-attention", false, Some("PREFIX_TUNING"), r#"{"num_virtual_tokens": 16}"#),
    method("p_tuning", "vectors before the words, out of a small network", "Liu et al. 2021, arXiv:2103.10385", WORDS, false, Some("P_TUNING"), r#"{"num_virtual_tokens": 16}"#),
    method("multitask_prompt_tuning", "vectors before the words, one version a task", "Wang et al. 2023, arXiv:2303.02861", WORDS, false, Some("MULTITASK_PROMPT_TUNING"), r#"{"num_virtual_tokens": 16}"#),
    method("adaption_prompt", "vectors that upper layers attend to aside", "Zhang et al. 2023, arXiv:2303.16199", "self-attention", false, Some("ADAPTION_PROMPT"), r#"{"adapter_len": 10, "adapter_layers": 1}"#),
    method("cartridge", "keys and values before those of all layers, the first ones frozen", "Eyuboglu et al. 2025, arXiv:2506.06266", "all self-attention", false, Some("CARTRIDGE"), r#"{"num_virtual_tokens": 16}"#),
    method("vera", "trained scales of one pair of random matrices", "Kopiczko et al. 2023, arXiv:2310.11454", LINEAR, true, Some("VERA"), "{}"),
    method("loha", "a Hadamard product of two low-rank matrices", "Hyeon-Woo et al. 2021, arXiv:2108.06098", LINEAR, true, Some("LOHA"), "{}"),
    method("lokr", "a Kronecker product of two small matrices", "Yeh et al. 2023, arXiv:2309.14859", LINEAR, true, Some("LOKR"), "{}"),
    method("fourierft", "a few entries of the update's spectrum", "Gao et al. 2024, arXiv:2405.03003", LINEAR, true, Some("FOURIERFT"), "{}"),
    method("oft", "rotations of blocks of the input", "Qiu et al. 2023, arXiv:2306.07280", LINEAR, true, Some("OFT"), "{}"),
    method("boft", "block rotations with shuffles between", "Liu et al. 2023, arXiv:2311.06243", LINEAR, true, Some("BOFT"), "{}"),
    method("hra", "reflections of the input", "Yuan et al. 2024, arXiv:2405.17484", LINEAR, true, Some("HRA"), "{}"),
    method("miss", "one small matrix for all blocks of the input", "Kang and Yin 2024, arXiv:2409.15371", LINEAR, true, Some("MISS"), "{}"),
    method("randlora", "trained scales of many random low-rank matrices", "Albert et al. 2025, arXiv:2502.00987", LINEAR, true, Some("RANDLORA"), "{}"),
    method("vblora", "LoRA out of the vectors of one bank", "Li et al. 2024, arXiv:2405.15179", LINEAR, true, Some("VBLORA"), "{}"),
    method("hira", "the weight times a low-rank matrix, value by value", "Huang et al. 2025, ICLR", LINEAR, true, Some("HIRA"), "{}"),
    method("delora", "a low-rank side path whose length is trained apart", "Bini et al. 2025, arXiv:2503.18225", LINEAR, true, Some("DELORA"), "{}"),
    method("gralora", "a low-rank side path for each block", "Jung et al. 2025, arXiv:2505.20355", LINEAR, true, Some("GRALORA"), "{}"),
    method("c3a", "circulant blocks", "Chen et al. 2024, arXiv:2407.19342", LINEAR, true, Some("C3A"), "{}"),
    method("road", "rotations of pairs of outputs", "Liao and Monz 2024, arXiv:2409.00119", LINEAR, true, Some("ROAD"), "{}"),
    method("shira", "a few values of the weight", "Bhardwaj et al. 2024, arXiv:2406.13175", LINEAR, true, Some("SHIRA"), "{}"),
    method("poly", "low-rank side paths that each task mixes", "Ponti et al. 2022, arXiv:2202.13914", LINEAR, true, Some("POLY"), "{}"),
    method("pvera", "VeRA with inner features drawn while training", "PVeRA 2025, arXiv:2512.07703", LINEAR, true, Some("PVERA"), "{}"),
    method("peanut", "a small network's output for the weight", "PEANuT 2024, arXiv:2410.01870", LINEAR, true, Some("PEANUT"), "{}"),
    method("deft", "other outputs in the place of a part of the outputs", "DEFT 2025, NeurIPS", LINEAR, true, Some("DEFT"), "{}"),
    method("waveft", "a few wavelet coefficients of the update", "Bilican et al. 2025, arXiv:2505.12532", LINEAR, true, Some("WAVEFT"), "{}"),
    method("glora", "scales and shifts of weight and bias", "Chavan et al. 2023, arXiv:2306.07967", LINEAR, true, Some("GLORA"), "{}"),
    method("osf", "the weight's lesser singular directions", "Nayak et al. 2025, arXiv:2504.07097", LINEAR, true, Some("OSF"), "{}"),
    method("adamss", "low-rank updates of clusters of outputs", "AdaMSS 2025, NeurIPS", LINEAR, true, Some("ADAMSS"), "{}"),
    method("unilora", "LoRA out of one short vector's values", "Li et al. 2025, arXiv:2506.00799", LINEAR, true, Some("UNILORA"), "{}"),
    method("tinylora", "a few values between singular vectors of the weight", "Morris et al. 2026, arXiv:2602.04118", LINEAR, true, Some("TINYLORA"), "{}"),
    method("beft", "a bias on top of the layer's own", "Huang et al. 2025, arXiv:2509.15974", LINEAR, true, Some("BEFT"), "{}"),
    method("lily", "low-rank side paths with factors that layers share and mix", "Zhong et al. 2024, arXiv:2407.09946", LINEAR, false, Some("LILY"), "{}"),
];

/// All methods.
pub fn catalogue() -> &'static [MethodInfo] {
    &CATALOGUE
}

impl MethodInfo {
    /// The method of a configuration.
    ///
    /// # Panics
    /// Never: a test holds the catalogue against all methods.
    pub fn of(config: &AdapterConfig) -> &'static Self {
        let mut methods = CATALOGUE.iter();
        methods
            .find(|method| method.name == config.name())
            .expect("the catalogue has every method")
    }

    /// The method with its defaults, and small values where it has none.
    ///
    /// # Panics
    /// Never: a test builds all of them.
    pub fn default_config(&self) -> AdapterConfig {
        let mut settings: Value = serde_json::from_str(self.needed).expect("settings are JSON");
        settings["method"] = json!(self.name);
        serde_json::from_value(settings).expect("the settings are the method's")
    }

    /// The method over a base with its defaults.
    ///
    /// # Errors
    /// [`AdapterError`] of a method that has no place in the base.
    pub fn over(&self, base: &dyn Base, device: &Device) -> Result<Adapters, AdapterError> {
        Adapters::init(&[self.default_config()], base, 0, device)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::catalogue;
    use crate::AdapterConfig;

    #[test]
    fn the_catalogue_has_every_method_once() {
        let schema = schemars::schema_for!(AdapterConfig).to_value();
        let variants = schema["oneOf"].as_array().unwrap().iter();
        let tag = |variant: &serde_json::Value| variant["properties"]["method"]["const"].clone();
        let methods: BTreeSet<String> = variants
            .map(|variant| tag(variant).as_str().unwrap().to_owned())
            .collect();
        let known: Vec<String> = catalogue()
            .iter()
            .map(|info| info.name.to_owned())
            .collect();
        assert_eq!(known.len(), methods.len());
        assert_eq!(known.into_iter().collect::<BTreeSet<_>>(), methods);
    }

    #[test]
    fn every_default_is_a_configuration() {
        for info in catalogue() {
            assert_eq!(info.default_config().name(), info.name);
        }
    }
}

//! BERT (Devlin et al. 2019), as `transformers.BertModel` computes it.
//!
//! Deviations: the base's own dropout is off; absolute positions only; no cross-attention.

use serde_json::json;

use crate::ModelError;
use crate::architecture::{EncoderPlan, LayerNames, Task};
use crate::config_file::ConfigFile;
use crate::encoder::PositionRule;
use crate::kernels::Activation;

/// Classes of Transformers with the task of each.
pub(crate) const CLASSES: [(&str, Task); 6] = [
    ("BertModel", Task::Headless),
    (
        "BertForSequenceClassification",
        Task::SequenceClassification,
    ),
    ("BertForMaskedLM", Task::MaskedLm),
    ("BertForPreTraining", Task::MaskedLm),
    ("BertForTokenClassification", Task::TokenClassification),
    ("BertForQuestionAnswering", Task::SpanAnswering),
];

/// Shared with RoBERTa.
pub(crate) const NAMES: LayerNames = LayerNames {
    stack: "encoder.layer",
    query: "attention.self.query",
    key: "attention.self.key",
    value: "attention.self.value",
    attention_output: "attention.output.dense",
    attention_block: "attention.output",
    attention_norm: "attention.output.LayerNorm",
    up: "intermediate.dense",
    down: "output.dense",
    feed_forward_block: "output",
    feed_forward_norm: "output.LayerNorm",
};

/// Reads the configuration.
pub(crate) fn plan(config: &ConfigFile) -> Result<EncoderPlan, ModelError> {
    plan_with(config, PositionRule::FromZero)
}

/// Reads the keys that BERT and RoBERTa share.
pub(crate) fn plan_with(
    config: &ConfigFile,
    position_rule: PositionRule,
) -> Result<EncoderPlan, ModelError> {
    config.require("position_embedding_type", &json!("absolute"))?;
    config.require("is_decoder", &json!(false))?;
    let d_model = config.size("hidden_size")?;
    let n_heads = config.size("num_attention_heads")?;
    config.check_heads("num_attention_heads", d_model, n_heads)?;
    Ok(EncoderPlan {
        n_layers: config.size("num_hidden_layers")?,
        n_heads,
        d_model,
        d_ff: config.size("intermediate_size")?,
        vocab: config.size("vocab_size")?,
        positions: config.size("max_position_embeddings")?,
        token_types: Some(config.size_or("type_vocab_size", 2)?),
        position_rule,
        activation: config.activation_or("hidden_act", Activation::Gelu)?,
        epsilon: config.positive_or("layer_norm_eps", 1e-12)?,
        names: &NAMES,
    })
}

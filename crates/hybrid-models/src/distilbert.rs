//! DistilBERT (Sanh et al. 2019), as `transformers.DistilBertModel` computes it: BERT without
//! segments and pooler.
//!
//! Deviations: the base's own dropout is off.

use crate::ModelError;
use crate::architecture::{EncoderPlan, LayerNames, Task};
use crate::config_file::ConfigFile;
use crate::encoder::PositionRule;
use crate::kernels::Activation;

/// Transformers fixes this value for every norm of DistilBERT.
pub(crate) const EPSILON: f64 = 1e-12;

/// Classes of Transformers with the task of each.
pub(crate) const CLASSES: [(&str, Task); 5] = [
    ("DistilBertModel", Task::Headless),
    (
        "DistilBertForSequenceClassification",
        Task::SequenceClassification,
    ),
    ("DistilBertForMaskedLM", Task::MaskedLm),
    (
        "DistilBertForTokenClassification",
        Task::TokenClassification,
    ),
    ("DistilBertForQuestionAnswering", Task::SpanAnswering),
];

const NAMES: LayerNames = LayerNames {
    stack: "transformer.layer",
    query: "attention.q_lin",
    key: "attention.k_lin",
    value: "attention.v_lin",
    attention_output: "attention.out_lin",
    attention_block: "attention",
    attention_norm: "sa_layer_norm",
    up: "ffn.lin1",
    down: "ffn.lin2",
    feed_forward_block: "ffn",
    feed_forward_norm: "output_layer_norm",
};

/// Reads the configuration.
///
/// Sinusoidal positions need no case of their own: they are stored in the checkpoint.
pub(crate) fn plan(config: &ConfigFile) -> Result<EncoderPlan, ModelError> {
    let d_model = config.size("dim")?;
    let n_heads = config.size("n_heads")?;
    config.check_heads("n_heads", d_model, n_heads)?;
    Ok(EncoderPlan {
        n_layers: config.size("n_layers")?,
        n_heads,
        d_model,
        d_ff: config.size("hidden_dim")?,
        vocab: config.size("vocab_size")?,
        positions: config.size("max_position_embeddings")?,
        token_types: None,
        position_rule: PositionRule::FromZero,
        activation: config.activation_or("activation", Activation::Gelu)?,
        epsilon: EPSILON,
        names: &NAMES,
    })
}

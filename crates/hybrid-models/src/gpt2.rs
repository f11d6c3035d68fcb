//! GPT-2 (Radford et al. 2019), as `transformers.GPT2Model` computes it.
//!
//! Deviations: the base's own dropout is off; no cross-attention.

use serde_json::json;

use crate::blocks::{Attention, DecoderLayer, FeedForward, Heads, Projections};
use crate::config_file::ConfigFile;
use crate::decoder::{Decoder, Positions};
use crate::decoder_model::DecoderTask;
use crate::kernels::Activation;
use crate::loader::{Loader, Part};
use crate::{ModelError, NormKind};

/// Classes of Transformers with the task of each.
pub(crate) const CLASSES: [(&str, DecoderTask); 3] = [
    ("GPT2Model", DecoderTask::Headless),
    ("GPT2LMHeadModel", DecoderTask::CausalLm),
    (
        "GPT2ForSequenceClassification",
        DecoderTask::SequenceClassification,
    ),
];

/// Loads the decoder that a configuration describes.
///
/// # Errors
/// An error of the configuration or the checkpoint.
pub(crate) fn load(config: &ConfigFile, loader: &mut Loader<'_>) -> Result<Decoder, ModelError> {
    config.require("add_cross_attention", &json!(false))?;
    let d_model = config.size("n_embd")?;
    let n_heads = config.size("n_head")?;
    config.check_heads("n_head", d_model, n_heads)?;
    let d_ff = config.size_or("n_inner", 4 * d_model)?;
    let epsilon = config.positive_or("layer_norm_epsilon", 1e-5)?;
    let activation = config.activation_or("activation_function", Activation::GeluTanh)?;
    let scaled = config.switch_or("scale_attn_weights", true)?;
    let by_layer = config.switch_or("scale_attn_by_inverse_layer_idx", false)?;
    let heads = |index: usize| {
        let heads = Heads::scaled(n_heads, d_model / n_heads);
        let scale = if scaled { heads.scale } else { 1.0 };
        let by_layer = if by_layer { index + 1 } else { 1 };
        Heads {
            scale: scale / by_layer as f64,
            ..heads
        }
    };
    let words = loader.embedding("wte", config.size("vocab_size")?, d_model)?;
    let table = loader.embedding("wpe", config.size("n_positions")?, d_model)?;
    let mut layers = Vec::new();
    for index in 0..config.size("n_layer")? {
        let part = Part::Layer(index);
        let path = |name: &str| format!("h.{index}.{name}");
        let kind = NormKind::Layer;
        let attention_norm = loader.norm(part, &path("ln_1"), kind, d_model, epsilon)?;
        let fused = loader.conv1d(part, &path("attn.c_attn"), d_model, 3 * d_model)?;
        let attention = Attention {
            projections: Projections::Fused(fused),
            head_norms: None,
            output: loader.conv1d(part, &path("attn.c_proj"), d_model, d_model)?,
            heads: heads(index),
        };
        let attention_block = loader.block(index, &path("attn"), d_model);
        let feed_forward_norm = loader.norm(part, &path("ln_2"), kind, d_model, epsilon)?;
        let feed_forward = FeedForward {
            gate: None,
            up: loader.conv1d(part, &path("mlp.c_fc"), d_model, d_ff)?,
            activation,
            down: loader.conv1d(part, &path("mlp.c_proj"), d_ff, d_model)?,
        };
        layers.push(DecoderLayer {
            attention_norm,
            attention,
            attention_block,
            sliding: false,
            feed_forward_norm,
            feed_forward,
            feed_forward_block: loader.block(index, &path("mlp"), d_model),
        });
    }
    let final_norm = loader.norm(Part::Body, "ln_f", NormKind::Layer, d_model, epsilon)?;
    Ok(Decoder {
        words,
        positions: Positions::Learned(table),
        layers,
        final_norm,
        window: None,
    })
}

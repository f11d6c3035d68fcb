//! The Llama family: Llama (Touvron et al. 2023) with SmolLM2, Mistral (Jiang et al. 2023), Qwen2
//! (Yang et al. 2024) with Qwen2.5, and Qwen3 (Yang et al. 2025), as `transformers.LlamaModel`,
//! `MistralModel`, `Qwen2Model` and `Qwen3Model` compute them.
//!
//! Deviations: the base's own dropout is off.

use crate::blocks::{Attention, DecoderLayer, FeedForward, Heads, Projections};
use crate::config_file::ConfigFile;
use crate::decoder::{Decoder, Positions};
use crate::decoder_model::DecoderTask;
use crate::kernels::Activation;
use crate::loader::{LinearShape, Loader, Part};
use crate::rope::Rope;
use crate::{ModelError, NormKind};

/// A member of the family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Member {
    Llama,
    Mistral,
    Qwen2,
    Qwen3,
}

impl Member {
    /// Classes of Transformers with the task of each.
    pub(crate) fn classes(self) -> &'static [(&'static str, DecoderTask)] {
        const fn tasks(
            [body, language, sequence]: [&'static str; 3],
        ) -> [(&'static str, DecoderTask); 3] {
            [
                (body, DecoderTask::Headless),
                (language, DecoderTask::CausalLm),
                (sequence, DecoderTask::SequenceClassification),
            ]
        }
        match self {
            Self::Llama => {
                const {
                    &tasks([
                        "LlamaModel",
                        "LlamaForCausalLM",
                        "LlamaForSequenceClassification",
                    ])
                }
            }
            Self::Mistral => {
                const {
                    &tasks([
                        "MistralModel",
                        "MistralForCausalLM",
                        "MistralForSequenceClassification",
                    ])
                }
            }
            Self::Qwen2 => {
                const {
                    &tasks([
                        "Qwen2Model",
                        "Qwen2ForCausalLM",
                        "Qwen2ForSequenceClassification",
                    ])
                }
            }
            Self::Qwen3 => {
                const {
                    &tasks([
                        "Qwen3Model",
                        "Qwen3ForCausalLM",
                        "Qwen3ForSequenceClassification",
                    ])
                }
            }
        }
    }

    /// Key and value heads when the configuration leaves them out, with Transformers' defaults.
    fn default_kv_heads(self, n_heads: usize) -> usize {
        match self {
            Self::Llama => n_heads,
            Self::Mistral => 8,
            Self::Qwen2 | Self::Qwen3 => 32,
        }
    }
}

/// Loads the decoder that a configuration describes.
///
/// # Errors
/// An error of the configuration or the checkpoint.
pub(crate) fn load(
    member: Member,
    config: &ConfigFile,
    loader: &mut Loader<'_>,
) -> Result<Decoder, ModelError> {
    let d_model = config.size("hidden_size")?;
    let d_ff = config.size("intermediate_size")?;
    let n_layers = config.size("num_hidden_layers")?;
    let heads = heads(member, config, d_model)?;
    let activation = config.activation_or("hidden_act", Activation::Silu)?;
    let epsilon = config.positive_or("rms_norm_eps", 1e-6)?;
    let window = window(member, config)?;
    let sliding = sliding_layers(member, config, n_layers, window)?;
    // Which linear layers have a bias: query, key and value; attention's output; feed-forward.
    let [inputs, output, fed] = match member {
        Member::Llama => {
            let attention = config.switch_or("attention_bias", false)?;
            [attention, attention, config.switch_or("mlp_bias", false)?]
        }
        Member::Mistral => [false; 3],
        Member::Qwen2 => [true, false, false],
        Member::Qwen3 => {
            let attention = config.switch_or("attention_bias", false)?;
            [attention, attention, false]
        }
    };
    let (wide, narrow) = (
        heads.n_heads * heads.d_head,
        heads.n_kv_heads * heads.d_head,
    );
    let shape = |d_in, d_out, bias| LinearShape { d_in, d_out, bias };
    let kind = NormKind::Rms;
    let words = loader.embedding("embed_tokens", config.size("vocab_size")?, d_model)?;
    let mut layers = Vec::new();
    for (index, sliding) in sliding.into_iter().enumerate() {
        let part = Part::Layer(index);
        let path = |name: &str| format!("layers.{index}.{name}");
        let attention_norm = loader.norm(part, &path("input_layernorm"), kind, d_model, epsilon)?;
        let mut linear = |name: &str, shape| loader.linear(part, &path(name), shape);
        let projections = Projections::Separate {
            query: linear("self_attn.q_proj", shape(d_model, wide, inputs))?,
            key: linear("self_attn.k_proj", shape(d_model, narrow, inputs))?,
            value: linear("self_attn.v_proj", shape(d_model, narrow, inputs))?,
        };
        let mut norm = |name: &str| loader.norm(part, &path(name), kind, heads.d_head, epsilon);
        let head_norms = match member {
            Member::Qwen3 => Some([norm("self_attn.q_norm")?, norm("self_attn.k_norm")?]),
            Member::Llama | Member::Mistral | Member::Qwen2 => None,
        };
        let attention = Attention {
            projections,
            head_norms,
            output: loader.linear(
                part,
                &path("self_attn.o_proj"),
                shape(wide, d_model, output),
            )?,
            heads,
        };
        let attention_block = loader.block(index, &path("self_attn"), d_model);
        let feed_forward_norm = loader.norm(
            part,
            &path("post_attention_layernorm"),
            kind,
            d_model,
            epsilon,
        )?;
        let mut linear = |name: &str, shape| loader.linear(part, &path(name), shape);
        let feed_forward = FeedForward {
            gate: Some(linear("mlp.gate_proj", shape(d_model, d_ff, fed))?),
            up: linear("mlp.up_proj", shape(d_model, d_ff, fed))?,
            activation,
            down: linear("mlp.down_proj", shape(d_ff, d_model, fed))?,
        };
        layers.push(DecoderLayer {
            attention_norm,
            attention,
            attention_block,
            sliding,
            feed_forward_norm,
            feed_forward,
            feed_forward_block: loader.block(index, &path("mlp"), d_model),
        });
    }
    Ok(Decoder {
        words,
        positions: Positions::Rotary(Rope::read(config, heads.d_head)?),
        layers,
        final_norm: loader.norm(Part::Body, "norm", kind, d_model, epsilon)?,
        window,
    })
}

fn heads(member: Member, config: &ConfigFile, d_model: usize) -> Result<Heads, ModelError> {
    let n_heads = config.size("num_attention_heads")?;
    let d_head = match config.optional_size("head_dim")? {
        Some(d_head) => d_head,
        // Transformers' default, whatever the other sizes are.
        None if member == Member::Qwen3 => 128,
        None => {
            config.check_heads("num_attention_heads", d_model, n_heads)?;
            d_model / n_heads
        }
    };
    let n_kv_heads = match config.optional_size("num_key_value_heads")? {
        Some(n_kv_heads) => n_kv_heads,
        None if config.has("num_key_value_heads") => n_heads,
        None => member.default_kv_heads(n_heads),
    };
    if !n_heads.is_multiple_of(n_kv_heads) {
        let expected = format!("a divisor of num_attention_heads {n_heads}");
        return Err(config.invalid("num_key_value_heads", expected, n_kv_heads));
    }
    Ok(Heads {
        n_kv_heads,
        ..Heads::scaled(n_heads, d_head)
    })
}

/// Positions that sliding layers see.
fn window(member: Member, config: &ConfigFile) -> Result<Option<usize>, ModelError> {
    let on = match member {
        Member::Llama => false,
        Member::Mistral => true,
        Member::Qwen2 | Member::Qwen3 => config.switch_or("use_sliding_window", false)?,
    };
    match config.optional_size("sliding_window")? {
        _ if !on => Ok(None),
        None if !config.has("sliding_window") => Ok(Some(4096)),
        window => Ok(window),
    }
}

/// Which layers see the window only.
fn sliding_layers(
    member: Member,
    config: &ConfigFile,
    n_layers: usize,
    window: Option<usize>,
) -> Result<Vec<bool>, ModelError> {
    if matches!(member, Member::Llama | Member::Mistral) {
        return Ok(vec![window.is_some(); n_layers]);
    }
    let key = "layer_types";
    let Some(types) = config.texts(key)? else {
        let first = config.count_or("max_window_layers", 28)?;
        return Ok((0..n_layers)
            .map(|index| window.is_some() && index >= first)
            .collect());
    };
    if types.len() != n_layers {
        let expected = format!("one for each of {n_layers} layers");
        return Err(config.invalid(key, expected, types.len()));
    }
    types
        .into_iter()
        .map(|found| match found {
            "full_attention" => Ok(false),
            "sliding_attention" if window.is_some() => Ok(true),
            "sliding_attention" => {
                Err(config.invalid(key, "full_attention, as no sliding window is set", found))
            }
            found => Err(config.invalid(key, "full_attention or sliding_attention", found)),
        })
        .collect()
}

//! The llama family in GGUF: the configuration and the tensors as Transformers names them.
//!
//! llama.cpp computes the rotary embedding of a llama on pairs of neighbouring features, Transformers
//! on pairs of halves, so llama.cpp's converter permutes the rows of `attn_q` and `attn_k` in each
//! head; here that is undone. Qwen's rows are as they were. Mistral's models call themselves llama.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::rope_factors::llama3_parameters;
use super::{GgufFile, GgufTensor};
use crate::ModelError;
use crate::quantized::{QuantizedWeight, RowOrder};

/// An architecture of llama.cpp with its namesake in Transformers.
struct Family {
    architecture: &'static str,
    class: &'static str,
    permuted: bool,
}

const FAMILIES: [Family; 3] = [
    Family {
        architecture: "llama",
        class: "LlamaForCausalLM",
        permuted: true,
    },
    Family {
        architecture: "qwen2",
        class: "Qwen2ForCausalLM",
        permuted: false,
    },
    Family {
        architecture: "qwen3",
        class: "Qwen3ForCausalLM",
        permuted: false,
    },
];

/// Modules outside the layers: llama.cpp's name, Transformers' name.
const OUTSIDE: [(&str, &str); 3] = [
    ("token_embd", "model.embed_tokens"),
    ("output_norm", "model.norm"),
    ("output", "lm_head"),
];

/// Modules of a layer, below `blk.N` and `model.layers.N`.
const IN_LAYER: [(&str, &str); 11] = [
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

const EMBEDDING: &str = "token_embd.weight";
const OUTPUT: &str = "output.weight";
const ROPE_FACTORS: &str = "rope_freqs.weight";
const TOKENS: &str = "tokenizer.ggml.tokens";

impl GgufFile {
    fn required<T>(&self, key: &str, value: Option<T>) -> Result<T, ModelError> {
        value.ok_or_else(|| ModelError::MissingKey {
            path: self.path.to_path_buf(),
            key: key.to_owned(),
        })
    }

    fn family(&self) -> Result<&'static Family, ModelError> {
        const KEY: &str = "general.architecture";
        let found = self.required(KEY, self.text(KEY)?)?;
        FAMILIES
            .iter()
            .find(|family| family.architecture == found)
            .ok_or_else(|| ModelError::UnknownArchitecture {
                path: self.path.to_path_buf(),
                found: found.to_owned(),
                known: FAMILIES.iter().map(|family| family.architecture).collect(),
            })
    }

    /// What `config.json` would say of this model: the keys of Transformers' configuration.
    ///
    /// # Errors
    /// [`ModelError::UnknownArchitecture`] outside the llama family, [`ModelError::MissingKey`],
    /// [`ModelError::InvalidValue`] for values that contradict each other or that ask for what is
    /// not computed, and errors of reading values.
    pub fn config(&self) -> Result<Map<String, Value>, ModelError> {
        let family = self.family()?;
        let key = |name: &str| format!("{}.{name}", family.architecture);
        let size = |name: &str| {
            let key = key(name);
            self.required(&key, self.unsigned(&key)?)
        };
        self.refuse_unread(&key)?;
        let n_heads = size("attention.head_count")?;
        let n_kv_heads = self.unsigned(&key("attention.head_count_kv"))?;
        let epsilon = key("attention.layer_norm_rms_epsilon");
        let has = |tensor: &str| self.tensors.contains_key(tensor);
        let config = json!({
            "model_type": family.architecture,
            "architectures": [family.class],
            "vocab_size": self.vocab_size(&key("vocab_size"))?,
            "hidden_size": size("embedding_length")?,
            "intermediate_size": size("feed_forward_length")?,
            "num_hidden_layers": size("block_count")?,
            "num_attention_heads": n_heads,
            "num_key_value_heads": n_kv_heads.unwrap_or(n_heads),
            "head_dim": self.head_size(&key)?,
            "hidden_act": "silu",
            "max_position_embeddings": size("context_length")?,
            "rms_norm_eps": self.required(&epsilon, self.float(&epsilon)?)?,
            "rope_parameters": self.rope_parameters(&key)?,
            "attention_bias": has("blk.0.attn_q.bias"),
            "mlp_bias": has("blk.0.ffn_gate.bias"),
            "tie_word_embeddings": !has(OUTPUT),
            "bos_token_id": self.unsigned("tokenizer.ggml.bos_token_id")?,
            "eos_token_id": self.unsigned("tokenizer.ggml.eos_token_id")?,
            "pad_token_id": self.unsigned("tokenizer.ggml.padding_token_id")?,
        });
        match config {
            Value::Object(keys) => Ok(keys),
            _ => Ok(Map::new()),
        }
    }

    /// Refuses what changes the outputs and is not computed.
    fn refuse_unread(&self, key: &impl Fn(&str) -> String) -> Result<(), ModelError> {
        for (key, allowed) in [
            ("split.count".to_owned(), 1),
            (key("expert_count"), 0),
            (key("attention.sliding_window"), 0),
        ] {
            if let Some(found) = self.unsigned(&key)?
                && found > allowed
            {
                return Err(self.invalid(&key, allowed.to_string(), found));
            }
        }
        Ok(())
    }

    /// Rows of the embedding, which the vocabulary must have as many tokens as.
    fn vocab_size(&self, key: &str) -> Result<usize, ModelError> {
        let embedding = self
            .tensors
            .get(EMBEDDING)
            .ok_or_else(|| ModelError::MissingTensor {
                path: self.path.to_path_buf(),
                name: EMBEDDING.to_owned(),
                expected: Vec::new(),
            })?;
        let n_rows = embedding.shape()[0];
        let n_tokens = self.array(TOKENS, "an array of texts")?;
        let claims = [
            (key, self.unsigned(key)?),
            (TOKENS, n_tokens.map(|tokens| tokens.len() as u64)),
        ];
        for (key, claim) in claims {
            if let Some(found) = claim
                && found != n_rows as u64
            {
                let expected = format!("{n_rows} tokens, one for each row of `{EMBEDDING}`");
                return Err(self.invalid(key, expected, found));
            }
        }
        Ok(n_rows)
    }

    /// Features of one attention head.
    fn head_size(&self, key: &impl Fn(&str) -> String) -> Result<u64, ModelError> {
        let (n_heads_key, d_model_key) = (key("attention.head_count"), key("embedding_length"));
        let n_heads = self.required(&n_heads_key, self.unsigned(&n_heads_key)?)?;
        let d_model = self.required(&d_model_key, self.unsigned(&d_model_key)?)?;
        let d_head = match self.unsigned(&key("attention.key_length"))? {
            Some(d_head) => d_head,
            None if n_heads > 0 && d_model.is_multiple_of(n_heads) => d_model / n_heads,
            None => {
                let expected = format!("a divisor of the embedding's length {d_model}");
                return Err(self.invalid(&n_heads_key, expected, n_heads));
            }
        };
        if d_head == 0 || !d_head.is_multiple_of(2) {
            let expected = "an even number of features";
            return Err(self.invalid(&key("attention.key_length"), expected, d_head));
        }
        for name in ["attention.value_length", "rope.dimension_count"] {
            if let Some(found) = self.unsigned(&key(name))?
                && found != d_head
            {
                let expected = format!("{d_head}, the features of a head");
                return Err(self.invalid(&key(name), expected, found));
            }
        }
        Ok(d_head)
    }

    /// The rotary embedding, as `rope_parameters` of `config.json`.
    fn rope_parameters(&self, key: &impl Fn(&str) -> String) -> Result<Value, ModelError> {
        /// llama.cpp's default.
        const THETA: f64 = 10_000.0;
        let theta = self.float(&key("rope.freq_base"))?.unwrap_or(THETA);
        let type_key = key("rope.scaling.type");
        let factor_key = key("rope.scaling.factor");
        let factor = || self.required(&factor_key, self.float(&factor_key)?);
        match self.text(&type_key)? {
            None | Some("none") => match self.tensors.get(ROPE_FACTORS) {
                None => Ok(json!({"rope_type": "default", "rope_theta": theta})),
                Some(factors) => self.llama3(factors, theta),
            },
            Some("linear") => {
                Ok(json!({"rope_type": "linear", "rope_theta": theta, "factor": factor()?}))
            }
            Some("yarn") => {
                let original = key("rope.scaling.original_context_length");
                Ok(json!({
                    "rope_type": "yarn",
                    "rope_theta": theta,
                    "factor": factor()?,
                    "original_max_position_embeddings": self.unsigned(&original)?,
                }))
            }
            Some(other) => Err(self.invalid(&type_key, "none, linear or yarn", other)),
        }
    }

    fn llama3(&self, factors: &GgufTensor, theta: f64) -> Result<Value, ModelError> {
        let mut values = vec![0.0; factors.shape().iter().product()];
        factors.format().dequantize(factors.bytes(), &mut values);
        llama3_parameters(&values, theta).ok_or_else(|| {
            let expected = "the factors that Llama 3.1 divides its frequencies by";
            self.invalid(ROPE_FACTORS, expected, "others")
        })
    }

    /// All tensors under the names that Transformers gives them, rows in its order. A tensor without
    /// a namesake keeps its name. Rotary factors are left out: they are in the configuration.
    ///
    /// # Errors
    /// As [`config`](Self::config), and [`ModelError::WrongShape`] for query or key rows that are not
    /// whole heads.
    pub fn weights(&self) -> Result<BTreeMap<String, QuantizedWeight>, ModelError> {
        let family = self.family()?;
        let key = |name: &str| format!("{}.{name}", family.architecture);
        let d_head = self.head_size(&key)? as usize;
        let mut weights = BTreeMap::new();
        for (name, tensor) in &self.tensors {
            if name == ROPE_FACTORS {
                continue;
            }
            let order = match family.permuted && is_rotated(name) {
                true => RowOrder::RotaryPairs { d_head },
                false => RowOrder::AsStored,
            };
            let weight = QuantizedWeight::new(tensor, order).ok_or_else(|| {
                let mut expected = tensor.shape().to_vec();
                expected[0] = expected[0].next_multiple_of(d_head);
                ModelError::WrongShape {
                    path: self.path.to_path_buf(),
                    name: name.clone(),
                    expected,
                    found: tensor.shape().to_vec(),
                }
            })?;
            weights.insert(
                transformers_name(name).unwrap_or_else(|| name.clone()),
                weight,
            );
        }
        Ok(weights)
    }
}

/// The parts of a layer's tensor: layer, module, `weight` or `bias`.
fn in_layer(name: &str) -> Option<(&str, &str, &str)> {
    let (layer, rest) = name.strip_prefix("blk.")?.split_once('.')?;
    let (module, kind) = rest.split_once('.')?;
    (layer.bytes().all(|byte| byte.is_ascii_digit()) && !layer.is_empty())
        .then_some((layer, module, kind))
}

fn is_rotated(name: &str) -> bool {
    in_layer(name).is_some_and(|(_, module, _)| matches!(module, "attn_q" | "attn_k"))
}

fn transformers_name(name: &str) -> Option<String> {
    let namesake = |modules: &[(&str, &'static str)], module: &str| {
        let mut modules = modules.iter();
        modules
            .find(|(theirs, _)| *theirs == module)
            .map(|(_, namesake)| *namesake)
    };
    match in_layer(name) {
        Some((layer, module, kind)) => {
            let module = namesake(&IN_LAYER, module)?;
            Some(format!("model.layers.{layer}.{module}.{kind}"))
        }
        None => {
            let (module, kind) = name.split_once('.')?;
            Some(format!("{}.{kind}", namesake(&OUTSIDE, module)?))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{is_rotated, transformers_name};

    #[test]
    fn names_follow_transformers() {
        for (ours, theirs) in [
            ("token_embd.weight", "model.embed_tokens.weight"),
            ("output.weight", "lm_head.weight"),
            ("output_norm.weight", "model.norm.weight"),
            (
                "blk.12.attn_q.bias",
                "model.layers.12.self_attn.q_proj.bias",
            ),
            (
                "blk.0.attn_q_norm.weight",
                "model.layers.0.self_attn.q_norm.weight",
            ),
            (
                "blk.3.ffn_down.weight",
                "model.layers.3.mlp.down_proj.weight",
            ),
        ] {
            assert_eq!(transformers_name(ours).as_deref(), Some(theirs));
        }
        for unknown in [
            "rope_freqs.weight",
            "blk.x.attn_q.weight",
            "blk.0.ssm_a",
            "blk",
        ] {
            assert_eq!(transformers_name(unknown), None, "{unknown}");
        }
    }

    #[test]
    fn only_queries_and_keys_are_rotated() {
        assert!(is_rotated("blk.0.attn_q.weight") && is_rotated("blk.10.attn_k.bias"));
        for name in [
            "blk.0.attn_v.weight",
            "blk.0.attn_q_norm.weight",
            "output.weight",
        ] {
            assert!(!is_rotated(name), "{name}");
        }
    }
}

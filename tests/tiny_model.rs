//! Small models with random weights and a word tokenizer, on disk as Transformers writes them.

use std::collections::BTreeMap;
use std::path::Path;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Map, Value, json};

const D_MODEL: usize = 32;
const D_FF: usize = 48;
const LAYERS: usize = 2;
const POSITIONS: usize = 40;
/// More than the words of any task here.
pub(crate) const VOCABULARY: usize = 80;

/// Writes configuration, weights and tokenizer into a new folder.
pub(crate) fn write(folder: &Path, words: &[&str]) {
    std::fs::create_dir(folder).unwrap();
    let config = json!({
        "architectures": ["BertForSequenceClassification"],
        "model_type": "bert",
        "hidden_size": D_MODEL,
        "intermediate_size": D_FF,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "max_position_embeddings": POSITIONS,
        "vocab_size": VOCABULARY,
        "type_vocab_size": 2,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "pad_token_id": 0,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    });
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let tokenizer = tokenizer(words).to_string();
    std::fs::write(folder.join("tokenizer.json"), tokenizer).unwrap();
    save(&folder.join("model.safetensors"), &weights());
}

/// Writes a small Llama, its tokenizer and a chat template into a new folder.
pub(crate) fn write_llama(folder: &Path, words: &[&str]) {
    std::fs::create_dir(folder).unwrap();
    let config = json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": D_MODEL,
        "intermediate_size": D_FF,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 96,
        "vocab_size": VOCABULARY,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "tie_word_embeddings": true,
        "eos_token_id": 3,
    });
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let mut tokenizer = tokenizer(words);
    tokenizer["post_processor"] = Value::Null;
    std::fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let chat = "{% for message in messages %}{{ message.role }} : {{ message.content }} \
                [SEP] {% endfor %}";
    let chat = json!({"chat_template": chat, "eos_token": "[SEP]"});
    std::fs::write(folder.join("tokenizer_config.json"), chat.to_string()).unwrap();
    save(&folder.join("model.safetensors"), &llama_weights());
}

/// The weights of the small Llama, the same in every process.
pub(crate) fn llama_weights() -> Weights {
    let mut random = ChaCha8Rng::seed_from_u64(12);
    let mut weights = Weights::new();
    let mut add = |name: String, shape: Vec<usize>, middle: f32, spread: f32| {
        let size = shape.iter().product();
        let value = |_| middle + spread * random.random_range(-1.0f32..1.0);
        let values = (0..size).map(value).collect();
        weights.insert(format!("model.{name}.weight"), (shape, values));
    };
    add(
        "embed_tokens".to_owned(),
        vec![VOCABULARY, D_MODEL],
        0.0,
        0.5,
    );
    add("norm".to_owned(), vec![D_MODEL], 1.0, 0.1);
    for index in 0..LAYERS {
        let layer = |name: &str| format!("layers.{index}.{name}");
        for (name, d_out, d_in) in [
            ("self_attn.q_proj", D_MODEL, D_MODEL),
            ("self_attn.k_proj", D_MODEL / 2, D_MODEL),
            ("self_attn.v_proj", D_MODEL / 2, D_MODEL),
            ("self_attn.o_proj", D_MODEL, D_MODEL),
            ("mlp.gate_proj", D_FF, D_MODEL),
            ("mlp.up_proj", D_FF, D_MODEL),
            ("mlp.down_proj", D_MODEL, D_FF),
        ] {
            add(layer(name), vec![d_out, d_in], 0.0, 0.25);
        }
        for name in ["input_layernorm", "post_attention_layernorm"] {
            add(layer(name), vec![D_MODEL], 1.0, 0.1);
        }
    }
    weights
}

/// The configuration of a small T5.
fn t5_config(tied: bool) -> Value {
    json!({
        "architectures": ["T5ForConditionalGeneration"],
        "model_type": "t5",
        "is_encoder_decoder": true,
        "d_model": D_MODEL,
        "d_kv": D_MODEL / 4,
        "d_ff": D_FF,
        "num_layers": LAYERS,
        "num_heads": 4,
        "relative_attention_num_buckets": 8,
        "relative_attention_max_distance": 16,
        "vocab_size": VOCABULARY,
        "feed_forward_proj": "relu",
        "tie_word_embeddings": tied,
        "decoder_start_token_id": 0,
        "pad_token_id": 0,
        "eos_token_id": 3,
    })
}

/// Writes a small T5 and its tokenizer into a new folder. As for a BART, targets begin with a
/// special token, too.
pub(crate) fn write_t5(folder: &Path, words: &[&str]) {
    std::fs::create_dir(folder).unwrap();
    std::fs::write(folder.join("config.json"), t5_config(false).to_string()).unwrap();
    let tokenizer = tokenizer(words).to_string();
    std::fs::write(folder.join("tokenizer.json"), tokenizer).unwrap();
    save(&folder.join("model.safetensors"), &t5_weights());
}

/// Writes the configuration and the tokenizer of a small T5, whose output layer is tied, into a new
/// folder.
pub(crate) fn write_untrained_t5(folder: &Path, words: &[&str]) {
    std::fs::create_dir(folder).unwrap();
    std::fs::write(folder.join("config.json"), t5_config(true).to_string()).unwrap();
    let mut tokenizer = tokenizer(words);
    let single = tokenizer["post_processor"]["single"].as_array_mut();
    single.unwrap().remove(0);
    std::fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
}

/// The weights of the small T5, the same in every process.
pub(crate) fn t5_weights() -> Weights {
    let mut random = ChaCha8Rng::seed_from_u64(13);
    let mut weights = Weights::new();
    let mut add = |name: String, shape: Vec<usize>, middle: f32, spread: f32| {
        let size = shape.iter().product();
        let value = |_| middle + spread * random.random_range(-1.0f32..1.0);
        let values = (0..size).map(value).collect();
        weights.insert(format!("{name}.weight"), (shape, values));
    };
    for name in ["shared", "lm_head"] {
        add(name.to_owned(), vec![VOCABULARY, D_MODEL], 0.0, 0.5);
    }
    for stack in ["encoder", "decoder"] {
        let norm = format!("{stack}.final_layer_norm");
        add(norm, vec![D_MODEL], 1.0, 0.1);
        let attentions: &[&str] = match stack {
            "encoder" => &["SelfAttention"],
            _ => &["SelfAttention", "EncDecAttention"],
        };
        for block in 0..LAYERS {
            let path =
                |place: usize, name: &str| format!("{stack}.block.{block}.layer.{place}.{name}");
            for (place, attention) in attentions.iter().enumerate() {
                add(path(place, "layer_norm"), vec![D_MODEL], 1.0, 0.1);
                for end in ["q", "k", "v", "o"] {
                    let name = path(place, &format!("{attention}.{end}"));
                    // Scores are not scaled, so queries are small.
                    let spread = if end == "q" { 0.1 } else { 0.25 };
                    add(name, vec![D_MODEL, D_MODEL], 0.0, spread);
                }
            }
            if block == 0 {
                let table = path(0, "SelfAttention.relative_attention_bias");
                add(table, vec![8, 4], 0.0, 0.5);
            }
            let last = attentions.len();
            add(path(last, "layer_norm"), vec![D_MODEL], 1.0, 0.1);
            add(
                path(last, "DenseReluDense.wi"),
                vec![D_FF, D_MODEL],
                0.0,
                0.25,
            );
            add(
                path(last, "DenseReluDense.wo"),
                vec![D_MODEL, D_FF],
                0.0,
                0.25,
            );
        }
    }
    weights
}

/// Tensors by name: shape and values.
pub(crate) type Weights = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// Writes tensors as a safetensors file.
pub(crate) fn save(path: &Path, weights: &Weights) {
    let bytes: Vec<(&str, &[usize], Vec<u8>)> = weights
        .iter()
        .map(|(name, (shape, values))| {
            let bytes = values.iter().flat_map(|value| value.to_le_bytes());
            (name.as_str(), shape.as_slice(), bytes.collect())
        })
        .collect();
    let views = bytes.iter().map(|(name, shape, bytes)| {
        let view = TensorView::new(Dtype::F32, shape.to_vec(), bytes).unwrap();
        (*name, view)
    });
    std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// The weights of the model, the same in every process.
pub(crate) fn weights() -> Weights {
    let mut random = ChaCha8Rng::seed_from_u64(11);
    let mut weights = Weights::new();
    let mut add = |name: String, shape: Vec<usize>, middle: f32, spread: f32| {
        let size = shape.iter().product();
        let value = |_| middle + spread * random.random_range(-1.0f32..1.0);
        let values = (0..size).map(value).collect();
        weights.insert(format!("bert.{name}"), (shape, values));
    };
    for (name, rows) in [
        ("word", VOCABULARY),
        ("position", POSITIONS),
        ("token_type", 2),
    ] {
        // Words tell more than places.
        let spread = if name == "word" { 0.5 } else { 0.05 };
        let name = format!("embeddings.{name}_embeddings.weight");
        add(name, vec![rows, D_MODEL], 0.0, spread);
    }
    let mut norms = vec!["embeddings.LayerNorm".to_owned()];
    let mut linears = vec![("pooler.dense".to_owned(), D_MODEL, D_MODEL)];
    for index in 0..LAYERS {
        let layer = |name: &str| format!("encoder.layer.{index}.{name}");
        for name in ["self.query", "self.key", "self.value", "output.dense"] {
            linears.push((layer(&format!("attention.{name}")), D_MODEL, D_MODEL));
        }
        linears.push((layer("intermediate.dense"), D_MODEL, D_FF));
        linears.push((layer("output.dense"), D_FF, D_MODEL));
        norms.extend([
            layer("attention.output.LayerNorm"),
            layer("output.LayerNorm"),
        ]);
    }
    for (name, d_in, d_out) in linears {
        add(format!("{name}.weight"), vec![d_out, d_in], 0.0, 0.25);
        add(format!("{name}.bias"), vec![d_out], 0.0, 0.05);
    }
    for name in norms {
        add(format!("{name}.weight"), vec![D_MODEL], 1.0, 0.1);
        add(format!("{name}.bias"), vec![D_MODEL], 0.0, 0.05);
    }
    weights
}

/// A WordPiece tokenizer over these words and the special tokens.
fn tokenizer(words: &[&str]) -> Value {
    let special_words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];
    let vocabulary: Map<String, Value> = special_words
        .iter()
        .chain(words)
        .enumerate()
        .map(|(id, word)| ((*word).to_owned(), json!(id)))
        .collect();
    assert!(vocabulary.len() <= VOCABULARY, "too many words");
    let special = |id: usize, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    };
    let added: Vec<Value> = special_words
        .iter()
        .enumerate()
        .map(|(id, word)| special(id, word))
        .collect();
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
                       "strip_accents": null, "lowercase": true},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                       {"SpecialToken": {"id": "[SEP]", "type_id": 0}}],
            "pair": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                     {"SpecialToken": {"id": "[SEP]", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}},
                     {"SpecialToken": {"id": "[SEP]", "type_id": 1}}],
            "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [2], "tokens": ["[CLS]"]},
                               "[SEP]": {"id": "[SEP]", "ids": [3], "tokens": ["[SEP]"]}}
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 100, "vocab": vocabulary}
    })
}

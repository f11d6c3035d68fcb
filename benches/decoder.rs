//! A decoder of SmolLM2-135M's size on flex: reading, writing alone and in a batch, and scoring
//! with and without shared prefixes. Its weights are random; they do not change the speed.
//!
//! `cargo bench --bench decoder`; `HYBRID_BENCH_DECODER` names the folder of another model.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use burn::tensor::{Device, Int, Tensor, TensorData};
use divan::Bencher;
use divan::counter::ItemsCount;
use hybrid_models::{
    DecoderBatch, DecoderModel, GenerationConfig, NoHooks, ScoreRequest, open_device,
};
use serde_json::json;

const PROMPT: usize = 64;
const NEW_TOKENS: usize = 32;

fn main() {
    divan::main();
}

/// The model that all benches share.
fn model() -> &'static DecoderModel {
    static MODEL: OnceLock<DecoderModel> = OnceLock::new();
    MODEL.get_or_init(|| {
        let device = open_device("flex").unwrap_or_else(|error| panic!("{error}"));
        let load = |folder: &Path| {
            DecoderModel::load(folder, &device).unwrap_or_else(|error| panic!("{error}"))
        };
        match std::env::var_os("HYBRID_BENCH_DECODER") {
            Some(folder) => load(&PathBuf::from(folder)),
            None => {
                let folder = tempfile::tempdir().unwrap_or_else(|error| panic!("{error}"));
                write_random(folder.path());
                load(folder.path())
            }
        }
    })
}

/// A checkpoint of SmolLM2-135M's shape.
fn write_random(folder: &Path) {
    let (d_model, d_kv, d_ff, vocab, n_layers) = (576, 192, 1536, 49152, 30);
    let config = json!({
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": d_model,
        "intermediate_size": d_ff, "num_hidden_layers": n_layers, "num_attention_heads": 9,
        "num_key_value_heads": 3, "vocab_size": vocab, "max_position_embeddings": 8192,
        "rope_theta": 100000.0, "tie_word_embeddings": true,
    });
    let mut shapes = vec![
        ("model.embed_tokens.weight".to_owned(), vec![vocab, d_model]),
        ("model.norm.weight".to_owned(), vec![d_model]),
    ];
    for layer in 0..n_layers {
        for (name, shape) in [
            ("input_layernorm", vec![d_model]),
            ("post_attention_layernorm", vec![d_model]),
            ("self_attn.q_proj", vec![d_model, d_model]),
            ("self_attn.k_proj", vec![d_kv, d_model]),
            ("self_attn.v_proj", vec![d_kv, d_model]),
            ("self_attn.o_proj", vec![d_model, d_model]),
            ("mlp.gate_proj", vec![d_ff, d_model]),
            ("mlp.up_proj", vec![d_ff, d_model]),
            ("mlp.down_proj", vec![d_model, d_ff]),
        ] {
            shapes.push((format!("model.layers.{layer}.{name}.weight"), shape));
        }
    }
    let mut state = 1u32;
    let mut bytes = |n_values: usize| -> Vec<u8> {
        let value = |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            ((state >> 8) as f32 / (1 << 24) as f32 - 0.5) * 0.1
        };
        (0..n_values)
            .map(value)
            .flat_map(f32::to_le_bytes)
            .collect()
    };
    let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = shapes
        .into_iter()
        .map(|(name, shape)| {
            let values = bytes(shape.iter().product());
            (name, shape, values)
        })
        .collect();
    let views = tensors.iter().map(|(name, shape, bytes)| {
        let view =
            safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes);
        (
            name.as_str(),
            view.unwrap_or_else(|error| panic!("{error}")),
        )
    });
    let file = safetensors::serialize(views, None).unwrap_or_else(|error| panic!("{error}"));
    let write = |name: &str, bytes: &[u8]| {
        std::fs::write(folder.join(name), bytes).unwrap_or_else(|error| panic!("{error}"));
    };
    write("config.json", config.to_string().as_bytes());
    write("model.safetensors", &file);
}

fn tokens(start: i64, length: usize) -> Vec<i64> {
    let vocab = model().decoder.vocab_size() as i64;
    (0..length as i64)
        .map(|place| (start * 997 + place * 31 + place * place * 7) % vocab)
        .collect()
}

#[divan::bench(args = [64, 512], sample_count = 5)]
fn read(bencher: Bencher<'_, '_>, length: usize) {
    let model = model();
    let device: Device = open_device("flex").unwrap_or_else(|error| panic!("{error}"));
    let data = TensorData::new(tokens(1, length), [1, length]);
    let batch = DecoderBatch {
        input_ids: Tensor::<2, Int>::from_data(data, &device),
        attention_mask: None,
        position_ids: None,
    };
    bencher.counter(ItemsCount::new(length)).bench_local(|| {
        let hidden = model.decoder.forward(&batch, None, &NoHooks);
        hidden.map(Tensor::into_data)
    });
}

#[divan::bench(args = [1, 8], sample_count = 3)]
fn write(bencher: Bencher<'_, '_>, rows: usize) {
    let model = model();
    let prompts: Vec<Vec<i64>> = (0..rows).map(|row| tokens(row as i64, PROMPT)).collect();
    let config = GenerationConfig {
        max_new_tokens: NEW_TOKENS,
        ..GenerationConfig::default()
    };
    bencher
        .counter(ItemsCount::new(rows * NEW_TOKENS))
        .bench_local(|| model.generate(&prompts, &config, &NoHooks, &mut |_, _| false));
}

/// Eight inputs behind one prompt with demonstrations, two label words each.
fn requests() -> Vec<Vec<i64>> {
    let prompt = tokens(1, 320);
    (0..8)
        .flat_map(|input| [0, 1].map(|label| (input, label)))
        .map(|(input, label)| [prompt.clone(), tokens(100 + input, 25), vec![label]].concat())
        .collect()
}

fn score(requests: &[Vec<i64>]) -> usize {
    let scored: Vec<ScoreRequest<'_>> = requests
        .iter()
        .map(|ids| ScoreRequest {
            ids,
            n_context: ids.len() - 1,
        })
        .collect();
    let scores = model().score(&scored, &NoHooks);
    scores.unwrap_or_else(|error| panic!("{error}")).tokens_read
}

#[divan::bench(sample_count = 3)]
fn score_with_shared_prefixes(bencher: Bencher<'_, '_>) {
    let requests = requests();
    eprintln!("tokens read with shared prefixes: {}", score(&requests));
    bencher
        .counter(ItemsCount::new(requests.len()))
        .bench_local(|| score(&requests));
}

#[divan::bench(sample_count = 1)]
fn score_one_by_one(bencher: Bencher<'_, '_>) {
    let requests = requests();
    let alone = || -> usize { requests.chunks(1).map(score).sum() };
    eprintln!("tokens read one by one: {}", alone());
    bencher
        .counter(ItemsCount::new(requests.len()))
        .bench_local(alone);
}

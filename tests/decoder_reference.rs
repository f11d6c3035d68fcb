//! Variants and continuations that no fixture records, against Transformers itself. Runs only where
//! the reference stack is installed: `HYBRID_REFERENCE_PYTHON` names its interpreter.

use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use hybrid_models::{
    BeamConfig, DecoderBatch, DecoderModel, Decoding, EarlyStopping, GenerationConfig,
    LogitsProcessor, NoHooks,
};
use serde_json::{Value, json};

use crate::fixtures;
use crate::reference;

/// Settings of the configuration that change what is computed, by `model_type`.
fn variants(model_type: &str) -> Vec<Value> {
    let rope = |parameters: Value| json!({"rope_parameters": parameters});
    match model_type {
        "gpt2" => vec![
            json!({"scale_attn_by_inverse_layer_idx": true}),
            json!({"scale_attn_weights": false, "activation_function": "relu"}),
        ],
        "llama" => vec![
            rope(json!({"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.5})),
            rope(json!({"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 3.0})),
            rope(
                json!({"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0,
                "original_max_position_embeddings": 16}),
            ),
            rope(
                json!({"rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0, "mscale": 0.8,
                "mscale_all_dim": 0.5, "truncate": false, "original_max_position_embeddings": 16}),
            ),
            rope(
                json!({"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0,
                "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 16}),
            ),
            json!({"hidden_act": "gelu_new", "rms_norm_eps": 0.1}),
        ],
        "mistral" => vec![
            json!({"sliding_window": null}),
            json!({"sliding_window": 2}),
        ],
        "qwen2" | "qwen3" => vec![
            json!({"use_sliding_window": true, "sliding_window": 3, "max_window_layers": 1,
                "layer_types": null}),
            json!({"use_sliding_window": true, "sliding_window": 3,
                "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}),
        ],
        other => panic!("no variants of {other:?}"),
    }
}

fn ids(vocab: usize, length: usize, step: i64) -> Vec<i64> {
    let place = |place: i64| 5 + (place * step + place * place * 3) % (vocab as i64 - 5);
    (0..length as i64).map(place).collect()
}

fn logits(model: &DecoderModel, ids: &[i64], device: &Device) -> Vec<f32> {
    let data = TensorData::new(ids.to_vec(), [1, ids.len()]);
    let batch = DecoderBatch {
        input_ids: Tensor::from_data(data, device),
        attention_mask: None,
        position_ids: None,
    };
    let logits = model.logits(&batch, &NoHooks).unwrap();
    logits.into_data().iter::<f32>().collect()
}

/// Forwards of the fixtures' weights under changed configurations.
fn forwards(folder: &Path, device: &Device) -> Vec<Value> {
    let mut cases = Vec::new();
    for fixture in fixtures::language_models() {
        let source = fixture.folder.join("model");
        let config = fixtures::json(&source.join("config.json"));
        let model_type = config["model_type"].as_str().unwrap();
        for (index, changes) in variants(model_type).into_iter().enumerate() {
            let place = folder.join(format!("{}-{index}", fixture.name.replace('/', "-")));
            std::fs::create_dir(&place).unwrap();
            let weights = "model.safetensors";
            std::fs::copy(source.join(weights), place.join(weights)).unwrap();
            let mut changed = config.clone();
            let keys = changed.as_object_mut().unwrap();
            // The older spelling, where it is there, would come first.
            keys.remove("rope_scaling");
            keys.extend(changes.as_object().unwrap().clone());
            std::fs::write(place.join("config.json"), changed.to_string()).unwrap();
            let model = DecoderModel::load(&place, device)
                .unwrap_or_else(|error| panic!("{} with {changes}: {error}", fixture.name));
            let longest = if model_type == "gpt2" { 20 } else { 90 };
            for length in [9, longest] {
                let ids = ids(model.decoder.vocab_size(), length, 7);
                cases.push(json!({
                    "name": format!("{} with {changes}, {length} tokens", fixture.name),
                    "base": place,
                    "logits": logits(&model, &ids, device),
                    "ids": ids,
                }));
            }
        }
    }
    cases
}

/// Continuations under settings that no fixture records.
fn continuations(device: &Device) -> Vec<Value> {
    let beam = |n_beams, length_penalty, early_stopping| {
        Decoding::Beam(BeamConfig {
            n_beams,
            length_penalty,
            early_stopping,
        })
    };
    let mut cases = Vec::new();
    for fixture in fixtures::language_models() {
        let base = fixture.folder.join("model");
        let model = DecoderModel::load(&base, device).unwrap();
        let vocab = model.decoder.vocab_size();
        let prompts: Vec<Vec<i64>> = [(3, 5), (8, 11), (6, 2)]
            .map(|(length, step)| ids(vocab, length, step))
            .into();
        // Some tokens that a random model writes now and then end a sequence.
        let eos_ids: Vec<i64> = (0..vocab as i64).step_by(9).collect();
        for (decoding, repetition_penalty, ngram) in [
            (Decoding::Greedy, 1.3, 2),
            (beam(2, 1.0, EarlyStopping::Unlikely), 1.0, 0),
            (beam(4, 0.0, EarlyStopping::Never), 1.0, 0),
            (beam(3, 2.0, EarlyStopping::Full), 1.0, 3),
            (beam(3, -0.5, EarlyStopping::Unlikely), 1.2, 2),
        ] {
            let config = GenerationConfig {
                max_new_tokens: 10,
                eos_ids: eos_ids.clone(),
                decoding: decoding.clone(),
                repetition_penalty,
                processors: match ngram {
                    0 => Vec::new(),
                    size => vec![LogitsProcessor::NoRepeatNgram(size)],
                },
            };
            let found = model
                .generate(&prompts, &config, &NoHooks, &mut |_, _| false)
                .unwrap();
            let mut settings = json!({
                "max_new_tokens": config.max_new_tokens,
                "eos_token_id": eos_ids,
                "repetition_penalty": repetition_penalty,
                "no_repeat_ngram_size": ngram,
                "do_sample": false,
                "num_beams": 1,
            });
            if let Decoding::Beam(beam) = decoding {
                settings["num_beams"] = json!(beam.n_beams);
                settings["length_penalty"] = json!(beam.length_penalty);
                settings["early_stopping"] = match beam.early_stopping {
                    EarlyStopping::Full => json!(true),
                    EarlyStopping::Unlikely => json!(false),
                    EarlyStopping::Never => json!("never"),
                };
            }
            cases.push(json!({
                "name": format!("{} with {settings}", fixture.name),
                "base": base,
                "prompts": prompts,
                "settings": settings,
                "continuations": found.iter().map(|found| &found.ids).collect::<Vec<_>>(),
                "scores": found.iter().map(|found| found.score).collect::<Vec<_>>(),
            }));
        }
    }
    cases
}

#[test]
fn parity_with_transformers_itself() {
    let Some(python) = reference::python() else {
        return;
    };
    let (folder, device) = (tempfile::tempdir().unwrap(), fixtures::device());
    let mut cases = forwards(folder.path(), &device);
    cases.extend(continuations(&device));
    reference::compare(python, "decoder_reference.py", folder.path(), cases);
}

//! Variants and targets of encoder-decoders that no fixture records, against Transformers itself.
//! Runs only where the reference stack is installed: `HYBRID_REFERENCE_PYTHON` names its
//! interpreter.

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Int, Tensor, TensorData};
use hybrid_models::{
    BaseKind, BeamConfig, Decoding, EarlyStopping, EncoderBatch, EncoderDecoder, GenerationConfig,
    LogitsProcessor, NoHooks,
};
use serde_json::{Value, json};

use crate::fixtures::{self, Fixture};
use crate::reference;

fn models() -> Vec<Fixture> {
    let mut models = fixtures::of_kind("model");
    models.retain(|fixture| {
        let kind = BaseKind::of_folder(&fixture.folder.join("model"));
        kind.is_ok_and(|kind| kind == BaseKind::EncoderDecoder)
    });
    models
}

/// Settings of the configuration that change what is computed, by `model_type`.
fn variants(model_type: &str) -> Vec<Value> {
    match model_type {
        "t5" => vec![
            json!({"relative_attention_max_distance": 40, "layer_norm_epsilon": 0.1}),
            json!({"relative_attention_max_distance": 6, "dense_act_fn": "silu"}),
            json!({"tie_word_embeddings": true, "scale_decoder_outputs": false}),
            json!({"tie_word_embeddings": false, "scale_decoder_outputs": null}),
        ],
        "bart" => vec![
            json!({"scale_embedding": true, "activation_function": "relu"}),
            json!({"encoder_attention_heads": 1, "decoder_attention_heads": 2}),
        ],
        "marian" => vec![
            json!({"scale_embedding": false, "activation_function": "gelu"}),
            json!({"max_position_embeddings": 77}),
        ],
        unknown => panic!("no test understands model_type {unknown:?}"),
    }
}

/// A fixture's model with changed files; null takes a key away.
fn variant(fixture: &Fixture, changes: &Value, generation: &Value, place: PathBuf) -> PathBuf {
    let source = fixture.folder.join("model");
    std::fs::create_dir(&place).unwrap();
    let weights = "model.safetensors";
    std::fs::copy(source.join(weights), place.join(weights)).unwrap();
    let mut config = fixtures::json(&source.join("config.json"));
    let keys = config.as_object_mut().unwrap();
    for (key, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => drop(keys.remove(key)),
            value => drop(keys.insert(key.clone(), value.clone())),
        }
    }
    std::fs::write(place.join("config.json"), config.to_string()).unwrap();
    let path = place.join("generation_config.json");
    std::fs::write(path, generation.to_string()).unwrap();
    place
}

/// Tokens that differ from row to row.
fn ids(vocab: usize, length: usize, step: usize) -> Vec<i64> {
    let id = |place| 5 + (place * step + place * place) % (vocab - 5);
    (0..length).map(|place| id(place) as i64).collect()
}

fn rows(rows: &[Vec<i64>], device: &Device) -> Tensor<2, Int> {
    let shape = [rows.len(), rows[0].len()];
    Tensor::from_data(TensorData::new(rows.concat(), shape), device)
}

/// Inputs with padding on the right, and their masks.
fn inputs(
    model: &EncoderDecoder,
    vocab: usize,
    device: &Device,
) -> (EncoderBatch, [Vec<Vec<i64>>; 2]) {
    let lengths = [(9, 5), (4, 11), (7, 2)];
    let padded = |row: Vec<i64>, pad: i64| {
        let padding = vec![pad; 9 - row.len()];
        [row, padding].concat()
    };
    let pad = model.tokens().pad;
    let tokens = lengths.map(|(length, step)| padded(ids(vocab, length, step), pad));
    let mask = lengths.map(|(length, _)| padded(vec![1; length], 0));
    let batch = EncoderBatch {
        input_ids: rows(&tokens, device),
        attention_mask: rows(&mask, device),
        token_type_ids: None,
    };
    (batch, [tokens.to_vec(), mask.to_vec()])
}

/// Size of the input's vocabulary.
fn vocab(folder: &Path) -> usize {
    let config = fixtures::json(&folder.join("config.json"));
    config["vocab_size"].as_u64().unwrap() as usize
}

/// Forwards of the fixtures' weights under changed configurations.
fn forwards(folder: &Path, device: &Device) -> Vec<Value> {
    let mut cases = Vec::new();
    for fixture in models() {
        let config = fixtures::json(&fixture.folder.join("model/config.json"));
        let model_type = config["model_type"].as_str().unwrap();
        for (index, changes) in variants(model_type).into_iter().enumerate() {
            let place = folder.join(format!("{}-{index}", fixture.name.replace('/', "-")));
            let place = variant(&fixture, &changes, &json!({}), place);
            let model = EncoderDecoder::load(&place, device)
                .unwrap_or_else(|error| panic!("{} with {changes}: {error}", fixture.name));
            let (batch, [tokens, mask]) = inputs(&model, vocab(&place), device);
            let targets: Vec<Vec<i64>> = [3, 8, 1]
                .map(|step| ids(model.vocab_size(), 20, step))
                .into();
            let encoded = model.encode(&batch, &NoHooks).unwrap();
            let hidden = model.decode(&rows(&targets, device), &encoded, None, &NoHooks);
            let logits = model.logits(hidden.unwrap(), &NoHooks);
            cases.push(json!({
                "name": format!("{} with {changes}", fixture.name),
                "base": place,
                "input_ids": tokens,
                "attention_mask": mask,
                "decoder_input_ids": targets,
                "logits": logits.into_data().iter::<f32>().collect::<Vec<f32>>(),
            }));
        }
    }
    cases
}

/// Targets under settings that no fixture records.
fn targets(folder: &Path, device: &Device) -> Vec<Value> {
    let beam = |n_beams, length_penalty, early_stopping| {
        Decoding::Beam(BeamConfig {
            n_beams,
            length_penalty,
            early_stopping,
        })
    };
    let mut cases = Vec::new();
    for fixture in models() {
        let plain = EncoderDecoder::load(&fixture.folder.join("model"), device).unwrap();
        let tokens = plain.vocab_size();
        // Some tokens that a random model writes now and then end a target.
        let eos_ids: Vec<i64> = (0..tokens as i64).step_by(9).collect();
        let rules = json!({
            "forced_bos_token_id": 11,
            "forced_eos_token_id": 9,
            "bad_words_ids": [[7], [10, 12], [13]],
        });
        let mut add = |rules: Value, decoding: Decoding, repetition_penalty, ngram| {
            let place = format!("{}-targets-{}", fixture.name.replace('/', "-"), cases.len());
            let base = variant(&fixture, &json!({}), &rules, folder.join(place));
            let model = EncoderDecoder::load(&base, device).unwrap();
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
            let (batch, [input_ids, mask]) = inputs(&model, vocab(&base), device);
            let found = model
                .generate(&batch, &config, &NoHooks, &mut |_, _| false)
                .unwrap();
            let mut settings = json!({
                "max_new_tokens": config.max_new_tokens,
                "eos_token_id": eos_ids,
                "repetition_penalty": repetition_penalty,
                "no_repeat_ngram_size": ngram,
                "do_sample": false,
                "num_beams": 1,
                "decoder_start_token_id": model.tokens().start,
                "pad_token_id": model.tokens().pad,
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
                "name": format!("{} with {settings} and {rules}", fixture.name),
                "base": base,
                "input_ids": input_ids,
                "attention_mask": mask,
                "settings": settings,
                "targets": found.iter().map(|found| &found.ids).collect::<Vec<_>>(),
                "scores": found.iter().map(|found| found.score).collect::<Vec<_>>(),
            }));
        };
        let none = json!({});
        add(none.clone(), Decoding::Greedy, 1.3, 2);
        add(none.clone(), beam(4, 0.0, EarlyStopping::Never), 1.0, 0);
        add(none, beam(3, 2.0, EarlyStopping::Full), 1.0, 3);
        add(rules.clone(), Decoding::Greedy, 1.0, 0);
        add(rules, beam(3, 1.0, EarlyStopping::Unlikely), 1.0, 0);
    }
    cases
}

#[test]
fn parity_of_seq2seq_with_transformers_itself() {
    let Some(python) = reference::python() else {
        return;
    };
    let (folder, device) = (tempfile::tempdir().unwrap(), fixtures::device());
    let mut cases = forwards(folder.path(), &device);
    cases.extend(targets(folder.path(), &device));
    reference::compare(python, "seq2seq_reference.py", folder.path(), cases);
}

//! What stands in front of the tokens, started at the tokens of a text, acts as those tokens.

use std::collections::BTreeMap;

use burn::tensor::{Device, Int, Tensor, TensorData};
use hybrid_adapters::{AdapterConfig, AdapterError, Adapters};
use hybrid_models::{Base, DecoderBatch, DecoderModel, EncoderBatch, Hooks};
use serde_json::{Value, json};

use super::bench::{close, moved};
use super::{bench, decoders};
use crate::fixtures;

const TEXT: [i64; 2] = [7, 11];
/// The text repeated, as PEFT does, until there is a token for each of the vectors.
const IN_FRONT: [i64; 3] = [7, 11, 7];
const ROWS: [[i64; 5]; 2] = [[5, 8, 6, 12, 9], [10, 7, 7, 13, 6]];

fn stack(value: Value) -> Vec<AdapterConfig> {
    serde_json::from_value(value).unwrap()
}

fn prompt() -> Value {
    json!({"method": "prompt_tuning", "num_virtual_tokens": IN_FRONT.len(),
           "prompt_tuning_init": "TEXT", "init_token_ids": TEXT})
}

fn prefix() -> Value {
    json!({"method": "prefix_tuning", "num_virtual_tokens": IN_FRONT.len(), "init_token_ids": TEXT})
}

fn lora() -> Value {
    json!({"method": "lora", "r": 2, "target_modules": "all-linear"})
}

/// A trained LoRA, alone and under the same prompt.
fn alone_and_joint(base: &dyn Base, device: &Device) -> [Adapters; 2] {
    let init = |value| Adapters::init(&stack(value), base, 0, device).unwrap();
    let alone = moved(init(json!([lora()])));
    let joint = init(json!([lora(), prompt()]));
    let mut tensors: BTreeMap<String, TensorData> = joint.named_tensors().into_iter().collect();
    tensors.extend(alone.named_tensors());
    [alone, joint.load_named_tensors(&tensors).unwrap()]
}

fn ints(rows: &[Vec<i64>], device: &Device) -> Tensor<2, Int> {
    let shape = [rows.len(), rows[0].len()];
    Tensor::from_data(TensorData::new(rows.concat(), shape), device)
}

/// Rows with padding at the left or at the right of the second one, after `in_front`.
fn padded(in_front: &[i64], at_left: bool, device: &Device) -> [Tensor<2, Int>; 2] {
    let width = ROWS[0].len();
    let hidden = |place: usize| {
        if at_left {
            place < 2
        } else {
            place >= width - 2
        }
    };
    let mut masks = vec![vec![1; in_front.len() + width]; 2];
    for place in (0..width).filter(|place| hidden(*place)) {
        masks[1][in_front.len() + place] = 0;
    }
    let rows: Vec<Vec<i64>> = ROWS.iter().map(|row| [in_front, row].concat()).collect();
    [ints(&rows, device), ints(&masks, device)]
}

/// Logits at the rows' own tokens.
fn logits(model: &DecoderModel, [ids, mask]: [Tensor<2, Int>; 2], hooks: &dyn Hooks) -> Vec<f32> {
    let width = ROWS[0].len();
    let own = |x: Tensor<2, Int>| {
        let [_, seq] = x.dims();
        x.narrow(1, seq - width, width)
    };
    let seen: Vec<i64> = own(mask.clone()).into_data().iter().collect();
    let logits = model
        .logits(&DecoderBatch::padded(ids, mask), hooks)
        .unwrap();
    let [_, seq, vocab] = logits.dims();
    let logits = logits.narrow(1, seq - width, width).into_data();
    let logits: Vec<f32> = logits.iter().collect();
    let places = logits.chunks(vocab).zip(seen);
    places
        .filter(|(_, seen)| *seen == 1)
        .flat_map(|(place, _)| place.to_vec())
        .collect()
}

#[test]
fn parity_with_tokens_in_front_of_padded_rows_of_a_decoder() {
    let device = fixtures::device();
    for (name, model) in &decoders::models() {
        let [alone, joint] = alone_and_joint(model, &device);
        let none = Adapters::init(&[], model, 0, &device).unwrap();
        let init = |value| Adapters::init(&stack(value), model, 0, &device).unwrap();
        for (what, in_front, without) in [
            ("prompt", init(json!([prompt()])), &none),
            ("prefix", init(json!([prefix()])), &none),
            ("prompt and LoRA", joint, &alone),
        ] {
            for at_left in [false, true] {
                let text = format!("{name}: {what}, padding at the left: {at_left}");
                let with_tokens = logits(model, padded(&IN_FRONT, at_left, &device), without);
                let soft = logits(model, padded(&[], at_left, &device), &in_front);
                close(&text, &soft, &with_tokens, 1e-3);
            }
        }
    }
}

#[test]
fn parity_with_tokens_in_front_of_an_encoder() {
    for bench in bench::benches() {
        let [alone, joint] = alone_and_joint(&bench.model, &bench.device);
        let classify = |in_front: &[i64], hooks: &dyn Hooks| {
            let rows: Vec<Vec<i64>> = ROWS.iter().map(|row| [in_front, row].concat()).collect();
            let input_ids = ints(&rows, &bench.device);
            let batch = EncoderBatch {
                attention_mask: input_ids.ones_like(),
                token_type_ids: Some(input_ids.zeros_like()),
                input_ids,
            };
            let logits = bench.model.classify(&batch, hooks).unwrap();
            logits.into_data().iter::<f32>().collect::<Vec<f32>>()
        };
        let (soft, tokens) = (classify(&[], &joint), classify(&IN_FRONT, &alone));
        close(&bench.name, &soft, &tokens, 1e-4);
    }
}

/// With zeros for all keys and values every layer sees the same, from whatever they come.
#[test]
fn parity_of_a_prefix_of_zeros() {
    for bench in bench::benches() {
        let logits = |config: Value| {
            let zeros = Adapters::init(&stack(json!([config])), &bench.model, 0, &bench.device);
            bench.logits(&bench.model, &zeros.unwrap())
        };
        let mut config = json!({"method": "prefix_tuning", "num_virtual_tokens": 2});
        let anywhere = logits(config.clone());
        config["init_weights"] = json!("zero");
        let zeros = logits(config.clone());
        bench::differ(&bench.name, &zeros, &anywhere);
        config["prefix_projection"] = json!(true);
        close(&bench.name, &logits(config), &zeros, 1e-6);
    }
}

#[test]
fn parity_of_starts_that_are_refused() {
    for bench in bench::benches() {
        let refused = |value: Value| {
            let stack = stack(json!([value]));
            let adapters = Adapters::init(&stack, &bench.model, 0, &bench.device);
            adapters.expect_err("a start without meaning").to_string()
        };
        let text = refused(json!({"method": "prompt_tuning", "num_virtual_tokens": 2,
                                  "prompt_tuning_init": "TEXT"}));
        assert!(text.contains("init_token_ids"), "{text}");
        for (value, part) in [
            (json!({"num_virtual_tokens": 0}), "num_virtual_tokens"),
            (json!({"token_dim": 3}), "token_dim"),
            (
                json!({"num_transformer_submodules": 2}),
                "num_transformer_submodules",
            ),
        ] {
            for method in ["prompt_tuning", "prefix_tuning", "p_tuning"] {
                let mut config = json!({"method": method, "num_virtual_tokens": 2});
                for (key, value) in value.as_object().unwrap() {
                    config[key] = value.clone();
                }
                let text = refused(config);
                assert!(text.contains(part) && text.contains(method), "{text}");
            }
        }
        for config in [
            json!({"method": "prompt_tuning", "prompt_tuning_init": "TEXT"}),
            json!({"method": "prefix_tuning"}),
        ] {
            for ids in [json!([]), json!([1_000_000])] {
                let mut config = config.clone();
                config["num_virtual_tokens"] = json!(2);
                config["init_token_ids"] = ids;
                refused(config);
            }
        }
        let projected = json!([{"method": "prefix_tuning", "num_virtual_tokens": 2,
                                "prefix_projection": true, "init_token_ids": TEXT}]);
        let error = Adapters::init(&stack(projected), &bench.model, 0, &bench.device);
        let key = "init_token_ids";
        assert!(
            matches!(error, Err(AdapterError::Setting { key: found, .. }) if found == key),
            "{}",
            bench.name
        );
    }
}

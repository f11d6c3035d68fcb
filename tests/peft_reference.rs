//! Adapters written here, loaded by PEFT itself, written by it and loaded here again. Runs only where the reference stack is installed:
//! `HYBRID_REFERENCE_PYTHON` names its interpreter.

use std::path::Path;

use burn::tensor::Tensor;
use hybrid_adapters::{
    AdapterConfig, Adapters, ClassifierHead, HeadConfig, load_peft, peft_has, save_peft,
};
use hybrid_models::{Base, Model, Pooling};
use serde_json::{Value, json};

use crate::contracts::bench::{Bench, benches, close, moved};
use crate::contracts::stacks::stacks;
use crate::fixtures;
use crate::reference;

const TYPES: &str = "the reference computes on rows of numbers";

/// Rows of numbers for JSON.
pub(crate) fn rows(x: Tensor<2>) -> Value {
    let [_, width] = x.dims();
    let values: Vec<f32> = x.into_data().iter::<f32>().collect();
    json!(values.chunks(width).collect::<Vec<_>>())
}

fn ints(x: &Tensor<2, burn::tensor::Int>) -> Value {
    let [_, width] = x.dims();
    let values: Vec<i64> = x.to_data().iter::<i64>().collect();
    json!(values.chunks(width).collect::<Vec<_>>())
}

/// One case for the script, without the expected output.
pub(crate) fn case(bench: &Bench, name: &str, adapter: &Path) -> Value {
    json!({
        "name": name,
        "base": bench.folder,
        "adapter": adapter,
        "input_ids": ints(&bench.batch.input_ids),
        "attention_mask": ints(&bench.batch.attention_mask),
    })
}

#[test]
fn parity_of_files_in_peft_itself() {
    let Some(python) = reference::python() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let (mut cases, mut written) = (Vec::new(), Vec::new());
    for (number, bench) in benches().into_iter().enumerate() {
        let bare = Model::load_encoder(&bench.folder, &bench.device).unwrap();
        for (index, (stack, _)) in stacks().into_iter().enumerate() {
            let name = format!(
                "{} {}",
                bench.name,
                serde_json::to_string(&stack).expect(TYPES)
            );
            let adapters = moved(Adapters::init(&stack, &bench.model, 7, &bench.device).unwrap());
            let has_prefix = stack.iter().any(|config| config.name() == "prefix_tuning");
            // PEFT knows no such attention outside of decoders, and its classifiers pass no task on.
            let has_none = |config: &AdapterConfig| {
                ["adaption_prompt", "multitask_prompt_tuning"].contains(&config.name())
            };
            if stack.iter().any(has_none) {
                continue;
            }
            // DistilBERT takes no keys from outside in Transformers.
            // Without a graphics card PEFT has no second factor of a butterfly.
            let has_butterfly = |config: &AdapterConfig| match config {
                AdapterConfig::Boft(config) => config.boft_n_butterfly_factor > 1,
                _ => false,
            };
            if !peft_has(&adapters)
                || has_prefix && bare.model_type() == "distilbert"
                || stack.iter().any(has_butterfly)
            {
                continue;
            }
            let place = |kind: &str| {
                folder
                    .path()
                    .join(format!("{}-{index}-{kind}", bench.name.replace('/', "-")))
            };
            save_peft(&adapters, &bench.model, "tiny", None, &place("headed")).unwrap();
            let mut headed = case(&bench, &name, &place("headed"));
            headed["logits"] = rows(bench.model.classify(&bench.batch, &adapters).unwrap());
            cases.push(headed);
            written.push((
                number,
                name.clone(),
                place("headed-again"),
                adapters.encoded(),
            ));

            let Ok(adapters) =
                Adapters::init(&without_head(&stack), &bare, 7, &bench.device).map(moved)
            else {
                continue;
            };
            let hidden = bare.encoder.forward(&bench.batch, &adapters);
            save_peft(&adapters, &bare, "tiny", None, &place("bare")).unwrap();
            let mut case_bare = case(&bench, &format!("{name} (bare)"), &place("bare"));
            let [batch, seq, width] = hidden.dims();
            let per_row: Vec<Value> = (0..batch)
                .map(|row| rows(hidden.clone().narrow(0, row, 1).reshape([seq, width])))
                .collect();
            case_bare["hidden"] = json!(per_row);
            cases.push(case_bare);

            if bare.model_type() == "bert" {
                let config = HeadConfig {
                    pooling: Pooling::Pooler,
                    normalize: false,
                    scale: 1.0,
                };
                let head =
                    ClassifierHead::init(config, bare.encoder.d_model(), 5, 3, &bench.device);
                save_peft(&adapters, &bare, "tiny", Some(&head), &place("head")).unwrap();
                let config = fixtures::json(&place("head").join("adapter_config.json"));
                // Files of some methods hold no head.
                if config.get("modules_to_save").is_none() {
                    continue;
                }
                let pooled = bare
                    .pool(hidden, &bench.batch, Pooling::Pooler, &adapters)
                    .unwrap();
                let mut with_head = case(&bench, &format!("{name} (head)"), &place("head"));
                with_head["logits"] = rows(head.forward(pooled));
                cases.push(with_head);
            }
        }
    }
    reference::compare(python, "peft_reference.py", folder.path(), cases);
    let benches = benches();
    for (number, name, again, adapters) in written {
        let bench = &benches[number];
        let expected = bench.logits(&bench.model, &adapters);
        let load = || {
            let found = load_peft(&again, &bench.model, &bench.device);
            let found = found.unwrap_or_else(|error| panic!("{name}: {error}"));
            bench.logits(&bench.model, &found)
        };
        close(&name, &load(), &expected, 1e-5);
        // Then `adapter_model.bin` is all that is there.
        std::fs::remove_file(again.join("adapter_model.safetensors")).unwrap();
        close(&name, &load(), &expected, 1e-5);
    }
}

/// The stack without what acts on a head.
fn without_head(stack: &[AdapterConfig]) -> Vec<AdapterConfig> {
    let mut stack = serde_json::to_value(stack).expect(TYPES);
    for config in stack.as_array_mut().expect(TYPES) {
        if let Some(modules) = config.get_mut("modules").and_then(Value::as_array_mut) {
            modules.retain(|name| name != "classifier");
        }
    }
    serde_json::from_value(stack).expect(TYPES)
}

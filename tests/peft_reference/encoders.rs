//! Classifiers and bare encoders.

use std::path::Path;

use hybrid_adapters::{
    AdapterConfig, Adapters, ClassifierHead, HeadConfig, HeadForm, load_peft, peft_has, save_peft,
};
use hybrid_models::{Base, Model, Pooling};
use serde_json::{Value, json};

use super::{Journey, Sent, TYPES, case, methods, n_trained, rows, rows_of_each};
use crate::contracts::bench::{Bench, moved};
use crate::contracts::stacks::stacks;
use crate::fixtures;

pub(super) use crate::contracts::bench::benches;

/// Writes adapters of every method that PEFT has into `folder`: over classifiers, over the same
/// encoders without their head, and beside a head of hybrid's.
pub(super) fn send<'b>(benches: &'b [Bench], folder: &Path, journey: &mut Journey<'b>) {
    for bench in benches {
        let bare = Model::load_encoder(&bench.folder, &bench.device).unwrap();
        for (index, (stack, _)) in stacks().into_iter().enumerate() {
            let text = serde_json::to_string(&stack).expect(TYPES);
            let name = format!("{} {text}", bench.name);
            let adapters = moved(Adapters::init(&stack, &bench.model, 7, &bench.device).unwrap());
            if !is_for_peft(&stack, &adapters, bare.model_type()) {
                continue;
            }
            let start = format!("{}-{index}", bench.name.replace('/', "-"));
            let place = |kind: &str| folder.join(format!("{start}-{kind}"));
            let of_bench = |name: &str, adapter: &Path| {
                let batch = &bench.batch;
                case(
                    name,
                    &bench.folder,
                    adapter,
                    &batch.input_ids,
                    &batch.attention_mask,
                )
            };
            save_peft(&adapters, &bench.model, "tiny", None, &place("headed")).unwrap();
            let mut headed = of_bench(&name, &place("headed"));
            headed["logits"] = rows(bench.model.classify(&bench.batch, &adapters).unwrap());
            headed["trained"] = json!(n_trained(&adapters));
            journey.cases.push(headed);
            journey.sent.push(Sent {
                name: name.clone(),
                methods: methods(&stack),
                family: bare.model_type().to_owned(),
                again: place("headed-again"),
                expected: bench.logits(&bench.model, &adapters.encoded()),
                outputs: Box::new(move |adapter| {
                    let adapters = load_peft(adapter, &bench.model, &bench.device);
                    let adapters = adapters.unwrap_or_else(|error| panic!("{text}: {error}"));
                    bench.logits(&bench.model, &adapters)
                }),
            });

            let Ok(adapters) =
                Adapters::init(&without_head(&stack), &bare, 7, &bench.device).map(moved)
            else {
                continue;
            };
            let hidden = bare.encoder.forward(&bench.batch, &adapters);
            save_peft(&adapters, &bare, "tiny", None, &place("bare")).unwrap();
            let mut case_bare = of_bench(&format!("{name} (bare)"), &place("bare"));
            case_bare["hidden"] = rows_of_each(hidden.clone());
            journey.cases.push(case_bare);

            if bare.model_type() == "bert" {
                let config = HeadConfig {
                    pooling: Pooling::Pooler,
                    normalize: false,
                    scale: 1.0,
                    form: HeadForm::Linear,
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
                let mut with_head = of_bench(&format!("{name} (head)"), &place("head"));
                with_head["logits"] = rows(head.forward(pooled));
                journey.cases.push(with_head);
            }
        }
    }
}

/// Whether PEFT computes what a stack does over an encoder.
fn is_for_peft(stack: &[AdapterConfig], adapters: &Adapters, model_type: &str) -> bool {
    stack.iter().all(|config| match config {
        // PEFT knows no such attention outside of decoders, and its classifiers pass no task on.
        AdapterConfig::AdaptionPrompt(_) | AdapterConfig::MultitaskPromptTuning(_) => false,
        // DistilBERT takes no keys from outside in Transformers.
        AdapterConfig::PrefixTuning(_) | AdapterConfig::Cartridge(_) => model_type != "distilbert",
        // Without a graphics card PEFT has no second factor of a butterfly.
        AdapterConfig::Boft(config) => config.boft_n_butterfly_factor == 1,
        _ => true,
    }) && peft_has(adapters)
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

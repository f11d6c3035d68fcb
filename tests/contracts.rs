//! What every adapter method promises, checked by the same tests for all of them.

use std::collections::{BTreeMap, BTreeSet};

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::optim::{GradientsParams, SgdConfig};
use burn::tensor::{Tensor, TensorData};
use hybrid_adapters::{AdapterConfig, AdapterError, Adapters, load_peft, peft_has, save_peft};
use hybrid_models::{Base, NoHooks};
use serde_json::json;

use bench::{benches, close, differ, gradient_values, moved};
use stacks::stacks;

pub(crate) mod bench;
mod decoders;
mod in_front;
pub(crate) mod stacks;

#[test]
fn every_method_is_under_test() {
    let schema = schemars::schema_for!(AdapterConfig).to_value();
    let tag = |variant: &serde_json::Value| {
        variant["properties"]["method"]["const"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let methods: BTreeSet<String> = schema["oneOf"]
        .as_array()
        .unwrap()
        .iter()
        .map(tag)
        .collect();
    let tested = stacks()
        .into_iter()
        .flat_map(|(stack, _)| stack)
        .map(|config| config.name().to_owned())
        .collect();
    assert_eq!(methods, tested);
}

/// Whether a stack puts something in front of the tokens.
fn is_in_front(adapters: &Adapters) -> bool {
    adapters.configs().iter().any(AdapterConfig::is_in_front)
}

#[test]
fn parity_bases_start_as_they_are() {
    for bench in benches() {
        let base = bench.logits(&bench.model, &NoHooks);
        for (adapters, text) in bench.each() {
            let starts = bench.logits(&bench.model, &adapters);
            match is_in_front(&adapters) {
                true => differ(&text, &starts, &base),
                false => close(&text, &starts, &base, 1e-6),
            }
            differ(&text, &bench.logits(&bench.model, &moved(adapters)), &base);
        }
    }
}

#[test]
fn parity_bases_stay_bit_unchanged_while_only_adapters_learn() {
    for bench in benches() {
        let before = bench.model.named_tensors();
        for (adapters, text) in bench.each() {
            let mut adapters = moved(adapters).train_on(&bench.device.clone().autodiff());
            let mut optimizer = SgdConfig::new().init();
            let first = bench.loss(&adapters).into_scalar::<f32>();
            for _ in 0..3 {
                let mut gradients = bench.loss(&adapters).backward();
                for site in bench.model.sites().iter() {
                    if let Some(hybrid_models::Layer::Linear(linear)) =
                        bench.model.layer_at(site.id)
                    {
                        assert!(
                            !linear.weight.is_autodiff(),
                            "{text}: {} is tracked",
                            site.path
                        );
                    }
                }
                let gradients = GradientsParams::from_module(&mut gradients, &adapters);
                let mut ids = Ids::default();
                adapters.visit(&mut ids);
                assert_eq!(
                    gradients.len(),
                    ids.0.len(),
                    "{text}: parameters without gradient"
                );
                adapters = optimizer.step(0.02, adapters, gradients);
            }
            let last = bench.loss(&adapters).into_scalar::<f32>();
            assert!(last < first, "{text}: the loss went from {first} to {last}");
        }
        assert_eq!(bench.model.named_tensors(), before, "{}", bench.name);
    }
}

#[test]
fn parity_layers_that_are_run_again_learn_the_same() {
    for bench in benches() {
        for (adapters, text) in bench.each() {
            let adapters = moved(adapters).train_on(&bench.device.clone().autodiff());
            let kept = bench.loss(&adapters.training(3));
            let again = bench.loss(&adapters.training_recomputed(3));
            let losses = [&kept, &again].map(|loss| loss.to_data().iter::<f32>().collect());
            let [kept_loss, again_loss]: [Vec<f32>; 2] = losses;
            close(&text, &again_loss, &kept_loss, 1e-6);
            let [kept, again] = [kept, again].map(|loss| gradient_values(loss, &adapters));
            close(&text, &again, &kept, 1e-5);
        }
    }
}

#[derive(Default)]
struct Ids(BTreeSet<ParamId>);

impl ModuleVisitor for Ids {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        assert!(param.val().is_require_grad());
        self.0.insert(param.id);
    }
}

#[test]
fn parity_bases_merge_to_the_same_function() {
    for bench in benches() {
        let before = bench.model.named_tensors();
        for (adapters, text) in bench.each() {
            let adapters = moved(adapters);
            let merged = adapters.merge(&bench.model);
            let beside =
                |config: &&AdapterConfig| config.name() == "bottleneck" || config.is_in_front();
            if let Some(config) = adapters.configs().iter().find(beside) {
                assert!(
                    matches!(merged, Err(AdapterError::NotMergeable { method, .. }) if method == config.name()),
                    "{text}"
                );
                continue;
            }
            let merged = merged.unwrap_or_else(|error| panic!("{text}: {error}"));
            close(
                &text,
                &bench.logits(&merged, &NoHooks),
                &bench.logits(&bench.model, &adapters),
                1e-4,
            );
        }
        assert_eq!(bench.model.named_tensors(), before, "{}", bench.name);
    }
}

#[test]
fn parity_bases_give_the_same_outputs_after_save_and_load() {
    for bench in benches() {
        for (adapters, text) in bench.each() {
            let adapters = moved(adapters);
            let tensors: BTreeMap<String, TensorData> =
                adapters.named_tensors().into_iter().collect();
            let fresh = Adapters::init(
                adapters.configs(),
                &bench.model,
                8,
                &bench.device.clone().autodiff(),
            )
            .unwrap();
            let loaded = fresh.load_named_tensors(&tensors).unwrap();
            assert_eq!(loaded.named_tensors(), adapters.named_tensors(), "{text}");
            let expected = bench.logits(&bench.model, &adapters);
            close(&text, &bench.logits(&bench.model, &loaded), &expected, 1e-5);
            let evaluated = bench.logits(&bench.model, &loaded.eval());
            close(&text, &evaluated, &expected, 1e-6);

            let folder = tempfile::tempdir().unwrap();
            let saved = save_peft(&adapters, &bench.model, "base", None, folder.path());
            assert_eq!(saved.is_ok(), peft_has(&adapters), "{text}");
            if saved.is_ok() {
                let loaded = load_peft(folder.path(), &bench.model, &bench.device)
                    .unwrap_or_else(|e| panic!("{text}: {e}"));
                let reloaded = bench.logits(&bench.model, &loaded);
                close(&text, &reloaded, &expected, 1e-6);
                let again = tempfile::tempdir().unwrap();
                save_peft(&adapters, &bench.model, "base", None, again.path()).unwrap();
                for file in ["adapter_config.json", "adapter_model.safetensors"] {
                    let read = |folder: &tempfile::TempDir| {
                        std::fs::read(folder.path().join(file)).unwrap()
                    };
                    assert_eq!(read(&folder), read(&again), "{text}: {file}");
                }
            } else {
                assert_eq!(
                    std::fs::read_dir(folder.path()).unwrap().count(),
                    0,
                    "{text}: half written"
                );
            }
        }
    }
}

#[test]
fn parity_bases_have_the_expected_parameters() {
    for bench in benches() {
        for ((adapters, text), (_, count)) in bench.each().zip(stacks()) {
            let expected: usize = bench
                .model
                .sites()
                .iter()
                .map(|site| count(&site.path, &site.kind))
                .sum();
            assert_eq!(adapters.n_parameters(), expected, "{text}");
            let named: usize = adapters
                .named_tensors()
                .iter()
                .map(|(_, data)| data.shape().num_elements())
                .sum();
            assert_eq!(named, expected, "{text}");
        }
    }
}

#[test]
fn parity_bases_see_the_same_first_values_for_the_same_seed() {
    for bench in benches() {
        for ((adapters, text), (stack, _)) in bench.each().zip(stacks()) {
            let device = bench.device.clone().autodiff();
            let again = Adapters::init(&stack, &bench.model, 7, &device).unwrap();
            assert_eq!(again.named_tensors(), adapters.named_tensors(), "{text}");
            let other = Adapters::init(&stack, &bench.model, 9, &device).unwrap();
            let random = stack.iter().any(|config| {
                let name = config.name();
                let config = serde_json::to_value(config).unwrap();
                let in_front = ["prompt_tuning", "prefix_tuning", "p_tuning"].contains(&name);
                in_front && config["init_token_ids"].is_null()
                    || matches!(name, "lora" | "bottleneck")
            });
            assert_eq!(
                other.named_tensors() != adapters.named_tensors(),
                random,
                "{text}"
            );
        }
    }
}

#[test]
fn parity_bases_are_pure_under_the_lowest_layer() {
    for bench in benches() {
        let of = |value: serde_json::Value| {
            let stack: Vec<AdapterConfig> = serde_json::from_value(value).unwrap();
            Adapters::init(&stack, &bench.model, 0, &bench.device)
                .unwrap()
                .lowest_layer()
        };
        assert_eq!(of(json!([])), None);
        assert_eq!(
            of(json!([{"method": "unfreeze", "modules": ["classifier"]}])),
            None
        );
        assert_eq!(
            of(json!([{"method": "lora", "r": 1, "layers_to_transform": [1]}])),
            Some(1)
        );
        assert_eq!(
            of(json!([{"method": "bottleneck", "layers_to_transform": [1]}, {"method": "ia3"}])),
            Some(0)
        );
        assert_eq!(
            of(json!([{"method": "unfreeze", "modules": ["embeddings"]}])),
            Some(0)
        );
        assert_eq!(
            of(json!([{"method": "prefix_tuning", "num_virtual_tokens": 1}])),
            Some(0)
        );
        assert_eq!(
            of(json!([{"method": "layer_norm", "target_modules": ["embeddings.LayerNorm"]}])),
            Some(0)
        );
    }
}

#[test]
fn parity_bases_refuse_illegal_stacks() {
    for bench in benches() {
        let error = |value: serde_json::Value| {
            let stack: Vec<AdapterConfig> = serde_json::from_value(value).unwrap();
            Adapters::init(&stack, &bench.model, 0, &bench.device)
                .expect_err("an illegal stack was built")
        };
        for stack in [
            json!([{"method": "bitfit"}, {"method": "layer_norm"}]),
            json!([{"method": "ia3"}, {"method": "ia3"}]),
            json!([{"method": "ia3"}, {"method": "lora", "r": 1, "use_dora": true}]),
            json!([{"method": "lora", "r": 1}, {"method": "lora", "r": 1, "use_dora": true}]),
            json!([{"method": "bitfit"}, {"method": "lora", "r": 1, "bias": "lora_only"}]),
            json!([{"method": "unfreeze", "modules": ["layer.0"]}, {"method": "unfreeze", "modules": ["layer.0"]}]),
        ] {
            let error = error(stack);
            assert!(
                matches!(&error, AdapterError::Stacking { site, .. } if !site.is_empty()),
                "{error}"
            );
        }
        let embedding =
            error(json!([{"method": "lora", "r": 1, "target_modules": ["word_embeddings"]}]));
        assert!(
            matches!(embedding, AdapterError::UnsupportedTarget { .. }),
            "{embedding}"
        );
        let rank = error(json!([{"method": "lora", "r": 4096}]));
        assert!(
            matches!(rank, AdapterError::Rank { rank: 4096, .. }),
            "{rank}"
        );
        let unfrozen = error(json!([{"method": "unfreeze", "modules": ["lyaer"]}]));
        assert!(unfrozen.to_string().contains("near names"), "{unfrozen}");
    }
}

#[test]
fn parity_bases_feel_dropout_in_training_only() {
    for bench in benches() {
        for stack in [
            json!([{"method": "lora", "r": 2, "lora_dropout": 0.5}]),
            json!([{"method": "lora", "r": 2, "lora_dropout": 0.5, "use_dora": true}]),
            json!([{"method": "p_tuning", "num_virtual_tokens": 2, "encoder_dropout": 0.5,
                    "encoder_reparameterization_type": "LSTM"}]),
        ] {
            let stack: Vec<AdapterConfig> = serde_json::from_value(stack).unwrap();
            let adapters = moved(Adapters::init(&stack, &bench.model, 0, &bench.device).unwrap());
            let expected = bench.logits(&bench.model, &adapters);
            let training = adapters.train_on(&bench.device.clone().autodiff());
            let run = |seed| bench.logits(&bench.model, &training.training(seed));
            differ(&bench.name, &run(1), &expected);
            differ(&bench.name, &run(1), &run(2));
            let evaluated = bench.logits(&bench.model, &training);
            close(&bench.name, &evaluated, &expected, 1e-6);
        }
    }
}

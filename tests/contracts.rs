//! What every adapter method promises, checked by the same tests for all of them.

use std::collections::{BTreeMap, BTreeSet};

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::optim::{GradientsParams, SgdConfig};
use burn::tensor::{Tensor, TensorData};
use hybrid_adapters::{
    AdapterConfig, AdapterError, Adapters, catalogue, load_peft, peft_has, save_peft,
};
use hybrid_models::{Base, NoHooks};
use hybrid_optim::{GroupConfig, OptimizerConfig, ScheduleConfig, Updater};
use serde_json::json;

use bench::{Bench, benches, close, differ, gradient_values, moved};
use stacks::stacks;

pub(crate) mod bench;
mod by_row;
mod counts;
mod decoders;
mod drawn;
pub(crate) mod eva;
mod gates;
mod in_front;
mod layer_stacks;
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

#[test]
fn parity_bases_start_as_they_are() {
    for bench in benches() {
        let base = bench.logits(&bench.model, &NoHooks);
        for (adapters, text) in bench.each() {
            let starts = bench.logits(&bench.model, &adapters);
            match adapters.configs().iter().all(AdapterConfig::starts_as_base) {
                true => close(&text, &starts, &base, 1e-6),
                false => differ(&text, &starts, &base),
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
            let start = moved(adapters).train_on(&bench.device.clone().autodiff());
            let first = bench.loss(&start).into_scalar::<f32>();
            // A rate that is too high for one base is right for another.
            let mut lasts =
                [0.02, 0.002].map(|rate| after_three_steps(&bench, &text, &start, rate));
            lasts.sort_by(f32::total_cmp);
            assert!(
                lasts[0] < first,
                "{text}: the loss went from {first} to {lasts:?}"
            );
        }
        assert_eq!(bench.model.named_tensors(), before, "{}", bench.name);
    }
}

/// The loss after three steps, in which parameters alone had gradients.
fn after_three_steps(bench: &Bench, text: &str, start: &Adapters, rate: f64) -> f32 {
    let mut adapters = start.clone();
    let mut optimizer = SgdConfig::new().init();
    for _ in 0..3 {
        let mut gradients = bench.loss(&adapters).backward();
        for site in bench.model.sites().iter() {
            if let Some(hybrid_models::Layer::Linear(linear)) = bench.model.layer_at(site.id) {
                let path = &site.path;
                assert!(!linear.weight.is_autodiff(), "{text}: {path} is tracked");
            }
        }
        let gradients = GradientsParams::from_module(&mut gradients, &adapters);
        let mut ids = Ids::default();
        adapters.visit(&mut ids);
        let (n, all) = (gradients.len(), ids.0.len());
        assert_eq!(n, all, "{text}: parameters without gradient");
        adapters = optimizer.step(rate, adapters, gradients);
    }
    bench.loss(&adapters).into_scalar::<f32>()
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
            let beside = |config: &&AdapterConfig| {
                let beside = [
                    "bottleneck",
                    "compacter",
                    "loreft",
                    "adaption_prompt",
                    "lily",
                ];
                beside.contains(&config.name()) || config.is_in_front()
            };
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

/// Methods whose first values depend on the seed whatever their settings.
const RANDOM: [&str; 17] = [
    "lily",
    "unilora",
    "deft",
    "peanut",
    "adalora",
    "adaption_prompt",
    "bottleneck",
    "compacter",
    "loreft",
    "poly",
    "loha",
    "lokr",
    "hra",
    "vblora",
    "hira",
    "delora",
    "gralora",
];

#[test]
fn parity_bases_see_the_same_first_values_for_the_same_seed() {
    for bench in benches() {
        for ((adapters, text), (stack, _)) in bench.each().zip(stacks()) {
            let device = bench.device.clone().autodiff();
            let again = Adapters::init(&stack, &bench.model, 7, &device).unwrap();
            assert_eq!(again.named_tensors(), adapters.named_tensors(), "{text}");
            let other = Adapters::init(&stack, &bench.model, 9, &device).unwrap();
            let random = stack.iter().any(|method| {
                let name = method.name();
                let config = serde_json::to_value(method).unwrap();
                let in_front = AdapterConfig::is_in_front(method);
                in_front && config["init_token_ids"].is_null()
                    || ["fourierft", "c3a", "tinylora"].contains(&name)
                        && config["init_weights"] != true
                    || RANDOM.contains(&name)
                    || name == "lora"
                        && !["pissa", "olora"]
                            .map(serde_json::Value::from)
                            .contains(&config["init_lora_weights"])
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
            json!([{"method": "unipelt"}, {"method": "prefix_tuning", "num_virtual_tokens": 1}]),
            json!([{"method": "ia3"}, {"method": "lora", "r": 1, "use_dora": true}]),
            json!([{"method": "lora", "r": 1}, {"method": "lora", "r": 1, "use_dora": true}]),
            json!([{"method": "bitfit"}, {"method": "lora", "r": 1, "bias": "lora_only"}]),
            json!([{"method": "lora", "r": 1}, {"method": "hira", "r": 1}]),
            json!([{"method": "road", "group_size": 2}, {"method": "boft"}]),
            json!([{"method": "vera"}, {"method": "miss", "r": 4, "init_weights": "bat"}]),
            json!([{"method": "unfreeze", "modules": ["layer.0"]}, {"method": "unfreeze", "modules": ["layer.0"]}]),
        ] {
            let error = error(stack);
            assert!(
                matches!(&error, AdapterError::Stacking { site, .. } if !site.is_empty()),
                "{error}"
            );
        }
        let norm =
            error(json!([{"method": "lora", "r": 1, "target_modules": ["embeddings.LayerNorm"]}]));
        assert!(
            matches!(
                norm,
                AdapterError::UnsupportedTarget {
                    found: "a norm",
                    ..
                }
            ),
            "{norm}"
        );
        let embedding =
            error(json!([{"method": "adalora", "target_modules": ["word_embeddings"]}]));
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

/// Indices of a file that point out of the weight are an error, not a crash.
#[test]
fn parity_bases_refuse_indices_out_of_the_weight() {
    let bench = benches().remove(0);
    let stack = json!([{"method": "shira", "r": 1}]);
    let stack: Vec<AdapterConfig> = serde_json::from_value(stack).unwrap();
    let adapters = Adapters::init(&stack, &bench.model, 0, &bench.device).unwrap();
    let folder = tempfile::tempdir().unwrap();
    save_peft(&adapters, &bench.model, "base", None, folder.path()).unwrap();
    let path = folder.path().join("adapter_model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let (_, view) = file
        .iter()
        .find(|(name, _)| name.ends_with("indices"))
        .unwrap();
    let start = view.data().as_ptr() as usize - bytes.as_ptr() as usize;
    bytes[start..start + 4].copy_from_slice(&1_000_000i32.to_le_bytes());
    std::fs::write(&path, bytes).unwrap();
    let error = load_peft(folder.path(), &bench.model, &bench.device).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("shira_indices") && text.contains("1000000"),
        "{text}"
    );
}

/// LoRA+ and LoRA-FA: groups of the optimizer give each factor a rate of its own.
#[test]
fn parity_bases_train_factors_at_rates_of_their_own() {
    let bench = &benches()[0];
    let stack: Vec<AdapterConfig> =
        serde_json::from_value(json!([{"method": "lora", "r": 2}])).unwrap();
    let adapters = moved(Adapters::init(&stack, &bench.model, 0, &bench.device).unwrap());
    let adapters = adapters.train_on(&bench.device.clone().autodiff());
    let changes = |groups: serde_json::Value| {
        let groups: Vec<GroupConfig> = serde_json::from_value(groups).unwrap();
        let rule = OptimizerConfig::Sgd {
            lr: 0.1,
            momentum: 0.0,
            weight_decay: 0.0,
        };
        let schedule = ScheduleConfig::default();
        let mut updater = Updater::new(rule, &groups, schedule, None, 4, &adapters).unwrap();
        let gradients = bench.loss(&adapters).backward();
        updater.accumulate(GradientsParams::from_grads(gradients, &adapters));
        let (after, _) = updater.step(adapters.clone()).unwrap();
        let before = adapters.named_tensors().into_iter();
        before
            .zip(after.named_tensors())
            .map(|((name, before), (_, after))| {
                let pairs = after.iter::<f32>().zip(before.iter::<f32>());
                (
                    name,
                    pairs
                        .map(|(after, before)| after - before)
                        .collect::<Vec<f32>>(),
                )
            })
            .collect::<Vec<_>>()
    };
    let plain = changes(json!([]));
    let plus = changes(
        json!([{"pattern": "lora_b$", "lr_scale": 4.0}, {"pattern": "lora_a$", "lr_scale": 0.0}]),
    );
    for ((name, plain), (_, plus)) in plain.iter().zip(&plus) {
        let factor = if name.ends_with("lora_b") { 4.0 } else { 0.0 };
        let expected: Vec<f32> = plain.iter().map(|change| change * factor).collect();
        close(name, plus, &expected, 1e-5);
        assert!(plain.iter().any(|change| change.abs() > 1e-5), "{name}");
    }
}

/// What the catalogue says of a method is what it does.
#[test]
fn parity_bases_bear_the_catalogue_out() {
    for bench in benches() {
        for info in catalogue() {
            let config = info.default_config();
            let adapters = match Adapters::init(&[config], &bench.model, 0, &bench.device) {
                Ok(adapters) => adapters,
                // Defaults are for larger bases than these.
                Err(AdapterError::Rank { .. } | AdapterError::Setting { .. }) => continue,
                Err(error) => panic!("{}: {error}", info.name),
            };
            assert_eq!(
                adapters.merge(&bench.model).is_ok(),
                info.merges,
                "{}",
                info.name
            );
            let is_in_peft = info.peft_type.is_some();
            // Unfrozen layers stand beside another method there.
            assert_eq!(peft_has(&adapters), is_in_peft, "{}", info.name);
            assert_eq!(
                info.n_parameters(&bench.model, &bench.device).unwrap(),
                adapters.n_parameters()
            );
        }
    }
}

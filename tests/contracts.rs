//! What every adapter method promises, checked by the same tests for all of them.

use std::collections::{BTreeMap, BTreeSet};

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::optim::{GradientsParams, SgdConfig};
use burn::tensor::{Device, Int, Tensor, TensorData};
use hybrid_adapters::{AdapterConfig, AdapterError, Adapters, load_peft, peft_has, save_peft};
use hybrid_models::{EncoderBatch, Hooks, Model, NoHooks, SiteKind, cross_entropy};
use serde_json::json;

use crate::fixtures;

/// Stacks under test with the number of parameters that each must have, by site.
fn stacks() -> Vec<(Vec<AdapterConfig>, fn(&str, &SiteKind) -> usize)> {
    let stack = |value: serde_json::Value| serde_json::from_value(value).unwrap();
    vec![
        (
            stack(json!([{"method": "lora", "r": 3, "lora_alpha": 7, "target_modules": ["query", "value", "q_lin", "v_lin"],
                          "rank_pattern": {"value|v_lin": 2}}])),
            |path, kind| match name(path) {
                "query" | "q_lin" => factors(3, kind),
                "value" | "v_lin" => factors(2, kind),
                _ => 0,
            },
        ),
        (
            stack(json!([{"method": "lora", "r": 2, "lora_alpha": 3, "use_rslora": true, "bias": "lora_only",
                          "target_modules": "all-linear"}])),
            |path, kind| if in_head(path) { 0 } else { factors(2, kind) + bias(kind) * usize::from(factors(2, kind) > 0) },
        ),
        (
            stack(json!([{"method": "lora", "r": 2, "bias": "all", "target_modules": r".*(query|q_lin)",
                          "alpha_pattern": {"layer.0.attention.self.query": 1.5}}])),
            |path, kind| bias(kind) + if matches!(name(path), "query" | "q_lin") { factors(2, kind) } else { 0 },
        ),
        (
            stack(json!([{"method": "lora", "r": 2, "layers_to_transform": [1], "exclude_modules": ["value", "v_lin"]}])),
            |path, kind| if in_layer(path, 1) && matches!(name(path), "query" | "q_lin") { factors(2, kind) } else { 0 },
        ),
        (stack(json!([{"method": "ia3"}])), |path, kind| match (name(path), kind) {
            ("key" | "value" | "k_lin" | "v_lin", SiteKind::Linear { d_out, .. }) => *d_out,
            (_, SiteKind::Linear { d_in, .. })
                if path.ends_with("output.dense") || path.ends_with("out_lin") || path.ends_with("ffn.lin2") =>
            {
                *d_in
            }
            _ => 0,
        }),
        (stack(json!([{"method": "bitfit", "exclude_modules": ["key", "k_lin"]}])), |path, kind| {
            if matches!(name(path), "key" | "k_lin") { 0 } else { bias(kind) }
        }),
        (stack(json!([{"method": "layer_norm"}])), |_, kind| norm(kind)),
        (stack(json!([{"method": "bottleneck", "bottleneck_size": 5, "activation": "gelu"}])), |_, kind| pair(5, kind)),
        (
            stack(json!([{"method": "bottleneck", "bottleneck_size": 4, "placement": "pfeiffer", "activation": "tanh"}])),
            |path, kind| if path.ends_with("attention.output") || name(path) == "attention" { 0 } else { pair(4, kind) },
        ),
        (stack(json!([{"method": "unfreeze", "modules": ["layer.1", "embeddings"]}])), |path, kind| {
            if in_layer(path, 1) || path.contains("embeddings.") { whole(kind) } else { 0 }
        }),
        (
            stack(json!([{"method": "ia3"}, {"method": "lora", "r": 2, "target_modules": ["value", "v_lin"]}])),
            |path, kind| {
                let (_, ia3) = &stacks()[4];
                ia3(path, kind) + if matches!(name(path), "value" | "v_lin") { factors(2, kind) } else { 0 }
            },
        ),
        (
            stack(json!([{"method": "lora", "r": 2, "target_modules": ["value", "v_lin"]}, {"method": "ia3"},
                         {"method": "bottleneck", "bottleneck_size": 3}, {"method": "layer_norm"}])),
            |path, kind| {
                let (_, both) = &stacks()[10];
                both(path, kind) + pair(3, kind) + norm(kind)
            },
        ),
        (
            stack(json!([{"method": "lora", "r": 2, "target_modules": "all-linear", "bias": "all"},
                         {"method": "unfreeze", "modules": ["classifier", "layer.0"]}])),
            |path, kind| match in_layer(path, 0) || path.split('.').any(|part| part == "classifier") {
                true => whole(kind),
                false => bias(kind) + factors(2, kind),
            },
        ),
    ]
}

fn name(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}

fn in_layer(path: &str, layer: usize) -> bool {
    path.contains(&format!(".layer.{layer}."))
}

fn in_head(path: &str) -> bool {
    path.split('.').any(|part| part == "classifier")
}

fn factors(rank: usize, kind: &SiteKind) -> usize {
    match kind {
        SiteKind::Linear { d_in, d_out, .. } => rank * (d_in + d_out),
        _ => 0,
    }
}

fn bias(kind: &SiteKind) -> usize {
    match kind {
        SiteKind::Linear { d_out, bias: true, .. } => *d_out,
        SiteKind::Norm { d_model } => *d_model,
        _ => 0,
    }
}

fn norm(kind: &SiteKind) -> usize {
    match kind {
        SiteKind::Norm { d_model } => 2 * d_model,
        _ => 0,
    }
}

fn pair(size: usize, kind: &SiteKind) -> usize {
    match kind {
        SiteKind::Block { d_model } => 2 * size * d_model + size + d_model,
        _ => 0,
    }
}

fn whole(kind: &SiteKind) -> usize {
    match kind {
        SiteKind::Linear { d_in, d_out, bias } => d_in * d_out + d_out * usize::from(*bias),
        SiteKind::Embedding { n, d_model } => n * d_model,
        kind => norm(kind),
    }
}

/// A small classifier with a batch, part of it padding, and targets.
struct Bench {
    name: String,
    model: Model,
    batch: EncoderBatch,
    targets: Tensor<1, Int>,
    device: Device,
}

/// One classifier of each architecture among the fixtures.
fn benches() -> Vec<Bench> {
    let device = fixtures::device();
    let mut benches = BTreeMap::new();
    for fixture in fixtures::of_kind("model") {
        let folder = fixture.folder.join("model");
        let config = fixtures::json(&folder.join("config.json"));
        let class = config["architectures"][0].as_str().unwrap_or_default();
        if !["Bert", "Roberta", "DistilBert"].iter().any(|family| class == format!("{family}ForSequenceClassification")) {
            continue;
        }
        let model = Model::load(&folder, &device).unwrap();
        let pad = config["pad_token_id"].as_i64().unwrap_or(0);
        // No token may be the padding's: RoBERTa counts positions by it.
        let id = |place: i64| (pad + 1 + place * 5 % (model.encoder.vocab_size() as i64 - pad - 1)) as i32;
        let ids: Vec<i32> = (0..12).map(|place| if place > 9 { pad as i32 } else { id(place) }).collect();
        let mask: Vec<i32> = (0..12).map(|place| i32::from(place <= 9)).collect();
        let ints = |values: Vec<i32>| Tensor::from_data(TensorData::new(values, [2, 6]), &device);
        let batch = EncoderBatch { input_ids: ints(ids), attention_mask: ints(mask), token_type_ids: None };
        let targets = Tensor::from_data(TensorData::new(vec![0i32, 1], [2]), &device);
        benches.insert(class.to_owned(), Bench { name: fixture.name, model, batch, targets, device: device.clone() });
    }
    assert!(!benches.is_empty(), "no classifier among the fixtures");
    benches.into_values().collect()
}

impl Bench {
    fn each(&self) -> impl Iterator<Item = (Adapters, String)> {
        stacks().into_iter().map(|(stack, _)| {
            let adapters = Adapters::init(&stack, &self.model, 7, &self.device);
            let text = format!("{}: {}", self.name, serde_json::to_string(&stack).unwrap());
            (adapters.unwrap_or_else(|error| panic!("{text}: {error}")), text)
        })
    }

    fn logits(&self, model: &Model, hooks: &dyn Hooks) -> Vec<f32> {
        model.classify(&self.batch, hooks).unwrap().into_data().iter::<f32>().collect()
    }

    fn loss(&self, hooks: &dyn Hooks) -> Tensor<1> {
        cross_entropy(self.model.classify(&self.batch, hooks).unwrap(), self.targets.clone())
    }
}

/// The stack with every value moved, so that nothing is zero or one any more.
fn moved(adapters: Adapters) -> Adapters {
    let mut place = 0u64;
    let tensors: BTreeMap<String, TensorData> = adapters
        .named_tensors()
        .into_iter()
        .map(|(name, data)| {
            let values: Vec<f32> = data
                .iter::<f32>()
                .map(|value| {
                    place += 1;
                    value + 0.2 * ((place as f32) * 1.7).sin()
                })
                .collect();
            (name, TensorData::new(values, data.shape().clone()))
        })
        .collect();
    adapters.load_named_tensors(&tensors).unwrap()
}

fn close(text: &str, actual: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(actual.len(), expected.len(), "{text}");
    for (a, e) in actual.iter().zip(expected) {
        assert!((a - e).abs() <= tolerance * (1.0 + e.abs()), "{text}: {actual:?} instead of {expected:?}");
    }
}

fn differ(text: &str, a: &[f32], b: &[f32]) {
    let largest = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(largest > 1e-3, "{text}: the adapter changes nothing");
}

#[test]
fn every_method_is_under_test() {
    let schema = schemars::schema_for!(AdapterConfig).to_value();
    let tag = |variant: &serde_json::Value| variant["properties"]["method"]["const"].as_str().unwrap().to_owned();
    let methods: BTreeSet<String> = schema["oneOf"].as_array().unwrap().iter().map(tag).collect();
    let tested = stacks().into_iter().flat_map(|(stack, _)| stack).map(|config| config.name().to_owned()).collect();
    assert_eq!(methods, tested);
}

#[test]
fn parity_bases_start_as_they_are() {
    for bench in benches() {
        let base = bench.logits(&bench.model, &NoHooks);
        for (adapters, text) in bench.each() {
            close(&text, &bench.logits(&bench.model, &adapters), &base, 1e-6);
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
                    if let Some(hybrid_models::Layer::Linear(linear)) = bench.model.layer_at(site.id) {
                        assert!(!linear.weight.is_autodiff(), "{text}: {} is tracked", site.path);
                    }
                }
                let gradients = GradientsParams::from_module(&mut gradients, &adapters);
                let mut ids = Ids::default();
                adapters.visit(&mut ids);
                assert_eq!(gradients.len(), ids.0.len(), "{text}: parameters without gradient");
                adapters = optimizer.step(0.02, adapters, gradients);
            }
            let last = bench.loss(&adapters).into_scalar::<f32>();
            assert!(last < first, "{text}: the loss went from {first} to {last}");
        }
        assert_eq!(bench.model.named_tensors(), before, "{}", bench.name);
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
            if adapters.configs().iter().any(|config| config.name() == "bottleneck") {
                assert!(matches!(merged, Err(AdapterError::NotMergeable { method: "bottleneck", .. })), "{text}");
                continue;
            }
            let merged = merged.unwrap_or_else(|error| panic!("{text}: {error}"));
            close(&text, &bench.logits(&merged, &NoHooks), &bench.logits(&bench.model, &adapters), 1e-4);
        }
        assert_eq!(bench.model.named_tensors(), before, "{}", bench.name);
    }
}

#[test]
fn parity_bases_give_the_same_outputs_after_save_and_load() {
    for bench in benches() {
        for (adapters, text) in bench.each() {
            let adapters = moved(adapters);
            let tensors: BTreeMap<String, TensorData> = adapters.named_tensors().into_iter().collect();
            let fresh = Adapters::init(adapters.configs(), &bench.model, 8, &bench.device.clone().autodiff()).unwrap();
            let loaded = fresh.load_named_tensors(&tensors).unwrap();
            assert_eq!(loaded.named_tensors(), adapters.named_tensors(), "{text}");
            let expected = bench.logits(&bench.model, &adapters);
            assert_eq!(bench.logits(&bench.model, &loaded), expected, "{text}");
            assert_eq!(bench.logits(&bench.model, &loaded.eval()), expected, "{text}");

            let folder = tempfile::tempdir().unwrap();
            let saved = save_peft(&adapters, &bench.model, "base", None, folder.path());
            assert_eq!(saved.is_ok(), peft_has(&adapters), "{text}");
            if saved.is_ok() {
                let loaded = load_peft(folder.path(), &bench.model, &bench.device).unwrap_or_else(|e| panic!("{text}: {e}"));
                assert_eq!(bench.logits(&bench.model, &loaded), expected, "{text}");
                let again = tempfile::tempdir().unwrap();
                save_peft(&adapters, &bench.model, "base", None, again.path()).unwrap();
                for file in ["adapter_config.json", "adapter_model.safetensors"] {
                    let read = |folder: &tempfile::TempDir| std::fs::read(folder.path().join(file)).unwrap();
                    assert_eq!(read(&folder), read(&again), "{text}: {file}");
                }
            } else {
                assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "{text}: half written");
            }
        }
    }
}

#[test]
fn parity_bases_have_the_expected_parameters() {
    for bench in benches() {
        for ((adapters, text), (_, count)) in bench.each().zip(stacks()) {
            let expected: usize = bench.model.sites().iter().map(|site| count(&site.path, &site.kind)).sum();
            assert_eq!(adapters.n_parameters(), expected, "{text}");
            let named: usize = adapters.named_tensors().iter().map(|(_, data)| data.shape().num_elements()).sum();
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
            let random = stack.iter().any(|config| matches!(config.name(), "lora" | "bottleneck"));
            assert_eq!(other.named_tensors() != adapters.named_tensors(), random, "{text}");
        }
    }
}

#[test]
fn parity_bases_are_pure_under_the_lowest_layer() {
    for bench in benches() {
        let of = |value: serde_json::Value| {
            let stack: Vec<AdapterConfig> = serde_json::from_value(value).unwrap();
            Adapters::init(&stack, &bench.model, 0, &bench.device).unwrap().lowest_layer()
        };
        assert_eq!(of(json!([])), None);
        assert_eq!(of(json!([{"method": "unfreeze", "modules": ["classifier"]}])), None);
        assert_eq!(of(json!([{"method": "lora", "r": 1, "layers_to_transform": [1]}])), Some(1));
        assert_eq!(of(json!([{"method": "bottleneck", "layers_to_transform": [1]}, {"method": "ia3"}])), Some(0));
        assert_eq!(of(json!([{"method": "unfreeze", "modules": ["embeddings"]}])), Some(0));
        assert_eq!(of(json!([{"method": "layer_norm", "target_modules": ["embeddings.LayerNorm"]}])), Some(0));
    }
}

#[test]
fn parity_bases_refuse_illegal_stacks() {
    for bench in benches() {
        let error = |value: serde_json::Value| {
            let stack: Vec<AdapterConfig> = serde_json::from_value(value).unwrap();
            Adapters::init(&stack, &bench.model, 0, &bench.device).expect_err("an illegal stack was built")
        };
        for stack in [
            json!([{"method": "bitfit"}, {"method": "layer_norm"}]),
            json!([{"method": "ia3"}, {"method": "ia3"}]),
            json!([{"method": "bitfit"}, {"method": "lora", "r": 1, "bias": "lora_only"}]),
            json!([{"method": "unfreeze", "modules": ["layer.0"]}, {"method": "unfreeze", "modules": ["layer.0"]}]),
        ] {
            let error = error(stack);
            assert!(matches!(&error, AdapterError::Stacking { site, .. } if !site.is_empty()), "{error}");
        }
        let embedding = error(json!([{"method": "lora", "r": 1, "target_modules": ["word_embeddings"]}]));
        assert!(matches!(embedding, AdapterError::UnsupportedTarget { .. }), "{embedding}");
        let rank = error(json!([{"method": "lora", "r": 4096}]));
        assert!(matches!(rank, AdapterError::Rank { rank: 4096, .. }), "{rank}");
        let unfrozen = error(json!([{"method": "unfreeze", "modules": ["layer"]}]));
        assert!(unfrozen.to_string().contains("near names"), "{unfrozen}");
    }
}

#[test]
fn parity_bases_feel_dropout_in_training_only() {
    for bench in benches() {
        let stack = serde_json::from_value(json!([{"method": "lora", "r": 2, "lora_dropout": 0.5}])).unwrap();
        let stack: Vec<AdapterConfig> = stack;
        let adapters = moved(Adapters::init(&stack, &bench.model, 0, &bench.device).unwrap());
        let expected = bench.logits(&bench.model, &adapters);
        let training = adapters.train_on(&bench.device.clone().autodiff());
        let run = |seed| {
            bench.device.seed(seed);
            bench.logits(&bench.model, &training)
        };
        differ(&bench.name, &run(1), &expected);
        differ(&bench.name, &run(1), &run(2));
        assert_eq!(bench.logits(&bench.model, &training.eval()), expected);
    }
}

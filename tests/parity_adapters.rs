//! Every recorded output of the `adapter` fixtures against PEFT.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::module::{Module, ModuleMapper, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor, TensorData};
use hybrid_adapters::{AdapterError, Adapters, load_peft, save_peft, torch_tensors};
use hybrid_models::{GenerationConfig, Hooks, NoHooks, cross_entropy};
use serde_json::{Value, json};

use crate::any_base::{AnyBase, AnyBatch, host};
use crate::fixtures::{self, Fixture, Tensors, Tolerance};

mod faults;

/// `peft_type`s that the crate has.
const TYPES: [&str; 3] = ["LORA", "IA3", "LN_TUNING"];

/// `peft_type`s of later work.
const LATER_TYPES: [&str; 22] = [
    "ADALORA",
    "ADAPTION_PROMPT",
    "BOFT",
    "C3A",
    "DELORA",
    "FOURIERFT",
    "GRALORA",
    "HIRA",
    "HRA",
    "LOHA",
    "LOKR",
    "MISS",
    "MULTITASK_PROMPT_TUNING",
    "OFT",
    "PREFIX_TUNING",
    "PROMPT_TUNING",
    "P_TUNING",
    "RANDLORA",
    "ROAD",
    "TRAINABLE_TOKENS",
    "VBLORA",
    "VERA",
];

/// Options of known types that later work brings.
const LATER_OPTIONS: [&str; 3] = ["init_lora_weights", "lora_bias", "trainable_token_indices"];

const KEY_PREFIX: &str = "base_model.model.";

/// A fixture with its base and adapter loaded.
struct Case {
    fixture: Fixture,
    base: AnyBase,
    adapters: Adapters,
    batch: AnyBatch,
    expected: Tensors,
    tolerance: Tolerance,
    device: Device,
}

/// The folder of a fixture's base.
fn base_folder(fixture: &Fixture) -> PathBuf {
    let base = fixture.meta["base"].as_str();
    fixture.folder.join(base.expect("meta.json names the base"))
}

fn cases() -> Vec<Case> {
    let device = fixtures::device();
    let mut cases = Vec::new();
    for fixture in fixtures::of_kind("adapter") {
        let base = AnyBase::load(&base_folder(&fixture), &device);
        let name = &fixture.name;
        let peft_type = fixture.meta["peft_type"]
            .as_str()
            .expect("meta.json names the peft_type");
        let known = TYPES.contains(&peft_type);
        match load_peft(&fixture.folder.join("adapter"), base.as_base(), &device) {
            Ok(adapters) if known => {
                let inputs = fixture.meta["inputs"].as_str();
                let inputs = inputs.expect("meta.json names the inputs");
                let inputs = Tensors::read(&fixture.folder.join(inputs));
                cases.push(Case {
                    batch: AnyBatch::read(&inputs, "", &device),
                    expected: Tensors::read(&fixture.folder.join("outputs.safetensors")),
                    tolerance: Tolerance::of(&fixture.meta["tolerance"]),
                    fixture,
                    base,
                    adapters,
                    device: device.clone(),
                });
            }
            Err(AdapterError::PeftOption { key, .. })
                if known && LATER_OPTIONS.contains(&key.as_str()) => {}
            Err(AdapterError::File { source, .. }) if known && is_lora_on_embedding(&source) => {}
            Err(AdapterError::PeftType { found, .. }) if LATER_TYPES.contains(&peft_type) => {
                assert_eq!(found, peft_type)
            }
            Err(error) if known => panic!("{name}: {error}"),
            _ => panic!("{name}: no test understands peft_type {peft_type:?}"),
        }
    }
    for peft_type in TYPES {
        assert!(
            cases
                .iter()
                .any(|case| case.fixture.meta["peft_type"] == peft_type),
            "no fixture of {peft_type}"
        );
    }
    cases
}

/// LoRA on an embedding is later work.
fn is_lora_on_embedding(error: &AdapterError) -> bool {
    matches!(
        error,
        AdapterError::UnsupportedTarget {
            method: "lora",
            found: "an embedding",
            ..
        }
    )
}

impl Case {
    fn logits(&self, base: &AnyBase, hooks: &dyn Hooks) -> Vec<f32> {
        base.counted(&base.logits(&self.batch, hooks), &self.batch)
    }

    /// Recorded logits without those at padding.
    fn recorded(&self, file: &Tensors, name: &str) -> Vec<f32> {
        self.base.counted(file.floats(name), &self.batch)
    }

    fn loss(&self, hooks: &dyn Hooks) -> Tensor<1> {
        let (logits, targets) = self.base.targets(&self.batch, hooks);
        cross_entropy(logits, targets)
    }

    fn classifies_rows(&self) -> bool {
        self.fixture.meta["task_type"] == "SEQ_CLS"
    }

    fn check(&self, what: &str, actual: &[f32], expected: &[f32]) {
        self.tolerance
            .check(&format!("{}: {what}", self.fixture.name), actual, expected);
    }

    fn stored(&self) -> BTreeMap<String, TensorData> {
        stored(&self.fixture.folder.join("adapter"))
    }
}

/// The tensors of an adapter's file without the inner names of PEFT's wrapper around whole modules,
/// which it stores twice with `bias: all`.
fn stored(adapter: &Path) -> BTreeMap<String, TensorData> {
    let file = Tensors::read(&adapter.join("adapter_model.safetensors"));
    let inner =
        |name: &str| name.contains(".modules_to_save.") || name.contains(".original_module.");
    file.names()
        .filter(|name| !inner(name))
        .map(|name| {
            let data = TensorData::new(file.floats(name).to_vec(), file.shape(name).to_vec());
            (name.to_owned(), data)
        })
        .collect()
}

#[test]
fn parity_of_outputs() {
    for case in cases() {
        let merged = case.base.merged(&case.adapters).unwrap();
        let weights: BTreeMap<String, TensorData> =
            merged.as_base().named_tensors().into_iter().collect();
        for name in case.expected.names() {
            let (actual, expected) = match name {
                "logits" | "logits_merged" => {
                    let actual = match name {
                        "logits" => case.logits(&case.base, &case.adapters),
                        _ => case.logits(&merged, &NoHooks),
                    };
                    (actual, case.recorded(&case.expected, name))
                }
                "loss" => {
                    let recorded = case.expected.floats(name).to_vec();
                    (host(case.loss(&case.adapters)), recorded)
                }
                // In a test of its own.
                "greedy_tokens" => continue,
                name => match name.strip_prefix("merged_weight::") {
                    Some(module) => {
                        let weight = &weights[&format!("{module}.weight")];
                        let recorded = case.expected.floats(name).to_vec();
                        (weight.iter::<f32>().collect(), recorded)
                    }
                    None => panic!(
                        "{}: no test understands the output {name:?}",
                        case.fixture.name
                    ),
                },
            };
            case.check(name, &actual, &expected);
        }
        let base = case.fixture.meta["base_outputs"].as_str().unwrap();
        let base = Tensors::read(&case.fixture.folder.join(base));
        case.check(
            "base logits",
            &case.logits(&case.base, &NoHooks),
            &case.recorded(&base, "logits"),
        );
    }
}

/// Continuations under an adapter, each step over all tokens, and by generation with its cache.
#[test]
fn parity_of_greedy_tokens() {
    let mut seen = 0;
    for case in cases() {
        let (name, output) = (&case.fixture.name, "greedy_tokens");
        if !case.expected.has(output) {
            continue;
        }
        seen += 1;
        let steps = case.expected.shape(output)[1];
        let prompts = case.batch.prompts();
        let recorded = case.expected.ints(output).chunks(steps);
        for (prompt, recorded) in prompts.iter().zip(recorded) {
            let mut ids = prompt.clone();
            for _ in 0..steps {
                let logits = case.base.next_logits(&ids, &case.device, &case.adapters);
                let best = |a: usize, b: usize| if logits[b] > logits[a] { b } else { a };
                ids.push((0..logits.len()).reduce(best).unwrap() as i64);
            }
            assert_eq!(&ids[prompt.len()..], recorded, "{name}");
        }
        let AnyBase::Decoder(model) = &case.base else {
            panic!("{name}: only a decoder continues")
        };
        let config = GenerationConfig {
            max_new_tokens: steps,
            ..GenerationConfig::default()
        };
        let found = model.generate(&prompts, &config, &case.adapters, &mut |_, _| false);
        let found: Vec<i64> = found.unwrap().into_iter().flat_map(|row| row.ids).collect();
        assert_eq!(found, case.expected.ints(output), "{name}: with a cache");
    }
    assert!(seen > 0, "no fixture with {:?}", "greedy_tokens");
}

#[test]
fn parity_of_gradients_and_counts() {
    for case in cases() {
        let name = &case.fixture.name;
        assert_eq!(
            Some(case.adapters.n_parameters() as u64),
            case.fixture.meta["trainable_parameters"].as_u64(),
            "{name}"
        );
        let adapters = case
            .adapters
            .clone()
            .train_on(&case.device.clone().autodiff());
        let mut gradients = case.loss(&adapters).backward();
        let gradients = GradientsParams::from_module(&mut gradients, &adapters);
        let gradients = torch_tensors(&adapters.valid().map(&mut IntoGradients { gradients }));
        let expected = case.fixture.meta["grad_l2_norms"]
            .as_object()
            .expect("meta.json has gradient norms");
        let names: Vec<&str> = gradients.keys().map(String::as_str).collect();
        let mut expected_names: Vec<&str> = expected
            .keys()
            .map(|key| &key[KEY_PREFIX.len()..])
            .collect();
        expected_names.sort_unstable();
        assert_eq!(names, expected_names, "{name}");
        for (key, gradient) in &gradients {
            let norm = gradient
                .iter::<f32>()
                .map(|value| f64::from(value).powi(2))
                .sum::<f64>()
                .sqrt();
            let expected = expected[&format!("{KEY_PREFIX}{key}")].as_f64().unwrap();
            case.check(
                &format!("gradient of {key}"),
                &[norm as f32],
                &[expected as f32],
            );
        }
    }
}

/// Puts each parameter's gradient in its place.
struct IntoGradients {
    gradients: GradientsParams,
}

impl ModuleMapper for IntoGradients {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let gradient = self
            .gradients
            .get::<D>(param.id)
            .expect("every parameter has a gradient");
        Param::initialized(param.id, gradient)
    }
}

#[test]
fn parity_of_files_written() {
    for case in cases() {
        let name = &case.fixture.name;
        let folder = tempfile::tempdir().unwrap();
        let fixture_config =
            fixtures::json(&case.fixture.folder.join("adapter/adapter_config.json"));
        let base_name = fixture_config["base_model_name_or_path"].as_str().unwrap();
        let base = case.base.as_base();
        save_peft(&case.adapters, base, base_name, None, folder.path()).unwrap();
        let again = load_peft(folder.path(), base, &case.device).unwrap();
        assert_eq!(
            again.named_tensors(),
            case.adapters.named_tensors(),
            "{name}"
        );
        assert_eq!(stored(folder.path()), case.stored(), "{name}");
        let written = fixtures::json(&folder.path().join("adapter_config.json"));
        for (key, value) in fixture_config.as_object().unwrap() {
            match key.as_str() {
                // The names that fit nothing are left out.
                "modules_to_save" if case.classifies_rows() => {
                    assert_eq!(written[key], json!(["classifier"]), "{name}")
                }
                // One pattern may stand for a list of one.
                "layers_pattern" if value.is_string() => {
                    assert_eq!(written[key], json!([value]), "{name}: {key}")
                }
                // Order does not matter.
                "target_modules" | "feedforward_modules" | "exclude_modules"
                    if value.is_array() =>
                {
                    assert_eq!(sorted(&written[key]), sorted(value), "{name}: {key}");
                }
                _ => assert_eq!(&written[key], value, "{name}: {key}"),
            }
        }
    }
}

fn sorted(names: &Value) -> Vec<&str> {
    let mut names: Vec<&str> = names
        .as_array()
        .unwrap()
        .iter()
        .map(|name| name.as_str().unwrap())
        .collect();
    names.sort_unstable();
    names
}

#[test]
fn parity_files_of_a_headed_base_fit_the_bare_one() {
    for case in cases() {
        let folder = base_folder(&case.fixture);
        let Some(bare) = case.base.headless(&folder, &case.device) else {
            continue;
        };
        let folder = case.fixture.folder.join("adapter");
        let adapters = load_peft(&folder, bare.as_base(), &case.device).unwrap();
        case.check(
            "hidden states",
            &bare.hidden(&case.batch, &adapters),
            &case.base.hidden(&case.batch, &case.adapters),
        );
    }
}

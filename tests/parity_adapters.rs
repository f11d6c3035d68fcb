//! Every recorded output of the `adapter` fixtures against PEFT.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData};
use hybrid_adapters::{
    AdapterError, Adapters, catalogue, load_peft, load_torch_tensors, save_peft, torch_tensors,
};
use hybrid_models::{GenerationConfig, Hooks, NoHooks, cross_entropy};
use serde_json::{Value, json};

use crate::any_base::{AnyBase, AnyBatch, host};
use crate::fixtures::{self, Fixture, Tensors, Tolerance};

mod faults;
mod gradients;

/// `peft_type`s of which every folder of fixtures has one.
const TYPES: [&str; 25] = [
    "LORA",
    "ADALORA",
    "IA3",
    "LN_TUNING",
    "TRAINABLE_TOKENS",
    "PROMPT_TUNING",
    "PREFIX_TUNING",
    "P_TUNING",
    "VERA",
    "LOHA",
    "LOKR",
    "FOURIERFT",
    "OFT",
    "BOFT",
    "HRA",
    "MISS",
    "RANDLORA",
    "VBLORA",
    "HIRA",
    "DELORA",
    "GRALORA",
    "C3A",
    "ROAD",
    "MULTITASK_PROMPT_TUNING",
    "ADAPTION_PROMPT",
];

/// A fixture with its base and adapter loaded.
struct Case {
    fixture: Fixture,
    base: AnyBase,
    adapters: Adapters,
    /// The same with the network of which PEFT's file has the outputs alone, where there is one.
    trained: Adapters,
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
        let known = catalogue()
            .iter()
            .any(|method| method.peft_type == Some(peft_type));
        let loaded = load_peft(&fixture.folder.join("adapter"), base.as_base(), &device);
        match loaded.and_then(|adapters| with_tasks(&fixture, adapters)) {
            Ok(adapters) if known => {
                let inputs = fixture.meta["inputs"].as_str();
                let inputs = inputs.expect("meta.json names the inputs");
                let inputs = Tensors::read(&fixture.folder.join(inputs));
                cases.push(Case {
                    batch: AnyBatch::read(&inputs, "", &device),
                    expected: Tensors::read(&fixture.folder.join("outputs.safetensors")),
                    tolerance: Tolerance::of(&fixture.meta["tolerance"]),
                    trained: with_network(&fixture, &base, &adapters, &device),
                    fixture,
                    base,
                    adapters,
                    device: device.clone(),
                });
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

/// The adapters with the task of every row, where the fixture has tasks.
fn with_tasks(fixture: &Fixture, adapters: Adapters) -> Result<Adapters, AdapterError> {
    match fixture.meta["task_ids"].as_array() {
        Some(tasks) => {
            let task = |task: &Value| task.as_u64().expect("a task") as usize;
            adapters.for_tasks(&tasks.iter().map(task).collect::<Vec<_>>())
        }
        None => Ok(adapters),
    }
}

fn with_network(
    fixture: &Fixture,
    base: &AnyBase,
    adapters: &Adapters,
    device: &Device,
) -> Adapters {
    let path = fixture.folder.join("encoder.safetensors");
    if !path.exists() {
        return adapters.clone();
    }
    let network = Tensors::read(&path);
    let mut tensors = torch_tensors(adapters);
    tensors.extend(
        network
            .names()
            .map(|name| (format!("prompt_encoder.{name}"), network.data(name))),
    );
    let fresh = Adapters::init(adapters.configs(), base.as_base(), 0, device);
    let fresh = fresh.and_then(|fresh| with_tasks(fixture, fresh)).unwrap();
    load_torch_tensors(fresh, &tensors).unwrap_or_else(|error| panic!("{}: {error}", fixture.name))
}

impl Case {
    fn logits(&self, base: &AnyBase, hooks: &dyn Hooks) -> Vec<f32> {
        base.counted(&base.logits(&self.batch, hooks), &self.batch)
    }

    /// Recorded logits without those at padding.
    fn recorded(&self, file: &Tensors, name: &str) -> Vec<f32> {
        self.base.counted(file.floats(name), &self.batch)
    }

    fn loss(&self, adapters: &Adapters) -> Tensor<1> {
        let loss = self.loss_of_targets(adapters);
        match adapters.penalty() {
            Some(penalty) => loss + penalty,
            None => loss,
        }
    }

    fn loss_of_targets(&self, adapters: &Adapters) -> Tensor<1> {
        let (logits, targets) = self.base.targets(&self.batch, adapters);
        cross_entropy(logits, targets)
    }

    /// The adapters under which rows are continued: all have the first row's task.
    fn continuing(&self) -> Adapters {
        let adapters = self.adapters.clone();
        match self.fixture.meta["task_ids"][0].as_u64() {
            Some(task) => adapters.for_tasks(&[task as usize]).expect("a task"),
            None => adapters,
        }
    }

    fn classifies_rows(&self) -> bool {
        self.fixture.meta["task_type"] == "SEQ_CLS"
    }

    fn is_in_front(&self) -> bool {
        let mut configs = self.adapters.configs().iter();
        configs.any(|config| config.is_in_front())
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
        .map(|name| (name.to_owned(), file.data(name)))
        .collect()
}

#[test]
fn parity_of_outputs() {
    for case in cases() {
        let merged = case.base.merged(&case.adapters);
        if case.is_in_front() {
            assert_eq!(case.fixture.meta["merge"], "not applicable");
            let refused = matches!(merged, Err(AdapterError::NotMergeable { .. }));
            assert!(refused, "{}", case.fixture.name);
            let name = "logits";
            case.check(
                "logits with the network",
                &case.logits(&case.base, &case.trained),
                &case.recorded(&case.expected, name),
            );
        }
        let weights: BTreeMap<String, TensorData> = match &merged {
            Ok(merged) => merged.as_base().named_tensors().into_iter().collect(),
            Err(_) => BTreeMap::new(),
        };
        for name in case.expected.names() {
            let (actual, expected) = match name {
                "logits" | "logits_merged" => {
                    let actual = match name {
                        "logits" => case.logits(&case.base, &case.adapters),
                        _ => case.logits(merged.as_ref().unwrap(), &NoHooks),
                    };
                    (actual, case.recorded(&case.expected, name))
                }
                "loss" => {
                    let recorded = case.expected.floats(name).to_vec();
                    (host(case.loss(&case.adapters)), recorded)
                }
                // Of factors that start as a part of the weight.
                "logits_at_init" => {
                    let fresh = case.adapters.configs();
                    let fresh = Adapters::init(fresh, case.base.as_base(), 0, &case.device);
                    let logits = case.logits(&case.base, &fresh.unwrap());
                    (logits, case.recorded(&case.expected, name))
                }
                "loss_without_orthogonal_term" => {
                    let recorded = case.expected.floats(name).to_vec();
                    (host(case.loss_of_targets(&case.adapters)), recorded)
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
        let adapters = case.continuing();
        for (prompt, recorded) in prompts.iter().zip(recorded) {
            let mut ids = prompt.clone();
            for _ in 0..steps {
                let logits = case.base.next_logits(&ids, &case.device, &adapters);
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
        let written = model.generate(&prompts, &config, &adapters, &mut |_, _| false);
        let found: Vec<i64> = written
            .unwrap()
            .into_iter()
            .flat_map(|row| row.ids)
            .collect();
        assert_eq!(found, case.expected.ints(output), "{name}: with a cache");
    }
    assert!(seen > 0, "no fixture with {:?}", "greedy_tokens");
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
        // Logits are the logarithms of the weights in the file.
        if fixture_config["save_only_topk_weights"] != true {
            assert_eq!(
                again.named_tensors(),
                case.adapters.named_tensors(),
                "{name}"
            );
            assert_eq!(stored(folder.path()), case.stored(), "{name}");
        }
        save_peft(&case.trained, base, base_name, None, folder.path()).unwrap();
        let without = stored(folder.path());
        assert!(without.keys().eq(case.stored().keys()), "{name}");
        for (key, expected) in case.stored() {
            let [actual, expected] =
                [&without[&key], &expected].map(|data| data.iter::<f32>().collect::<Vec<f32>>());
            case.check(&key, &actual, &expected);
        }
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

/// Frozen tensors that PEFT draws from a seed, or takes from the base, come out the same here.
#[test]
fn parity_of_frozen_tensors_made_anew() {
    let mut seen = 0;
    for case in cases() {
        let name = &case.fixture.name;
        let peft_type = case.fixture.meta["peft_type"].as_str().unwrap();
        if !["VERA", "RANDLORA", "DELORA", "UNILORA"].contains(&peft_type) {
            continue;
        }
        let base = case.base.as_base();
        let fresh = Adapters::init(case.adapters.configs(), base, 1, &case.device).unwrap();
        let folder = tempfile::tempdir().unwrap();
        save_peft(&fresh, base, "base", None, folder.path()).unwrap();
        let made = stored(folder.path());
        let trained = case.fixture.meta["grad_l2_norms"].as_object().unwrap();
        for (key, expected) in case.stored() {
            // In the model the vector of all sites has the name of the first.
            if trained.contains_key(&key) || key.ends_with("unilora_theta_d") {
                continue;
            }
            seen += 1;
            let [made, expected] =
                [&made[&key], &expected].map(|data| data.iter::<f32>().collect::<Vec<f32>>());
            for (a, b) in made.iter().zip(&expected) {
                assert!(
                    (a - b).abs() <= 1e-6 * b.abs().max(0.1),
                    "{name}: {key}: {a} {b}"
                );
            }
        }
    }
    assert!(seen > 0, "no fixture with frozen tensors");
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
        let adapters = with_tasks(&case.fixture, adapters).unwrap();
        case.check(
            "hidden states",
            &bare.hidden(&case.batch, &adapters),
            &case.base.hidden(&case.batch, &case.adapters),
        );
    }
}

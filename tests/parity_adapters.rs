//! Every recorded output of the `adapter` fixtures of encoders against PEFT.

use std::collections::BTreeMap;
use std::path::Path;

use burn::module::{Module, ModuleMapper, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor, TensorData};
use hybrid_adapters::{AdapterError, Adapters, load_peft, save_peft, torch_tensors};
use hybrid_models::{Base, EncoderBatch, Hooks, Model, NoHooks, cross_entropy};
use serde_json::Value;

use crate::fixtures::{self, Fixture, Tensors, Tolerance};

/// `model_type`s of bases that later work on this project reads.
const LATER_BASES: [&str; 3] = ["gpt2", "llama", "t5"];

/// `peft_type`s of later work.
const LATER_TYPES: [&str; 16] = [
    "ADALORA",
    "BOFT",
    "FOURIERFT",
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
    "TRAINABLE_TOKENS",
    "VBLORA",
    "VERA",
];

/// Options of known types that later work brings.
const LATER_OPTIONS: [&str; 2] = ["use_dora", "init_lora_weights"];

const KEY_PREFIX: &str = "base_model.model.";

/// A fixture with its base and adapter loaded.
struct Case {
    fixture: Fixture,
    model: Model,
    adapters: Adapters,
    inputs: Tensors,
    expected: Tensors,
    tolerance: Tolerance,
    device: Device,
}

/// The fixtures of encoders with their bases.
fn encoder_fixtures() -> Vec<(Fixture, Model, Device)> {
    let device = fixtures::device();
    let mut found = Vec::new();
    for fixture in fixtures::of_kind("adapter") {
        let base = fixture.folder.join(
            fixture.meta["base"]
                .as_str()
                .expect("meta.json names the base"),
        );
        let config = fixtures::json(&base.join("config.json"));
        match config["model_type"]
            .as_str()
            .expect("config.json has a model_type")
        {
            "bert" | "roberta" | "distilbert" => {
                let model = Model::load(&base, &device)
                    .unwrap_or_else(|error| panic!("{}: {error}", fixture.name));
                found.push((fixture, model, device.clone()));
            }
            later if LATER_BASES.contains(&later) => {}
            unknown => panic!(
                "{}: no test understands model_type {unknown:?}",
                fixture.name
            ),
        }
    }
    assert!(!found.is_empty(), "no adapter fixture of an encoder");
    found
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (fixture, model, device) in encoder_fixtures() {
        let name = &fixture.name;
        let peft_type = fixture.meta["peft_type"]
            .as_str()
            .expect("meta.json names the peft_type")
            .to_owned();
        let loaded = load_peft(&fixture.folder.join("adapter"), &model, &device);
        match (peft_type.as_str(), loaded) {
            ("LORA" | "IA3" | "LN_TUNING", Ok(adapters)) => {
                let inputs = fixture.folder.join(
                    fixture.meta["inputs"]
                        .as_str()
                        .expect("meta.json names the inputs"),
                );
                cases.push(Case {
                    inputs: Tensors::read(&inputs),
                    expected: Tensors::read(&fixture.folder.join("outputs.safetensors")),
                    tolerance: Tolerance::of(&fixture.meta["tolerance"]),
                    fixture,
                    model,
                    adapters,
                    device,
                });
            }
            ("LORA", Err(AdapterError::PeftOption { key, .. }))
                if LATER_OPTIONS.contains(&key.as_str()) => {}
            (later, Err(AdapterError::PeftType { found, .. })) if LATER_TYPES.contains(&later) => {
                assert_eq!(found, later)
            }
            (known, Err(error)) if ["LORA", "IA3", "LN_TUNING"].contains(&known) => {
                panic!("{name}: {error}")
            }
            (unknown, _) => panic!("{name}: no test understands peft_type {unknown:?}"),
        }
    }
    for peft_type in ["LORA", "IA3", "LN_TUNING"] {
        assert!(
            cases
                .iter()
                .any(|case| case.fixture.meta["peft_type"] == peft_type),
            "no fixture of {peft_type}"
        );
    }
    cases
}

impl Case {
    fn batch(&self) -> EncoderBatch {
        let int = |name: &str| self.inputs.int::<2>(name, &self.device);
        EncoderBatch {
            input_ids: int("input_ids"),
            attention_mask: int("attention_mask"),
            token_type_ids: self
                .inputs
                .has("token_type_ids")
                .then(|| int("token_type_ids")),
        }
    }

    fn logits(&self, model: &Model, hooks: &dyn Hooks) -> Tensor<2> {
        model
            .classify(&self.batch(), hooks)
            .unwrap_or_else(|error| panic!("{}: {error}", self.fixture.name))
    }

    fn loss(&self, hooks: &dyn Hooks) -> Tensor<1> {
        cross_entropy(
            self.logits(&self.model, hooks),
            self.inputs.int("labels", &self.device),
        )
    }

    fn check(&self, what: &str, actual: &[f32], expected: &[f32]) {
        self.tolerance
            .check(&format!("{}: {what}", self.fixture.name), actual, expected);
    }

    /// The stored tensors without the inner names of PEFT's wrapper around whole modules, which it
    /// stores twice with `bias: all`.
    fn stored(&self) -> BTreeMap<String, TensorData> {
        let file = Tensors::read(
            &self
                .fixture
                .folder
                .join("adapter/adapter_model.safetensors"),
        );
        let inner =
            |name: &str| name.contains(".modules_to_save.") || name.contains(".original_module.");
        file.names()
            .filter(|name| !inner(name))
            .map(|name| {
                let data = TensorData::new(file.floats(name).to_vec(), file.shape(name).to_vec());
                (name[KEY_PREFIX.len()..].to_owned(), data)
            })
            .collect()
    }
}

fn host<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    x.into_data().iter::<f32>().collect()
}

#[test]
fn parity_of_outputs() {
    for case in cases() {
        let merged = case.adapters.merge(&case.model).unwrap();
        let weights: BTreeMap<String, TensorData> = merged.named_tensors().into_iter().collect();
        for name in case.expected.names() {
            let actual = match name {
                "logits" => host(case.logits(&case.model, &case.adapters)),
                "loss" => host(case.loss(&case.adapters)),
                "logits_merged" => host(case.logits(&merged, &NoHooks)),
                name => match name.strip_prefix("merged_weight::") {
                    Some(module) => weights[&format!("{module}.weight")].iter::<f32>().collect(),
                    None => panic!(
                        "{}: no test understands the output {name:?}",
                        case.fixture.name
                    ),
                },
            };
            case.check(name, &actual, case.expected.floats(name));
        }
        let base = Tensors::read(
            &case
                .fixture
                .folder
                .join(case.fixture.meta["base_outputs"].as_str().unwrap()),
        );
        case.check(
            "base logits",
            &host(case.logits(&case.model, &NoHooks)),
            base.floats("logits"),
        );
    }
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
        save_peft(&case.adapters, &case.model, base_name, None, folder.path()).unwrap();
        let again = load_peft(folder.path(), &case.model, &case.device).unwrap();
        assert_eq!(torch_tensors(&again), case.stored(), "{name}");
        let written = fixtures::json(&folder.path().join("adapter_config.json"));
        for (key, value) in fixture_config.as_object().unwrap() {
            match key.as_str() {
                // The names that fit nothing are left out, order does not matter.
                "modules_to_save" => {
                    assert_eq!(written[key], serde_json::json!(["classifier"]), "{name}")
                }
                "target_modules" | "feedforward_modules" => {
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
fn parity_files_of_a_headed_base_fit_the_bare_encoder() {
    for case in cases() {
        let base = case
            .fixture
            .folder
            .join(case.fixture.meta["base"].as_str().unwrap());
        let bare = Model::load_encoder(&base, &case.device).unwrap();
        let adapters =
            load_peft(&case.fixture.folder.join("adapter"), &bare, &case.device).unwrap();
        let batch = case.batch();
        let hidden = |model: &Model, hooks: &dyn Hooks| host(model.encoder.forward(&batch, hooks));
        case.check(
            "hidden states",
            &hidden(&bare, &adapters),
            &hidden(&case.model, &case.adapters),
        );
    }
}

/// A copy of a LoRA fixture's adapter with a changed configuration or changed tensors.
fn changed(
    case: &Case,
    change_config: impl Fn(&mut Value),
    change_tensors: impl Fn(&mut BTreeMap<String, TensorData>),
) -> Result<Adapters, AdapterError> {
    let folder = tempfile::tempdir().unwrap();
    let source = case.fixture.folder.join("adapter");
    let mut config = fixtures::json(&source.join("adapter_config.json"));
    change_config(&mut config);
    std::fs::write(
        folder.path().join("adapter_config.json"),
        config.to_string(),
    )
    .unwrap();
    let mut tensors = case
        .stored()
        .into_iter()
        .map(|(key, data)| (format!("{KEY_PREFIX}{key}"), data))
        .collect();
    change_tensors(&mut tensors);
    write_tensors(&folder.path().join("adapter_model.safetensors"), &tensors);
    load_peft(folder.path(), &case.model, &case.device)
}

fn write_tensors(path: &Path, tensors: &BTreeMap<String, TensorData>) {
    let views = tensors.iter().map(|(name, data)| {
        let shape = data.shape().as_slice().to_vec();
        let view =
            safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape, data.bytes())
                .unwrap();
        (name.as_str(), view)
    });
    std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

#[test]
fn parity_base_refuses_faulty_adapters() {
    let case = cases()
        .into_iter()
        .find(|case| case.fixture.meta["peft_type"] == "LORA")
        .unwrap();
    let message = |result: Result<Adapters, AdapterError>| {
        result.expect_err("a faulty adapter was loaded").to_string()
    };
    let key = format!(
        "{KEY_PREFIX}{}",
        case.stored()
            .keys()
            .find(|key| key.contains("lora_A"))
            .unwrap()
    );
    changed(&case, |_| (), |_| ()).expect("the unchanged adapter loads");

    let missing = message(changed(&case, |_| (), |tensors| drop(tensors.remove(&key))));
    assert!(
        missing.contains(&key) && missing.contains("missing"),
        "{missing}"
    );
    let head = format!("{KEY_PREFIX}classifier.weight");
    let missing = message(changed(
        &case,
        |_| (),
        |tensors| drop(tensors.remove(&head)),
    ));
    assert!(missing.contains(&head), "{missing}");
    let extra = |tensors: &mut BTreeMap<String, TensorData>| {
        tensors.insert(
            format!("{KEY_PREFIX}surprise.weight"),
            TensorData::new(vec![0.0f32], [1]),
        );
    };
    assert!(message(changed(&case, |_| (), extra)).contains("surprise.weight"));
    let nan = |tensors: &mut BTreeMap<String, TensorData>| {
        let shape = tensors[&key].shape().clone();
        tensors.insert(
            key.clone(),
            TensorData::new(vec![f32::NAN; shape.num_elements()], shape),
        );
    };
    let message_nan = message(changed(&case, |_| (), nan));
    assert!(
        message_nan.contains(&key) && message_nan.contains("NaN"),
        "{message_nan}"
    );

    let rank = case.stored()[&key[KEY_PREFIX.len()..]].shape()[0];
    let other_rank = message(changed(
        &case,
        |config| config["r"] = (rank + 1).into(),
        |_| (),
    ));
    assert!(
        other_rank.contains(&format!("[{}, ", rank + 1))
            && other_rank.contains(&format!("[{rank}, ")),
        "{other_rank}"
    );
    let large = message(changed(
        &case,
        |config| config["r"] = 100_000.into(),
        |_| (),
    ));
    assert!(large.contains("rank 100000"), "{large}");
    let typo = message(changed(
        &case,
        |config| config["target_modules"] = serde_json::json!(["qurey"]),
        |_| (),
    ));
    assert!(typo.contains("qurey") && typo.contains("query"), "{typo}");
    let unknown = message(changed(
        &case,
        |config| config["brand_new"] = true.into(),
        |_| (),
    ));
    assert!(unknown.contains("brand_new"), "{unknown}");
    let dora = message(changed(
        &case,
        |config| config["use_dora"] = true.into(),
        |_| (),
    ));
    assert!(dora.contains("use_dora"), "{dora}");

    let empty = tempfile::tempdir().unwrap();
    assert!(
        message(load_peft(empty.path(), &case.model, &case.device)).contains("adapter_config.json")
    );
    std::fs::copy(
        case.fixture.folder.join("adapter/adapter_config.json"),
        empty.path().join("adapter_config.json"),
    )
    .unwrap();
    assert!(
        message(load_peft(empty.path(), &case.model, &case.device))
            .contains("adapter_model.safetensors")
    );
}

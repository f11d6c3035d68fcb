//! Adapter files that do not fit: each fault is named.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::TensorData;
use hybrid_adapters::{AdapterError, Adapters, load_peft};
use serde_json::{Value, json};

use super::{Case, cases};
use crate::fixtures;

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
    let mut tensors = case.stored();
    change_tensors(&mut tensors);
    write_tensors(&folder.path().join("adapter_model.safetensors"), &tensors);
    load_peft(folder.path(), case.base.as_base(), &case.device)
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

/// What a LoRA file's keys start with.
const KEY_PREFIX: &str = "base_model.model.";

#[test]
fn parity_base_refuses_faulty_adapters() {
    let case = cases()
        .into_iter()
        .find(|case| case.fixture.meta["peft_type"] == "LORA" && case.classifies_rows())
        .unwrap();
    let message = |result: Result<Adapters, AdapterError>| {
        result.expect_err("a faulty adapter was loaded").to_string()
    };
    let key = case.stored().into_keys().find(|key| key.contains("lora_A"));
    let key = key.unwrap();
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

    let rank = case.stored()[&key].shape()[0];
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
        |config| config["target_modules"] = json!(["qurey"]),
        |_| (),
    ));
    assert!(typo.contains("qurey") && typo.contains("query"), "{typo}");
    let unknown = message(changed(
        &case,
        |config| {
            config["brand_new"] = true.into();
            config["peft_version"] = "0.99.1".into();
        },
        |_| (),
    ));
    assert!(
        unknown.contains("brand_new") && unknown.contains("0.99.1"),
        "{unknown}"
    );
    for off in [Value::Null, false.into()] {
        let newer = changed(&case, |config| config["brand_new"] = off.clone(), |_| ());
        newer.expect("a key of a later release that is off");
    }
    let option = message(changed(
        &case,
        |config| config["use_qalora"] = true.into(),
        |_| (),
    ));
    assert!(option.contains("use_qalora"), "{option}");

    let empty = tempfile::tempdir().unwrap();
    assert!(
        message(load_peft(empty.path(), case.base.as_base(), &case.device))
            .contains("adapter_config.json")
    );
    std::fs::copy(
        case.fixture.folder.join("adapter/adapter_config.json"),
        empty.path().join("adapter_config.json"),
    )
    .unwrap();
    assert!(
        message(load_peft(empty.path(), case.base.as_base(), &case.device))
            .contains("adapter_model.safetensors")
    );
}

/// The adapter of another base: a wider one, and one of more layers.
#[test]
fn parity_base_refuses_adapters_of_other_bases() {
    for case in cases() {
        let stored = case.stored();
        let is_factor = |key: &&String| key.ends_with("lora_A.weight") && key.contains(".0.");
        let Some(key) = stored.keys().find(is_factor) else {
            continue;
        };
        let text = &case.fixture.name;
        let [rank, d_in] = [stored[key].shape()[0], stored[key].shape()[1]];
        let wider = changed(
            &case,
            |_| (),
            |tensors| {
                let values = vec![0.5f32; rank * (d_in + 8)];
                tensors.insert(key.clone(), TensorData::new(values, [rank, d_in + 8]));
            },
        );
        let wider = wider.expect_err(text).to_string();
        for part in [
            key,
            &format!("[{rank}, {d_in}]"),
            &format!("[{rank}, {}]", d_in + 8),
        ] {
            assert!(wider.contains(part), "{text}: {wider}");
        }

        // One layer above those that the base has.
        let n_layers = case
            .base
            .as_base()
            .sites()
            .iter()
            .filter_map(|site| site.layer)
            .max();
        let n_layers = n_layers.expect("layers") + 1;
        let above = key.replacen(".0.", &format!(".{n_layers}."), 1);
        assert_ne!(&above, key, "{text}");
        let deeper = changed(
            &case,
            |_| (),
            |tensors| drop(tensors.insert(above.clone(), tensors[key].clone())),
        );
        let deeper = deeper.expect_err(text).to_string();
        assert!(
            deeper.contains(&above) && deeper.contains("adapter_model"),
            "{text}: {deeper}"
        );
        let of_that_layer = |config: &mut Value| config["layers_to_transform"] = json!([n_layers]);
        if case.fixture.meta["peft_type"] == "LORA" {
            let config = fixtures::json(&case.fixture.folder.join("adapter/adapter_config.json"));
            if config["target_modules"].is_array() {
                let absent = changed(&case, of_that_layer, |_| ())
                    .expect_err(text)
                    .to_string();
                assert!(
                    absent.contains(&format!("[{n_layers}]")),
                    "{text}: {absent}"
                );
            }
        }
    }
}

#[test]
fn parity_base_refuses_frozen_tensors_and_options_it_cannot_take() {
    let of_type = |peft_type: &str| {
        let mut cases = cases().into_iter();
        cases.find(|case| case.fixture.meta["peft_type"] == peft_type)
    };
    let message = |result: Result<Adapters, AdapterError>| {
        result.expect_err("a faulty adapter was loaded").to_string()
    };
    let case = of_type("VERA").unwrap();
    let key = "base_model.vera_A";
    let missing = message(changed(&case, |_| (), |tensors| drop(tensors.remove(key))));
    assert!(
        missing.contains(key) && missing.contains("missing"),
        "{missing}"
    );
    let shorter = |tensors: &mut BTreeMap<String, TensorData>| {
        tensors.insert(key.to_owned(), TensorData::new(vec![0.0f32; 6], [6, 1]));
    };
    assert!(message(changed(&case, |_| (), shorter)).contains(key));
    let surprise = |tensors: &mut BTreeMap<String, TensorData>| {
        tensors.insert(
            "base_model.vera_C".to_owned(),
            TensorData::new(vec![0.0f32], [1]),
        );
    };
    assert!(message(changed(&case, |_| (), surprise)).contains("vera_C"));
    let bias = message(changed(
        &case,
        |config| config["bias"] = json!("all"),
        |_| (),
    ));
    assert!(bias.contains("bias") && bias.contains("all"), "{bias}");
    let unknown = message(changed(
        &case,
        |config| config["vera_gamma"] = json!(1),
        |_| (),
    ));
    assert!(unknown.contains("vera_gamma"), "{unknown}");

    let case = of_type("C3A").unwrap();
    let size = message(changed(
        &case,
        |config| config["block_size"] = json!(7),
        |_| (),
    ));
    assert!(
        size.contains("block_size") && size.contains("divisor"),
        "{size}"
    );
}

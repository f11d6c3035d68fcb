//! `hybrid methods`, `hybrid inspect` and `hybrid combine`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::fixtures::{self, json as read};
use crate::tiny_task::{TinyTask, hybrid, messages, printed};

/// An adapter fixture with its base.
fn fixture(peft_type: &str) -> (PathBuf, PathBuf) {
    let mut all = fixtures::of_kind("adapter").into_iter();
    let fixture = all
        .find(|fixture| fixture.meta["peft_type"] == peft_type)
        .unwrap();
    let base = fixture.folder.join(fixture.meta["base"].as_str().unwrap());
    (fixture.folder.join("adapter"), base)
}

#[test]
fn methods_are_listed_with_what_they_take_over_a_base() {
    let (_, base) = fixture("ADALORA");
    let listed = hybrid().arg("methods").assert().success();
    let text = printed(&listed);
    let counted = hybrid()
        .args(["methods", "--json", "--base"])
        .arg(&base)
        .assert()
        .success();
    let rows: Value = serde_json::from_str(&printed(&counted)).unwrap();
    for row in rows.as_array().unwrap() {
        let name = row["name"].as_str().unwrap();
        assert!(text.contains(name) && text.contains(row["paper"].as_str().unwrap()));
        match row["parameters"].as_u64() {
            Some(n) => {
                let bytes = &row["training_bytes"];
                assert_eq!(bytes["trained"], json!(16 * n), "{name}");
                assert!(bytes["base"].as_u64() > Some(0) && bytes["activations"].is_null());
            }
            None => assert!(row["refused"].is_string(), "{name}: {row}"),
        }
    }
    let counts = rows.as_array().unwrap().iter();
    assert!(counts.filter(|row| row["parameters"].is_u64()).count() > 8);
    let nowhere = hybrid()
        .args(["methods", "--base", "/no/such/base"])
        .assert()
        .code(2);
    assert!(messages(&nowhere).contains("/no/such/base"));
}

#[test]
fn methods_are_listed_with_the_memory_of_a_recipe() {
    let task = TinyTask::new();
    let listed = |settings: &str| {
        task.edit_recipe("batch_size = 4", settings);
        let listed = hybrid()
            .args(["methods", "--json", "--recipe"])
            .arg(task.recipe())
            .assert()
            .success();
        let rows: Value = serde_json::from_str(&printed(&listed)).unwrap();
        task.edit_recipe(settings, "batch_size = 4");
        let rows = rows.as_array().unwrap().iter().cloned();
        let found = rows.map(|row| {
            let name = row["name"].as_str().unwrap().to_owned();
            (name, row["training_bytes"]["activations"].as_u64())
        });
        found.collect::<BTreeMap<_, _>>()
    };
    let (one, two) = (listed("batch_size = 1"), listed("batch_size = 2"));
    for (name, bytes) in &one {
        assert_eq!(bytes.map(|bytes| 2 * bytes), two[name], "{name}");
    }
    let again = listed("batch_size = 2\nrecompute_layers = true");
    assert!(again["lora"] < two["lora"] && again["lora"] > Some(0));
    let text = hybrid()
        .args(["methods", "--recipe"])
        .arg(task.recipe())
        .assert()
        .success();
    assert!(printed(&text).contains("activations up to"));
}

#[test]
fn inspect_explains_every_adapter_that_can_be_loaded() {
    for peft_type in [
        "LORA",
        "ADALORA",
        "IA3",
        "TRAINABLE_TOKENS",
        "PREFIX_TUNING",
    ] {
        let (adapter, base) = fixture(peft_type);
        let seen = hybrid()
            .args(["inspect", "--json", "--base"])
            .args([&base, &adapter])
            .assert()
            .success();
        let seen: Value = serde_json::from_str(&printed(&seen)).unwrap();
        assert_eq!(seen["peft_type"], peft_type);
        let config = read(&adapter.join("adapter_config.json"));
        assert_eq!(seen["base"], config["base_model_name_or_path"]);
        assert_eq!(seen["task_type"], config["task_type"]);
        assert!(seen["trainable_over_base"].as_u64().unwrap() > 0);
        let text = printed(&hybrid().arg("inspect").arg(&adapter).assert().success());
        assert!(text.contains(peft_type) && text.contains("paper"), "{text}");
    }
}

/// A copy of an adapter with one file changed.
fn changed(adapter: &Path, file: &str, change: impl Fn(Vec<u8>) -> Option<Vec<u8>>) -> String {
    let folder = tempfile::tempdir().unwrap();
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        let bytes = std::fs::read(adapter.join(name)).unwrap();
        let bytes = if name == file {
            change(bytes)
        } else {
            Some(bytes)
        };
        if let Some(bytes) = bytes {
            std::fs::write(folder.path().join(name), bytes).unwrap();
        }
    }
    let refused = hybrid().arg("inspect").arg(folder.path()).assert().code(2);
    assert_eq!(printed(&refused), "");
    messages(&refused)
}

#[test]
fn bad_folders_are_named_with_exit_code_two() {
    let (adapter, _) = fixture("LORA");
    let option = |key: &'static str, value: Value| {
        changed(&adapter, "adapter_config.json", move |bytes| {
            let mut config: Value = serde_json::from_slice(&bytes).unwrap();
            config[key] = value.clone();
            Some(config.to_string().into_bytes())
        })
    };
    for (key, value) in [
        ("use_qalora", json!(true)),
        ("init_lora_weights", json!("loftq")),
        ("newer_option", json!(1)),
        ("peft_type", json!("NEW_METHOD")),
    ] {
        let message = option(key, value.clone());
        let named = value.as_str().unwrap_or(key);
        assert!(message.contains(named), "{key}: {message}");
    }
    let weights = "adapter_model.safetensors";
    assert!(changed(&adapter, weights, |_| None).contains(weights));
    assert!(changed(&adapter, "adapter_config.json", |_| None).contains("adapter_config.json"));
    let cut = changed(&adapter, weights, |bytes| {
        Some(bytes[..bytes.len() / 2].to_vec())
    });
    assert!(cut.contains(weights), "{cut}");
    let nan = changed(&adapter, weights, |mut bytes| {
        let end = bytes.len();
        bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
        Some(bytes)
    });
    assert!(nan.contains("NaN"), "{nan}");
    let (_, other) = fixture("ADAPTION_PROMPT");
    let over_other = hybrid()
        .args(["inspect", "--base"])
        .args([&other, &adapter])
        .assert()
        .code(2);
    assert!(
        messages(&over_other).contains("near names"),
        "{}",
        messages(&over_other)
    );
}

#[test]
fn combine_writes_one_adapter_of_several() {
    let merging = &fixtures::of_kind("merging")[0];
    let adapter = |name: &str| merging.folder.join(format!("adapter_{name}"));
    let weighted = |name: &str, weight: &str| format!("{}={weight}", adapter(name).display());
    let base = merging.folder.join(merging.meta["base"].as_str().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("both");
    let combine = |rule: &[&str]| {
        let mut command = hybrid();
        command
            .args([
                "combine",
                &weighted("a", "0.7"),
                &weighted("b", "-0.4"),
                "--out",
            ])
            .arg(&out)
            .arg("--base")
            .arg(&base)
            .args(rule);
        command.assert()
    };
    assert!(messages(&combine(&["--rule", "ties"]).code(2)).contains("density"));
    assert!(!out.exists());
    combine(&["--rule", "cat"]).success();
    let rank = |folder: &Path| {
        read(&folder.join("adapter_config.json"))["r"]
            .as_u64()
            .unwrap()
    };
    assert_eq!(rank(&out), rank(&adapter("a")) + rank(&adapter("b")));
    let again = combine(&["--rule", "cat"]).code(2);
    assert!(
        messages(&again).contains("both"),
        "an occupied folder is left alone"
    );
    hybrid().arg("inspect").arg(&out).assert().success();
}

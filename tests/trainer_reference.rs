//! A classifier that the real Trainer has trained with PEFT, evaluated here. Runs only where the
//! reference stack is installed: `HYBRID_REFERENCE_PYTHON` names its interpreter.

use std::path::Path;

use hybrid_models::Resolver;
use serde_json::{Value, json};

use crate::fixtures;
use crate::reference;
use crate::tiny_task::{hybrid, printed};

const BASE: &str = "sentence-transformers/all-MiniLM-L6-v2";

#[test]
fn parity_of_a_classifier_of_the_real_trainer() {
    let Some(python) = reference::python() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let adapter = folder.path().join("adapter");
    std::fs::create_dir(&adapter).unwrap();
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data/banking77");
    let report = data.join("report.jsonl");
    let base = Resolver::from_environment().resolve(BASE, &|_| ()).unwrap();
    let case = json!({
        "base": base.folder,
        "train": data.join("fit.jsonl"),
        "test": report,
        "max_length": 512,
        "adapter": adapter,
    });
    reference::compare(python, "trainer_reference.py", folder.path(), vec![case]);
    let expected = fixtures::json(&adapter.join("accuracy.json"))["accuracy"]
        .as_f64()
        .unwrap();
    let evaluated = hybrid()
        .args(["eval", "--json", "--data"])
        .args([&report, &adapter])
        .assert()
        .success();
    let found: Value = serde_json::from_str(&printed(&evaluated)).unwrap();
    let found = found["accuracy"].as_f64().unwrap();
    eprintln!("accuracy {found} here, {expected} there");
    assert!(expected > 0.5, "nothing was learned: {expected}");
    assert!(
        (found - expected).abs() <= 0.001,
        "{found} instead of {expected}"
    );
}

//! Classifiers that PEFT has trained over every family, evaluated and merged here, and written for
//! PEFT again. Runs only where the reference stack is installed: `HYBRID_REFERENCE_PYTHON` names its
//! interpreter.

use std::path::Path;

use burn::tensor::{Int, Tensor, TensorData};
use hybrid_adapters::{load_peft, load_peft_classifier, save_peft};
use hybrid_models::{BaseKind, DecoderBatch, DecoderModel, EncoderBatch, Model};
use serde_json::{Value, json};

use crate::fixtures;
use crate::peft_reference::{case, rows};
use crate::reference;
use crate::tiny_task::{hybrid, predictions, printed};

/// The most that log-probabilities may differ by.
const TOLERANCE: f64 = 1e-4;

/// Families, and what a LoRA acts on in each.
fn cases(folder: &Path) -> Vec<Value> {
    let bert = json!(["query", "value"]);
    let llama = json!(["q_proj", "v_proj"]);
    let cases = [
        ("bert", bert.clone(), "none"),
        ("roberta", bert, "none"),
        ("roberta", json!("all-linear"), "all"),
        ("distilbert", json!(["q_lin", "v_lin"]), "none"),
        ("gpt2", json!(["c_attn"]), "none"),
        ("llama", llama.clone(), "none"),
        ("llama", json!("all-linear"), "none"),
        ("mistral", llama.clone(), "none"),
        ("qwen2", llama.clone(), "none"),
        ("qwen3", llama, "none"),
    ];
    let of = |(index, (family, targets, bias)): (usize, (&str, Value, &str))| {
        let folder = folder.join(format!("{family}-{index}"));
        json!({"family": family, "targets": targets, "bias": bias, "folder": folder})
    };
    cases.into_iter().enumerate().map(of).collect()
}

/// The log-probabilities that `hybrid predict` gives texts, in the order of `labels`.
fn predicted(artifact: &Path, texts: &str, labels: &[String]) -> Vec<Vec<f64>> {
    let row = |answer: Value| {
        let top = answer["top"].as_array().unwrap();
        let of = |label: &String| {
            let entry = top.iter().find(|entry| entry["label"] == **label).unwrap();
            entry["probability"].as_f64().unwrap().ln()
        };
        labels.iter().map(of).collect()
    };
    let answers = predictions(artifact, texts, labels.len()).into_iter();
    answers.map(row).collect()
}

/// The largest difference between two tables.
fn most_apart(a: &[Vec<f64>], b: &[Vec<f64>]) -> f64 {
    assert_eq!(a.len(), b.len());
    let pairs = a.iter().flatten().zip(b.iter().flatten());
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

fn log_softmax(logits: &[f64]) -> Vec<f64> {
    let sum: f64 = logits.iter().map(|logit| logit.exp()).sum();
    logits.iter().map(|logit| logit - sum.ln()).collect()
}

/// Writes the adapter and its classifier again, over a base without a head, and says what that
/// computes.
fn written_again(folder: &Path, name: &str) -> Value {
    let device = fixtures::device();
    let (base, adapter, written) = (
        folder.join("base"),
        folder.join("adapter"),
        folder.join("written"),
    );
    let ids: Tensor<2, Int> = Tensor::from_data(TensorData::from([[0i32, 5, 9, 14, 7]]), &device);
    let mask = ids.ones_like();
    let logits = match BaseKind::of_folder(&base).unwrap() {
        BaseKind::Decoder => {
            let model = DecoderModel::load_headless(&base, &device).unwrap();
            let adapters = load_peft(&adapter, &model, &device).unwrap();
            let head = load_peft_classifier(&adapter, &model, None, &device);
            let head = head.unwrap().expect("a classifier");
            save_peft(&adapters, &model, "tiny", Some(&head), &written).unwrap();
            let batch = DecoderBatch {
                input_ids: ids.clone(),
                attention_mask: None,
                position_ids: None,
            };
            let pooled = model.decoder.last_token(&batch, None, &adapters).unwrap();
            head.forward(pooled)
        }
        _ => {
            let model = Model::load_encoder(&base, &device).unwrap();
            let adapters = load_peft(&adapter, &model, &device).unwrap();
            let head = load_peft_classifier(&adapter, &model, None, &device);
            let head = head.unwrap().expect("a classifier");
            save_peft(&adapters, &model, "tiny", Some(&head), &written).unwrap();
            let batch = EncoderBatch {
                input_ids: ids.clone(),
                attention_mask: mask.clone(),
                token_type_ids: None,
            };
            let hidden = model.encoder.forward(&batch, &adapters);
            let pooled = model.pool(hidden, &batch, head.pooling(), &adapters);
            head.forward(pooled.unwrap())
        }
    };
    let mut case = case(name, &base, &written, &ids, &mask);
    case["logits"] = rows(logits);
    case
}

#[test]
fn parity_of_classifiers_of_every_family() {
    let Some(python) = reference::python() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let cases = cases(folder.path());
    reference::compare(
        python.clone(),
        "classifier_reference.py",
        folder.path(),
        cases.clone(),
    );
    let mut again = Vec::new();
    for case in cases {
        let name = format!("{} {}", case["family"], case["targets"]);
        let place = Path::new(case["folder"].as_str().unwrap());
        let expected = fixtures::json(&place.join("expected.json"));
        let read =
            |key: &str| -> Vec<String> { serde_json::from_value(expected[key].clone()).unwrap() };
        let (texts, labels) = (read("texts"), read("labels"));
        let logits: Vec<Vec<f64>> = serde_json::from_value(expected["logits"].clone()).unwrap();
        let wanted: Vec<Vec<f64>> = logits.iter().map(|row| log_softmax(row)).collect();

        let (adapter, merged) = (place.join("adapter"), place.join("merged"));
        let found = most_apart(&predicted(&adapter, &texts.join("\n"), &labels), &wanted);
        let merge = hybrid()
            .arg("merge")
            .arg(&adapter)
            .arg("--out")
            .arg(&merged)
            .assert();
        merge.success();
        let of_merged = most_apart(&predicted(&merged, &texts.join("\n"), &labels), &wanted);
        eprintln!("{name}: largest difference {found:.1e}, merged {of_merged:.1e}");
        assert!(found <= TOLERANCE, "{name}: {found}");
        assert!(of_merged <= TOLERANCE, "{name}: merged: {of_merged}");

        let best = |row: &Vec<f64>| {
            let order = (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b]));
            labels[order.unwrap()].clone()
        };
        let labelled = texts.iter().zip(&logits);
        let lines: Vec<String> = labelled
            .map(|(text, row)| json!({"text": text, "label": best(row)}).to_string())
            .collect();
        let data = place.join("data.jsonl");
        std::fs::write(&data, lines.join("\n")).unwrap();
        let evaluated = hybrid()
            .args(["eval", "--json", "--data"])
            .args([&data, &adapter])
            .assert()
            .success();
        let figures: Value = serde_json::from_str(&printed(&evaluated)).unwrap();
        assert_eq!(figures["accuracy"], 1.0, "{name}: {figures}");
        again.push(written_again(place, &name));
    }
    reference::compare(python, "peft_reference.py", folder.path(), again);
}

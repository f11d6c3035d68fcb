//! The classifiers in PEFT's folders, family by family: read, written, evaluated, and refused.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Int, Tensor, TensorData};
use hybrid_adapters::{
    AdapterConfig, Adapters, ClassifierHead, HeadConfig, HeadForm, load_peft, load_peft_classifier,
    save_peft,
};
use hybrid_models::{Base, BaseKind, DecoderBatch, DecoderModel, EncoderBatch, Model, Pooling};
use safetensors::SafeTensors;
use serde_json::{Value, json};

use crate::any_base::host;
use crate::contracts::bench::{benches, close, moved};
use crate::fixtures::{self, Tensors};
use crate::tiny_model::{self, Weights};
use crate::tiny_task::{TinyTask, hybrid, messages, predictions};

/// A LoRA on queries and values of any family, and the base's own head trained with it.
fn with_trained_head(base: &dyn Base, device: &Device) -> Adapters {
    let stack: Vec<AdapterConfig> = serde_json::from_value(json!([
        {"method": "lora", "r": 2, "lora_alpha": 3},
        {"method": "unfreeze", "modules": "(pre_)?classifier.*|score"},
    ]))
    .unwrap();
    moved(Adapters::init(&stack, base, 7, device).unwrap())
}

/// What a file holds of an adapter and its classifier gives over a base without head what the whole
/// model computes; and is written again, tensor by tensor.
fn check_file(name: &str, headed: &dyn Base, bare: &dyn Base, device: &Device) -> Loaded {
    let folder = tempfile::tempdir().unwrap();
    let (first, again) = (folder.path().join("first"), folder.path().join("again"));
    let adapters = with_trained_head(headed, device);
    save_peft(&adapters, headed, "base", None, &first).unwrap();
    let loaded = load_peft(&first, bare, device).unwrap_or_else(|error| panic!("{name}: {error}"));
    let head = load_peft_classifier(&first, bare, None, device).unwrap();
    let head = head.unwrap_or_else(|| panic!("{name}: no classifier"));

    save_peft(&loaded, bare, "base", Some(&head), &again).unwrap();
    let config = fixtures::json(&again.join("adapter_config.json"));
    assert_eq!(config["task_type"], "SEQ_CLS", "{name}");
    let module = config["modules_to_save"][0].as_str().unwrap();
    assert!(
        ["classifier", "score"].contains(&module),
        "{name}: {config}"
    );
    let file = |folder: &Path| weights(&folder.join("adapter_model.safetensors"));
    assert_eq!(file(&first), file(&again), "{name}");

    // A head that is none of Transformers' stays out, and the file says so.
    let other = HeadConfig {
        normalize: true,
        ..head.config().clone()
    };
    let other = ClassifierHead::init(other, bare.stacks()[0].d_model, 2, 1, device);
    save_peft(&loaded, bare, "base", Some(&other), &again).unwrap();
    let config = fixtures::json(&again.join("adapter_config.json"));
    assert_eq!(config["task_type"], "FEATURE_EXTRACTION", "{name}");
    assert_eq!(config["modules_to_save"], Value::Null, "{name}");
    let none = load_peft_classifier(&again, bare, None, device).unwrap();
    assert!(none.is_none(), "{name}");
    Loaded {
        trained: adapters,
        adapters: loaded,
        head,
    }
}

/// An adapter over a whole model, and the same over its base with a head aside.
struct Loaded {
    trained: Adapters,
    adapters: Adapters,
    head: ClassifierHead,
}

#[test]
fn parity_of_classifiers_over_encoders() {
    for bench in benches() {
        let bare = Model::load_encoder(&bench.folder, &bench.device).unwrap();
        let Loaded {
            trained,
            adapters,
            head,
        } = check_file(&bench.name, &bench.model, &bare, &bench.device);
        let hidden = bare.encoder.forward(&bench.batch, &adapters);
        let pooled = bare.pool(hidden, &bench.batch, head.pooling(), &adapters);
        let found = host(head.forward(pooled.unwrap()));
        let expected = bench.logits(&bench.model, &trained);
        close(&bench.name, &found, &expected, 1e-5);
    }
}

#[test]
fn parity_of_classifiers_over_decoders() {
    let device = fixtures::device();
    let mut n_checked = 0;
    for fixture in fixtures::of_kind("model") {
        let folder = fixture.folder.join("model");
        let config = fixtures::json(&folder.join("config.json"));
        let class = config["architectures"][0].as_str().unwrap_or_default();
        let is_decoder = BaseKind::of_folder(&folder).is_ok_and(|kind| kind == BaseKind::Decoder);
        if !is_decoder || !class.ends_with("ForSequenceClassification") {
            continue;
        }
        let headed = DecoderModel::load(&folder, &device).unwrap();
        let bare = DecoderModel::load_headless(&folder, &device).unwrap();
        let Loaded {
            trained,
            adapters,
            head,
        } = check_file(&fixture.name, &headed, &bare, &device);
        let inputs = Tensors::read(&fixture.folder.join("inputs.safetensors"));
        let batch = DecoderBatch {
            input_ids: inputs.int("input_ids", &device),
            attention_mask: Some(inputs.int("attention_mask", &device)),
            position_ids: None,
        };
        let padding_id = config["pad_token_id"].as_u64().map(|id| id as usize);
        let pooled = bare.decoder.last_token(&batch, padding_id, &adapters);
        let found = host(head.forward(pooled.unwrap()));
        let expected = host(headed.classify(&batch, &trained).unwrap());
        close(&fixture.name, &found, &expected, 1e-5);
        n_checked += 1;
    }
    assert!(n_checked > 0, "no such decoder among the fixtures");
}

/// The tensors of a safetensors file.
fn weights(path: &Path) -> Weights {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = |(name, view): (&str, safetensors::tensor::TensorView<'_>)| {
        let values = view.data().as_chunks().0.iter();
        let values = values.map(|bytes| f32::from_le_bytes(*bytes)).collect();
        (name.to_owned(), (view.shape().to_vec(), values))
    };
    file.iter().map(tensor).collect()
}

/// A tiny base of another family in the folder of a task: the BERT's weights under RoBERTa's names.
fn write_roberta(task: &TinyTask) -> PathBuf {
    let folder = task.file("roberta");
    std::fs::create_dir(&folder).unwrap();
    let mut config = fixtures::json(&task.file("model/config.json"));
    config["architectures"] = json!(["RobertaForMaskedLM"]);
    config["model_type"] = json!("roberta");
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let tokenizer = "tokenizer.json";
    std::fs::copy(task.file("model").join(tokenizer), folder.join(tokenizer)).unwrap();
    let renamed = |(name, tensor): (String, _)| (name.replace("bert.", "roberta."), tensor);
    let weights: Weights = tiny_model::weights().into_iter().map(renamed).collect();
    tiny_model::save(&folder.join("model.safetensors"), &weights);
    folder
}

/// A folder of PEFT's with a classifier of three classes over a base, whose names are not sorted.
fn write_classifier(
    task: &TinyTask,
    base: &Path,
    loaded: &dyn Base,
    config: HeadConfig,
) -> PathBuf {
    let device = fixtures::device();
    let lora: Vec<AdapterConfig> =
        serde_json::from_value(json!([{"method": "lora", "r": 2, "lora_alpha": 3}])).unwrap();
    let adapters = moved(Adapters::init(&lora, loaded, 7, &device).unwrap());
    let head = ClassifierHead::init(config, loaded.stacks()[0].d_model, 3, 5, &device);
    // Vectors as they are drawn hardly tell classes apart.
    let larger = |(name, data): (String, TensorData)| {
        let values: Vec<f32> = data.iter::<f32>().map(|value| 20.0 * value + 0.1).collect();
        (name, TensorData::new(values, data.shape().clone()))
    };
    let tensors: BTreeMap<_, _> = head.named_tensors().into_iter().map(larger).collect();
    let head = head.load_named_tensors(&tensors).unwrap();
    let folder = task.file("adapter");
    let name = base.to_str().unwrap();
    save_peft(&adapters, loaded, name, Some(&head), &folder).unwrap();
    name_classes(&folder, json!({}));
    folder
}

fn name_classes(folder: &Path, mut config: Value) {
    config["id2label"] = json!({"0": "phone", "1": "card", "2": "fee"});
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
}

/// For each line the probabilities of `card`, `fee` and `phone`.
fn predicted(artifact: &Path, lines: &str) -> Vec<[f32; 3]> {
    let row = |answer: Value| {
        let top = answer["top"].as_array().unwrap();
        ["card", "fee", "phone"].map(|label| {
            let entry = top.iter().find(|entry| entry["label"] == label).unwrap();
            entry["probability"].as_f64().unwrap() as f32
        })
    };
    predictions(artifact, lines, 3)
        .into_iter()
        .map(row)
        .collect()
}

/// Predicts with the folder and with the model that it is merged into.
fn check_predictions(task: &TinyTask, adapter: &Path, lines: &[&str], expected: &[Vec<f32>]) {
    let merged = task.file("merged");
    let merge = hybrid()
        .arg("merge")
        .arg(adapter)
        .arg("--out")
        .arg(&merged)
        .assert();
    merge.success();
    for artifact in [adapter, &merged] {
        let found = predicted(artifact, &lines.join("\n"));
        for (([card, fee, phone], expected), line) in found.iter().zip(expected).zip(lines) {
            let expected = softmax(expected);
            close(line, &[*phone, *card, *fee], &expected, 1e-4);
        }
        assert_eq!(found.len(), lines.len());
    }
}

fn softmax(logits: &[f32]) -> Vec<f32> {
    let sum: f32 = logits.iter().map(|logit| logit.exp()).sum();
    logits.iter().map(|logit| logit.exp() / sum).collect()
}

fn ids(base: &Path, text: &str) -> Tensor<2, Int> {
    let tokenizer = hybrid_data::Tokenizer::from_file(&base.join("tokenizer.json"), 64).unwrap();
    let ids = tokenizer.ids(text, true).unwrap();
    let ids: Vec<i32> = ids.into_iter().map(|id| id as i32).collect();
    let n_ids = ids.len();
    Tensor::from_data(TensorData::new(ids, [1, n_ids]), &fixtures::device())
}

const LINES: [&str; 3] = [
    "my card is lost",
    "fee",
    "please help why the new phone number is stolen",
];

#[test]
fn a_classifier_over_roberta_is_evaluated_and_merged() {
    let (task, device) = (TinyTask::new(), fixtures::device());
    let base = write_roberta(&task);
    let loaded = Model::load_encoder(&base, &device).unwrap();
    let config = HeadConfig {
        pooling: Pooling::Cls,
        normalize: false,
        scale: 1.0,
        form: HeadForm::Tanh,
    };
    let adapter = write_classifier(&task, &base, &loaded, config);
    let adapters = load_peft(&adapter, &loaded, &device).unwrap();
    let head = load_peft_classifier(&adapter, &loaded, None, &device);
    let head = head.unwrap().unwrap();
    let logits = |line: &str| {
        let input_ids = ids(&base, line);
        let batch = EncoderBatch {
            attention_mask: input_ids.ones_like(),
            token_type_ids: None,
            input_ids,
        };
        let hidden = loaded.encoder.forward(&batch, &adapters);
        let pooled = loaded.pool(hidden, &batch, Pooling::Cls, &adapters);
        host(head.forward(pooled.unwrap()))
    };
    let expected = LINES.map(logits);
    check_predictions(&task, &adapter, &LINES, &expected);

    let path = adapter.join("adapter_model.safetensors");
    let whole = weights(&path);
    let refused = |change: &dyn Fn(&mut Weights)| {
        let mut changed = whole.clone();
        change(&mut changed);
        tiny_model::save(&path, &changed);
        let refused = hybrid().arg("predict").arg(&adapter).assert().code(2);
        messages(&refused)
    };
    let key = |name: &str| format!("base_model.model.classifier.{name}");
    let missing = refused(&|weights| drop(weights.remove(&key("dense.bias"))));
    let expected = format!("{}: this tensor is missing", key("dense.bias"));
    assert!(missing.contains(&expected), "{missing}");
    let narrow = refused(&|weights| {
        weights.insert(key("out_proj.weight"), (vec![3, 2], vec![0.5; 6]));
    });
    let expected = format!(
        "{}: expected shape [3, 32], found [3, 2]",
        key("out_proj.weight")
    );
    assert!(narrow.contains(&expected), "{narrow}");
    let fewer = refused(&|weights| {
        weights.insert(key("out_proj.bias"), (vec![2], vec![0.5; 2]));
    });
    let expected = format!("{}: expected shape [3], found [2]", key("out_proj.bias"));
    assert!(fewer.contains(&expected), "{fewer}");
    // As BERT has it, and as a LoRA within the classifier would be.
    for name in ["weight", "dense.lora_A.weight"] {
        let other = refused(&|weights| {
            weights.insert(key(name), (vec![3, 32], vec![0.5; 96]));
        });
        assert!(other.contains(&key(name)), "{other}");
    }
    let no_class = refused(&|weights| {
        weights.insert(key("out_proj.weight"), (vec![0, 32], Vec::new()));
        weights.insert(key("out_proj.bias"), (vec![0], Vec::new()));
    });
    assert!(no_class.contains("found [0, 32]"), "{no_class}");
    let none = refused(&|weights| weights.retain(|name, _| !name.contains("classifier")));
    assert!(none.contains("modules_to_save"), "{none}");
}

#[test]
fn a_classifier_over_a_decoder_reads_the_last_token() {
    let (task, device) = (TinyTask::language(), fixtures::device());
    let base = task.file("llama");
    let loaded = DecoderModel::load_headless(&base, &device).unwrap();
    let config = HeadConfig {
        pooling: Pooling::Last,
        normalize: false,
        scale: 1.0,
        form: HeadForm::Score { padding_id: None },
    };
    let adapter = write_classifier(&task, &base, &loaded, config);
    let adapters = load_peft(&adapter, &loaded, &device).unwrap();
    let head = load_peft_classifier(&adapter, &loaded, None, &device);
    let head = head.unwrap().unwrap();
    let logits = |line: &str| {
        let batch = DecoderBatch {
            input_ids: ids(&base, line),
            attention_mask: None,
            position_ids: None,
        };
        let hidden = loaded.decoder.forward(&batch, None, &adapters).unwrap();
        let [_, seq, _] = hidden.dims();
        let last = hidden.narrow(1, seq - 1, 1).squeeze_dim::<2>(1);
        host(head.forward(last))
    };
    let expected = LINES.map(logits);
    check_predictions(&task, &adapter, &LINES, &expected);

    // A token that was padding in the training is passed over where it ends a text, also when the
    // adapter is merged.
    let padding = ids(&base, "lost").into_scalar::<i64>();
    name_classes(&adapter, json!({"pad_token_id": padding}));
    std::fs::remove_dir_all(task.file("merged")).unwrap();
    let lines = ["my card is lost", "my card is", "fee"];
    let expected = [logits("my card is"), logits("my card is"), logits("fee")];
    check_predictions(&task, &adapter, &lines, &expected);
    // None has -1 there.
    name_classes(&adapter, json!({"pad_token_id": -1}));
    std::fs::remove_dir_all(task.file("merged")).unwrap();
    check_predictions(&task, &adapter, &lines[..1], &[logits("my card is lost")]);

    let written = hybrid()
        .arg("predict")
        .arg(&adapter)
        .write_stdin("{\"text\": \"\"}\n")
        .assert();
    let empty = messages(&written.code(2));
    assert!(empty.contains("no token"), "{empty}");

    let path = adapter.join("adapter_model.safetensors");
    let mut changed = weights(&path);
    let key = "base_model.model.score.bias".to_owned();
    changed.insert(key.clone(), (vec![3], vec![0.5; 3]));
    tiny_model::save(&path, &changed);
    let refused = messages(&hybrid().arg("predict").arg(&adapter).assert().code(2));
    assert!(refused.contains(&key), "{refused}");
}

#[test]
fn a_head_that_pefts_file_does_not_hold_is_loaded_beside_it() {
    let task = TinyTask::new();
    write_roberta(&task);
    task.edit_recipe("model = \"model\"", "model = \"roberta\"");
    task.edit_recipe("seed = 3", "seed = 3\nchoose_by = \"log_loss\"");
    let head = "head = { pooling = \"pooler\", normalize = false, init = \"random\" }";
    task.edit_recipe("epochs = 4", &format!("epochs = 20\n{head}"));
    task.train("a").assert().success();
    let adapter = task.file("a/artifact/adapter");
    let config = fixtures::json(&adapter.join("adapter_config.json"));
    assert_eq!(config["task_type"], "FEATURE_EXTRACTION");
    let card = std::fs::read_to_string(task.file("a/artifact/README.md")).unwrap();
    assert!(card.contains("load_file"), "{card}");
    assert!(
        !card.contains("AutoModelForSequenceClassification"),
        "{card}"
    );
}

//! PEFT's folders with a classifier are taken for artifacts.

use std::path::Path;

use serde_json::{Value, json};

use crate::tiny_task::{TinyTask, hybrid, messages, printed};

/// A run whose adapter stores a classifier as Transformers has it, and that adapter.
fn trained() -> (TinyTask, std::path::PathBuf) {
    let task = TinyTask::new();
    let text = std::fs::read_to_string(task.recipe()).unwrap();
    let (start, adapter) = text.split_once("[[stages]]").unwrap();
    let (_, adapter) = adapter.split_once("[[stages]]").unwrap();
    let (adapter, _) = adapter.split_once("[[stages]]").unwrap();
    let head = "head = { pooling = \"pooler\", normalize = false, init = \"random\" }\n";
    let recipe = format!("{start}[[stages]]{adapter}{head}")
        .replace("seed = 3", "seed = 3\nchoose_by = \"log_loss\"")
        .replace("epochs = 4", "epochs = 20");
    std::fs::write(task.recipe(), recipe).unwrap();
    task.train("a").assert().success();
    let adapter = task.file("a/artifact/adapter");
    (task, adapter)
}

fn figures(artifact: &Path, data: &Path) -> Value {
    let evaluated = hybrid()
        .args(["eval", "--json", "--data"])
        .args([data, artifact])
        .assert()
        .success();
    serde_json::from_str(&printed(&evaluated)).unwrap()
}

#[test]
fn a_classifier_of_peft_is_evaluated_as_the_artifact_is() {
    let (task, adapter) = trained();
    let report = task.file("report.jsonl");
    let expected = figures(&task.file("a/artifact"), &report);
    let labels = ["card_lost", "cash_fee", "new_phone"];
    let names = |order: [usize; 3]| {
        let names = order.map(|class| labels[class]);
        let config = json!({"id2label": {"0": names[0], "1": names[1], "2": names[2]}});
        std::fs::write(adapter.join("config.json"), config.to_string()).unwrap();
    };
    names([0, 1, 2]);
    assert_eq!(figures(&adapter, &report), expected);

    // Classes that are called otherwise: what was told apart before is wrong now.
    names([2, 0, 1]);
    let renamed = figures(&adapter, &report)["accuracy"].as_f64().unwrap();
    let right = expected["accuracy"].as_f64().unwrap();
    assert!(right > 0.8 && renamed < 0.3, "{right} and {renamed}");

    let several = json!({"problem_type": "multi_label_classification"});
    std::fs::write(adapter.join("config.json"), several.to_string()).unwrap();
    let several = hybrid().arg("predict").arg(&adapter).assert().code(2);
    assert!(
        messages(&several).contains("problem_type"),
        "{}",
        messages(&several)
    );

    names([0, 0, 1]);
    let twice = hybrid().arg("predict").arg(&adapter).assert().code(2);
    assert!(
        messages(&twice).contains("id2label"),
        "{}",
        messages(&twice)
    );

    std::fs::remove_file(adapter.join("config.json")).unwrap();
    let predicted = hybrid()
        .arg("predict")
        .arg(&adapter)
        .write_stdin("my card is lost\n")
        .assert()
        .success();
    assert!(
        printed(&predicted).contains("LABEL_"),
        "{}",
        printed(&predicted)
    );
}

#[test]
fn a_folder_of_peft_that_is_no_classifier_is_refused() {
    let (task, adapter) = trained();
    let unknown = hybrid().arg("eval").arg(&adapter).assert().code(2);
    assert!(
        messages(&unknown).contains("--data"),
        "{}",
        messages(&unknown)
    );

    let path = adapter.join("adapter_config.json");
    let config = std::fs::read_to_string(&path).unwrap();
    let refused = |key: &str, value: Value| {
        let mut config: Value = serde_json::from_str(&config).unwrap();
        config[key] = value;
        std::fs::write(&path, config.to_string()).unwrap();
        let refused = hybrid().arg("predict").arg(&adapter).assert().code(2);
        messages(&refused)
    };
    let nameless = refused("base_model_name_or_path", Value::Null);
    assert!(nameless.contains("base_model_name_or_path"), "{nameless}");

    let of_tokens = refused("task_type", json!("TOKEN_CLS"));
    assert!(of_tokens.contains("task_type"), "{of_tokens}");
    let model = std::fs::read_to_string(task.file("model/config.json")).unwrap();
    let t5 = model.replace("\"bert\"", "\"t5\"");
    std::fs::write(task.file("model/config.json"), t5).unwrap();
    let other = refused("peft_version", json!("0.21.2"));
    assert!(other.contains("of encoder-decoders"), "{other}");
    std::fs::write(task.file("model/config.json"), model).unwrap();

    // The same adapter without its classifier.
    std::fs::remove_dir_all(task.file("a")).unwrap();
    task.edit_recipe("pooling = \"pooler\"", "pooling = \"mean\"");
    task.train("a").assert().success();
    let bare = hybrid().arg("predict").arg(&adapter).assert().code(2);
    assert!(messages(&bare).contains("SEQ_CLS"), "{}", messages(&bare));
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("FEATURE_EXTRACTION", "SEQ_CLS")).unwrap();
    let bare = hybrid().arg("predict").arg(&adapter).assert().code(2);
    assert!(
        messages(&bare).contains("modules_to_save"),
        "{}",
        messages(&bare)
    );
}

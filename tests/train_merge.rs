//! `hybrid merge`: the merged model is an artifact of its own that answers as the adapter does.

use serde_json::Value;

use crate::fixtures::json;
use crate::tiny_task::{TinyTask, hybrid, messages, predictions};

/// Texts with the probabilities of all labels, by label.
fn probabilities(artifact: &std::path::Path) -> Vec<(String, Vec<(String, f64)>)> {
    let lines = "my card is lost\nthe fee is money\nplease help why the new phone\nquestion\n";
    let line = |answer: Value| {
        let top = answer["top"].as_array().unwrap().iter().map(|entry| {
            let label = entry["label"].as_str().unwrap().to_owned();
            (label, entry["probability"].as_f64().unwrap())
        });
        let mut top: Vec<_> = top.collect();
        top.sort_by(|a, b| a.0.cmp(&b.0));
        (answer["input"]["text"].as_str().unwrap().to_owned(), top)
    };
    predictions(artifact, lines, 3)
        .into_iter()
        .map(line)
        .collect()
}

#[test]
fn a_merged_model_predicts_as_the_adapter_does() {
    let task = TinyTask::new();
    // The trained candidate is to win, so that there is something to merge.
    task.edit_recipe("seed = 3", "seed = 3\nchoose_by = \"log_loss\"");
    let extra = [
        ("special_tokens_map.json", "{}"),
        ("vocab.txt", "[PAD]"),
        ("added_tokens.json", "{}"),
        ("spiece.model", "not read here"),
        (
            "modules.json",
            r#"[{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
                {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
                {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"}]"#,
        ),
        (
            "1_Pooling/config.json",
            "{\"pooling_mode_mean_tokens\": true}",
        ),
    ];
    std::fs::create_dir(task.file("model/1_Pooling")).unwrap();
    for (name, text) in extra {
        std::fs::write(task.file("model").join(name), text).unwrap();
    }
    task.train("a").assert().success();
    let (artifact, merged) = (task.file("a/artifact"), task.file("merged"));
    assert!(artifact.join("adapter/adapter_model.safetensors").is_file());
    let merge = || {
        let mut command = hybrid();
        command
            .arg("merge")
            .arg(&artifact)
            .arg("--out")
            .arg(&merged);
        command.assert()
    };
    merge().success();
    for (name, text) in extra {
        assert_eq!(std::fs::read_to_string(merged.join(name)).unwrap(), text);
    }
    assert_ne!(
        std::fs::read(merged.join("model.safetensors")).unwrap(),
        std::fs::read(task.file("model/model.safetensors")).unwrap()
    );
    // It stands alone: neither the base nor its place is needed any more.
    std::fs::rename(task.file("model"), task.file("model-moved")).unwrap();
    let moved = task.file("elsewhere");
    std::fs::rename(&merged, &moved).unwrap();
    let of_merged = probabilities(&moved);
    std::fs::rename(task.file("model-moved"), task.file("model")).unwrap();
    let of_adapter = probabilities(&artifact);
    assert_eq!(of_merged.len(), 4);
    for ((text, merged), (other, adapter)) in of_merged.iter().zip(&of_adapter) {
        assert_eq!(text, other);
        for ((label, merged), (other, adapter)) in merged.iter().zip(adapter) {
            assert_eq!(label, other);
            // Probabilities differ less than their logarithms, the logits up to a constant.
            assert!(
                (merged.ln() - adapter.ln()).abs() < 1e-4,
                "{text}: {label}: {merged} and {adapter}"
            );
        }
    }
    let description = json(&moved.join("artifact.json"));
    assert_eq!(description["base"], ".");
    assert_eq!(description["adapter"]["methods"], serde_json::json!([]));
    std::fs::rename(&moved, &merged).unwrap();
    let occupied = messages(&merge().code(2));
    assert!(occupied.contains("exists already"), "{occupied}");
}

#[test]
fn merging_replaces_nothing_but_an_empty_folder() {
    let task = TinyTask::new();
    task.train("a").assert().success();
    let merge = |out: &str| {
        let mut command = hybrid();
        command.arg("merge").arg(task.file("a/artifact"));
        command.arg("--out").arg(task.file(out)).assert()
    };
    std::fs::write(task.file("notes.txt"), "mine").unwrap();
    let refused = messages(&merge("notes.txt").code(2));
    assert!(refused.contains("notes.txt"), "{refused}");
    assert!(refused.contains("exists already"), "{refused}");
    assert_eq!(
        std::fs::read_to_string(task.file("notes.txt")).unwrap(),
        "mine"
    );
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("nowhere", task.file("link")).unwrap();
        merge("link").code(2);
        assert!(task.file("link").is_symlink());
    }
    std::fs::create_dir(task.file("empty")).unwrap();
    let unfinished = |rest: &str| task.file(&format!("{}{rest}", hybrid_models::UNFINISHED));
    let (own, other) = (unfinished("empty-aBc123"), unfinished("empty-2-aBc123"));
    for folder in [&own, &other] {
        std::fs::create_dir(folder).unwrap();
        std::fs::write(folder.join("model.safetensors"), "half").unwrap();
    }
    merge("empty").success();
    assert!(!own.exists(), "what a kill left of the same merge");
    assert!(other.exists(), "another merge may be at work there");
    assert!(task.file("empty/artifact.json").is_file());
}

#[test]
fn a_module_that_leads_elsewhere_is_not_copied() {
    let task = TinyTask::new();
    let modules = r#"[{"path": "../../outside"}]"#;
    std::fs::write(task.file("model/modules.json"), modules).unwrap();
    task.train("a").assert().success();
    let mut command = hybrid();
    command.arg("merge").arg(task.file("a/artifact"));
    let refused = command
        .arg("--out")
        .arg(task.file("merged"))
        .assert()
        .code(2);
    assert!(messages(&refused).contains("modules.json"));
    assert!(!task.file("merged").exists());
}

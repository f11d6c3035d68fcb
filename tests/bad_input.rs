//! Bad input: exit code 2, one clear message, nothing written half.

use crate::fixtures;
use crate::tiny_task::{TinyTask, hybrid, messages};

/// Runs the task; expects exit code 2, all of `parts` in the message, and no run folder.
pub(crate) fn refused(task: &TinyTask, settings: &[&str], parts: &[&str]) {
    let mut command = task.train("refused");
    for setting in settings {
        command.args(["--set", setting]);
    }
    let output = command.assert().code(2);
    let message = String::from_utf8_lossy(&output.get_output().stderr).into_owned();
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in: {message}");
    }
    assert!(!message.contains("panicked"), "{message}");
    assert!(
        !task.file("refused").exists(),
        "a refused run left a folder"
    );
}

#[test]
fn all_faults_of_a_recipe_are_named_with_their_lines() {
    let task = TinyTask::new();
    task.edit_recipe("seed = 3", "seed = 3\nsede = 4");
    task.edit_recipe("r = 2,", "r = 2, rnak = 3,");
    task.edit_recipe("epochs = 4", "epochs = \"four\"");
    task.edit_recipe("metric = \"accuracy\"", "metric = \"acuracy\"");
    refused(
        &task,
        &[],
        &[
            "4 faults",
            "recipe.toml:4: sede: unknown key",
            "rnak: unknown key",
            "stages.1.epochs",
            "target.metric",
        ],
    );
}

#[test]
fn an_unknown_key_of_a_setting_is_named() {
    let task = TinyTask::new();
    refused(
        &task,
        &["stages.1.epoch=2"],
        &["--set stages.1.epoch", "unknown key"],
    );
}

#[test]
fn a_recipe_that_is_missing_or_no_toml_is_refused() {
    let task = TinyTask::new();
    std::fs::write(task.recipe(), "name = = 3").unwrap();
    refused(&task, &[], &["recipe.toml", "not a TOML file"]);
    std::fs::remove_file(task.recipe()).unwrap();
    refused(&task, &[], &["recipe.toml", "cannot be read"]);
}

#[test]
fn data_files_that_are_missing_or_empty_are_refused() {
    let task = TinyTask::new();
    refused(&task, &["data.fit=nowhere.jsonl"], &["nowhere.jsonl"]);
    std::fs::write(task.file("empty.jsonl"), "").unwrap();
    refused(
        &task,
        &["data.fit=empty.jsonl"],
        &["empty.jsonl: holds no examples"],
    );
}

#[test]
fn faulty_rows_are_named_by_file_line_and_field() {
    let rows: [(&[u8], &[&str]); 4] = [
        (b"{\"text\": \"a\", \"label\": \"card_lost\"}\n{\"label\": \"card_lost\"}\n", &["bad.jsonl:2", "text"]),
        (b"{\"text\": \"a\", \"label\": 3}\n", &["bad.jsonl:1", "label"]),
        (b"{\"text\": \"a\", \"label\": \"card_lost\"}\n{\"text\": \"\xff\", \"label\": \"x\"}\n", &["bad.jsonl:2", "UTF-8", "`text`"]),
        (b"not json\n", &["bad.jsonl:1"]),
    ];
    for (bytes, parts) in rows {
        let task = TinyTask::new();
        std::fs::write(task.file("bad.jsonl"), bytes).unwrap();
        refused(&task, &["data.select=bad.jsonl"], parts);
    }
}

#[test]
fn a_report_label_that_fit_has_never_seen_is_refused() {
    let task = TinyTask::new();
    std::fs::write(
        task.file("report.jsonl"),
        "{\"text\": \"a\", \"label\": \"new\"}\n",
    )
    .unwrap();
    refused(&task, &[], &["report.jsonl:1", "new"]);
}

#[test]
fn a_template_that_never_uses_the_input_is_refused() {
    let task = TinyTask::new();
    task.edit_recipe(
        "[\"{{ text }}\", \"customer question: {{ text }}\"]",
        "[\"always the same\"]",
    );
    refused(&task, &[], &["always the same", "text"]);
}

#[test]
fn faulty_weights_are_named() {
    let task = TinyTask::new();
    let weights = task.file("model/model.safetensors");
    let whole = std::fs::read(&weights).unwrap();
    let oversized = [u64::MAX.to_le_bytes().as_slice(), &whole[8..]].concat();
    let cut = &whole[..whole.len() / 2];
    let mut corrupt = whole.clone();
    corrupt[8] = b'!';
    let mut dtype = whole.clone();
    let place = dtype.windows(3).position(|bytes| bytes == b"F32").unwrap();
    dtype[place] = b'X';
    for (bytes, part) in [
        (cut, "truncated"),
        (b"short", "truncated"),
        (&oversized, "the header says it has"),
        (&corrupt, "corrupt safetensors header"),
        (&dtype, "corrupt safetensors header"),
    ] {
        std::fs::write(&weights, bytes).unwrap();
        refused(&task, &[], &["model.safetensors", part]);
    }
}

#[test]
fn tensors_that_are_missing_extra_or_misshapen_are_named() {
    let task = TinyTask::new();
    let weights = task.file("model/model.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let name = "bert.encoder.layer.0.attention.self.query.bias";
    let view = file.tensor(name).unwrap();
    let longer = [view.data(), &[0; 4]].concat();
    let other = |shape: Vec<usize>, data| {
        safetensors::tensor::TensorView::new(view.dtype(), shape, data).unwrap()
    };
    let all = || file.iter().collect::<Vec<_>>();
    let without = all()
        .into_iter()
        .filter(|(key, _)| *key != name)
        .collect::<Vec<_>>();
    let width = view.shape()[0];
    let mut extra = all();
    extra.push((
        "bert.encoder.layer.0.surprise",
        other(vec![width], view.data()),
    ));
    let mut misshapen = without.clone();
    misshapen.push((name, other(vec![width + 1], &longer)));
    let longer = width + 1;
    let cases = [
        (
            without,
            format!("`{name}` is missing (expected shape [{width}])"),
        ),
        (
            extra,
            format!("`bert.encoder.layer.0.surprise` of shape [{width}] has no place"),
        ),
        (
            misshapen,
            format!("`{name}`: expected shape [{width}], found [{longer}]"),
        ),
    ];
    for (tensors, part) in cases {
        std::fs::write(&weights, safetensors::serialize(tensors, None).unwrap()).unwrap();
        refused(&task, &[], &["model.safetensors", &part]);
    }
}

#[test]
fn an_unknown_architecture_lists_the_known_ones() {
    let task = TinyTask::new();
    let path = task.file("model/config.json");
    let mut config = fixtures::json(&path);
    config["model_type"] = "mamba".into();
    config["architectures"] = serde_json::json!(["MambaModel"]);
    std::fs::write(&path, config.to_string()).unwrap();
    refused(
        &task,
        &[],
        &["config.json", "mamba", "bert", "roberta", "distilbert"],
    );
}

#[test]
fn an_unknown_or_absent_device_says_how_to_get_it() {
    let task = TinyTask::new();
    let mut cases = vec![("tpu", "flex, tch, tch-cuda, wgpu, cuda".to_owned())];
    for (device, built) in [
        ("tch", cfg!(feature = "tch")),
        ("tch-cuda", cfg!(feature = "tch")),
        ("wgpu", cfg!(feature = "wgpu")),
        ("cuda", cfg!(feature = "cuda")),
    ] {
        if !built {
            cases.push((device, format!("`cargo xtask train --device {device}`")));
        }
    }
    for (device, part) in cases {
        let mut command = task.train("refused");
        let message = messages(&command.args(["--device", device]).assert().code(2));
        assert!(
            message.contains(device) && message.contains(&part),
            "{message}"
        );
        assert!(!message.contains("panicked"), "{message}");
        assert!(!task.file("refused").exists(), "{device} left a folder");
    }
}

#[test]
fn targets_that_match_no_site_list_near_names() {
    let task = TinyTask::new();
    task.edit_recipe("[\"query\", \"value\"]", "[\"qurey\"]");
    refused(&task, &[], &["qurey", "query"]);
}

#[test]
fn a_run_folder_that_cannot_be_written_is_refused() {
    let task = TinyTask::new();
    std::fs::write(task.file("occupied"), "a file").unwrap();
    let output = task.train("occupied/run").assert().code(2);
    let message = String::from_utf8_lossy(&output.get_output().stderr).into_owned();
    assert!(message.contains("occupied"), "{message}");
    let folder = task.file("foreign");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("thesis.txt"), "precious").unwrap();
    let output = task.train("foreign").assert().code(2);
    let message = String::from_utf8_lossy(&output.get_output().stderr).into_owned();
    assert!(message.contains("holds no run"), "{message}");
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
}

#[test]
fn an_artifact_that_is_damaged_is_refused() {
    let task = TinyTask::new();
    let output = hybrid()
        .arg("eval")
        .arg(task.file("nowhere"))
        .assert()
        .code(2);
    assert!(String::from_utf8_lossy(&output.get_output().stderr).contains("artifact.json"));

    // The trained candidate is to win, so that the artifact has a head.
    task.edit_recipe("seed = 3", "seed = 3\nchoose_by = \"log_loss\"");
    task.train("a").assert().success();
    let damaged = |name: &str, bytes: &[u8], parts: &[&str]| {
        let file = task.file("a/artifact").join(name);
        let whole = std::fs::read(&file).unwrap();
        std::fs::write(&file, bytes).unwrap();
        let mut predict = hybrid();
        predict.arg("predict").arg(task.file("a/artifact"));
        let message = messages(&predict.write_stdin("my card is lost\n").assert().code(2));
        for part in parts.iter().chain([&name]) {
            assert!(message.contains(part), "{part:?} is not in: {message}");
        }
        assert!(!message.contains("panicked"), "{message}");
        std::fs::write(&file, whole).unwrap();
    };
    let mut description = fixtures::json(&task.file("a/artifact/artifact.json"));
    description["task"]["labels"].as_array_mut().unwrap().pop();
    damaged(
        "artifact.json",
        description.to_string().as_bytes(),
        &["prompt.toml", "words for 3 labels", "the 2 labels of"],
    );
    let prompt = std::fs::read_to_string(task.file("a/artifact/prompt.toml")).unwrap();
    damaged(
        "prompt.toml",
        prompt.replace("text }}", "body }}").as_bytes(),
        &["uses `body`", "known fields are `text`"],
    );
    let head = |labels: usize, width: usize| {
        let (weight, bias) = (vec![0; 4 * labels * width], vec![0; 4 * labels]);
        let view = |shape, bytes| {
            safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape, bytes).unwrap()
        };
        let views = [
            ("weight", view(vec![labels, width], &weight)),
            ("bias", view(vec![labels], &bias)),
        ];
        safetensors::serialize(views, None).unwrap()
    };
    let width = fixtures::json(&task.file("model/config.json"))["hidden_size"]
        .as_u64()
        .unwrap() as usize;
    for (labels, wide) in [(3, width - 1), (2, width)] {
        let (expected, found) = (format!("[3, {width}]"), format!("[{labels}, {wide}]"));
        let parts = ["3 labels", "weight", &expected, &found];
        damaged("head.safetensors", &head(labels, wide), &parts);
    }
}

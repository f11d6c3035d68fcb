//! A whole task in a temporary folder: a tiny encoder of the fixtures with a tokenizer of its own,
//! three labels that key words tell apart, and a recipe that runs in about a second.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::fixtures;

const LABELS: [(&str, [&str; 4]); 3] = [
    ("card_lost", ["card", "lost", "stolen", "wallet"]),
    ("cash_fee", ["cash", "fee", "charge", "money"]),
    ("new_phone", ["phone", "number", "mobile", "change"]),
];

const FILLERS: [&str; 8] = ["my", "the", "is", "a", "please", "help", "why", "question"];

/// A task on disk; removed when dropped.
pub(crate) struct TinyTask {
    folder: TempDir,
}

impl TinyTask {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let task = Self { folder };
        task.write_model();
        task.write_data("fit.jsonl", 8, 0);
        task.write_data("select.jsonl", 3, 100);
        task.write_data("report.jsonl", 6, 200);
        std::fs::write(task.recipe(), RECIPE).unwrap();
        task
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn recipe(&self) -> PathBuf {
        self.path().join("recipe.toml")
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// Replaces text in the recipe; fails when it is not there.
    pub(crate) fn edit_recipe(&self, old: &str, new: &str) {
        let text = std::fs::read_to_string(self.recipe()).unwrap();
        assert!(text.contains(old), "{old:?} is not in the recipe");
        std::fs::write(self.recipe(), text.replace(old, new)).unwrap();
    }

    /// `hybrid train` of this task into `out`.
    pub(crate) fn train(&self, out: &str) -> Command {
        let mut command = hybrid();
        command
            .arg("train")
            .arg(self.recipe())
            .arg("--out")
            .arg(self.file(out));
        command
    }

    fn write_model(&self) {
        let source =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/adapters/bert/model");
        let model = self.file("model");
        std::fs::create_dir(&model).unwrap();
        for name in ["config.json", "model.safetensors"] {
            std::fs::copy(source.join(name), model.join(name)).unwrap();
        }
        let config = fixtures::json(&model.join("config.json"));
        let size = config["vocab_size"].as_u64().unwrap() as usize;
        std::fs::write(model.join("tokenizer.json"), tokenizer(size).to_string()).unwrap();
    }

    fn write_data(&self, name: &str, per_label: usize, offset: usize) {
        let mut text = String::new();
        for index in 0..per_label {
            for (place, (label, words)) in LABELS.iter().enumerate() {
                let n = offset + index * 7 + place;
                let (first, second) = (words[n % 4], words[(n / 4 + 1) % 4]);
                let (a, b) = (FILLERS[n % 8], FILLERS[(n / 3 + 2) % 8]);
                let line = json!({"text": format!("{a} {first} {b} {second}"), "label": label});
                writeln!(text, "{line}").unwrap();
            }
        }
        std::fs::write(self.file(name), text).unwrap();
    }
}

/// The built `hybrid` command, on the device under test.
pub(crate) fn hybrid() -> Command {
    Command::new(assert_cmd::cargo::cargo_bin!("hybrid"))
}

/// A WordPiece tokenizer over the task's words with `size` entries.
fn tokenizer(size: usize) -> Value {
    let mut words: Vec<String> = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        .map(str::to_owned)
        .into();
    words.extend(
        LABELS
            .iter()
            .flat_map(|(_, words)| words.iter().map(|word| (*word).to_owned())),
    );
    words.extend(FILLERS.iter().map(|word| (*word).to_owned()));
    words.extend(["new", "customer", ":", "about"].map(str::to_owned));
    assert!(
        words.len() <= size,
        "the fixture's vocabulary is too small for this task"
    );
    let vocabulary: serde_json::Map<String, Value> = words
        .into_iter()
        .enumerate()
        .map(|(id, word)| (word, json!(id)))
        .collect();
    let special = |id: usize, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    };
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [special(0, "[PAD]"), special(1, "[UNK]"), special(2, "[CLS]"), special(3, "[SEP]"),
                         special(4, "[MASK]")],
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
                       "strip_accents": null, "lowercase": true},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                       {"SpecialToken": {"id": "[SEP]", "type_id": 0}}],
            "pair": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                     {"SpecialToken": {"id": "[SEP]", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}},
                     {"SpecialToken": {"id": "[SEP]", "type_id": 1}}],
            "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [2], "tokens": ["[CLS]"]},
                               "[SEP]": {"id": "[SEP]", "ids": [3], "tokens": ["[SEP]"]}}
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 100, "vocab": vocabulary}
    })
}

const RECIPE: &str = r#"name = "tiny"
task = "text_classification"
seed = 3

[base]
model = "model"
max_length = 16

[data]
folder = "."
fit = "fit.jsonl"
select = "select.jsonl"
report = "report.jsonl"

[target]
metric = "accuracy"
value = 1.0

[[stages]]
kind = "prompt"
templates = ["{{ text }}", "customer question: {{ text }}"]

[[stages]]
kind = "adapter"
name = "lora"
methods = [{ method = "lora", r = 2, lora_alpha = 4, lora_dropout = 0.1, target_modules = ["query", "value"] }]
epochs = 4
batch_size = 4
checkpoint_every = 3
optimizer = { kind = "adamw", lr = 0.01 }
schedule = { kind = "linear", warmup_ratio = 0.1 }

[[stages]]
kind = "prompt"
name = "prompt-again"
templates = ["{{ text }}", "customer question: {{ text }}"]
"#;

//! A whole task in a temporary folder: a tiny encoder with a tokenizer of its own, three labels that
//! key words tell apart, and a recipe that runs in about a second.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use assert_cmd::Command;
use assert_cmd::assert::Assert;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::tiny_model;

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

    /// The same task for a small Llama: its label words are tokens.
    pub(crate) fn language() -> Self {
        let task = Self::new();
        tiny_model::write_llama(&task.file("llama"), &words());
        std::fs::write(task.recipe(), LANGUAGE_RECIPE).unwrap();
        task
    }

    /// A task whose answers are texts: the first two words of the input.
    pub(crate) fn texts() -> Self {
        let task = Self::language();
        std::fs::write(task.recipe(), TEXT_RECIPE).unwrap();
        for (name, n, offset) in [
            ("fit.jsonl", 8, 0),
            ("select.jsonl", 3, 100),
            ("report.jsonl", 4, 200),
        ] {
            let mut text = String::new();
            for (sentence, _) in rows(n, offset) {
                let mut words = sentence.splitn(3, ' ');
                let wanted = [words.next().unwrap(), words.next().unwrap()].join(" ");
                let line = json!({"text": sentence, "label": wanted, "all": [wanted, sentence]});
                writeln!(text, "{line}").unwrap();
            }
            std::fs::write(task.file(name), text).unwrap();
        }
        task
    }

    /// The same classes over a small T5 that answers with label words.
    pub(crate) fn answers() -> Self {
        let task = Self::language();
        tiny_model::write_t5(&task.file("t5"), &words());
        task.edit_recipe("model = \"llama\"", "model = \"t5\"");
        task.edit_recipe("\"chat\"", "\"plain\"");
        task.edit_recipe(", layers_to_transform = [1]", "");
        task
    }

    /// The same texts over a small T5.
    pub(crate) fn translation() -> Self {
        let task = Self::texts();
        tiny_model::write_t5(&task.file("t5"), &words());
        task.edit_recipe("model = \"llama\"", "model = \"t5\"");
        task.edit_recipe("r = 4, lora_alpha = 8", "r = 8, lora_alpha = 16");
        task.edit_recipe("epochs = 6", "epochs = 40\nevaluate_every = 20");
        task
    }

    /// The same texts over a small T5 that nothing has trained.
    pub(crate) fn from_scratch() -> Self {
        let task = Self::texts();
        tiny_model::write_untrained_t5(&task.file("t5"), &words());
        std::fs::write(task.recipe(), SCRATCH_RECIPE).unwrap();
        task
    }

    /// Questions that the encoder answers out of passages: the two key words that stand together.
    pub(crate) fn passages() -> Self {
        let task = Self::new();
        std::fs::write(task.recipe(), PASSAGE_RECIPE).unwrap();
        for (name, n, offset) in [
            ("fit.jsonl", 24, 0),
            ("select.jsonl", 4, 100),
            ("report.jsonl", 4, 200),
        ] {
            let mut text = String::new();
            for (row, (sentence, _)) in rows(n, offset).into_iter().enumerate() {
                let words: Vec<&str> = sentence.split(' ').collect();
                let answer = format!("{} {}", words[1], words[3]);
                // Some passages are longer than a window, and no byte is where its character is.
                let before = format!("Äö {} ", FILLERS[row % 8]).repeat(1 + row % 7);
                let start = before.chars().count();
                let context = format!("{before}{answer} {}", words[2]);
                let line = json!({"question": "which question ?", "context": context,
                                  "answers": [{"text": answer, "start": start}]});
                writeln!(text, "{line}").unwrap();
            }
            std::fs::write(task.file(name), text).unwrap();
        }
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

    /// Trains into `out` with kills, later and later, so that every part of the run is hit and the run
    /// still ends.
    pub(crate) fn train_through_kills(&self, out: &str) {
        let mut kills = 0;
        for attempt in 0..80 {
            let mut child = std::process::Command::new(assert_cmd::cargo::cargo_bin!("hybrid"))
                .arg("train")
                .arg(self.recipe())
                .arg("--out")
                .arg(self.file(out))
                .stderr(std::fs::File::create(self.file("messages")).unwrap())
                .spawn()
                .unwrap();
            std::thread::sleep(Duration::from_secs_f64(0.003 * 1.15f64.powi(attempt)));
            if let Some(status) = child.try_wait().unwrap() {
                let messages = std::fs::read_to_string(self.file("messages")).unwrap();
                assert!(status.success(), "{messages}");
                break;
            }
            child.kill().unwrap();
            child.wait().unwrap();
            kills += 1;
        }
        assert!(kills >= 3, "the run was killed {kills} times only");
    }

    /// What the recipe with these settings is refused for; nothing is written.
    pub(crate) fn refusal(&self, settings: &[&str]) -> String {
        let mut command = self.train("refused");
        for setting in settings {
            command.args(["--set", setting]);
        }
        let said = messages(&command.assert().code(2));
        assert!(!self.file("refused").exists(), "{said}");
        said
    }

    fn write_model(&self) {
        tiny_model::write(&self.file("model"), &words());
    }

    /// Labelled rows in JSONL; another offset gives other rows.
    pub(crate) fn write_data(&self, name: &str, per_label: usize, offset: usize) {
        let mut text = String::new();
        for (sentence, label) in rows(per_label, offset) {
            let line = json!({"text": sentence, "label": label});
            writeln!(text, "{line}").unwrap();
        }
        std::fs::write(self.file(name), text).unwrap();
    }
}

/// All words of the task.
fn words() -> Vec<&'static str> {
    let labels = LABELS.iter().flat_map(|(_, words)| words.iter().copied());
    let others = FILLERS.into_iter().chain(["new", "customer", ":", "about"]);
    labels.chain(others).collect()
}

/// Sentences with their labels.
pub(crate) fn rows(per_label: usize, offset: usize) -> Vec<(String, &'static str)> {
    let mut rows = Vec::new();
    for index in 0..per_label {
        for (place, (label, words)) in LABELS.iter().enumerate() {
            let n = offset + index * 7 + place;
            let (first, second) = (words[n % 4], words[(n / 4 + 1) % 4]);
            let (a, b) = (FILLERS[n % 8], FILLERS[(n / 3 + 2) % 8]);
            rows.push((format!("{a} {first} {b} {second}"), *label));
        }
    }
    rows
}

/// The `hybrid` command that `HYBRID_PROGRAM` names, else the built one, on the device under test.
pub(crate) fn hybrid() -> Command {
    let built = || assert_cmd::cargo::cargo_bin!("hybrid").into();
    Command::new(std::env::var_os("HYBRID_PROGRAM").unwrap_or_else(built))
}

/// What a command said on standard error.
pub(crate) fn messages(assert: &Assert) -> String {
    String::from_utf8_lossy(&assert.get_output().stderr).into_owned()
}

/// What a command printed on standard output.
pub(crate) fn printed(assert: &Assert) -> String {
    String::from_utf8(assert.get_output().stdout.clone()).unwrap()
}

/// What `hybrid predict` answers to each line, with its likeliest labels.
pub(crate) fn predictions(artifact: &Path, lines: &str, top_k: usize) -> Vec<Value> {
    let output = hybrid()
        .args(["predict", "--top-k", &top_k.to_string()])
        .arg(artifact)
        .write_stdin(lines)
        .assert()
        .success();
    let answer = |line: &str| serde_json::from_str(line).unwrap();
    printed(&output).lines().map(answer).collect()
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

const LANGUAGE_RECIPE: &str = r#"name = "tiny-language"
task = "text_classification"
seed = 3

[base]
model = "llama"
max_length = 64

[data]
folder = "."
fit = "fit.jsonl"
select = "select.jsonl"
report = "report.jsonl"

[prompt]
template = "customer : {{ text }} about :"
label_words = { card_lost = ["lost", "wallet"], cash_fee = ["fee"], new_phone = ["mobile"] }

[[stages]]
kind = "prompt"
instructions = ["", "please help"]
formats = ["plain", "chat"]
demonstrations = [{ kind = "none" }, { kind = "balanced", n = 3 }, { kind = "nearest", n = 2 }]
strategy = { kind = "halving" }

[[stages]]
kind = "adapter"
name = "lora"
methods = [{ method = "lora", r = 4, lora_alpha = 8, lora_dropout = 0.1, target_modules = "all-linear", layers_to_transform = [1] }]
epochs = 10
batch_size = 4
checkpoint_every = 3
optimizer = { kind = "adamw", lr = 0.02 }

[[stages]]
kind = "prompt"
name = "prompt-again"
demonstrations = [{ kind = "none" }]
"#;

const TEXT_RECIPE: &str = r#"name = "tiny-texts"
task = "translation"
seed = 3
compare_on_report = true
generation = { max_tokens = 4 }

[base]
model = "llama"
max_length = 64

[data]
folder = "."
fit = "fit.jsonl"
select = "select.jsonl"
report = "report.jsonl"
references = "all"
report_shots = 10

[[stages]]
kind = "prompt"
instructions = ["", "please help"]
strategy = { kind = "exhaustive" }

[[stages]]
kind = "adapter"
name = "lora"
methods = [{ method = "lora", r = 4, lora_alpha = 8, target_modules = "all-linear" }]
epochs = 6
batch_size = 8
optimizer = { kind = "adamw", lr = 0.02 }
"#;

const SCRATCH_RECIPE: &str = r#"name = "tiny-scratch"
task = "translation"
seed = 3
generation = { max_tokens = 4 }

[base]
model = "t5"
init = "random"
max_length = 64

[data]
folder = "."
fit = "fit.jsonl"
select = "select.jsonl"
report = "report.jsonl"

[prompt]
template = "{{ text }}"

[[stages]]
kind = "adapter"
name = "all"
methods = [{ method = "unfreeze", modules = ".*" }]
epochs = 12
evaluate_every = 4
batch_size = 8
optimizer = { kind = "adamw", lr = 0.01 }
"#;

const PASSAGE_RECIPE: &str = r#"name = "tiny-passages"
task = "question_answering"
seed = 3
compare_on_report = true
passages = { stride = 3, max_answer_length = 4 }

[base]
model = "model"
max_length = 16

[data]
folder = "."
fit = "fit.jsonl"
select = "select.jsonl"
report = "report.jsonl"
fields = { question = "question", context = "context" }
references = "answers"

[[stages]]
kind = "adapter"
name = "head"
epochs = 6
batch_size = 8
optimizer = { kind = "adamw", lr = 0.05 }

[[stages]]
kind = "adapter"
name = "lora"
methods = [{ method = "lora", r = 4, lora_alpha = 8, lora_dropout = 0.1, target_modules = "all-linear" }]
epochs = 12
batch_size = 8
checkpoint_every = 3
optimizer = { kind = "adamw", lr = 0.02 }
"#;

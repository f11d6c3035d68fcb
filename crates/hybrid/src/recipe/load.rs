//! Reads a recipe file into a [`Recipe`].

use std::path::{Component, Path, PathBuf};

use serde_json::Value;

use super::check::{Fault, RecipeFaults, check};
use super::places::Places;
use super::set::set;
use super::{ChooseBy, Recipe, StageConfig};

/// Why a recipe cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecipeError {
    /// The file cannot be read.
    #[error("{path}: the recipe cannot be read: {source}")]
    Read {
        /// The recipe file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{path}: not a TOML file: {source}")]
    Syntax {
        /// The recipe file.
        path: PathBuf,
        /// Where and why.
        source: toml::de::Error,
    },
    /// The file is TOML but no recipe.
    #[error(transparent)]
    Faults(#[from] RecipeFaults),
}

/// A recipe and where its keys stand.
#[derive(Debug, Clone)]
pub(crate) struct RecipeFile {
    pub(crate) recipe: Recipe,
    pub(crate) places: Places,
}

/// The JSON Schema of a recipe, for editors.
pub fn schema() -> Value {
    schemars::schema_for!(Recipe).to_value()
}

/// Reads a recipe and applies `--set` pairs to it. `data.folder` becomes absolute: in the file it
/// is relative to the file, in a `--set` to the current folder. So does the path of a base that is
/// there, beside the file or in the current folder.
///
/// # Errors
/// [`RecipeError`]; all faults of the file are reported together.
pub fn load(path: &Path, settings: &[(String, String)]) -> Result<Recipe, RecipeError> {
    Ok(load_file(path, settings)?.recipe)
}

/// As [`load`], with the places of the keys.
pub(crate) fn load_file(
    path: &Path,
    settings: &[(String, String)],
) -> Result<RecipeFile, RecipeError> {
    let mut file = read(path, settings)?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let root = |key: &str| match settings.iter().any(|(set, _)| set == key) {
        true => Path::new(""),
        false => folder,
    };
    let data = &mut file.recipe.data;
    data.folder = absolute(&root("data.folder").join(&data.folder));
    let model = &mut file.recipe.base.model;
    let found = [root("base.model"), Path::new("")]
        .map(|root| root.join(&*model))
        .into_iter()
        .find(|path| holds_model(path));
    if let Some(path) = found {
        *model = absolute(&path).to_string_lossy().into_owned();
    }
    Ok(file)
}

/// Whether a model lies at a path; any other name may be a hub id.
fn holds_model(path: &Path) -> bool {
    let is_gguf = |path: &Path| {
        path.extension()
            .is_some_and(|extension| extension == "gguf")
    };
    let holds_gguf = || {
        std::fs::read_dir(path)
            .is_ok_and(|entries| entries.flatten().any(|entry| is_gguf(&entry.path())))
    };
    path.join("config.json").is_file() || path.is_file() && is_gguf(path) || holds_gguf()
}

/// Reads a recipe that a run has stored: its paths are absolute already.
///
/// # Errors
/// [`RecipeError`].
pub fn load_resolved(path: &Path) -> Result<Recipe, RecipeError> {
    Ok(read(path, &[])?.recipe)
}

/// The path from the root without `.` and `..`, also where nothing lies.
fn absolute(path: &Path) -> PathBuf {
    let Ok(path) = std::path::absolute(path) else {
        return path.to_owned();
    };
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                clean.pop();
            }
            part => clean.push(part),
        }
        // A link is followed before a `..` behind it.
        if let Ok(followed) = clean.canonicalize() {
            clean = followed;
        }
    }
    clean
}

fn read(path: &Path, settings: &[(String, String)]) -> Result<RecipeFile, RecipeError> {
    let source = std::fs::read_to_string(path).map_err(|source| RecipeError::Read {
        path: path.to_owned(),
        source,
    })?;
    let syntax = |source| RecipeError::Syntax {
        path: path.to_owned(),
        source,
    };
    let mut value: Value = toml::from_str(&source).map_err(syntax)?;
    let places = Places::new(path, source, settings);

    let mut faults = Vec::new();
    for (key, text) in settings {
        if let Err(message) = set(&mut value, key, text) {
            faults.push(Fault {
                line: None,
                key: key.clone(),
                message,
            });
        }
    }
    faults.extend(check(&schema(), &value, &places));
    if !faults.is_empty() {
        return Err(places.refuse(faults).into());
    }
    let recipe: Recipe = serde_json::from_value(value)
        .map_err(|error| places.refuse(vec![places.fault("", error.to_string())]))?;
    let faults = contradictions(&recipe, &places);
    if !faults.is_empty() {
        return Err(places.refuse(faults).into());
    }
    Ok(RecipeFile { recipe, places })
}

/// Faults that no schema can see.
fn contradictions(recipe: &Recipe, places: &Places) -> Vec<Fault> {
    let mut faults = Vec::new();
    match (&recipe.data.select, recipe.data.select_fraction) {
        (None, None) => {
            faults.push(places.fault("data", "one of `select` and `select_fraction` is needed"));
        }
        (Some(_), Some(_)) => {
            let message = "`select` and `select_fraction` exclude each other";
            faults.push(places.fault("data.select_fraction", message));
        }
        _ => {}
    }
    if let Some(target) = recipe.target
        && !recipe.task.metrics().contains(&target.metric)
    {
        let known: Vec<&str> = recipe
            .task
            .metrics()
            .iter()
            .map(|metric| metric.name())
            .collect();
        let message = format!("not a figure of this task; it has {}", known.join(", "));
        faults.push(places.fault("target.metric", message));
    }
    if recipe.data.fields.is_empty() {
        faults.push(places.fault("data.fields", "at least one field is needed"));
    }
    for (index, stage) in recipe.stages.iter().enumerate() {
        let name = stage.name();
        if let Some(first) = recipe.stages[..index]
            .iter()
            .position(|earlier| earlier.name() == name)
        {
            let message = format!("the stages {first} and {index} are both called `{name}`");
            faults.push(places.fault(&format!("stages.{index}.name"), message));
        }
        if let StageConfig::Prompt(config) = stage
            && config.margin > 0.0
            && recipe.choose_by == ChooseBy::Metric
        {
            let message =
                "a margin of log-loss; it wants `choose_by` to be `log_loss` or `scaled_log_loss`";
            faults.push(places.fault(&format!("stages.{index}.margin"), message));
        }
    }
    if recipe.choose_by == ChooseBy::ScaledLogLoss && recipe.task.text_task().is_some() {
        let message = "`scaled_log_loss` is for labels; where answers are texts, use `log_loss`";
        faults.push(places.fault("choose_by", message));
    }
    faults
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use hybrid_adapters::AdapterConfig;

    use super::{RecipeError, load, load_file};
    use crate::recipe::StageConfig;

    const RECIPE: &str = r#"name = "a"
task = "text_classification"

[base]
model = "model"

[data]
folder = "."
fit = "fit.jsonl"
select = "select.jsonl"
report = "report.jsonl"

[[stages]]
kind = "adapter"
epochs = 1
batch_size = 4
optimizer = { kind = "sgd", lr = 0.1 }
methods = [{ method = "lora", rank_pattern = { query = 4, "layer.0" = 2, attention = 3 } }]
"#;

    fn written(text: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("recipe.toml");
        std::fs::write(&path, text).unwrap();
        (folder, path)
    }

    fn faults(text: &str) -> String {
        let (_folder, path) = written(text);
        match load(&path, &[]).unwrap_err() {
            RecipeError::Faults(faults) => faults.to_string(),
            other => panic!("{other}"),
        }
    }

    /// The first pattern that matches decides, so the order is part of the recipe.
    #[test]
    fn patterns_keep_the_order_of_the_file() {
        let (_folder, path) = written(RECIPE);
        let recipe = load(&path, &[]).unwrap();
        let again = toml::to_string_pretty(&recipe).unwrap();
        std::fs::write(&path, again).unwrap();
        for recipe in [recipe, load(&path, &[]).unwrap()] {
            let StageConfig::Adapter(stage) = &recipe.stages[0] else {
                panic!("an adapter stage was written");
            };
            let AdapterConfig::Lora(lora) = &stage.methods[0] else {
                panic!("LoRA was written");
            };
            let patterns = serde_json::to_string(&lora.rank_pattern).unwrap();
            assert_eq!(patterns, r#"{"query":4,"layer.0":2,"attention":3}"#);
        }
    }

    #[test]
    fn contradictions_have_their_own_lines() {
        let prompt = "\n[[stages]]\nkind = \"prompt\"\nname = \"adapter\"\n";
        let text = RECIPE.replace("report = ", "select_fraction = 0.2\nreport = ") + prompt;
        let faults = faults(&text);
        assert!(
            faults.contains("recipe.toml:11: data.select_fraction"),
            "{faults}"
        );
        assert!(faults.contains("recipe.toml:23: stages.1.name"), "{faults}");
    }

    #[test]
    fn a_kind_or_method_that_is_wrong_or_missing_lists_those_that_exist() {
        let cases = [
            (
                "kind = \"adapter\"",
                "kind = \"adaptor\"",
                "recipe.toml:14: stages.0.kind: expected one of \"prompt\", \"adapter\"; found \"adaptor\"",
            ),
            (
                "kind = \"adapter\"",
                "",
                "stages.0: the key `kind` is missing; it is one of \"prompt\", \"adapter\"",
            ),
            (
                "method = \"lora\"",
                "method = \"laro\"",
                "stages.0.methods.0.method: expected one of \"lora\", ",
            ),
            (
                "{ kind = \"sgd\", lr = 0.1 }",
                "\"sgd\"",
                "stages.0.optimizer: expected a table with the key `kind`, one of \"adamw\", ",
            ),
            (
                "name = \"a\"",
                "name = \"a\"\nchoose_by = \"f1\"",
                "choose_by: expected one of \"metric\", \"log_loss\", \"scaled_log_loss\"; found \"f1\"",
            ),
        ];
        for (old, new, expected) in cases {
            assert!(RECIPE.contains(old), "{old}");
            let faults = faults(&RECIPE.replace(old, new));
            assert!(faults.contains(expected), "{faults}");
            assert!(faults.contains(": 1 fault "), "{faults}");
        }
    }

    #[test]
    fn an_unknown_key_that_is_nearly_a_known_one_says_so() {
        for (old, new, expected) in [
            (
                "epochs = 1",
                "epoch = 1",
                "stages.0.epoch: unknown key; did you mean `epochs`?",
            ),
            (
                "lr = 0.1",
                "lr = 0.1, momentun = 0.9",
                "momentun: unknown key; did you mean `momentum`?",
            ),
            (
                "rank_pattern",
                "rank_patern",
                "rank_patern: unknown key; did you mean `rank_pattern`?",
            ),
            (
                "fit = ",
                "shot = 4\nfit = ",
                "data.shot: unknown key; did you mean `shots`?",
            ),
            (
                "name = \"a\"",
                "name = \"a\"\nsede = 1",
                "sede: unknown key; did you mean `seed`?",
            ),
            (
                "name = \"a\"",
                "name = \"a\"\ncolour = 1",
                "colour: unknown key\n",
            ),
        ] {
            let faults = faults(&RECIPE.replace(old, new)) + "\n";
            assert!(faults.contains(expected), "{faults}");
        }
    }

    #[test]
    fn a_wrong_kind_of_a_setting_has_no_line() {
        let (_folder, path) = written(RECIPE);
        let set = ("stages.0.kind".to_owned(), "promt".to_owned());
        let faults = load(&path, &[set]).unwrap_err().to_string();
        assert!(
            faults.contains("--set stages.0.kind: expected one of"),
            "{faults}"
        );
    }

    #[test]
    fn names_that_lead_out_of_their_folder_are_refused() {
        for name in [
            "", "..", ".", "a/b", "a\\\\b", "../a", "a..b", ".hidden", "a\\n",
        ] {
            let faults = faults(&RECIPE.replace("\"a\"", &format!("\"{name}\"")));
            assert!(
                faults.contains("recipe.toml:1: name: expected"),
                "{name}: {faults}"
            );
            let stage = format!("epochs = 1\nname = \"{name}\"");
            let faults = self::faults(&RECIPE.replace("epochs = 1", &stage));
            assert!(
                faults.contains("recipe.toml:16: stages.0.name"),
                "{name}: {faults}"
            );
        }
        for name in ["banking77", "prompt-2", "v1.5", "größe 2", "a_b"] {
            let (_folder, path) = written(&RECIPE.replace("\"a\"", &format!("\"{name}\"")));
            assert_eq!(load(&path, &[]).unwrap().name, name);
        }
    }

    #[test]
    fn a_folder_that_is_missing_has_a_clean_path() {
        let (folder, path) = written(&RECIPE.replace("\".\"", "\"./there/../not/../data/x\""));
        let real = folder.path().canonicalize().unwrap();
        let found = || load(&path, &[]).unwrap().data.folder;
        assert_eq!(found(), real.join("data/x"));
        std::fs::create_dir_all(folder.path().join("elsewhere/deep")).unwrap();
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink("elsewhere/deep", folder.path().join("there")).unwrap();
            assert_eq!(found(), real.join("elsewhere/data/x"));
        }
    }

    #[test]
    fn a_base_that_is_there_becomes_absolute() {
        let (folder, path) = written(RECIPE);
        let model =
            |settings: &[(String, String)]| load_file(&path, settings).unwrap().recipe.base.model;
        assert_eq!(model(&[]), "model", "it may be a hub id");
        std::fs::create_dir(folder.path().join("model")).unwrap();
        std::fs::write(folder.path().join("model/config.json"), "{}").unwrap();
        let absolute = folder.path().join("model").canonicalize().unwrap();
        assert_eq!(Path::new(&model(&[])), absolute);
        let set = ("base.model".to_owned(), "src".to_owned());
        assert_eq!(model(&[set]), "src", "no model lies in the current folder");
    }
}

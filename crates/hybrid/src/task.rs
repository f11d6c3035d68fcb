//! The examples of a run: fit, select and report with their labels, each from rows of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use hybrid_data::{
    Example, FieldMapping, Fractions, LabelSet, Splits, files_of, k_shot, read_examples, sample,
    split,
};
use hybrid_eval::SharedTexts;
use hybrid_prompts::{GenerateOptions, LabelScoring};
use serde::{Deserialize, Serialize};

use crate::HybridError;
use crate::artifact::ArtifactDescription;
use crate::recipe::{DataConfig, PassageConfig, Recipe, Task, is_default};

/// One split with the label index of each example, where there are labels.
#[derive(Debug, Clone)]
pub(crate) struct Split {
    pub(crate) examples: Vec<Example>,
    pub(crate) targets: Vec<usize>,
}

impl Split {
    /// Examples with the index of each label; without labels, of none.
    ///
    /// # Errors
    /// [`HybridError::Data`] for a label that is not among `labels`.
    pub(crate) fn new(examples: Vec<Example>, labels: &LabelSet) -> Result<Self, HybridError> {
        let targets = match labels.is_empty() {
            true => Vec::new(),
            false => labels.targets(&examples)?,
        };
        Ok(Self { examples, targets })
    }

    /// All right texts of each example.
    pub(crate) fn references(&self) -> Vec<Vec<String>> {
        let examples = self.examples.iter();
        examples.map(|example| example.references.clone()).collect()
    }

    /// The template fields of each example.
    pub(crate) fn fields(&self) -> impl Iterator<Item = &BTreeMap<String, String>> {
        self.examples.iter().map(|example| &example.fields)
    }
}

/// What is asked of the model, and how it answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskSettings {
    /// What has to be done.
    pub kind: Task,
    /// The labels in class order; none where answers are texts.
    pub labels: LabelSet,
    /// How a language model's label words are scored.
    pub scoring: LabelScoring,
    /// How a language model writes answers that are texts.
    pub generation: GenerateOptions,
    /// How an encoder that answers questions reads passages.
    #[serde(default, skip_serializing_if = "is_default")]
    pub passages: PassageConfig,
}

impl TaskSettings {
    /// How label words are scored. The base as it is is calibrated. A state that has been trained is
    /// not: training has taken the bias away, and of the inputs that it was trained on it is too sure
    /// to be calibrated by them.
    pub(crate) fn scoring_of(&self, is_trained: bool) -> LabelScoring {
        match is_trained {
            true => self.scoring.clone().without_calibration(),
            false => self.scoring.clone(),
        }
    }
}

/// The three splits: train on fit, choose on select, show report once at the end.
#[derive(Debug, Clone)]
pub(crate) struct TaskData {
    pub(crate) task: TaskSettings,
    pub(crate) fit: Split,
    pub(crate) select: Split,
    pub(crate) report: Split,
    pub(crate) out_of_scope: Vec<Example>,
    pub(crate) second_report: Option<Split>,
}

impl TaskData {
    /// Reads all files of a recipe.
    ///
    /// # Errors
    /// [`HybridError::Data`] with file, line and field; also for a label that fit has never seen.
    pub(crate) fn read(recipe: &Recipe) -> Result<Self, HybridError> {
        let (config, seed) = (&recipe.data, recipe.seed);
        let missing: Vec<String> = config
            .files()
            .filter(|(_, file)| !config.folder.join(file).exists())
            .map(|(key, file)| format!("data.{key}: {} does not exist", file.display()))
            .collect();
        if !missing.is_empty() {
            return Err(HybridError::NoData {
                folder: config.folder.clone(),
                missing,
            });
        }
        let mapping = config.mapping();
        let unlabelled = FieldMapping {
            fields: config.fields.clone(),
            label: None,
            references: None,
        };
        let read = |file: &std::path::Path| read_examples(&config.folder.join(file), &mapping);

        let has_labels = recipe.task.text_task().is_none();
        let mut fit = read(&config.fit)?;
        let mut select = match &config.select {
            Some(file) => read(file)?,
            None => Vec::new(),
        };
        if let Some(fraction) = config.select_fraction {
            let seed = hybrid_data::derive_seed(seed, "data/select");
            let fractions = Fractions {
                select: fraction,
                report: 0.0,
            };
            Splits { fit, select, .. } = split(fit, fractions, seed, has_labels)?;
        }
        fit = keep(fit, config.shots, seed, "data/shots", has_labels)?;
        select = keep(
            select,
            config.select_shots,
            seed,
            "data/select_shots",
            has_labels,
        )?;
        let report = report_examples(config, seed, has_labels)?;
        let labels = match recipe.task.text_task() {
            Some(_) => LabelSet::default(),
            None => LabelSet::of(&fit)?,
        };
        let scoring = match has_labels {
            true => recipe.scoring.label_scoring(&fit, seed)?,
            false => LabelScoring::default(),
        };
        let with_targets = |examples| Split::new(examples, &labels);
        Ok(Self {
            fit: with_targets(fit)?,
            select: with_targets(select)?,
            report: with_targets(report)?,
            second_report: config
                .second_report
                .as_deref()
                .map(|file| with_targets(read(file)?))
                .transpose()?,
            out_of_scope: match &config.out_of_scope {
                Some(file) => read_examples(&config.folder.join(file), &unlabelled)?,
                None => Vec::new(),
            },
            task: TaskSettings {
                kind: recipe.task,
                labels,
                scoring,
                generation: recipe.generation.clone(),
                passages: recipe.passages.clone(),
            },
        })
    }

    /// How many examples have a text that another split has as well.
    pub(crate) fn shared_texts(&self) -> SharedTexts {
        let shared = |split: &Split, other: &Split| {
            let texts: BTreeSet<_> = other.fields().collect();
            split.fields().filter(|text| texts.contains(text)).count()
        };
        SharedTexts {
            select_in_fit: shared(&self.select, &self.fit),
            report_in_fit: shared(&self.report, &self.fit),
            report_in_select: shared(&self.report, &self.select),
        }
    }
}

/// The report split of an artifact's own run.
///
/// # Errors
/// [`HybridError::Data`] with file, line and field.
pub(crate) fn report_split(artifact: &ArtifactDescription) -> Result<Split, HybridError> {
    let labels = &artifact.task.labels;
    let examples = report_examples(&artifact.data, artifact.seed, !labels.is_empty())?;
    Split::new(examples, labels)
}

fn report_examples(
    config: &DataConfig,
    seed: u64,
    has_labels: bool,
) -> Result<Vec<Example>, HybridError> {
    let examples = read_examples(&config.folder.join(&config.report), &config.mapping())?;
    keep(
        examples,
        config.report_shots,
        seed,
        "data/report_shots",
        has_labels,
    )
}

/// So many examples of each label, or in all where there are no labels.
fn keep(
    examples: Vec<Example>,
    shots: Option<usize>,
    seed: u64,
    event: &str,
    has_labels: bool,
) -> Result<Vec<Example>, HybridError> {
    let seed = hybrid_data::derive_seed(seed, event);
    match shots {
        None => Ok(examples),
        Some(shots) if has_labels => Ok(k_shot(examples, shots, Some(seed))?),
        Some(shots) => Ok(sample(examples, shots, seed)),
    }
}

/// Files that two labelled splits would both read: the later split's key, and what is wrong.
///
/// # Errors
/// [`HybridError::Data`] for a file that is not there.
pub(crate) fn shared_files(
    config: &DataConfig,
) -> Result<Vec<(&'static str, String)>, HybridError> {
    let mut readers: BTreeMap<PathBuf, &str> = BTreeMap::new();
    let mut shared = Vec::new();
    for (key, file) in config.files().filter(|(key, _)| *key != "out_of_scope") {
        for file in files_of(&config.folder.join(file))? {
            // One file may have many names.
            let file = file.canonicalize().unwrap_or(file);
            if let Some(other) = readers.get(&file) {
                let message = format!(
                    "{} is read by data.{other} already; each split needs rows of its own",
                    file.display()
                );
                shared.push((key, message));
            } else {
                readers.insert(file, key);
            }
        }
    }
    Ok(shared)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::{TaskData, shared_files};
    use crate::recipe::{DataConfig, Recipe};

    fn config(folder: &Path, rest: &str) -> DataConfig {
        toml::from_str(&format!("folder = {folder:?}\nfit = \"fit.jsonl\"\n{rest}")).unwrap()
    }

    fn write(folder: &Path, name: &str, texts: &[&str]) {
        let row = |text: &&str| format!("{{\"text\": \"{text}\", \"label\": \"a\"}}\n");
        let rows: String = texts.iter().map(row).collect();
        std::fs::write(folder.join(name), rows).unwrap();
    }

    #[test]
    fn a_file_serves_one_split_only() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        write(folder, "fit.jsonl", &["one"]);
        std::fs::create_dir(folder.join("more")).unwrap();
        write(folder, "more/report.jsonl", &["two"]);
        let keys = |rest: &str| -> Vec<&str> {
            let shared = shared_files(&config(folder, rest)).unwrap();
            shared.into_iter().map(|(key, _)| key).collect()
        };
        assert_eq!(keys("select_fraction = 0.2\nreport = \"more\""), [""; 0]);
        assert_eq!(
            keys("select = \"more/../fit.jsonl\"\nreport = \"more\""),
            ["select"]
        );
        assert_eq!(
            keys("select = \"more\"\nreport = \"more/report.jsonl\"\nout_of_scope = \"fit.jsonl\""),
            ["report"]
        );
    }

    #[test]
    fn equal_texts_are_counted() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        write(folder, "fit.jsonl", &["one", "two"]);
        write(folder, "select.jsonl", &["two", "three"]);
        write(
            folder,
            "report.jsonl",
            &["one", "two", "two", "three", "four"],
        );
        let config = config(
            folder,
            "select = \"select.jsonl\"\nreport = \"report.jsonl\"",
        );
        let recipe: Recipe = serde_json::from_value(json!({
            "name": "a",
            "task": "text_classification",
            "base": {"model": "none"},
            "data": config,
            "stages": [],
        }))
        .unwrap();
        let shared = TaskData::read(&recipe).unwrap().shared_texts();
        assert_eq!(
            (
                shared.select_in_fit,
                shared.report_in_fit,
                shared.report_in_select
            ),
            (1, 3, 3)
        );
    }
}

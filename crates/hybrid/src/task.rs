//! The examples of a run: fit, select and report with their labels, each from rows of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use hybrid_data::{
    Example, FieldMapping, Fractions, LabelSet, Splits, files_of, k_shot, read_examples, split,
};
use hybrid_eval::SharedTexts;
use hybrid_prompts::LabelScoring;
use serde::{Deserialize, Serialize};

use crate::HybridError;
use crate::recipe::{DataConfig, Recipe};

/// One split with the label index of each example.
#[derive(Debug, Clone)]
pub(crate) struct Split {
    pub(crate) examples: Vec<Example>,
    pub(crate) targets: Vec<usize>,
}

impl Split {
    /// The template fields of each example.
    pub(crate) fn fields(&self) -> impl Iterator<Item = &BTreeMap<String, String>> {
        self.examples.iter().map(|example| &example.fields)
    }
}

/// What is asked of the model, and how it answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskSettings {
    /// The labels in class order.
    pub labels: LabelSet,
    /// How a language model's label words are scored.
    pub scoring: LabelScoring,
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
        let mapping = FieldMapping {
            fields: config.fields.clone(),
            label: Some(config.label.clone()),
        };
        let unlabelled = FieldMapping {
            fields: config.fields.clone(),
            label: None,
        };
        let read = |file: &std::path::Path| read_examples(&config.folder.join(file), &mapping);

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
            Splits { fit, select, .. } = split(fit, fractions, seed, true)?;
        }
        if let Some(shots) = config.shots {
            fit = k_shot(
                fit,
                shots,
                Some(hybrid_data::derive_seed(seed, "data/shots")),
            )?;
        }
        if let Some(shots) = config.select_shots {
            let seed = hybrid_data::derive_seed(seed, "data/select_shots");
            select = k_shot(select, shots, Some(seed))?;
        }
        let labels = LabelSet::of(&fit)?;
        let with_targets = |examples: Vec<Example>| -> Result<Split, HybridError> {
            let targets = labels.targets(&examples)?;
            Ok(Split { examples, targets })
        };
        Ok(Self {
            fit: with_targets(fit)?,
            select: with_targets(select)?,
            report: with_targets(read(&config.report)?)?,
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
                labels,
                scoring: recipe.scoring.clone(),
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
        let shared = TaskData::read(&config, 0).unwrap().shared_texts();
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

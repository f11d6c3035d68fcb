//! The recipe: one TOML file that describes a run completely.
//!
//! A run is reproducible from recipe + data + seed. Unknown keys are refused, and all faults of a
//! file are reported at once with their lines ([`RecipeFaults`]).

mod check;
mod load;
mod passages;
mod places;
mod scoring;
mod set;
mod stages;
mod task;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use hybrid_data::FieldMapping;
use hybrid_eval::higher_is_better;
use hybrid_models::{Pooling, WeightFormat};
use hybrid_prompts::{GenerateOptions, Prompt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use check::{Fault, RecipeFaults};
pub use load::{RecipeError, load, load_resolved, schema};
pub(crate) use load::{RecipeFile, load_file};
pub use passages::PassageConfig;
pub(crate) use places::Places;
pub use scoring::{CalibrationConfig, ScoringConfig};
pub use stages::{
    AdapterStage, AdapterVariant, Halving, HeadInit, HeadStage, PromptStage, StageConfig,
};
pub use task::{Metric, Task};

/// What a recipe or stage may be called: its name becomes the name of a folder.
pub(crate) const NAME_PATTERN: &str = r"^[\p{L}\p{N}_](\.?[\p{L}\p{N}_ -])*$";
/// The pattern in words.
pub(crate) const NAME_RULE: &str =
    "letters, digits, `_`, and within them spaces, `-` and single dots";

/// A run, described.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// What this run is called; names the run folder when none is given.
    #[schemars(regex(pattern = NAME_PATTERN))]
    pub name: String,
    /// What the model has to do.
    pub task: Task,
    /// The one source of randomness.
    #[serde(default)]
    pub seed: u64,
    /// The frozen base model.
    pub base: BaseConfig,
    /// The examples.
    pub data: DataConfig,
    /// When to stop searching and training.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Target>,
    /// What decides among candidates on the select split.
    #[serde(default)]
    pub choose_by: ChooseBy,
    /// How a language model's label words are scored.
    #[serde(default, skip_serializing_if = "is_default")]
    pub scoring: ScoringConfig,
    /// How a language model writes answers that are texts.
    #[serde(default, skip_serializing_if = "is_default")]
    pub generation: GenerateOptions,
    /// How an encoder that answers questions reads passages.
    #[serde(default, skip_serializing_if = "is_default")]
    pub passages: PassageConfig,
    /// Also score all other candidates on the report split, and compare the winner with them there.
    #[serde(default, skip_serializing_if = "is_default")]
    pub compare_on_report: bool,
    /// The prompt to start from. Left out: the fields as they are and the labels as they read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<Prompt>,
    /// What may be spent.
    #[serde(default)]
    pub budget: Budget,
    /// One round of work, in order.
    #[schemars(length(min = 1))]
    pub stages: Vec<StageConfig>,
}

/// The frozen base model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BaseConfig {
    /// A folder in the Hugging Face layout, or a hub id.
    pub model: String,
    /// Where its weights come from.
    #[serde(default, skip_serializing_if = "is_default")]
    pub init: BaseInit,
    /// Longest input in tokens, special tokens included; longer texts are cut on the right.
    #[serde(default = "default_max_length")]
    #[schemars(range(min = 3))]
    pub max_length: usize,
    /// How weights are held in memory.
    #[serde(default, skip_serializing_if = "is_default")]
    pub dtype: WeightFormat,
    /// How token vectors become one text vector when label words are compared with inputs.
    #[serde(default = "default_pooling")]
    pub pooling: Pooling,
}

/// Where the weights of a base come from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BaseInit {
    /// Its files.
    #[default]
    Pretrained,
    /// The run's seed, as before any training: of a T5, by its `config.json` alone. An adapter stage
    /// whose method unfreezes every module trains the whole of it.
    Random,
}

fn default_max_length() -> usize {
    128
}

/// Keys that are left as they are do not appear in the recipe of a run.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn default_pooling() -> Pooling {
    Pooling::Mean
}

/// Where the examples are and how they are divided.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// Folder of the files below; relative to the recipe file.
    pub folder: PathBuf,
    /// Examples to train on (JSONL, CSV, Parquet, or a folder of such files).
    pub fit: PathBuf,
    /// Examples to choose on. Left out: `select_fraction` of the fit examples.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub select: Option<PathBuf>,
    /// Share of the fit examples, drawn by label, to choose on when `select` is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.01, max = 0.5))]
    pub select_fraction: Option<f64>,
    /// Examples of the final figure, read once at the end.
    pub report: PathBuf,
    /// Examples of no known label: does the confidence tell them apart?
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub out_of_scope: Option<PathBuf>,
    /// A second labelled report set from another source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub second_report: Option<PathBuf>,
    /// Keep this many fit examples a label, or in all where there are no labels, drawn with the seed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub shots: Option<usize>,
    /// The same of the select examples.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub select_shots: Option<usize>,
    /// The same of the report examples.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub report_shots: Option<usize>,
    /// Template field name to column name.
    #[serde(default = "default_fields")]
    pub fields: BTreeMap<String, String>,
    /// Column of the label, or of the wanted text. Left out: `label`, or with `references` none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Column of all right texts, where there may be several; the first one is learned unless
    /// `label` names a column.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub references: Option<String>,
}

impl DataConfig {
    /// Of examples with a text and a label, none of which are known.
    pub(crate) fn of_text_column() -> Self {
        Self {
            folder: PathBuf::new(),
            fit: PathBuf::new(),
            select: None,
            select_fraction: None,
            report: PathBuf::new(),
            out_of_scope: None,
            second_report: None,
            shots: None,
            select_shots: None,
            report_shots: None,
            fields: default_fields(),
            label: None,
            references: None,
        }
    }

    /// Which columns are read.
    pub(crate) fn mapping(&self) -> FieldMapping {
        FieldMapping {
            fields: self.fields.clone(),
            label: match (&self.label, &self.references) {
                (None, None) => Some("label".to_owned()),
                (label, _) => label.clone(),
            },
            references: self.references.clone(),
        }
    }

    /// The keys of all files or folders of examples with their paths, relative to the folder.
    pub(crate) fn files(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        [
            ("fit", Some(&self.fit)),
            ("select", self.select.as_ref()),
            ("report", Some(&self.report)),
            ("out_of_scope", self.out_of_scope.as_ref()),
            ("second_report", self.second_report.as_ref()),
        ]
        .into_iter()
        .filter_map(|(key, file)| Some((key, file?.as_path())))
    }
}

fn default_fields() -> BTreeMap<String, String> {
    BTreeMap::from([("text".to_owned(), "text".to_owned())])
}

/// What decides among candidates on the select split.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ChooseBy {
    /// The target's figure (accuracy without a target), and among equals the log-loss.
    #[default]
    Metric,
    /// The log-loss, and among equals the figure: on a small split, where one more right answer is
    /// chance, the probabilities still tell candidates apart.
    LogLoss,
    /// The log-loss after temperature scaling on select (Guo et al. 2017), and among equals the
    /// figure; for labels. It then stands as the log-loss of select in the report. A few hundred examples make a trained state too sure, which the plain
    /// log-loss holds against it though its answers are as good.
    ScaledLogLoss,
}

/// The wanted quality, measured on the select split.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// Which figure.
    pub metric: Metric,
    /// Stop as soon as a candidate reaches this value.
    #[schemars(range(min = 0.0, max = 100.0))]
    pub value: f64,
}

impl Target {
    /// Whether a value of the figure is as good as wanted.
    pub(crate) fn is_reached(self, value: f64) -> bool {
        match higher_is_better(self.metric.name()) {
            true => value >= self.value,
            false => value <= self.value,
        }
    }
}

/// What may be spent. Checked before work starts, and between steps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Budget {
    /// Wall-clock minutes of search and training, over all resumptions. What a kill broke off
    /// counts up to the last trial or checkpoint; of a baseline, the last try alone counts.
    #[schemars(range(min = 0.0))]
    pub max_minutes: Option<f64>,
    /// Tokens that the base may read while searching and training.
    pub max_tokens: Option<u64>,
    /// Rounds over the stages.
    #[schemars(range(min = 1))]
    pub max_rounds: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            max_minutes: None,
            max_tokens: None,
            max_rounds: 1,
        }
    }
}

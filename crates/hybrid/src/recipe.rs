//! The recipe: one TOML file that describes a run completely.
//!
//! A run is reproducible from recipe + data + seed. Unknown keys are refused, and all faults of a
//! file are reported at once with their lines ([`RecipeFaults`]).

mod check;
mod load;
mod places;
mod set;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use hybrid_adapters::{AdapterConfig, HeadConfig};
use hybrid_data::FieldMapping;
use hybrid_eval::{TextTask, higher_is_better};
use hybrid_models::Pooling;
use hybrid_optim::{EarlyStoppingConfig, GroupConfig, OptimizerConfig, ScheduleConfig};
use hybrid_prompts::{
    DemonstrationChoice, GenerateOptions, InstructionProposals, LabelScoring, Prompt, PromptFormat,
    SearchStrategy, TaskKind,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use check::{Fault, RecipeFaults};
pub use load::{RecipeError, load, load_resolved, schema};
pub(crate) use load::{RecipeFile, load_file};
pub(crate) use places::Places;

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
    pub scoring: LabelScoring,
    /// How a language model writes answers that are texts.
    #[serde(default, skip_serializing_if = "is_default")]
    pub generation: GenerateOptions,
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

/// What the model has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// One label of a fixed set for each text.
    TextClassification,
    /// A short answer to a question, as a rule out of a passage.
    QuestionAnswering,
    /// The text in another language.
    Translation,
    /// The gist of the text.
    Summarization,
}

impl Task {
    /// How answers are measured that are texts; none for a classification.
    pub fn text_task(self) -> Option<TextTask> {
        match self {
            Self::TextClassification => None,
            Self::QuestionAnswering => Some(TextTask::QuestionAnswering),
            Self::Translation => Some(TextTask::Translation),
            Self::Summarization => Some(TextTask::Summarization),
        }
    }

    /// What prompts are proposed for.
    pub(crate) fn kind(self) -> TaskKind {
        match self {
            Self::TextClassification => TaskKind::Classification,
            Self::QuestionAnswering => TaskKind::QuestionAnswering,
            Self::Translation => TaskKind::Translation,
            Self::Summarization => TaskKind::Summarization,
        }
    }

    /// Its figures, the deciding one first.
    pub(crate) fn metrics(self) -> &'static [Metric] {
        match self {
            Self::TextClassification => &[Metric::Accuracy, Metric::MacroF1, Metric::Mcc],
            Self::QuestionAnswering => &[Metric::F1, Metric::ExactMatch],
            Self::Translation => &[Metric::Chrf, Metric::Bleu, Metric::Ter],
            Self::Summarization => &[Metric::Rouge1, Metric::Rouge2, Metric::RougeL],
        }
    }
}

/// The frozen base model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BaseConfig {
    /// A folder in the Hugging Face layout, or a hub id.
    pub model: String,
    /// Longest input in tokens, special tokens included; longer texts are cut on the right.
    #[serde(default = "default_max_length")]
    #[schemars(range(min = 3))]
    pub max_length: usize,
    /// How token vectors become one text vector when label words are compared with inputs.
    #[serde(default = "default_pooling")]
    pub pooling: Pooling,
}

fn default_max_length() -> usize {
    128
}

/// Keys that are left as they are do not appear in the recipe of a run.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
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
    /// Column of the label, or of the wanted text.
    #[serde(default = "default_label")]
    pub label: String,
    /// Column of all right texts, where there may be several; the first one is learned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub references: Option<String>,
}

impl DataConfig {
    /// Which columns are read.
    pub(crate) fn mapping(&self) -> FieldMapping {
        FieldMapping {
            fields: self.fields.clone(),
            label: Some(self.label.clone()),
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

fn default_label() -> String {
    "label".to_owned()
}

/// A figure of the select split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Share of right answers.
    Accuracy,
    /// F1 averaged over the classes.
    MacroF1,
    /// Matthews correlation coefficient.
    Mcc,
    /// Answers: words in common with the wanted ones, in percent.
    F1,
    /// Answers: share of those that are as wanted, in percent.
    ExactMatch,
    /// Translations: character n-grams in common with the references, in percent.
    Chrf,
    /// Translations: word n-grams in common with the references, in percent.
    Bleu,
    /// Translations: edits to the nearest reference in percent of its length; the less the better.
    Ter,
    /// Summaries: words in common with the reference.
    Rouge1,
    /// Summaries: pairs of words in common with the reference.
    Rouge2,
    /// Summaries: the longest common subsequence of words.
    #[serde(rename = "rougeL")]
    RougeL,
}

impl Metric {
    /// The name that people read.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::MacroF1 => "macro F1",
            Self::Mcc => "MCC",
            Self::F1 => "F1",
            Self::ExactMatch => "exact match",
            Self::Chrf => "chrF",
            Self::Bleu => "BLEU",
            Self::Ter => "TER",
            Self::Rouge1 => "ROUGE-1",
            Self::Rouge2 => "ROUGE-2",
            Self::RougeL => "ROUGE-L",
            Self::Accuracy => self.name(),
        }
    }

    /// The name in recipes and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Accuracy => "accuracy",
            Self::MacroF1 => "macro_f1",
            Self::Mcc => "mcc",
            Self::F1 => "f1",
            Self::ExactMatch => "exact_match",
            Self::Chrf => "chrf",
            Self::Bleu => "bleu",
            Self::Ter => "ter",
            Self::Rouge1 => "rouge1",
            Self::Rouge2 => "rouge2",
            Self::RougeL => "rougeL",
        }
    }
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
    /// Wall-clock minutes of search and training, over all resumptions; of a baseline or prompt
    /// stage that was broken off, the last try alone counts.
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

/// One step of a round.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum StageConfig {
    /// Search the prompt.
    Prompt(PromptStage),
    /// Train the adapter.
    Adapter(AdapterStage),
}

impl StageConfig {
    /// What the stage is called in journal and report.
    pub fn name(&self) -> &str {
        match self {
            Self::Prompt(stage) => &stage.name,
            Self::Adapter(stage) => &stage.name,
        }
    }
}

/// Search over templates x label words, and for a language model over instructions, formats and
/// demonstrations too.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PromptStage {
    /// What the stage is called in journal and report.
    #[serde(default = "default_prompt_name")]
    #[schemars(regex(pattern = NAME_PATTERN))]
    pub name: String,
    /// Templates to try, e.g. `customer question: {{ text }}`. Left out: a built-in list.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub templates: Vec<String>,
    /// Patterns that make label words of label names, e.g. `a question about {{ label }}`; each
    /// entry is one choice, a list of patterns whose vectors are averaged. Left out: built-in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub label_patterns: Vec<Vec<String>>,
    /// Label words given by hand: label to words.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub label_words: BTreeMap<String, Vec<String>>,
    /// Instructions to try, an empty one for none. Left out: a built-in list for the task. This and
    /// the keys down to `max_tokens` are for language models.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub instructions: Vec<String>,
    /// How the parts become one text. Left out: plain.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub formats: Vec<PromptFormat>,
    /// How answered examples are chosen that the prompt shows. Left out: none are shown.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub demonstrations: Vec<DemonstrationChoice>,
    /// Whole choices of label words beside those of the patterns: label to words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub more_label_words: Vec<BTreeMap<String, Vec<String>>>,
    /// Instructions that are proposed beside those above.
    #[serde(default, skip_serializing_if = "is_default")]
    pub proposals: InstructionProposals,
    /// Most tokens that the search may have the model read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_tokens: Option<u64>,
    /// How the space is searched.
    #[serde(default)]
    pub strategy: SearchStrategy,
    /// How many of the prompts with the highest accuracy on fit are scored on select, where
    /// `choose_by` decides among them.
    #[serde(default = "default_shortlist")]
    #[schemars(range(min = 1))]
    pub shortlist: usize,
}

fn default_prompt_name() -> String {
    "prompt".to_owned()
}

fn default_shortlist() -> usize {
    3
}

/// Train a stack of adapters and a classifier head over the frozen base.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AdapterStage {
    /// What the stage is called in journal and report.
    #[serde(default = "default_adapter_name")]
    #[schemars(regex(pattern = NAME_PATTERN))]
    pub name: String,
    /// Adapters in stacking order. Empty trains the head alone; adapters that an earlier stage
    /// trained stay active and frozen.
    #[serde(default)]
    pub methods: Vec<AdapterConfig>,
    /// The classifier head.
    #[serde(default)]
    pub head: HeadStage,
    /// The update rule.
    pub optimizer: OptimizerConfig,
    /// How the rate moves.
    #[serde(default)]
    pub schedule: ScheduleConfig,
    /// Parameters with a rate or decay of their own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<GroupConfig>,
    /// Passes over the fit examples.
    #[schemars(range(min = 1))]
    pub epochs: usize,
    /// Examples an update.
    #[schemars(range(min = 1))]
    pub batch_size: usize,
    /// Padded tokens of one forward; a larger batch is accumulated in pieces.
    #[serde(default = "default_max_tokens")]
    #[schemars(range(min = 1))]
    pub max_tokens: usize,
    /// Bound of the gradient's L2 norm over all trained parameters; none when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0))]
    pub max_grad_norm: Option<f64>,
    /// Share of the target probability spread over all labels.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 0.9))]
    pub label_smoothing: f64,
    /// Taken off the right label's logit while training: the right label must win by this much
    /// (additive margin softmax, Wang et al. 2018).
    #[serde(default)]
    #[schemars(range(min = 0.0))]
    pub margin: f64,
    /// Chance that a token of a training example is hidden from attention and pooling in the trained
    /// layers; the first token is always seen.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 0.9))]
    pub token_dropout: f64,
    /// At the end, states on the way from the start to the best state are tried too, each at this
    /// share of the way; the best on select wins (weight-space ensembling, Wortsman et al. 2022).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(inner(range(min = 0.0, max = 1.0)))]
    pub interpolate: Vec<f64>,
    /// Also train on the label words, as examples of their labels.
    #[serde(default)]
    pub train_on_label_words: bool,
    /// Score on select after every this many epochs; the best state is kept.
    #[serde(default = "default_evaluate_every")]
    #[schemars(range(min = 1))]
    pub evaluate_every: usize,
    /// Stop when select no longer improves in what `choose_by` names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub early_stopping: Option<EarlyStoppingConfig>,
    /// Updates between two log lines.
    #[serde(default = "default_log_every")]
    #[schemars(range(min = 1))]
    pub log_every: usize,
    /// Updates between two checkpoints.
    #[serde(default = "default_checkpoint_every")]
    #[schemars(range(min = 1))]
    pub checkpoint_every: usize,
}

fn default_adapter_name() -> String {
    "adapter".to_owned()
}

fn default_max_tokens() -> usize {
    2048
}

fn default_evaluate_every() -> usize {
    1
}

fn default_log_every() -> usize {
    10
}

fn default_checkpoint_every() -> usize {
    25
}

/// The classifier head of an adapter stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HeadStage {
    /// How token vectors become the vector that is classified.
    pub pooling: Pooling,
    /// Whether that vector is scaled to unit length first.
    pub normalize: bool,
    /// Length of each class vector at the start when `init` gives directions: the inverse
    /// temperature of the first softmax.
    #[schemars(range(min = 0.0))]
    pub scale: f64,
    /// Where the class vectors start.
    pub init: HeadInit,
}

impl HeadStage {
    /// How the head reads text vectors.
    pub(crate) fn config(&self) -> HeadConfig {
        HeadConfig {
            pooling: self.pooling,
            normalize: self.normalize,
            scale: self.scale,
        }
    }
}

impl Default for HeadStage {
    fn default() -> Self {
        Self {
            pooling: Pooling::Mean,
            normalize: true,
            scale: 20.0,
            init: HeadInit::LabelWords,
        }
    }
}

/// Where the class vectors of a head start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HeadInit {
    /// The embedded label words of the chosen prompt: training starts at the prompt's accuracy.
    LabelWords,
    /// The mean of each class's embedded fit examples.
    Centroids,
    /// The mean of the two directions above.
    LabelWordsAndCentroids,
    /// Small random values.
    Random,
}

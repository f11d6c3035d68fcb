//! The report of a run: what was tried, what won, what it cost and how far to trust it.
//!
//! One [`Report`] is told in three ways: `report.json` for programs, `report.html` for people and
//! a model card for whoever finds the artifact. What is told is text; writing it is the caller's.

pub(crate) mod card;
mod format;
mod html;
mod json;
mod lineage;
mod plot;
#[cfg(test)]
mod sample;
#[cfg(test)]
mod text_sample;
pub(crate) mod texts;

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{
    Calibration, ClassFigures, ConfusionMatrix, Cost, EvalError, Generalisation, PairedComparison,
};
use card::CardDetails;
use texts::TextReport;

/// Everything worth knowing about a finished run. Field order is the order in `report.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Name of the task.
    pub task: String,
    /// Device that the run used.
    pub device: String,
    /// Folder or hub id of the base model.
    pub base: String,
    /// The one source of randomness.
    pub seed: u64,
    /// What was to be reached.
    pub target: Option<TargetReport>,
    /// Why the rounds ended, in words.
    pub stopped: String,
    /// The examples.
    pub data: DataSummary,
    /// The rounds in order.
    pub rounds: Vec<RoundReport>,
    /// All candidates in the order of their making, the baseline first.
    pub candidates: Vec<CandidateReport>,
    /// The winner on the report split; `final` in JSON.
    #[serde(rename = "final")]
    pub final_result: Final,
    /// Cost of the whole run.
    pub cost: Cost,
    /// How far the result holds elsewhere.
    pub generalisation: Generalisation,
    /// Paired comparisons between candidates.
    pub comparisons: Vec<Comparison>,
    /// The way of each stage that searched a prompt.
    #[serde(default)]
    pub searches: Vec<SearchCurve>,
    /// Loss curve of each stage that trained.
    pub curves: Vec<TrainingCurve>,
    /// Errors of the winner on the report split; none where answers are texts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confusion: Option<ConfusionReport>,
    /// Trust in the winner's confidence on the report split; none where answers are texts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<Calibration>,
    /// What the winner wrote on the report split; none where answers are labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub texts: Option<TextReport>,
    /// What it takes to make the run again.
    pub provenance: Provenance,
}

/// The wanted quality on select.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TargetReport {
    /// The figure.
    pub metric: String,
    /// The wanted value.
    pub value: f64,
    /// Whether a candidate reached it on select.
    pub reached: bool,
}

/// Sizes of the three splits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DataSummary {
    /// What the data set is called or where it is.
    pub source: String,
    /// Number of labels; 0 where answers are texts.
    pub labels: usize,
    /// Examples to train on.
    pub fit: usize,
    /// Examples to choose on.
    pub select: usize,
    /// Examples of the final figure.
    pub report: usize,
    /// Examples whose text stands in another split too.
    pub shared_texts: SharedTexts,
}

/// How many examples have a text, with all its fields, that another split has as well.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedTexts {
    /// Select examples with a text of fit.
    pub select_in_fit: usize,
    /// Report examples with a text of fit.
    pub report_in_fit: usize,
    /// Report examples with a text of select.
    pub report_in_select: usize,
}

/// One pass over the stages.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RoundReport {
    /// Counted from 1.
    pub round: usize,
    /// Its stages in order.
    pub stages: Vec<StageReport>,
}

/// One stage of a round.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StageReport {
    /// Name of the stage.
    pub stage: String,
    /// The candidate that it made.
    pub candidate: String,
    /// Whether that candidate became the best so far.
    pub adopted: bool,
}

/// A prompt with, perhaps, an adapter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CandidateReport {
    /// Name, unique in the run.
    pub id: String,
    /// The stage that made it.
    pub stage: String,
    /// Counted from 1; 0 for the baseline.
    pub round: usize,
    /// The candidate that it was made from.
    pub parent: Option<String>,
    /// Whether it was the best on select when it was made.
    pub adopted: bool,
    /// The text part.
    pub prompt: PromptSummary,
    /// The tensor part.
    pub adapter: Option<AdapterSummary>,
    /// Figures on select by name.
    pub select: BTreeMap<String, f64>,
    /// Cost of its stage.
    pub cost: Cost,
}

/// The text part of a candidate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PromptSummary {
    /// Stable name of the prompt.
    pub id: String,
    /// What a language model is told to do; empty for nothing.
    #[serde(default)]
    pub instruction: String,
    /// The template around the input.
    pub template: String,
    /// How a language model's answer opens; empty where it opens as it likes.
    #[serde(default)]
    pub answer_start: String,
    /// Answered examples that are shown, or to choose from.
    #[serde(default)]
    pub demonstrations: usize,
    /// Words that stand for each label; none where answers are texts.
    pub label_words: BTreeMap<String, Vec<String>>,
}

/// The tensor part of a candidate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AdapterSummary {
    /// Configuration of each method in stacking order, with its name under `method`.
    pub methods: Vec<serde_json::Value>,
    /// Configuration of the classifier head.
    pub head: Option<serde_json::Value>,
    /// Number of trained values.
    pub trainable_parameters: u64,
}

/// The winner on the report split.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Final {
    /// Its name.
    pub candidate: String,
    /// The deciding figure.
    pub metric: String,
    /// Its value.
    pub value: f64,
    /// Its bootstrap 95 % interval.
    pub interval: [f64; 2],
    /// All figures by name.
    pub per_metric: BTreeMap<String, f64>,
    /// Bootstrap 95 % intervals by name, for the figures that have one.
    pub intervals: BTreeMap<String, [f64; 2]>,
}

/// Two candidates on the same examples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// The candidate whose lead is measured.
    pub a: String,
    /// The candidate that it is compared with.
    pub b: String,
    /// The split of the examples.
    pub split: String,
    /// The figure.
    pub metric: String,
    /// The difference `a - b` and how sure it is.
    #[serde(flatten)]
    pub result: PairedComparison,
}

/// How a prompt search went.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SearchCurve {
    /// The candidate that it made.
    pub candidate: String,
    /// What a search spends: `tokens` of a language model, `texts` of an encoder.
    pub unit: String,
    /// Which figure decided between prompts: `accuracy` or `log_loss`.
    pub decides: String,
    /// The best prompt so far after each trial.
    pub points: Vec<SearchPoint>,
}

impl SearchCurve {
    /// The figure that decided.
    pub fn value(&self, point: &SearchPoint) -> f64 {
        match self.decides.as_str() {
            "log_loss" => point.log_loss,
            _ => point.accuracy,
        }
    }
}

/// The best prompt that a search had found when it had spent so much.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct SearchPoint {
    /// What the model had read.
    pub spent: u64,
    /// On how many fit examples the prompt had been scored. More of them may bring lower figures.
    pub sample: usize,
    /// Its share of right answers there, or what its answers are worth.
    pub accuracy: f64,
    /// Its mean negative log-probability of what was wanted there, in nats.
    pub log_loss: f64,
}

/// How a training stage went.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainingCurve {
    /// The candidate that was trained.
    pub candidate: String,
    /// One point an update.
    pub points: Vec<CurvePoint>,
}

/// One update.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct CurvePoint {
    /// Updates so far, this one included.
    pub step: usize,
    /// Mean loss over the batch.
    pub loss: f64,
    /// Rate of this update.
    pub learning_rate: f64,
    /// L2 norm of the gradient before clipping.
    pub grad_norm: f64,
}

/// Actual against predicted labels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConfusionReport {
    /// The labels in class order.
    pub labels: Vec<String>,
    /// One row an actual label, one column a predicted one.
    pub counts: Vec<Vec<u64>>,
    /// Figures of each label, in class order.
    pub per_class: Vec<ClassFigures>,
}

impl ConfusionReport {
    /// Names the classes of a matrix.
    ///
    /// # Errors
    /// [`EvalError::Length`] unless there is one label a class.
    pub fn of(labels: Vec<String>, matrix: &ConfusionMatrix) -> Result<Self, EvalError> {
        crate::metrics::check_rows("labels", matrix.n_classes(), labels.len())?;
        Ok(Self {
            labels,
            counts: matrix.rows(),
            per_class: matrix.per_class(),
        })
    }
}

/// What it takes to make the run again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// Versions of programs and libraries by name.
    pub versions: BTreeMap<String, String>,
    /// Commit of the program, when it was built from a repository.
    pub commit: Option<String>,
    /// The resolved recipe.
    pub recipe: String,
}

impl Report {
    /// The text of `report.json`.
    ///
    /// # Errors
    /// [`EvalError::NotJson`] if a figure is not finite.
    pub fn to_json(&self) -> Result<String, EvalError> {
        json::to_text(self)
    }

    /// Reads a `report.json`.
    ///
    /// # Errors
    /// [`EvalError::Read`] or [`EvalError::Format`].
    pub fn read_json(path: &Path) -> Result<Self, EvalError> {
        let read = std::fs::read(path).map_err(|source| EvalError::Read {
            path: path.to_owned(),
            source,
        })?;
        serde_json::from_slice(&read).map_err(|source| EvalError::Format {
            path: path.to_owned(),
            source,
        })
    }

    /// The text of `report.html`: one page without scripts that needs no network.
    ///
    /// # Errors
    /// [`EvalError::Plot`] or [`EvalError::Template`].
    pub fn to_html(&self) -> Result<String, EvalError> {
        html::render(self)
    }

    /// The model card: Markdown with the front matter of model hubs.
    ///
    /// # Errors
    /// [`EvalError::Template`].
    pub fn to_card(&self, details: &CardDetails) -> Result<String, EvalError> {
        card::render(self, details)
    }

    /// The report as JSON with every clock time and memory size set to null: what two runs of the
    /// same recipe and seed have in common.
    pub fn without_times(&self) -> serde_json::Value {
        json::without_times(self)
    }

    /// The candidate with this name.
    pub fn candidate(&self, id: &str) -> Option<&CandidateReport> {
        self.candidates.iter().find(|candidate| candidate.id == id)
    }
}

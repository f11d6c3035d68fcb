//! What has to be done, and the figures that measure it.

use hybrid_eval::TextTask;
use hybrid_prompts::TaskKind;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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

//! RoBERTa (Liu et al. 2019), as `transformers.RobertaModel` computes it: BERT's layers with
//! positions that start after the padding id.
//!
//! Deviations: as [`bert`](crate::bert).

use crate::ModelError;
use crate::architecture::{EncoderPlan, Task};
use crate::bert;
use crate::config_file::ConfigFile;
use crate::encoder::PositionRule;

/// Classes of Transformers with the task of each.
pub(crate) const CLASSES: [(&str, Task); 5] = [
    ("RobertaModel", Task::Headless),
    (
        "RobertaForSequenceClassification",
        Task::SequenceClassification,
    ),
    ("RobertaForMaskedLM", Task::MaskedLm),
    ("RobertaForTokenClassification", Task::TokenClassification),
    ("RobertaForQuestionAnswering", Task::SpanAnswering),
];

/// Reads the configuration.
pub(crate) fn plan(config: &ConfigFile) -> Result<EncoderPlan, ModelError> {
    let pad_id = config.id_or("pad_token_id", 1)?;
    bert::plan_with(config, PositionRule::AfterPadding { pad_id })
}

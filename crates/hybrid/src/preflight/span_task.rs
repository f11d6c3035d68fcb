//! What would make questions over passages fail that an encoder is to answer.

use hybrid_data::{DataError, PassageReader};

use super::Faults;
use crate::error::describe;
use crate::local_model::LocalModel;
use crate::recipe::{AdapterStage, HeadStage, Recipe, StageConfig};
use crate::spans::{self, PASSAGE, QUESTION};
use crate::task::TaskData;

pub(super) fn check(faults: &mut Faults<'_>, recipe: &Recipe, data: &TaskData, model: &LocalModel) {
    let fields = recipe.data.fields.keys().map(String::as_str);
    if !fields.eq([PASSAGE, QUESTION]) {
        faults.add(
            "data.fields",
            format!(
                "an encoder answers a question out of a passage; it reads the fields `{PASSAGE}` \
                and `{QUESTION}`, no others"
            ),
        );
        return;
    }
    if recipe.prompt.is_some() {
        faults.add(
            "prompt",
            "an encoder reads question and passage as they are, without a template",
        );
    }
    if recipe.data.out_of_scope.is_some() {
        faults.add(
            "data.out_of_scope",
            "answers out of passages have no labels that anything could be outside of",
        );
    }
    for (index, stage) in recipe.stages.iter().enumerate() {
        if matches!(stage, StageConfig::Prompt(_)) {
            faults.add(
                &format!("stages.{index}"),
                "there is no prompt to search: an encoder reads question and passage as they are; \
                leave the stage out, or name a language model as base.model",
            );
        }
    }
    if let Err(error) = PassageReader::new(&model.tokenizer, recipe.passages.stride) {
        let key = match error {
            DataError::Stride { .. } => "passages.stride",
            _ => "base.max_length",
        };
        faults.add(key, describe(&error));
        return;
    }
    let second = data.second_report.as_ref();
    let splits = [
        ("data.fit", Some(&data.fit), true),
        ("data.select", Some(&data.select), true),
        ("data.report", Some(&data.report), false),
        ("data.second_report", second, false),
    ];
    for (key, split, needs_answers) in splits {
        let examples = split.map(|split| split.examples.as_slice());
        let labelled =
            spans::labelled_windows(model, &recipe.passages, examples.unwrap_or_default());
        if let Some(labelled) = faults.expect(key, labelled)
            && labelled.is_empty()
            && needs_answers
        {
            faults.add(
                key,
                format!("no answer stands in the field `{PASSAGE}` of its example"),
            );
        }
    }
}

/// What an adapter stage with a span head cannot have.
pub(super) fn check_stage(faults: &mut Faults<'_>, key: &str, config: &AdapterStage) {
    let parts = [
        (
            "head",
            config.head != HeadStage::default(),
            "answers out of passages have a span head, which has no settings",
        ),
        (
            "label_smoothing",
            config.label_smoothing > 0.0,
            "answers out of passages have no labels",
        ),
        (
            "train_on_label_words",
            config.train_on_label_words,
            "answers out of passages have no label words",
        ),
    ];
    for (part, is_there, message) in parts {
        if is_there {
            faults.add(&format!("{key}.{part}"), message);
        }
    }
}

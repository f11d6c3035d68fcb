//! What would make a run pointless, found before it begins.

use std::collections::{BTreeMap, BTreeSet};

use hybrid_adapters::Adapters;
use hybrid_prompts::Template;

use crate::HybridError;
use crate::local_model::LocalModel;
use crate::recipe::{AdapterStage, Recipe, StageConfig};
use crate::stage::prompt::space;
use crate::task::TaskData;

/// Refuses a run that cannot succeed, with the remedy.
///
/// # Errors
/// [`HybridError`] of the crate whose rule is broken, or [`HybridError::Preflight`].
pub(crate) fn check(
    recipe: &Recipe,
    data: &TaskData,
    model: &LocalModel,
) -> Result<(), HybridError> {
    let positions = model.base.encoder.max_positions();
    if recipe.base.max_length > positions {
        return Err(HybridError::Preflight {
            what: format!(
                "base.max_length is {} but the base reads at most {positions} tokens",
                recipe.base.max_length
            ),
            remedy: format!("set base.max_length to {positions} or less"),
        });
    }
    for (name, split) in [
        ("fit", &data.fit),
        ("select", &data.select),
        ("report", &data.report),
    ] {
        if split.examples.is_empty() {
            return Err(HybridError::Preflight {
                what: format!("the {name} split is empty"),
                remedy: "give it examples, or change data.select_fraction or data.shots".to_owned(),
            });
        }
    }
    if data.labels.len() < 2 {
        return Err(HybridError::Preflight {
            what: "the fit examples have one label only".to_owned(),
            remedy: "a classification needs two".to_owned(),
        });
    }
    let mut earlier: Option<&AdapterStage> = None;
    for stage in &recipe.stages {
        match stage {
            StageConfig::Prompt(config) => {
                let space = space(recipe, data, config)?;
                let fields: BTreeSet<String> = recipe.data.fields.keys().cloned().collect();
                for prompt in space.prompts() {
                    room_for_input(&prompt.template, &fields, recipe, model)?;
                    words_differ(&prompt.label_words)?;
                }
            }
            StageConfig::Adapter(config) => {
                Adapters::init(&config.methods, &model.base, 0, &model.device)?;
                if config.methods.is_empty() {
                    continue;
                }
                match earlier {
                    Some(earlier) if earlier.methods != config.methods => {
                        return Err(HybridError::Preflight {
                            what: format!(
                                "the stages `{}` and `{}` train different methods",
                                earlier.name, config.name
                            ),
                            remedy: "give both the same `methods`, stacked in one list".to_owned(),
                        });
                    }
                    _ => earlier = Some(config),
                }
            }
        }
    }
    Ok(())
}

/// Refuses a template whose own text leaves no token for the input.
fn room_for_input(
    template: &str,
    fields: &BTreeSet<String>,
    recipe: &Recipe,
    model: &LocalModel,
) -> Result<(), HybridError> {
    let empty = fields
        .iter()
        .map(|field| (field.clone(), String::new()))
        .collect();
    let bare = Template::parse(template)?.render(&empty)?;
    let used = model.encode(&[bare])?[0].ids.len();
    if used >= recipe.base.max_length {
        return Err(HybridError::Preflight {
            what: format!(
                "the template {template:?} alone fills all {} tokens",
                recipe.base.max_length
            ),
            remedy: "shorten it or raise base.max_length".to_owned(),
        });
    }
    Ok(())
}

/// Refuses two labels with the same words: nothing could tell them apart.
fn words_differ(words: &BTreeMap<String, Vec<String>>) -> Result<(), HybridError> {
    let mut seen: BTreeMap<&[String], &str> = BTreeMap::new();
    for (label, words) in words {
        if let Some(other) = seen.insert(words, label) {
            return Err(HybridError::Preflight {
                what: format!(
                    "the labels {other:?} and {label:?} have the same label words {words:?}"
                ),
                remedy: "give them words of their own under label_words".to_owned(),
            });
        }
    }
    Ok(())
}

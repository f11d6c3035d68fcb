//! What would make a prompt stage fail or pointless.

use std::collections::{BTreeMap, BTreeSet};

use hybrid_prompts::{
    DemonstrationChoice, InstructionProposals, LanguageModel, PromptError, PromptFormat,
    SearchSpace, Template,
};

use super::{Faults, LabelWords};
use crate::HybridError;
use crate::error::describe;
use crate::local_model::LocalModel;
use crate::recipe::{PromptStage, Recipe};
use crate::stage::prompt::{language_space, space};
use crate::task::TaskData;

/// Returns the space that is searched, if it can be built.
pub(super) fn check(
    faults: &mut Faults<'_>,
    key: &str,
    config: &PromptStage,
    recipe: &Recipe,
    data: &TaskData,
    model: &LocalModel,
) -> Option<SearchSpace> {
    let fields: BTreeSet<String> = recipe.data.fields.keys().cloned().collect();
    // A space is not built with a faulty template; all else in it is looked at all the same.
    let mut sound = config.clone();
    sound.templates.clear();
    for (index, template) in config.templates.iter().enumerate() {
        let key = format!("{key}.templates.{index}");
        let parsed = Template::for_fields(template, &fields);
        if faults.expect(&key, parsed).is_some() {
            sound.templates.push(template.clone());
        }
    }
    if !model.is_language_model() {
        refuse_parts_for_language_models(faults, key, config);
    } else if config.formats.contains(&PromptFormat::Chat) && model.chat_template().is_none() {
        faults.add(&format!("{key}.formats"), "the model has no chat template");
        sound.formats.clear();
    }
    refuse_bootstrapping(faults, key, config, recipe);
    let space = match model.is_language_model() {
        true => language_space(recipe, data, &sound),
        false => space(recipe, data, &sound),
    };
    let space = match space {
        Ok(space) => space,
        Err(error) => {
            let label = match &error {
                HybridError::Prompt(
                    PromptError::UnknownLabel { label, .. } | PromptError::NoLabelWords { label },
                ) => Some(label.as_str()),
                _ => None,
            };
            faults.add(&words_key(key, config, label.as_slice()), describe(&error));
            return None;
        }
    };
    let mut templates: Vec<String> = Vec::new();
    let mut words: Vec<LabelWords> = Vec::new();
    for prompt in space.prompts() {
        if !templates.contains(&prompt.template) {
            templates.push(prompt.template);
        }
        if !words.contains(&prompt.label_words) {
            words.push(prompt.label_words);
        }
    }
    // Of a language model, whole prompts are looked at.
    let alone = templates.iter().filter(|_| !model.is_language_model());
    for template in alone {
        let key = match config.templates.iter().position(|given| given == template) {
            Some(index) => format!("{key}.templates.{index}"),
            None if config.templates.is_empty() => key.to_owned(),
            None => continue,
        };
        let bare = bare_length(template, &fields, model);
        if let Some(used) = faults.expect(&key, bare)
            && used >= recipe.base.max_length
        {
            let length = recipe.base.max_length;
            faults.add(
                &key,
                format!("{template:?} alone fills all {length} tokens of base.max_length"),
            );
        }
    }
    if let Some((one, other, words)) = words.iter().find_map(same_words) {
        faults.add(
            &words_key(key, config, &[one, other]),
            format!(
                "the labels {one:?} and {other:?} have the same label words {words:?}; give them \
                words of their own under label_words"
            ),
        );
    }
    Some(space)
}

/// A search for a prompt of texts asks for the probability of the wanted ones alone, so there are no
/// answers of the model's own.
fn refuse_bootstrapping(faults: &mut Faults<'_>, key: &str, config: &PromptStage, recipe: &Recipe) {
    let is_own =
        |choice: &DemonstrationChoice| matches!(choice, DemonstrationChoice::Bootstrapped { .. });
    if recipe.task.text_task().is_some() && config.demonstrations.iter().any(is_own) {
        faults.add(
            &format!("{key}.demonstrations"),
            "`bootstrapped` is for tasks with labels; here the model gives no answers of its own in \
            a search",
        );
    }
}

/// What a sentence encoder does not read.
fn refuse_parts_for_language_models(faults: &mut Faults<'_>, key: &str, config: &PromptStage) {
    let parts = [
        ("instructions", !config.instructions.is_empty()),
        ("formats", !config.formats.is_empty()),
        ("answer_starts", !config.answer_starts.is_empty()),
        ("demonstrations", !config.demonstrations.is_empty()),
        (
            "proposals",
            config.proposals != InstructionProposals::default(),
        ),
        ("max_tokens", config.max_tokens.is_some()),
    ];
    for (part, is_there) in parts {
        if is_there {
            faults.add(
                &format!("{key}.{part}"),
                "the base is an encoder; this is for language models",
            );
        }
    }
}

/// The key of the label words in which something is wrong with these labels.
pub(super) fn words_key(key: &str, config: &PromptStage, labels: &[&str]) -> String {
    let by_hand = |label: &&str| config.label_words.contains_key(*label);
    let patterns = !config.label_patterns.is_empty();
    if labels.iter().any(by_hand) || !patterns && !config.label_words.is_empty() {
        format!("{key}.label_words")
    } else if patterns {
        format!("{key}.label_patterns")
    } else {
        key.to_owned()
    }
}

/// Tokens of a template around empty fields.
fn bare_length(
    template: &str,
    fields: &BTreeSet<String>,
    model: &LocalModel,
) -> Result<usize, HybridError> {
    let empty = fields
        .iter()
        .map(|field| (field.clone(), String::new()))
        .collect();
    let bare = Template::parse(template)?.render(&empty)?;
    Ok(model.encode(&[bare])?[0].ids.len())
}

/// Two labels with the same words, which nothing could tell apart.
fn same_words(words: &LabelWords) -> Option<(&str, &str, &[String])> {
    let mut seen: BTreeMap<&[String], &str> = BTreeMap::new();
    words
        .iter()
        .find_map(|(label, words)| Some((seen.insert(words, label)?, label.as_str(), &words[..])))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::same_words;

    #[test]
    fn labels_with_the_same_words_are_found() {
        let mut words: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (label, word) in [("a", "one"), ("b", "two"), ("c", "one")] {
            words.insert(label.to_owned(), vec![word.to_owned()]);
        }
        let found = same_words(&words).unwrap();
        assert_eq!((found.0, found.1), ("a", "c"));
        words.remove("c");
        assert_eq!(same_words(&words), None);
    }
}

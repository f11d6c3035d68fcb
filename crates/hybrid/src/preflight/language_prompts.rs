//! What would make prompts of a language model fail: parts that fill the context by themselves, a
//! chat template that fails, label words that training could not tell apart.

use std::collections::{BTreeMap, BTreeSet};

use hybrid_prompts::{
    LanguageModel, Prompt, PromptFormat, PromptText, Renderer, SearchSpace, continuation,
};

use super::{Faults, LabelWords};
use crate::HybridError;
use crate::error::describe;
use crate::local_model::LocalModel;
use crate::recipe::{PromptStage, Recipe, StageConfig};
use crate::stage::language::label_tokens;
use crate::task::{Split, TaskData};

/// Checks prompts of one recipe with its base.
pub(super) struct PromptCheck<'c> {
    recipe: &'c Recipe,
    data: &'c TaskData,
    model: &'c LocalModel,
    fields: BTreeSet<String>,
    /// Label words that were refused: they are named once.
    refused: Vec<LabelWords>,
    /// Tokens of the longest prompt that fits, without its input.
    longest: usize,
}

impl<'c> PromptCheck<'c> {
    pub(super) fn new(recipe: &'c Recipe, data: &'c TaskData, model: &'c LocalModel) -> Self {
        Self {
            recipe,
            data,
            model,
            fields: recipe.data.fields.keys().cloned().collect(),
            refused: Vec::new(),
            longest: 0,
        }
    }

    /// The prompt that the run starts from.
    pub(super) fn first_prompt(&mut self, faults: &mut Faults<'_>, prompt: &Prompt) {
        if let Err(message) = self.fits(prompt) {
            faults.add("prompt", message);
        }
        self.label_words(faults, "prompt.label_words", prompt);
    }

    /// The prompts that a stage searches.
    pub(super) fn space(
        &mut self,
        faults: &mut Faults<'_>,
        key: &str,
        config: &PromptStage,
        space: &SearchSpace,
    ) {
        let (mut templates, mut instructions, mut words) = (Vec::new(), Vec::new(), Vec::new());
        let mut formats_that_fail: Vec<PromptFormat> = Vec::new();
        for prompt in space.prompts() {
            let template = (
                prompt.template.clone(),
                prompt.format,
                prompt.answer_start.clone(),
            );
            if formats_that_fail.contains(&prompt.format) {
                continue;
            }
            if !templates.iter().any(|(known, _)| *known == template) {
                let bare = Prompt {
                    instruction: String::new(),
                    ..prompt.clone()
                };
                let fits = self.fits(&bare);
                if let Err(message) = &fits {
                    let place = config
                        .templates
                        .iter()
                        .position(|given| *given == template.0);
                    let place = match (prompt.format, place) {
                        (PromptFormat::Chat, _) => format!("{key}.formats"),
                        (_, Some(index)) => format!("{key}.templates.{index}"),
                        _ => key.to_owned(),
                    };
                    faults.add(&place, message.as_str());
                    if prompt.format == PromptFormat::Chat {
                        formats_that_fail.push(prompt.format);
                    }
                }
                templates.push((template.clone(), fits.is_ok()));
            }
            if templates.contains(&(template.clone(), false)) {
                continue;
            }
            let instruction = (prompt.instruction.clone(), template.clone());
            if !instructions.contains(&instruction) {
                let refused = self.fits(&prompt).err();
                let given = &config.instructions;
                let place = given.iter().position(|given| *given == instruction.0);
                if let Some(message) = refused {
                    let place = place.map_or_else(
                        || key.to_owned(),
                        |index| format!("{key}.instructions.{index}"),
                    );
                    faults.add(&place, message);
                }
                instructions.push(instruction);
            }
            let place = (template, prompt.label_words.clone());
            if !words.contains(&place) {
                words.push(place);
                let key = match config.more_label_words.contains(&prompt.label_words) {
                    true => format!("{key}.more_label_words"),
                    false => super::prompt_stage::words_key(key, config, &[]),
                };
                self.label_words(faults, &key, &prompt);
            }
        }
    }

    /// Wanted texts that are not there or leave no room for a prompt.
    pub(super) fn wanted_texts(&self, faults: &mut Faults<'_>) {
        if self.recipe.task.text_task().is_none() {
            return;
        }
        let data = self.data;
        let second = data.second_report.as_ref();
        let splits = [
            ("data.fit", &data.fit),
            ("data.select", &data.select),
            ("data.report", &data.report),
        ];
        let second = second.map(|split| ("data.second_report", split));
        for (key, split) in splits.into_iter().chain(second) {
            match self.refused_text(split) {
                Ok(None) => {}
                Ok(Some(message)) => faults.add(key, message),
                Err(error) => faults.add(key, describe(&error)),
            }
        }
    }

    /// Says which example has no wanted text, or which one is the longest if it is too long.
    fn refused_text(&self, split: &Split) -> Result<Option<String>, HybridError> {
        let mut longest: Option<(usize, String)> = None;
        for example in &split.examples {
            let place = || {
                let origin = &example.origin;
                format!("{}:{}", origin.file.display(), origin.line)
            };
            let Some(wanted) = &example.label else {
                let message = "the example has no answer, of which a language model would learn";
                return Ok(Some(format!("{}: {message}", place())));
            };
            // One more for the space in front.
            let length = self.model.wanted_ids(wanted)?.len() + 1;
            if longest.as_ref().is_none_or(|(most, _)| length > *most) {
                longest = Some((length, place()));
            }
        }
        let Some((length, place)) = longest else {
            return Ok(None);
        };
        let continues = self.model.continues_context();
        let (most, prompt) = match continues {
            true => (self.model.context_length(), self.longest + 1),
            false => (self.model.max_positions(), 0),
        };
        Ok((prompt + length > most).then(|| match continues {
            true => format!(
                "{place}: the wanted text takes {length} tokens, and a prompt {} without its input; \
                base.max_length has room for {most}",
                self.longest
            ),
            false => format!(
                "{place}: the wanted text takes {length} tokens; the base writes {most} at most"
            ),
        }))
    }

    /// Whether there is room for some input in a prompt, and else why not.
    fn fits(&mut self, prompt: &Prompt) -> Result<(), String> {
        let used = self.bare_length(prompt).map_err(|error| describe(&error))?;
        let following = self.following(prompt).map_err(|error| describe(&error))?;
        let most = self.model.context_length();
        if used + following >= most {
            let behind = match following {
                0 => String::new(),
                _ => format!(", and {following} are kept for what follows it"),
            };
            return Err(format!(
                "{:?} takes {used} tokens without its input{behind}; base.max_length has room for \
                {most}",
                match prompt.instruction.is_empty() {
                    true => &prompt.template,
                    false => &prompt.instruction,
                }
            ));
        }
        self.longest = self.longest.max(used);
        Ok(())
    }

    /// Tokens of a prompt around empty fields, without demonstrations: those may be left out.
    fn bare_length(&self, prompt: &Prompt) -> Result<usize, HybridError> {
        let text = self.text_for(prompt, "")?;
        let pieces = [&*text.shared, text.own.as_str()];
        let counts = LanguageModel::count_tokens(self.model, &pieces)?;
        Ok(counts.into_iter().sum())
    }

    fn text_for(&self, prompt: &Prompt, input: &str) -> Result<PromptText, HybridError> {
        let fields: BTreeMap<String, String> = self
            .fields
            .iter()
            .map(|field| (field.clone(), input.to_owned()))
            .collect();
        let chat = self.model.chat_template();
        Ok(Renderer::new(prompt, chat)?.render(&fields, &[])?)
    }

    /// Tokens that are kept free behind a prompt.
    fn following(&self, prompt: &Prompt) -> Result<usize, HybridError> {
        if !self.model.continues_context() {
            return Ok(0);
        }
        if self.recipe.task.text_task().is_some() {
            return Ok(self.recipe.generation.max_tokens);
        }
        let words = prompt.label_words.values().flatten();
        let words: Vec<String> = words.map(|word| continuation("x", word)).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let counts = LanguageModel::count_tokens(self.model, &words)?;
        Ok(counts.into_iter().max().unwrap_or(0))
    }

    /// Refuses label words that an adapter stage could not learn to tell apart.
    fn label_words(&mut self, faults: &mut Faults<'_>, key: &str, prompt: &Prompt) {
        let trains = |stage: &StageConfig| matches!(stage, StageConfig::Adapter(_));
        if self.recipe.task.text_task().is_some()
            || !self.recipe.stages.iter().any(trains)
            || self.refused.contains(&prompt.label_words)
        {
            return;
        }
        // A prompt that cannot be rendered is a fault of its own.
        let Ok(text) = self.text_for(prompt, "x") else {
            return;
        };
        let labels = self.data.task.labels.names();
        if let Err(error) = label_tokens(self.model, prompt, labels, &text.whole()) {
            faults.add(key, describe(&error));
            self.refused.push(prompt.label_words.clone());
        }
    }
}

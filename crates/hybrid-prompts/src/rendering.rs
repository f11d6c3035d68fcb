//! Prompts to texts: layout, what is shared, and what gives way when the text is too long.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::chat_template::{ChatTemplate, Message};
use crate::demonstration::Demonstration;
use crate::error::PromptError;
use crate::language_model::PromptText;
use crate::prompt::{Prompt, PromptFormat};
use crate::template::Template;

/// Stands between instruction, demonstrations and input in plain format.
const SEPARATOR: &str = "\n\n";

type Fields = BTreeMap<String, String>;

/// What follows a prompt's text for a label word or an answer to follow it: with one space between
/// them, unless the text ends in white space. So a template that ends in a line break, and most
/// chat templates, take the word as it is.
pub fn continuation(before: &str, word: &str) -> String {
    let word = word.trim_start();
    if before.is_empty() || before.ends_with(char::is_whitespace) {
        word.to_owned()
    } else {
        format!(" {word}")
    }
}

/// A prompt's text that is short enough.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fitted {
    /// The text.
    pub text: PromptText,
    /// How many demonstrations were left out for it.
    pub n_dropped: usize,
    /// Whether the input was cut.
    pub is_cut: bool,
}

/// Turns inputs into a prompt's texts.
#[derive(Debug)]
pub struct Renderer<'p> {
    prompt: &'p Prompt,
    template: Template,
    chat: Option<&'p ChatTemplate>,
    /// The shared piece for each choice of demonstrations.
    shared: BTreeMap<Vec<usize>, Arc<str>>,
}

impl<'p> Renderer<'p> {
    /// A renderer of a prompt for a model with this chat template, if it has one.
    ///
    /// # Errors
    /// [`PromptError::Template`], and [`PromptError::NoChatTemplate`] for a prompt in chat format
    /// without one.
    pub fn new(prompt: &'p Prompt, chat: Option<&'p ChatTemplate>) -> Result<Self, PromptError> {
        let chat = match prompt.format {
            PromptFormat::Plain => None,
            PromptFormat::Chat => Some(chat.ok_or(PromptError::NoChatTemplate)?),
        };
        Ok(Self {
            prompt,
            template: Template::parse(&prompt.template)?,
            chat,
            shared: BTreeMap::new(),
        })
    }

    /// The text for an input, after the demonstrations at these places of the prompt's list.
    ///
    /// Its shared piece is what any two inputs have in common, without white space at its end: that
    /// often is one token with what follows.
    ///
    /// # Errors
    /// [`PromptError::Render`] and [`PromptError::ChatRender`].
    pub fn render(&mut self, fields: &Fields, shown: &[usize]) -> Result<PromptText, PromptError> {
        let whole = self.whole(fields, shown)?;
        let shared = match self.shared.get(shown) {
            Some(shared) => Arc::clone(shared),
            None => {
                let shared = self.in_common(fields, shown)?;
                self.shared.insert(shown.to_vec(), Arc::clone(&shared));
                shared
            }
        };
        // A template may open with something that depends on the input in a way of its own.
        let (shared, own) = match whole.strip_prefix(&*shared) {
            Some(own) => (shared, own.to_owned()),
            None => (Arc::from(""), whole),
        };
        Ok(PromptText {
            shared,
            own,
            has_special_tokens: self.chat.is_some(),
        })
    }

    /// The text for an input in at most `limit` tokens. Demonstrations give way first, from the
    /// first one on; then the input is cut, the longest field first, at its end. The instruction
    /// and the template never are.
    ///
    /// # Errors
    /// As [`Renderer::render`], those of `count`, and [`PromptError::DoesNotFit`] when nothing of
    /// the input would be left.
    pub fn fit(
        &mut self,
        fields: &Fields,
        shown: &[usize],
        limit: usize,
        count: &dyn Fn(&PromptText) -> Result<usize, PromptError>,
    ) -> Result<Fitted, PromptError> {
        for n_dropped in 0..=shown.len() {
            let text = self.render(fields, &shown[n_dropped..])?;
            if count(&text)? <= limit {
                return Ok(Fitted {
                    text,
                    n_dropped,
                    is_cut: false,
                });
            }
        }
        let has_text = fields.values().any(|text| !text.trim().is_empty());
        let mut fields = fields.clone();
        loop {
            let longest = fields
                .iter()
                .max_by_key(|(_, text)| text.len())
                .filter(|(_, text)| !text.is_empty());
            let Some((field, whole)) = longest.map(|(field, text)| (field.clone(), text.clone()))
            else {
                let needed = count(&self.render(&fields, &[])?)?;
                return Err(PromptError::DoesNotFit { needed, limit });
            };
            let mut cut_to = |kept: &str| -> Result<Option<PromptText>, PromptError> {
                fields.insert(field.clone(), kept.to_owned());
                let text = self.render(&fields, &[])?;
                Ok((count(&text)? <= limit).then_some(text))
            };
            let ends: Vec<usize> = whole.char_indices().map(|(start, _)| start).collect();
            // Of the kept lengths in characters, `fits` is short enough and `too_long` is not.
            let Some(mut best) = cut_to("")? else {
                continue;
            };
            let (mut fits, mut too_long) = (0, ends.len());
            while too_long - fits > 1 {
                let middle = fits + (too_long - fits) / 2;
                match cut_to(whole[..ends[middle]].trim_end())? {
                    Some(text) => (fits, best) = (middle, text),
                    None => too_long = middle,
                }
            }
            let kept = whole[..ends.get(fits).copied().unwrap_or(0)].trim_end();
            fields.insert(field, kept.to_owned());
            if has_text && fields.values().all(String::is_empty) {
                let needed = count(&best)?;
                return Err(PromptError::DoesNotFit { needed, limit });
            }
            return Ok(Fitted {
                text: best,
                n_dropped: shown.len(),
                is_cut: true,
            });
        }
    }

    /// An answer as a demonstration shows it: the first word of a label, any other text as it is.
    pub fn shown_answer<'a>(&'a self, answer: &'a str) -> &'a str {
        self.prompt
            .words_of(answer)
            .first()
            .map_or(answer, String::as_str)
    }

    /// What the texts for any two inputs begin with.
    fn in_common(&self, fields: &Fields, shown: &[usize]) -> Result<Arc<str>, PromptError> {
        let probe = |opening: &str| -> Fields {
            let names = fields.keys();
            names
                .map(|field| (field.clone(), format!("{opening} {field}")))
                .collect()
        };
        let first = self.whole(&probe("first"), shown)?;
        let second = self.whole(&probe("second"), shown)?;
        let end = first
            .char_indices()
            .zip(second.chars())
            .find(|((_, a), b)| a != b)
            .map_or(first.len().min(second.len()), |((place, _), _)| place);
        Ok(Arc::from(first[..end].trim_end()))
    }

    fn whole(&self, fields: &Fields, shown: &[usize]) -> Result<String, PromptError> {
        let input = self.template.render(fields)?;
        let demonstrations = shown
            .iter()
            .filter_map(|&place| self.prompt.demonstrations.examples.get(place));
        match self.chat {
            None => self.plain(input, demonstrations),
            Some(chat) => self.chat(chat, input, demonstrations),
        }
    }

    fn plain<'d>(
        &self,
        input: String,
        demonstrations: impl Iterator<Item = &'d Demonstration>,
    ) -> Result<String, PromptError> {
        let mut blocks = Vec::new();
        if !self.prompt.instruction.is_empty() {
            blocks.push(self.prompt.instruction.clone());
        }
        for demonstration in demonstrations {
            let mut block = self.opened(self.template.render(&demonstration.fields)?);
            let answer = continuation(&block, self.shown_answer(&demonstration.answer));
            block.push_str(&answer);
            blocks.push(block);
        }
        blocks.push(self.opened(input));
        Ok(blocks.join(SEPARATOR))
    }

    /// An input with the opening of its answer, where there is one.
    fn opened(&self, input: String) -> String {
        match self.prompt.answer_start.as_str() {
            "" => input,
            start => format!("{input}\n{start}"),
        }
    }

    fn chat<'d>(
        &self,
        chat: &ChatTemplate,
        input: String,
        demonstrations: impl Iterator<Item = &'d Demonstration>,
    ) -> Result<String, PromptError> {
        let start = self.prompt.answer_start.as_str();
        let mut messages = Vec::new();
        for demonstration in demonstrations {
            let block = self.template.render(&demonstration.fields)?;
            messages.push(Message::user(block));
            let answer = continuation(start, self.shown_answer(&demonstration.answer));
            messages.push(Message::assistant(format!("{start}{answer}")));
        }
        messages.push(Message::user(input));
        let instruction = &self.prompt.instruction;
        if !instruction.is_empty() {
            if chat.has_system_role() {
                messages.insert(0, Message::system(instruction.as_str()));
            } else {
                let first = &mut messages[0].content;
                *first = format!("{instruction}{SEPARATOR}{first}");
            }
        }
        Ok(chat.render(&messages, true)? + start)
    }
}

#[cfg(test)]
mod tests;

//! A prompt: instruction, template, label words, demonstrations and format.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use hybrid_data::LabelSet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::demonstration::Demonstrations;
use crate::error::PromptError;
use crate::label_words::label_words;

/// How the parts of a prompt become one text.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum PromptFormat {
    /// Instruction, demonstrations and input, with an empty line between them.
    #[default]
    Plain,
    /// Messages that the model's own chat template renders: the instruction is what the system
    /// says (or the opening of the first user message, where the template shows no system
    /// message), demonstrations and input are turns.
    Chat,
}

impl PromptFormat {
    fn is_plain(&self) -> bool {
        *self == Self::Plain
    }
}

/// What a model reads, and what stands for each class. Text, never a tensor.
///
/// A sentence encoder reads the template alone; the other parts are for language models.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Prompt {
    /// What is to be done, in words. Text, not a template; empty for none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub instruction: String,
    /// The [`Template`](crate::Template)'s source, for input and demonstrations alike.
    pub template: String,
    /// How the parts become one text.
    #[serde(default, skip_serializing_if = "PromptFormat::is_plain")]
    pub format: PromptFormat,
    /// How every answer opens, e.g. `Sentiment:`; text, empty for nothing. In chat format the
    /// model's own turn begins with it, in plain format a line after the input.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub answer_start: String,
    /// Label to the texts that stand for it. An encoder averages their vectors, a language model
    /// their probabilities; the first one is shown in demonstrations. Empty for tasks without
    /// classes.
    #[serde(default)]
    pub label_words: BTreeMap<String, Vec<String>>,
    /// Answered examples that are shown before the input.
    #[serde(default, skip_serializing_if = "Demonstrations::is_empty")]
    pub demonstrations: Demonstrations,
}

impl Prompt {
    /// The plain prompt: the fields as they are, in the order of their names and separated by a
    /// space, and the label names as phrases.
    ///
    /// # Errors
    /// [`PromptError::NoLabelWords`] for a label of blanks, [`PromptError::EmptySpace`] without
    /// fields.
    pub fn plain(fields: &BTreeSet<String>, labels: &LabelSet) -> Result<Self, PromptError> {
        if fields.is_empty() {
            return Err(PromptError::EmptySpace { what: "field" });
        }
        let slots: Vec<String> = fields
            .iter()
            .map(|field| format!("{{{{ {field} }}}}"))
            .collect();
        let label_words = label_words(labels, &["{{ label }}".to_owned()], &BTreeMap::new())?;
        Ok(Self {
            template: slots.join(" "),
            label_words,
            ..Self::default()
        })
    }

    /// The words of a label; none if the prompt does not know it.
    pub fn words_of(&self, label: &str) -> &[String] {
        self.label_words.get(label).map_or(&[], Vec::as_slice)
    }

    /// The first part that only a language model reads, in words.
    pub(crate) fn part_for_language_models(&self) -> Option<&'static str> {
        if !self.instruction.is_empty() {
            Some("an instruction")
        } else if !self.demonstrations.is_empty() {
            Some("demonstrations")
        } else if self.format != PromptFormat::Plain {
            Some("the chat format")
        } else if !self.answer_start.is_empty() {
            Some("an opening of the answer")
        } else {
            None
        }
    }

    /// A name made of the content: 16 hexadecimal digits of SHA-256, equal for equal prompts on
    /// every machine and in every version.
    pub fn id(&self) -> String {
        let mut hash = Sha256::new();
        add(&mut hash, &self.template);
        for (label, words) in &self.label_words {
            add(&mut hash, label);
            add(&mut hash, &words.len().to_string());
            words.iter().for_each(|word| add(&mut hash, word));
        }
        if self.part_for_language_models().is_some() {
            // A length that no text has, so that no label word can read as one of these parts.
            hash.update(u64::MAX.to_le_bytes());
            add(&mut hash, &self.instruction);
            add(
                &mut hash,
                if self.format.is_plain() {
                    "plain"
                } else {
                    "chat"
                },
            );
            add(&mut hash, &format!("{:?}", self.demonstrations.nearest));
            for demonstration in &self.demonstrations.examples {
                add(&mut hash, &demonstration.answer);
                add(&mut hash, &demonstration.fields.len().to_string());
                for (field, text) in &demonstration.fields {
                    add(&mut hash, field);
                    add(&mut hash, text);
                }
            }
            // After all else, so that prompts without it keep the names that they always had.
            if !self.answer_start.is_empty() {
                add(&mut hash, &self.answer_start);
            }
        }
        let mut id = String::with_capacity(16);
        for byte in hash.finalize().iter().take(8) {
            write!(id, "{byte:02x}").expect("writing to a string cannot fail");
        }
        id
    }
}

/// Adds a text to a hash, its length first, so that texts cannot run into each other.
fn add(hash: &mut Sha256, text: &str) {
    hash.update((text.len() as u64).to_le_bytes());
    hash.update(text);
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::collection::{btree_map, vec};
    use proptest::option;
    use proptest::prelude::{any, prop_assert_eq, proptest};

    use super::{Prompt, PromptFormat};
    use crate::demonstration::{Demonstration, Demonstrations};
    use crate::error::PromptError;

    fn prompt(template: &str, words: &[(&str, &[&str])]) -> Prompt {
        let words = words.iter().map(|(label, words)| {
            (
                (*label).to_owned(),
                words.iter().map(|word| (*word).to_owned()).collect(),
            )
        });
        Prompt {
            template: template.to_owned(),
            label_words: words.collect(),
            ..Prompt::default()
        }
    }

    fn demonstration(text: &str, answer: &str) -> Demonstration {
        Demonstration {
            answer: answer.to_owned(),
            fields: BTreeMap::from([("text".to_owned(), text.to_owned())]),
        }
    }

    #[test]
    fn the_id_is_stable_and_tells_prompts_apart() {
        let first = prompt("{{ text }}", &[("a", &["x", "y"]), ("b", &["z"])]);
        assert_eq!(first.id(), "e9763f48e31e3fb1");
        let others = [
            prompt("{{ text }} ", &[("a", &["x", "y"]), ("b", &["z"])]),
            prompt("{{ text }}", &[("a", &["x"]), ("b", &["y", "z"])]),
            prompt("{{ text }}", &[("a", &["y", "x"]), ("b", &["z"])]),
            prompt("{{ text }}", &[("a", &["xy"]), ("b", &["z"])]),
        ];
        for other in others {
            assert_ne!(other.id(), first.id(), "{other:?}");
        }
        let shown = |nearest, examples| Prompt {
            demonstrations: Demonstrations { nearest, examples },
            ..first.clone()
        };
        let mut ids = BTreeSet::from([first.id()]);
        for other in [
            Prompt {
                instruction: "plain".to_owned(),
                ..first.clone()
            },
            Prompt {
                format: PromptFormat::Chat,
                ..first.clone()
            },
            Prompt {
                answer_start: "plain".to_owned(),
                ..first.clone()
            },
            shown(None, vec![demonstration("x", "a")]),
            shown(Some(1), vec![demonstration("x", "a")]),
            shown(None, vec![demonstration("a", "x")]),
            shown(None, vec![demonstration("x", "a"), demonstration("x", "a")]),
        ] {
            assert!(ids.insert(other.id()), "{other:?}");
        }
    }

    #[test]
    fn a_prompt_for_an_encoder_is_written_as_ever() {
        let text = toml::to_string(&prompt("{{ text }}", &[("a", &["x"])])).unwrap();
        assert_eq!(
            text,
            "template = \"{{ text }}\"\n\n[label_words]\na = [\"x\"]\n"
        );
    }

    proptest! {
        #[test]
        fn any_prompt_survives_its_file(
            instruction in any::<String>(),
            template in any::<String>(),
            chat: bool,
            answer_start in any::<String>(),
            words in btree_map(any::<String>(), vec(any::<String>(), 0..3), 0..3),
            nearest in option::of(1usize..9),
            shown in vec((any::<String>(), any::<String>()), 0..3),
        ) {
            let examples: Vec<Demonstration> =
                shown.iter().map(|(text, answer)| demonstration(text, answer)).collect();
            let prompt = Prompt {
                instruction,
                template,
                format: if chat { PromptFormat::Chat } else { PromptFormat::Plain },
                answer_start,
                label_words: words,
                // Without examples, nothing is written.
                demonstrations: Demonstrations { nearest: nearest.filter(|_| !examples.is_empty()), examples },
            };
            let text = toml::to_string_pretty(&prompt).unwrap();
            let read: Prompt = toml::from_str(&text).unwrap();
            prop_assert_eq!(read.id(), prompt.id());
            prop_assert_eq!(read, prompt);
        }
    }

    #[test]
    fn a_prompt_survives_a_file_and_refuses_unknown_keys() {
        let prompt = prompt("{{ text }}", &[("a", &["x", "y"])]);
        let json = serde_json::to_string(&prompt).unwrap();
        assert_eq!(serde_json::from_str::<Prompt>(&json).unwrap(), prompt);
        assert!(serde_json::from_str::<Prompt>(&json.replace("template", "tempalte")).is_err());
    }

    #[test]
    fn the_plain_prompt_says_all_fields() {
        let labels = vec!["card_arrival".to_owned()].into();
        let fields = BTreeSet::from(["text".to_owned(), "title".to_owned()]);
        let plain = Prompt::plain(&fields, &labels).unwrap();
        assert_eq!(
            plain,
            prompt(
                "{{ text }} {{ title }}",
                &[("card_arrival", &["card arrival"])]
            )
        );
        assert!(matches!(
            Prompt::plain(&BTreeSet::new(), &labels),
            Err(PromptError::EmptySpace { what: "field" })
        ));
    }
}

//! A prompt: a template and the words of each label.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use hybrid_data::LabelSet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::PromptError;
use crate::label_words::label_words;

/// What a model reads, and what stands for each class. Text, never a tensor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Prompt {
    /// The [`Template`](crate::Template)'s source.
    pub template: String,
    /// Label to the texts that stand for it; their vectors are averaged.
    pub label_words: BTreeMap<String, Vec<String>>,
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
        })
    }

    /// The words of a label; none if the prompt does not know it.
    pub fn words_of(&self, label: &str) -> &[String] {
        self.label_words.get(label).map_or(&[], Vec::as_slice)
    }

    /// A name made of the content: 16 hexadecimal digits of SHA-256, equal for equal prompts on
    /// every machine and in every version.
    pub fn id(&self) -> String {
        let mut hash = Sha256::new();
        let mut add = |text: &str| {
            // The length first, so that texts cannot run into each other.
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text);
        };
        add(&self.template);
        for (label, words) in &self.label_words {
            add(label);
            add(&words.len().to_string());
            words.iter().for_each(|word| add(word));
        }
        let mut id = String::with_capacity(16);
        for byte in hash.finalize().iter().take(8) {
            write!(id, "{byte:02x}").expect("writing to a string cannot fail");
        }
        id
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::Prompt;
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

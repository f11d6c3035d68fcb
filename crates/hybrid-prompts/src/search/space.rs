//! The prompts to choose from: templates times label words.

use std::collections::{BTreeMap, BTreeSet};

use hybrid_data::LabelSet;

use crate::error::PromptError;
use crate::label_words::label_words;
use crate::library::{default_label_patterns, default_templates};
use crate::prompt::Prompt;
use crate::template::Template;

/// Templates and sets of label words; every pair of them is a prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SearchSpace {
    templates: Vec<String>,
    label_words: Vec<BTreeMap<String, Vec<String>>>,
}

impl SearchSpace {
    /// A space of these templates and label patterns, checked.
    ///
    /// `label_patterns`: each entry is one choice of label words, a list of patterns whose vectors
    /// are averaged. `given`: words of some labels that take the place of their names in the
    /// patterns. An empty list of templates or patterns stands for the built-in one
    /// ([`default_templates`], [`default_label_patterns`]).
    ///
    /// # Errors
    /// [`PromptError::EmptySpace`] without fields, and those of [`Template::for_fields`] and
    /// [`label_words`], for the first fault.
    pub fn build(
        fields: &BTreeSet<String>,
        labels: &LabelSet,
        templates: &[String],
        label_patterns: &[Vec<String>],
        given: &BTreeMap<String, Vec<String>>,
    ) -> Result<Self, PromptError> {
        if fields.is_empty() {
            return Err(PromptError::EmptySpace { what: "field" });
        }
        let templates = if templates.is_empty() {
            default_templates(fields)
        } else {
            templates.to_vec()
        };
        for template in &templates {
            Template::for_fields(template, fields)?;
        }
        let label_patterns = if label_patterns.is_empty() {
            default_label_patterns()
        } else {
            label_patterns.to_vec()
        };
        let label_words = label_patterns
            .iter()
            .map(|patterns| label_words(labels, patterns, given))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            templates,
            label_words,
        })
    }

    /// The built-in space for short texts and these fields.
    ///
    /// # Errors
    /// [`PromptError::EmptySpace`] without fields, [`PromptError::NoLabelWords`] for a blank label.
    pub fn default_for(fields: &BTreeSet<String>, labels: &LabelSet) -> Result<Self, PromptError> {
        Self::build(fields, labels, &[], &[], &BTreeMap::new())
    }

    /// How many prompts there are, equal ones counted each.
    pub fn len(&self) -> usize {
        self.templates.len() * self.label_words.len()
    }

    /// Whether there is no prompt.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The prompts: for each template, each set of label words.
    pub fn prompts(&self) -> impl Iterator<Item = Prompt> + '_ {
        let prompt = |template: &String, label_words: &BTreeMap<String, Vec<String>>| Prompt {
            template: template.clone(),
            label_words: label_words.clone(),
        };
        self.templates.iter().flat_map(move |template| {
            self.label_words
                .iter()
                .map(move |words| prompt(template, words))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use hybrid_data::LabelSet;

    use super::SearchSpace;
    use crate::error::PromptError;

    fn labels() -> LabelSet {
        vec!["top_up".to_owned(), "card_arrival".to_owned()].into()
    }

    fn fields(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_space_is_templates_times_label_words() {
        let templates = ["{{ text }}", "q: {{ text }}"].map(str::to_owned);
        let patterns = [
            vec!["{{ label }}".to_owned()],
            vec!["{{ label }}".to_owned(), "my {{ label }}".to_owned()],
        ];
        let given = BTreeMap::from([("top_up".to_owned(), vec!["adding money".to_owned()])]);
        let space =
            SearchSpace::build(&fields(&["text"]), &labels(), &templates, &patterns, &given)
                .unwrap();
        assert_eq!(space.len(), 4);
        let prompts: Vec<_> = space.prompts().collect();
        assert_eq!(prompts.len(), 4);
        assert_eq!(prompts[1].template, "{{ text }}");
        assert_eq!(
            prompts[1].words_of("top_up"),
            ["adding money", "my adding money"]
        );
        assert_eq!(prompts[2].template, "q: {{ text }}");
        assert_eq!(prompts[2].words_of("card_arrival"), ["card arrival"]);
    }

    #[test]
    fn the_default_space_holds_the_plain_prompt_for_any_fields() {
        for names in [&["text"][..], &["query"], &["premise", "hypothesis"]] {
            let fields = fields(names);
            let space = SearchSpace::default_for(&fields, &labels()).unwrap();
            let plain = crate::Prompt::plain(&fields, &labels()).unwrap();
            assert_eq!(space.prompts().next(), Some(plain), "first of all");
            let ids: BTreeSet<String> = space.prompts().map(|prompt| prompt.id()).collect();
            assert_eq!(ids.len(), space.len(), "all differ");
        }
    }

    #[test]
    fn faults_are_refused_before_any_work() {
        let build = |templates: &[&str], patterns: &[&[&str]]| {
            let templates: Vec<String> = templates.iter().map(|text| (*text).to_owned()).collect();
            let patterns: Vec<Vec<String>> = patterns
                .iter()
                .map(|list| list.iter().map(|text| (*text).to_owned()).collect())
                .collect();
            SearchSpace::build(
                &fields(&["text"]),
                &labels(),
                &templates,
                &patterns,
                &BTreeMap::new(),
            )
            .unwrap_err()
        };
        assert!(matches!(
            build(&["{{ text }}", "no input"], &[]),
            PromptError::DropsInput { .. }
        ));
        assert!(matches!(
            build(&["{{ query }}"], &[]),
            PromptError::UnknownField { .. }
        ));
        assert!(matches!(
            build(&[], &[&["about"]]),
            PromptError::DropsInput { .. }
        ));
        assert!(matches!(
            build(&[], &[&[]]),
            PromptError::EmptySpace {
                what: "label pattern"
            }
        ));
        let none = SearchSpace::default_for(&BTreeSet::new(), &labels()).unwrap_err();
        assert!(
            matches!(none, PromptError::EmptySpace { what: "field" }),
            "{none:?}"
        );
    }
}

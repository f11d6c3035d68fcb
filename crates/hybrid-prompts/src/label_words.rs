//! Label words: the texts that stand for a class (a verbalizer).

use std::collections::{BTreeMap, BTreeSet};

use hybrid_data::LabelSet;

use crate::error::PromptError;
use crate::template::Template;

/// The slot of a label pattern.
const SLOT: &str = "label";

/// A label name as a phrase: `card_arrival`, `card-arrival` and `CardArrival` all read
/// `card arrival`. Words in capitals stay (`ATM_support` reads `ATM support`), and punctuation at
/// the ends goes.
pub fn label_phrase(name: &str) -> String {
    let spaced: String = name
        .chars()
        .map(|c| {
            if matches!(c, '_' | '-' | '/' | '.' | ':' | '+') {
                ' '
            } else {
                c
            }
        })
        .collect();
    let mut words: Vec<String> = Vec::new();
    for piece in spaced.split_whitespace() {
        let mut previous_is_lower = false;
        let mut word = String::new();
        for c in piece.chars() {
            if c.is_uppercase() && previous_is_lower {
                words.push(std::mem::take(&mut word));
            }
            previous_is_lower = c.is_lowercase() || c.is_numeric();
            word.push(c);
        }
        words.push(word);
    }
    let phrase: Vec<String> = words
        .iter()
        .map(|word| word.trim_matches(|c: char| !c.is_alphanumeric()))
        .filter(|word| !word.is_empty())
        .map(|word| {
            if is_acronym(word) {
                word.to_owned()
            } else {
                word.to_lowercase()
            }
        })
        .collect();
    if phrase.is_empty() {
        name.trim().to_owned()
    } else {
        phrase.join(" ")
    }
}

fn is_acronym(word: &str) -> bool {
    word.chars().count() > 1 && !word.chars().any(char::is_lowercase)
}

/// The words of every label: each pattern (`a question about {{ label }}`) around each of the
/// label's own words, which are the given ones or else its name as a phrase ([`label_phrase`]).
///
/// # Errors
/// [`PromptError::UnknownLabel`] for given words of no label, [`PromptError::NoLabelWords`] for an
/// empty list or a blank word, [`PromptError::EmptySpace`] without patterns, and those of
/// [`Template::for_fields`] over the one field `label`.
pub fn label_words(
    labels: &LabelSet,
    patterns: &[String],
    given: &BTreeMap<String, Vec<String>>,
) -> Result<BTreeMap<String, Vec<String>>, PromptError> {
    if let Some(label) = given.keys().find(|label| labels.index_of(label).is_none()) {
        return Err(PromptError::UnknownLabel {
            label: label.clone(),
            n_labels: labels.len(),
        });
    }
    if patterns.is_empty() {
        return Err(PromptError::EmptySpace {
            what: "label pattern",
        });
    }
    let slot = BTreeSet::from([SLOT.to_owned()]);
    let patterns = patterns
        .iter()
        .map(|pattern| Template::for_fields(pattern, &slot))
        .collect::<Result<Vec<_>, _>>()?;
    let words_of = |label: &String| {
        let own = given
            .get(label)
            .cloned()
            .unwrap_or_else(|| vec![label_phrase(label)]);
        if own.is_empty() || own.iter().any(|word| word.trim().is_empty()) {
            return Err(PromptError::NoLabelWords {
                label: label.clone(),
            });
        }
        let mut words = Vec::new();
        for pattern in &patterns {
            for word in &own {
                let word = pattern.render(&BTreeMap::from([(SLOT.to_owned(), word.clone())]))?;
                if !words.contains(&word) {
                    words.push(word);
                }
            }
        }
        Ok((label.clone(), words))
    };
    labels.names().iter().map(words_of).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use hybrid_data::LabelSet;

    use super::{label_phrase, label_words};

    fn labels() -> LabelSet {
        vec!["card_arrival".to_owned(), "top_up".to_owned()].into()
    }

    #[test]
    fn names_become_phrases() {
        for (name, phrase) in [
            ("card_arrival", "card arrival"),
            ("Refund_not_showing_up", "refund not showing up"),
            ("reverted_card_payment?", "reverted card payment"),
            ("CardArrival", "card arrival"),
            ("ATM_support", "ATM support"),
            ("top-up/limits", "top up limits"),
            ("  positive ", "positive"),
            ("größe", "größe"),
            ("???", "???"),
            ("5", "5"),
        ] {
            assert_eq!(label_phrase(name), phrase, "{name}");
        }
    }

    #[test]
    fn patterns_go_around_given_words_or_the_name() {
        let patterns = ["{{ label }}", "about {{ label }}"].map(str::to_owned);
        let given = BTreeMap::from([(
            "top_up".to_owned(),
            vec!["adding money".to_owned(), "top-up".to_owned()],
        )]);
        let words = label_words(&labels(), &patterns, &given).unwrap();
        assert_eq!(
            words["card_arrival"],
            ["card arrival", "about card arrival"]
        );
        assert_eq!(
            words["top_up"],
            [
                "adding money",
                "top-up",
                "about adding money",
                "about top-up"
            ]
        );
    }

    #[test]
    fn faults_name_the_label_or_pattern() {
        let plain = ["{{ label }}".to_owned()];
        let given = |label: &str, words: &[&str]| {
            BTreeMap::from([(
                label.to_owned(),
                words.iter().map(|word| (*word).to_owned()).collect(),
            )])
        };
        let message = |patterns: &[String], given| {
            label_words(&labels(), patterns, &given)
                .unwrap_err()
                .to_string()
        };
        assert_eq!(
            message(&plain, given("topup", &["a"])),
            "label words are given for `topup`, which is none of the 2 labels"
        );
        assert_eq!(
            message(&plain, given("top_up", &[])),
            "label `top_up` has no label words"
        );
        assert_eq!(
            message(&plain, given("top_up", &[" "])),
            "label `top_up` has no label words"
        );
        assert_eq!(
            message(&[], BTreeMap::new()),
            "the search space holds no label pattern"
        );
        assert!(
            message(&["about this".to_owned()], BTreeMap::new()).contains("never uses the input")
        );
    }
}

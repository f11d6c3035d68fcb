//! Typed answers in generated text: a label, a span of a field, or free text.

use std::collections::BTreeMap;

use hybrid_data::LabelSet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::PromptError;
use crate::prompt::Prompt;

/// What a generated text is read as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum OutputKind {
    /// One of the labels, by its label words or its name.
    Label,
    /// A literal part of one field, as in extractive question answering.
    Span {
        /// The field.
        field: String,
    },
    /// Any text.
    Text,
}

/// A generated text that was understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// The class number of a label.
    Label(usize),
    /// A part of a field.
    Span {
        /// Its first byte in the field.
        start: usize,
        /// The byte after its last one.
        end: usize,
        /// The part as the field has it.
        text: String,
    },
    /// The text without white space around it.
    Text(String),
}

/// Reads a generated text.
///
/// A label is the one whose word or name stands first in the text as whole words, whatever the case;
/// of those that begin at the same place, the longest. A span is the text itself, without quotes
/// and a full stop around it, where the field has it first: as it is, or else in another case.
///
/// # Errors
/// [`PromptError::EmptyOutput`], [`PromptError::NoLabelInOutput`], [`PromptError::NotInField`],
/// also for a field that the input does not have.
pub fn parse_output(
    kind: &OutputKind,
    text: &str,
    prompt: &Prompt,
    labels: &LabelSet,
    fields: &BTreeMap<String, String>,
) -> Result<Output, PromptError> {
    let text = text.trim();
    if text.is_empty() {
        return Err(PromptError::EmptyOutput);
    }
    match kind {
        OutputKind::Text => Ok(Output::Text(text.to_owned())),
        OutputKind::Label => {
            label_in(text, prompt, labels).ok_or_else(|| PromptError::NoLabelInOutput {
                output: text.to_owned(),
            })
        }
        OutputKind::Span { field } => fields
            .get(field)
            .and_then(|value| span_in(text, value))
            .ok_or_else(|| PromptError::NotInField {
                field: field.clone(),
                output: text.to_owned(),
            }),
    }
}

fn label_in(text: &str, prompt: &Prompt, labels: &LabelSet) -> Option<Output> {
    let mut best: Option<(usize, usize, usize)> = None;
    for (class, label) in labels.names().iter().enumerate() {
        let words = prompt.words_of(label).iter().map(String::as_str);
        for word in words.chain([label.as_str()]) {
            let Some((start, end)) = whole_words(text, word.trim()) else {
                continue;
            };
            let earlier = best.is_none_or(|(best_start, best_end, _)| {
                start < best_start || (start == best_start && end > best_end)
            });
            if earlier {
                best = Some((start, end, class));
            }
        }
    }
    best.map(|(_, _, class)| Output::Label(class))
}

fn span_in(text: &str, field: &str) -> Option<Output> {
    let quotes = |c: char| matches!(c, '"' | '\'' | '`' | '“' | '”' | '‘' | '’');
    let bare = text.trim_matches(quotes);
    let shorter = bare.trim_end_matches('.').trim_matches(quotes);
    for wanted in [text, bare, shorter] {
        let wanted = wanted.trim();
        if wanted.is_empty() {
            continue;
        }
        if let Some((start, end)) = find_any_case(field, wanted, 0) {
            return Some(Output::Span {
                start,
                end,
                text: field[start..end].to_owned(),
            });
        }
    }
    None
}

/// Where whole words stand first in a text, whatever their case.
pub(crate) fn whole_words(text: &str, words: &str) -> Option<(usize, usize)> {
    if words.is_empty() {
        return None;
    }
    let mut from = 0;
    while let Some((start, end)) = next_any_case(text, words, from) {
        let before = text[..start].chars().next_back();
        let after = text[end..].chars().next();
        // Only a letter or digit that meets another one makes a longer word.
        let joins = |a: Option<char>, b: Option<char>| {
            a.is_some_and(char::is_alphanumeric) && b.is_some_and(char::is_alphanumeric)
        };
        if !joins(before, words.chars().next()) && !joins(words.chars().next_back(), after) {
            return Some((start, end));
        }
        from = start + text[start..].chars().next().map_or(1, char::len_utf8);
    }
    None
}

/// The first place as it is, or else in any case.
fn find_any_case(text: &str, wanted: &str, from: usize) -> Option<(usize, usize)> {
    match text[from..].find(wanted) {
        Some(start) => Some((from + start, from + start + wanted.len())),
        None => next_any_case(text, wanted, from),
    }
}

/// The first place from `from` on whose lower-case form is that of `wanted`.
fn next_any_case(text: &str, wanted: &str, from: usize) -> Option<(usize, usize)> {
    text[from..].char_indices().find_map(|(offset, _)| {
        let start = from + offset;
        ends_equal(&text[start..], wanted).map(|length| (start, start + length))
    })
}

/// How many bytes of `text` have the lower-case form of `wanted`, if it begins with that.
fn ends_equal(text: &str, wanted: &str) -> Option<usize> {
    let mut wanted = wanted.chars().flat_map(char::to_lowercase).peekable();
    for (place, c) in text.char_indices() {
        if wanted.peek().is_none() {
            return Some(place);
        }
        for lower in c.to_lowercase() {
            if wanted.next() != Some(lower) {
                return None;
            }
        }
    }
    wanted.peek().is_none().then_some(text.len())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    use super::{Output, OutputKind, parse_output};
    use crate::error::PromptError;
    use crate::fake_model::labels;
    use crate::prompt::Prompt;

    fn prompt() -> Prompt {
        let words = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect();
        Prompt {
            label_words: BTreeMap::from([
                ("neg".to_owned(), words(&[" bad", " not good"])),
                ("pos".to_owned(), words(&[" good"])),
            ]),
            ..Prompt::default()
        }
    }

    fn fields(context: &str) -> BTreeMap<String, String> {
        BTreeMap::from([("context".to_owned(), context.to_owned())])
    }

    fn label(text: &str) -> Result<Output, PromptError> {
        let labels = labels(&["neg", "pos"]);
        parse_output(&OutputKind::Label, text, &prompt(), &labels, &fields(""))
    }

    fn span(text: &str, context: &str) -> Result<Output, PromptError> {
        let kind = OutputKind::Span {
            field: "context".to_owned(),
        };
        parse_output(&kind, text, &prompt(), &labels(&["neg"]), &fields(context))
    }

    #[test]
    fn labels_are_found_by_word_or_name() {
        for (text, class) in [
            (" good", 1),
            ("Good.", 1),
            ("It is bad, not good", 0),
            ("not good", 0),
            ("goodness! bad", 0),
            ("POS", 1),
            ("neg\nbecause it is good", 0),
        ] {
            assert_eq!(label(text).unwrap(), Output::Label(class), "{text}");
        }
        let error = label("it is fine").unwrap_err();
        assert_eq!(error.to_string(), "the output `it is fine` names no label");
        assert!(matches!(label(" \n"), Err(PromptError::EmptyOutput)));
        assert!(matches!(
            label("goods"),
            Err(PromptError::NoLabelInOutput { .. })
        ));
    }

    #[test]
    fn spans_are_parts_of_their_field() {
        let context = "In ÉTÉ 1969, Apollo 11 landed.";
        for (text, found) in [
            ("1969", "1969"),
            (" \"Apollo 11\". ", "Apollo 11"),
            ("apollo 11", "Apollo 11"),
            ("été", "ÉTÉ"),
            ("landed.", "landed."),
        ] {
            let Output::Span { start, end, text } = span(text, context).unwrap() else {
                panic!("no span for {text}")
            };
            assert_eq!((&context[start..end], text.as_str()), (found, found));
        }
        let error = span("Apollo 12", context).unwrap_err();
        assert!(matches!(error, PromptError::NotInField { .. }), "{error:?}");
    }

    #[test]
    fn free_text_is_trimmed() {
        let read = parse_output(
            &OutputKind::Text,
            " a b\n",
            &prompt(),
            &labels(&[]),
            &fields(""),
        );
        assert_eq!(read.unwrap(), Output::Text("a b".to_owned()));
    }

    proptest! {
        #[test]
        fn any_part_of_a_field_is_found_in_it(context in any::<String>(), a in 0usize..40, b in 0usize..40) {
            let places: Vec<usize> = context.char_indices().map(|(place, _)| place).chain([context.len()]).collect();
            let (a, b) = (places[a.min(places.len() - 1)], places[b.min(places.len() - 1)]);
            let part = context[a.min(b)..a.max(b)].trim().to_owned();
            match span(&part, &context) {
                Ok(Output::Span { start, end, text }) => {
                    prop_assert_eq!(&context[start..end], &text);
                    prop_assert_eq!(&text, &part);
                }
                Err(PromptError::EmptyOutput) => prop_assert!(part.is_empty()),
                other => prop_assert!(false, "{:?}", other),
            }
        }

        #[test]
        fn no_text_panics(text in any::<String>(), context in any::<String>()) {
            let _ = label(&text);
            let _ = span(&text, &context);
            let _ = label(&format!("{text}good{context}"));
        }
    }
}

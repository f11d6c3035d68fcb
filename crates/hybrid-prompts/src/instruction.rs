//! Instructions: a small grammar of edits that proposes new ones from those there are.

use std::collections::BTreeSet;

use hybrid_data::LabelSet;
use rand::seq::IndexedRandom;

use crate::label_words::label_phrase;
use crate::output::whole_words;
use crate::sampling::rng_of;

/// Longest instruction in characters that edits and models propose.
pub(crate) const MAX_CHARS: usize = 600;

/// Groups of phrases that may stand for each other.
const SLOTS: [&[&str]; 8] = [
    &["Classify", "Categorize", "Label", "Judge"],
    &["Decide", "Determine", "Say"],
    &["Read", "Look at", "Consider"],
    &[
        "the text",
        "the following text",
        "this text",
        "the text below",
    ],
    &["Answer with", "Reply with", "Respond with"],
    &["Answer", "Reply", "Respond"],
    &["Summarize", "Give a summary of", "Write a short summary of"],
    &["Use only", "Rely only on"],
];

/// Sentences that narrow what may be answered.
const CONSTRAINTS: [&str; 6] = [
    "Answer with one word.",
    "Answer with the label only.",
    "Do not explain.",
    "Be careful with negations.",
    "Think about the meaning as a whole.",
    "If you are unsure, give the most likely answer.",
];

/// What ends a sentence.
const ENDS: [char; 6] = ['.', '!', '?', '。', '！', '？'];

/// Which rule made an edit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum EditKind {
    /// A phrase gave way to another one of its slot.
    Rephrase,
    /// A constraint was added at the end.
    AddConstraint,
    /// A sentence other than the first was taken out.
    RemoveSentence,
    /// Two neighbouring sentences changed places.
    Reorder,
}

/// An instruction that is one edit away from another one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Edit {
    /// Which rule made it.
    pub kind: EditKind,
    /// The new instruction.
    pub instruction: String,
}

/// A grammar of edits: slots with phrases for each other, and constraints that come and go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstructionGrammar {
    /// Groups of phrases that may stand for each other. They are found whatever the case, as whole
    /// words, and the new one opens in the case of the old one.
    pub slots: Vec<Vec<String>>,
    /// Sentences that may be added.
    pub constraints: Vec<String>,
}

impl InstructionGrammar {
    /// The built-in grammar, with a constraint that lists the labels where there are at most
    /// twelve.
    pub fn built_in(labels: &LabelSet) -> Self {
        let mut constraints: Vec<String> = CONSTRAINTS.map(str::to_owned).to_vec();
        if (2..=12).contains(&labels.len()) {
            let names: Vec<String> = labels
                .names()
                .iter()
                .map(|label| label_phrase(label))
                .collect();
            constraints.push(format!("The labels are: {}.", names.join(", ")));
        }
        let owned = |group: &&[&str]| group.iter().map(|phrase| (*phrase).to_owned()).collect();
        Self {
            slots: SLOTS.iter().map(owned).collect(),
            constraints,
        }
    }

    /// All instructions that are one edit away, each once and none equal to the given one, in a
    /// fixed order. From an empty instruction, only constraints can be added.
    pub fn edits(&self, instruction: &str) -> Vec<Edit> {
        let mut edits = Vec::new();
        self.rephrase(instruction, &mut edits);
        let sentences = sentences(instruction);
        for constraint in &self.constraints {
            if whole_words(instruction, constraint).is_none() {
                let mut longer = sentences.clone();
                longer.push(constraint);
                edits.push(edit(EditKind::AddConstraint, instruction, &longer));
            }
        }
        for place in 1..sentences.len() {
            let mut shorter = sentences.clone();
            shorter.remove(place);
            edits.push(edit(EditKind::RemoveSentence, instruction, &shorter));
            let mut swapped = sentences.clone();
            swapped.swap(place - 1, place);
            edits.push(edit(EditKind::Reorder, instruction, &swapped));
        }
        let mut seen = BTreeSet::from([instruction.to_owned()]);
        edits.retain(|edit| {
            let short = edit.instruction.chars().count() <= MAX_CHARS;
            short && seen.insert(edit.instruction.clone())
        });
        edits
    }

    /// At most `n` new instructions, drawn with the seed, by walks of one to three edits from the
    /// given ones.
    pub fn expand(&self, instructions: &[String], n: usize, seed: u64) -> Vec<String> {
        let mut known: BTreeSet<String> = instructions.iter().cloned().collect();
        let mut found = Vec::new();
        // Walks may end where others did; so many that a small grammar is likely to be used up.
        for walk in 0..n.saturating_mul(8) {
            if found.len() == n {
                break;
            }
            let mut rng = rng_of(seed, &format!("instruction walk {walk}"));
            let Some(mut here) = instructions.choose(&mut rng).cloned() else {
                break;
            };
            for _ in 0..=walk % 3 {
                if let Some(edit) = self.edits(&here).choose(&mut rng) {
                    here.clone_from(&edit.instruction);
                }
            }
            if known.insert(here.clone()) {
                found.push(here);
            }
        }
        found
    }

    fn rephrase(&self, instruction: &str, edits: &mut Vec<Edit>) {
        for group in &self.slots {
            for phrase in group {
                let Some((start, end)) = whole_words(instruction, phrase) else {
                    continue;
                };
                // Part of a longer phrase of the group, which is replaced as a whole.
                let inside = group.iter().any(|longer| {
                    longer.len() > phrase.len()
                        && whole_words(instruction, longer)
                            .is_some_and(|(from, to)| from <= start && end <= to)
                });
                if inside {
                    continue;
                }
                let (before, old, after) = (
                    &instruction[..start],
                    &instruction[start..end],
                    &instruction[end..],
                );
                for other in group.iter().filter(|other| *other != phrase) {
                    edits.push(Edit {
                        kind: EditKind::Rephrase,
                        instruction: format!("{before}{}{after}", in_case_of(old, other)),
                    });
                }
            }
        }
    }
}

/// The sentences of a text, without white space around them.
fn sentences(text: &str) -> Vec<&str> {
    let mut sentences = Vec::new();
    let mut start = 0;
    let mut ended = false;
    for (place, c) in text.char_indices() {
        if c == '\n' || (ended && c.is_whitespace()) {
            sentences.push(text[start..place].trim());
            start = place;
        }
        ended = ENDS.contains(&c);
    }
    sentences.push(text[start..].trim());
    sentences.retain(|sentence| !sentence.is_empty());
    sentences
}

/// Sentences as one instruction, on lines of their own where the old one has lines or nothing else
/// would part them.
fn edit(kind: EditKind, old: &str, sentences: &[&str]) -> Edit {
    let has_lines = old.trim().contains('\n');
    let mut instruction = String::new();
    for sentence in sentences {
        if !instruction.is_empty() {
            let parted = instruction.ends_with(ENDS);
            instruction.push(if has_lines || !parted { '\n' } else { ' ' });
        }
        instruction.push_str(sentence);
    }
    Edit { kind, instruction }
}

/// A phrase whose first letter has the case of another phrase's.
fn in_case_of(old: &str, new: &str) -> String {
    let mut letters = new.chars();
    let (Some(old), Some(first)) = (old.chars().next(), letters.next()) else {
        return new.to_owned();
    };
    let opening: String = if old.is_uppercase() {
        first.to_uppercase().collect()
    } else {
        first.to_lowercase().collect()
    };
    opening + letters.as_str()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    use super::{EditKind, InstructionGrammar, MAX_CHARS, sentences};
    use crate::fake_model::labels;

    fn grammar() -> InstructionGrammar {
        let owned = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
        InstructionGrammar {
            slots: vec![
                owned(&["Classify", "Label"]),
                owned(&["the text", "the text below"]),
            ],
            constraints: owned(&["One word.", "Be brief."]),
        }
    }

    fn made_by(kind: EditKind, instruction: &str) -> Vec<String> {
        let edits = grammar().edits(instruction).into_iter();
        edits
            .filter(|edit| edit.kind == kind)
            .map(|edit| edit.instruction)
            .collect()
    }

    #[test]
    fn each_rule_makes_its_edits() {
        let instruction = "Now classify the text below. One word.";
        assert_eq!(
            made_by(EditKind::Rephrase, instruction),
            [
                "Now label the text below. One word.",
                "Now classify the text. One word."
            ]
        );
        assert_eq!(
            made_by(EditKind::AddConstraint, instruction),
            ["Now classify the text below. One word. Be brief."]
        );
        assert_eq!(
            made_by(EditKind::RemoveSentence, instruction),
            ["Now classify the text below."]
        );
        assert_eq!(
            made_by(EditKind::Reorder, instruction),
            ["One word. Now classify the text below."]
        );
        assert_eq!(
            made_by(EditKind::AddConstraint, ""),
            ["One word.", "Be brief."]
        );
        assert_eq!(made_by(EditKind::Reorder, "A\nB"), ["B\nA"]);
        assert!(
            made_by(EditKind::Rephrase, "Declassify this.").is_empty(),
            "whole words only"
        );
        assert_eq!(
            sentences("Is 1.5 much? Yes!\nOK"),
            ["Is 1.5 much?", "Yes!", "OK"]
        );
    }

    #[test]
    fn the_built_in_grammar_lists_few_labels() {
        let few = InstructionGrammar::built_in(&labels(&["top_up", "card"]));
        assert!(
            few.constraints
                .contains(&"The labels are: card, top up.".to_owned())
        );
        let many: Vec<String> = (0..13).map(|label| format!("l{label}")).collect();
        let many = InstructionGrammar::built_in(&many.into());
        assert_eq!(many.constraints.len() + 1, few.constraints.len());
    }

    #[test]
    fn expansion_is_seeded_and_new() {
        let grammar = InstructionGrammar::built_in(&labels(&["a", "b"]));
        let start = [
            "Classify the text.".to_owned(),
            "Read the text. Answer with one word.".to_owned(),
        ];
        let found = grammar.expand(&start, 20, 1);
        assert_eq!(found.len(), 20);
        let distinct: BTreeSet<&String> = found.iter().chain(&start).collect();
        assert_eq!(distinct.len(), 22);
        assert_eq!(found, grammar.expand(&start, 20, 1));
        assert_ne!(found, grammar.expand(&start, 20, 2));
        assert!(grammar.expand(&[], 3, 1).is_empty());
    }

    proptest! {
        #[test]
        fn edits_are_new_bounded_and_can_be_undone(text in any::<String>(), words in "([A-Z][a-z]{1,6} the text[.!?] ){0,4}") {
            for instruction in [text, words.trim().to_owned()] {
                let grammar = grammar();
                let edits = grammar.edits(&instruction);
                let distinct: BTreeSet<&str> = edits.iter().map(|edit| edit.instruction.as_str()).collect();
                prop_assert_eq!(distinct.len(), edits.len());
                prop_assert!(!distinct.contains(instruction.as_str()));
                let before = sentences(&instruction);
                for edit in &edits {
                    prop_assert!(edit.instruction.chars().count() <= MAX_CHARS);
                    let after = sentences(&edit.instruction);
                    match edit.kind {
                        EditKind::AddConstraint => prop_assert!(after.starts_with(&before) || before.is_empty()),
                        EditKind::RemoveSentence => prop_assert_eq!(after.len() + 1, before.len()),
                        EditKind::Reorder => {
                            let sorted = |list: &[&str]| { let mut list: Vec<String> = list.iter().map(|s| (*s).to_owned()).collect(); list.sort(); list };
                            prop_assert_eq!(sorted(&after), sorted(&before));
                        }
                        EditKind::Rephrase => {}
                    }
                }
            }
        }
    }
}

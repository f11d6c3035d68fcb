//! Built-in templates, label patterns and instructions.
//!
//! Templates and label patterns for encoders are for short texts of one intent each. They were chosen with all-MiniLM-L6-v2 on training rows of Banking77 and CLINC150: each is among
//! the best on one of the two, and the order is from plain to particular.

use std::collections::BTreeSet;

use crate::label_words::label_phrase;

/// Openings that go in front of the fields.
const OPENINGS: [&str; 8] = [
    "",
    "question: ",
    "customer question: ",
    "customer: ",
    "A customer writes: ",
    "help request: ",
    "The user wants to know: ",
    "This customer is asking about: ",
];

/// Choices of label words; the vectors of one choice are averaged.
const LABEL_PATTERNS: [&[&str]; 8] = [
    &["{{ label }}"],
    &["{{ label }}?"],
    &["my question is about {{ label }}"],
    &["customer question: {{ label }}"],
    &["{{ label }}", "my question is about {{ label }}"],
    &[
        "my question is about {{ label }}",
        "A customer writes: {{ label }}",
    ],
    &[
        "{{ label }}",
        "{{ label }}?",
        "customer question: {{ label }}",
    ],
    &[
        "{{ label }}",
        "my question is about {{ label }}",
        "customer question: {{ label }}",
        "I have a question about {{ label }}",
        "A customer writes: {{ label }}",
    ],
];

/// The built-in templates over these fields, which follow each other in the order of their names.
/// The first is the plain one.
pub fn default_templates(fields: &BTreeSet<String>) -> Vec<String> {
    let slots: Vec<String> = fields
        .iter()
        .map(|field| format!("{{{{ {field} }}}}"))
        .collect();
    OPENINGS
        .iter()
        .map(|opening| format!("{opening}{}", slots.join(" ")))
        .collect()
}

/// Cues at the end of a template that ask a language model for the answer.
const CUES: [&str; 4] = ["Answer:", "Label:", "Category:", "Output:"];

/// The built-in templates for a language model over these fields, in the order of their names: each
/// field on a line of its own after its name, and a cue for the answer.
pub fn default_language_templates(fields: &BTreeSet<String>) -> Vec<String> {
    let lines: Vec<String> = fields
        .iter()
        .map(|field| format!("{}: {{{{ {field} }}}}", capitalised(field)))
        .collect();
    let template = |cue: &&str| format!("{}\n{cue}", lines.join("\n"));
    CUES.iter().map(template).collect()
}

fn capitalised(name: &str) -> String {
    let phrase = label_phrase(name);
    let mut letters = phrase.chars();
    match letters.next() {
        Some(first) => first.to_uppercase().chain(letters).collect(),
        None => phrase,
    }
}

/// What kind of answer a task asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskKind {
    /// One of some labels.
    Classification,
    /// An answer to a question, as a rule out of a passage.
    QuestionAnswering,
    /// The text in another language.
    Translation,
    /// The gist of the text.
    Summarization,
}

/// The built-in instructions for a kind of task; the first is none.
pub fn default_instructions(task: TaskKind) -> Vec<String> {
    let instructions: &[&str] = match task {
        TaskKind::Classification => &[
            "",
            "Classify the text.",
            "Read the text. Answer with the label only.",
            "Decide which label fits the text best.",
        ],
        TaskKind::QuestionAnswering => &[
            "",
            "Answer the question.",
            "Read the text. Answer the question with a few words of the text.",
            "Use only the text. Give the shortest answer.",
        ],
        TaskKind::Translation => &[
            "",
            "Translate the text.",
            "Translate the text. Give the translation only.",
        ],
        TaskKind::Summarization => &[
            "",
            "Summarize the text.",
            "Summarize the text. Be short and leave out details.",
            "Say what the text is about. Use one sentence.",
        ],
    };
    instructions.iter().map(|text| (*text).to_owned()).collect()
}

/// The built-in label patterns; the first is the plain label.
pub fn default_label_patterns() -> Vec<Vec<String>> {
    LABEL_PATTERNS
        .iter()
        .map(|choice| choice.iter().map(|pattern| (*pattern).to_owned()).collect())
        .collect()
}

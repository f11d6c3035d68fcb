//! Built-in templates and label patterns for short texts of one intent each.
//!
//! They were chosen with all-MiniLM-L6-v2 on training rows of Banking77 and CLINC150: each is among
//! the best on one of the two, and the order is from plain to particular.

use std::collections::BTreeSet;

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

/// The built-in label patterns; the first is the plain label.
pub fn default_label_patterns() -> Vec<Vec<String>> {
    LABEL_PATTERNS
        .iter()
        .map(|choice| choice.iter().map(|pattern| (*pattern).to_owned()).collect())
        .collect()
}

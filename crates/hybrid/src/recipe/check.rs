//! All faults of a recipe at once, each with its line.

use std::fmt;
use std::path::PathBuf;

use jsonschema::error::ValidationErrorKind;
use jsonschema::{ValidationError, Validator};
use serde_json::Value;

use super::places::Places;
use super::{NAME_PATTERN, NAME_RULE};

/// One fault of a recipe.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    /// Line in the file, counted from 1; none for a key given by `--set`.
    pub line: Option<usize>,
    /// Dotted key, e.g. `stages.1.optimizer.lr`.
    pub key: String,
    /// What is wrong and what would be right.
    pub message: String,
}

/// All faults of one recipe file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecipeFaults {
    /// The recipe file.
    pub path: PathBuf,
    /// The faults in the order of their lines.
    pub faults: Vec<Fault>,
}

impl fmt::Display for RecipeFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        let plural = if self.faults.len() == 1 {
            "fault"
        } else {
            "faults"
        };
        write!(f, "{path}: {} {plural} in the recipe", self.faults.len())?;
        for fault in &self.faults {
            match fault.line {
                Some(line) => write!(f, "\n  {path}:{line}: {}: {}", fault.key, fault.message)?,
                None => write!(f, "\n  --set {}: {}", fault.key, fault.message)?,
            }
        }
        Ok(())
    }
}

impl std::error::Error for RecipeFaults {}

/// Holds `value` against the schema.
pub(super) fn check(validator: &Validator, value: &Value, places: &Places) -> Vec<Fault> {
    let mut found = Vec::new();
    for error in validator.iter_errors(value) {
        collect(&error, &mut found);
    }
    found
        .into_iter()
        .map(|(pointer, message)| {
            places.fault(&pointer.trim_start_matches('/').replace('/', "."), message)
        })
        .collect()
}

/// Unfolds an error into (JSON pointer, message) pairs.
fn collect(error: &ValidationError<'_>, found: &mut Vec<(String, String)>) {
    let pointer = error.instance_path().to_string();
    match error.kind() {
        ValidationErrorKind::AdditionalProperties { unexpected }
        | ValidationErrorKind::UnevaluatedProperties { unexpected } => {
            for key in unexpected {
                found.push((format!("{pointer}/{key}"), "unknown key".to_owned()));
            }
        }
        ValidationErrorKind::OneOfNotValid { context } | ValidationErrorKind::AnyOf { context } => {
            match chosen_variant(&pointer, context) {
                Some(errors) => errors.iter().for_each(|error| collect(error, found)),
                None => found.push((pointer, no_variant(context))),
            }
        }
        ValidationErrorKind::Required { property } => {
            let key = property.as_str().unwrap_or_default();
            found.push((pointer, format!("the key `{key}` is missing")));
        }
        ValidationErrorKind::Pattern { pattern } if pattern == NAME_PATTERN => {
            let message = format!("expected {NAME_RULE}, found {}", error.instance());
            found.push((pointer, message));
        }
        _ => found.push((pointer, error.to_string())),
    }
}

/// The variant of a tagged enum that the tag names: the one without an error at the tag itself.
fn chosen_variant<'a, 'e>(
    pointer: &str,
    context: &'a [Vec<ValidationError<'e>>],
) -> Option<&'a Vec<ValidationError<'e>>> {
    let names_another = |error: &ValidationError<'_>| {
        let at_tag = error
            .instance_path()
            .to_string()
            .strip_prefix(pointer)
            .is_some_and(|rest| rest.matches('/').count() <= 1);
        let wrong = matches!(
            error.kind(),
            ValidationErrorKind::Constant { .. }
                | ValidationErrorKind::Enum { .. }
                | ValidationErrorKind::Type { .. }
        );
        let missing_tag = matches!(error.kind(), ValidationErrorKind::Required { property }
            if matches!(property.as_str(), Some("kind" | "method")));
        at_tag && wrong && is_tag_or_self(pointer, error) || missing_tag
    };
    let mut matching = context
        .iter()
        .filter(|errors| !errors.iter().any(names_another));
    matching.next()
}

fn is_tag_or_self(pointer: &str, error: &ValidationError<'_>) -> bool {
    let path = error.instance_path().to_string();
    path == pointer || path == format!("{pointer}/kind") || path == format!("{pointer}/method")
}

/// What the value could have been.
fn no_variant(context: &[Vec<ValidationError<'_>>]) -> String {
    let mut options: Vec<String> = context
        .iter()
        .flatten()
        .filter_map(|error| match error.kind() {
            ValidationErrorKind::Constant { expected_value } => Some(expected_value.to_string()),
            ValidationErrorKind::Enum { options } => Some(options.to_string()),
            ValidationErrorKind::Required { property } => {
                Some(format!("a table with the key {property}"))
            }
            ValidationErrorKind::Type { .. } => Some(error.to_string()),
            _ => None,
        })
        .collect();
    options.dedup();
    format!("fits none of the choices: {}", options.join(", "))
}

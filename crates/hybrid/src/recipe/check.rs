//! All faults of a recipe at once, each with its line.

use std::fmt;
use std::path::PathBuf;

use jsonschema::ValidationError;
use jsonschema::error::ValidationErrorKind;
use serde_json::Value;
use strsim::damerau_levenshtein;

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
                Some(line) if fault.key.is_empty() => {
                    write!(f, "\n  {path}:{line}: {}", fault.message)?;
                }
                Some(line) => write!(f, "\n  {path}:{line}: {}: {}", fault.key, fault.message)?,
                None => write!(f, "\n  --set {}: {}", fault.key, fault.message)?,
            }
        }
        Ok(())
    }
}

impl std::error::Error for RecipeFaults {}

/// Holds `value` against the schema.
pub(super) fn check(schema: &Value, value: &Value, places: &Places) -> Vec<Fault> {
    let validator =
        jsonschema::validator_for(schema).expect("the derived schema is a valid schema");
    let mut found = Vec::new();
    for error in validator.iter_errors(value) {
        collect(schema, &error, &mut found);
    }
    found
        .into_iter()
        .map(|(pointer, message)| {
            places.fault(&pointer.trim_start_matches('/').replace('/', "."), message)
        })
        .collect()
}

/// Unfolds an error into (JSON pointer, message) pairs.
fn collect(schema: &Value, error: &ValidationError<'_>, found: &mut Vec<(String, String)>) {
    let pointer = error.instance_path().to_string();
    match error.kind() {
        ValidationErrorKind::AdditionalProperties { unexpected }
        | ValidationErrorKind::UnevaluatedProperties { unexpected } => {
            let known = known_keys(schema, error);
            for key in unexpected {
                found.push((format!("{pointer}/{key}"), unknown_key(key, &known)));
            }
        }
        ValidationErrorKind::OneOfNotValid { context } | ValidationErrorKind::AnyOf { context } => {
            match chosen_variant(&pointer, context) {
                Some(errors) => errors
                    .iter()
                    .for_each(|error| collect(schema, error, found)),
                None => found.push(no_variant(schema, error, context)),
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

/// The keys of the object in which an error found one too many.
fn known_keys<'s>(schema: &'s Value, error: &ValidationError<'_>) -> Vec<&'s str> {
    let rule = error.schema_path().as_str();
    let object = rule.rsplit_once('/').map_or("", |(object, _)| object);
    let keys = schema.pointer(&format!("{object}/properties"));
    let keys = keys.and_then(Value::as_object).into_iter().flatten();
    keys.map(|(key, _)| key.as_str()).collect()
}

/// Says that a key is unknown, and which known one is a few edits away.
fn unknown_key(key: &str, known: &[&str]) -> String {
    let few = (key.chars().count() / 3).max(1);
    let near = known
        .iter()
        .map(|name| (damerau_levenshtein(key, name), name))
        .min()
        .filter(|(edits, _)| *edits <= few);
    match near {
        Some((_, name)) => format!("unknown key; did you mean `{name}`?"),
        None => "unknown key".to_owned(),
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
            if property.as_str().is_some_and(|property| TAGS.contains(&property)));
        at_tag && wrong && is_tag_or_self(pointer, error) || missing_tag
    };
    let mut matching = context
        .iter()
        .filter(|errors| !errors.iter().any(names_another));
    matching.next()
}

fn is_tag_or_self(pointer: &str, error: &ValidationError<'_>) -> bool {
    let path = error.instance_path().to_string();
    path == pointer || TAGS.iter().any(|tag| path == format!("{pointer}/{tag}"))
}

/// Keys that tell the variants of an enum apart.
const TAGS: [&str; 2] = ["kind", "method"];

/// Where a value fits no variant of an enum, and what it could have been.
fn no_variant(
    schema: &Value,
    error: &ValidationError<'_>,
    context: &[Vec<ValidationError<'_>>],
) -> (String, String) {
    let (pointer, found) = (error.instance_path().to_string(), error.instance());
    let variants = schema.pointer(error.schema_path().as_str());
    let constants = |place: &str| -> Vec<String> {
        let variants = variants.and_then(Value::as_array).into_iter().flatten();
        let constants = variants.filter_map(|variant| variant.pointer(place));
        constants.map(Value::to_string).collect()
    };
    for tag in TAGS {
        let names = constants(&format!("/properties/{tag}/const")).join(", ");
        if names.is_empty() {
            continue;
        }
        let Some(fields) = found.as_object() else {
            let message =
                format!("expected a table with the key `{tag}`, one of {names}; found {found}");
            return (pointer, message);
        };
        return match fields.get(tag) {
            Some(name) => (
                format!("{pointer}/{tag}"),
                format!("expected one of {names}; found {name}"),
            ),
            None => (
                pointer,
                format!("the key `{tag}` is missing; it is one of {names}"),
            ),
        };
    }
    let names = constants("/const");
    if !names.is_empty() {
        let message = format!("expected one of {}; found {found}", names.join(", "));
        return (pointer, message);
    }
    let types = context.iter().flatten();
    let types = types.filter(|error| matches!(error.kind(), ValidationErrorKind::Type { .. }));
    let mut types: Vec<String> = types.map(ToString::to_string).collect();
    types.dedup();
    let message = format!("fits none of the choices: {}", types.join(", "));
    (pointer, message)
}

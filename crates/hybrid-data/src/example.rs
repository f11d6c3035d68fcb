//! One example, where it came from, and how columns become its fields.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::DataError;
use crate::source::{Cell, Row};

/// One example: named texts, and the label if it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// Template field name to text.
    pub fields: BTreeMap<String, String>,
    /// The wanted answer.
    pub label: Option<String>,
    /// Where it was read.
    pub origin: Origin,
}

/// Where an example was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The file.
    pub file: Arc<Path>,
    /// The line, from 1; the row in a Parquet file.
    pub line: usize,
}

/// Which columns of a file become which fields.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FieldMapping {
    /// Template field name to column name.
    pub fields: BTreeMap<String, String>,
    /// Column of the label; none for unlabelled data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
}

impl FieldMapping {
    /// A mapping from (template field, column) pairs and the label's column.
    pub fn new<'a>(
        fields: impl IntoIterator<Item = (&'a str, &'a str)>,
        label: Option<&str>,
    ) -> Self {
        let fields = fields
            .into_iter()
            .map(|(field, column)| (field.to_owned(), column.to_owned()));
        Self {
            fields: fields.collect(),
            label: label.map(str::to_owned),
        }
    }

    /// Makes a row an example.
    ///
    /// # Errors
    /// [`DataError::MissingField`], [`DataError::NotText`] or [`DataError::EmptyLabel`], with the
    /// row's file and line.
    pub fn apply(&self, row: &Row) -> Result<Example, DataError> {
        let mut fields = BTreeMap::new();
        for (field, column) in &self.fields {
            fields.insert(field.clone(), text(row, column)?.to_owned());
        }
        let label = match &self.label {
            None => None,
            Some(column) => {
                let label = text(row, column)?;
                if label.trim().is_empty() {
                    return Err(DataError::EmptyLabel {
                        path: row.origin.file.to_path_buf(),
                        line: row.origin.line,
                        field: column.clone(),
                    });
                }
                Some(label.to_owned())
            }
        };
        Ok(Example {
            fields,
            label,
            origin: row.origin.clone(),
        })
    }
}

fn text<'a>(row: &'a Row, column: &str) -> Result<&'a str, DataError> {
    match row.cells.get(column) {
        Some(Cell::Text(text)) => Ok(text),
        Some(Cell::Other(found)) => Err(DataError::NotText {
            path: row.origin.file.to_path_buf(),
            line: row.origin.line,
            field: column.to_owned(),
            found,
        }),
        None => Err(DataError::MissingField {
            path: row.origin.file.to_path_buf(),
            line: row.origin.line,
            field: column.to_owned(),
            present: row.cells.keys().cloned().collect(),
        }),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::{BTreeMap, Example, FieldMapping, Origin, Path};

    /// An example of `rows.jsonl`.
    pub(crate) fn example(line: usize, label: &str) -> Example {
        Example {
            fields: BTreeMap::from([("text".to_owned(), format!("text {line}"))]),
            label: Some(label.to_owned()),
            origin: Origin {
                file: Path::new("rows.jsonl").into(),
                line,
            },
        }
    }

    #[test]
    fn a_mapping_refuses_unknown_keys() {
        let mapping: FieldMapping =
            serde_json::from_str(r#"{"fields": {"text": "query"}, "label": "intent"}"#).unwrap();
        assert_eq!(
            mapping,
            FieldMapping::new([("text", "query")], Some("intent"))
        );
        assert!(
            serde_json::from_str::<FieldMapping>(r#"{"fields": {}, "lable": "intent"}"#).is_err()
        );
    }
}

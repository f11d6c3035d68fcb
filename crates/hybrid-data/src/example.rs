//! One example, where it came from, and how columns become its fields.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::DataError;
use crate::source::{Answer, Cell, Row};

/// One example: named texts, and the right answers as far as they are known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// Template field name to text.
    pub fields: BTreeMap<String, String>,
    /// The wanted answer.
    pub label: Option<String>,
    /// All right answers, the label among them; none where no label is known.
    pub references: Vec<String>,
    /// Where the label starts in the passage that it is from, in Unicode code points, as far as the
    /// references say so.
    pub label_start: Option<usize>,
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
    /// Column of the label. Without one the first reference is the label; data with neither are
    /// unlabelled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Column of all right answers, a string or a list of strings, for tasks that may have several.
    /// An empty list is a question without answer. A label with a column of its own that is not
    /// among them stands first; without this column it is the only one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub references: Option<String>,
}

impl FieldMapping {
    /// A mapping from (template field, column) pairs and the label's column, without references.
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
            references: None,
        }
    }

    /// Makes a row an example.
    ///
    /// # Errors
    /// [`DataError::MissingField`], [`DataError::NotText`], [`DataError::NotTexts`],
    /// [`DataError::EmptyLabel`] or [`DataError::EmptyReference`], with the row's file and line.
    pub fn apply(&self, row: &Row) -> Result<Example, DataError> {
        let mut fields = BTreeMap::new();
        for (field, column) in &self.fields {
            fields.insert(field.clone(), text(row, column)?.to_owned());
        }
        let answers = match &self.references {
            None => Vec::new(),
            Some(column) => references_in(row, column)?,
        };
        let start_of = |label: &String| {
            let answer = answers.iter().find(|answer| answer.text == *label);
            answer.and_then(|answer| answer.start)
        };
        let mut references: Vec<String> =
            answers.iter().map(|answer| answer.text.clone()).collect();
        let label = match &self.label {
            None => references.first().cloned(),
            Some(column) => {
                let label = label_in(row, column)?;
                if !references.contains(&label) {
                    references.insert(0, label.clone());
                }
                Some(label)
            }
        };
        Ok(Example {
            fields,
            label_start: label.as_ref().and_then(start_of),
            label,
            references,
            origin: row.origin.clone(),
        })
    }
}

fn label_in(row: &Row, column: &str) -> Result<String, DataError> {
    let label = text(row, column)?;
    if label.trim().is_empty() {
        return Err(DataError::EmptyLabel {
            path: row.origin.file.to_path_buf(),
            line: row.origin.line,
            field: column.to_owned(),
        });
    }
    Ok(label.to_owned())
}

fn references_in(row: &Row, column: &str) -> Result<Vec<Answer>, DataError> {
    let without_start = |text: &String| Answer {
        text: text.clone(),
        start: None,
    };
    let references: Vec<Answer> = match cell(row, column)? {
        Cell::Text(text) => vec![without_start(text)],
        Cell::Texts(texts) => texts.iter().map(without_start).collect(),
        Cell::Answers(answers) => answers.clone(),
        Cell::Other(found) => {
            return Err(DataError::NotTexts {
                path: row.origin.file.to_path_buf(),
                line: row.origin.line,
                field: column.to_owned(),
                found,
            });
        }
    };
    if references
        .iter()
        .any(|answer| answer.text.trim().is_empty())
    {
        return Err(DataError::EmptyReference {
            path: row.origin.file.to_path_buf(),
            line: row.origin.line,
            field: column.to_owned(),
        });
    }
    Ok(references)
}

fn text<'a>(row: &'a Row, column: &str) -> Result<&'a str, DataError> {
    let found = match cell(row, column)? {
        Cell::Text(text) => return Ok(text),
        Cell::Texts(_) | Cell::Answers(_) => "a list",
        Cell::Other(found) => found,
    };
    Err(DataError::NotText {
        path: row.origin.file.to_path_buf(),
        line: row.origin.line,
        field: column.to_owned(),
        found,
    })
}

fn cell<'a>(row: &'a Row, column: &str) -> Result<&'a Cell, DataError> {
    row.cells
        .get(column)
        .ok_or_else(|| DataError::MissingField {
            path: row.origin.file.to_path_buf(),
            line: row.origin.line,
            field: column.to_owned(),
            present: row.cells.keys().cloned().collect(),
        })
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::collection::vec;
    use proptest::prelude::{prop_assert, prop_assert_eq, proptest};

    use super::{BTreeMap, Cell, Example, FieldMapping, Origin, Path, Row};

    /// An example of `rows.jsonl`.
    pub(crate) fn example(line: usize, label: &str) -> Example {
        Example {
            fields: BTreeMap::from([("text".to_owned(), format!("text {line}"))]),
            label: Some(label.to_owned()),
            references: vec![label.to_owned()],
            label_start: None,
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

    #[test]
    fn a_mapping_is_written_without_what_it_lacks() {
        let mut mapping = FieldMapping::new([("text", "query")], None);
        let written = serde_json::to_string(&mapping).unwrap();
        assert_eq!(written, r#"{"fields":{"text":"query"}}"#);
        mapping.references = Some("answers".to_owned());
        let written = serde_json::to_string(&mapping).unwrap();
        assert_eq!(
            serde_json::from_str::<FieldMapping>(&written).unwrap(),
            mapping
        );
    }

    /// A row with one answer and several.
    fn row(answer: &str, answers: &[&str]) -> Row {
        let answers = answers.iter().map(|&text| text.to_owned()).collect();
        Row {
            cells: BTreeMap::from([
                ("answer".to_owned(), Cell::Text(answer.to_owned())),
                ("answers".to_owned(), Cell::Texts(answers)),
            ]),
            origin: example(1, answer).origin,
        }
    }

    fn mapped(row: &Row, label: Option<&str>, references: Option<&str>) -> Example {
        let mapping = FieldMapping {
            references: references.map(str::to_owned),
            ..FieldMapping::new([], label)
        };
        mapping.apply(row).unwrap()
    }

    #[test]
    fn label_and_references_stand_in_for_each_other() {
        let row = row("a", &["b", "c"]);
        for (label, references, wanted_label, wanted) in [
            (None, None, None, &[][..]),
            (Some("answer"), None, Some("a"), &["a"]),
            (None, Some("answer"), Some("a"), &["a"]),
            (None, Some("answers"), Some("b"), &["b", "c"]),
            (Some("answer"), Some("answers"), Some("a"), &["a", "b", "c"]),
        ] {
            let example = mapped(&row, label, references);
            assert_eq!(
                example.label.as_deref(),
                wanted_label,
                "{label:?} {references:?}"
            );
            assert_eq!(example.references, wanted, "{label:?} {references:?}");
        }
    }

    #[test]
    fn a_label_among_the_references_stays_where_it_stands() {
        let example = mapped(&row("c", &["b", "c"]), Some("answer"), Some("answers"));
        assert_eq!(example.label.as_deref(), Some("c"));
        assert_eq!(example.references, ["b", "c"]);
    }

    #[test]
    fn a_question_without_answer_has_no_label() {
        let example = mapped(&row("a", &[]), None, Some("answers"));
        assert_eq!((example.label, example.references), (None, Vec::new()));
    }

    proptest! {
        #[test]
        fn the_label_is_always_among_the_references(
            answer in "[a-c]", answers in vec("[a-c]", 0..5), with_label: bool,
        ) {
            let answers: Vec<&str> = answers.iter().map(String::as_str).collect();
            let row = row(&answer, &answers);
            let example = mapped(&row, with_label.then_some("answer"), Some("answers"));
            match &example.label {
                Some(label) => prop_assert!(example.references.contains(label)),
                None => prop_assert!(example.references.is_empty()),
            }
            let own = example.references.len() - answers.len();
            prop_assert_eq!(own == 1, with_label && !answers.contains(&answer.as_str()));
            prop_assert_eq!(&example.references[own..], answers, "order and repetitions stay");
        }
    }
}

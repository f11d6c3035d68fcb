//! The labels of a task in a fixed order.

use serde::{Deserialize, Serialize};

use crate::error::DataError;
use crate::example::Example;

/// The distinct labels of a task, sorted by their bytes; a label's index is its class number.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<String>", into = "Vec<String>")]
pub struct LabelSet {
    names: Vec<String>,
}

impl LabelSet {
    /// The labels of the fit examples.
    ///
    /// # Errors
    /// [`DataError::Unlabelled`] for an example without a label.
    pub fn of(examples: &[Example]) -> Result<Self, DataError> {
        let names = examples
            .iter()
            .map(|example| label_of(example).map(str::to_owned));
        Ok(names.collect::<Result<Vec<_>, _>>()?.into())
    }

    /// The labels in class order.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// How many labels there are.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether there is no label.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// The class number of a label.
    pub fn index_of(&self, label: &str) -> Option<usize> {
        self.names
            .binary_search_by(|name| name.as_str().cmp(label))
            .ok()
    }

    /// The class number of each example.
    ///
    /// # Errors
    /// [`DataError::Unlabelled`] and [`DataError::UnknownLabel`], with file and line.
    pub fn targets(&self, examples: &[Example]) -> Result<Vec<usize>, DataError> {
        let target = |example: &Example| {
            let label = label_of(example)?;
            self.index_of(label).ok_or_else(|| DataError::UnknownLabel {
                path: example.origin.file.to_path_buf(),
                line: example.origin.line,
                label: label.to_owned(),
                n_labels: self.len(),
            })
        };
        examples.iter().map(target).collect()
    }
}

impl From<Vec<String>> for LabelSet {
    fn from(mut names: Vec<String>) -> Self {
        names.sort();
        names.dedup();
        Self { names }
    }
}

impl From<LabelSet> for Vec<String> {
    fn from(labels: LabelSet) -> Self {
        labels.names
    }
}

/// The label of an example that must have one.
pub(crate) fn label_of(example: &Example) -> Result<&str, DataError> {
    example
        .label
        .as_deref()
        .ok_or_else(|| DataError::Unlabelled {
            path: example.origin.file.to_path_buf(),
            line: example.origin.line,
        })
}

#[cfg(test)]
mod tests {
    use super::LabelSet;
    use crate::example::tests::example;

    #[test]
    fn labels_are_sorted_and_distinct() {
        let labels = LabelSet::of(&[
            example(1, "b"),
            example(2, "A"),
            example(3, "b"),
            example(4, "a"),
        ])
        .unwrap();
        assert_eq!(labels.names(), ["A", "a", "b"]);
        assert_eq!(
            (labels.index_of("b"), labels.index_of("c")),
            (Some(2), None)
        );
        let json = serde_json::to_string(&labels).unwrap();
        assert_eq!(json, r#"["A","a","b"]"#);
        assert_eq!(serde_json::from_str::<LabelSet>(&json).unwrap(), labels);
    }

    #[test]
    fn a_label_that_fit_lacks_is_named_with_its_line() {
        let labels = LabelSet::of(&[example(1, "a"), example(2, "b")]).unwrap();
        assert_eq!(
            labels.targets(&[example(1, "b"), example(2, "a")]).unwrap(),
            [1, 0]
        );
        let error = labels
            .targets(&[example(8, "a"), example(9, "c")])
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "rows.jsonl:9: label `c` is none of the 2 labels of the fit examples"
        );
        let mut unlabelled = example(5, "a");
        unlabelled.label = None;
        let error = LabelSet::of(&[unlabelled]).unwrap_err();
        assert_eq!(error.to_string(), "rows.jsonl:5: the example has no label");
    }
}

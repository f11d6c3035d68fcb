//! What a run wrote: some of its outputs beside what was wanted.

use serde::{Deserialize, Serialize};

use crate::metrics::check_rows;
use crate::{EvalError, TextTask};

/// Examples that a report shows.
const SHOWN: usize = 20;

/// Outputs of the winner on the report split.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TextReport {
    /// What was asked of the texts.
    pub task: TextTask,
    /// The first examples of the split.
    pub examples: Vec<OutputExample>,
}

/// One output beside what was wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputExample {
    /// What was given.
    pub input: String,
    /// What would have been right; nothing for a question without answer.
    pub wanted: Vec<String>,
    /// What was written.
    pub output: String,
}

impl TextReport {
    /// Keeps the first 20 examples of a split.
    ///
    /// # Errors
    /// [`EvalError::Empty`], or [`EvalError::Length`] unless each input has an output and a list of
    /// references.
    pub fn of<R: AsRef<str>>(
        task: TextTask,
        inputs: &[impl AsRef<str>],
        references: &[impl AsRef<[R]>],
        outputs: &[impl AsRef<str>],
    ) -> Result<Self, EvalError> {
        check_rows("references", inputs.len(), references.len())?;
        check_rows("outputs", inputs.len(), outputs.len())?;
        let rows = inputs.iter().zip(references).zip(outputs).take(SHOWN);
        let example = |((input, references), output): ((_, &_), _)| OutputExample {
            input: text(input),
            wanted: AsRef::<[R]>::as_ref(references).iter().map(text).collect(),
            output: text(output),
        };
        Ok(Self {
            task,
            examples: rows.map(example).collect(),
        })
    }
}

fn text(text: &impl AsRef<str>) -> String {
    text.as_ref().to_owned()
}

#[cfg(test)]
mod tests {
    use super::TextReport;
    use crate::{EvalError, TextTask};

    #[test]
    fn the_first_examples_are_kept() {
        let texts: Vec<String> = (0..30).map(|row| row.to_string()).collect();
        let references: Vec<Vec<String>> = (0..30).map(|row| vec!["x".to_owned(); row]).collect();
        let task = TextTask::QuestionAnswering;
        let report = TextReport::of(task, &texts, &references, &texts).unwrap();
        assert_eq!(report.examples.len(), 20);
        for (row, example) in report.examples.iter().enumerate() {
            assert_eq!(example.input, row.to_string());
            assert_eq!(example.output, row.to_string());
            assert_eq!(example.wanted.len(), row);
        }
        assert!(matches!(
            TextReport::of(task, &texts, &references, &texts[1..]),
            Err(EvalError::Length { found: 29, .. })
        ));
        assert!(matches!(
            TextReport::of(task, &texts, &references[1..], &texts),
            Err(EvalError::Length { found: 29, .. })
        ));
    }
}

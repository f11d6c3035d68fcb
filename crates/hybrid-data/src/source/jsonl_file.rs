//! JSON Lines: one object a line; blank lines are passed over.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use burn_dataset::Dataset;
use serde_json::{Map, Value};

use super::{Answer, Cell, Row, read_bytes, utf8};
use crate::error::DataError;
use crate::example::Origin;

/// An open JSON Lines file.
pub(super) struct JsonlFile {
    file: Arc<Path>,
    bytes: Vec<u8>,
    /// Line number and bytes of each line that is not blank.
    lines: Vec<(usize, Range<usize>)>,
}

impl JsonlFile {
    pub(super) fn open(file: Arc<Path>) -> Result<Self, DataError> {
        let bytes = read_bytes(&file)?;
        let mut lines = Vec::new();
        let mut start = 0;
        for (index, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
            if !line.iter().all(u8::is_ascii_whitespace) {
                lines.push((index + 1, start..start + line.len()));
            }
            start += line.len() + 1;
        }
        if lines.is_empty() {
            return Err(DataError::Empty {
                path: file.to_path_buf(),
            });
        }
        Ok(Self { file, bytes, lines })
    }
}

impl Dataset<Row, DataError> for JsonlFile {
    fn get(&self, index: usize) -> Result<Row, DataError> {
        let (line, range) = &self.lines[index];
        let origin = Origin {
            file: Arc::clone(&self.file),
            line: *line,
        };
        let bytes = &self.bytes[range.clone()];
        let text = utf8(bytes, &origin, || faulty_field(bytes))?;
        let object = parse(text).map_err(|source| DataError::Json {
            path: self.file.to_path_buf(),
            line: *line,
            // Parsed once more where it stands, so that the fault names the file's line.
            source: parse(&("\n".repeat(line - 1) + text))
                .err()
                .unwrap_or(source),
        })?;
        let cells = object.into_iter().map(|(name, value)| (name, cell(value)));
        Ok(Row {
            cells: cells.collect(),
            origin,
        })
    }

    fn len(&self) -> usize {
        self.lines.len()
    }
}

fn parse(text: &str) -> serde_json::Result<Map<String, Value>> {
    serde_json::from_str(text)
}

/// The field that holds bytes which are no UTF-8, if the line is an object apart from them.
fn faulty_field(line: &[u8]) -> Option<String> {
    // A private character that the line does not have stands for them.
    let is_free = |mark: &char| {
        let mut chunks = line.utf8_chunks();
        !chunks.any(|chunk| chunk.valid().contains(*mark))
    };
    let mark = ('\u{e000}'..='\u{f8ff}').find(is_free)?;
    let mut text = String::new();
    for chunk in line.utf8_chunks() {
        text.push_str(chunk.valid());
        if !chunk.invalid().is_empty() {
            text.push(mark);
        }
    }
    let holds_mark =
        |(name, value): &(String, Value)| name.contains(mark) || value.to_string().contains(mark);
    let (name, _) = parse(&text).ok()?.into_iter().find(holds_mark)?;
    Some(name.replace(mark, "\u{fffd}"))
}

fn cell(value: Value) -> Cell {
    match value {
        Value::String(text) => Cell::Text(text),
        Value::Null => Cell::Other("null"),
        Value::Bool(_) => Cell::Other("a boolean"),
        Value::Number(_) => Cell::Other("a number"),
        Value::Array(values) => list(values),
        Value::Object(_) => Cell::Other("an object"),
    }
}

fn list(values: Vec<Value>) -> Cell {
    let answer = |value| match value {
        Value::String(text) => Ok(Answer { text, start: None }),
        Value::Object(mut object) => match object.remove("text") {
            Some(Value::String(text)) => Ok(Answer {
                text,
                start: start(&object)?,
            }),
            _ => Err("a list with an object without a string `text`"),
        },
        Value::Null => Err("a list with null in it"),
        Value::Bool(_) => Err("a list with a boolean in it"),
        Value::Number(_) => Err("a list with a number in it"),
        Value::Array(_) => Err("a list with a list in it"),
    };
    let answers: Result<Vec<Answer>, _> = values.into_iter().map(answer).collect();
    match answers {
        Err(found) => Cell::Other(found),
        Ok(answers) if answers.iter().any(|answer| answer.start.is_some()) => {
            Cell::Answers(answers)
        }
        Ok(answers) => Cell::Texts(answers.into_iter().map(|answer| answer.text).collect()),
    }
}

/// Where an answer starts: `start`, or `answer_start` as in SQuAD's own files.
fn start(object: &Map<String, Value>) -> Result<Option<usize>, &'static str> {
    let Some(value) = object.get("start").or_else(|| object.get("answer_start")) else {
        return Ok(None);
    };
    let start = value.as_u64().and_then(|start| usize::try_from(start).ok());
    start
        .map(Some)
        .ok_or("a list with an object whose `start` is no whole number")
}

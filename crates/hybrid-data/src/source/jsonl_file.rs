//! JSON Lines: one object a line; blank lines are passed over.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use burn_dataset::Dataset;
use serde_json::{Map, Value};

use super::{Cell, Row, read_bytes, utf8};
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
        let text = utf8(&self.bytes[range.clone()], &origin)?;
        let object: Map<String, Value> =
            serde_json::from_str(text).map_err(|source| DataError::Json {
                path: self.file.to_path_buf(),
                line: *line,
                source,
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

fn cell(value: Value) -> Cell {
    match value {
        Value::String(text) => Cell::Text(text),
        Value::Null => Cell::Other("null"),
        Value::Bool(_) => Cell::Other("a boolean"),
        Value::Number(_) => Cell::Other("a number"),
        Value::Array(_) => Cell::Other("a list"),
        Value::Object(_) => Cell::Other("an object"),
    }
}

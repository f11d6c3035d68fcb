//! Comma-separated values with a header row (RFC 4180).

use std::path::Path;
use std::sync::Arc;

use burn_dataset::Dataset;
use csv::{ByteRecord, ReaderBuilder};

use super::{Cell, Row, read_bytes, utf8};
use crate::error::DataError;
use crate::example::Origin;

/// An open CSV file.
pub(super) struct CsvFile {
    file: Arc<Path>,
    header: Vec<String>,
    /// First line and fields of each row.
    records: Vec<(usize, ByteRecord)>,
}

impl CsvFile {
    pub(super) fn open(file: Arc<Path>) -> Result<Self, DataError> {
        let bytes = read_bytes(&file)?;
        let mut reader = ReaderBuilder::new().from_reader(bytes.as_slice());
        let broken = |source: csv::Error| {
            let line = source
                .position()
                .map_or(1, |position| position.line() as usize);
            DataError::Csv {
                path: file.to_path_buf(),
                line,
                source,
            }
        };
        let origin = Origin {
            file: Arc::clone(&file),
            line: 1,
        };
        let header = reader.byte_headers().map_err(broken)?;
        let name = |(index, name)| {
            let column = || Some(format!("column {}", index + 1));
            Ok(utf8(name, &origin, column)?.to_owned())
        };
        let header = header
            .iter()
            .enumerate()
            .map(name)
            .collect::<Result<_, _>>()?;
        let mut records = Vec::new();
        for record in reader.byte_records() {
            let record = record.map_err(broken)?;
            let line = record
                .position()
                .map_or(1, |position| position.line() as usize);
            records.push((line, record));
        }
        if records.is_empty() {
            return Err(DataError::Empty {
                path: file.to_path_buf(),
            });
        }
        Ok(Self {
            file,
            header,
            records,
        })
    }
}

impl Dataset<Row, DataError> for CsvFile {
    fn get(&self, index: usize) -> Result<Row, DataError> {
        let (line, record) = &self.records[index];
        let origin = Origin {
            file: Arc::clone(&self.file),
            line: *line,
        };
        let cells = self.header.iter().zip(record).map(|(name, value)| {
            let value = utf8(value, &origin, || Some(name.clone()))?;
            Ok((name.clone(), Cell::Text(value.to_owned())))
        });
        Ok(Row {
            cells: cells.collect::<Result<_, _>>()?,
            origin,
        })
    }

    fn len(&self) -> usize {
        self.records.len()
    }
}

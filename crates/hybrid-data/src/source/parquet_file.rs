//! Parquet tables, read row by row; string columns become fields.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use burn_dataset::Dataset;
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, Row as Record};

use super::{Cell, Row, unreadable};
use crate::error::DataError;
use crate::example::Origin;

/// An open Parquet file.
pub(super) struct ParquetFile {
    file: Arc<Path>,
    records: Vec<Record>,
}

impl ParquetFile {
    pub(super) fn open(file: Arc<Path>) -> Result<Self, DataError> {
        let handle = File::open(&file).map_err(|source| unreadable(&file, source))?;
        let broken = |line: usize, source: ParquetError| DataError::Parquet {
            path: file.to_path_buf(),
            line,
            source,
        };
        let reader = SerializedFileReader::new(handle).map_err(|source| broken(0, source))?;
        let rows = reader
            .get_row_iter(None)
            .map_err(|source| broken(0, source))?;
        let mut records = Vec::new();
        for (index, record) in rows.enumerate() {
            records.push(record.map_err(|source| broken(index + 1, source))?);
        }
        if records.is_empty() {
            return Err(DataError::Empty {
                path: file.to_path_buf(),
            });
        }
        Ok(Self { file, records })
    }
}

impl Dataset<Row, DataError> for ParquetFile {
    fn get(&self, index: usize) -> Result<Row, DataError> {
        let cells = self.records[index]
            .get_column_iter()
            .map(|(name, field)| (name.clone(), cell(field)));
        Ok(Row {
            cells: cells.collect(),
            origin: Origin {
                file: Arc::clone(&self.file),
                line: index + 1,
            },
        })
    }

    fn len(&self) -> usize {
        self.records.len()
    }
}

fn cell(field: &Field) -> Cell {
    match field {
        Field::Str(text) => Cell::Text(text.clone()),
        Field::Null => Cell::Other("null"),
        Field::Bool(_) => Cell::Other("a boolean"),
        Field::Bytes(_) => Cell::Other("bytes"),
        Field::Group(_) | Field::MapInternal(_) => Cell::Other("an object"),
        Field::ListInternal(_) => Cell::Other("a list"),
        _ => Cell::Other("a number or date"),
    }
}

#[cfg(test)]
mod tests {
    use parquet::data_type::{ByteArray, ByteArrayType, Int32Type};
    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;

    use crate::{DataError, FieldMapping, read_examples};

    fn write(path: &std::path::Path, texts: &[&str], labels: &[&str]) {
        let schema = parse_message_type(
            "message rows { required binary text (UTF8); required binary label (UTF8); required int32 code; }",
        )
        .unwrap();
        let properties = WriterProperties::builder().build();
        let file = std::fs::File::create(path).unwrap();
        let mut writer = SerializedFileWriter::new(file, schema.into(), properties.into()).unwrap();
        let mut group = writer.next_row_group().unwrap();
        for values in [texts, labels] {
            let values: Vec<ByteArray> = values.iter().map(|text| ByteArray::from(*text)).collect();
            let mut column = group.next_column().unwrap().unwrap();
            column
                .typed::<ByteArrayType>()
                .write_batch(&values, None, None)
                .unwrap();
            column.close().unwrap();
        }
        let mut column = group.next_column().unwrap().unwrap();
        let codes: Vec<i32> = (0..texts.len() as i32).collect();
        column
            .typed::<Int32Type>()
            .write_batch(&codes, None, None)
            .unwrap();
        column.close().unwrap();
        group.close().unwrap();
        writer.close().unwrap();
    }

    #[test]
    fn string_columns_become_fields_and_others_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.parquet");
        write(&path, &["wo ist meine Karte?", "größer"], &["a", "b"]);
        let examples =
            read_examples(&path, &FieldMapping::new([("text", "text")], Some("label"))).unwrap();
        assert_eq!(examples.len(), 2);
        assert_eq!(examples[1].fields["text"], "größer");
        assert_eq!(
            (examples[1].label.as_deref(), examples[1].origin.line),
            (Some("b"), 2)
        );

        let error =
            read_examples(&path, &FieldMapping::new([("text", "text")], Some("code"))).unwrap_err();
        assert!(
            error
                .to_string()
                .ends_with(":1: field `code` is a number or date, expected a string"),
            "{error}"
        );
    }

    #[test]
    fn a_damaged_file_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.parquet");
        write(&path, &["a"], &["b"]);
        let bytes = std::fs::read(&path).unwrap();
        for damaged in [&bytes[..bytes.len() / 2], b"PAR1PAR1", b""] {
            std::fs::write(&path, damaged).unwrap();
            let error =
                read_examples(&path, &FieldMapping::new([("text", "text")], None)).unwrap_err();
            assert!(
                matches!(error, DataError::Parquet { line: 0, .. }),
                "{error:?}"
            );
        }
    }
}

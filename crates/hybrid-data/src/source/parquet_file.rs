//! Parquet tables, read row by row; columns of strings and of lists of strings become fields.

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
        Field::ListInternal(found) => list(found.elements()),
        _ => Cell::Other("a number or date"),
    }
}

fn list(elements: &[Field]) -> Cell {
    let text = |element: &Field| match element {
        Field::Str(text) => Ok(text.clone()),
        Field::Group(record) => {
            let mut columns = record.get_column_iter();
            match columns.find(|(name, _)| *name == "text") {
                Some((_, Field::Str(text))) => Ok(text.clone()),
                _ => Err("a list with an object without a string `text`"),
            }
        }
        Field::Null => Err("a list with null in it"),
        _ => Err("a list of other than strings"),
    };
    let texts = elements.iter().map(text).collect::<Result<_, _>>();
    texts.map_or_else(Cell::Other, Cell::Texts)
}

#[cfg(test)]
mod tests {
    use parquet::column::writer::ColumnWriter;
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

    /// Three rows with a list of strings and a list of objects: two answers, one, none.
    fn write_lists(path: &std::path::Path) {
        let schema = parse_message_type(
            "message rows {
                required group answers (LIST) {
                    repeated group list { required binary element (UTF8); }
                }
                required group spans (LIST) {
                    repeated group list {
                        required group element {
                            required int32 start;
                            required binary text (UTF8);
                        }
                    }
                }
                required group starts (LIST) {
                    repeated group list { required int32 element; }
                }
            }",
        )
        .unwrap();
        // A value of its own row repeats at level 0, one more of the same row at level 1; the last
        // row's list is not defined any deeper than itself.
        let (defined, repeated) = ([1, 1, 1, 0], [0, 1, 0, 0]);
        let properties = WriterProperties::builder().build();
        let file = std::fs::File::create(path).unwrap();
        let mut writer = SerializedFileWriter::new(file, schema.into(), properties.into()).unwrap();
        let mut group = writer.next_row_group().unwrap();
        let texts = ["Köln", "Bonn", "Ulm"].map(ByteArray::from);
        while let Some(mut column) = group.next_column().unwrap() {
            let levels = (Some(&defined[..]), Some(&repeated[..]));
            match column.untyped() {
                ColumnWriter::ByteArrayColumnWriter(column) => {
                    column.write_batch(&texts, levels.0, levels.1)
                }
                ColumnWriter::Int32ColumnWriter(column) => {
                    column.write_batch(&[27, 3, 8], levels.0, levels.1)
                }
                _ => panic!("not in the schema"),
            }
            .unwrap();
            column.close().unwrap();
        }
        group.close().unwrap();
        writer.close().unwrap();
    }

    #[test]
    fn list_columns_become_references() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.parquet");
        write_lists(&path);
        let read = |column: &str| {
            let mapping = FieldMapping {
                references: Some(column.to_owned()),
                ..FieldMapping::new([], None)
            };
            read_examples(&path, &mapping)
        };
        for column in ["answers", "spans"] {
            let examples = read(column).unwrap();
            let references = examples.iter().map(|example| example.references.clone());
            assert_eq!(
                references.collect::<Vec<_>>(),
                [vec!["Köln", "Bonn"], vec!["Ulm"], vec![]],
                "{column}"
            );
        }
        let error = read("starts").unwrap_err().to_string();
        assert!(
            error.ends_with(
                ":1: field `starts` is a list of other than strings, \
                 expected a string or a list of strings"
            ),
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

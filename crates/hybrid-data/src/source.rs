//! Files and folders of rows, each a burn-dataset [`Dataset`].

mod csv_file;
mod jsonl_file;
#[cfg(feature = "parquet")]
mod parquet_file;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn_dataset::transform::{ComposedDataset, Mapper, MapperDataset};
use burn_dataset::{Dataset, InMemDataset};

use crate::error::DataError;
use crate::example::{Example, FieldMapping, Origin};

/// One value of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cell {
    /// A string.
    Text(String),
    /// A list of strings, or of objects that each have a string `text` (the answers of SQuAD),
    /// which count as that string; perhaps of none. CSV has no lists.
    Texts(Vec<String>),
    /// A list of such objects, some of which say where in a passage their text starts.
    Answers(Vec<Answer>),
    /// Anything else, named in words ("a number").
    Other(&'static str),
}

/// A text that stands in a passage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The text.
    pub text: String,
    /// Where it starts, in Unicode code points of the passage.
    pub start: Option<usize>,
}

/// One row: column name to value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The values.
    pub cells: BTreeMap<String, Cell>,
    /// Where it stands.
    pub origin: Origin,
}

/// The rows of one file or of several in turn; each row is parsed when it is asked for.
pub type RowDataset = ComposedDataset<Box<dyn Dataset<Row, DataError>>>;

/// Opens a `.jsonl`, `.csv` or (feature `parquet`) `.parquet` file, or a folder of such files,
/// which are read in the order of their names; other files of the folder are passed over.
///
/// # Errors
/// [`DataError::Read`] and [`DataError::Empty`] for missing and empty files,
/// [`DataError::UnknownFormat`] for other extensions, and the format's own errors.
pub fn open(path: &Path) -> Result<RowDataset, DataError> {
    let datasets = files_of(path)?
        .iter()
        .map(|file| open_file(file))
        .collect::<Result<_, _>>()?;
    Ok(ComposedDataset::new(datasets))
}

/// The files that [`open`] reads, in order: the file itself, or the data files of a folder.
///
/// # Errors
/// [`DataError::Read`], or [`DataError::Empty`] for a folder without data files.
pub fn files_of(path: &Path) -> Result<Vec<PathBuf>, DataError> {
    let metadata = std::fs::metadata(path).map_err(|source| unreadable(path, source))?;
    if metadata.is_dir() {
        data_files(path)
    } else {
        Ok(vec![path.to_owned()])
    }
}

/// Reads all examples of a file or folder (see [`open`]).
///
/// # Errors
/// As [`open`] and [`FieldMapping::apply`].
pub fn read_examples(path: &Path, mapping: &FieldMapping) -> Result<Vec<Example>, DataError> {
    examples_of(open(path)?, mapping)
}

/// Makes every row of any dataset of rows an example.
///
/// # Errors
/// The dataset's, and those of [`FieldMapping::apply`].
pub fn examples_of(
    rows: impl Dataset<Row, DataError>,
    mapping: &FieldMapping,
) -> Result<Vec<Example>, DataError> {
    let mapped = MapperDataset::new(rows, mapping.clone());
    mapped
        .iter()
        .map(|row| row.and_then(|example| example))
        .collect()
}

/// The examples as a burn-dataset [`Dataset`], for loaders that take one.
pub fn into_dataset(examples: Vec<Example>) -> InMemDataset<Example> {
    InMemDataset::new(examples)
}

impl Mapper<Row, Result<Example, DataError>> for FieldMapping {
    fn map(&self, row: &Row) -> Result<Example, DataError> {
        self.apply(row)
    }
}

fn open_file(path: &Path) -> Result<Box<dyn Dataset<Row, DataError>>, DataError> {
    let file: Arc<Path> = path.into();
    Ok(match extension(path).as_deref() {
        Some("jsonl") => Box::new(jsonl_file::JsonlFile::open(file)?),
        Some("csv") => Box::new(csv_file::CsvFile::open(file)?),
        #[cfg(feature = "parquet")]
        Some("parquet") => Box::new(parquet_file::ParquetFile::open(file)?),
        #[cfg(not(feature = "parquet"))]
        Some("parquet") => {
            return Err(DataError::ParquetNotBuilt {
                path: path.to_owned(),
            });
        }
        _ => {
            return Err(DataError::UnknownFormat {
                path: path.to_owned(),
            });
        }
    })
}

fn data_files(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|source| unreadable(folder, source))? {
        let path = entry.map_err(|source| unreadable(folder, source))?.path();
        if matches!(
            extension(&path).as_deref(),
            Some("jsonl" | "csv" | "parquet")
        ) && path.is_file()
        {
            files.push(path);
        }
    }
    if files.is_empty() {
        return Err(DataError::Empty {
            path: folder.to_owned(),
        });
    }
    files.sort();
    Ok(files)
}

fn extension(path: &Path) -> Option<String> {
    Some(path.extension()?.to_str()?.to_ascii_lowercase())
}

fn unreadable(path: &Path, source: std::io::Error) -> DataError {
    DataError::Read {
        path: path.to_owned(),
        source,
    }
}

/// The bytes of a text file without its byte order mark.
fn read_bytes(path: &Path) -> Result<Vec<u8>, DataError> {
    let mut bytes = std::fs::read(path).map_err(|source| unreadable(path, source))?;
    if bytes.starts_with(b"\xef\xbb\xbf") {
        bytes.drain(..3);
    }
    Ok(bytes)
}

/// Bytes as text; `field` names the field that they belong to.
fn utf8<'a>(
    bytes: &'a [u8],
    origin: &Origin,
    field: impl FnOnce() -> Option<String>,
) -> Result<&'a str, DataError> {
    std::str::from_utf8(bytes).map_err(|source| DataError::InvalidUtf8 {
        path: origin.file.to_path_buf(),
        line: origin.line,
        field: field(),
        source,
    })
}

#[cfg(test)]
mod tests;

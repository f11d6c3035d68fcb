//! What can be wrong with data, and where.

use std::path::PathBuf;

/// Why data could not be read, divided or encoded.
///
/// Lines count from 1. In a Parquet file, which has no lines, `line` is the row.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// A file or folder is missing or unreadable.
    #[error("{}: cannot be read", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file holds no row, or a folder no data file.
    #[error("{}: holds no examples", path.display())]
    Empty {
        /// The file or folder.
        path: PathBuf,
    },
    /// The file name's extension names no known format.
    #[error("{}: unknown format; known are .jsonl, .csv, .parquet and folders of such files", path.display())]
    UnknownFormat {
        /// The file.
        path: PathBuf,
    },
    /// The format is known, but this build cannot read it.
    #[error("{}: this build reads no Parquet; use one that does: `cargo run --bin hybrid --features hybrid/parquet -- train RECIPE`", path.display())]
    ParquetNotBuilt {
        /// The file.
        path: PathBuf,
    },
    /// Bytes that are not UTF-8.
    #[error("{}:{line}: invalid UTF-8{}", path.display(), in_field(field.as_deref()))]
    InvalidUtf8 {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
        /// The field; none where the line has no fields that can be told apart.
        field: Option<String>,
        /// Where in the line, or in the field of a CSV file.
        source: std::str::Utf8Error,
    },
    /// A line that is no JSON object.
    #[error("{}:{line}: not a JSON object", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
        /// What is wrong with it, with its line in the file.
        source: serde_json::Error,
    },
    /// A row that is no CSV.
    #[error("{}:{line}: bad CSV row", path.display())]
    Csv {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
        /// What is wrong with it.
        source: csv::Error,
    },
    /// A file that is no Parquet, or a damaged row of one.
    #[cfg(feature = "parquet")]
    #[error("{}:{line}: bad Parquet", path.display())]
    Parquet {
        /// The file.
        path: PathBuf,
        /// The row; 0 for the file as a whole.
        line: usize,
        /// What is wrong with it.
        source: parquet::errors::ParquetError,
    },
    /// A row lacks a mapped field.
    #[error("{}:{line}: no field `{field}`; the row has {}", path.display(), list(present))]
    MissingField {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
        /// The field.
        field: String,
        /// The fields that are there.
        present: Vec<String>,
    },
    /// A mapped field is not a string.
    #[error("{}:{line}: field `{field}` is {found}, expected a string", path.display())]
    NotText {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
        /// The field.
        field: String,
        /// What stands there.
        found: &'static str,
    },
    /// The field mapped to the references is neither a string nor a list of strings.
    #[error("{}:{line}: field `{field}` is {found}, expected a string or a list of strings", path.display())]
    NotTexts {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
        /// The field.
        field: String,
        /// What stands there.
        found: &'static str,
    },
    /// A label of no characters.
    #[error("{}:{line}: field `{field}` holds an empty label", path.display())]
    EmptyLabel {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
        /// The field.
        field: String,
    },
    /// A reference of no characters.
    #[error("{}:{line}: field `{field}` holds an empty reference", path.display())]
    EmptyReference {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
        /// The field.
        field: String,
    },
    /// An example without a label where one is needed.
    #[error("{}:{line}: the example has no label", path.display())]
    Unlabelled {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
    },
    /// A label that the fit examples do not have.
    #[error("{}:{line}: label `{label}` is none of the {n_labels} labels of the fit examples", path.display())]
    UnknownLabel {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
        /// The label.
        label: String,
        /// How many labels are known.
        n_labels: usize,
    },
    /// Shares that leave nothing to fit on.
    #[error("split shares {select} and {report} must be at least 0 and together below 1")]
    Fractions {
        /// Share to select on.
        select: f64,
        /// Share to report on.
        report: f64,
    },
    /// A tokenizer file that cannot be used.
    #[error("{}: not a usable tokenizer", path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What the tokenizer library said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A GGUF vocabulary that cannot be used.
    #[error("{}: `{key}`: expected {expected}, found {found}", path.display())]
    Vocabulary {
        /// The file.
        path: PathBuf,
        /// The metadata key.
        key: String,
        /// What can be used.
        expected: String,
        /// What is there.
        found: String,
    },
    /// No room for text beside the special tokens.
    #[error("a length of {max_length} tokens leaves no room beside {n_special} special tokens")]
    MaxLength {
        /// The wanted length.
        max_length: usize,
        /// Special tokens of one text.
        n_special: usize,
    },
    /// Windows of a passage that would not get on, or hold no passage.
    #[error(
        "windows of {max_length} tokens, {n_special} of them special, cannot share {stride}; the \
        stride must be below half of what the text has room in"
    )]
    Stride {
        /// The tokens that neighbouring windows share.
        stride: usize,
        /// The length of a window.
        max_length: usize,
        /// Special tokens of a pair of texts.
        n_special: usize,
    },
    /// An answer that does not stand in its passage where it is said to start.
    #[error(
        "{}:{line}: the answer {answer:?} does not start at code point {start} of field `{field}`",
        path.display()
    )]
    AnswerStart {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
        /// The field of the passage.
        field: String,
        /// The answer.
        answer: String,
        /// Where it should start.
        start: usize,
    },
    /// A text that the tokenizer refuses.
    #[error("the tokenizer refused a text")]
    Encode {
        /// What the tokenizer library said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

fn in_field(field: Option<&str>) -> String {
    field.map_or_else(String::new, |field| format!(" in field `{field}`"))
}

/// The fields of a row in words.
fn list(fields: &[String]) -> String {
    if fields.is_empty() {
        "none".to_owned()
    } else {
        format!("`{}`", fields.join("`, `"))
    }
}

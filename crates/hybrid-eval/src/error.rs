//! What can be wrong with outputs, or with saying what was concluded from them.

use std::path::PathBuf;

/// Why a figure or a report could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvalError {
    /// There is nothing to measure.
    #[error("{what} are empty, so there is nothing to measure")]
    Empty {
        /// The empty input.
        what: &'static str,
    },
    /// Two inputs that belong together differ in length.
    #[error("{what}: {found} rows where {expected} were expected")]
    Length {
        /// The input with the wrong length.
        what: &'static str,
        /// Rows of the input that it belongs to.
        expected: usize,
        /// Rows that it has.
        found: usize,
    },
    /// A row has another number of values than the others.
    #[error("{what}: row {row} has {found} values where {expected} were expected")]
    Width {
        /// The input with the wrong row.
        what: &'static str,
        /// The row, counted from 0.
        row: usize,
        /// Values of the first row.
        expected: usize,
        /// Values of this row.
        found: usize,
    },
    /// An index does not name a class or a row.
    #[error("{what}: row {row} has index {found}, but there are only {limit}")]
    Index {
        /// The input with the wrong index.
        what: &'static str,
        /// The row, counted from 0.
        row: usize,
        /// The index.
        found: usize,
        /// The number of classes or rows.
        limit: usize,
    },
    /// A value is infinite or not a number.
    #[error("{what}: row {row} is not finite")]
    NotFinite {
        /// The input with the bad value.
        what: &'static str,
        /// The row, counted from 0.
        row: usize,
    },
    /// A row of generated text has nothing to compare with.
    #[error("references: row {row} has none")]
    NoReference {
        /// The row, counted from 0.
        row: usize,
    },
    /// A set of figures lacks one.
    #[error("there is no figure {name:?}: there are {}", known.join(", "))]
    UnknownFigure {
        /// The name.
        name: String,
        /// The names of the figures that there are.
        known: &'static [&'static str],
    },
    /// A figure needs values that differ.
    #[error("{metric} is undefined: all values of a side are equal")]
    Constant {
        /// The figure.
        metric: &'static str,
    },
    /// A ranking figure needs examples of both kinds.
    #[error("{metric} is undefined: all examples are of one kind")]
    OneKind {
        /// The figure.
        metric: &'static str,
    },
    /// A file cannot be read.
    #[error("{path}: cannot be read: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A report holds a value that JSON cannot express, such as a figure that is not finite.
    #[error("the report cannot be told in JSON: {source}")]
    NotJson {
        /// The fault and its place.
        source: serde_json::Error,
    },
    /// A file is not a report.
    #[error("{path}: not a report: {source}")]
    Format {
        /// The file.
        path: PathBuf,
        /// The fault and its place.
        source: serde_json::Error,
    },
    /// A page or card could not be laid out.
    #[error("the template {template} cannot be filled: {source}")]
    Template {
        /// The template.
        template: &'static str,
        /// What the template engine said.
        source: minijinja::Error,
    },
    /// A plot could not be drawn.
    #[error("the plot of {plot} cannot be drawn: {source}")]
    Plot {
        /// What it shows.
        plot: &'static str,
        /// What the plotting library said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

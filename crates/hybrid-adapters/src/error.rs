//! Errors of this crate.

use std::path::PathBuf;

use hybrid_models::ModelError;

use crate::peft_format::PEFT_VERSION;

/// What can go wrong between an adapter's configuration and its tensors.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdapterError {
    /// A low-rank factor pair that is larger than the matrix it adapts.
    #[error(
        "{site}: rank {rank} exceeds {limit}, the most that the [{d_in}, {d_out}] weight allows"
    )]
    Rank {
        /// Path of the site.
        site: String,
        /// The rank asked for.
        rank: usize,
        /// The largest rank that makes sense.
        limit: usize,
        /// Input features of the site.
        d_in: usize,
        /// Output features of the site.
        d_out: usize,
    },
    /// Targets that select no site of the base.
    #[error("{method}: {key} = {targets} selects no site of the base; near names: {}", near.join(", "))]
    NoTarget {
        /// The method.
        method: &'static str,
        /// The key that holds the targets.
        key: &'static str,
        /// The targets as given.
        targets: String,
        /// Names of the base that look alike.
        near: Vec<String>,
    },
    /// A target at a site that the method cannot act on.
    #[error("{method}: the target {site} is {found}; this method cannot act there")]
    UnsupportedTarget {
        /// The method.
        method: &'static str,
        /// Path of the site.
        site: String,
        /// What the site is.
        found: &'static str,
    },
    /// A target pattern that is no regular expression.
    #[error("{method}: {key} = {pattern:?} is no regular expression: {source}")]
    Pattern {
        /// The method.
        method: &'static str,
        /// The key that holds the pattern.
        key: &'static str,
        /// The pattern.
        pattern: String,
        /// Where it breaks.
        source: Box<fancy_regex::Error>,
    },
    /// A setting outside of its range, or one that contradicts another.
    #[error("{method}: {key} is {found}; expected {expected}")]
    Setting {
        /// The method.
        method: &'static str,
        /// The key.
        key: &'static str,
        /// What would be right.
        expected: &'static str,
        /// What was given.
        found: String,
    },
    /// Two methods of one stack that cannot act at the same site.
    #[error("{first} and {second} cannot both act on {site}: {reason}")]
    Stacking {
        /// Path of the site.
        site: String,
        /// The method declared first.
        first: &'static str,
        /// The method declared later.
        second: &'static str,
        /// Why not.
        reason: &'static str,
    },
    /// A tensor that should be there is not.
    #[error("{name}: this tensor is missing")]
    Missing {
        /// Name of the tensor.
        name: String,
    },
    /// A value of the base that an adapter brings along and that this base does not have.
    #[error("{name}: the adapter was trained over other values than this base has there")]
    OtherBase {
        /// Name of the tensor.
        name: String,
    },
    /// Adapters that cannot become one.
    #[error("these adapters cannot be combined: {reason}")]
    NotCombinable {
        /// Why not.
        reason: &'static str,
    },
    /// A method that a row of a batch cannot have for itself.
    #[error("adapter {adapter:?}: a row cannot have {method} for itself: {reason}")]
    NotByRow {
        /// The adapter's name.
        adapter: String,
        /// The method.
        method: &'static str,
        /// Why not.
        reason: &'static str,
    },
    /// A method that stacks over copies of the same rows cannot have each for itself.
    #[error("{method} cannot be trained side by side with others: {reason}")]
    NotSideBySide {
        /// The method.
        method: &'static str,
        /// Why not.
        reason: &'static str,
    },
    /// A name that no adapter has.
    #[error("there is no adapter {name:?}; known are: {}", known.join(", "))]
    NoSuchAdapter {
        /// The name as given.
        name: String,
        /// The names that adapters have.
        known: Vec<String>,
    },
    /// Tensors that no parameter takes.
    #[error("tensors that belong to no parameter: {}", names.join(", "))]
    Unexpected {
        /// Their names.
        names: Vec<String>,
    },
    /// A tensor of another shape.
    #[error("{name}: expected shape {expected:?}, found {found:?}")]
    Shape {
        /// Name of the tensor.
        name: String,
        /// The parameter's shape.
        expected: Vec<usize>,
        /// The tensor's shape.
        found: Vec<usize>,
    },
    /// A tensor with a value that is not a number or infinite.
    #[error("{name}: value {index} is {value}")]
    NotFinite {
        /// Name of the tensor.
        name: String,
        /// Position of the first such value.
        index: usize,
        /// The value.
        value: f32,
    },
    /// Class vectors that cannot make a head.
    #[error("label vector {index}: expected {expected}, found {found}")]
    LabelVector {
        /// Index of the label.
        index: usize,
        /// What would be right.
        expected: String,
        /// What was given.
        found: String,
    },
    /// A method whose effect cannot be folded into the base's weights.
    #[error("{method} cannot be merged into the base: {reason}")]
    NotMergeable {
        /// The method.
        method: &'static str,
        /// Why not.
        reason: &'static str,
    },
    /// A stack that PEFT's file format cannot hold.
    #[error("PEFT's file format cannot hold this stack ({stack}): {reason}")]
    NotInPeft {
        /// The methods in order.
        stack: String,
        /// Why not.
        reason: &'static str,
    },
    /// An adapter of a method that this version does not have.
    #[error("{path}: peft_type {found:?} is not supported; supported: {supported}")]
    PeftType {
        /// The `adapter_config.json`.
        path: PathBuf,
        /// The type it names.
        found: String,
        /// The types this version reads.
        supported: String,
    },
    /// An option that changes the result and that this version does not have.
    #[error("{path}: {key} = {value} is not supported")]
    PeftOption {
        /// The `adapter_config.json`.
        path: PathBuf,
        /// The key.
        key: String,
        /// Its value.
        value: String,
    },
    /// Keys that no known version of the format has, with values that may change the result.
    #[error("{path}: unknown keys: {}{}", keys.join(", "), written_by(peft_version))]
    PeftKeys {
        /// The `adapter_config.json`.
        path: PathBuf,
        /// The keys.
        keys: Vec<String>,
        /// The PEFT release that wrote the file, where it says so.
        peft_version: Option<String>,
    },
    /// A file that does not hold what it should.
    #[error("{path}: {reason}")]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
        /// The parser's account, where there is one.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// An error within one file.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with its tensors.
        source: Box<AdapterError>,
    },
    /// A file cannot be read.
    #[error("{path}: cannot be read: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file cannot be written.
    #[error("{path}: cannot be written: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// An error of the base.
    #[error(transparent)]
    Model(#[from] ModelError),
}

impl AdapterError {
    /// Whether settings are at fault, whatever tensors there are.
    pub(crate) fn is_of_settings(&self) -> bool {
        matches!(
            self,
            Self::Rank { .. }
                | Self::NoTarget { .. }
                | Self::UnsupportedTarget { .. }
                | Self::Pattern { .. }
                | Self::Setting { .. }
                | Self::Stacking { .. }
        )
    }
}

/// Whose keys they are.
fn written_by(peft_version: &Option<String>) -> String {
    match peft_version {
        Some(version) => {
            format!(" (PEFT {version} wrote it; known are the keys of {PEFT_VERSION})")
        }
        None => String::new(),
    }
}

/// Refuses settings of a method: by key, what would be right, and what was given.
pub(crate) fn wrong_setting<T>(
    method: &'static str,
) -> impl Fn(&'static str, &'static str, String) -> Result<T, AdapterError> {
    move |key, expected, found| {
        Err(AdapterError::Setting {
            method,
            key,
            expected,
            found,
        })
    }
}

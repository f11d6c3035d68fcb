//! Errors of this crate.

use burn::tensor::TensorReadError;

/// What can go wrong between a loss and an update.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OptimError {
    /// A setting is outside its range.
    #[error("`{key}`: expected {expected}, found {found}")]
    InvalidSetting {
        /// The setting, e.g. `optimizer.lr`.
        key: &'static str,
        /// What is allowed.
        expected: &'static str,
        /// What is there.
        found: String,
    },

    /// A parameter group's pattern is not a regular expression.
    #[error("parameter group {pattern:?}: {source}")]
    GroupPattern {
        /// The pattern.
        pattern: String,
        /// Why.
        source: regex::Error,
    },

    /// A parameter group acts on nothing.
    #[error("parameter group {pattern:?} gets no parameter of: {}", parameters.join(", "))]
    EmptyGroup {
        /// The pattern.
        pattern: String,
        /// Paths of all parameters.
        parameters: Vec<String>,
    },

    /// An update was asked for without gradients.
    #[error("step {step}: no gradients; was `accumulate` called with the module's gradients?")]
    NoGradients {
        /// The update, counted from 1.
        step: usize,
    },

    /// Gradients that belong to no parameter of the module.
    #[error("step {step}: {found} gradients belong to no parameter of the module")]
    ForeignGradients {
        /// The update, counted from 1.
        step: usize,
        /// How many there are.
        found: usize,
    },

    /// The gradient is infinite or not a number: the loss diverged.
    #[error(
        "step {step}: the gradient's norm is {norm}; lower the learning rate, or bound the norm"
    )]
    NonFiniteGradient {
        /// The update, counted from 1.
        step: usize,
        /// The norm.
        norm: f64,
    },

    /// A stored optimizer state lacks an entry.
    #[error("optimizer state: `{name}` is missing")]
    MissingState {
        /// The entry.
        name: String,
    },

    /// A stored optimizer state has an entry for no parameter of the module.
    #[error("optimizer state: `{name}` belongs to no parameter of the module")]
    ExtraState {
        /// The entry.
        name: String,
    },

    /// A stored moment has another shape than its parameter.
    #[error("optimizer state: `{name}`: expected shape {expected:?}, found {found:?}")]
    StateShape {
        /// The entry.
        name: String,
        /// Shape of the parameter.
        expected: Vec<usize>,
        /// Shape of the entry.
        found: Vec<usize>,
    },

    /// A value cannot be read from the device.
    #[error("reading from the device failed: {source}")]
    Device {
        /// Why.
        source: TensorReadError,
    },
}

//! Errors of the tasks.

use std::io;
use std::path::{Path, PathBuf};

/// Why a task could not be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum XtaskError {
    /// A program cannot be started.
    #[error("`{program}` cannot be started: {source}")]
    Start {
        /// The program.
        program: String,
        /// Why.
        source: io::Error,
    },

    /// A program failed.
    #[error("`{program}` failed: {outcome}")]
    Failed {
        /// The program and its arguments.
        program: String,
        /// Its exit status or last words.
        outcome: String,
    },

    /// Cargo's description of the workspace lacks what it always has.
    #[error("`cargo metadata`: expected {expected}")]
    Metadata {
        /// What was looked for.
        expected: &'static str,
    },

    /// A file or folder cannot be read.
    #[error("{path}: cannot be read: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },

    /// A file or folder cannot be written.
    #[error("{path}: cannot be written: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },

    /// Data that is not carried in the repository is not there.
    #[error("{work} needs {what}: name their folder with --{option} or {variable}")]
    NoData {
        /// What needs it.
        work: &'static str,
        /// What is needed.
        what: &'static str,
        /// The option that names its folder.
        option: &'static str,
        /// The variable that names it.
        variable: &'static str,
    },

    /// A file of runs, or a report of one, is not what it should be.
    #[error("{path}: {reason}")]
    Runs {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },

    /// A model's file is not what it should be.
    #[error("{path}: expected {expected}")]
    Model {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        expected: &'static str,
    },

    /// The lines between which a table belongs are not there.
    #[error("{path}: the marks of the table of methods are not there")]
    Marks {
        /// The file.
        path: PathBuf,
    },

    /// A wheel is not the one that is known.
    #[error("wheel {wheel}: {what}: expected {expected}, found {found}; nothing of it was kept")]
    Wheel {
        /// The wheel.
        wheel: &'static str,
        /// What differs.
        what: &'static str,
        /// What is known.
        expected: String,
        /// What came.
        found: String,
    },

    /// This platform's libtorch is not fetched.
    #[error(
        "libtorch is fetched for linux-x86_64 only, this is {found}: install libtorch {version} \
         (https://pytorch.org) and set LIBTORCH to its folder"
    )]
    Platform {
        /// This platform.
        found: String,
        /// The libtorch that is needed.
        version: &'static str,
    },

    /// The device tch was asked for before libtorch was there.
    #[error(
        "device tch needs libtorch: run `cargo xtask libtorch` first, or set LIBTORCH to a libtorch {version}"
    )]
    NoLibtorch {
        /// The libtorch that is needed.
        version: &'static str,
    },
}

impl XtaskError {
    pub(crate) fn read(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Read {
            path: path.to_owned(),
            source,
        }
    }

    pub(crate) fn write(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Write {
            path: path.to_owned(),
            source,
        }
    }

    /// 2 where the caller must change something first, 1 otherwise.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::NoLibtorch { .. } | Self::Platform { .. } | Self::NoData { .. } => 2,
            _ => 1,
        }
    }
}

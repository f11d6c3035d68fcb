//! `cargo xtask tidy`: the project's own rules, cheapest first.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::error::XtaskError;
use crate::workspace;

mod arrows;
mod documents;
mod sources;

/// One broken rule.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    /// File (with line, where there is one) or crate.
    place: String,
    /// The rule and how it is broken.
    fault: String,
}

impl Finding {
    fn new(place: impl Into<String>, fault: impl Into<String>) -> Self {
        Self {
            place: place.into(),
            fault: fault.into(),
        }
    }
}

/// A file of the workspace: its path from the root and its text.
struct SourceFile {
    path: PathBuf,
    text: String,
}

/// Checks the workspace and prints every broken rule.
pub(crate) fn run() -> Result<ExitCode, XtaskError> {
    let root = workspace::root();
    let mut rust = Vec::new();
    for folder in ["crates", "xtask", "tests", "examples", "benches"] {
        collect(root, &root.join(folder), "rs", &mut rust)?;
    }
    let mut findings: Vec<Finding> = rust.iter().flat_map(sources::check).collect();
    findings.extend(documents::check(root)?);
    findings.extend(arrows::check()?);
    for finding in &findings {
        println!("{}: {}", finding.place, finding.fault);
    }
    if findings.is_empty() {
        println!("tidy: {} files follow the rules", rust.len());
        return Ok(ExitCode::SUCCESS);
    }
    println!("tidy: {} broken rules", findings.len());
    Ok(ExitCode::FAILURE)
}

/// Files with an extension under `folder`, in the order of their names.
fn collect(
    root: &Path,
    folder: &Path,
    extension: &str,
    files: &mut Vec<SourceFile>,
) -> Result<(), XtaskError> {
    if !folder.is_dir() {
        return Ok(());
    }
    let entries = fs::read_dir(folder).map_err(XtaskError::read(folder))?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            if !path.ends_with("target") && !path.ends_with("fixtures") {
                collect(root, &path, extension, files)?;
            }
        } else if path.extension().is_some_and(|found| found == extension) {
            let text = fs::read_to_string(&path).map_err(XtaskError::read(&path))?;
            let path = path.strip_prefix(root).unwrap_or(&path).to_owned();
            files.push(SourceFile { path, text });
        }
    }
    Ok(())
}

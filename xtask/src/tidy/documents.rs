//! Rules for documents and manifests: what must be there, and what the README must mention.

use std::fs;
use std::path::Path;

use super::{Finding, collect};
use crate::error::XtaskError;

const DOCUMENTS: [&str; 7] = [
    "README.md",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE-MIT",
    "LICENSE-APACHE",
    ".ci/run",
];

pub(super) fn check(root: &Path) -> Result<Vec<Finding>, XtaskError> {
    let mut findings = Vec::new();
    for document in DOCUMENTS {
        if fs::metadata(root.join(document)).map_or(true, |found| found.len() == 0) {
            findings.push(Finding::new(document, "is missing or empty"));
        }
    }
    let readme = fs::read_to_string(root.join("README.md")).unwrap_or_default();
    for name in names(&root.join("crates"))? {
        findings.extend(not_mentioned(&readme, &format!("`{name}`")));
        findings.extend(check_crate(&root.join("crates").join(&name), &name));
    }
    for name in names(&root.join("recipes"))? {
        if name.ends_with(".toml") {
            findings.extend(not_mentioned(&readme, &name));
        }
    }
    let mut recipes = Vec::new();
    collect(root, &root.join("recipes"), "toml", &mut recipes)?;
    for recipe in recipes
        .iter()
        .filter(|recipe| !recipe.text.starts_with("# "))
    {
        let place = recipe.path.display().to_string();
        findings.push(Finding::new(
            place,
            "a recipe opens with a comment that says what it is for",
        ));
    }
    Ok(findings)
}

fn not_mentioned(readme: &str, name: &str) -> Option<Finding> {
    (!readme.contains(name)).then(|| Finding::new("README.md", format!("does not mention {name}")))
}

fn check_crate(folder: &Path, name: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in ["src/lib.rs", "src/error.rs"] {
        if !folder.join(file).is_file() {
            findings.push(Finding::new(name, format!("has no {file}")));
        }
    }
    let manifest = fs::read_to_string(folder.join("Cargo.toml")).unwrap_or_default();
    if !manifest.contains("[lints]\nworkspace = true") {
        findings.push(Finding::new(name, "does not take the workspace's lints"));
    }
    findings
}

/// Names in a folder, sorted.
fn names(folder: &Path) -> Result<Vec<String>, XtaskError> {
    let entries = fs::read_dir(folder).map_err(XtaskError::read(folder))?;
    let mut names: Vec<String> = entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::{check_crate, not_mentioned};

    #[test]
    fn what_the_readme_leaves_out_is_found() {
        assert_eq!(not_mentioned("see `hybrid-data`", "`hybrid-data`"), None);
        assert!(not_mentioned("see `hybrid-data`", "banking77.toml").is_some());
    }

    #[test]
    fn a_crate_needs_its_files_and_lints() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("src")).unwrap();
        assert_eq!(check_crate(folder.path(), "new").len(), 3);
        for file in ["src/lib.rs", "src/error.rs"] {
            std::fs::write(folder.path().join(file), "").unwrap();
        }
        std::fs::write(
            folder.path().join("Cargo.toml"),
            "[lints]\nworkspace = true\n",
        )
        .unwrap();
        assert_eq!(check_crate(folder.path(), "new"), []);
    }
}

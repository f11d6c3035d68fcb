//! `cargo xtask train`: a thin door to `hybrid train`.

use std::ffi::{OsStr, OsString};
use std::process::{Command, ExitCode};

use crate::error::XtaskError;
use crate::libtorch::{self, Variables};
use crate::workspace;

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
    let (features, variables) = backends([device.as_str()])?;
    let Some(built) = workspace::build(&["--bin", "hybrid"], &features, &variables)? else {
        return Ok(ExitCode::FAILURE);
    };
    let mut command = Command::new(built.program("hybrid")?);
    command.arg("train").args(arguments).envs(variables);
    execute(command)
}

/// The features and the environment of a build with the backends of some devices.
///
/// # Errors
/// [`XtaskError::NoLibtorch`].
pub(crate) fn backends<'d>(
    devices: impl IntoIterator<Item = &'d str>,
) -> Result<(Vec<String>, Variables), XtaskError> {
    let mut features = Vec::new();
    for device in devices {
        let found = FEATURES.into_iter().find(|(name, _)| *name == device);
        features.extend(found.map(|(_, feature)| format!("hybrid/{feature}")));
    }
    let variables = match features.iter().any(|feature| feature == "hybrid/tch") {
        true => libtorch::variables()?,
        false => Vec::new(),
    };
    Ok((features, variables))
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

//! `cargo xtask bench-gpu`: the bench of graphics cards, ready for a machine without Rust.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

use crate::error::XtaskError;
use crate::{train, workspace};

/// Programs by the names of their targets: the bench, the command line and the tests.
const PROGRAMS: [&str; 3] = ["lora_gpu", "hybrid", "tests"];

const TARGETS: [&str; 6] = ["--bench", "lora_gpu", "--bin", "hybrid", "--test", "tests"];

/// Files and folders of the workspace, and what they are called in the layout.
const FILES: [(&str, &str); 6] = [
    ("benches/gpu/run.sh", "run.sh"),
    ("benches/peers/lora_gpu.py", "lora_gpu.py"),
    (
        "recipes/t5_from_scratch.toml",
        "recipes/t5_from_scratch.toml",
    ),
    ("recipes/t5_tiny", "recipes/t5_tiny"),
    ("data/dates", "data/dates"),
    ("tests/fixtures", "fixtures"),
];

/// Builds the programs for some devices and lays them out in `out`, which must not be there.
pub(crate) fn run(out: &Path, devices: &[String]) -> Result<ExitCode, XtaskError> {
    let (features, variables) = train::backends(devices.iter().map(String::as_str))?;
    let Some(built) = workspace::build(&TARGETS, &features, &variables)? else {
        return Ok(ExitCode::FAILURE);
    };
    fs::create_dir(out).map_err(XtaskError::write(out))?;
    for name in PROGRAMS {
        let program = built.program(name)?;
        let mut strip = Command::new("strip");
        workspace::output(strip.arg("-o").arg(out.join(name)).arg(program))?;
    }
    for (from, to) in FILES {
        copy(&workspace::root().join(from), &out.join(to))?;
    }
    println!(
        "{} is laid out: copy it and start its run.sh",
        out.display()
    );
    Ok(ExitCode::SUCCESS)
}

/// Copies a file, or a folder with all that is in it, and makes the folders that it lies in.
fn copy(from: &Path, to: &Path) -> Result<(), XtaskError> {
    if from.is_dir() {
        for entry in fs::read_dir(from).map_err(XtaskError::read(from))? {
            let entry = entry.map_err(XtaskError::read(from))?;
            copy(&entry.path(), &to.join(entry.file_name()))?;
        }
        return Ok(());
    }
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder).map_err(XtaskError::write(folder))?;
    }
    fs::copy(from, to).map_err(XtaskError::write(to))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{FILES, copy};
    use crate::workspace;

    #[test]
    fn all_that_is_laid_out_is_there() {
        for (from, _) in FILES {
            assert!(workspace::root().join(from).exists(), "{from}");
        }
    }

    #[test]
    fn folders_are_copied_whole() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("a/b"));
        fs::create_dir_all(from.join("deep")).unwrap();
        fs::write(from.join("deep/file"), "text").unwrap();
        copy(&from, &to).unwrap();
        assert_eq!(fs::read_to_string(to.join("deep/file")).unwrap(), "text");
    }
}

//! The Python environment of the peers: built once in the user's cache.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use sha2::{Digest, Sha256};

use crate::error::XtaskError;
use crate::workspace;

/// What the environment holds, one requirement a line.
const REQUIREMENTS: &str = include_str!("../../../benches/peers/requirements.txt");

/// Names an interpreter that is used instead.
const VARIABLE: &str = "HYBRID_REFERENCE_PYTHON";

/// The file that says that an environment is whole.
const WHOLE: &str = "whole";

/// The interpreter that has all requirements: the one that the environment names, or one in the
/// cache.
///
/// # Errors
/// [`XtaskError`] when the environment cannot be built.
pub(super) fn interpreter() -> Result<OsString, XtaskError> {
    if let Some(named) = std::env::var_os(VARIABLE).filter(|named| !named.is_empty()) {
        return Ok(named);
    }
    let digest = Sha256::digest(REQUIREMENTS);
    let name: String = digest[..4]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let folder = workspace::cache_folder().join(format!("peers-{name}"));
    let parent = workspace::cache_folder();
    fs::create_dir_all(&parent).map_err(XtaskError::write(&parent))?;
    let lock_path = folder.with_extension("lock");
    let lock = File::create(&lock_path).map_err(XtaskError::write(&lock_path))?;
    lock.lock().map_err(XtaskError::write(&lock_path))?;
    let python = folder.join("bin").join("python");
    if !folder.join(WHOLE).is_file() {
        build(&folder, &python)?;
    }
    Ok(python.into_os_string())
}

/// Builds the environment in its own place, since scripts in it hold its path.
fn build(folder: &Path, python: &Path) -> Result<(), XtaskError> {
    if folder.exists() {
        fs::remove_dir_all(folder).map_err(XtaskError::write(folder))?;
    }
    let place = folder.display();
    eprintln!("installing the peers into {place}: gigabytes, and llama.cpp is compiled");
    workspace::output(Command::new("python3").args(["-m", "venv"]).arg(folder))?;
    let requirements = folder.join("requirements.txt");
    fs::write(&requirements, REQUIREMENTS).map_err(XtaskError::write(&requirements))?;
    let install = ["-m", "pip", "install", "--quiet", "--no-input"];
    let mut install_all = Command::new(python);
    install_all
        .args(install)
        .arg("--disable-pip-version-check")
        .arg("--requirement")
        .arg(&requirements);
    workspace::output(&mut install_all)?;
    let whole = folder.join(WHOLE);
    fs::write(&whole, "").map_err(XtaskError::write(&whole))
}

//! Weights as Transformers reads them fastest.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::XtaskError;
use crate::workspace;

/// The folder with the weights of a GGUF file as float32, written once.
///
/// # Errors
/// [`XtaskError`] when the file cannot be read or the weights cannot be written.
pub(super) fn float32(python: &OsString, gguf: &Path) -> Result<PathBuf, XtaskError> {
    let size = fs::metadata(gguf).map_err(XtaskError::read(gguf))?.len();
    let stem = gguf.file_stem().unwrap_or_default().to_string_lossy();
    let cache = workspace::cache_folder();
    let folder = cache.join(format!("peers-{stem}-{size}-float32"));
    if folder.is_dir() {
        return Ok(folder);
    }
    fs::create_dir_all(&cache).map_err(XtaskError::write(&cache))?;
    let partial = tempfile::Builder::new()
        .prefix(".partial-peers-")
        .tempdir_in(&cache)
        .map_err(XtaskError::write(&cache))?;
    let place = partial.path().join("model");
    eprintln!("writing {stem} as float32 for Transformers");
    let script = workspace::root().join("benches/peers/transformers_peer.py");
    let mut export = Command::new(python);
    export.arg(script).arg("--export").arg(gguf).arg(&place);
    workspace::output(export.env("PYTHONDONTWRITEBYTECODE", "1"))?;
    fs::rename(&place, &folder).map_err(XtaskError::write(&folder))?;
    Ok(folder)
}

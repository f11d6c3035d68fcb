//! Files that appear whole or not at all.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::EvalError;

/// Replaces a file by way of a temporary file beside it, synchronised to disk before the rename.
///
/// # Errors
/// [`EvalError::Write`]; an earlier file of that name is then unchanged and nothing else is left.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), EvalError> {
    let temporary = beside(path);
    let written = write_and_rename(&temporary, path, bytes);
    if written.is_err() {
        // The error that matters is the first; the temporary file may not even exist.
        let _ = fs::remove_file(&temporary);
    }
    written.map_err(|source| EvalError::Write {
        path: path.to_owned(),
        source,
    })
}

fn write_and_rename(temporary: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(temporary, path)
}

fn beside(path: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}.partial", std::process::id()));
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::write_atomic;
    use crate::EvalError;

    #[test]
    fn a_file_is_replaced_and_nothing_else_is_left() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("report.json");
        write_atomic(&path, b"one").unwrap();
        write_atomic(&path, b"two").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failure_names_the_file_and_leaves_nothing() {
        let folder = TempDir::new().unwrap();
        std::fs::create_dir_all(folder.path().join("taken/inside")).unwrap();
        let error = write_atomic(&folder.path().join("taken"), b"x").unwrap_err();
        assert!(matches!(&error, EvalError::Write { path, .. } if path.ends_with("taken")));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(write_atomic(&folder.path().join("absent/report.json"), b"x").is_err());
    }
}

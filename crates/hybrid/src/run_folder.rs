//! The folder of a run: what lies where, and writes that are whole or absent.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::HybridError;

/// The folder of a run, locked for this process.
#[derive(Debug)]
pub(crate) struct RunFolder {
    path: PathBuf,
    /// Held open: the operating system frees the lock when the process ends, however it ends.
    _lock: File,
}

impl RunFolder {
    /// Makes the folder if needed and locks it.
    ///
    /// # Errors
    /// [`HybridError::Write`] when it cannot be written, [`HybridError::Locked`] when another
    /// process works on it.
    pub(crate) fn open(path: &Path) -> Result<Self, HybridError> {
        let failed = |source| HybridError::Write {
            path: path.to_owned(),
            source,
        };
        std::fs::create_dir_all(path).map_err(failed)?;
        let lock = File::create(path.join(".lock")).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {
                for folder in [path, &path.join("candidates")] {
                    remove_unfinished(folder)?;
                }
                Ok(Self {
                    path: path.to_owned(),
                    _lock: lock,
                })
            }
            Err(std::fs::TryLockError::WouldBlock) => Err(HybridError::Locked {
                path: path.to_owned(),
            }),
            Err(std::fs::TryLockError::Error(source)) => Err(failed(source)),
        }
    }

    /// The folder itself.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The resolved recipe.
    pub(crate) fn recipe(&self) -> PathBuf {
        self.path.join("recipe.toml")
    }

    /// What happened.
    pub(crate) fn journal(&self) -> PathBuf {
        self.path.join("journal.jsonl")
    }

    /// One folder a candidate.
    pub(crate) fn candidate(&self, id: &str) -> PathBuf {
        self.path.join("candidates").join(id)
    }

    /// State of the stage that is being trained.
    pub(crate) fn checkpoint(&self) -> PathBuf {
        self.path.join("checkpoint.safetensors")
    }

    /// The winner, reloadable anywhere.
    pub(crate) fn artifact(&self) -> PathBuf {
        self.path.join("artifact")
    }

    /// The report as data.
    pub(crate) fn report_json(&self) -> PathBuf {
        self.path.join("report.json")
    }

    /// The report for reading.
    pub(crate) fn report_html(&self) -> PathBuf {
        self.path.join("report.html")
    }

    /// The model card.
    pub(crate) fn card(&self) -> PathBuf {
        self.path.join("README.md")
    }

    /// Removes all that a run has written, and nothing else, keeping the lock.
    ///
    /// # Errors
    /// [`HybridError::Write`].
    pub(crate) fn clear(&self) -> Result<(), HybridError> {
        for folder in [self.path.join("candidates"), self.artifact()] {
            remove(&folder, |path| std::fs::remove_dir_all(path))?;
        }
        for file in [
            self.checkpoint(),
            self.recipe(),
            self.journal(),
            self.report_json(),
            self.report_html(),
            self.card(),
        ] {
            remove(&file, |path| std::fs::remove_file(path))?;
        }
        Ok(())
    }

    /// Removes the state of a stage that has ended.
    ///
    /// # Errors
    /// [`HybridError::Write`].
    pub(crate) fn clear_checkpoint(&self) -> Result<(), HybridError> {
        remove(&self.checkpoint(), |path| std::fs::remove_file(path))
    }
}

/// Begins the name of every file and folder that is not whole yet.
const UNFINISHED: &str = ".fresh-";

/// Whether a folder holds anything but what a run hides there.
pub(crate) fn is_occupied(path: &Path) -> bool {
    let hidden = |entry: std::fs::DirEntry| entry.file_name().as_encoded_bytes().starts_with(b".");
    std::fs::read_dir(path)
        .is_ok_and(|mut entries| entries.any(|entry| entry.is_ok_and(|entry| !hidden(entry))))
}

/// Removes what a killed process was writing.
fn remove_unfinished(folder: &Path) -> Result<(), HybridError> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Ok(());
    };
    for entry in entries.flatten() {
        if entry
            .file_name()
            .as_encoded_bytes()
            .starts_with(UNFINISHED.as_bytes())
        {
            let path = entry.path();
            match path.is_dir() {
                true => remove(&path, |path| std::fs::remove_dir_all(path))?,
                false => remove(&path, |path| std::fs::remove_file(path))?,
            }
        }
    }
    Ok(())
}

fn remove(path: &Path, how: impl Fn(&Path) -> std::io::Result<()>) -> Result<(), HybridError> {
    match how(path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(HybridError::Write {
            path: path.to_owned(),
            source,
        }),
        _ => Ok(()),
    }
}

/// Writes a file so that it is there whole or not at all, also after a kill or on a full disk.
///
/// # Errors
/// [`HybridError::Write`].
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), HybridError> {
    let failed = |source| HybridError::Write {
        path: path.to_owned(),
        source,
    };
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new()
        .prefix(UNFINISHED)
        .tempfile_in(folder)
        .map_err(failed)?;
    file.write_all(bytes).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}

/// Fills a folder so that it is there whole or not at all; an older one is replaced.
///
/// # Errors
/// What `fill` returns, or [`HybridError::Write`].
pub(crate) fn write_folder_whole(
    path: &Path,
    fill: impl FnOnce(&Path) -> Result<(), HybridError>,
) -> Result<(), HybridError> {
    let failed = |source| HybridError::Write {
        path: path.to_owned(),
        source,
    };
    let parent = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent).map_err(failed)?;
    let fresh = tempfile::Builder::new()
        .prefix(UNFINISHED)
        .tempdir_in(parent)
        .map_err(failed)?;
    fill(fresh.path())?;
    remove(path, |path| std::fs::remove_dir_all(path))?;
    let fresh = fresh.keep();
    std::fs::rename(&fresh, path).map_err(failed)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{RunFolder, write_folder_whole};
    use crate::HybridError;

    #[test]
    fn two_processes_cannot_work_on_one_run() {
        let folder = tempfile::tempdir().unwrap();
        let first = RunFolder::open(folder.path()).unwrap();
        assert!(matches!(
            RunFolder::open(folder.path()),
            Err(HybridError::Locked { .. })
        ));
        drop(first);
        RunFolder::open(folder.path()).unwrap();
    }

    #[test]
    fn a_failed_fill_leaves_the_old_folder() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("artifact");
        write_folder_whole(&path, |fresh| {
            std::fs::write(fresh.join("a"), "old").unwrap();
            Ok(())
        })
        .unwrap();
        let refused = write_folder_whole(&path, |_| {
            Err(HybridError::Interrupted { run: path.clone() })
        });
        assert!(refused.is_err());
        assert_eq!(std::fs::read_to_string(path.join("a")).unwrap(), "old");
        assert_eq!(
            std::fs::read_dir(folder.path()).unwrap().count(),
            1,
            "no temporary folder is left"
        );
    }
}

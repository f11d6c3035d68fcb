//! The folder of a run: what lies where, and how to tell it from other folders.

use std::ffi::OsString;
use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use hybrid_models::{UNFINISHED, folder_of, sync_folder};

use crate::HybridError;
use crate::recipe::Recipe;

/// What lies at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    /// Nothing but what a run hides there.
    Nothing,
    /// A run, perhaps one that was broken off or half removed.
    Run,
    /// Something else, which is not touched.
    Foreign,
}

/// The folder of a run, locked for this process.
#[derive(Debug)]
pub(crate) struct RunFolder {
    path: PathBuf,
    /// Held open: the operating system frees the lock when the process ends, however it ends.
    _lock: File,
}

/// First line of a run's recipe: tells it from a recipe that somebody keeps in a folder.
const MARK: &str = "# The resolved recipe of a run, written by `hybrid train`.\n";

const LOCK: &str = ".lock";
const RECIPE: &str = "recipe.toml";
const JOURNAL: &str = "journal.jsonl";
const CANDIDATES: &str = "candidates";

/// What lies at `path`.
///
/// A run is told by its recipe's first line beside its lock or journal, so that a recipe that was
/// copied out of a run makes no run of the folder it is put into.
pub(crate) fn content_of(path: &Path) -> Content {
    let hidden = |entry: &std::fs::DirEntry| entry.file_name().as_encoded_bytes().starts_with(b".");
    let occupied =
        std::fs::read_dir(path).is_ok_and(|entries| entries.flatten().any(|entry| !hidden(&entry)));
    let marked =
        std::fs::read(path.join(RECIPE)).is_ok_and(|recipe| recipe.starts_with(MARK.as_bytes()));
    let has = |name: &str| path.join(name).is_file();
    if marked && (has(LOCK) || has(JOURNAL)) {
        Content::Run
    } else if occupied {
        Content::Foreign
    } else {
        Content::Nothing
    }
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
        let lock = File::create(path.join(LOCK)).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {
                for folder in [path, &path.join(CANDIDATES)] {
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

    /// What happened.
    pub(crate) fn journal(&self) -> PathBuf {
        self.path.join(JOURNAL)
    }

    /// One folder a candidate.
    pub(crate) fn candidate(&self, id: &str) -> PathBuf {
        self.path.join(CANDIDATES).join(id)
    }

    /// What a language model has answered, so that nothing is asked twice.
    pub(crate) fn answers(&self) -> PathBuf {
        self.path.join("answers.jsonl")
    }

    /// States of the stage that is being trained, one of each variant.
    fn checkpoints(&self) -> PathBuf {
        self.path.join("checkpoints")
    }

    /// State of a variant of the stage that is being trained.
    pub(crate) fn checkpoint(&self, variant: usize) -> PathBuf {
        checkpoint_in(&self.checkpoints(), variant)
    }

    /// Replaces the states of some variants, all or none. `write` is told where to write each.
    ///
    /// # Errors
    /// What `write` returns, or [`HybridError::Write`].
    pub(crate) fn replace_checkpoints(
        &self,
        write: impl FnOnce(&dyn Fn(usize) -> PathBuf) -> Result<(), HybridError>,
    ) -> Result<(), HybridError> {
        write_folder_whole(&self.next_checkpoints(), |folder| {
            write(&|variant| checkpoint_in(folder, variant))
        })?;
        self.settle_checkpoints()
    }

    /// Ends a replacing that a kill has cut short once all states were written.
    ///
    /// # Errors
    /// [`HybridError::Write`].
    pub(crate) fn settle_checkpoints(&self) -> Result<(), HybridError> {
        let next = self.next_checkpoints();
        let Ok(entries) = std::fs::read_dir(&next) else {
            return Ok(());
        };
        for entry in entries.flatten() {
            let path = self.checkpoints().join(entry.file_name());
            std::fs::rename(entry.path(), &path)
                .map_err(|source| HybridError::Write { path, source })?;
        }
        let path = self.checkpoints();
        sync_folder(&path).map_err(|source| HybridError::Write { path, source })?;
        remove(&next)
    }

    /// States that take the places of others together: all are written once this is there.
    fn next_checkpoints(&self) -> PathBuf {
        self.checkpoints().join("next")
    }

    /// Makes the folder of [`checkpoint`](Self::checkpoint).
    ///
    /// # Errors
    /// [`HybridError::Write`].
    pub(crate) fn make_room_for_checkpoints(&self) -> Result<(), HybridError> {
        let path = self.checkpoints();
        std::fs::create_dir_all(&path).map_err(|source| HybridError::Write { path, source })
    }

    /// The winner, reloadable anywhere.
    pub(crate) fn artifact(&self) -> PathBuf {
        self.path.join("artifact")
    }

    /// The report as data. It is written after the report for reading and the card: with all three
    /// the run is finished.
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

    /// Writes the resolved recipe, which makes the folder a run's.
    ///
    /// # Errors
    /// [`HybridError::Write`].
    pub(crate) fn write_recipe(&self, recipe: &Recipe) -> Result<(), HybridError> {
        let text = toml::to_string_pretty(recipe).expect("recipes are plain data");
        write_whole(
            &self.path.join(RECIPE),
            format!("{MARK}\n{text}").as_bytes(),
        )
    }

    /// Removes all that a run has written, and nothing else, keeping the lock and the recipe. The
    /// report goes first, so that a half-cleared run does not look finished, and the recipe stays
    /// until another replaces it, so that it does not look foreign.
    ///
    /// # Errors
    /// [`HybridError::Write`].
    pub(crate) fn clear(&self) -> Result<(), HybridError> {
        remove(&self.report_json())?;
        sync_folder(&self.path).map_err(|source| HybridError::Write {
            path: self.path.clone(),
            source,
        })?;
        for path in [
            self.journal(),
            self.checkpoints(),
            self.answers(),
            self.path.join(CANDIDATES),
            self.artifact(),
            self.report_html(),
            self.card(),
        ] {
            remove(&path)?;
        }
        Ok(())
    }

    /// Removes the states of a stage that has ended.
    ///
    /// # Errors
    /// [`HybridError::Write`].
    pub(crate) fn clear_checkpoints(&self) -> Result<(), HybridError> {
        remove(&self.checkpoints())
    }
}

/// The state of a variant among others.
fn checkpoint_in(folder: &Path, variant: usize) -> PathBuf {
    folder.join(format!("{variant}.safetensors"))
}

/// Removes what a killed process was writing.
fn remove_unfinished(folder: &Path) -> Result<(), HybridError> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Ok(());
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if name.as_encoded_bytes().starts_with(UNFINISHED.as_bytes()) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

/// Removes what a killed [`write_folder_whole`] of this path has left.
///
/// # Errors
/// [`HybridError::Write`].
pub(crate) fn remove_unfinished_of(path: &Path) -> Result<(), HybridError> {
    let parent = folder_of(path);
    let Ok(entries) = std::fs::read_dir(parent) else {
        return Ok(());
    };
    let prefix = unfinished_prefix(path);
    for entry in entries.flatten() {
        let name = entry.file_name();
        let rest = name
            .as_encoded_bytes()
            .strip_prefix(prefix.as_encoded_bytes());
        // Else it is of another path, whose name goes on where this one's ends.
        if rest.is_some_and(|rest| !rest.contains(&b'-')) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

/// What the name of a folder begins with that takes the place of `path` once it is whole.
fn unfinished_prefix(path: &Path) -> OsString {
    let mut prefix = OsString::from(UNFINISHED);
    prefix.push(path.file_name().unwrap_or_default());
    prefix.push("-");
    prefix
}

/// Removes a file or a folder, if it is there.
fn remove(path: &Path) -> Result<(), HybridError> {
    let removed = match path.is_dir() {
        true => std::fs::remove_dir_all(path),
        false => std::fs::remove_file(path),
    };
    match removed {
        Err(source) if source.kind() != ErrorKind::NotFound => Err(HybridError::Write {
            path: path.to_owned(),
            source,
        }),
        _ => Ok(()),
    }
}

/// Writes a file so that it is there whole or not at all: see [`hybrid_models::write_whole`].
///
/// # Errors
/// [`HybridError::Write`].
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), HybridError> {
    hybrid_models::write_whole(path, bytes).map_err(|source| HybridError::Write {
        path: path.to_owned(),
        source,
    })
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
    let parent = folder_of(path);
    std::fs::create_dir_all(parent).map_err(failed)?;
    let fresh = tempfile::Builder::new()
        .prefix(&unfinished_prefix(path))
        .tempdir_in(parent)
        .map_err(failed)?;
    fill(fresh.path())?;
    sync_folder(fresh.path()).map_err(failed)?;
    remove(path)?;
    std::fs::rename(fresh.path(), path).map_err(failed)?;
    // Under its new name it is no longer temporary.
    let _ = fresh.keep();
    sync_folder(parent).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::{Content, MARK, RunFolder, content_of, write_folder_whole};
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
    fn states_are_replaced_together_also_through_a_kill() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunFolder::open(folder.path()).unwrap();
        let write = |text: &str| {
            run.replace_checkpoints(|path_of| {
                for variant in [0, 2] {
                    std::fs::write(path_of(variant), text).unwrap();
                }
                Ok(())
            })
        };
        let read = || [0, 2].map(|variant| std::fs::read_to_string(run.checkpoint(variant)));
        let texts = || read().map(Result::unwrap);
        write("one").unwrap();
        write("two").unwrap();
        assert_eq!(texts(), ["two", "two"]);
        // All are written and the first is moved.
        let next = run.next_checkpoints();
        std::fs::create_dir(&next).unwrap();
        std::fs::write(run.checkpoint(0), "three").unwrap();
        std::fs::write(next.join(run.checkpoint(2).file_name().unwrap()), "three").unwrap();
        run.settle_checkpoints().unwrap();
        assert_eq!(texts(), ["three", "three"]);
        assert!(!next.exists());
        let failed = run.replace_checkpoints(|path_of| {
            std::fs::write(path_of(0), "four").unwrap();
            Err(HybridError::Interrupted {
                run: folder.path().to_owned(),
            })
        });
        assert!(failed.is_err());
        run.settle_checkpoints().unwrap();
        assert_eq!(texts(), ["three", "three"]);
    }

    #[test]
    fn a_recipe_alone_makes_no_run() {
        let folder = tempfile::tempdir().unwrap();
        let write =
            |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        assert_eq!(content_of(&folder.path().join("absent")), Content::Nothing);
        assert_eq!(content_of(folder.path()), Content::Nothing);
        write(".lock", "");
        assert_eq!(content_of(folder.path()), Content::Nothing);
        write("recipe.toml", "name = \"mine\"");
        assert_eq!(content_of(folder.path()), Content::Foreign);
        write("recipe.toml", &format!("{MARK}name = \"mine\""));
        assert_eq!(content_of(folder.path()), Content::Run);
        std::fs::remove_file(folder.path().join(".lock")).unwrap();
        assert_eq!(content_of(folder.path()), Content::Foreign);
        write("journal.jsonl", "");
        assert_eq!(content_of(folder.path()), Content::Run);
    }

    #[test]
    fn a_cleared_run_keeps_its_recipe_and_what_others_put_there() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunFolder::open(folder.path()).unwrap();
        for file in [run.report_json(), run.journal(), run.card()] {
            std::fs::write(file, "").unwrap();
        }
        std::fs::create_dir_all(run.candidate("baseline")).unwrap();
        std::fs::write(folder.path().join("recipe.toml"), MARK).unwrap();
        std::fs::write(folder.path().join("notes.txt"), "mine").unwrap();
        run.clear().unwrap();
        let mut left: Vec<_> = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, [".lock", "notes.txt", "recipe.toml"]);
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

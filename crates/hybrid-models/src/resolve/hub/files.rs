//! Files of a hub repository: which are wanted, and whether they are what the hub names them by.

use std::fs::{self, File};
use std::path::{Component, Path};

use super::super::wheel::sha256;
use crate::ModelError;

/// The files of a repository that a model needs: configuration and tokenizer first, then weights as
/// safetensors or else as PyTorch files. Duplicates in other formats are left on the hub.
pub(super) fn wanted_files(files: &[String]) -> Vec<String> {
    const SMALL: [&str; 9] = [
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "vocab.txt",
        "vocab.json",
        "merges.txt",
        "modules.json",
        "1_Pooling/config.json",
    ];
    let has = |name: &str| files.iter().any(|file| file == name);
    let shard_of = |stem: &'static str, extension: &'static str| {
        move |file: &&String| {
            file.strip_prefix(stem)
                .and_then(|rest| rest.strip_suffix(extension))
                .is_some_and(|middle| {
                    middle.starts_with('-')
                        && middle
                            .chars()
                            .all(|c| c.is_ascii_alphanumeric() || c == '-')
                })
        }
    };
    let mut wanted: Vec<String> = SMALL
        .iter()
        .filter(|name| has(name))
        .map(|name| (*name).to_owned())
        .collect();
    for (stem, extension) in [("model", ".safetensors"), ("pytorch_model", ".bin")] {
        let single = format!("{stem}{extension}");
        let index = format!("{single}.index.json");
        if has(&single) {
            wanted.push(single);
            break;
        }
        if has(&index) {
            wanted.push(index);
            wanted.extend(files.iter().filter(shard_of(stem, extension)).cloned());
            break;
        }
    }
    debug_assert!(wanted.iter().all(|file| {
        Path::new(file)
            .components()
            .all(|c| matches!(c, Component::Normal(_)))
    }));
    wanted
}

/// Checks a large file against the SHA-256 that the hub names it by.
pub(super) fn verify(file: &str, path: &Path) -> Result<(), ModelError> {
    let read = |source| ModelError::Read {
        path: path.to_owned(),
        source,
    };
    let blob = path.canonicalize().map_err(read)?;
    let expected = blob
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    let named_by_hash =
        expected.len() == 64 && expected.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !named_by_hash {
        return Ok(());
    }
    let found = sha256(&mut File::open(&blob).map_err(read)?).map_err(read)?;
    if found != expected {
        // What is not kept cannot be taken for the model later.
        for path in [path, &blob] {
            fs::remove_file(path).map_err(|source| ModelError::Write {
                path: path.to_owned(),
                source,
            })?;
        }
        return Err(ModelError::HubMismatch {
            file: file.to_owned(),
            expected,
            found,
        });
    }
    Ok(())
}

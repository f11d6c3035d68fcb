//! What a folder must hold to be a model.

use std::path::Path;

use serde_json::Value;

/// Single weight files and the indices of sharded ones, best first.
const WEIGHTS: [&str; 2] = ["model.safetensors", "pytorch_model.bin"];
const INDICES: [&str; 2] = [
    "model.safetensors.index.json",
    "pytorch_model.bin.index.json",
];

/// The first file that `folder` lacks to be a whole model, or `None` if it is one.
///
/// A GGUF file is a whole model by itself.
pub(super) fn missing_file(folder: &Path) -> Option<String> {
    if has_gguf(folder) {
        return None;
    }
    if !folder.join("config.json").is_file() {
        return Some("config.json".to_owned());
    }
    if WEIGHTS.iter().any(|name| folder.join(name).is_file()) {
        return None;
    }
    match INDICES.iter().find(|name| folder.join(name).is_file()) {
        Some(index) => missing_shard(folder, index),
        None => Some(WEIGHTS[0].to_owned()),
    }
}

fn has_gguf(folder: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return false;
    };
    entries.flatten().any(|entry| is_gguf_file(&entry.path()))
}

/// Whether a path is a GGUF file, which is a whole model by itself.
pub(crate) fn is_gguf_file(path: &Path) -> bool {
    path.is_file()
        && path
            .extension()
            .is_some_and(|extension| extension == "gguf")
}

/// The first shard that an index names and the folder lacks. An index that cannot be read is left to
/// the checkpoint reader, which says what is wrong with it.
fn missing_shard(folder: &Path, index: &str) -> Option<String> {
    let bytes = std::fs::read(folder.join(index)).ok()?;
    let index: Value = serde_json::from_slice(&bytes).ok()?;
    let shards = index
        .get("weight_map")?
        .as_object()?
        .values()
        .filter_map(Value::as_str);
    shards
        .map(str::to_owned)
        .find(|shard| !folder.join(shard).is_file())
}

#[cfg(test)]
mod tests {
    use std::fs::write;

    use super::{is_gguf_file, missing_file};

    #[test]
    fn a_model_is_a_configuration_and_weights() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(missing_file(folder.path()).as_deref(), Some("config.json"));
        write(folder.path().join("config.json"), "{}").unwrap();
        assert_eq!(
            missing_file(folder.path()).as_deref(),
            Some("model.safetensors")
        );
        write(folder.path().join("pytorch_model.bin"), "").unwrap();
        assert_eq!(missing_file(folder.path()), None);
    }

    #[test]
    fn every_shard_must_be_there() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path().join("config.json"), "{}").unwrap();
        let index = r#"{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}"#;
        write(folder.path().join("model.safetensors.index.json"), index).unwrap();
        write(folder.path().join("model-1.safetensors"), "").unwrap();
        assert_eq!(
            missing_file(folder.path()).as_deref(),
            Some("model-2.safetensors")
        );
        write(folder.path().join("model-2.safetensors"), "").unwrap();
        assert_eq!(missing_file(folder.path()), None);
    }

    #[test]
    fn a_gguf_file_is_whole_by_itself() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tiny.gguf");
        write(&file, "").unwrap();
        assert_eq!(missing_file(folder.path()), None);
        assert!(is_gguf_file(&file) && !is_gguf_file(folder.path()));
    }
}

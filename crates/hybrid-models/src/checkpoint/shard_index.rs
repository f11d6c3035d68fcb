//! Checkpoints in several files: `*.index.json` says which file has which tensor.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use serde::Deserialize;

use super::stored_tensor::StoredTensor;
use crate::ModelError;

#[derive(Deserialize)]
struct ShardIndex {
    weight_map: BTreeMap<String, String>,
}

type Tensors = BTreeMap<String, StoredTensor>;

/// Opens every shard once and keeps the tensors that the index takes from it.
pub(super) fn open(
    path: &Path,
    open_file: impl Fn(&Path) -> Result<Tensors, ModelError>,
) -> Result<Tensors, ModelError> {
    let text = std::fs::read(path).map_err(|source| ModelError::Read {
        path: path.to_owned(),
        source,
    })?;
    let index: ShardIndex = serde_json::from_slice(&text).map_err(|source| ModelError::Json {
        path: path.to_owned(),
        source,
    })?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut shards: BTreeMap<&str, Tensors> = BTreeMap::new();
    let mut tensors = Tensors::new();
    for (name, shard) in &index.weight_map {
        let mut components = Path::new(shard).components();
        if !matches!(
            (components.next(), components.next()),
            (Some(Component::Normal(_)), None)
        ) {
            return Err(ModelError::ShardName {
                path: path.to_owned(),
                found: shard.clone(),
            });
        }
        if !shards.contains_key(shard.as_str()) {
            shards.insert(shard, open_file(&folder.join(shard))?);
        }
        let tensor = shards
            .get_mut(shard.as_str())
            .and_then(|shard| shard.remove(name))
            .ok_or_else(|| ModelError::MissingTensor {
                path: folder.join(shard),
                name: name.clone(),
                expected: Vec::new(),
            })?;
        tensors.insert(name.clone(), tensor);
    }
    Ok(tensors)
}

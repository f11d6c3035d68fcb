//! A model with fewer layers: the lowest ones of another.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::error::XtaskError;

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";

/// Writes the model of a folder anew with its lowest `n_layers` layers.
///
/// # Errors
/// [`XtaskError::Model`] when it has no configuration or weights as they are known of BERT,
/// [`XtaskError::Read`], [`XtaskError::Write`].
pub(super) fn write(from: &Path, n_layers: usize, to: &Path) -> Result<(), XtaskError> {
    copy(from, to)?;
    let path = from.join(CONFIG);
    let text = fs::read(&path).map_err(XtaskError::read(&path))?;
    let config = with_n_layers(&text, n_layers).ok_or_else(|| XtaskError::Model {
        path: path.clone(),
        expected: "num_hidden_layers",
    })?;
    let place = to.join(CONFIG);
    fs::write(&place, config.to_string()).map_err(XtaskError::write(&place))?;
    let path = from.join(WEIGHTS);
    let bytes = fs::read(&path).map_err(XtaskError::read(&path))?;
    let kept = lowest_layers(&bytes, n_layers).ok_or_else(|| XtaskError::Model {
        path: path.clone(),
        expected: "tensors in safetensors",
    })?;
    let place = to.join(WEIGHTS);
    fs::write(&place, kept).map_err(XtaskError::write(&place))
}

/// Copies a folder but for what is written anew.
fn copy(from: &Path, to: &Path) -> Result<(), XtaskError> {
    fs::create_dir_all(to).map_err(XtaskError::write(to))?;
    for entry in fs::read_dir(from).map_err(XtaskError::read(from))? {
        let path = entry.map_err(XtaskError::read(from))?.path();
        let name = path.file_name().unwrap_or_default();
        let place = to.join(name);
        if path.is_dir() {
            copy(&path, &place)?;
        } else if name != CONFIG && name != WEIGHTS {
            fs::copy(&path, &place).map_err(XtaskError::write(&place))?;
        }
    }
    Ok(())
}

/// A configuration with another number of layers; none if it has no such number.
fn with_n_layers(config: &[u8], n_layers: usize) -> Option<Value> {
    let mut config: Value = serde_json::from_slice(config).ok()?;
    let found = config.get_mut("num_hidden_layers")?;
    *found = json!(n_layers);
    Some(config)
}

/// A safetensors file without the layers above the lowest ones; none if it is no such file.
fn lowest_layers(bytes: &[u8], n_layers: usize) -> Option<Vec<u8>> {
    let (length, rest) = bytes.split_first_chunk::<8>()?;
    let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
    let (header, data) = rest.split_at_checked(length)?;
    let header: Map<String, Value> = serde_json::from_slice(header).ok()?;
    let (mut kept, mut values) = (Map::new(), Vec::new());
    for (name, mut entry) in header {
        if layer(&name).is_some_and(|layer| layer >= n_layers) {
            continue;
        }
        if let Some(offsets) = entry.get_mut("data_offsets") {
            let [begin, end]: [usize; 2] = serde_json::from_value(offsets.take()).ok()?;
            *offsets = json!([values.len(), values.len() + (end - begin)]);
            values.extend_from_slice(data.get(begin..end)?);
        }
        kept.insert(name, entry);
    }
    let mut header = Value::Object(kept).to_string().into_bytes();
    // Tensors begin at a multiple of eight bytes.
    header.resize(header.len().next_multiple_of(8), b' ');
    let length = (header.len() as u64).to_le_bytes();
    Some([&length[..], &header[..], &values[..]].concat())
}

/// The layer that a tensor belongs to.
fn layer(name: &str) -> Option<usize> {
    let (_, rest) = name.split_once("layer.")?;
    rest.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{layer, lowest_layers, with_n_layers};

    #[test]
    fn upper_layers_are_left_out() {
        let header = json!({
            "__metadata__": {"format": "pt"},
            "encoder.layer.0.a": {"dtype": "U8", "shape": [3], "data_offsets": [5, 8]},
            "encoder.layer.1.a": {"dtype": "U8", "shape": [3], "data_offsets": [2, 5]},
            "embeddings.a": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]},
        });
        let header = header.to_string();
        let length = (header.len() as u64).to_le_bytes();
        let file = [&length[..], header.as_bytes(), &[1, 2, 3, 4, 5, 6, 7, 8]].concat();
        let kept = lowest_layers(&file, 1).unwrap();
        let length = u64::from_le_bytes(kept[..8].try_into().unwrap()) as usize;
        let header: Value = serde_json::from_slice(&kept[8..8 + length]).unwrap();
        let data = &kept[8 + length..];
        assert_eq!(header["encoder.layer.1.a"], Value::Null);
        assert_eq!(header["__metadata__"]["format"], "pt");
        let tensor = |name: &str| {
            let offset = |place: usize| header[name]["data_offsets"][place].as_u64().unwrap();
            data[offset(0) as usize..offset(1) as usize].to_vec()
        };
        assert_eq!(tensor("encoder.layer.0.a"), [6, 7, 8]);
        assert_eq!(tensor("embeddings.a"), [1, 2]);
        assert_eq!((data.len(), length % 8), (5, 0));
        assert_eq!(lowest_layers(&file[..4], 1), None);
        assert_eq!(lowest_layers(&file[..file.len() - 1], 1), None);
    }

    #[test]
    fn layers_are_numbered_in_names() {
        assert_eq!(layer("encoder.layer.11.output.dense.weight"), Some(11));
        assert_eq!(layer("embeddings.LayerNorm.weight"), None);
        let config = with_n_layers(b"{\"num_hidden_layers\": 6, \"a\": 1}", 2).unwrap();
        assert_eq!(config, json!({"num_hidden_layers": 2, "a": 1}));
        assert_eq!(with_n_layers(b"{}", 2), None);
    }
}

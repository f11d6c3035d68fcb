//! Named tensors in one safetensors file, with text beside them.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use burn::tensor::{DType, TensorData};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use crate::HybridError;
use crate::run_folder::write_whole;

/// Tensors by name, in a stable order.
pub(crate) type NamedTensors = BTreeMap<String, TensorData>;

/// Writes tensors of 32-bit floats and 64-bit integers, whole or not at all; the same input gives
/// the same bytes. `text` is a key and a value for the file's header.
///
/// # Errors
/// [`HybridError::Write`].
pub(crate) fn write(
    path: &Path,
    tensors: &NamedTensors,
    text: Option<(&str, String)>,
) -> Result<(), HybridError> {
    let failed = |source| HybridError::Write {
        path: path.to_owned(),
        source,
    };
    let mut views = Vec::new();
    for (name, data) in tensors {
        let dtype = match data.dtype() {
            DType::F32 => Dtype::F32,
            DType::I64 => Dtype::I64,
            other => {
                return Err(failed(std::io::Error::other(format!(
                    "{name}: cannot store {other:?}"
                ))));
            }
        };
        let view = TensorView::new(dtype, data.shape().to_vec(), data.as_bytes());
        views.push((
            name.as_str(),
            view.map_err(|error| failed(std::io::Error::other(error)))?,
        ));
    }
    let metadata = text.map(|(key, value)| HashMap::from([(key.to_owned(), value)]));
    let bytes = safetensors::serialize(views, metadata)
        .map_err(|error| failed(std::io::Error::other(error)))?;
    write_whole(path, &bytes)
}

/// `from + share (to - from)`, tensor by tensor, of two states of one module.
pub(crate) fn interpolated(from: &NamedTensors, to: &NamedTensors, share: f64) -> NamedTensors {
    let between = |a: &TensorData, b: &TensorData| {
        let values: Vec<f32> = a
            .iter::<f32>()
            .zip(b.iter::<f32>())
            .map(|(a, b)| (f64::from(a) + share * (f64::from(b) - f64::from(a))) as f32)
            .collect();
        TensorData::new(values, b.shape().clone())
    };
    to.iter()
        .map(|(name, b)| {
            let data = from.get(name).map_or_else(|| b.clone(), |a| between(a, b));
            (name.clone(), data)
        })
        .collect()
}

/// Reads what [`write`] wrote; the text is empty when there is none under `key`.
///
/// # Errors
/// [`HybridError::Read`] or [`HybridError::Format`].
pub(crate) fn read(path: &Path, key: &str) -> Result<(NamedTensors, String), HybridError> {
    let bytes = std::fs::read(path).map_err(|source| HybridError::Read {
        path: path.to_owned(),
        source,
    })?;
    let format = |reason: String| HybridError::Format {
        path: path.to_owned(),
        reason,
    };
    let (_, header) =
        SafeTensors::read_metadata(&bytes).map_err(|error| format(error.to_string()))?;
    let text = header
        .metadata()
        .as_ref()
        .and_then(|texts| texts.get(key))
        .cloned()
        .unwrap_or_default();
    let file = SafeTensors::deserialize(&bytes).map_err(|error| format(error.to_string()))?;
    let mut tensors = NamedTensors::new();
    for (name, view) in file.iter() {
        let shape = view.shape().to_vec();
        let data = match view.dtype() {
            Dtype::F32 => {
                let values: Vec<f32> = view
                    .data()
                    .as_chunks()
                    .0
                    .iter()
                    .map(|value| f32::from_le_bytes(*value))
                    .collect();
                TensorData::new(values, shape)
            }
            Dtype::I64 => {
                let values: Vec<i64> = view
                    .data()
                    .as_chunks()
                    .0
                    .iter()
                    .map(|value| i64::from_le_bytes(*value))
                    .collect();
                TensorData::new(values, shape)
            }
            other => {
                return Err(format(format!(
                    "{name}: expected F32 or I64, found {other:?}"
                )));
            }
        };
        tensors.insert(name.to_owned(), data);
    }
    Ok((tensors, text))
}

/// The tensors whose names begin with `prefix`, without it.
pub(crate) fn under(tensors: &NamedTensors, prefix: &str) -> NamedTensors {
    tensors
        .iter()
        .filter_map(|(name, data)| Some((name.strip_prefix(prefix)?.to_owned(), data.clone())))
        .collect()
}

#[cfg(test)]
mod tests {
    use burn::tensor::TensorData;

    use super::{NamedTensors, read, under, write};

    #[test]
    fn what_is_written_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        let tensors = NamedTensors::from([
            (
                "current/a".to_owned(),
                TensorData::new(vec![1.5f32, -2.0], [1, 2]),
            ),
            ("best/a".to_owned(), TensorData::new(vec![1i64 << 40], [1])),
        ]);
        write(&path, &tensors, Some(("state", "{}".to_owned()))).unwrap();
        let (back, text) = read(&path, "state").unwrap();
        assert_eq!(back, tensors);
        assert_eq!(text, "{}");
        assert_eq!(under(&back, "best/").into_keys().collect::<Vec<_>>(), ["a"]);
    }

    #[test]
    fn interpolation_goes_from_one_state_to_the_other() {
        let state =
            |values: [f32; 2]| NamedTensors::from([("w".to_owned(), TensorData::from(values))]);
        let (a, b) = (state([1.0, -2.0]), state([3.0, 2.0]));
        let at = |share| super::interpolated(&a, &b, share);
        assert_eq!(
            (at(0.0), at(1.0), at(0.25)),
            (a.clone(), b.clone(), state([1.5, -1.0]))
        );
    }

    #[test]
    fn a_torn_file_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        std::fs::write(&path, [9u8; 20]).unwrap();
        assert!(read(&path, "state").is_err());
    }
}

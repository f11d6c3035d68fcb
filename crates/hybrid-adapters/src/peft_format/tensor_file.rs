//! Safetensors files of adapters.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use burn::tensor::{DType, TensorData};
use hybrid_models::write_whole;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use crate::AdapterError;

/// The largest header that is read. A header takes about a hundred bytes a tensor.
const MAX_HEADER: u64 = 16 << 20;

/// Whether a key is one of whole numbers.
pub(super) fn is_of_indices(name: &str) -> bool {
    ["_indices", "_indices_A", "_indices_B"]
        .iter()
        .any(|end| name.ends_with(end))
}

/// All tensors of a file as float32.
///
/// # Errors
/// [`AdapterError::Read`], or [`AdapterError::Format`] for a file that is cut off, has an
/// oversized or broken header, or holds other numbers than float32, float16 and bfloat16, and whole
/// ones other than indices.
pub(super) fn read(path: &Path) -> Result<BTreeMap<String, TensorData>, AdapterError> {
    let bytes = std::fs::read(path).map_err(|source| AdapterError::Read {
        path: path.to_owned(),
        source,
    })?;
    parse(path, &bytes)
}

fn parse(path: &Path, bytes: &[u8]) -> Result<BTreeMap<String, TensorData>, AdapterError> {
    let wrong = |reason: String| AdapterError::Format {
        path: path.to_owned(),
        reason,
        source: None,
    };
    let Some(prefix) = bytes.first_chunk::<8>() else {
        return Err(wrong(format!(
            "cut off: {} bytes are no safetensors file",
            bytes.len()
        )));
    };
    let header = u64::from_le_bytes(*prefix);
    if header > MAX_HEADER {
        return Err(wrong(format!(
            "a header of {header} bytes; at most {MAX_HEADER} are read"
        )));
    }
    let file = SafeTensors::deserialize(bytes).map_err(|source| AdapterError::Format {
        path: path.to_owned(),
        reason: format!("not a whole safetensors file: {source}"),
        source: Some(Box::new(source)),
    })?;
    let mut tensors = BTreeMap::new();
    for (name, view) in file.iter() {
        let dtype = match view.dtype() {
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            Dtype::U8 if is_of_indices(name) => DType::U8,
            Dtype::I16 if is_of_indices(name) => DType::I16,
            Dtype::I32 if is_of_indices(name) => DType::I32,
            Dtype::I64 if is_of_indices(name) => DType::I64,
            other => {
                return Err(wrong(format!(
                    "{name}: expected F32, F16 or BF16, found {other:?}"
                )));
            }
        };
        let data =
            TensorData::try_from_bytes_vec(view.data().to_vec(), view.shape().to_vec(), dtype)
                .map_err(|error| wrong(format!("{name}: {error}")))?;
        tensors.insert(name.to_owned(), data.convert::<f32>());
    }
    Ok(tensors)
}

/// Writes tensors as float32, or as the whole numbers that they are, whole or not at all; the same tensors give the same bytes.
///
/// # Errors
/// [`AdapterError::Write`].
pub(super) fn write(
    path: &Path,
    tensors: &BTreeMap<String, TensorData>,
) -> Result<(), AdapterError> {
    let plain: Vec<(&str, Dtype, Vec<usize>, Vec<u8>)> = tensors
        .iter()
        .map(|(name, data)| {
            let (dtype, bytes) = match data.dtype() {
                DType::U8 => (Dtype::U8, data.iter::<u8>().collect()),
                DType::I16 => (
                    Dtype::I16,
                    data.iter::<i16>().flat_map(i16::to_le_bytes).collect(),
                ),
                DType::I32 => (
                    Dtype::I32,
                    data.iter::<i32>().flat_map(i32::to_le_bytes).collect(),
                ),
                DType::I64 => (
                    Dtype::I64,
                    data.iter::<i64>().flat_map(i64::to_le_bytes).collect(),
                ),
                _ => (
                    Dtype::F32,
                    data.iter::<f32>().flat_map(f32::to_le_bytes).collect(),
                ),
            };
            (
                name.as_str(),
                dtype,
                data.shape().as_slice().to_vec(),
                bytes,
            )
        })
        .collect();
    let failed = |source| AdapterError::Write {
        path: path.to_owned(),
        source,
    };
    let mut views = Vec::new();
    for (name, dtype, shape, bytes) in &plain {
        let view = TensorView::new(*dtype, shape.clone(), bytes);
        views.push((
            *name,
            view.map_err(|error| failed(std::io::Error::other(error)))?,
        ));
    }
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let bytes = safetensors::serialize(views, Some(metadata))
        .map_err(|error| failed(std::io::Error::other(error)))?;
    write_whole(path, &bytes).map_err(failed)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use burn::tensor::TensorData;
    use proptest::prelude::{any, prop, proptest};

    use super::{parse, read, write};
    use crate::AdapterError;

    #[test]
    fn what_is_written_is_read_and_bytes_repeat() {
        let folder = tempfile::tempdir().unwrap();
        let tensors = BTreeMap::from([
            ("b".to_owned(), TensorData::new(vec![1.5f32, -2.0], [1, 2])),
            ("a".to_owned(), TensorData::new(vec![0.1f32], [1])),
        ]);
        let paths = ["x", "y"].map(|name| folder.path().join(name));
        for path in &paths {
            write(path, &tensors).unwrap();
        }
        assert_eq!(read(&paths[0]).unwrap(), tensors);
        assert_eq!(
            std::fs::read(&paths[0]).unwrap(),
            std::fs::read(&paths[1]).unwrap()
        );
    }

    #[test]
    fn damaged_files_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        write(
            &path,
            &BTreeMap::from([("a".to_owned(), TensorData::new(vec![0.5f32; 4], [4]))]),
        )
        .unwrap();
        let whole = std::fs::read(&path).unwrap();
        for length in 0..whole.len() {
            assert!(
                matches!(
                    parse(Path::new("x"), &whole[..length]),
                    Err(AdapterError::Format { .. })
                ),
                "{length}"
            );
        }
        let mut oversized = whole.clone();
        oversized[..8].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(
            parse(Path::new("x"), &oversized)
                .unwrap_err()
                .to_string()
                .contains("header")
        );
        let mut broken = whole;
        broken[8] = b'!';
        assert!(parse(Path::new("x"), &broken).is_err());
    }

    #[test]
    fn a_write_into_nowhere_is_an_error() {
        let error = write(Path::new("/nowhere/at/all"), &BTreeMap::new()).unwrap_err();
        assert!(matches!(error, AdapterError::Write { .. }), "{error}");
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
            let _ = parse(Path::new("x"), &bytes);
        }
    }
}

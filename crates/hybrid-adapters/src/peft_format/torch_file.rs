//! Files of `torch.save`, as older releases of PEFT write adapters. No code of a file is run.

use std::collections::BTreeMap;
use std::path::Path;

use burn::store::pytorch_reader::{DType as TorchType, PytorchError, PytorchReader};
use burn::tensor::{DType, TensorData};

use super::tensor_file::is_of_indices;
use crate::AdapterError;

/// How many times its own size a file's tensors may take: several may share one storage.
const MAX_SHARING: u64 = 16;

/// All tensors of a file as float32.
///
/// # Errors
/// [`AdapterError::Read`], or [`AdapterError::Format`] for a file that is cut off, is no archive of
/// tensors, claims more values than it can hold, or holds other numbers than floats, and whole ones
/// other than indices.
pub(super) fn read(path: &Path) -> Result<BTreeMap<String, TensorData>, AdapterError> {
    let wrong = |reason: String| AdapterError::Format {
        path: path.to_owned(),
        reason,
        source: None,
    };
    let unreadable = |source| AdapterError::Read {
        path: path.to_owned(),
        source,
    };
    let size = std::fs::metadata(path).map_err(unreadable)?.len();
    let reader = PytorchReader::new(path).map_err(|error| match error {
        PytorchError::Io(source) if source.kind() != std::io::ErrorKind::InvalidData => {
            unreadable(source)
        }
        source => AdapterError::Format {
            path: path.to_owned(),
            reason: format!("not a whole file of torch.save: {source}"),
            source: Some(Box::new(source)),
        },
    })?;
    let stored: BTreeMap<String, _> = reader.into_tensors().into_iter().collect();
    let mut total = 0u64;
    for (name, tensor) in &stored {
        let bytes = tensor.byte_len() as u64;
        total = total.saturating_add(bytes);
        if bytes > size || total > size.saturating_mul(MAX_SHARING) {
            return Err(wrong(format!(
                "{name}: {total} bytes of values up to here in a file of {size}"
            )));
        }
    }
    let mut tensors = BTreeMap::new();
    for (name, tensor) in stored {
        let dtype = match tensor.dtype() {
            TorchType::F64 => DType::F64,
            TorchType::F32 => DType::F32,
            TorchType::F16 => DType::F16,
            TorchType::BF16 => DType::BF16,
            TorchType::U8 if is_of_indices(&name) => DType::U8,
            TorchType::I16 if is_of_indices(&name) => DType::I16,
            TorchType::I32 if is_of_indices(&name) => DType::I32,
            TorchType::I64 if is_of_indices(&name) => DType::I64,
            other => {
                return Err(wrong(format!("{name}: expected floats, found {other:?}")));
            }
        };
        let shape = tensor.shape().to_vec();
        let bytes = tensor
            .read()
            .map_err(|error| wrong(format!("{name}: {error}")))?;
        let data = TensorData::try_from_bytes_vec(bytes, shape, dtype)
            .map_err(|error| wrong(format!("{name}: {error}")))?;
        tensors.insert(name, data.convert::<f32>());
    }
    Ok(tensors)
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::read;
    use crate::AdapterError;

    /// Made by `make_torch_file.py` beside it.
    fn file(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("src/peft_format/test_data")
            .join(name)
    }

    #[test]
    fn tensors_are_those_that_torch_saved() {
        let tensors = read(&file("adapter_model.bin")).unwrap();
        let found: Vec<(&str, &[usize], Vec<f32>)> = tensors
            .iter()
            .map(|(name, data)| {
                let values = data.iter::<f32>().collect();
                (name.as_str(), data.shape().as_slice(), values)
            })
            .collect();
        let counted: Vec<f32> = (0..6).map(|value| value as f32 - 2.5).collect();
        let turned = [-2.5, 0.5, -1.5, 1.5, -0.5, 2.5];
        let expected: [(&str, &[usize], Vec<f32>); 7] = [
            ("bfloat16", &[2, 3], counted.clone()),
            ("float16", &[2, 3], counted.clone()),
            ("float32", &[2, 3], counted.clone()),
            ("float64", &[2, 3], counted.clone()),
            ("of_a_part", &[3], counted[3..].to_vec()),
            ("shira_indices", &[2, 2], vec![3.0, 1.0, 0.0, 70_000.0]),
            ("turned", &[3, 2], turned.to_vec()),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn other_numbers_are_refused_by_name() {
        let error = read(&file("whole_numbers.bin")).unwrap_err().to_string();
        assert!(error.contains("lora_A") && error.contains("I64"), "{error}");
    }

    /// One stored value that claims to be millions.
    #[test]
    fn a_file_that_claims_more_than_it_holds_is_refused() {
        let error = read(&file("expanded.bin")).unwrap_err();
        assert!(matches!(error, AdapterError::Format { .. }), "{error}");
        let text = error.to_string();
        assert!(
            text.contains("lora_A") && text.contains("160000000 bytes"),
            "{text}"
        );
    }

    #[test]
    fn damaged_files_are_errors() {
        let whole = std::fs::read(file("adapter_model.bin")).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("adapter_model.bin");
        for length in (0..whole.len()).step_by(13) {
            std::fs::write(&path, &whole[..length]).unwrap();
            let error = read(&path).unwrap_err();
            assert!(
                matches!(
                    error,
                    AdapterError::Format { .. } | AdapterError::Read { .. }
                ),
                "{length}: {error}"
            );
        }
    }
}

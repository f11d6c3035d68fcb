//! Safetensors files, mapped into memory.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;
use safetensors::tensor::Metadata;

use super::stored_tensor::{StoredTensor, StoredValues};
use crate::ModelError;

/// The largest header that is read. A header takes about a hundred bytes a tensor.
const MAX_HEADER: u64 = 16 << 20;

/// Bytes of the header's length.
const PREFIX: u64 = 8;

/// Maps a file and lists its tensors.
pub(super) fn open(path: &Path) -> Result<BTreeMap<String, StoredTensor>, ModelError> {
    let unreadable = |source| ModelError::Read {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(unreadable)?;
    let found = file.metadata().map_err(unreadable)?.len();
    if found < PREFIX {
        return Err(ModelError::Truncated {
            path: path.to_owned(),
            expected: PREFIX,
            found,
        });
    }
    // SAFETY: the mapping is read-only and private to this process. Another process that changes
    // the file while a model is loaded can change weights, as with any mapped checkpoint; files
    // are therefore only ever replaced by renaming.
    #[expect(
        unsafe_code,
        reason = "mapping a file is the only way not to copy a checkpoint"
    )]
    let mapping = unsafe { Mmap::map(&file) }.map_err(unreadable)?;
    list(path, &bytes::Bytes::from_owner(mapping))
}

/// Lists the tensors of a whole file's bytes.
fn list(path: &Path, bytes: &bytes::Bytes) -> Result<BTreeMap<String, StoredTensor>, ModelError> {
    let found = bytes.len() as u64;
    let truncated = |expected| ModelError::Truncated {
        path: path.to_owned(),
        expected,
        found,
    };
    let corrupt = |source| ModelError::CorruptHeader {
        path: path.to_owned(),
        source,
    };
    let prefix: [u8; PREFIX as usize] = bytes
        .get(..PREFIX as usize)
        .and_then(|prefix| prefix.try_into().ok())
        .ok_or_else(|| truncated(PREFIX))?;
    let header = u64::from_le_bytes(prefix);
    if header > MAX_HEADER {
        return Err(ModelError::OversizedHeader {
            path: path.to_owned(),
            found: header,
            limit: MAX_HEADER,
        });
    }
    if PREFIX + header > found {
        return Err(truncated(PREFIX + header));
    }
    let start = (PREFIX + header) as usize;
    // Checks that the tensors follow each other without gap and that sizes agree with shapes.
    let metadata: Metadata =
        serde_json::from_slice(&bytes[PREFIX as usize..start]).map_err(corrupt)?;
    let expected = (start as u64).saturating_add(metadata.data_len() as u64);
    if found < expected {
        return Err(truncated(expected));
    }
    if found > expected {
        return Err(ModelError::TrailingBytes {
            path: path.to_owned(),
            expected,
            found,
        });
    }
    let data = bytes.slice(start..);
    let file: Arc<Path> = path.into();
    let tensors = metadata.tensors().into_iter().map(|(name, info)| {
        let (start, end) = info.data_offsets;
        let values = StoredValues::Mapped {
            dtype: info.dtype,
            bytes: data.slice(start..end),
        };
        (
            name,
            StoredTensor {
                file: file.clone(),
                shape: info.shape.clone(),
                values,
            },
        )
    });
    Ok(tensors.collect())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::{any, prop, proptest};

    use super::{MAX_HEADER, list};
    use crate::ModelError;

    fn list_bytes(bytes: Vec<u8>) -> Result<Vec<String>, ModelError> {
        list(Path::new("model.safetensors"), &bytes.into())
            .map(|tensors| tensors.into_keys().collect())
    }

    fn file(header: &str, data: usize) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        bytes
    }

    const HEADER: &str = r#"{"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}}"#;

    #[test]
    fn a_whole_file_is_listed() {
        assert_eq!(list_bytes(file(HEADER, 24)).unwrap(), ["a"]);
    }

    #[test]
    fn every_truncation_is_an_error() {
        let whole = file(HEADER, 24);
        for length in 0..whole.len() {
            let error = list_bytes(whole[..length].to_vec()).unwrap_err();
            let ModelError::Truncated {
                expected, found, ..
            } = error
            else {
                panic!("{error}")
            };
            assert!(found == length as u64 && expected > found, "{length} bytes");
        }
    }

    #[test]
    fn bytes_after_the_last_tensor_are_an_error() {
        let error = list_bytes(file(HEADER, 25)).unwrap_err();
        assert!(
            matches!(
                error,
                ModelError::TrailingBytes {
                    expected: 89,
                    found: 90,
                    ..
                }
            ),
            "{error}"
        );
    }

    #[test]
    fn an_oversized_header_is_refused_before_it_is_read() {
        for length in [MAX_HEADER + 1, u64::MAX] {
            let error = list_bytes(length.to_le_bytes().to_vec()).unwrap_err();
            assert!(
                matches!(error, ModelError::OversizedHeader { found, .. } if found == length),
                "{error}"
            );
        }
    }

    #[test]
    fn headers_that_contradict_themselves_are_refused() {
        let overlap = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#;
        let short = r#"{"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,20]}}"#;
        let overflow =
            r#"{"a":{"dtype":"F32","shape":[9223372036854775807,4],"data_offsets":[0,24]}}"#;
        for header in ["{", "[]", "{\"a\":1}", overlap, short, overflow] {
            let error = list_bytes(file(header, 24)).unwrap_err();
            assert!(
                matches!(error, ModelError::CorruptHeader { .. }),
                "{header}: {error}"
            );
        }
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = list_bytes(bytes);
        }

        #[test]
        fn random_headers_never_panic(header in "\\PC{0,200}", data in 0usize..64) {
            let _ = list_bytes(file(&header, data));
        }

        #[test]
        fn damaged_headers_never_panic(place in 0usize..HEADER.len(), byte in any::<u8>(), data in 0usize..64) {
            let mut bytes = file(HEADER, data);
            bytes[8 + place] = byte;
            let _ = list_bytes(bytes);
        }
    }
}

//! PyTorch checkpoints, read by Burn's own reader (no code of the file is run).

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use burn::store::pytorch_reader::{PytorchError, PytorchReader};

use super::stored_tensor::{StoredTensor, StoredValues};
use crate::ModelError;

/// Lists the tensors of a file; values stay in it until they are read.
pub(super) fn open(path: &Path) -> Result<BTreeMap<String, StoredTensor>, ModelError> {
    let reader = PytorchReader::new(path).map_err(|error| match error {
        PytorchError::Io(source) if source.kind() != std::io::ErrorKind::InvalidData => {
            ModelError::Read { path: path.to_owned(), source }
        }
        source => ModelError::CorruptPytorch { path: path.to_owned(), source },
    })?;
    let file: Arc<Path> = path.into();
    let tensors = reader.into_tensors().into_iter().map(|(name, tensor)| {
        let shape = tensor.shape().to_vec();
        (name, StoredTensor { file: file.clone(), shape, values: StoredValues::Pytorch(tensor) })
    });
    Ok(tensors.collect())
}

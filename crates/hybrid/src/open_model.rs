//! Opens a base with its tokenizer, and sees to it that the two belong together.

use std::path::Path;

use burn::tensor::Device;
use hybrid_models::{Model, Pooling};

use crate::HybridError;
use crate::local_model::LocalModel;
use crate::model_tokenizer::load_tokenizer;

/// The base in a folder or GGUF file, without adapter.
///
/// # Errors
/// [`HybridError::Model`] or [`HybridError::Data`] naming a faulty file, and
/// [`HybridError::Vocabulary`] for a tokenizer with ids that the base has no vectors for.
pub(crate) fn open_model(
    folder: &Path,
    max_length: usize,
    pooling: Pooling,
    device: Device,
) -> Result<LocalModel, HybridError> {
    let base = Model::load_encoder(folder, &device)?;
    let tokenizer = load_tokenizer(folder, max_length)?;
    let (expected, found) = (base.encoder.vocab_size(), tokenizer.id_bound());
    if found > expected {
        return Err(HybridError::Vocabulary {
            path: folder.to_owned(),
            expected,
            found,
        });
    }
    Ok(LocalModel::new(base, tokenizer, device, pooling))
}

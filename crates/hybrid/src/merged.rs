//! The base with an adapter merged into its weights, as a Hugging Face folder.

use std::path::Path;

use hybrid_models::Base;

use crate::HybridError;
use crate::artifact::Artifact;
use crate::run_folder::write_folder_whole;
use crate::tensors::{self, NamedTensors};

/// Files of the base that a merged model needs as they are.
const COPIED: [&str; 5] = [
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
];

/// Writes the merged model: the base's files with changed weights, and the classifier head beside
/// them as `head.safetensors`.
///
/// # Errors
/// [`HybridError::Adapter`] for a method that cannot be merged, [`HybridError::Write`].
pub(crate) fn write(artifact: &Artifact, out: &Path) -> Result<(), HybridError> {
    let trainable = artifact.model.active();
    let weights: NamedTensors = match trainable {
        Some(trainable) => trainable
            .adapters
            .merge(&artifact.model.base)?
            .named_tensors(),
        None => artifact.model.base.named_tensors(),
    }
    .into_iter()
    .collect();
    write_folder_whole(out, |folder| {
        for name in COPIED {
            let source = artifact.base_folder.join(name);
            if source.is_file() {
                let failed = |source| HybridError::Write {
                    path: folder.join(name),
                    source,
                };
                std::fs::copy(&source, folder.join(name)).map_err(failed)?;
            }
        }
        tensors::write(
            &folder.join("model.safetensors"),
            &weights,
            Some(("format", "pt".to_owned())),
        )?;
        match trainable.and_then(|trainable| trainable.head.as_ref()) {
            Some(head) => crate::artifact::write_head(folder, head),
            None => Ok(()),
        }
    })
}

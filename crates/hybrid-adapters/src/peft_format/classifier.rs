//! The classifier that an adapter's file stores whole.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::Device;
use hybrid_models::Pooling;

use super::{CONFIG, config_file, key_start, read_tensors};
use crate::AdapterError;
use crate::head::{ClassifierHead, HeadConfig, head_from_tensors};

/// The classifier over BERT's pooler that was trained with an adapter of `BertForSequenceClassification`;
/// none where the file holds no classifier.
///
/// # Errors
/// [`AdapterError::Read`] or [`AdapterError::Format`] for a file, and [`AdapterError::File`] around a
/// classifier of another kind or of another width than `d_model`.
pub fn load_peft_classifier(
    folder: &Path,
    d_model: usize,
    device: &Device,
) -> Result<Option<ClassifierHead>, AdapterError> {
    let config = config_file::read(&folder.join(CONFIG))?;
    let (path, tensors) = read_tensors(folder)?;
    let start = format!("{}classifier.", key_start(&config.method));
    let own: BTreeMap<_, _> = tensors
        .into_iter()
        .filter_map(|(key, data)| Some((key.strip_prefix(&start)?.to_owned(), data)))
        .collect();
    let Some(bias) = own.get("bias") else {
        return Ok(None);
    };
    let n_labels = bias.shape().num_elements();
    let config = HeadConfig {
        pooling: Pooling::Pooler,
        normalize: false,
        scale: 1.0,
    };
    let head = head_from_tensors(config, d_model, n_labels, &own, device);
    let head = head.map_err(|source| AdapterError::File {
        path,
        source: Box::new(source),
    })?;
    Ok(Some(head))
}

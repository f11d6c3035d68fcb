//! The classifier that an adapter's file stores whole.

use std::collections::BTreeMap;
use std::mem::discriminant;
use std::path::Path;

use burn::tensor::{Device, TensorData};
use hybrid_models::{Base, BaseKind, Pooling};

use super::{CONFIG, config_file, is_within, key_start, read_tensors};
use crate::AdapterError;
use crate::head::{ClassifierHead, HeadConfig, HeadForm, head_from_named, head_to_tensors};

/// Where Transformers keeps the classifier of whole texts over a base, and what that computes.
pub(super) struct Place {
    /// Before the base's own paths.
    pub(super) body: &'static str,
    /// What PEFT stores whole. DistilBERT's `pre_classifier` ends alike, so that it does so too.
    pub(super) module: &'static str,
    /// The layer before the class vectors, where there is one.
    dense: Option<&'static str>,
    /// The class vectors.
    output: &'static str,
    pooling: Pooling,
    form: HeadForm,
}

impl Place {
    /// The place of a base whose family is known to have one.
    pub(super) fn of(base: &dyn Base) -> Option<Self> {
        let classifier = |body, dense, output, pooling, form| Self {
            body,
            module: "classifier",
            dense,
            output,
            pooling,
            form,
        };
        let place = match (base.model_type(), base.kind()) {
            ("bert", _) => {
                let (pooling, form) = (Pooling::Pooler, HeadForm::Linear);
                classifier("bert.", None, "classifier", pooling, form)
            }
            ("roberta", _) => {
                let (dense, output) = (Some("classifier.dense"), "classifier.out_proj");
                classifier("roberta.", dense, output, Pooling::Cls, HeadForm::Tanh)
            }
            ("distilbert", _) => {
                let (dense, output) = (Some("pre_classifier"), "classifier");
                classifier("distilbert.", dense, output, Pooling::Cls, HeadForm::Relu)
            }
            (model_type, BaseKind::Decoder) => Self {
                body: match model_type {
                    "gpt2" => "transformer.",
                    _ => "model.",
                },
                module: "score",
                dense: None,
                output: "score",
                pooling: Pooling::Last,
                form: HeadForm::Score { padding_id: None },
            },
            _ => return None,
        };
        Some(place)
    }

    /// Whether a head computes what Transformers' does at this place.
    pub(super) fn is_of(&self, head: &HeadConfig) -> bool {
        head.pooling == self.pooling
            && !head.normalize
            && discriminant(&head.form) == discriminant(&self.form)
    }

    /// The key of a tensor of [`head_to_tensors`].
    fn key(&self, start: &str, name: &str) -> String {
        match (name.strip_prefix("dense."), self.dense) {
            (Some(tensor), Some(dense)) => format!("{start}{dense}.{tensor}"),
            _ => format!("{start}{}.{name}", self.output),
        }
    }

    /// A head's tensors by their keys.
    pub(super) fn tensors(&self, start: &str, head: &ClassifierHead) -> Vec<(String, TensorData)> {
        let tensors = head_to_tensors(head).into_iter();
        let keyed = tensors.map(|(name, data)| (self.key(start, &name), data));
        keyed.collect()
    }

    /// Whether a path leads into the classifier, and not to names within PEFT's wrapper around it.
    fn holds(&self, path: &str) -> bool {
        let wrapped = [".modules_to_save.", ".original_module."];
        let within =
            is_within(path, self.module) || self.dense.is_some_and(|dense| is_within(path, dense));
        within && !wrapped.iter().any(|name| path.contains(name))
    }
}

/// The classifier that was trained with an adapter of Transformers' class for the classification of
/// whole texts over a base like `base`: over BERT's pooler, over the first token of RoBERTa and
/// DistilBERT, over a decoder's last token that is not `padding_id`. None where the file holds none
/// of that kind.
///
/// # Errors
/// [`AdapterError::Read`] or [`AdapterError::Format`] for a file, and [`AdapterError::File`] around
/// a classifier with other tensors or of another width than the base's.
pub fn load_peft_classifier(
    folder: &Path,
    base: &dyn Base,
    padding_id: Option<usize>,
    device: &Device,
) -> Result<Option<ClassifierHead>, AdapterError> {
    let config = config_file::read(&folder.join(CONFIG))?;
    let (path, tensors) = read_tensors(folder)?;
    let stacks = base.stacks();
    let (Some(place), Some(stack)) = (Place::of(base), stacks.first()) else {
        return Ok(None);
    };
    let start = key_start(&config.method);
    let own: BTreeMap<_, _> = tensors
        .into_iter()
        .filter(|(key, _)| {
            key.strip_prefix(start)
                .is_some_and(|path| place.holds(path))
        })
        .collect();
    if own.is_empty() {
        return Ok(None);
    }
    let vectors = own.get(&place.key(start, "weight"));
    let n_labels = vectors.and_then(|data| data.shape().as_slice().first().copied());
    let config = HeadConfig {
        pooling: place.pooling,
        normalize: false,
        scale: 1.0,
        form: match place.form {
            HeadForm::Score { .. } => HeadForm::Score { padding_id },
            form => form,
        },
    };
    // No class at all is an error of the shape.
    let sizes = [stack.d_model, n_labels.unwrap_or_default().max(1)];
    let head = head_from_named(config, sizes, &own, device, |name| place.key(start, name));
    let head = head.map_err(|source| AdapterError::File {
        path,
        source: Box::new(source),
    })?;
    Ok(Some(head))
}

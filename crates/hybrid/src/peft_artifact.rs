//! A classifier that PEFT has written, taken for an artifact.
//!
//! PEFT's folder says the base, the method and the values of adapter and classifier, but not what the
//! classes are called: that is `id2label` of Transformers' `config.json` beside it
//! (`model.config.save_pretrained(FOLDER)`). Without that file they are `LABEL_0`, `LABEL_1` and so on,
//! as in Transformers. It also says which token a decoder was given as padding; without it the base's
//! own configuration does.

use std::collections::BTreeMap;
use std::path::Path;

use hybrid_adapters::{ClassifierHead, Trainable, inspect_peft, load_peft, load_peft_classifier};
use hybrid_data::LabelSet;
use hybrid_models::{BaseKind, Pooling, WeightFormat, open_device};
use hybrid_prompts::{GenerateOptions, LabelScoring, Prompt};
use serde::Deserialize;

use crate::HybridError;
use crate::artifact::{Artifact, ArtifactDescription, FORMAT, read_json};
use crate::candidate::AdapterRecord;
use crate::open_model::{find_base, open_classifier};
use crate::recipe::{BaseInit, DataConfig, PassageConfig, Task};
use crate::task::TaskSettings;

const CONFIG: &str = "adapter_config.json";
const BASE_CONFIG: &str = "config.json";

/// Whether PEFT's files lie in a folder.
pub(crate) fn is_there(folder: &Path) -> bool {
    folder.join(CONFIG).exists()
}

/// Loads the adapter of a classifier of whole texts with its base.
///
/// # Errors
/// [`HybridError::Format`] for an adapter that does not classify or names no base,
/// [`HybridError::Adapter`] for faulty files, and those of the base.
pub(crate) fn load(
    folder: &Path,
    device: &str,
    say: &dyn Fn(&str),
) -> Result<Artifact, HybridError> {
    let summary = inspect_peft(folder)?;
    let wrong = |reason: &str| HybridError::Format {
        path: folder.join(CONFIG),
        reason: reason.to_owned(),
    };
    let classifies = summary.task_type.as_deref() == Some("SEQ_CLS");
    if !classifies {
        return Err(wrong(
            "task_type: only adapters of classifiers of whole texts (SEQ_CLS) are taken without an artifact",
        ));
    }
    let base = summary.base_name.clone();
    let base = base.ok_or_else(|| wrong("base_model_name_or_path names no base"))?;
    let device = open_device(device)?;
    let base_folder = find_base(&base, BaseInit::Pretrained, say)?.folder;
    if BaseKind::of_folder(&base_folder)? == BaseKind::EncoderDecoder {
        return Err(wrong(
            "base_model_name_or_path: of encoder-decoders no classifiers are taken",
        ));
    }
    let dtype = WeightFormat::Float32;
    let mut model = open_classifier(&base_folder, usize::MAX, Pooling::Mean, dtype, device)?;
    let adapters = load_peft(folder, model.base.as_base(), &model.device)?;
    let padding_id = padding_id([folder, &base_folder])?;
    let head = load_peft_classifier(folder, model.base.as_base(), padding_id, &model.device)?;
    let head = head.ok_or_else(|| {
        wrong(
            "it holds no classifier: train it with `modules_to_save=[\"classifier\"]` (decoders: \
             `[\"score\"]`)",
        )
    })?;
    let (labels, head) = in_order(class_names(folder, head.n_labels())?, head);
    let (max_length, pooling) = (model.max_positions(), head.pooling());
    model.pooling = pooling;
    let record = AdapterRecord {
        methods: adapters.configs().to_vec(),
        head: Some(head.config().clone()),
        span_head: false,
        trainable_parameters: summary.n_values,
    };
    let data = DataConfig::of_text_column();
    let fields = data.fields.keys().cloned().collect();
    let prompt = Prompt::plain(&fields, &labels)?;
    model.activate(
        Some(Trainable {
            adapters,
            head: Some(head),
            span_head: None,
        }),
        None,
    );
    let description = ArtifactDescription {
        format: FORMAT,
        base,
        init: BaseInit::Pretrained,
        max_length,
        pooling,
        dtype,
        task: TaskSettings {
            kind: Task::TextClassification,
            labels,
            scoring: LabelScoring::default(),
            generation: GenerateOptions::default(),
            passages: PassageConfig::default(),
        },
        adapter: Some(record),
        data,
        seed: 0,
    };
    Ok(Artifact {
        description,
        prompt,
        model,
        base_folder,
    })
}

#[derive(Deserialize)]
struct Padding {
    #[serde(default)]
    pad_token_id: Option<i64>,
}

/// The token that stands for padding, as the first of these folders says whose configuration names
/// one. Some have -1 there, which no token is.
fn padding_id(folders: [&Path; 2]) -> Result<Option<usize>, HybridError> {
    for path in folders.map(|folder| folder.join(BASE_CONFIG)) {
        if path.exists()
            && let Some(id) = read_json::<Padding>(&path)?.pad_token_id
        {
            return Ok(usize::try_from(id).ok());
        }
    }
    Ok(None)
}

#[derive(Deserialize)]
struct ClassNames {
    #[serde(default)]
    id2label: BTreeMap<usize, String>,
    #[serde(default)]
    problem_type: Option<String>,
}

/// The one of Transformers' problem types that has one class a text.
const ONE_CLASS: &str = "single_label_classification";

/// The name of each class.
fn class_names(folder: &Path, n_labels: usize) -> Result<Vec<String>, HybridError> {
    let path = folder.join(BASE_CONFIG);
    if !path.exists() {
        return Ok((0..n_labels)
            .map(|class| format!("LABEL_{class}"))
            .collect());
    }
    let found: ClassNames = read_json(&path)?;
    if let Some(kind) = found.problem_type.filter(|kind| kind != ONE_CLASS) {
        return Err(HybridError::Format {
            path,
            reason: format!("problem_type: expected {ONE_CLASS}, found {kind}"),
        });
    }
    let names = found.id2label;
    let mut different: Vec<&String> = names.values().collect();
    different.sort();
    different.dedup();
    match names.keys().copied().eq(0..n_labels) && different.len() == n_labels {
        true => Ok(names.into_values().collect()),
        false => Err(HybridError::Format {
            path,
            reason: format!(
                "id2label: expected a name of its own for each class from 0 to {}, found {} names",
                n_labels - 1,
                different.len()
            ),
        }),
    }
}

/// Labels as they are sorted here, and the head with its classes in that order.
fn in_order(names: Vec<String>, head: ClassifierHead) -> (LabelSet, ClassifierHead) {
    let labels = LabelSet::from(names.clone());
    let class = |label: &String| names.iter().position(|name| name == label);
    let order: Vec<usize> = labels.names().iter().filter_map(class).collect();
    (labels, head.with_classes(&order))
}

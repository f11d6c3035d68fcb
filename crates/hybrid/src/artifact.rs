//! The artifact: a candidate that any machine can reload to bit-equal outputs.
//!
//! | file | holds |
//! | --- | --- |
//! | `artifact.json` | base, labels, pooling, adapters and head, in words |
//! | `prompt.toml` | template and label words |
//! | `adapter/` | the adapter in PEFT's file format, where PEFT has the method |
//! | `adapter.safetensors` | the adapter's values by name, where it has not |
//! | `head.safetensors` | the classifier head: what its form has of `weight`, `bias` and `dense` |
//! | `span_head.safetensors` | the span head: `weight` `[2, d_model]`, `bias` `[2]` |
//! | `README.md` | the model card |

use std::path::{Path, PathBuf};

use hybrid_adapters::{
    Adapters, ClassifierHead, SpanHead, Trainable, head_from_tensors, head_to_tensors, load_peft,
    peft_has, save_peft,
};
use hybrid_models::{Base, Pooling, WeightFormat, open_device};
use hybrid_prompts::{Prompt, Template};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::HybridError;
use crate::candidate::AdapterRecord;
use crate::error::describe;
use crate::local_model::LocalModel;
use crate::open_model::{find_base, open_classifier, open_model};
use crate::peft_artifact;
use crate::recipe::{BaseInit, DataConfig, Recipe, is_default};
use crate::run_folder::write_whole;
use crate::task::TaskSettings;
use crate::tensors::{self, NamedTensors};

/// What an artifact says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArtifactDescription {
    /// Version of the layout.
    pub format: u32,
    /// Folder or hub id of the base; `.` when the base lies in the artifact's own folder.
    pub base: String,
    /// Where the base's weights come from: its files, or `seed`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub init: BaseInit,
    /// Longest input in tokens.
    pub max_length: usize,
    /// How texts are pooled when they are compared with label words.
    pub pooling: Pooling,
    /// How the base's weights are held in memory.
    pub dtype: WeightFormat,
    /// What is asked of the model: labels, and how they are scored.
    pub task: TaskSettings,
    /// The adapter and head, none for a prompt alone.
    pub adapter: Option<AdapterRecord>,
    /// Where the examples of the run were.
    pub data: DataConfig,
    /// The run's seed, by which examples were drawn, and a base that starts at random.
    pub seed: u64,
}

/// The base of an artifact that holds it.
pub(crate) const OWN_FOLDER: &str = ".";

pub(crate) const FORMAT: u32 = 1;
const DESCRIPTION: &str = "artifact.json";
const PROMPT: &str = "prompt.toml";
pub(crate) const PEFT: &str = "adapter";
const ADAPTER: &str = "adapter.safetensors";
pub(crate) const HEAD: &str = "head.safetensors";
pub(crate) const SPAN_HEAD: &str = "span_head.safetensors";

/// A loaded artifact, ready to classify.
pub struct Artifact {
    /// What it says of itself.
    pub description: ArtifactDescription,
    /// Template and label words.
    pub prompt: Prompt,
    /// The base with the adapter active.
    pub model: LocalModel,
    /// The folder of the base.
    pub base_folder: PathBuf,
}

impl ArtifactDescription {
    /// Whether a run is known that made it, with its examples.
    pub(crate) fn has_run(&self) -> bool {
        !self.data.report.as_os_str().is_empty()
    }

    /// The description of a run's result.
    pub fn of(recipe: &Recipe, task: TaskSettings, adapter: Option<AdapterRecord>) -> Self {
        Self {
            format: FORMAT,
            base: recipe.base.model.clone(),
            init: recipe.base.init,
            max_length: recipe.base.max_length,
            pooling: recipe.base.pooling,
            dtype: recipe.base.dtype,
            task,
            adapter,
            data: recipe.data.clone(),
            seed: recipe.seed,
        }
    }

    /// What the artifact in a folder, or that of a run, says; none where there is no artifact.
    ///
    /// # Errors
    /// [`HybridError::Read`] or [`HybridError::Format`].
    pub(crate) fn find(folder: &Path) -> Result<Option<Self>, HybridError> {
        let folder = artifact_folder(folder);
        match folder.join(DESCRIPTION).exists() {
            true => Self::read(&folder).map(Some),
            false => Ok(None),
        }
    }

    fn read(folder: &Path) -> Result<Self, HybridError> {
        let path = folder.join(DESCRIPTION);
        let description: Self = read_json(&path)?;
        match description.format {
            FORMAT => Ok(description),
            found => Err(HybridError::Format {
                path,
                reason: format!("expected format {FORMAT}, found {found}"),
            }),
        }
    }
}

/// The folder of an artifact, or of that of a run.
fn artifact_folder(folder: &Path) -> PathBuf {
    let inside = folder.join("artifact");
    match !folder.join(DESCRIPTION).exists() && inside.join(DESCRIPTION).exists() {
        true => inside,
        false => folder.to_owned(),
    }
}

/// Fills `folder` with an artifact.
///
/// # Errors
/// [`HybridError::Write`], or [`HybridError::Adapter`] from PEFT's format.
pub(crate) fn write(
    folder: &Path,
    description: &ArtifactDescription,
    prompt: &Prompt,
    trainable: Option<&Trainable>,
    base: &dyn Base,
) -> Result<(), HybridError> {
    let text = serde_json::to_vec_pretty(description).expect("descriptions are plain data");
    write_whole(&folder.join(DESCRIPTION), &text)?;
    let text = toml::to_string_pretty(prompt).expect("prompts are plain data");
    write_whole(&folder.join(PROMPT), text.as_bytes())?;
    let Some(trainable) = trainable else {
        return Ok(());
    };
    if let Some(head) = &trainable.head {
        write_head(folder, head)?;
    }
    if let Some(head) = &trainable.span_head {
        let tensors = head.to_tensors().into_iter().collect();
        tensors::write(&folder.join(SPAN_HEAD), &tensors, None)?;
    }
    if trainable.adapters.configs().is_empty() {
        return Ok(());
    }
    if peft_has(&trainable.adapters) {
        save_peft(
            &trainable.adapters,
            base,
            &description.base,
            trainable.head.as_ref(),
            &folder.join(PEFT),
        )?;
    } else {
        let tensors: NamedTensors = trainable.adapters.named_tensors().into_iter().collect();
        tensors::write(&folder.join(ADAPTER), &tensors, None)?;
    }
    Ok(())
}

/// Writes a classifier head into `folder`.
fn write_head(folder: &Path, head: &ClassifierHead) -> Result<(), HybridError> {
    let tensors = head_to_tensors(head).into_iter().collect();
    tensors::write(&folder.join(HEAD), &tensors, None)
}

impl Artifact {
    /// Loads an artifact, or that of a run folder, and its base. A folder of PEFT's with a classifier
    /// is taken for one.
    ///
    /// # Errors
    /// [`HybridError`] naming the file that is missing or faulty.
    pub fn load(folder: &Path, device: &str, say: &dyn Fn(&str)) -> Result<Self, HybridError> {
        let folder = &artifact_folder(folder);
        if !folder.join(DESCRIPTION).exists() && peft_artifact::is_there(folder) {
            return peft_artifact::load(folder, device, say);
        }
        let description = ArtifactDescription::read(folder)?;
        let path = folder.join(PROMPT);
        let format = |reason: String| HybridError::Format {
            path: path.clone(),
            reason,
        };
        let prompt: Prompt =
            toml::from_str(&read(&path)?).map_err(|error| format(error.to_string()))?;
        let fields = description.data.fields.keys().cloned().collect();
        Template::for_fields(&prompt.template, &fields)
            .map_err(|error| format(describe(&error)))?;
        let labels = description.task.labels.names();
        if !prompt.label_words.keys().eq(labels) {
            return Err(format(format!(
                "it has words for {} labels, which are not the {} labels of {DESCRIPTION}",
                prompt.label_words.len(),
                labels.len()
            )));
        }
        let device = open_device(device)?;
        let base_folder = match description.base.as_str() {
            OWN_FOLDER => folder.to_owned(),
            name => find_base(name, description.init, say)?.folder,
        };
        let (length, pooling) = (description.max_length, description.pooling);
        let dtype = description.dtype;
        let has_head = |record: &AdapterRecord| record.head.is_some();
        let mut model = match description.adapter.as_ref().is_some_and(has_head) {
            true => open_classifier(&base_folder, length, pooling, dtype, device)?,
            false => {
                let init = (description.init, description.seed);
                open_model(&base_folder, init, length, pooling, dtype, device)?
            }
        };
        let trainable = match &description.adapter {
            Some(record) => Some(trainable(
                folder,
                record,
                &model,
                description.task.labels.len(),
                &model.device,
            )?),
            None => None,
        };
        model.activate(trainable, None);
        Ok(Self {
            description,
            prompt,
            model,
            base_folder,
        })
    }
}

fn trainable(
    folder: &Path,
    record: &AdapterRecord,
    model: &LocalModel,
    n_labels: usize,
    device: &burn::tensor::Device,
) -> Result<Trainable, HybridError> {
    let base = model.base.as_base();
    let head = match &record.head {
        None => None,
        Some(config) => {
            let path = folder.join(HEAD);
            let (tensors, _) = tensors::read(&path, "")?;
            let d_model = model.d_model();
            let head = head_from_tensors(config.clone(), d_model, n_labels, &tensors, device);
            Some(head.map_err(|error| HybridError::Format {
                path,
                reason: format!(
                    "for {n_labels} labels in {DESCRIPTION} and a base of width {d_model}: {error}"
                ),
            })?)
        }
    };
    let span_head = match record.span_head {
        false => None,
        true => {
            let path = folder.join(SPAN_HEAD);
            let (tensors, _) = tensors::read(&path, "")?;
            let head = SpanHead::from_tensors(model.d_model(), &tensors, device);
            Some(head.map_err(|error| HybridError::Format {
                path,
                reason: error.to_string(),
            })?)
        }
    };
    let peft = folder.join(PEFT);
    let adapters = if record.methods.is_empty() || !peft.exists() {
        let adapters = Adapters::init(&record.methods, base, 0, device)?;
        match record.methods.is_empty() {
            true => adapters,
            false => adapters.load_named_tensors(&tensors::read(&folder.join(ADAPTER), "")?.0)?,
        }
    } else {
        load_peft(&peft, base, device)?
    };
    Ok(Trainable {
        adapters,
        head,
        span_head,
    })
}

/// What a file of JSON says.
///
/// # Errors
/// [`HybridError::Read`] or [`HybridError::Format`].
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, HybridError> {
    serde_json::from_str(&read(path)?).map_err(|error| HybridError::Format {
        path: path.to_owned(),
        reason: error.to_string(),
    })
}

fn read(path: &Path) -> Result<String, HybridError> {
    std::fs::read_to_string(path).map_err(|source| HybridError::Read {
        path: path.to_owned(),
        source,
    })
}

//! The base with an adapter merged into its weights, as a Hugging Face folder and artifact in one.

use std::path::{Component, Path, PathBuf};

use hybrid_adapters::{Adapters, Trainable};
use serde_json::Value;

use hybrid_models::{Base, GgufFile, WeightFormat};

use crate::HybridError;
use crate::artifact::{self, Artifact, ArtifactDescription, OWN_FOLDER};
use crate::candidate::AdapterRecord;
use crate::local_model::LoadedBase;
use crate::recipe::BaseInit;
use crate::run_folder::{remove_unfinished_of, write_folder_whole, write_whole};
use crate::tensors::{self, NamedTensors};

/// Files of the base that a merged model needs as they are: configuration, tokenizer files of every
/// kind, and what sentence-transformers reads.
const COPIED: [&str; 15] = [
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "chat_template.jinja",
    "config_sentence_transformers.json",
    "sentence_bert_config.json",
    MODULES,
];

/// Lists the modules of a sentence-transformers model; all but the first have a folder.
const MODULES: &str = "modules.json";

/// Writes the merged model: the base's files with changed weights, and beside them an artifact
/// whose base it is, with the head and without adapters.
///
/// # Errors
/// [`HybridError::Adapter`] for a method that cannot be merged, [`HybridError::Read`],
/// [`HybridError::Write`].
pub(crate) fn write(artifact: &Artifact, out: &Path) -> Result<(), HybridError> {
    let model = &artifact.model;
    if GgufFile::of_model(&artifact.base_folder)?.is_some() {
        return Err(HybridError::Format {
            path: artifact.base_folder.clone(),
            reason: "a GGUF file cannot be written with merged weights; use the artifact as it is"
                .to_owned(),
        });
    }
    let weights: NamedTensors = match (model.active(), &model.base) {
        (None, base) => base.as_base().named_tensors(),
        (Some(trainable), LoadedBase::Encoder(base)) => {
            trainable.adapters.merge(&**base)?.named_tensors()
        }
        (Some(trainable), LoadedBase::Decoder(base)) => {
            trainable.adapters.merge(&**base)?.named_tensors()
        }
        (Some(trainable), LoadedBase::EncoderDecoder(base)) => {
            trainable.adapters.merge(&**base)?.named_tensors()
        }
    }
    .into_iter()
    .collect();
    let head = match model.active() {
        Some(trainable) => Some(Trainable {
            adapters: Adapters::init(&[], model.base.as_base(), 0, &model.device)?,
            head: trainable.head.clone(),
            span_head: trainable.span_head.clone(),
        }),
        None => None,
    };
    let record = |record: &AdapterRecord| AdapterRecord {
        methods: Vec::new(),
        ..record.clone()
    };
    let description = ArtifactDescription {
        base: OWN_FOLDER.to_owned(),
        init: BaseInit::Pretrained,
        // The merged weights are written as they are.
        dtype: WeightFormat::Float32,
        adapter: artifact.description.adapter.as_ref().map(record),
        ..artifact.description.clone()
    };
    remove_unfinished_of(out)?;
    write_folder_whole(out, |folder| {
        for name in COPIED {
            copy(&artifact.base_folder, Path::new(name), folder)?;
        }
        for module in module_folders(&artifact.base_folder)? {
            copy_folder(&artifact.base_folder, &module, folder)?;
        }
        tensors::write(
            &folder.join("model.safetensors"),
            &weights,
            Some(("format", "pt".to_owned())),
        )?;
        artifact::write(
            folder,
            &description,
            &artifact.prompt,
            head.as_ref(),
            model.base.as_base(),
        )
    })
}

/// The folders that `modules.json` names, where it is there.
fn module_folders(base: &Path) -> Result<Vec<PathBuf>, HybridError> {
    let path = base.join(MODULES);
    if !path.is_file() {
        return Ok(Vec::new());
    }
    let format = |reason: String| HybridError::Format {
        path: path.clone(),
        reason,
    };
    let modules: Vec<Value> =
        serde_json::from_slice(&read(&path)?).map_err(|error| format(error.to_string()))?;
    let mut folders = Vec::new();
    for module in &modules {
        let Some(folder) = module["path"].as_str().filter(|path| !path.is_empty()) else {
            continue;
        };
        let folder = PathBuf::from(folder);
        // A name that leads elsewhere would be written elsewhere too.
        let mut parts = folder.components();
        if !parts.all(|part| matches!(part, Component::Normal(_))) {
            return Err(format(format!("{} is no folder inside", folder.display())));
        }
        folders.push(folder);
    }
    Ok(folders)
}

fn copy_folder(base: &Path, module: &Path, out: &Path) -> Result<(), HybridError> {
    let Ok(entries) = std::fs::read_dir(base.join(module)) else {
        // A module without settings may have no folder.
        return Ok(());
    };
    let folder = out.join(module);
    std::fs::create_dir_all(&folder).map_err(|source| HybridError::Write {
        path: folder,
        source,
    })?;
    for entry in entries.flatten() {
        copy(base, &module.join(entry.file_name()), out)?;
    }
    Ok(())
}

/// Copies a file, if it is there.
fn copy(base: &Path, name: &Path, out: &Path) -> Result<(), HybridError> {
    let source = base.join(name);
    match source.is_file() {
        true => write_whole(&out.join(name), &read(&source)?),
        false => Ok(()),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, HybridError> {
    std::fs::read(path).map_err(|source| HybridError::Read {
        path: path.to_owned(),
        source,
    })
}

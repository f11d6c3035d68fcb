//! Checkpoints: names and shapes at once, values when a layer takes them.

mod gguf;
mod pytorch_file;
mod random_weights;
mod safetensors_file;
mod shard_index;
mod stored_tensor;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::TensorData;

use crate::ModelError;
use crate::quantized::QuantizedWeight;
use random_weights::RandomWeights;
use stored_tensor::{StoredTensor, StoredValues};

pub use gguf::{BlockFormat, GgufArray, GgufFile, GgufTensor, GgufValue};
pub(crate) use random_weights::{Start, Starts};

/// File names in the order of preference.
const NAMES: [&str; 4] = [
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
];

/// What is looked for in a folder, for messages.
const LOOKED_FOR: [&str; 5] = [NAMES[0], NAMES[1], NAMES[2], NAMES[3], "*.gguf"];

/// The file of a folder to load, in the Hugging Face layout.
fn hugging_face_file(folder: &Path) -> Option<PathBuf> {
    NAMES
        .iter()
        .map(|name| folder.join(name))
        .find(|path| path.is_file())
}

/// The tensors of a model folder that no layer has taken yet.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    path: PathBuf,
    tensors: BTreeMap<String, StoredTensor>,
    /// Makes the tensors that are asked for when none are stored.
    random: Option<RandomWeights>,
}

impl Checkpoint {
    /// Opens the checkpoint of a model folder, or a GGUF file, without reading values.
    ///
    /// # Errors
    /// [`ModelError`] when there is none or when it is truncated or corrupt.
    pub(crate) fn open(folder: &Path) -> Result<Self, ModelError> {
        if let Some(file) = GgufFile::of_model(folder)? {
            return Self::of_gguf(&file);
        }
        let Some(path) = hugging_face_file(folder) else {
            return Err(ModelError::NoCheckpoint {
                folder: folder.to_owned(),
                looked_for: LOOKED_FOR.to_vec(),
            });
        };
        let index = path
            .extension()
            .is_some_and(|extension| extension == "json");
        let tensors = if index {
            shard_index::open(&path, open_file)?
        } else {
            open_file(&path)?
        };
        let tensors = tensors
            .into_iter()
            .map(|(name, tensor)| (present_spelling(name), tensor))
            .collect();
        Ok(Self {
            path,
            tensors,
            random: None,
        })
    }

    /// The checkpoint of a model that nothing has trained: every tensor that is taken is drawn.
    /// `path` is the configuration's, for messages.
    pub(crate) fn drawn(path: &Path, starts: Box<dyn Starts>, seed: u64) -> Self {
        Self {
            path: path.to_owned(),
            tensors: BTreeMap::new(),
            random: Some(RandomWeights::new(starts, seed)),
        }
    }

    fn of_gguf(file: &GgufFile) -> Result<Self, ModelError> {
        let path: Arc<Path> = file.path().into();
        let tensors = file.weights()?.into_iter().map(|(name, weight)| {
            let tensor = StoredTensor {
                file: path.clone(),
                shape: weight.shape().to_vec(),
                values: StoredValues::Blocks(weight),
            };
            (name, tensor)
        });
        Ok(Self {
            path: file.path().to_owned(),
            tensors: tensors.collect(),
            random: None,
        })
    }

    /// Whether a tensor of this name is still there.
    pub(crate) fn contains(&self, name: &str) -> bool {
        let random = self.random.as_ref();
        self.tensors.contains_key(name) || random.is_some_and(|random| random.has(name))
    }

    /// Whether there is a tensor whose name begins with `prefix`.
    pub(crate) fn has_prefix(&self, prefix: &str) -> bool {
        let first = self.tensors.range(prefix.to_owned()..).next();
        first.is_some_and(|(name, _)| name.starts_with(prefix))
    }

    /// Gives the first of `others` that is there the name `name`, when no tensor has that name:
    /// weights that several layers share may be stored under the name of any one of them.
    pub(crate) fn rename_first(&mut self, others: &[String], name: &str) {
        if self.contains(name) {
            return;
        }
        let found = others.iter().find_map(|other| self.tensors.remove(other));
        if let Some(tensor) = found {
            self.tensors.insert(name.to_owned(), tensor);
        }
    }

    /// Takes a tensor as float32.
    ///
    /// # Errors
    /// [`ModelError::MissingTensor`], [`ModelError::WrongShape`], [`ModelError::WrongDtype`] or an
    /// error of reading.
    pub(crate) fn take(
        &mut self,
        name: &str,
        expected: &[usize],
    ) -> Result<TensorData, ModelError> {
        if let Some(random) = &mut self.random {
            return Ok(random.draw(name, expected));
        }
        self.remove(name, expected)?.read(name, expected)
    }

    /// Takes a tensor in its blocks if the checkpoint stores it so, else nothing: it is still there
    /// to be [taken](Self::take) as float32. Mapped float32 values are smallest as they are.
    ///
    /// # Errors
    /// [`ModelError::MissingTensor`], [`ModelError::WrongShape`].
    pub(crate) fn take_quantized(
        &mut self,
        name: &str,
        expected: &[usize],
    ) -> Result<Option<QuantizedWeight>, ModelError> {
        let tensor = self.remove(name, expected)?;
        tensor.check_shape(name, expected)?;
        match tensor.values {
            StoredValues::Blocks(weight) if weight.plain_floats().is_none() => Ok(Some(weight)),
            _ => {
                self.tensors.insert(name.to_owned(), tensor);
                Ok(None)
            }
        }
    }

    fn remove(&mut self, name: &str, expected: &[usize]) -> Result<StoredTensor, ModelError> {
        self.tensors
            .remove(name)
            .ok_or_else(|| ModelError::MissingTensor {
                path: self.path.clone(),
                name: name.to_owned(),
                expected: expected.to_vec(),
            })
    }

    /// Fails on a tensor that is left over, unless `expected` knows why it is.
    ///
    /// # Errors
    /// [`ModelError::ExtraTensor`].
    pub(crate) fn finish(self, expected: impl Fn(&str) -> bool) -> Result<(), ModelError> {
        match self.tensors.into_iter().find(|(name, _)| !expected(name)) {
            None => Ok(()),
            Some((name, tensor)) => Err(ModelError::ExtraTensor {
                path: tensor.file.to_path_buf(),
                name,
                found: tensor.shape,
            }),
        }
    }
}

fn open_file(path: &Path) -> Result<BTreeMap<String, StoredTensor>, ModelError> {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("bin" | "pt" | "pth") => pytorch_file::open(path),
        _ => safetensors_file::open(path),
    }
}

/// Checkpoints converted from TensorFlow spell a layer norm's gain and shift `gamma` and `beta`.
fn present_spelling(name: String) -> String {
    for (old, new) in [
        ("LayerNorm.gamma", "LayerNorm.weight"),
        ("LayerNorm.beta", "LayerNorm.bias"),
    ] {
        if let Some(start) = name.strip_suffix(old) {
            return format!("{start}{new}");
        }
    }
    name
}

#[cfg(test)]
mod tests;

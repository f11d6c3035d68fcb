//! GGUF files, versions 2 and 3, mapped into memory: metadata and tensors in ggml's block formats.
//!
//! The format is described in ggml's `docs/gguf.md`. A header is foreign bytes: every count, length
//! and offset is checked against the file before it is used, and nothing is allocated by what a
//! header claims, only by what is there.

mod block_format;
mod cursor;
mod k_blocks;
mod llama_family;
mod metadata;
mod rope_factors;
mod small_blocks;
mod tensor_table;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;

use crate::ModelError;
use crate::resolve::is_gguf_file;
use cursor::{Cursor, Place};
use metadata::ValuePlace;

pub use block_format::BlockFormat;
pub use metadata::{GgufArray, GgufValue};
pub use tensor_table::GgufTensor;

const MAGIC: &[u8; 4] = b"GGUF";

/// Version 3 differs from 2 only in allowing big-endian files, which are not read. Version 1 had
/// counts of 32 bits and is long gone.
const VERSIONS: [u32; 2] = [2, 3];

/// No model comes near: a large one has some thousand tensors and some tens of keys.
const MAX_ENTRIES: u64 = 65_536;

/// A GGUF file: what its header says, and its tensors' bytes in the mapped file.
///
/// Clones share the mapping.
#[derive(Debug, Clone)]
pub struct GgufFile {
    path: Arc<Path>,
    bytes: bytes::Bytes,
    metadata: BTreeMap<String, ValuePlace>,
    tensors: BTreeMap<String, GgufTensor>,
}

impl GgufFile {
    /// Maps a file and checks its header; values are decoded when they are asked for.
    ///
    /// # Errors
    /// [`ModelError::Read`] for the file, [`ModelError::Gguf`] and [`ModelError::GgufTensorType`]
    /// for what its header says.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let unreadable = |source| ModelError::Read {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(unreadable)?;
        // An empty file cannot be mapped.
        if file.metadata().map_err(unreadable)?.len() == 0 {
            return Self::parse(path, bytes::Bytes::new());
        }
        // SAFETY: the mapping is read-only and private to this process. Another process that
        // changes the file while a model is loaded can change weights, as with any mapped
        // checkpoint; files are therefore only ever replaced by renaming.
        #[expect(
            unsafe_code,
            reason = "mapping a file is the only way not to copy a checkpoint"
        )]
        let mapping = unsafe { Mmap::map(&file) }.map_err(unreadable)?;
        Self::parse(path, bytes::Bytes::from_owner(mapping))
    }

    /// Opens the GGUF file of a model: `path` itself, or the only one in a folder that has no
    /// checkpoint in the Hugging Face layout. Nothing if there is none.
    ///
    /// # Errors
    /// As [`open`](Self::open), and [`ModelError::SeveralGguf`].
    pub fn of_model(path: &Path) -> Result<Option<Self>, ModelError> {
        match gguf_path(path)? {
            Some(path) => Self::open(&path).map(Some),
            None => Ok(None),
        }
    }

    /// Reads the header of a whole file's bytes.
    fn parse(path: &Path, bytes: bytes::Bytes) -> Result<Self, ModelError> {
        let mut cursor = Cursor::new(path, &bytes, 0, Place::Field("magic"));
        let magic = cursor.take(MAGIC.len() as u64)?;
        if magic != MAGIC {
            return Err(cursor.unexpected("the bytes `GGUF`", magic.escape_ascii()));
        }
        cursor.place = Place::Field("version");
        let version = cursor.u32()?;
        if !VERSIONS.contains(&version) {
            let found = match VERSIONS.contains(&version.swap_bytes()) {
                true => format!("{} in big-endian order", version.swap_bytes()),
                false => version.to_string(),
            };
            return Err(cursor.unexpected("2 or 3", found));
        }
        cursor.place = Place::Field("number of tensors");
        let n_tensors = cursor.count(MAX_ENTRIES)?;
        cursor.place = Place::Field("number of metadata keys");
        let n_keys = cursor.count(MAX_ENTRIES)?;
        let mut metadata = BTreeMap::new();
        for index in 0..n_keys {
            cursor.place = Place::KeyName(index);
            let key = cursor.name()?;
            cursor.place = Place::Value(key);
            let value = ValuePlace::read(&mut cursor)?;
            if metadata.insert(key.to_owned(), value).is_some() {
                return Err(cursor.unexpected("one value", "a second one"));
            }
        }
        let file = Self {
            path: path.into(),
            bytes: bytes.clone(),
            metadata,
            tensors: BTreeMap::new(),
        };
        let alignment = file.alignment()?;
        let tensors = tensor_table::read(&mut cursor, n_tensors, alignment, &bytes)?;
        Ok(Self { tensors, ..file })
    }

    /// Tensors start at multiples of this many bytes.
    fn alignment(&self) -> Result<u64, ModelError> {
        const KEY: &str = "general.alignment";
        const DEFAULT: u64 = 32;
        let alignment = self.unsigned(KEY)?.unwrap_or(DEFAULT);
        if !alignment.is_power_of_two() || alignment > u64::from(u32::MAX) {
            return Err(self.invalid(KEY, "a power of two of 32 bits", alignment));
        }
        Ok(alignment)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The metadata's keys, sorted.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.metadata.keys().map(String::as_str)
    }

    /// The tensors by their names in the file, sorted.
    pub fn tensors(&self) -> &BTreeMap<String, GgufTensor> {
        &self.tensors
    }

    /// The value of a metadata key, if there is one.
    ///
    /// # Errors
    /// [`ModelError::Gguf`] for a text that is not UTF-8 or a truth value that is neither 0 nor 1.
    pub fn value(&self, key: &str) -> Result<Option<GgufValue<'_>>, ModelError> {
        let Some((key, place)) = self.metadata.get_key_value(key) else {
            return Ok(None);
        };
        place.decode(&self.path, &self.bytes, key).map(Some)
    }

    fn invalid(&self, key: &str, expected: impl Into<String>, found: impl ToString) -> ModelError {
        ModelError::InvalidValue {
            path: self.path.to_path_buf(),
            key: key.to_owned(),
            expected: expected.into(),
            found: found.to_string(),
        }
    }

    /// A value that `as_type` takes, if the key is there.
    fn typed<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        as_type: impl Fn(&GgufValue<'a>) -> Option<T>,
    ) -> Result<Option<T>, ModelError> {
        let Some(value) = self.value(key)? else {
            return Ok(None);
        };
        match as_type(&value) {
            Some(typed) => Ok(Some(typed)),
            None => Err(self.invalid(key, expected, value.describe())),
        }
    }

    /// A text, if the key is there.
    ///
    /// # Errors
    /// [`ModelError::InvalidValue`] for a value of another type, and as [`value`](Self::value).
    pub fn text(&self, key: &str) -> Result<Option<&str>, ModelError> {
        self.typed(key, "a text", |value| match value {
            GgufValue::Text(text) => Some(*text),
            _ => None,
        })
    }

    /// A whole number that is not negative, of any width, if the key is there.
    ///
    /// # Errors
    /// As [`text`](Self::text).
    pub fn unsigned(&self, key: &str) -> Result<Option<u64>, ModelError> {
        self.typed(key, "a whole number of 0 or more", GgufValue::as_unsigned)
    }

    /// A finite float of either width, if the key is there.
    ///
    /// # Errors
    /// As [`text`](Self::text).
    pub fn float(&self, key: &str) -> Result<Option<f64>, ModelError> {
        self.typed(key, "a finite float", |value| match value {
            GgufValue::Float(value) if value.is_finite() => Some(*value),
            _ => None,
        })
    }

    /// A truth value, if the key is there.
    ///
    /// # Errors
    /// As [`text`](Self::text).
    pub fn switch(&self, key: &str) -> Result<Option<bool>, ModelError> {
        self.typed(key, "true or false", |value| match value {
            GgufValue::Bool(value) => Some(*value),
            _ => None,
        })
    }

    fn array(&self, key: &str, expected: &str) -> Result<Option<GgufArray<'_>>, ModelError> {
        self.typed(key, expected, |value| match value {
            GgufValue::Array(array) => Some(array.clone()),
            _ => None,
        })
    }

    /// An array of texts, if the key is there.
    ///
    /// # Errors
    /// As [`text`](Self::text).
    pub fn texts(&self, key: &str) -> Result<Option<Vec<&str>>, ModelError> {
        const EXPECTED: &str = "an array of texts";
        let Some(array) = self.array(key, EXPECTED)? else {
            return Ok(None);
        };
        let texts = array.values().map(|value| match value? {
            GgufValue::Text(text) => Ok(text),
            other => Err(self.invalid(key, EXPECTED, format!("one with {}", other.describe()))),
        });
        texts.collect::<Result<_, _>>().map(Some)
    }

    /// An array of whole numbers that are not negative, of any width, if the key is there.
    ///
    /// # Errors
    /// As [`text`](Self::text).
    pub fn unsigned_numbers(&self, key: &str) -> Result<Option<Vec<u64>>, ModelError> {
        const EXPECTED: &str = "an array of whole numbers of 0 or more";
        let Some(array) = self.array(key, EXPECTED)? else {
            return Ok(None);
        };
        let numbers = array.values().map(|value| {
            let value = value?;
            let number = value.as_unsigned();
            number.ok_or_else(|| {
                self.invalid(key, EXPECTED, format!("one with {}", value.describe()))
            })
        });
        numbers.collect::<Result<_, _>>().map(Some)
    }
}

fn gguf_path(path: &Path) -> Result<Option<PathBuf>, ModelError> {
    if is_gguf_file(path) {
        return Ok(Some(path.to_owned()));
    }
    if super::hugging_face_file(path).is_some() {
        return Ok(None);
    }
    let Ok(entries) = std::fs::read_dir(path) else {
        return Ok(None);
    };
    let mut files: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| is_gguf_file(path))
        .collect();
    files.sort();
    match files.len() {
        0 | 1 => Ok(files.pop()),
        _ => Err(ModelError::SeveralGguf {
            folder: path.to_owned(),
            found: files,
        }),
    }
}

#[cfg(test)]
mod tests;

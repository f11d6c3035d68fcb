//! A place in the bytes of a GGUF header; every length is checked before it is used.

use std::fmt;
use std::path::Path;

use crate::ModelError;

/// What is being read, for error messages.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place<'a> {
    /// A field at the start of the file.
    Field(&'static str),
    /// The name of the metadata key with this index.
    KeyName(u64),
    /// The value of a metadata key.
    Value(&'a str),
    /// The name of the tensor with this index.
    TensorName(u64),
    /// What the header says of a tensor.
    Tensor(&'a str),
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(name) => formatter.write_str(name),
            Self::KeyName(index) => write!(formatter, "name of metadata key {index}"),
            Self::Value(key) => write!(formatter, "metadata key `{}`", shortened(key)),
            Self::TensorName(index) => write!(formatter, "name of tensor {index}"),
            Self::Tensor(name) => write!(formatter, "tensor `{}`", shortened(name)),
        }
    }
}

/// The start of a text that may be of any length, control characters escaped.
fn shortened(text: &str) -> String {
    const SHOWN: usize = 80;
    let mut shown: String = text
        .chars()
        .take(SHOWN)
        .flat_map(char::escape_debug)
        .collect();
    if text.chars().nth(SHOWN).is_some() {
        shown.push('…');
    }
    shown
}

/// Reads forward through the bytes of a whole file.
#[derive(Debug, Clone)]
pub(super) struct Cursor<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    position: usize,
    pub(super) place: Place<'a>,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(path: &'a Path, bytes: &'a [u8], position: usize, place: Place<'a>) -> Self {
        Self {
            path,
            bytes,
            position,
            place,
        }
    }

    pub(super) fn path(&self) -> &'a Path {
        self.path
    }

    pub(super) fn position(&self) -> usize {
        self.position
    }

    /// The error for what stands here.
    pub(super) fn unexpected(
        &self,
        expected: impl Into<String>,
        found: impl ToString,
    ) -> ModelError {
        ModelError::Gguf {
            path: self.path.to_owned(),
            place: self.place.to_string(),
            expected: expected.into(),
            found: found.to_string(),
        }
    }

    /// The next `length` bytes.
    pub(super) fn take(&mut self, length: u64) -> Result<&'a [u8], ModelError> {
        let left = &self.bytes[self.position..];
        let taken = usize::try_from(length)
            .ok()
            .and_then(|length| left.get(..length));
        let Some(taken) = taken else {
            let expected = format!("{length} more bytes");
            return Err(self.unexpected(expected, format!("{} until the end", left.len())));
        };
        self.position += taken.len();
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ModelError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N as u64)?);
        Ok(array)
    }

    pub(super) fn u8(&mut self) -> Result<u8, ModelError> {
        self.array().map(u8::from_le_bytes)
    }

    pub(super) fn i8(&mut self) -> Result<i8, ModelError> {
        self.array().map(i8::from_le_bytes)
    }

    pub(super) fn u16(&mut self) -> Result<u16, ModelError> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn i16(&mut self) -> Result<i16, ModelError> {
        self.array().map(i16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, ModelError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn i32(&mut self) -> Result<i32, ModelError> {
        self.array().map(i32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, ModelError> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn i64(&mut self) -> Result<i64, ModelError> {
        self.array().map(i64::from_le_bytes)
    }

    pub(super) fn f32(&mut self) -> Result<f32, ModelError> {
        self.array().map(f32::from_le_bytes)
    }

    pub(super) fn f64(&mut self) -> Result<f64, ModelError> {
        self.array().map(f64::from_le_bytes)
    }

    /// A number that must not be above `limit`.
    pub(super) fn count(&mut self, limit: u64) -> Result<u64, ModelError> {
        let count = self.u64()?;
        if count > limit {
            return Err(self.unexpected(format!("at most {limit}"), count));
        }
        Ok(count)
    }

    /// A text with its length in front.
    pub(super) fn text(&mut self) -> Result<&'a str, ModelError> {
        let length = self.u64()?;
        let bytes = self.take(length)?;
        std::str::from_utf8(bytes).map_err(|error| {
            self.unexpected(
                "UTF-8",
                format!("other bytes after the first {}", error.valid_up_to()),
            )
        })
    }

    /// A name: a text that is neither empty nor absurdly long.
    pub(super) fn name(&mut self) -> Result<&'a str, ModelError> {
        /// The longest key that the format allows.
        const MAX_NAME: usize = 65_535;
        let name = self.text()?;
        if name.is_empty() || name.len() > MAX_NAME {
            let expected = format!("a name of 1 to {MAX_NAME} bytes");
            return Err(self.unexpected(expected, format!("{} bytes", name.len())));
        }
        Ok(name)
    }
}

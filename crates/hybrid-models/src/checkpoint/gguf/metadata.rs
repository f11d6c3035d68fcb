//! Metadata values of a GGUF file: all types of the format, decoded when they are asked for.

use super::cursor::{Cursor, Place};
use crate::ModelError;

/// Arrays of arrays are followed this deep.
const MAX_DEPTH: usize = 4;

/// Bytes of a text's or an array's length.
const LENGTH_BYTES: u64 = 8;

/// Bytes of an array's element type and length.
const ARRAY_HEAD_BYTES: u64 = 12;

/// Types of values, by their numbers in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ValueType {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    Text,
    Array,
    U64,
    I64,
    F64,
}

impl ValueType {
    const ALL: [Self; 13] = [
        Self::U8,
        Self::I8,
        Self::U16,
        Self::I16,
        Self::U32,
        Self::I32,
        Self::F32,
        Self::Bool,
        Self::Text,
        Self::Array,
        Self::U64,
        Self::I64,
        Self::F64,
    ];

    fn read(cursor: &mut Cursor<'_>) -> Result<Self, ModelError> {
        let number = cursor.u32()?;
        Self::ALL
            .get(number as usize)
            .copied()
            .ok_or_else(|| cursor.unexpected("a value type from 0 to 12", number))
    }

    /// The fewest bytes that a value takes, and whether each value takes just as many.
    fn size(self) -> (u64, bool) {
        match self {
            Self::U8 | Self::I8 | Self::Bool => (1, true),
            Self::U16 | Self::I16 => (2, true),
            Self::U32 | Self::I32 | Self::F32 => (4, true),
            Self::U64 | Self::I64 | Self::F64 => (8, true),
            Self::Text => (LENGTH_BYTES, false),
            Self::Array => (ARRAY_HEAD_BYTES, false),
        }
    }
}

/// Where a value is.
#[derive(Debug, Clone, Copy)]
pub(super) struct ValuePlace {
    value_type: ValueType,
    start: usize,
}

impl ValuePlace {
    /// Passes over a value of any type, so that all of it is known to be in the file.
    pub(super) fn read(cursor: &mut Cursor<'_>) -> Result<Self, ModelError> {
        let value_type = ValueType::read(cursor)?;
        let start = cursor.position();
        skip(cursor, value_type, 0)?;
        Ok(Self { value_type, start })
    }

    /// Decodes the value in the bytes of its file.
    pub(super) fn decode<'a>(
        self,
        path: &'a std::path::Path,
        bytes: &'a [u8],
        key: &'a str,
    ) -> Result<GgufValue<'a>, ModelError> {
        let mut cursor = Cursor::new(path, bytes, self.start, Place::Value(key));
        decode(&mut cursor, self.value_type)
    }
}

/// Lengths are only compared with what is left of the file, so no length makes this allocate, and
/// every step of a loop consumes bytes.
fn skip(cursor: &mut Cursor<'_>, value_type: ValueType, depth: usize) -> Result<(), ModelError> {
    match value_type {
        ValueType::Text => {
            let length = cursor.u64()?;
            cursor.take(length)?;
        }
        ValueType::Array => {
            if depth == MAX_DEPTH {
                let expected = format!("arrays nested at most {MAX_DEPTH} deep");
                return Err(cursor.unexpected(expected, "a deeper one"));
            }
            let element = ValueType::read(cursor)?;
            let count = cursor.u64()?;
            let (size, fixed) = element.size();
            let bytes = count.saturating_mul(size);
            if fixed {
                cursor.take(bytes)?;
            } else {
                cursor.clone().take(bytes)?;
                for _ in 0..count {
                    skip(cursor, element, depth + 1)?;
                }
            }
        }
        fixed => {
            cursor.take(fixed.size().0)?;
        }
    }
    Ok(())
}

fn decode<'a>(cursor: &mut Cursor<'a>, value_type: ValueType) -> Result<GgufValue<'a>, ModelError> {
    Ok(match value_type {
        ValueType::U8 => GgufValue::Unsigned(cursor.u8()?.into()),
        ValueType::U16 => GgufValue::Unsigned(cursor.u16()?.into()),
        ValueType::U32 => GgufValue::Unsigned(cursor.u32()?.into()),
        ValueType::U64 => GgufValue::Unsigned(cursor.u64()?),
        ValueType::I8 => GgufValue::Signed(cursor.i8()?.into()),
        ValueType::I16 => GgufValue::Signed(cursor.i16()?.into()),
        ValueType::I32 => GgufValue::Signed(cursor.i32()?.into()),
        ValueType::I64 => GgufValue::Signed(cursor.i64()?),
        ValueType::F32 => GgufValue::Float(cursor.f32()?.into()),
        ValueType::F64 => GgufValue::Float(cursor.f64()?),
        ValueType::Bool => match cursor.u8()? {
            0 => GgufValue::Bool(false),
            1 => GgufValue::Bool(true),
            other => return Err(cursor.unexpected("a truth value, 0 or 1", other)),
        },
        ValueType::Text => GgufValue::Text(cursor.text()?),
        ValueType::Array => {
            let mut inside = cursor.clone();
            skip(cursor, ValueType::Array, 0)?;
            let element = ValueType::read(&mut inside)?;
            let len = inside.u64()? as usize;
            let array = GgufArray {
                element,
                len,
                cursor: inside,
            };
            GgufValue::Array(array)
        }
    })
}

/// A metadata value of a GGUF file.
#[derive(Debug, Clone)]
pub enum GgufValue<'a> {
    /// An unsigned integer of 8, 16, 32 or 64 bits.
    Unsigned(u64),
    /// A signed integer of 8, 16, 32 or 64 bits.
    Signed(i64),
    /// A float of 32 or 64 bits.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// A text.
    Text(&'a str),
    /// Values of one type.
    Array(GgufArray<'a>),
}

impl GgufValue<'_> {
    /// The value as an unsigned integer, if it is one.
    pub fn as_unsigned(&self) -> Option<u64> {
        match self {
            Self::Unsigned(value) => Some(*value),
            Self::Signed(value) => u64::try_from(*value).ok(),
            _ => None,
        }
    }

    /// The value in words, for messages: an array as its length.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Unsigned(value) => value.to_string(),
            Self::Signed(value) => value.to_string(),
            Self::Float(value) => value.to_string(),
            Self::Bool(value) => value.to_string(),
            Self::Text(text) => {
                let start: String = text.chars().take(80).collect();
                format!("{start:?}")
            }
            Self::Array(array) => format!("an array of {} values", array.len()),
        }
    }
}

/// An array of a GGUF file's metadata; its values are decoded one by one.
#[derive(Debug, Clone)]
pub struct GgufArray<'a> {
    element: ValueType,
    len: usize,
    cursor: Cursor<'a>,
}

impl<'a> GgufArray<'a> {
    /// Number of values.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no value.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The values in order; a text that is not UTF-8 is an error.
    pub fn values(&self) -> impl Iterator<Item = Result<GgufValue<'a>, ModelError>> + use<'a> {
        let (element, mut cursor) = (self.element, self.cursor.clone());
        (0..self.len).map(move |_| decode(&mut cursor, element))
    }
}

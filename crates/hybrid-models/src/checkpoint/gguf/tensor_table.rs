//! The table of tensors in a GGUF header.

use std::collections::BTreeMap;

use super::block_format::BlockFormat;
use super::cursor::{Cursor, Place};
use crate::ModelError;

/// Most axes that ggml's tensors have.
const MAX_AXES: u32 = 4;

/// Tensor types that exist but are not read, for messages.
const UNREAD: [(u32, &str); 18] = [
    (9, "Q8_1"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
    (40, "NVFP4"),
];

/// A tensor of a GGUF file, its values still in the file.
#[derive(Debug, Clone)]
pub struct GgufTensor {
    shape: Vec<usize>,
    format: BlockFormat,
    bytes: bytes::Bytes,
}

impl GgufTensor {
    /// Sizes of the axes, the innermost last (the file lists it first).
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// How the values are stored.
    pub fn format(&self) -> BlockFormat {
        self.format
    }

    /// The values as they are stored; a window of the mapped file.
    pub fn bytes(&self) -> &bytes::Bytes {
        &self.bytes
    }
}

/// A line of the table.
struct Entry<'a> {
    name: &'a str,
    shape: Vec<usize>,
    format: BlockFormat,
    /// Bytes from the start of the data.
    start: u64,
    n_bytes: u64,
}

/// Reads the table at `cursor`, whose file is `bytes`.
pub(super) fn read(
    cursor: &mut Cursor<'_>,
    n_tensors: u64,
    alignment: u64,
    bytes: &bytes::Bytes,
) -> Result<BTreeMap<String, GgufTensor>, ModelError> {
    let mut entries = Vec::new();
    for index in 0..n_tensors {
        cursor.place = Place::TensorName(index);
        let name = cursor.name()?;
        cursor.place = Place::Tensor(name);
        entries.push(entry(cursor, name, alignment)?);
    }
    let data_start = (cursor.position() as u64).next_multiple_of(alignment);
    entries.sort_by_key(|entry| entry.start);
    let mut tensors = BTreeMap::new();
    let mut end_of_last = 0;
    for entry in entries {
        cursor.place = Place::Tensor(entry.name);
        if entry.start < end_of_last {
            let expected = format!("an offset of at least {end_of_last}, after the last tensor");
            return Err(cursor.unexpected(expected, entry.start));
        }
        let window = || {
            let start = data_start.checked_add(entry.start)?;
            let end = start.checked_add(entry.n_bytes)?;
            (end <= bytes.len() as u64).then_some(start as usize..end as usize)
        };
        let window = window().ok_or_else(|| {
            let expected = format!(
                "{} bytes at offset {} of the data",
                entry.n_bytes, entry.start
            );
            let found = (bytes.len() as u64).saturating_sub(data_start);
            cursor.unexpected(expected, format!("{found} bytes of data"))
        })?;
        end_of_last = entry.start + entry.n_bytes;
        let tensor = GgufTensor {
            shape: entry.shape,
            format: entry.format,
            bytes: bytes.slice(window),
        };
        if tensors.insert(entry.name.to_owned(), tensor).is_some() {
            return Err(cursor.unexpected("one tensor of this name", "a second one"));
        }
    }
    Ok(tensors)
}

fn entry<'a>(
    cursor: &mut Cursor<'a>,
    name: &'a str,
    alignment: u64,
) -> Result<Entry<'a>, ModelError> {
    let n_axes = cursor.u32()?;
    if !(1..=MAX_AXES).contains(&n_axes) {
        return Err(cursor.unexpected(format!("1 to {MAX_AXES} axes"), n_axes));
    }
    let mut axes = Vec::new();
    let mut n_values: u64 = 1;
    for _ in 0..n_axes {
        let size = cursor.u64()?;
        let product = n_values.checked_mul(size).filter(|product| *product > 0);
        n_values =
            product.ok_or_else(|| cursor.unexpected("axes of 1 to 2^64 values in all", size))?;
        axes.push(size);
    }
    let number = cursor.u32()?;
    let format = BlockFormat::of_number(number).ok_or_else(|| {
        let known = UNREAD.iter().find(|(unread, _)| *unread == number);
        ModelError::GgufTensorType {
            path: cursor.path().to_owned(),
            name: name.to_owned(),
            found: match known {
                Some((_, name)) => format!("{number} ({name})"),
                None => number.to_string(),
            },
            known: BlockFormat::ALL.map(BlockFormat::name).to_vec(),
        }
    })?;
    let (block_size, block_bytes) = (format.block_size() as u64, format.block_bytes() as u64);
    if !axes[0].is_multiple_of(block_size) {
        let expected = format!(
            "rows of whole {} blocks of {block_size} values",
            format.name()
        );
        return Err(cursor.unexpected(expected, format!("rows of {} values", axes[0])));
    }
    let n_bytes = (n_values / block_size)
        .checked_mul(block_bytes)
        .ok_or_else(|| cursor.unexpected("fewer than 2^64 bytes", format!("{n_values} values")))?;
    let start = cursor.u64()?;
    if !start.is_multiple_of(alignment) {
        let expected = format!("an offset that is a multiple of {alignment}");
        return Err(cursor.unexpected(expected, start));
    }
    let sizes = axes.iter().rev().map(|size| usize::try_from(*size));
    let shape = sizes
        .collect::<Result<_, _>>()
        .map_err(|_| cursor.unexpected("axes that fit this machine's memory", n_values))?;
    Ok(Entry {
        name,
        shape,
        format,
        start,
        n_bytes,
    })
}

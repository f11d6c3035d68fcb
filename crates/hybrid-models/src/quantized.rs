//! Frozen weights that stay in their GGUF blocks and are dequantised a few rows at a time.

use std::ops::Range;

use crate::{BlockFormat, GgufTensor};

/// How the rows of a weight lie in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RowOrder {
    /// In their own order.
    AsStored,
    /// In each head, the rows of a rotary pair side by side instead of half a head apart.
    RotaryPairs {
        /// Rows of one head.
        d_head: usize,
    },
}

impl RowOrder {
    /// Where row `row` is stored.
    fn stored_row(self, row: usize) -> usize {
        match self {
            Self::AsStored => row,
            Self::RotaryPairs { d_head } => {
                let (head, within) = (row / d_head, row % d_head);
                let (half, pair) = (within / (d_head / 2), within % (d_head / 2));
                head * d_head + 2 * pair + half
            }
        }
    }
}

/// A weight in GGUF blocks: rows of whole blocks, their bytes shared with the mapped file.
///
/// Clones share the bytes.
#[derive(Clone)]
pub struct QuantizedWeight {
    format: BlockFormat,
    bytes: bytes::Bytes,
    shape: Vec<usize>,
    n_rows: usize,
    row_len: usize,
    order: RowOrder,
}

impl std::fmt::Debug for QuantizedWeight {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (shape, format) = (&self.shape, self.format.name());
        write!(formatter, "QuantizedWeight({shape:?}, {format})")
    }
}

impl QuantizedWeight {
    /// The weight of a tensor whose rows lie in `order`; nothing if its rows are not whole heads.
    pub(crate) fn new(tensor: &GgufTensor, order: RowOrder) -> Option<Self> {
        let n_values = tensor.shape().iter().product::<usize>();
        let innermost = tensor.shape().last().copied().unwrap_or(1);
        let row_len = match order {
            // A vector's values are rows of their own: a bias beside a weight's rows.
            RowOrder::RotaryPairs { .. } if tensor.shape().len() == 1 => 1,
            _ => innermost,
        };
        let n_rows = n_values / row_len;
        let whole_heads = match order {
            RowOrder::AsStored => true,
            RowOrder::RotaryPairs { d_head } => n_rows.is_multiple_of(d_head),
        };
        let whole_blocks = row_len.is_multiple_of(tensor.format().block_size());
        (whole_heads && whole_blocks).then(|| Self {
            format: tensor.format(),
            bytes: tensor.bytes().clone(),
            shape: tensor.shape().to_vec(),
            n_rows,
            row_len,
            order,
        })
    }

    /// Sizes of the axes, `[d_out, d_in]` for a linear layer.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// How the values are stored.
    pub fn format(&self) -> BlockFormat {
        self.format
    }

    /// Number of rows: of all axes but the innermost.
    pub fn n_rows(&self) -> usize {
        self.n_rows
    }

    /// Values of one row.
    pub fn row_len(&self) -> usize {
        self.row_len
    }

    /// Bytes of the blocks.
    pub fn n_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The bytes as they are stored, when they are plain float32 rows in order.
    pub(crate) fn plain_floats(&self) -> Option<&bytes::Bytes> {
        let plain = self.format == BlockFormat::F32 && self.order == RowOrder::AsStored;
        plain.then_some(&self.bytes)
    }

    /// The values of some rows.
    ///
    /// # Shapes
    /// - `[rows, row_len]`, row-major
    ///
    /// # Panics
    /// If `rows` ends after the last row.
    pub fn dequantize_rows(&self, rows: Range<usize>) -> Vec<f32> {
        let mut values = vec![0.0; rows.len() * self.row_len];
        self.dequantize_into(rows, &mut values);
        values
    }

    /// Writes the values of some rows to `values`, which has room for just them.
    fn dequantize_into(&self, rows: Range<usize>, values: &mut [f32]) {
        let row_bytes = self.row_len / self.format.block_size() * self.format.block_bytes();
        let window = |rows: Range<usize>| &self.bytes[rows.start * row_bytes..rows.end * row_bytes];
        match self.order {
            RowOrder::AsStored => self.format.dequantize(window(rows), values),
            RowOrder::RotaryPairs { .. } => {
                for (row, values) in rows.zip(values.chunks_exact_mut(self.row_len)) {
                    let stored = self.order.stored_row(row);
                    self.format.dequantize(window(stored..stored + 1), values);
                }
            }
        }
    }
}

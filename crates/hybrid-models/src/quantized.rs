//! Frozen weights that stay in their GGUF blocks and are dequantised a few rows at a time.

mod product;

pub(crate) use product::DotProducts;

use std::ops::Range;

use burn::tensor::{Device, Int, Tensor, TensorData};

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

    /// Whether `other` has the same bytes in the same order.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        (self.format, self.order, &self.shape) == (other.format, other.order, &other.shape)
            && self.bytes == other.bytes
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

impl QuantizedWeight {
    /// `x Wᵀ + b`, dequantised a bounded number of rows at a time: the dense weight is never whole.
    /// Equal to the dense product up to the order of float32 sums.
    ///
    /// # Shapes
    /// - `x`: `[batch, seq, d_in]`, `bias`: `[d_out]` → `[batch, seq, d_out]`
    pub fn linear(&self, x: Tensor<3>, bias: Option<Tensor<1>>) -> Tensor<3> {
        let [batch, seq, d_in] = x.dims();
        let y = product::product(self, x.reshape([batch * seq, d_in]));
        let y = match bias {
            Some(bias) => y + bias.unsqueeze(),
            None => y,
        };
        y.reshape([batch, seq, self.n_rows])
    }

    /// The rows of a lookup table.
    ///
    /// # Shapes
    /// - `ids`: `[batch, seq]` → `[batch, seq, d_model]`
    ///
    /// # Panics
    /// If an id is not below the number of rows.
    pub fn embedding(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        let [batch, seq] = ids.dims();
        let device = ids.device().inner();
        let ids = ids.into_data();
        let rows = ids.iter::<i64>().flat_map(|id| {
            let row = usize::try_from(id).ok().filter(|row| *row < self.n_rows);
            let row = row.unwrap_or_else(|| panic!("id {id} of a table of {} rows", self.n_rows));
            self.dequantize_rows(row..row + 1)
        });
        let shape = [batch, seq, self.row_len];
        Tensor::from_data(TensorData::new(rows.collect::<Vec<f32>>(), shape), &device)
    }

    /// The dense weight, for what needs all of it at once, e.g. merging an adapter.
    ///
    /// # Shapes
    /// - `[d_in, d_out]`, as [`Linear`](crate::Linear) has it
    pub fn dense(&self, device: &Device) -> Tensor<2> {
        let values = self.dequantize_rows(0..self.n_rows);
        let shape = [self.n_rows, self.row_len];
        Tensor::<2>::from_data(TensorData::new(values, shape), device).transpose()
    }
}

#[cfg(test)]
pub(crate) mod tests;

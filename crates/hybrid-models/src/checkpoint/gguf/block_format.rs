//! How GGUF tensors are stored: plain floats, or blocks of small integers with scales.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::{k_blocks, small_blocks};
use crate::vectorized::vectorized;

/// The format of a GGUF tensor's values.
///
/// A row is a sequence of blocks of [`block_size`](Self::block_size) values in
/// [`block_bytes`](Self::block_bytes) bytes each. The numbers and layouts are those of ggml, the
/// dequantised values those of its Python package, to the last bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(non_camel_case_types, reason = "the formats' own names")]
#[non_exhaustive]
pub enum BlockFormat {
    /// Float32.
    F32,
    /// Float16.
    F16,
    /// Bfloat16.
    BF16,
    /// 32 values of 8 bits and a scale.
    Q8_0,
    /// 32 values of 4 bits and a scale.
    Q4_0,
    /// 32 values of 4 bits, a scale and a minimum.
    Q4_1,
    /// 32 values of 5 bits and a scale.
    Q5_0,
    /// 32 values of 5 bits, a scale and a minimum.
    Q5_1,
    /// 256 values of 2 bits in 16 groups with scales and minima of 4 bits.
    Q2_K,
    /// 256 values of 3 bits in 16 groups with scales of 6 bits.
    Q3_K,
    /// 256 values of 4 bits in 8 groups with scales and minima of 6 bits.
    Q4_K,
    /// 256 values of 5 bits in 8 groups with scales and minima of 6 bits.
    Q5_K,
    /// 256 values of 6 bits in 16 groups with scales of 8 bits.
    Q6_K,
    /// 32 values of 4 bits out of a table, and a scale.
    IQ4_NL,
    /// 256 values of 4 bits out of a table, in 8 groups with scales of 6 bits.
    IQ4_XS,
}

/// Runs a function of one block over all blocks.
///
/// A macro, since a function that is passed on stays a function: it is called for each block, and
/// compiled without the vector instructions of its caller. It gets the block by value, since the
/// compiler does not know that `values` lie elsewhere, and would compute them one by one.
macro_rules! each {
    ($bytes:expr, $values:expr, $block:path) => {
        for (bytes, values) in $bytes.as_chunks().0.iter().zip($values.as_chunks_mut().0) {
            $block(*bytes, values);
        }
    };
}

impl BlockFormat {
    /// All formats that can be read.
    pub const ALL: [Self; 15] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::Q8_0,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q2_K,
        Self::Q3_K,
        Self::Q4_K,
        Self::Q5_K,
        Self::Q6_K,
        Self::IQ4_NL,
        Self::IQ4_XS,
    ];

    /// The format with this number in ggml's list of tensor types.
    pub fn of_number(number: u32) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|format| format.number() == number)
    }

    /// The format's number in ggml's list of tensor types.
    pub fn number(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q4_1 => 3,
            Self::Q5_0 => 6,
            Self::Q5_1 => 7,
            Self::Q8_0 => 8,
            Self::Q2_K => 10,
            Self::Q3_K => 11,
            Self::Q4_K => 12,
            Self::Q5_K => 13,
            Self::Q6_K => 14,
            Self::IQ4_NL => 20,
            Self::IQ4_XS => 23,
            Self::BF16 => 30,
        }
    }

    /// The format's name, e.g. `Q4_1`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::Q8_0 => "Q8_0",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q2_K => "Q2_K",
            Self::Q3_K => "Q3_K",
            Self::Q4_K => "Q4_K",
            Self::Q5_K => "Q5_K",
            Self::Q6_K => "Q6_K",
            Self::IQ4_NL => "IQ4_NL",
            Self::IQ4_XS => "IQ4_XS",
        }
    }

    /// Values in one block.
    pub fn block_size(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => 1,
            Self::Q8_0 | Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::IQ4_NL => 32,
            Self::Q2_K | Self::Q3_K | Self::Q4_K | Self::Q5_K | Self::Q6_K | Self::IQ4_XS => 256,
        }
    }

    /// Bytes of one block.
    pub fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Q8_0 => 34,
            Self::Q4_0 | Self::IQ4_NL => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q2_K => 84,
            Self::Q3_K => 110,
            Self::Q4_K => 144,
            Self::Q5_K => 176,
            Self::Q6_K => 210,
            Self::IQ4_XS => 136,
        }
    }

    /// Writes the values of whole blocks to `values`.
    ///
    /// # Panics
    /// If `bytes` are not the whole blocks of as many values as `values` has room for.
    pub fn dequantize(self, bytes: &[u8], values: &mut [f32]) {
        let n_blocks = values.len() / self.block_size();
        assert_eq!(
            (n_blocks * self.block_size(), n_blocks * self.block_bytes()),
            (values.len(), bytes.len()),
            "whole blocks of {}",
            self.name()
        );
        vectorized(Dequantize {
            format: self,
            bytes,
            values,
        });
    }

    #[inline(always)]
    fn dequantize_blocks(self, bytes: &[u8], values: &mut [f32]) {
        match self {
            Self::F32 => each!(bytes, values, float32),
            Self::F16 => halves(bytes, values),
            Self::BF16 => each!(bytes, values, bfloat16),
            Self::Q8_0 => each!(bytes, values, small_blocks::q8_0),
            Self::Q4_0 => each!(bytes, values, small_blocks::q4_0),
            Self::Q4_1 => each!(bytes, values, small_blocks::q4_1),
            Self::Q5_0 => each!(bytes, values, small_blocks::q5_0),
            Self::Q5_1 => each!(bytes, values, small_blocks::q5_1),
            Self::IQ4_NL => each!(bytes, values, small_blocks::iq4_nl),
            Self::Q2_K => each!(bytes, values, k_blocks::q2_k),
            Self::Q3_K => each!(bytes, values, k_blocks::q3_k),
            Self::Q4_K => each!(bytes, values, k_blocks::q4_k),
            Self::Q5_K => each!(bytes, values, k_blocks::q5_k),
            Self::Q6_K => each!(bytes, values, k_blocks::q6_k),
            Self::IQ4_XS => each!(bytes, values, k_blocks::iq4_xs),
        }
    }
}

/// The work of [`BlockFormat::dequantize`].
struct Dequantize<'a> {
    format: BlockFormat,
    bytes: &'a [u8],
    values: &'a mut [f32],
}

impl pulp::NullaryFnOnce for Dequantize<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        self.format.dequantize_blocks(self.bytes, self.values);
    }
}

#[inline(always)]
fn float32(bytes: [u8; 4], [value]: &mut [f32; 1]) {
    *value = f32::from_le_bytes(bytes);
}

#[inline(always)]
fn bfloat16(bytes: [u8; 2], [value]: &mut [f32; 1]) {
    *value = bf16::from_le_bytes(bytes).to_f32();
}

/// Float16 values, as many at a time as the processor converts together.
fn halves(bytes: &[u8], values: &mut [f32]) {
    const TOGETHER: usize = 64;
    let mut piece = [f16::ZERO; TOGETHER];
    let pieces = bytes.chunks(2 * TOGETHER).zip(values.chunks_mut(TOGETHER));
    for (bytes, values) in pieces {
        let piece = &mut piece[..values.len()];
        for (half, bytes) in piece.iter_mut().zip(bytes.as_chunks().0) {
            *half = f16::from_le_bytes(*bytes);
        }
        piece.convert_to_f32_slice(values);
    }
}

#[cfg(test)]
mod tests {
    use super::BlockFormat;

    #[test]
    fn numbers_and_sizes_agree() {
        for format in BlockFormat::ALL {
            assert_eq!(BlockFormat::of_number(format.number()), Some(format));
            let mut values = vec![f32::NAN; 2 * format.block_size()];
            // A half-precision one in every place that can hold a scale.
            let bytes = [0x00, 0x3c].repeat(format.block_bytes());
            format.dequantize(&bytes, &mut values);
            assert!(
                values.iter().all(|value| value.is_finite()),
                "{}",
                format.name()
            );
            assert!(
                values.iter().any(|value| *value != 0.0),
                "{}",
                format.name()
            );
        }
        assert_eq!(BlockFormat::of_number(31), None);
    }

    #[test]
    #[should_panic(expected = "whole blocks of Q4_1")]
    fn a_part_of_a_block_is_refused() {
        BlockFormat::Q4_1.dequantize(&[0; 19], &mut [0.0; 32]);
    }
}

//! Frozen matrices: dense on a device, or in the blocks of their file.

use burn::tensor::{DType, Device, FloatDType, Int, Tensor, TensorData, module};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::device::is_flex;
use crate::layers::linear;
use crate::{ModelError, QuantizedWeight};

/// How the weights of a model are held.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WeightFormat {
    /// As 32-bit floats on the device.
    #[default]
    Float32,
    /// Matrices as bfloat16 on the device, in half the room. A product takes its input and
    /// gives its result rounded to bfloat16; all between the products, adapters included, stays float32.
    Bfloat16,
    /// As the file has them, where that takes less room: the quantised matrices of a GGUF file stay
    /// in its blocks, shared with the mapped file, and are dequantised as they are used.
    Keep,
}

impl WeightFormat {
    /// Whether a device computes with weights in this format.
    ///
    /// # Errors
    /// [`ModelError::UnsupportedFormat`].
    pub(crate) fn check(self, device: &Device) -> Result<(), ModelError> {
        match self {
            Self::Bfloat16 if !device.supports_dtype(FloatDType::BF16) => {
                let format = "bfloat16";
                Err(ModelError::UnsupportedFormat { format })
            }
            Self::Float32 | Self::Bfloat16 | Self::Keep => Ok(()),
        }
    }
}

/// A frozen matrix. Clones share their values.
#[derive(Debug, Clone)]
pub enum Weight {
    /// Values on a device.
    Dense(Tensor<2>),
    /// Values on a device, as bfloat16.
    Bfloat16(Tensor<2>),
    /// Blocks of a file.
    Kept(KeptWeight),
}

/// A matrix in the blocks of its file.
#[derive(Debug, Clone)]
pub struct KeptWeight {
    blocks: QuantizedWeight,
    /// Whether the matrix has the stored rows as its columns.
    transposed: bool,
    /// Where dense values are made.
    device: Device,
}

impl From<Tensor<2>> for Weight {
    fn from(tensor: Tensor<2>) -> Self {
        Self::Dense(tensor)
    }
}

impl Weight {
    /// A matrix with the rows that `blocks` have.
    pub fn kept(blocks: QuantizedWeight, device: &Device) -> Self {
        Self::Kept(KeptWeight {
            blocks,
            transposed: false,
            device: device.clone(),
        })
    }

    /// A matrix rounded to bfloat16.
    pub fn bfloat16(values: TensorData, device: &Device) -> Self {
        let values = values.convert_dtype(DType::BF16);
        Self::Bfloat16(Tensor::from_data(values, (device, DType::BF16)))
    }

    /// Number of rows and of columns.
    pub fn dims(&self) -> [usize; 2] {
        match self {
            Self::Dense(tensor) | Self::Bfloat16(tensor) => tensor.dims(),
            Self::Kept(kept) => {
                let (rows, columns) = (kept.blocks.n_rows(), kept.blocks.row_len());
                match kept.transposed {
                    true => [columns, rows],
                    false => [rows, columns],
                }
            }
        }
    }

    /// Where the values are, or are made.
    pub fn device(&self) -> Device {
        match self {
            Self::Dense(tensor) | Self::Bfloat16(tensor) => tensor.device(),
            Self::Kept(kept) => kept.device.clone(),
        }
    }

    /// The values of all places as float32; but for a dense matrix they are made anew by each call.
    ///
    /// # Shapes
    /// - as [`dims`](Self::dims)
    pub fn dense(&self) -> Tensor<2> {
        match self {
            Self::Dense(tensor) => tensor.clone(),
            Self::Bfloat16(tensor) => tensor.clone().cast(DType::F32),
            Self::Kept(kept) => {
                let columns = kept.blocks.dense(&kept.device);
                match kept.transposed {
                    true => columns,
                    false => columns.transpose(),
                }
            }
        }
    }

    /// Rows for columns. No value is moved.
    pub fn transpose(self) -> Self {
        match self {
            Self::Dense(tensor) => Self::Dense(tensor.transpose()),
            Self::Bfloat16(tensor) => Self::Bfloat16(tensor.transpose()),
            Self::Kept(kept) => Self::Kept(KeptWeight {
                transposed: !kept.transposed,
                ..kept
            }),
        }
    }

    /// The same matrix as flex multiplies it fastest. Its product packs the rows of a transposed
    /// view one value at a time, which is slow where these are long: `x W` with a view of 384 rows of 1,536
    /// takes 1.7 times as long as with a copy that is laid out as `[d_in, d_out]`. The gradient
    /// of `x` then meets the short rows.
    pub(crate) fn laid_out_for_products(self) -> Self {
        match self {
            Self::Dense(tensor) if is_flex(&tensor.device()) => {
                let ([d_in, d_out], device) = (tensor.dims(), tensor.device());
                match d_in > d_out {
                    true => Self::Dense(Tensor::from_data(tensor.into_data(), &device)),
                    false => Self::Dense(tensor),
                }
            }
            other => other,
        }
    }

    /// The values on the host.
    pub fn to_data(&self) -> TensorData {
        self.dense().into_data()
    }

    /// Whether gradients of the values are tracked.
    pub fn is_autodiff(&self) -> bool {
        match self {
            Self::Dense(tensor) | Self::Bfloat16(tensor) => tensor.is_autodiff(),
            Self::Kept(_) => false,
        }
    }

    /// Whether this is `other` for certain, so that one of them need not be held. Blocks are
    /// compared with blocks of the same format only.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Dense(own), Self::Dense(other))
            | (Self::Bfloat16(own), Self::Bfloat16(other)) => own.to_data() == other.to_data(),
            (Self::Kept(own), Self::Kept(other)) => {
                own.transposed == other.transposed && own.blocks.is_same(&other.blocks)
            }
            _ => false,
        }
    }

    /// `x W + b`.
    ///
    /// # Shapes
    /// - `x`: `[batch, seq, d_in]`, `bias`: `[d_out]` → `[batch, seq, d_out]`
    pub(crate) fn linear(&self, x: Tensor<3>, bias: Option<Tensor<1>>) -> Tensor<3> {
        match self {
            Self::Kept(kept) if kept.transposed => kept.blocks.linear(x, bias),
            Self::Bfloat16(tensor) => {
                let y = linear(x.cast(DType::BF16), tensor.clone(), None).cast(DType::F32);
                match bias {
                    Some(bias) => y + bias.unsqueeze(),
                    None => y,
                }
            }
            Self::Kept(_) | Self::Dense(_) => linear(x, self.dense(), bias),
        }
    }

    /// The rows of these numbers.
    ///
    /// # Shapes
    /// - `ids`: `[batch, seq]` → `[batch, seq, d_model]`
    pub(crate) fn rows(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        match self {
            Self::Kept(kept) if !kept.transposed => kept.blocks.embedding(ids),
            Self::Bfloat16(tensor) => module::embedding(tensor.clone(), ids).cast(DType::F32),
            Self::Kept(_) | Self::Dense(_) => module::embedding(self.dense(), ids),
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Distribution, Int, Tensor};

    use super::Weight;
    use crate::quantized::RowOrder;
    use crate::quantized::tests::{close, device, host, weight};
    use crate::{BlockFormat, QuantizedWeight};

    const ROWS: usize = 6;
    const ROW_LEN: usize = 64;

    fn blocks(format: BlockFormat) -> QuantizedWeight {
        weight(format, ROWS, ROW_LEN, RowOrder::AsStored)
    }

    #[test]
    fn kept_weights_are_their_dense_ones() {
        let weight = Weight::kept(blocks(BlockFormat::Q5_1), &device());
        let dense = Weight::from(weight.dense());
        assert_eq!(weight.dims(), [ROWS, ROW_LEN]);
        assert_eq!(weight.to_data(), dense.to_data());
        let ids = Tensor::<2, Int>::from_ints([[3, 0], [5, 3]], &device());
        assert_eq!(
            weight.rows(ids.clone()).into_data(),
            dense.rows(ids.clone()).into_data()
        );
        let (weight, dense) = (weight.transpose(), dense.transpose());
        assert_eq!(weight.dims(), [ROW_LEN, ROWS]);
        assert_eq!(weight.to_data(), dense.to_data());
        let bias = Tensor::random([ROWS], Distribution::Default, &device());
        let close = |found: Tensor<3>, expected: Tensor<3>| close(&host(found), &host(expected));
        // Few rows and many, which are multiplied in different ways.
        for seq in [1, 40] {
            let x = Tensor::<3>::random([2, seq, ROW_LEN], Distribution::Default, &device());
            let expected = dense.linear(x.clone(), Some(bias.clone()));
            close(weight.linear(x, Some(bias.clone())), expected);
        }
        // The ways that no layer of a GGUF file takes.
        let x = Tensor::<3>::random([2, 3, ROWS], Distribution::Default, &device());
        let (weight, dense) = (weight.transpose(), dense.transpose());
        close(weight.linear(x.clone(), None), dense.linear(x, None));
        let (weight, dense) = (weight.transpose(), dense.transpose());
        close(weight.rows(ids.clone()), dense.rows(ids));
    }

    /// Products of bfloat16 matrices are those of their values, up to the rounding of what goes in
    /// and of what comes out.
    #[test]
    fn bfloat16_rounds_in_products_only() {
        let dense = Tensor::<2>::random([ROW_LEN, ROWS], Distribution::Default, &device());
        let weight = Weight::bfloat16(dense.clone().into_data(), &device());
        let rounded = weight.dense();
        let moved = (rounded.clone() - dense).abs().max().into_scalar::<f32>();
        assert!(moved > 0.0 && moved <= EPSILON / 2.0, "{moved}");
        let bias = Tensor::<1>::random([ROWS], Distribution::Default, &device());
        let x = Tensor::<3>::random([2, 3, ROW_LEN], Distribution::Default, &device());
        let found = host(weight.linear(x.clone(), Some(bias.clone())));
        let expected = host(Weight::from(rounded.clone()).linear(x, Some(bias)));
        for (found, expected) in found.iter().zip(&expected) {
            assert!(
                (found - expected).abs() <= EPSILON * expected.abs(),
                "{found} {expected}"
            );
        }
        assert_ne!(found, expected);
        let ids = Tensor::<2, Int>::from_ints([[3, 0], [5, 3]], &device());
        let rows = Weight::from(rounded).rows(ids.clone()).into_data();
        assert_eq!(weight.rows(ids).into_data(), rows);
    }

    /// The step between bfloat16 numbers from 1 on.
    const EPSILON: f32 = 1.0 / 128.0;

    /// Gradients come back as float32, through products in bfloat16.
    #[test]
    fn gradients_pass_bfloat16_matrices() {
        let dense = Tensor::<2>::random([ROW_LEN, ROWS], Distribution::Default, &device());
        let weight = Weight::bfloat16(dense.into_data(), &device());
        let x = Tensor::<3>::random([1, 2, ROW_LEN], Distribution::Default, &device());
        let slope = Tensor::<3>::random([1, 2, ROWS], Distribution::Default, &device());
        let tracked = x.autodiff().require_grad();
        let loss = (weight.linear(tracked.clone(), None) * slope.clone()).sum();
        let gradient = tracked.grad(&loss.backward()).expect("x is a leaf");
        let expected = host(weight.clone().transpose().linear(slope, None));
        assert_eq!(host(gradient), expected);
        assert!(!weight.is_autodiff());
    }

    #[test]
    fn only_what_is_surely_equal_is_the_same() {
        let (own, other) = (blocks(BlockFormat::Q4_0), blocks(BlockFormat::Q4_0));
        let weight = |blocks: &QuantizedWeight| Weight::kept(blocks.clone(), &device());
        assert!(weight(&own).is_same(&weight(&other)));
        assert!(!weight(&own).is_same(&weight(&other).transpose()));
        assert!(!weight(&own).is_same(&weight(&blocks(BlockFormat::Q8_0))));
        let dense = Weight::from(weight(&own).dense());
        assert!(dense.is_same(&dense.clone()) && !dense.is_same(&weight(&own)));
        let changed = Weight::from(dense.dense() + 1.0);
        assert!(!dense.is_same(&changed));
    }
}

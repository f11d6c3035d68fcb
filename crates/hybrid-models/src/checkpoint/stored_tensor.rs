//! One tensor of a checkpoint, its values still in the file.

use std::path::Path;
use std::sync::Arc;

use burn::store::pytorch_reader::{DType as PytorchDtype, PytorchError, Tensor as PytorchTensor};
use burn::tensor::{AllocationProperty, Bytes, DType, TensorData};
use half::{bf16, f16};
use safetensors::Dtype;

use crate::ModelError;
use crate::quantized::QuantizedWeight;

/// A tensor that has not been read.
#[derive(Debug)]
pub(crate) struct StoredTensor {
    pub(crate) file: Arc<Path>,
    pub(crate) shape: Vec<usize>,
    pub(crate) values: StoredValues,
}

/// Where the values are.
pub(crate) enum StoredValues {
    /// A window of a mapped safetensors file.
    Mapped { dtype: Dtype, bytes: bytes::Bytes },
    /// An entry of a PyTorch archive.
    Pytorch(PytorchTensor),
    /// Blocks of a mapped GGUF file.
    Blocks(QuantizedWeight),
}

impl std::fmt::Debug for StoredValues {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Mapped { dtype, bytes } => {
                write!(formatter, "Mapped({dtype:?}, {} bytes)", bytes.len())
            }
            Self::Pytorch(tensor) => write!(formatter, "Pytorch({:?})", tensor.dtype()),
            Self::Blocks(weight) => write!(formatter, "Blocks({weight:?})"),
        }
    }
}

#[derive(Clone, Copy)]
enum FloatType {
    F64,
    F32,
    F16,
    Bf16,
}

impl StoredTensor {
    pub(super) fn check_shape(&self, name: &str, expected: &[usize]) -> Result<(), ModelError> {
        if self.shape == expected {
            return Ok(());
        }
        Err(ModelError::WrongShape {
            path: self.file.to_path_buf(),
            name: name.to_owned(),
            expected: expected.to_vec(),
            found: self.shape.clone(),
        })
    }

    /// The values as float32. Mapped float32 values are not copied: the tensor shares the mapping.
    pub(super) fn read(self, name: &str, expected: &[usize]) -> Result<TensorData, ModelError> {
        self.check_shape(name, expected)?;
        let path = self.file;
        let wrong_dtype = |found: String| ModelError::WrongDtype {
            path: path.to_path_buf(),
            name: name.to_owned(),
            found,
        };
        match self.values {
            StoredValues::Mapped { dtype, bytes } => {
                let float = match dtype {
                    Dtype::F64 => FloatType::F64,
                    Dtype::F32 => FloatType::F32,
                    Dtype::F16 => FloatType::F16,
                    Dtype::BF16 => FloatType::Bf16,
                    other => return Err(wrong_dtype(format!("{other:?}"))),
                };
                if matches!(float, FloatType::F32) && can_share(&bytes) {
                    return Ok(share(bytes, self.shape));
                }
                Ok(TensorData::new(to_f32(float, &bytes), self.shape))
            }
            StoredValues::Blocks(weight) => match weight.plain_floats() {
                Some(bytes) if can_share(bytes) => Ok(share(bytes.clone(), self.shape)),
                _ => Ok(TensorData::new(
                    weight.dequantize_rows(0..weight.n_rows()),
                    self.shape,
                )),
            },
            StoredValues::Pytorch(tensor) => {
                let float = match tensor.dtype() {
                    PytorchDtype::F64 => FloatType::F64,
                    PytorchDtype::F32 => FloatType::F32,
                    PytorchDtype::F16 => FloatType::F16,
                    PytorchDtype::BF16 => FloatType::Bf16,
                    other => return Err(wrong_dtype(format!("{other:?}"))),
                };
                let failed = |error| ModelError::CorruptPytorch {
                    path: path.to_path_buf(),
                    source: PytorchError::Io(error),
                };
                Ok(TensorData::new(
                    to_f32(float, &tensor.read().map_err(failed)?),
                    self.shape,
                ))
            }
        }
    }
}

/// Whether mapped float32 values can be used where they are.
fn can_share(bytes: &bytes::Bytes) -> bool {
    bytes.as_ptr().align_offset(align_of::<f32>()) == 0 && cfg!(target_endian = "little")
}

fn share(bytes: bytes::Bytes, shape: Vec<usize>) -> TensorData {
    let shared = Bytes::from_shared(bytes, AllocationProperty::File);
    TensorData::from_bytes(shared, shape, DType::F32)
}

fn to_f32(float: FloatType, bytes: &[u8]) -> Vec<f32> {
    match float {
        FloatType::F64 => bytes
            .as_chunks()
            .0
            .iter()
            .map(|value| f64::from_le_bytes(*value) as f32)
            .collect(),
        FloatType::F32 => bytes
            .as_chunks()
            .0
            .iter()
            .map(|value| f32::from_le_bytes(*value))
            .collect(),
        FloatType::F16 => bytes
            .as_chunks()
            .0
            .iter()
            .map(|value| f16::from_le_bytes(*value).to_f32())
            .collect(),
        FloatType::Bf16 => bytes
            .as_chunks()
            .0
            .iter()
            .map(|value| bf16::from_le_bytes(*value).to_f32())
            .collect(),
    }
}

//! From the base's frozen tensors to trainable ones and back.

use burn::module::Param;
use burn::tensor::{Device, Tensor};

/// A trainable copy on `device`.
pub(crate) fn copy<const D: usize>(tensor: &Tensor<D>, device: &Device) -> Param<Tensor<D>> {
    Param::from_data(tensor.clone().without_autodiff().into_data(), device)
}

/// The value of a parameter as a plain tensor.
pub(crate) fn plain<const D: usize>(param: &Param<Tensor<D>>) -> Tensor<D> {
    param.val().without_autodiff()
}

//! Everything that one adapter stage trains, as one module.

use std::collections::BTreeMap;

use burn::module::Module;
use burn::tensor::{Device, TensorData};

use crate::{AdapterError, Adapters, ClassifierHead, named_tensors};

/// A stack of adapters with, perhaps, a classifier head.
///
/// Parameters are named as the module's fields: `adapters.stack.0...`, `head.weight`, `head.bias`.
#[derive(Module, Debug)]
pub struct Trainable {
    /// The methods over the base.
    pub adapters: Adapters,
    /// From pooled vectors to logits.
    pub head: Option<ClassifierHead>,
}

impl Trainable {
    /// Number of trainable values.
    pub fn n_parameters(&self) -> usize {
        self.num_params()
    }

    /// Names and float32 values of all parameters, in a stable order.
    pub fn named_tensors(&self) -> Vec<(String, TensorData)> {
        named_tensors::collect(self)
    }

    /// The module with these values; device and training state stay.
    ///
    /// # Errors
    /// As [`Adapters::load_named_tensors`].
    pub fn load_named_tensors(
        self,
        tensors: &BTreeMap<String, TensorData>,
    ) -> Result<Self, AdapterError> {
        named_tensors::load(self, tensors)
    }

    /// The module with the same values on `device`, ready to be trained there when it is an
    /// autodiff device.
    #[must_use]
    pub fn train_on(self, device: &Device) -> Self {
        named_tensors::train_on(self, device)
    }

    /// The module with the same values off the autodiff context.
    #[must_use]
    pub fn eval(&self) -> Self {
        self.valid()
    }
}

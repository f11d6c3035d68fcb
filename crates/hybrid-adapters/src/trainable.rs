//! Everything that one adapter stage trains, as one module.

use std::collections::BTreeMap;

use burn::module::Module;
use burn::tensor::{Device, TensorData};

use crate::{AdapterError, Adapters, ClassifierHead, SpanHead, named_tensors};

/// A stack of adapters with, perhaps, a classifier head or a span head.
///
/// Parameters are named as the module's fields: `adapters.stack.0...`, `head.weight`, `head.bias`,
/// `span_head.weight`, `span_head.bias`.
#[derive(Module, Debug)]
pub struct Trainable {
    /// The methods over the base.
    pub adapters: Adapters,
    /// From pooled vectors to logits.
    pub head: Option<ClassifierHead>,
    /// From the vectors of tokens to logits of where an answer starts and ends.
    pub span_head: Option<SpanHead>,
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use burn::module::Module;
    use burn::tensor::{Device, TensorData};
    use hybrid_models::{Base, BaseKind, Layer, LayerTable, ModelError, Pooling};

    use super::Trainable;
    use crate::{AdapterError, Adapters, ClassifierHead, HeadConfig, HeadForm};

    struct NoSites(LayerTable);

    impl Base for NoSites {
        fn model_type(&self) -> &'static str {
            "nothing"
        }

        fn kind(&self) -> BaseKind {
            BaseKind::Encoder
        }

        fn layers(&self) -> &LayerTable {
            &self.0
        }

        fn replace(&mut self, layer: Layer) -> Result<(), ModelError> {
            unreachable!("no site to replace {layer:?} at")
        }
    }

    #[test]
    fn a_head_alone_moves_between_devices_and_states() {
        let device = Device::flex();
        let adapters =
            Adapters::build(&[], &NoSites(LayerTable::default()), "", 0, &device).unwrap();
        let config = HeadConfig {
            pooling: Pooling::Cls,
            normalize: false,
            scale: 1.0,
            form: HeadForm::Linear,
        };
        let head = Some(ClassifierHead::init(config, 3, 2, 5, &device));
        let trainable = Trainable {
            adapters,
            head,
            span_head: None,
        };
        let tensors: BTreeMap<String, TensorData> = trainable.named_tensors().into_iter().collect();
        assert_eq!(
            tensors.keys().collect::<Vec<_>>(),
            ["head.bias", "head.weight"]
        );
        assert_eq!(trainable.n_parameters(), 8);
        let training = trainable.clone().train_on(&device.clone().autodiff());
        assert!(training.devices().iter().all(Device::is_autodiff));
        let loaded = training.load_named_tensors(&tensors).unwrap();
        assert!(loaded.devices().iter().all(Device::is_autodiff));
        assert_eq!(loaded.eval().named_tensors(), trainable.named_tensors());
        assert!(!loaded.eval().devices().iter().any(Device::is_autodiff));
        let renamed = BTreeMap::from([("head.bias".to_owned(), tensors["head.bias"].clone())]);
        let missing = loaded.load_named_tensors(&renamed).unwrap_err();
        assert!(
            matches!(missing, AdapterError::Missing { ref name } if name == "head.weight"),
            "{missing}"
        );
    }
}

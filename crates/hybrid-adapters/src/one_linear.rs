//! A base of one linear layer, for tests of what adapters compute.

use burn::tensor::{Device, Tensor, TensorData};
use hybrid_models::{Base, BaseKind, Layer, LayerTable, Linear, ModelError, SiteKind, SiteTable};

/// A base of one linear layer, `dense`.
pub(crate) struct OneLinear(LayerTable);

impl Base for OneLinear {
    fn model_type(&self) -> &'static str {
        "one linear layer"
    }

    fn kind(&self) -> BaseKind {
        BaseKind::Encoder
    }

    fn layers(&self) -> &LayerTable {
        &self.0
    }

    fn replace(&mut self, layer: Layer) -> Result<(), ModelError> {
        self.0 = LayerTable::without_checkpoint(self.sites().clone(), vec![layer]);
        Ok(())
    }
}

/// Its input features.
pub(crate) const D_IN: usize = 3;
/// Its output features.
pub(crate) const D_OUT: usize = 4;
/// Values of its weight and bias.
pub(crate) const N_VALUES: usize = D_IN * D_OUT + D_OUT;

/// The base with these values of its weight and bias, and its layer.
pub(crate) fn base(values: &[f32], device: &Device) -> (OneLinear, Linear) {
    let mut sites = SiteTable::default();
    let kind = SiteKind::Linear {
        d_in: D_IN,
        d_out: D_OUT,
        bias: true,
    };
    let site = sites.add("dense", Some(0), false, kind);
    let (weight, bias) = values.split_at(D_IN * D_OUT);
    let linear = Linear {
        site,
        weight: Tensor::from_data(TensorData::new(weight.to_vec(), [D_IN, D_OUT]), device).into(),
        bias: Some(Tensor::from_data(
            TensorData::new(bias.to_vec(), [D_OUT]),
            device,
        )),
    };
    let layers = vec![Layer::Linear(linear.clone())];
    (
        OneLinear(LayerTable::without_checkpoint(sites, layers)),
        linear,
    )
}

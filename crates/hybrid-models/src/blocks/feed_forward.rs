//! The position-wise sub-layer (Vaswani et al. 2017, eq. 2) and its gated form (Shazeer 2020).

use burn::tensor::Tensor;

use crate::kernels::Activation;
use crate::layers::LayerPlace;
use crate::{Hooks, Linear};

/// `f(x W_up) W_down`, or `(f(x W_gate) * x W_up) W_down`.
#[derive(Debug, Clone)]
pub(crate) struct FeedForward {
    pub(crate) gate: Option<Linear>,
    pub(crate) up: Linear,
    pub(crate) activation: Activation,
    pub(crate) down: Linear,
}

impl FeedForward {
    /// # Shapes
    /// - `x`: `[batch, seq, d_model]` → the same
    pub(crate) fn forward(&self, x: Tensor<3>, hooks: &dyn Hooks) -> Tensor<3> {
        let inner = match &self.gate {
            Some(gate) => {
                let gate = hooks.linear(gate, x.clone());
                self.activation.gated(gate, hooks.linear(&self.up, x))
            }
            None => self.activation.forward(hooks.linear(&self.up, x)),
        };
        hooks.linear(&self.down, inner)
    }

    pub(crate) fn places(&mut self) -> impl Iterator<Item = LayerPlace<'_>> {
        self.gate
            .iter_mut()
            .chain([&mut self.up, &mut self.down])
            .map(LayerPlace::Linear)
    }
}

//! Layers whose activations are made again in backward instead of being kept (Chen et al. 2016,
//! section 3).

use std::sync::Arc;

use burn::tensor::{Gradients, Tensor};

use super::operation::{Slope, with_gradient};
use crate::Hooks;

/// Hooks over copies of trained tensors, with which a layer is run again in backward.
pub trait Copies: Send + Sync {
    /// The hooks.
    fn hooks(&self) -> &dyn Hooks;

    /// Adds the gradients of the copies, where there are any, to those gathered before.
    fn gather(&self, gradients: &mut Gradients);

    /// The sum of all that was gathered, as one row without autodiff.
    fn gathered(&self) -> Tensor<1>;
}

/// What hooks have for layers that are run again in backward. It serves one forward.
#[derive(Clone)]
pub struct Recomputation {
    plain: Arc<dyn Hooks + Send + Sync>,
    copies: Arc<dyn Copies>,
    /// Through it the originals get what was gathered, once backward has been in every layer.
    anchor: Tensor<1>,
}

impl Recomputation {
    /// `plain` computes the same as the hooks without autodiff; `originals` are the tensors that
    /// are trained, one after the other in the order of [`Copies::gathered`].
    pub fn new(
        plain: Arc<dyn Hooks + Send + Sync>,
        copies: Arc<dyn Copies>,
        originals: &Tensor<1>,
    ) -> Self {
        let nothing = Tensor::zeros([1], &originals.device().without_autodiff());
        let gathering = copies.clone();
        let anchor = with_gradient([originals.into()], nothing, move |_, _| {
            [Some(Slope::from(gathering.gathered()))]
        });
        Self {
            plain,
            copies,
            anchor,
        }
    }

    /// The output of a layer. Its input alone is kept.
    ///
    /// # Shapes
    /// - `x`: `[batch, seq, d_model]` → the same
    pub(crate) fn layer(
        &self,
        x: &Tensor<3>,
        run: impl Fn(Tensor<3>, &dyn Hooks) -> Tensor<3> + Send + 'static,
    ) -> Tensor<3> {
        let input = x.clone().inner();
        let y = run(input.clone(), &*self.plain);
        let copies = self.copies.clone();
        with_gradient(
            [x.into(), (&self.anchor).into()],
            y,
            move |slope, [of_input, _]| {
                // Tracked in any case: the lowest layers may train nothing and be given no gradient.
                let input = input.autodiff().require_grad();
                let y = run(input.clone(), copies.hooks());
                let nothing = Tensor::<1>::zeros([1], &slope.device());
                let mut gradients = (y * slope).sum().backward();
                copies.gather(&mut gradients);
                let of_input = of_input.then(|| input.grad_remove(&mut gradients));
                [of_input.flatten().map(Slope::from), Some(nothing.into())]
            },
        )
    }
}

//! One node of the autodiff graph around a result that was computed outside it.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

#[cfg(any(feature = "wgpu", feature = "cuda"))]
use burn::backend::Cube;
#[cfg(feature = "flex")]
use burn::backend::Flex;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{
    Autodiff, Backend, BackendTensor, DispatchKindConversion, DispatchTensor, DispatchTensorKind,
};
use burn::tensor::Tensor;

#[cfg(feature = "tch")]
#[expect(deprecated, reason = "Burn offers no other name of this backend")]
pub(super) type LibTorch = burn::backend::LibTorch;

/// What an operation reads, of any rank.
pub(crate) struct Operand(DispatchTensor);

impl<const D: usize> From<&Tensor<D>> for Operand {
    fn from(tensor: &Tensor<D>) -> Self {
        Self(tensor.clone().autodiff().into_dispatch())
    }
}

/// The gradient of an operand, without autodiff, of any rank.
pub(crate) struct Slope(DispatchTensor);

impl<const D: usize> From<Tensor<D>> for Slope {
    fn from(tensor: Tensor<D>) -> Self {
        Self(tensor.into_dispatch())
    }
}

/// Takes the gradient of the result and whether that of each operand is wanted.
type Chain<const N: usize> =
    Box<dyn FnOnce(DispatchTensor, [bool; N]) -> [Option<Slope>; N] + Send>;

/// Taken out when backward arrives here, so that what it holds is freed at once.
#[derive(Clone)]
struct State<const N: usize>(Arc<Mutex<Option<Chain<N>>>>);

impl<const N: usize> fmt::Debug for State<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("State")
    }
}

/// `result`, as what an operation on `operands` computed: backward calls `chain` with the
/// gradient of the result and which of the operands' gradients are wanted. All tensors that go in
/// and out of `chain` are without autodiff, and so are `result` and what `chain` holds.
///
/// # Panics
/// If an operand is on another backend than `result`.
pub(crate) fn with_gradient<const N: usize, const D: usize>(
    operands: [Operand; N],
    result: Tensor<D>,
    chain: impl FnOnce(Tensor<D>, [bool; N]) -> [Option<Slope>; N] + Send + 'static,
) -> Tensor<D> {
    let chain: Chain<N> =
        Box::new(move |slope, wanted| chain(Tensor::from_dispatch(slope), wanted));
    let result = result.into_dispatch();
    let result = match &result.kind {
        #[cfg(feature = "flex")]
        DispatchTensorKind::Flex(_) => node::<Flex, N>(operands, result, chain),
        #[cfg(feature = "tch")]
        DispatchTensorKind::LibTorch(_) => node::<LibTorch, N>(operands, result, chain),
        #[cfg(any(feature = "wgpu", feature = "cuda"))]
        DispatchTensorKind::Cube(_) => node::<Cube, N>(operands, result, chain),
        #[allow(unreachable_patterns, reason = "which there are depends on features")]
        other => unreachable!("a result on {other:?}"),
    };
    Tensor::from_dispatch(result)
}

/// Burn's name of the one kind of node.
#[derive(Debug)]
struct Node;

fn node<B: Backend, const N: usize>(
    operands: [Operand; N],
    result: DispatchTensor,
    chain: Chain<N>,
) -> DispatchTensor
where
    DispatchTensor: DispatchKindConversion<B> + DispatchKindConversion<Autodiff<B>>,
{
    let nodes = operands.map(|Operand(tensor)| match unwrapped::<Autodiff<B>>(tensor) {
        BackendTensor::Float(tensor) => tensor.node(),
        other => unreachable!("an operand that is {}", other.name()),
    });
    let result = unwrapped::<B>(result).float();
    let prepared = Node.prepare::<NoCheckpointing>(nodes).compute_bound();
    let result = match prepared.stateful() {
        OpsKind::Tracked(prepared) => {
            prepared.finish(State(Arc::new(Mutex::new(Some(chain)))), result)
        }
        OpsKind::UnTracked(prepared) => prepared.finish(result),
    };
    wrapped::<Autodiff<B>>(result)
}

pub(super) fn wrapped<B: Backend>(tensor: FloatTensor<B>) -> DispatchTensor
where
    DispatchTensor: DispatchKindConversion<B>,
{
    <DispatchTensor as DispatchKindConversion<B>>::from_backend(BackendTensor::Float(tensor))
}

pub(super) fn unwrapped<B: Backend>(tensor: DispatchTensor) -> BackendTensor<B>
where
    DispatchTensor: DispatchKindConversion<B>,
{
    <DispatchTensor as DispatchKindConversion<B>>::try_into_backend(tensor)
        .unwrap_or_else(|error| panic!("{error}"))
}

impl<B: Backend, const N: usize> Backward<B, N> for Node
where
    DispatchTensor: DispatchKindConversion<B>,
{
    type State = State<N>;

    fn backward(
        self,
        ops: Ops<State<N>, N>,
        gradients: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let slope = gradients.consume::<B>(&ops.node);
        let slope = wrapped::<B>(slope);
        let State(chain) = ops.state;
        let chain = chain
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
            .expect("backward goes through a node once");
        let slopes = chain(slope, ops.parents.each_ref().map(Option::is_some));
        for (parent, slope) in ops.parents.into_iter().zip(slopes) {
            if let (Some(parent), Some(Slope(slope))) = (parent, slope) {
                gradients.register::<B>(parent.id, unwrapped::<B>(slope).float());
            }
        }
    }
}

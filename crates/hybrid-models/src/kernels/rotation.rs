//! Turning of the halves of a vector against each other.

use burn::tensor::Tensor;

use super::operation::{Slope, with_gradient};

/// Feature `i` of the first half and feature `i` of the second, turned by an angle. Nothing is kept
/// for backward but the sines and cosines.
///
/// # Shapes
/// - `x`: `[batch, n_heads, seq, d_head]`, `cos`, `sin`: `[1 or batch, 1, seq, d_head / 2]` →
///   `[batch, n_heads, seq, d_head]`
pub(crate) fn rotate(x: Tensor<4>, cos: &Tensor<4>, sin: &Tensor<4>) -> Tensor<4> {
    if !x.is_autodiff() {
        return turned(x, cos.clone(), sin.clone());
    }
    let (cos, sin) = (cos.clone(), sin.clone());
    let y = turned(x.clone().inner(), cos.clone(), sin.clone());
    with_gradient([(&x).into()], y, |slope, _| {
        [Some(Slope::from(turned(slope, cos, sin.neg())))]
    })
}

fn turned(x: Tensor<4>, cos: Tensor<4>, sin: Tensor<4>) -> Tensor<4> {
    let [_, _, _, d_head] = x.dims();
    let half = d_head / 2;
    let (first, second) = (x.clone().narrow(3, 0, half), x.narrow(3, half, half));
    let turned_first = first.clone() * cos.clone() - second.clone() * sin.clone();
    let turned_second = second * cos + first * sin;
    Tensor::cat(vec![turned_first, turned_second], 3)
}

#[cfg(test)]
mod tests {
    use super::{rotate, turned};
    use crate::kernels::tests::{assert_same_gradients, values};

    #[test]
    fn gradients_are_those_of_the_parts() {
        for batch in [1, 2] {
            let [cos, sin] = [0.0, 1.0].map(|shift| values([batch, 1, 3, 4], shift));
            assert_same_gradients(
                [values([2, 5, 3, 8], 2.0)],
                |[x]| rotate(x, &cos, &sin),
                |[x]| turned(x, cos.clone(), sin.clone()),
            );
        }
    }
}

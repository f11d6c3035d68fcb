//! Turning of the halves of a vector against each other.

use burn::tensor::Tensor;
use pulp::NullaryFnOnce;

use super::host::{changed, is_ours, read_both};
use super::operation::{Slope, with_gradient};
use crate::vectorized::vectorized;

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
    if !is_ours(&x) {
        return turned_by_parts(x, cos, sin);
    }
    let [_, n_heads, seq, d_head] = x.dims();
    let vectors_of_each = match cos.dims() {
        [1, _, _, _] => usize::MAX,
        _ => n_heads * seq,
    };
    changed(x, |values| {
        read_both(&cos, &sin, |cos, sin| {
            vectorized(Turn {
                values,
                cos,
                sin,
                half: d_head / 2,
                seq,
                vectors_of_each,
            });
        });
    })
}

fn turned_by_parts(x: Tensor<4>, cos: Tensor<4>, sin: Tensor<4>) -> Tensor<4> {
    let [_, _, _, d_head] = x.dims();
    let half = d_head / 2;
    let (first, second) = (x.clone().narrow(3, 0, half), x.narrow(3, half, half));
    let turned_first = first.clone() * cos.clone() - second.clone() * sin.clone();
    let turned_second = second * cos + first * sin;
    Tensor::cat(vec![turned_first, turned_second], 3)
}

struct Turn<'a> {
    values: &'a mut [f32],
    cos: &'a [f32],
    sin: &'a [f32],
    half: usize,
    seq: usize,
    /// How many vectors a row of the batch has, where each row has angles of its own.
    vectors_of_each: usize,
}

impl NullaryFnOnce for Turn<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let vectors = self.values.chunks_exact_mut(2 * self.half);
        for (index, vector) in vectors.enumerate() {
            let place = index / self.vectors_of_each * self.seq + index % self.seq;
            let angles = place * self.half..(place + 1) * self.half;
            let (cos, sin) = (&self.cos[angles.clone()], &self.sin[angles]);
            let (first, second) = vector.split_at_mut(self.half);
            let pairs = first.iter_mut().zip(second);
            for ((first, second), (cos, sin)) in pairs.zip(cos.iter().zip(sin)) {
                let (x, y) = (*first, *second);
                *first = x * cos - y * sin;
                *second = y * cos + x * sin;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{rotate, turned_by_parts};
    use crate::kernels::tests::{assert_same_gradients, values};

    #[test]
    fn gradients_are_those_of_the_parts() {
        for batch in [1, 2] {
            let [cos, sin] = [0.0, 1.0].map(|shift| values([batch, 1, 3, 4], shift));
            assert_same_gradients(
                [values([2, 5, 3, 8], 2.0)],
                |[x]| rotate(x, &cos, &sin),
                |[x]| turned_by_parts(x, cos.clone(), sin.clone()),
            );
        }
    }
}

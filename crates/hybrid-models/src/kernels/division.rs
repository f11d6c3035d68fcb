//! A tensor as equal parts.

use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::Tensor;

use super::operation::{Slope, with_gradient};

/// Equal parts of a tensor along an axis. Backward puts their gradients together once; with a slice for
/// each part Burn would make a gradient as large as the whole for each.
///
/// # Panics
/// If the axis cannot be divided so.
pub fn divided<const D: usize>(x: Tensor<D>, axis: usize, n_parts: usize) -> Vec<Tensor<D>> {
    let length = x.dims()[axis] / n_parts;
    assert_eq!(length * n_parts, x.dims()[axis], "{n_parts} equal parts");
    if n_parts == 1 {
        return vec![x];
    }
    let plain = x.clone().inner();
    let part = |index: usize| plain.clone().narrow(axis, index * length, length);
    if !x.is_autodiff() {
        return (0..n_parts).map(part).collect();
    }
    let (device, mut dims) = (plain.device(), plain.dims());
    dims[axis] = length;
    let slopes: Arc<Mutex<Vec<Option<Tensor<D>>>>> = Arc::new(Mutex::new(vec![None; n_parts]));
    let gathered = slopes.clone();
    // Backward comes here once it has been in every part.
    let nothing = Tensor::<1>::zeros([1], &device);
    let anchor = with_gradient([(&x).into()], nothing.clone(), move |_, _| {
        let mut slopes = gathered.lock().unwrap_or_else(PoisonError::into_inner);
        let slopes = std::mem::take(&mut *slopes).into_iter();
        let slopes = slopes.map(|slope| slope.unwrap_or_else(|| Tensor::zeros(dims, &device)));
        [Some(Slope::from(Tensor::cat(slopes.collect(), axis)))]
    });
    let tracked = |index: usize| {
        let (slopes, nothing) = (slopes.clone(), nothing.clone());
        with_gradient([(&anchor).into()], part(index), move |slope, _| {
            let mut slopes = slopes.lock().unwrap_or_else(PoisonError::into_inner);
            slopes[index] = Some(slope);
            [Some(Slope::from(nothing))]
        })
    };
    (0..n_parts).map(tracked).collect()
}

#[cfg(test)]
mod tests {
    use burn::tensor::Tensor;

    use super::divided;
    use crate::kernels::tests::{assert_same_gradients, values};

    #[test]
    fn gradients_are_those_of_slices() {
        for axis in [0, 1] {
            let sliced = |x: Tensor<3>| -> Vec<Tensor<3>> {
                let length = x.dims()[axis] / 3;
                let part = |index: usize| x.clone().narrow(axis, index * length, length);
                (0..3).map(part).collect()
            };
            // The second part is used twice, the last not at all.
            let mixed = |parts: Vec<Tensor<3>>| {
                parts[0].clone() * parts[1].clone() + parts[1].clone().mul_scalar(2.0)
            };
            assert_same_gradients(
                [values([6, 3, 2], 0.0)],
                |[x]| mixed(divided(x, axis, 3)),
                |[x]| mixed(sliced(x)),
            );
        }
    }
}

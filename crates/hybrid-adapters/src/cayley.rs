//! Rotations from skew-symmetric matrices.

use burn::tensor::Tensor;

/// Steps after which the inverse of `1 + Q` is exact to float32 for every `Q` with a squared norm
/// below some 100,000: each squares what is left of at most `1 - 1 / (1 + |Q|^2)`.
const STEPS: usize = 22;

/// The Cayley transform `(1 - Q) (1 + Q)^-1` of each matrix (Cayley 1846).
///
/// # Shapes
/// - `skew`: `[blocks, size, size]`, each its own negative transpose → the same
pub(crate) fn cayley(skew: Tensor<3>) -> Tensor<3> {
    let [_, size, _] = skew.dims();
    let one = Tensor::<2>::eye(size, &skew.device().without_autodiff()).unsqueeze::<3>();
    (one.clone() - skew.clone()).matmul(inverse(one + skew))
}

/// The inverse of each `1 + Q` with a skew-symmetric `Q`, found by the iteration of Newton and Schulz
/// (Schulz 1933). The last step alone is in the gradient: from the inverse `Z` as a constant,
/// `2 Z - Z A Z` has the inverse's value and gradient.
fn inverse(a: Tensor<3>) -> Tensor<3> {
    let plain = a.clone().without_autodiff();
    let [_, size, _] = plain.dims();
    // The eigenvalues of `A^T A` are `1 + |q|^2`, and none exceeds the squared norm of `Q` and 1.
    let squares = plain.clone().square().sum_dim(2).sum_dim(1);
    let bound = squares.sub_scalar(size as f64 - 1.0);
    let mut found = plain.clone().swap_dims(1, 2) / bound;
    for _ in 0..STEPS {
        found = step(plain.clone(), found);
    }
    step(a, found)
}

fn step(a: Tensor<3>, found: Tensor<3>) -> Tensor<3> {
    found.clone().mul_scalar(2.0) - found.clone().matmul(a).matmul(found)
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Tensor, TensorData, Tolerance};

    use super::cayley;

    fn skew(scale: f32, device: &Device) -> Tensor<3> {
        let values: Vec<f32> = (0..32).map(|i| scale * (i as f32 * 1.7).sin()).collect();
        let any = Tensor::<3>::from_data(TensorData::new(values, [2, 4, 4]), device);
        any.clone() - any.swap_dims(1, 2)
    }

    #[test]
    fn rotations_undo_themselves_transposed_and_are_the_transform() {
        let device = Device::flex();
        let one = Tensor::<2>::eye(4, &device).unsqueeze::<3>();
        for scale in [0.0, 0.1, 3.0, 40.0] {
            let skew = skew(scale, &device);
            let rotation = cayley(skew.clone());
            let tolerance = Tolerance::absolute(2e-3);
            let back = rotation.clone().matmul(rotation.clone().swap_dims(1, 2));
            let whole = one.clone().repeat_dim(0, 2).into_data();
            back.into_data().assert_approx_eq::<f32>(&whole, tolerance);
            let left = rotation.matmul(one.clone() + skew.clone());
            let right = (one.clone() - skew).into_data();
            left.into_data().assert_approx_eq::<f32>(&right, tolerance);
        }
    }

    #[test]
    fn gradients_are_those_of_differences() {
        let device = Device::flex();
        let slope = skew(0.9, &device) + 0.3;
        let at = |shift: f32| {
            let one = Tensor::<3>::from_data(
                [[[0.0, 1.0, 0.0, 0.0], [0.0; 4], [0.0; 4], [0.0; 4]]],
                &device,
            );
            let moved = skew(0.5, &device) + (one.clone() - one.swap_dims(1, 2)) * shift;
            (cayley(moved) * slope.clone()).sum().into_scalar::<f32>()
        };
        let tracked = skew(0.5, &device.clone().autodiff()).require_grad();
        let gradients = (cayley(tracked.clone()) * slope.clone()).sum().backward();
        let gradient: Vec<f32> = tracked
            .grad(&gradients)
            .unwrap()
            .into_data()
            .iter()
            .collect();
        let found: f32 = [0, 16]
            .iter()
            .map(|start| gradient[start + 1] - gradient[start + 4])
            .sum();
        let expected = (at(1e-2) - at(-1e-2)) / 2e-2;
        assert!(
            (found - expected).abs() < 1e-2 * (1.0 + expected.abs()),
            "{found} {expected}"
        );
    }
}

//! The losses that Transformers' task heads define.

use burn::tensor::{Int, Tensor, activation};

/// The target that [`cross_entropy`] passes over.
pub const IGNORED: i64 = -100;

/// Mean negative log-likelihood over the targets that are not [`IGNORED`]; not a number when all
/// are.
///
/// # Shapes
/// - `logits`: `[rows, classes]`, `targets`: `[rows]` → `[1]`
pub fn cross_entropy(logits: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
    let counted = targets.clone().not_equal_elem(IGNORED);
    let classes = targets
        .mask_fill(counted.clone().bool_not(), 0)
        .unsqueeze_dim(1);
    let counted = counted.float();
    let losses = activation::log_softmax(logits, 1)
        .gather(1, classes)
        .squeeze_dim::<1>(1)
        .neg();
    (losses * counted.clone()).sum() / counted.sum()
}

/// Summed negative log-likelihood.
///
/// # Shapes
/// - `logits`: `[rows, classes]`, `targets`: `[rows]` → `[1]`
pub(crate) fn cross_entropy_sum(logits: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
    let log_probabilities = activation::log_softmax(logits, 1);
    log_probabilities
        .gather(1, targets.unsqueeze_dim(1))
        .sum()
        .neg()
}

/// Mean binary cross-entropy of independent labels.
///
/// # Shapes
/// - `logits`: `[rows, labels]`, `targets` of 0 and 1: `[rows, labels]` → `[1]`
pub fn binary_cross_entropy(logits: Tensor<2>, targets: Tensor<2>) -> Tensor<1> {
    // softplus(z) - y z, in the form that does not overflow.
    let softplus = logits.clone().abs().neg().exp().log1p() + activation::relu(logits.clone());
    (softplus - targets * logits).mean()
}

/// Mean squared error of regression outputs.
///
/// # Shapes
/// - `outputs`: `[rows, outputs]`, `targets`: `[rows, outputs]` → `[1]`
pub fn mean_squared_error(outputs: Tensor<2>, targets: Tensor<2>) -> Tensor<1> {
    (outputs - targets).square().mean()
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Tensor};

    use super::{IGNORED, binary_cross_entropy, cross_entropy, mean_squared_error};

    #[test]
    fn ignored_targets_do_not_count() {
        let device = Device::flex();
        let logits = Tensor::<2>::from_floats(
            [[1.0, 2.0, 0.5], [9.0, -9.0, 3.0], [0.0, 0.0, 0.0]],
            &device,
        );
        let targets = Tensor::from_ints([1, IGNORED as i32, 2], &device);
        let loss = cross_entropy(logits, targets).into_scalar::<f32>();
        let first = (1f32.exp() + 2f32.exp() + 0.5f32.exp()).ln() - 2.0;
        let expected = (first + 3f32.ln()) / 2.0;
        assert!(
            (loss - expected).abs() < 1e-6,
            "{loss} instead of {expected}"
        );
    }

    #[test]
    fn binary_cross_entropy_survives_large_logits() {
        let device = Device::flex();
        let logits = Tensor::<2>::from_floats([[100.0, -100.0], [0.0, 100.0]], &device);
        let targets = Tensor::<2>::from_floats([[1.0, 0.0], [1.0, 0.0]], &device);
        let loss = binary_cross_entropy(logits, targets).into_scalar::<f32>();
        assert!((loss - (2f32.ln() + 100.0) / 4.0).abs() < 1e-5, "{loss}");
    }

    #[test]
    fn mean_squared_error_is_the_mean_of_squares() {
        let device = Device::flex();
        let outputs = Tensor::<2>::from_floats([[1.0, 2.0]], &device);
        let targets = Tensor::<2>::from_floats([[0.0, 4.0]], &device);
        assert_eq!(
            mean_squared_error(outputs, targets).into_scalar::<f32>(),
            2.5
        );
    }
}

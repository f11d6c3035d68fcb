//! Logits to loss.

use burn::tensor::activation::log_softmax;
use burn::tensor::{Int, Tensor};

/// Summed cross-entropy of class logits with label smoothing (Szegedy et al. 2016, eq. 4 and
/// section 7), as `torch.nn.functional.cross_entropy` with `reduction="sum"`.
///
/// A sum, so that the caller divides by the targets of the *whole* batch: then the gradients of its
/// pieces add up to the gradient of the batch in one piece.
///
/// # Shapes
/// - `logits`: `[batch, n_labels]`, `targets`: `[batch]` → `[1]`
/// - `label_smoothing`: share of the target probability that is spread over all labels, 0 to 1
pub fn cross_entropy_sum(
    logits: Tensor<2>,
    targets: Tensor<1, Int>,
    label_smoothing: f64,
) -> Tensor<1> {
    let [_batch, n_labels] = logits.dims();
    let log_probabilities = log_softmax(logits, 1);
    let of_targets = log_probabilities
        .clone()
        .gather(1, targets.unsqueeze_dim(1))
        .sum();
    if label_smoothing == 0.0 {
        return of_targets.neg();
    }
    let of_all = log_probabilities
        .sum()
        .mul_scalar(label_smoothing / n_labels as f64);
    (of_targets.mul_scalar(1.0 - label_smoothing) + of_all).neg()
}

/// Logits with `margin` taken off each target's: trained so, the target must win by that much
/// (additive margin softmax, Wang et al. 2018, eq. 6, with the scale in the logits).
///
/// # Shapes
/// - `logits`: `[batch, n_labels]`, `targets`: `[batch]` → `[batch, n_labels]`
pub fn with_margin(logits: Tensor<2>, targets: Tensor<1, Int>, margin: f64) -> Tensor<2> {
    if margin == 0.0 {
        return logits;
    }
    let [_batch, n_labels] = logits.dims();
    let hit: Tensor<2, Int> = targets.one_hot(n_labels);
    logits - hit.float().mul_scalar(margin)
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Int, Tensor, TensorData, Tolerance};

    use super::{cross_entropy_sum, with_margin};

    #[test]
    fn a_margin_is_taken_off_the_targets_alone() {
        let device = Device::flex();
        let logits = Tensor::<2>::from_data([[1.0f32, 2.0, 0.5], [0.0, -1.0, 3.0]], &device);
        let targets = Tensor::<1, Int>::from_data([1i32, 0], &device);
        with_margin(logits, targets, 0.75)
            .into_data()
            .assert_approx_eq::<f32>(
                &TensorData::from([[1.0f32, 1.25, 0.5], [-0.75, -1.0, 3.0]]),
                Tolerance::absolute(1e-6),
            );
    }

    fn loss(label_smoothing: f64) -> f64 {
        let device = Device::flex();
        let logits = Tensor::<2>::from_data(
            TensorData::from([[1.0f32, 2.0, 0.5], [0.0, -1.0, 3.0]]),
            &device,
        );
        let targets = Tensor::<1, Int>::from_data(TensorData::from([1i32, 0]), &device);
        cross_entropy_sum(logits, targets, label_smoothing).into_scalar()
    }

    /// -log softmax by hand.
    fn reference(label_smoothing: f64) -> f64 {
        let rows: [([f64; 3], usize); 2] = [([1.0, 2.0, 0.5], 1), ([0.0, -1.0, 3.0], 0)];
        let mut sum = 0.0;
        for (row, target) in rows {
            let log_total = row.iter().map(|x| x.exp()).sum::<f64>().ln();
            for (label, x) in row.iter().enumerate() {
                let hit = if label == target {
                    1.0 - label_smoothing
                } else {
                    0.0
                };
                sum -= (hit + label_smoothing / 3.0) * (x - log_total);
            }
        }
        sum
    }

    #[test]
    fn the_loss_is_the_sum_over_rows() {
        assert!((loss(0.0) - reference(0.0)).abs() < 1e-5);
    }

    #[test]
    fn smoothing_spreads_the_target_over_all_labels() {
        assert!((loss(0.1) - reference(0.1)).abs() < 1e-5);
        assert!((loss(0.1) - loss(0.0)).abs() > 1e-3);
    }

    #[test]
    fn the_gradient_is_probability_minus_target() {
        let device = Device::flex();
        let logits = Tensor::<2>::from_data(
            TensorData::from([[0.0f32, 0.0]]),
            &device.clone().autodiff(),
        );
        let logits = logits.require_grad();
        let targets = Tensor::<1, Int>::from_data(TensorData::from([0i32]), &device);
        let gradients = cross_entropy_sum(logits.clone(), targets, 0.0).backward();
        let gradient: Vec<f32> = logits
            .grad(&gradients)
            .unwrap()
            .into_data()
            .iter()
            .collect();
        assert!(
            (gradient[0] + 0.5).abs() < 1e-6 && (gradient[1] - 0.5).abs() < 1e-6,
            "{gradient:?}"
        );
    }
}

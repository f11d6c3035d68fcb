//! Unit vectors at right angles, out of any (Gram and Schmidt, in the modified order).

use burn::tensor::Tensor;

/// A vector of length 1.
///
/// # Shapes
/// - `vector`: `[width, 1]` → the same
pub(crate) fn unit(vector: Tensor<2>) -> Tensor<2> {
    let length = vector.clone().square().sum_dim(0).sqrt();
    vector / length
}

/// The columns as unit vectors, each without its part along those before.
///
/// # Shapes
/// - `columns`: `[width, n]` → the same
pub(crate) fn orthonormal(columns: Tensor<2>) -> Tensor<2> {
    let [_, n] = columns.dims();
    let mut found: Vec<Tensor<2>> = Vec::with_capacity(n);
    for index in 0..n {
        let vector = columns.clone().narrow(1, index, 1);
        let left = found.iter().fold(vector, |left, other| {
            let along = (left.clone() * other.clone()).sum_dim(0);
            left - other.clone() * along
        });
        found.push(unit(left));
    }
    Tensor::cat(found, 1)
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Tensor, TensorData, Tolerance};

    use super::orthonormal;

    #[test]
    fn columns_are_units_at_right_angles_and_span_the_same() {
        let device = Device::flex();
        let given = Tensor::<2>::from_data([[3.0, 1.0], [4.0, 1.0], [0.0, 2.0]], &device);
        let found = orthonormal(given);
        let close = |found: Tensor<2>, expected: TensorData| {
            let tolerance = Tolerance::absolute(1e-6);
            found
                .into_data()
                .assert_approx_eq::<f32>(&expected, tolerance);
        };
        close(
            found.clone().transpose().matmul(found.clone()),
            TensorData::from([[1.0, 0.0], [0.0, 1.0]]),
        );
        // The first column keeps its direction; the second loses 7/5 of it.
        let length = (0.16f32 * 0.16 + 0.12 * 0.12 + 4.0).sqrt();
        close(
            found,
            TensorData::from([
                [0.6, 0.16 / length],
                [0.8, -0.12 / length],
                [0.0, 2.0 / length],
            ]),
        );
    }
}

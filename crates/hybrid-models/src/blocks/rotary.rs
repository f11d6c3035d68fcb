//! Rotary position embedding (Su et al. 2021, eq. 34) in the half-and-half layout of Transformers:
//! feature `i` turns with feature `i + d_head / 2`.

use burn::tensor::{Int, Tensor};

use crate::kernels::rotate;

/// Sines and cosines of the positions of one forward, both `[1 or batch, 1, seq, d_head / 2]`.
#[derive(Debug, Clone)]
pub(crate) struct Rotation {
    cos: Tensor<4>,
    sin: Tensor<4>,
}

impl Rotation {
    /// Angles `position * frequency`; sines and cosines are multiplied with `scale`.
    ///
    /// # Shapes
    /// - `positions`: `[1 or batch, seq]`, `frequencies`: `d_head / 2` of them
    pub(crate) fn new(positions: Tensor<2, Int>, frequencies: &[f32], scale: f64) -> Self {
        let [batch, seq] = positions.dims();
        let frequencies = Tensor::<1>::from_floats(frequencies, &positions.device());
        let positions: Tensor<4> = positions.float().reshape([batch, 1, seq, 1]);
        let angles = positions * frequencies.unsqueeze();
        Self {
            cos: angles.clone().cos().mul_scalar(scale),
            sin: angles.sin().mul_scalar(scale),
        }
    }

    /// # Shapes
    /// - `x`: `[batch, n_heads, seq, d_head]` → the same
    pub(crate) fn apply(&self, x: Tensor<4>) -> Tensor<4> {
        rotate(x, &self.cos, &self.sin)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Tensor};

    use super::Rotation;

    #[test]
    fn halves_turn_by_their_own_angles() {
        let device = Device::flex();
        let positions = Tensor::from_ints([[0, 3]], &device);
        let rotation = Rotation::new(positions, &[1.0, 0.25], 1.0);
        let x = Tensor::<4>::from_floats([[[[1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0]]]], &device);
        let turned: Vec<f32> = rotation.apply(x).into_data().iter().collect();
        assert_eq!(turned[..4], [1.0, 2.0, 3.0, 4.0]);
        let turn = |a: f32, b: f32, angle: f32| {
            (
                a * angle.cos() - b * angle.sin(),
                b * angle.cos() + a * angle.sin(),
            )
        };
        let ((a, c), (b, d)) = (turn(1.0, 3.0, 3.0), turn(2.0, 4.0, 0.75));
        for (found, expected) in turned[4..].iter().zip([a, b, c, d]) {
            assert!((found - expected).abs() < 1e-6, "{turned:?}");
        }
    }
}

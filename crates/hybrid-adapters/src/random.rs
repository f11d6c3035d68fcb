//! First values of parameters, drawn on the host.
//!
//! Each tensor has a stream of its own, so neither the order of construction nor the device
//! changes a value.

use burn::tensor::TensorData;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// A source of random numbers for one tensor.
pub(crate) struct HostRandom(ChaCha8Rng);

impl HostRandom {
    /// The numbers of stream `stream` under `seed`.
    pub(crate) fn new(seed: u64, stream: u64) -> Self {
        let mut generator = ChaCha8Rng::seed_from_u64(seed);
        generator.set_stream(stream);
        Self(generator)
    }

    /// A tensor with values of the uniform distribution over `[-limit, limit)`.
    pub(crate) fn uniform<const D: usize>(&mut self, shape: [usize; D], limit: f64) -> TensorData {
        self.fill(shape, |random| ((2.0 * random.unit() - 1.0) * limit) as f32)
    }

    /// A matrix with values of the uniform distribution over plus or minus one over the root of its
    /// number of columns: PyTorch's Kaiming initialisation with `a = sqrt(5)`.
    pub(crate) fn kaiming(&mut self, shape: [usize; 2]) -> TensorData {
        self.uniform(shape, 1.0 / (shape[1] as f64).sqrt())
    }

    /// A tensor with values of the normal distribution around 0 (Box and Muller 1958).
    pub(crate) fn normal<const D: usize>(
        &mut self,
        shape: [usize; D],
        deviation: f64,
    ) -> TensorData {
        self.fill(shape, |random| {
            let radius = (-2.0 * (1.0 - random.unit()).ln()).sqrt();
            (radius * (std::f64::consts::TAU * random.unit()).cos() * deviation) as f32
        })
    }

    /// A mask that is true at each place with chance `share`, to the nearest 65,536th.
    pub(crate) fn chances<const D: usize>(&mut self, shape: [usize; D], share: f64) -> TensorData {
        let bound = (share * 65_536.0).round() as u32;
        let n: usize = shape.iter().product();
        let mut mask = Vec::with_capacity(n.next_multiple_of(4));
        while mask.len() < n {
            let bits = self.0.next_u64();
            mask.extend([0, 16, 32, 48].map(|shift| ((bits >> shift) as u32 & 0xffff) < bound));
        }
        mask.truncate(n);
        TensorData::new(mask, shape)
    }

    /// Whole numbers, each of those below `end` as likely.
    pub(crate) fn indices(&mut self, n: usize, end: usize) -> Vec<i64> {
        (0..n).map(|_| (self.unit() * end as f64) as i64).collect()
    }

    fn fill<const D: usize>(
        &mut self,
        shape: [usize; D],
        draw: impl Fn(&mut Self) -> f32,
    ) -> TensorData {
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| draw(self)).collect();
        TensorData::new(values, shape)
    }

    /// A number in `[0, 1)` with 53 random bits.
    fn unit(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::HostRandom;

    #[test]
    fn moments_are_those_of_the_distributions() {
        let moments = |values: Vec<f32>| {
            let n = values.len() as f32;
            let mean = values.iter().sum::<f32>() / n;
            (
                mean,
                values.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / n,
            )
        };
        let (mean, variance) = moments(
            HostRandom::new(1, 0)
                .normal([100, 100], 0.5)
                .try_to_vec()
                .unwrap(),
        );
        assert!(
            mean.abs() < 0.02 && (variance - 0.25).abs() < 0.02,
            "{mean} {variance}"
        );
        let uniform: Vec<f32> = HostRandom::new(1, 0)
            .uniform([100, 100], 0.5)
            .try_to_vec()
            .unwrap();
        assert!(uniform.iter().all(|v| v.abs() <= 0.5));
        let (mean, variance) = moments(uniform);
        assert!(
            mean.abs() < 0.02 && (variance - 1.0 / 12.0).abs() < 0.01,
            "{mean} {variance}"
        );
    }

    #[test]
    fn chances_hit_their_share() {
        let mask: Vec<bool> = HostRandom::new(3, 1)
            .chances([101, 101], 0.3)
            .try_to_vec()
            .unwrap();
        let share = mask.iter().filter(|hit| **hit).count() as f64 / mask.len() as f64;
        assert!(
            mask.len() == 101 * 101 && (share - 0.3).abs() < 0.015,
            "{share}"
        );
        let never: Vec<bool> = HostRandom::new(3, 1)
            .chances([7], 0.0)
            .try_to_vec()
            .unwrap();
        assert!(never.iter().all(|hit| !hit));
    }

    #[test]
    fn indices_fall_everywhere_below_their_end() {
        let drawn = HostRandom::new(5, 0).indices(200, 3);
        assert!((0..3).all(|index| drawn.contains(&index)));
        assert!(drawn.iter().all(|index| (0..3).contains(index)));
    }

    #[test]
    fn streams_and_seeds_differ_and_repeat() {
        let draw = |seed, stream| HostRandom::new(seed, stream).uniform([8], 1.0);
        assert_eq!(draw(1, 2), draw(1, 2));
        assert_ne!(draw(1, 2), draw(1, 3));
        assert_ne!(draw(1, 2), draw(2, 2));
    }
}

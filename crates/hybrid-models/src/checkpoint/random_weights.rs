//! Weights that are drawn instead of read, for a model that nothing has trained yet.

use burn::tensor::TensorData;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// How the values of a tensor begin.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Start {
    /// All the same.
    Constant(f64),
    /// From the normal distribution around 0 with this deviation.
    Normal(f64),
}

/// How the tensors of an architecture begin.
pub(crate) trait Starts: std::fmt::Debug {
    /// How the tensor of this name begins.
    fn of(&self, name: &str) -> Start;

    /// Whether there is this tensor, which other checkpoints of the architecture do without.
    fn has(&self, name: &str) -> bool;
}

/// The tensors of a model before its training. The same seed gives the same values where tensors
/// are taken in the same order.
#[derive(Debug)]
pub(super) struct RandomWeights {
    starts: Box<dyn Starts>,
    random: ChaCha8Rng,
}

impl RandomWeights {
    pub(super) fn new(starts: Box<dyn Starts>, seed: u64) -> Self {
        let random = ChaCha8Rng::seed_from_u64(seed);
        Self { starts, random }
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.starts.has(name)
    }

    pub(super) fn draw(&mut self, name: &str, shape: &[usize]) -> TensorData {
        let n = shape.iter().product();
        let values: Vec<f32> = match self.starts.of(name) {
            Start::Constant(value) => vec![value as f32; n],
            Start::Normal(deviation) => {
                (0..n).map(|_| (self.normal() * deviation) as f32).collect()
            }
        };
        TensorData::new(values, shape)
    }

    /// A number of the normal distribution around 0 with deviation 1 (Box and Muller 1958).
    fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }

    /// A number in `[0, 1)` with 53 random bits.
    fn unit(&mut self) -> f64 {
        (self.random.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }
}

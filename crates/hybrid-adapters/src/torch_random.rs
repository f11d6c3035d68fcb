//! PyTorch's generator on the CPU (Matsumoto and Nishimura 1998, MT19937), so that what PEFT draws
//! from a seed and stores nowhere can be drawn again.

use std::collections::HashMap;
use std::f64::consts::TAU;

use burn::tensor::TensorData;

const N: usize = 624;
const M: usize = 397;

/// The numbers of one seed.
pub(crate) struct TorchRandom {
    state: [u32; N],
    next: usize,
}

impl TorchRandom {
    /// The seed of a generator that was given none.
    pub(crate) const DEFAULT_SEED: u64 = 67_280_421_310_721;

    /// `torch.Generator().manual_seed(seed)`.
    pub(crate) fn new(seed: u64) -> Self {
        let mut state = [seed as u32; N];
        for index in 1..N {
            let before = state[index - 1];
            let mixed = (before ^ (before >> 30)).wrapping_mul(1_812_433_253);
            state[index] = mixed.wrapping_add(index as u32);
        }
        Self { state, next: N }
    }

    /// 32 random bits.
    fn bits(&mut self) -> u32 {
        if self.next == N {
            for index in 0..N {
                let (own, after) = (self.state[index], self.state[(index + 1) % N]);
                let joined = (own & 0x8000_0000) | (after & 0x7fff_ffff);
                let odd = if joined & 1 == 1 { 0x9908_b0df } else { 0 };
                self.state[index] = self.state[(index + M) % N] ^ (joined >> 1) ^ odd;
            }
            self.next = 0;
        }
        let mut bits = self.state[self.next];
        self.next += 1;
        bits ^= bits >> 11;
        bits ^= (bits << 7) & 0x9d2c_5680;
        bits ^= (bits << 15) & 0xefc6_0000;
        bits ^ (bits >> 18)
    }

    /// A number in `[0, 1)` with as many random bits as a mantissa has: 24 of a float32, 8 of a
    /// bfloat16.
    pub(crate) fn unit(&mut self, mantissa: u32) -> f32 {
        let bits = self.bits() & ((1 << mantissa) - 1);
        bits as f32 / (1u32 << mantissa) as f32
    }

    /// `tensor.uniform_(-limit, limit)`, whose product and sum are rounded together.
    pub(crate) fn uniform<const D: usize>(&mut self, shape: [usize; D], limit: f64) -> TensorData {
        let (from, to) = (-limit as f32, limit as f32);
        let n = shape.iter().product();
        let values: Vec<f32> = (0..n)
            .map(|_| self.unit(24).mul_add(to - from, from))
            .collect();
        TensorData::new(values, shape)
    }

    /// `torch.nn.init.kaiming_uniform_` with `a = sqrt(5)` of `n` values in bfloat16.
    pub(crate) fn kaiming_bfloat16(&mut self, n: usize, fan_in: usize) -> Vec<f32> {
        let limit = bfloat16(1.0 / (fan_in as f32).sqrt());
        let value = |unit: f32| bfloat16(unit * (2.0 * limit) - limit);
        (0..n).map(|_| value(self.unit(8))).collect()
    }

    /// A number in `[0, 1)` with 53 random bits.
    fn wide_unit(&mut self) -> f64 {
        let (high, low) = (u64::from(self.bits()), u64::from(self.bits()));
        ((high << 32 | low) & ((1 << 53) - 1)) as f64 / (1u64 << 53) as f64
    }

    /// `torch.normal(0, deviation, shape)` (Box and Muller 1958): 16 values at a time, of which the
    /// last are drawn again where the values are no multiple of 16, and in pairs where there are
    /// fewer. PyTorch's own vectorised functions round a little otherwise.
    pub(crate) fn normal<const D: usize>(
        &mut self,
        shape: [usize; D],
        deviation: f64,
    ) -> TensorData {
        const AT_ONCE: usize = 16;
        let n: usize = shape.iter().product();
        let mut values = Vec::with_capacity(n + 1);
        if n < AT_ONCE {
            while values.len() < n {
                let (turn, unit) = (TAU * self.wide_unit(), self.wide_unit());
                let radius = (-2.0 * (-unit).ln_1p()).sqrt();
                values.extend([turn.cos(), turn.sin()].map(|x| (radius * x * deviation) as f32));
            }
            values.truncate(n);
            return TensorData::new(values, shape);
        }
        values.extend((0..n).map(|_| self.unit(24)));
        let chunks = n / AT_ONCE;
        for chunk in values[..chunks * AT_ONCE].chunks_exact_mut(AT_ONCE) {
            into_normal(chunk, deviation);
        }
        if !n.is_multiple_of(AT_ONCE) {
            let last = &mut values[n - AT_ONCE..];
            last.iter_mut().for_each(|value| *value = self.unit(24));
            into_normal(last, deviation);
        }
        TensorData::new(values, shape)
    }

    /// `numpy.random.RandomState(seed).rand()`, which has the same generator.
    pub(crate) fn double(&mut self) -> f64 {
        let (high, low) = (self.bits() >> 5, self.bits() >> 6);
        (f64::from(high) * 67_108_864.0 + f64::from(low)) / 9_007_199_254_740_992.0
    }

    /// The first `n` of `torch.randperm(end)`: the shuffle of Fisher and Yates, of which only the
    /// places that it has touched are held.
    pub(crate) fn permutation(&mut self, end: usize, n: usize) -> Vec<usize> {
        let mut moved: HashMap<usize, usize> = HashMap::new();
        let mut first = Vec::with_capacity(n);
        for place in 0..n.min(end) {
            let other = match end - place {
                1 => place,
                left => place + self.bits() as usize % left,
            };
            let own = moved.get(&place).copied().unwrap_or(place);
            first.push(moved.get(&other).copied().unwrap_or(other));
            moved.insert(other, own);
        }
        first
    }
}

/// Numbers in `[0, 1)` become normal ones, each of the first half with its counterpart in the
/// second.
fn into_normal(units: &mut [f32], deviation: f64) {
    let half = units.len() / 2;
    let (first, second) = units.split_at_mut(half);
    for (a, b) in first.iter_mut().zip(second) {
        let radius = (-2.0 * f64::from(1.0 - *a).ln()).sqrt();
        let turn = TAU * f64::from(*b);
        *a = (radius * turn.cos() * deviation) as f32;
        *b = (radius * turn.sin() * deviation) as f32;
    }
}

/// The nearest bfloat16, the even one of two.
pub(crate) fn bfloat16(value: f32) -> f32 {
    let bits = value.to_bits();
    let up = 0x7fff + ((bits >> 16) & 1);
    f32::from_bits(bits.wrapping_add(up) & 0xffff_0000)
}

#[cfg(test)]
mod tests {
    use super::{TorchRandom, bfloat16};

    /// Against PyTorch 2.9.
    #[test]
    fn numbers_are_those_of_pytorch() {
        let mut random = TorchRandom::new(42);
        let units: Vec<f32> = (0..4).map(|_| random.unit(24)).collect();
        let expected = [0.882_269_26, 0.915_003_96, 0.382_863_76, 0.959_305_64];
        assert_eq!(units, expected);
        let permutation = TorchRandom::new(777).permutation(768, 6);
        assert_eq!(permutation, [359, 386, 483, 521, 143, 15]);
        let permutation = TorchRandom::new(0).permutation(1024, 6);
        assert_eq!(permutation, [684, 217, 933, 11, 227, 705]);
    }

    /// Against PyTorch 2.9, with 20 values and with 12.
    #[test]
    fn normal_numbers_are_those_of_pytorch() {
        for (n, place, expected) in [
            (
                20,
                0,
                [0.963_457_64, 0.743_642_03, 0.450_358_6, -1.052_760_5],
            ),
            (
                20,
                16,
                [-0.154_863_39, -0.197_855_25, 0.401_704_67, -0.310_797_7],
            ),
            (
                12,
                0,
                [0.168_345_18, 0.064_404_7, 0.117_231_18, 0.115_166_515],
            ),
        ] {
            let found: Vec<f32> = TorchRandom::new(42).normal([n], 0.5).iter().collect();
            for (found, expected) in found[place..].iter().zip(expected) {
                assert!(
                    (found - expected).abs() < 1e-6_f32,
                    "{found} instead of {expected}"
                );
            }
        }
    }

    /// Against NumPy.
    #[test]
    fn doubles_are_those_of_numpy() {
        let mut random = TorchRandom::new(7);
        let doubles = [random.double(), random.double()];
        for (found, expected) in doubles.iter().zip([0.076_308_29, 0.779_918_79]) {
            assert!((found - expected).abs() < 1e-8);
        }
    }

    #[test]
    fn values_are_rounded_to_bfloat16() {
        assert_eq!(bfloat16(1.0 + 1.0 / 256.0), 1.0);
        assert_eq!(bfloat16(1.0 + 3.0 / 256.0), 1.0 + 1.0 / 64.0);
        assert_eq!(bfloat16(-0.3), -0.300_781_25);
    }

    #[test]
    fn a_whole_permutation_has_each_number_once() {
        let mut permutation = TorchRandom::new(5).permutation(1000, 1000);
        permutation.sort_unstable();
        assert!(permutation.into_iter().eq(0..1000));
    }
}

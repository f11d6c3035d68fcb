//! PyTorch's generator on the CPU (Matsumoto and Nishimura 1998, MT19937), so that what PEFT draws
//! from a seed and stores nowhere can be drawn again.

use std::collections::HashMap;

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

    /// `torch.randn(n)` (Box and Muller 1958). Of 16 values 8 for the lengths stand before 8 for the
    /// angles, and the last 16 are drawn anew where 16 does not divide `n`; fewer come in pairs.
    pub(crate) fn normal(&mut self, n: usize) -> Vec<f32> {
        if n < 16 {
            let pairs = (0..n.div_ceil(2)).flat_map(|_| self.normal_pair());
            let mut values: Vec<f32> = pairs.collect();
            values.truncate(n);
            return values;
        }
        let mut values: Vec<f32> = (0..n).map(|_| self.unit(24)).collect();
        let turn = |block: &mut [f32]| {
            let (lengths, angles) = block.split_at_mut(8);
            for (first, second) in lengths.iter_mut().zip(angles) {
                let length = (-2.0 * (1.0 - *first).ln()).sqrt();
                let (sine, cosine) = (std::f32::consts::TAU * *second).sin_cos();
                (*first, *second) = (length * cosine, length * sine);
            }
        };
        values.chunks_exact_mut(16).for_each(turn);
        if !n.is_multiple_of(16) {
            let last = &mut values[n - 16..];
            last.iter_mut().for_each(|value| *value = self.unit(24));
            turn(last);
        }
        values
    }

    fn normal_pair(&mut self) -> [f32; 2] {
        let [angle, length] = [0, 1].map(|_| {
            let bits = u64::from(self.bits()) << 32 | u64::from(self.bits());
            (bits & ((1 << 53) - 1)) as f64 / (1u64 << 53) as f64
        });
        let length = (-2.0 * (-length).ln_1p()).sqrt();
        let (sine, cosine) = (std::f64::consts::TAU * angle).sin_cos();
        [(length * cosine) as f32, (length * sine) as f32]
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

    /// Against PyTorch 2.9.
    #[test]
    fn normal_numbers_are_those_of_pytorch() {
        let of = |n: usize| TorchRandom::new(42).normal(n);
        let (many, few) = (of(20), of(3));
        let many = [0, 3, 4, 8, 15, 19].map(|place: usize| many[place]);
        let expected = [
            1.926_915_3,
            -2.105_521,
            -0.758_131_1,
            0.355_859_9,
            0.859_858_5,
            -0.621_595_4,
        ];
        let few_expected = [0.336_690_4, 0.128_809_4, 0.234_462_4];
        let pairs = many.iter().chain(&few);
        for (found, expected) in pairs.zip(expected.iter().chain(&few_expected)) {
            assert!((found - expected).abs() < 1e-6, "{found} {expected}");
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

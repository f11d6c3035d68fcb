//! NumPy's default generator (O'Neill 2014, PCG-64 with output XSL-RR), so that what PEFT draws
//! from it and stores nowhere can be drawn again.

use std::collections::HashSet;

const MULTIPLIER: u128 = 2_549_297_995_355_413_924 << 64 | 4_865_540_595_714_422_341;

/// Words of the pool that a seed is spread over.
const POOL: usize = 4;

/// `numpy.random.default_rng(seed)`.
pub(crate) struct NumpyRandom {
    state: u128,
    increment: u128,
    /// The upper half of the last 64 bits, until it is used.
    rest: Option<u32>,
}

impl NumpyRandom {
    /// The numbers of a seed, which goes through NumPy's `SeedSequence`.
    pub(crate) fn new(seed: u64) -> Self {
        let words = spread(seed);
        let number = |first: usize| {
            let word = |index: usize| u128::from(words[index]);
            let half = |index: usize| word(index + 1) << 32 | word(index);
            half(first) << 64 | half(first + 2)
        };
        let increment = number(4) << 1 | 1;
        let mut random = Self {
            state: increment,
            increment,
            rest: None,
        };
        random.state = random.state.wrapping_add(number(0));
        random.step();
        random
    }

    fn step(&mut self) {
        let product = self.state.wrapping_mul(MULTIPLIER);
        self.state = product.wrapping_add(self.increment);
    }

    /// 32 random bits.
    fn bits(&mut self) -> u32 {
        if let Some(rest) = self.rest.take() {
            return rest;
        }
        self.step();
        let folded = (self.state >> 64) as u64 ^ self.state as u64;
        let bits = folded.rotate_right((self.state >> 122) as u32);
        self.rest = Some((bits >> 32) as u32);
        bits as u32
    }

    /// A number from 0 to `last`, by Lemire's method (2019).
    fn up_to(&mut self, last: u32) -> u32 {
        if last == 0 {
            return 0;
        }
        let n = u64::from(last) + 1;
        let least = (u64::from(u32::MAX - last)) % n;
        loop {
            let product = u64::from(self.bits()) * n;
            if u64::from(product as u32) >= least {
                return (product >> 32) as u32;
            }
        }
    }

    /// A number from 0 to `last`, by drawing as many bits as it has until they are not too large.
    fn masked_up_to(&mut self, last: u32) -> u32 {
        if last == 0 {
            return 0;
        }
        let mask = u32::MAX >> last.leading_zeros();
        loop {
            let drawn = self.bits() & mask;
            if drawn <= last {
                return drawn;
            }
        }
    }

    /// `choice(end, n, replace=False)`: `n` numbers below `end`, each once.
    pub(crate) fn choice(&mut self, end: u32, n: u32) -> Vec<u32> {
        if end > 10_000 && n > end / 50 {
            let mut all: Vec<u32> = (0..end).collect();
            for place in ((end - n).max(1)..end).rev() {
                let other = self.up_to(place);
                all.swap(place as usize, other as usize);
            }
            return all.split_off((end - n) as usize);
        }
        // Floyd's algorithm (Bentley 1987).
        let mut seen = HashSet::new();
        let mut chosen = Vec::with_capacity(n as usize);
        for last in end - n..end {
            let drawn = self.up_to(last);
            let number = if seen.contains(&drawn) { last } else { drawn };
            seen.insert(number);
            chosen.push(number);
        }
        for place in (1..n).rev() {
            let other = self.up_to(place);
            chosen.swap(place as usize, other as usize);
        }
        chosen
    }

    /// `shuffle(values)`; of more than 2³² values NumPy draws otherwise.
    pub(crate) fn shuffle(&mut self, values: &mut [u32]) {
        for place in (1..values.len()).rev() {
            let other = self.masked_up_to(place as u32);
            values.swap(place, other as usize);
        }
    }
}

/// The eight words of `SeedSequence(seed).generate_state(8)` (O'Neill 2015).
fn spread(seed: u64) -> [u32; 2 * POOL] {
    let mut factor = 0x43b0_d7e5_u32;
    let mut hashed = |word: u32| {
        let word = word ^ factor;
        factor = factor.wrapping_mul(0x931e_8875);
        let word = word.wrapping_mul(factor);
        word ^ word >> 16
    };
    let mixed = |a: u32, b: u32| {
        let word = a
            .wrapping_mul(0xca01_f9dd)
            .wrapping_sub(b.wrapping_mul(0x4973_f715));
        word ^ word >> 16
    };
    let mut pool = [seed as u32, (seed >> 32) as u32, 0, 0].map(&mut hashed);
    for from in 0..POOL {
        for to in (0..POOL).filter(|to| *to != from) {
            pool[to] = mixed(pool[to], hashed(pool[from]));
        }
    }
    let mut factor = 0x8b51_f9dd_u32;
    std::array::from_fn(|index| {
        let word = pool[index % POOL] ^ factor;
        factor = factor.wrapping_mul(0x58f3_8ded);
        let word = word.wrapping_mul(factor);
        word ^ word >> 16
    })
}

#[cfg(test)]
mod tests {
    use super::NumpyRandom;

    /// What UniLoRA draws: as many of each number as fit, some once more, all shuffled.
    fn drawn(seed: u64, n: u32, kinds: u32) -> Vec<u32> {
        let mut random = NumpyRandom::new(seed);
        let even = (0..kinds).flat_map(|kind| vec![kind; (n / kinds) as usize]);
        let mut values: Vec<u32> = even.collect();
        values.extend(random.choice(kinds, n % kinds));
        random.shuffle(&mut values);
        values
    }

    /// Against NumPy 2.4: few numbers, a seed of two words, and most of many numbers.
    #[test]
    fn numbers_are_those_of_numpy() {
        for (seed, n, kinds, expected) in [
            (42, 1000, 256, [125, 66, 161, 165, 231, 217]),
            (7, 50, 64, [45, 14, 24, 41, 43, 49]),
            (
                123_456_789_012,
                200_000,
                16_384,
                [6105, 8441, 1241, 12256, 7501, 4322],
            ),
            (0, 30_000, 11_000, [4828, 8883, 1987, 9077, 7494, 10437]),
        ] {
            let values = drawn(seed, n, kinds);
            assert_eq!(values[..6], expected, "{seed}");
            let mut counts = vec![0; kinds as usize];
            values.iter().for_each(|value| counts[*value as usize] += 1);
            let few = n / kinds;
            assert!(counts.iter().all(|count| (few..=few + 1).contains(count)));
        }
    }
}

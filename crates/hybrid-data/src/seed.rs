//! Seeds for named events, so that the order of work does not change results.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use sha2::{Digest, Sha256};

/// The seed of one named event of a run: the first eight bytes, little-endian, of SHA-256 over
/// the run's seed (little-endian) and the event's name.
///
/// ```
/// let shuffle = hybrid_data::derive_seed(0, "epoch 1 shuffle");
/// assert_ne!(shuffle, hybrid_data::derive_seed(0, "epoch 2 shuffle"));
/// assert_ne!(shuffle, hybrid_data::derive_seed(1, "epoch 1 shuffle"));
/// ```
pub fn derive_seed(seed: u64, event: &str) -> u64 {
    let digest = Sha256::new()
        .chain_update(seed.to_le_bytes())
        .chain_update(event)
        .finalize();
    digest
        .iter()
        .take(8)
        .rev()
        .fold(0, |value, &byte| value << 8 | u64::from(byte))
}

/// The random numbers of one named event.
pub(crate) fn rng_of(seed: u64, event: &str) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(derive_seed(seed, event))
}

#[cfg(test)]
mod tests {
    use super::derive_seed;

    #[test]
    fn seeds_are_stable_across_versions() {
        // python: int.from_bytes(hashlib.sha256((7).to_bytes(8, "little") + b"split").digest()[:8], "little")
        assert_eq!(derive_seed(7, "split"), EXPECTED);
    }

    const EXPECTED: u64 = 8527362503035771161;
}

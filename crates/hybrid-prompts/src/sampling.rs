//! Seeded orders of examples that are balanced by label.

use hybrid_data::derive_seed;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

/// The random numbers of one named event.
pub(crate) fn rng_of(seed: u64, event: &str) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(derive_seed(seed, event))
}

/// An order of the examples whose every prefix is balanced: one of each label, then a second of
/// each, and so on as long as a label has any. Which example of a label comes first, and which
/// label within a turn, is drawn with the seed. With one label for all it is a random order.
pub(crate) fn balanced_order(targets: &[usize], n_labels: usize, seed: u64) -> Vec<usize> {
    let mut rng = rng_of(seed, "fit sample");
    let mut rows_of = vec![Vec::new(); n_labels];
    for (row, &target) in targets.iter().enumerate() {
        rows_of[target].push(row);
    }
    rows_of.iter_mut().for_each(|rows| rows.shuffle(&mut rng));
    let mut labels: Vec<usize> = (0..n_labels).collect();
    let mut order = Vec::with_capacity(targets.len());
    let n_turns = rows_of.iter().map(Vec::len).max().unwrap_or(0);
    for turn in 0..n_turns {
        labels.shuffle(&mut rng);
        order.extend(labels.iter().filter_map(|&label| rows_of[label].get(turn)));
    }
    order
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::{prop_assert, prop_assert_eq, proptest};

    use super::balanced_order;

    #[test]
    fn the_seed_decides() {
        let targets: Vec<usize> = (0..60).map(|row| row % 6).collect();
        assert_eq!(
            balanced_order(&targets, 6, 1),
            balanced_order(&targets, 6, 1)
        );
        assert_ne!(
            balanced_order(&targets, 6, 1),
            balanced_order(&targets, 6, 2)
        );
    }

    proptest! {
        #[test]
        fn every_prefix_is_balanced(targets in vec(0usize..5, 0..60), seed: u64) {
            let order = balanced_order(&targets, 5, seed);
            let mut sorted = order.clone();
            sorted.sort_unstable();
            prop_assert_eq!(sorted, (0..targets.len()).collect::<Vec<_>>());
            let have = |label| targets.iter().filter(|&&target| target == label).count();
            for end in 0..=order.len() {
                let taken: Vec<usize> =
                    (0..5).map(|label| order[..end].iter().filter(|&&row| targets[row] == label).count()).collect();
                let most = taken.iter().copied().max().unwrap();
                for (label, &taken) in taken.iter().enumerate() {
                    prop_assert!(taken + 1 >= most || taken == have(label), "label {} has {} of {}", label, taken, most);
                }
            }
        }
    }
}

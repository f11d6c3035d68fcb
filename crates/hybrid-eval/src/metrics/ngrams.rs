//! How often each run of n tokens occurs.

use std::collections::HashMap;
use std::hash::Hash;

/// Occurrences of each n-gram.
pub(crate) type NgramCounts<'t, T> = HashMap<&'t [T], u64>;

/// Counts the n-grams of `order` tokens, an order of at least 1.
pub(crate) fn ngrams<T: Eq + Hash>(tokens: &[T], order: usize) -> NgramCounts<'_, T> {
    let mut counts = HashMap::new();
    for ngram in tokens.windows(order) {
        *counts.entry(ngram).or_insert(0) += 1;
    }
    counts
}

/// Number of n-grams that both sides have, each counted as often as the side with fewer has it.
pub(crate) fn overlap<T: Eq + Hash>(a: &NgramCounts<'_, T>, b: &NgramCounts<'_, T>) -> u64 {
    a.iter()
        .map(|(ngram, count)| b.get(ngram).map_or(0, |other| *count.min(other)))
        .sum()
}

#[cfg(test)]
mod tests {
    use super::{ngrams, overlap};

    #[test]
    fn overlap_is_clipped() {
        let (a, b) = (["x", "y", "x", "y", "x"], ["y", "x", "z"]);
        assert_eq!(ngrams(&a, 2)[&["x", "y"][..]], 2);
        assert_eq!(overlap(&ngrams(&a, 1), &ngrams(&b, 1)), 2);
        assert_eq!(overlap(&ngrams(&a, 2), &ngrams(&b, 2)), 1);
        assert!(ngrams(&b, 4).is_empty());
    }
}

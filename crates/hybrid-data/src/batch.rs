//! Batches of rows of similar length, and their padding.

use rand::RngExt;
use rand::seq::SliceRandom;

use crate::seed::rng_of;
use crate::tokenizer::Encoding;

/// How large a batch may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchLimits {
    /// Most rows of a batch.
    pub max_rows: usize,
    /// Most tokens of a batch, padding counted. A row longer than this gets a batch of its own.
    pub max_tokens: usize,
}

/// In which order rows are batched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchOrder {
    /// From the longest row to the shortest: least padding, and the largest batch comes first.
    Sorted,
    /// For training: rows of similar length meet, but which of them, and in what order the batches
    /// come, changes with this seed.
    Shuffled(u64),
}

/// Divides rows into batches of similar length, each row once.
///
/// `lengths` are in tokens. No batch is empty. While `max_tokens` does not bind, there are
/// `ceil(rows / max_rows)` batches under every seed.
pub fn length_buckets(
    lengths: &[usize],
    limits: BatchLimits,
    order: BatchOrder,
) -> Vec<Vec<usize>> {
    let mut rows: Vec<usize> = (0..lengths.len()).collect();
    let mut rng = match order {
        BatchOrder::Sorted => None,
        BatchOrder::Shuffled(seed) => Some(rng_of(seed, "length buckets")),
    };
    match &mut rng {
        None => rows.sort_by_key(|&row| std::cmp::Reverse(lengths[row])),
        Some(rng) => {
            // Blurring lengths by a tenth moves rows across bucket edges at the price of little padding.
            let blurred: Vec<f64> = lengths
                .iter()
                .map(|&length| {
                    length as f64 + rng.random_range(0.0..1.0) * (0.1 * length as f64).max(1.5)
                })
                .collect();
            rows.sort_by(|&a, &b| blurred[b].total_cmp(&blurred[a]));
        }
    }

    let mut batches: Vec<Vec<usize>> = Vec::new();
    let mut seq = 0;
    for row in rows {
        match batches.last_mut() {
            Some(batch) if fits(batch.len() + 1, seq.max(lengths[row]), limits) => {
                seq = seq.max(lengths[row]);
                batch.push(row);
            }
            _ => {
                seq = lengths[row];
                batches.push(vec![row]);
            }
        }
    }
    if let Some(rng) = &mut rng {
        batches.shuffle(rng);
    }
    batches
}

fn fits(rows: usize, seq: usize, limits: BatchLimits) -> bool {
    rows <= limits.max_rows && rows.saturating_mul(seq) <= limits.max_tokens
}

/// Encoded rows, padded on the right to one length. All three arrays are row-major
/// `[rows.len(), seq]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PaddedBatch {
    /// Which rows these are.
    pub rows: Vec<usize>,
    /// Token ids.
    pub ids: Vec<u32>,
    /// 1 for tokens, 0 for padding.
    pub mask: Vec<u32>,
    /// 0 for the first text and for padding, 1 for the second text.
    pub type_ids: Vec<u32>,
    /// The longest row's length.
    pub seq: usize,
}

/// Pads the encodings of `rows` to the longest of them.
///
/// # Panics
/// If a row is not an index of `encodings`.
pub fn pad(encodings: &[Encoding], rows: &[usize], pad_id: u32) -> PaddedBatch {
    let seq = rows
        .iter()
        .map(|&row| encodings[row].ids.len())
        .max()
        .unwrap_or(0);
    let n_values = rows.len() * seq;
    let mut batch = PaddedBatch {
        rows: rows.to_vec(),
        ids: Vec::with_capacity(n_values),
        mask: Vec::with_capacity(n_values),
        type_ids: Vec::with_capacity(n_values),
        seq,
    };
    for (filled, &row) in rows.iter().enumerate() {
        let Encoding { ids, type_ids } = &encodings[row];
        let end = (filled + 1) * seq;
        batch.mask.resize(filled * seq + ids.len(), 1);
        batch.mask.resize(end, 0);
        batch.ids.extend_from_slice(ids);
        batch.ids.resize(end, pad_id);
        batch.type_ids.extend_from_slice(type_ids);
        batch.type_ids.resize(end, 0);
    }
    batch
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::{Just, Strategy, prop_assert, prop_assert_eq, prop_oneof, proptest};

    use super::{BatchLimits, BatchOrder, length_buckets, pad};
    use crate::tokenizer::Encoding;

    fn orders() -> impl Strategy<Value = BatchOrder> {
        prop_oneof![
            Just(BatchOrder::Sorted),
            (0..u64::MAX).prop_map(BatchOrder::Shuffled)
        ]
    }

    #[test]
    fn sorted_batches_go_from_long_to_short() {
        let limits = BatchLimits {
            max_rows: 3,
            max_tokens: 20,
        };
        let batches = length_buckets(&[4, 9, 2, 9, 30, 4, 4], limits, BatchOrder::Sorted);
        assert_eq!(batches, [vec![4], vec![1, 3], vec![0, 5, 6], vec![2]]);
        assert!(length_buckets(&[], limits, BatchOrder::Sorted).is_empty());
    }

    #[test]
    fn shuffled_batches_change_with_the_seed_and_pad_little() {
        let lengths: Vec<usize> = (0..770).map(|row| 8 + row * 37 % 29).collect();
        let limits = BatchLimits {
            max_rows: 16,
            max_tokens: usize::MAX,
        };
        let batches = |seed| length_buckets(&lengths, limits, BatchOrder::Shuffled(seed));
        assert_eq!(batches(1), batches(1));
        let (one, two) = (batches(1), batches(2));
        let edges = |batches: &[Vec<usize>]| {
            let mut batches: Vec<Vec<usize>> = batches
                .iter()
                .map(|batch| {
                    let mut batch = batch.clone();
                    batch.sort_unstable();
                    batch
                })
                .collect();
            batches.sort_unstable();
            batches
        };
        assert_ne!(edges(&one), edges(&two), "other rows meet");
        assert_eq!((one.len(), two.len()), (49, 49));
        let longest = |batch: &Vec<usize>| batch.iter().map(|&row| lengths[row]).max().unwrap();
        assert!(
            !one.is_sorted_by_key(|batch| std::cmp::Reverse(longest(batch))),
            "batch order is shuffled"
        );
        let padded: usize = one.iter().map(|batch| batch.len() * longest(batch)).sum();
        let tokens: usize = lengths.iter().sum();
        assert!(
            padded as f64 <= 1.15 * tokens as f64,
            "{padded} places for {tokens} tokens"
        );
    }

    proptest! {
        #[test]
        fn buckets_cover_each_row_once_within_the_limits(
            lengths in vec(0usize..64, 0..200), max_rows in 1usize..20, max_tokens in 1usize..400, order in orders(),
        ) {
            let batches = length_buckets(&lengths, BatchLimits { max_rows, max_tokens }, order);
            for batch in &batches {
                prop_assert!(!batch.is_empty() && batch.len() <= max_rows);
                let seq = batch.iter().map(|&row| lengths[row]).max().unwrap();
                prop_assert!(batch.len() == 1 || batch.len() * seq <= max_tokens);
            }
            let mut rows = batches.concat();
            rows.sort_unstable();
            prop_assert_eq!(rows, (0..lengths.len()).collect::<Vec<_>>());
        }

        #[test]
        fn padding_keeps_tokens_and_masks_the_rest(
            texts in vec(vec((1u32..1000, 0u32..2), 0..12), 1..8), pad_id in 0u32..1000,
        ) {
            let encodings: Vec<Encoding> = texts.iter().map(|tokens| {
                let (ids, type_ids) = tokens.iter().copied().unzip();
                Encoding { ids, type_ids }
            }).collect();
            let rows: Vec<usize> = (0..encodings.len()).rev().collect();
            let batch = pad(&encodings, &rows, pad_id);
            prop_assert_eq!(&batch.rows, &rows);
            prop_assert_eq!(batch.seq, texts.iter().map(Vec::len).max().unwrap());
            for values in [&batch.ids, &batch.mask, &batch.type_ids] {
                prop_assert_eq!(values.len(), rows.len() * batch.seq);
            }
            for (place, &row) in rows.iter().enumerate() {
                let span = place * batch.seq..(place + 1) * batch.seq;
                for (at, place) in span.enumerate() {
                    let token = texts[row].get(at);
                    prop_assert_eq!(batch.mask[place], u32::from(token.is_some()));
                    prop_assert_eq!((batch.ids[place], batch.type_ids[place]), token.copied().unwrap_or((pad_id, 0)));
                }
            }
        }
    }
}

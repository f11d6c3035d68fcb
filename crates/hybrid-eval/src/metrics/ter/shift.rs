//! Shifts of blocks of words, searched greedily as Tercom does.

use std::cmp::Reverse;

use super::edit_distance::EditDistance;

/// Longest block that is shifted.
const MAX_LENGTH: usize = 10;

/// Farthest places in hypothesis and reference that are compared.
const MAX_DISTANCE: usize = 50;

/// Shifts that are tried for a row before the search ends.
const MAX_TRIED: usize = 1000;

/// Edits, each shift counted as one, that turn a hypothesis into the reference.
pub(super) fn edits(hypothesis: &[usize], reference: &[usize]) -> u64 {
    if reference.is_empty() {
        return hypothesis.len() as u64;
    }
    let mut words = hypothesis.to_vec();
    let mut shifts = 0;
    let mut tried = 0;
    loop {
        let distance = EditDistance::between(&words, reference);
        let Some(shifted) = best_shift(&words, reference, &distance, &mut tried) else {
            return shifts + distance.total();
        };
        words = shifted;
        shifts += 1;
    }
}

/// The words after the shift that saves most edits, if one saves any. Among equal ones the longest
/// block wins, then the earliest, then the earliest target.
fn best_shift(
    words: &[usize],
    reference: &[usize],
    distance: &EditDistance<'_>,
    tried: &mut usize,
) -> Option<Vec<usize>> {
    let before = distance.total();
    let alignment = distance.alignment();
    let mut best = None;
    for start in 0..words.len() {
        let nearest = start.saturating_sub(MAX_DISTANCE);
        let farthest = reference.len().min(start + MAX_DISTANCE + 1);
        for place in nearest..farthest {
            for length in 1..=common_length(&words[start..], &reference[place..]) {
                let is_right = |wrong: &[bool]| !wrong.contains(&true);
                let reached = alignment.reached[place];
                if is_right(&alignment.wrong_in_hypothesis[start..start + length])
                    || is_right(&alignment.wrong_in_reference[place..place + length])
                    || (start + 1..=start + length).contains(&reached)
                {
                    continue;
                }
                let mut targets: Vec<usize> = (place.saturating_sub(1)
                    ..reference.len().min(place + length))
                    .map(|index| alignment.reached[index])
                    .collect();
                if place == 0 {
                    targets.insert(0, 0);
                }
                targets.dedup();
                for target in targets {
                    let shifted = shift(words, start, length, target);
                    let after = distance.total_of(&shifted, start.min(target));
                    *tried += 1;
                    let rank = (Reverse(after), length, Reverse(start), Reverse(target));
                    if after < before && best.as_ref().is_none_or(|(known, _)| rank > *known) {
                        best = Some((rank, shifted));
                    }
                }
                if *tried >= MAX_TRIED {
                    // sacreBLEU drops what it found until then.
                    return None;
                }
            }
        }
    }
    best.map(|(_, shifted)| shifted)
}

/// How many words both begin with, at most [`MAX_LENGTH`].
fn common_length(a: &[usize], b: &[usize]) -> usize {
    let pairs = a.iter().zip(b).take(MAX_LENGTH);
    pairs.take_while(|(a, b)| a == b).count()
}

/// Moves the `length` words at `start` so that they come before the word at `target`; a target within
/// the block or right behind it counts on behind the block.
fn shift(words: &[usize], start: usize, length: usize, target: usize) -> Vec<usize> {
    let end = start + length;
    let block = &words[start..end];
    if target < start {
        let passed = &words[target..start];
        return [&words[..target], block, passed, &words[end..]].concat();
    }
    let target = if target > end {
        target
    } else {
        words.len().min(target + length)
    };
    let passed = &words[end..target];
    [&words[..start], passed, block, &words[target..]].concat()
}

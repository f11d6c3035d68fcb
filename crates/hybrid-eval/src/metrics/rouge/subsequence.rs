//! Longest common subsequences.

/// Length of the longest common subsequence.
pub(super) fn length<T: Eq>(reference: &[T], candidate: &[T]) -> u64 {
    fill(reference, candidate, |_, _| {})
}

/// The places in `reference` of one longest common subsequence, from the last to the first. Of
/// several, the one that rouge_score finds.
pub(super) fn indices<T: Eq>(reference: &[T], candidate: &[T]) -> Vec<usize> {
    // One bit a cell: whether to go to the candidate's previous token where the two tokens differ.
    let stride = candidate.len().div_ceil(64);
    let mut skips_candidate = vec![0_u64; stride * reference.len()];
    fill(reference, candidate, |row, column| {
        skips_candidate[row * stride + column / 64] |= 1 << (column % 64);
    });
    let (mut row, mut column) = (reference.len(), candidate.len());
    let mut found = Vec::new();
    while row > 0 && column > 0 {
        let bits = skips_candidate[(row - 1) * stride + (column - 1) / 64];
        if reference[row - 1] == candidate[column - 1] {
            row -= 1;
            column -= 1;
            found.push(row);
        } else if bits >> ((column - 1) % 64) & 1 == 1 {
            column -= 1;
        } else {
            row -= 1;
        }
    }
    found
}

/// Fills the table of lengths row by row, keeps two rows of it and returns its last cell. Tells of
/// each cell (row, column) whose left neighbour is greater than the upper one.
fn fill<T: Eq>(
    reference: &[T],
    candidate: &[T],
    mut left_is_longer: impl FnMut(usize, usize),
) -> u64 {
    let mut above = vec![0; candidate.len() + 1];
    let mut current = above.clone();
    for (row, token) in reference.iter().enumerate() {
        for (column, other) in candidate.iter().enumerate() {
            let (up, left) = (above[column + 1], current[column]);
            if left > up {
                left_is_longer(row, column);
            }
            current[column + 1] = if token == other {
                above[column] + 1
            } else {
                up.max(left)
            };
        }
        std::mem::swap(&mut above, &mut current);
    }
    above.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::{prop_assert, prop_assert_eq, proptest};

    use super::{indices, length};

    #[test]
    fn the_later_of_two_places_is_found() {
        assert_eq!(indices(&["a", "b", "a"], &["a"]), [2]);
        assert_eq!(indices(&["a", "b"], &["b", "a"]), [0]);
    }

    proptest! {
        #[test]
        fn places_form_a_common_subsequence(
            reference in vec(0..4_u8, 0..90),
            candidate in vec(0..4_u8, 0..90),
        ) {
            let mut places = indices(&reference, &candidate);
            places.reverse();
            prop_assert_eq!(places.len() as u64, length(&reference, &candidate));
            prop_assert!(places.is_sorted());
            let mut rest = candidate.iter();
            prop_assert!(places.iter().all(|place| rest.any(|token| *token == reference[*place])));
        }
    }
}

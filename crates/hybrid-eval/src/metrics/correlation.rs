//! How well two series of numbers go together.

use std::cmp::Ordering;

use super::check_rows;
use crate::EvalError;

/// Pearson's correlation, from -1 to 1.
///
/// ```
/// assert!((hybrid_eval::pearson(&[1.0, 2.0, 4.0], &[3.0, 5.0, 9.0])? - 1.0).abs() < 1e-12);
/// # Ok::<(), hybrid_eval::EvalError>(())
/// ```
///
/// # Errors
/// [`EvalError::Constant`] if the values of a side are all equal, [`EvalError::Empty`],
/// [`EvalError::Length`] or [`EvalError::NotFinite`].
pub fn pearson(a: &[f64], b: &[f64]) -> Result<f64, EvalError> {
    check_series(a, b)?;
    correlate("Pearson's correlation", a, b)
}

/// Spearman's correlation: Pearson's of the ranks, equal values sharing the mean of theirs.
///
/// ```
/// assert_eq!(hybrid_eval::spearman(&[1.0, 2.0, 9.0], &[0.1, 0.2, 0.3])?, 1.0);
/// # Ok::<(), hybrid_eval::EvalError>(())
/// ```
///
/// # Errors
/// As [`pearson`].
pub fn spearman(a: &[f64], b: &[f64]) -> Result<f64, EvalError> {
    check_series(a, b)?;
    correlate("Spearman's correlation", &ranks(a), &ranks(b))
}

/// Kendall's τ-b: pairs in the same order minus pairs in opposite order, over the geometric mean of
/// the pairs that each side does not tie (Kendall 1945).
///
/// ```
/// // Of three pairs, two are in the same order.
/// let tau = hybrid_eval::kendall_tau_b(&[1.0, 2.0, 3.0], &[1.0, 3.0, 2.0])?;
/// assert!((tau - 1.0 / 3.0).abs() < 1e-12);
/// # Ok::<(), hybrid_eval::EvalError>(())
/// ```
///
/// # Errors
/// As [`pearson`].
pub fn kendall_tau_b(a: &[f64], b: &[f64]) -> Result<f64, EvalError> {
    check_series(a, b)?;
    let mut pairs: Vec<(f64, f64)> = a.iter().copied().zip(b.iter().copied()).collect();
    pairs.sort_by(|p, q| order(p.0, q.0).then(order(p.1, q.1)));
    let tied_a = tied_pairs(&pairs, |p, q| p.0 == q.0);
    let tied_both = tied_pairs(&pairs, |p, q| p == q);
    // Sorted by `a`, exactly the opposed pairs are out of order in `b` (Knight 1966).
    let mut second: Vec<f64> = pairs.iter().map(|pair| pair.1).collect();
    let opposed = sort_counting_swaps(&mut second);
    let tied_b = tied_pairs(&second, |p, q| p == q);
    let all = a.len() as f64 * (a.len() as f64 - 1.0) / 2.0;
    if tied_a == all || tied_b == all {
        return Err(EvalError::Constant {
            metric: "Kendall's correlation",
        });
    }
    let surplus = all - tied_a - tied_b + tied_both - 2.0 * opposed;
    // Two roots, because the product of the counts may not fit.
    let tau = surplus / (all - tied_a).sqrt() / (all - tied_b).sqrt();
    Ok(tau.clamp(-1.0, 1.0))
}

pub(super) fn check_series(a: &[f64], b: &[f64]) -> Result<(), EvalError> {
    check_rows("values", a.len(), b.len())?;
    match (0..a.len()).find(|row| !a[*row].is_finite() || !b[*row].is_finite()) {
        Some(row) => Err(EvalError::NotFinite {
            what: "values",
            row,
        }),
        None => Ok(()),
    }
}

/// By value: 0 and -0 are equal, which `total_cmp` denies.
fn order(a: f64, b: f64) -> Ordering {
    a.partial_cmp(&b).unwrap_or(Ordering::Equal)
}

fn correlate(metric: &'static str, a: &[f64], b: &[f64]) -> Result<f64, EvalError> {
    let (a, b) = (centred(a), centred(b));
    let product = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
    let size = product(&a, &a).sqrt() * product(&b, &b).sqrt();
    if size == 0.0 {
        return Err(EvalError::Constant { metric });
    }
    Ok((product(&a, &b) / size).clamp(-1.0, 1.0))
}

/// Differences from the mean, exactly 0 if the values are equal. They are divided by the greatest
/// value, which correlations do not notice, lest their squares overflow or vanish.
fn centred(values: &[f64]) -> Vec<f64> {
    let scale = values
        .iter()
        .fold(0.0_f64, |most, value| most.max(value.abs()));
    if values.iter().all(|value| *value == values[0]) {
        return vec![0.0; values.len()];
    }
    let mean = values.iter().map(|value| value / scale).sum::<f64>() / values.len() as f64;
    values.iter().map(|value| value / scale - mean).collect()
}

/// The rank of each value, counted from 1.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut places: Vec<usize> = (0..values.len()).collect();
    places.sort_by(|p, q| order(values[*p], values[*q]));
    let mut ranks = vec![0.0; values.len()];
    let mut before = 0;
    for equal in places.chunk_by(|p, q| values[*p] == values[*q]) {
        let rank = before as f64 + (equal.len() as f64 + 1.0) / 2.0;
        equal.iter().for_each(|place| ranks[*place] = rank);
        before += equal.len();
    }
    ranks
}

/// Number of pairs within the runs of sorted values that are `equal`.
fn tied_pairs<T>(sorted: &[T], equal: impl FnMut(&T, &T) -> bool) -> f64 {
    let runs = sorted.chunk_by(equal).map(|run| run.len() as f64);
    runs.map(|length| length * (length - 1.0) / 2.0).sum()
}

/// Sorts by merging and counts the pairs that were in falling order.
fn sort_counting_swaps(values: &mut [f64]) -> f64 {
    if values.len() < 2 {
        return 0.0;
    }
    let (left, right) = values.split_at_mut(values.len() / 2);
    let mut swaps = sort_counting_swaps(left) + sort_counting_swaps(right);
    let mut merged = Vec::with_capacity(left.len() + right.len());
    let (mut lefts, mut rights) = (left.iter().peekable(), right.iter().peekable());
    while let Some(value) = lefts.peek() {
        if let Some(smaller) = rights.next_if(|other| other < value) {
            swaps += lefts.len() as f64;
            merged.push(*smaller);
        } else {
            merged.extend(lefts.next());
        }
    }
    merged.extend(rights);
    values.copy_from_slice(&merged);
    swaps
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::{prop_assert, proptest};

    use super::{kendall_tau_b, pearson, ranks, spearman};
    use crate::EvalError;

    #[test]
    fn equal_values_share_their_ranks() {
        assert_eq!(
            ranks(&[2.0, -0.0, 2.0, 0.0, 1.0]),
            [4.5, 1.5, 4.5, 1.5, 3.0]
        );
    }

    #[test]
    fn huge_and_tiny_values_correlate() {
        for scale in [1e300, 1e-300] {
            let a = [1.0, 2.0, 4.0].map(|value: f64| value * scale);
            assert!((pearson(&a, &[2.0, 4.0, 8.0]).unwrap() - 1.0).abs() < 1e-12);
        }
    }

    #[test]
    fn constants_and_bad_values_are_refused() {
        for correlation in [pearson, spearman, kendall_tau_b] {
            assert!(matches!(
                correlation(&[0.1; 3], &[1.0, 2.0, 3.0]),
                Err(EvalError::Constant { .. })
            ));
            assert!(matches!(
                correlation(&[1.0], &[2.0]),
                Err(EvalError::Constant { .. })
            ));
            assert!(matches!(
                correlation(&[1.0, f64::INFINITY], &[2.0, 1.0]),
                Err(EvalError::NotFinite { row: 1, .. })
            ));
            assert!(matches!(
                correlation(&[1.0, 2.0], &[2.0]),
                Err(EvalError::Length { .. })
            ));
        }
    }

    proptest! {
        #[test]
        fn tau_counts_pairs(pairs in vec((-3..4_i8, -3..4_i8), 2..40)) {
            let (a, b): (Vec<f64>, Vec<f64>) =
                pairs.iter().map(|(a, b)| (f64::from(*a), f64::from(*b))).unzip();
            let (mut surplus, mut untied_a, mut untied_b) = (0.0, 0.0, 0.0);
            for (i, (a, b)) in pairs.iter().enumerate() {
                for (other_a, other_b) in &pairs[..i] {
                    let (of_a, of_b) = ((a - other_a).signum(), (b - other_b).signum());
                    surplus += f64::from(of_a * of_b);
                    untied_a += f64::from(of_a.abs());
                    untied_b += f64::from(of_b.abs());
                }
            }
            match kendall_tau_b(&a, &b) {
                Ok(tau) => {
                    let expected = surplus / f64::sqrt(untied_a * untied_b);
                    prop_assert!((tau - expected).abs() < 1e-12);
                }
                Err(_) => prop_assert!(untied_a * untied_b == 0.0),
            }
        }
    }
}

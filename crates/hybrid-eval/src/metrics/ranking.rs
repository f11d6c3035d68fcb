//! Figures of a score that should rank positive examples above negative ones.

use super::check_rows;
use crate::EvalError;

/// One threshold: how many examples score at least as high.
struct Threshold {
    true_positives: f64,
    false_positives: f64,
}

/// Area under the ROC curve: the chance that a positive example scores higher than a negative one,
/// ties counted as half.
///
/// ```
/// assert_eq!(hybrid_eval::roc_auc(&[0.9, 0.8, 0.3], &[true, false, false])?, 1.0);
/// # Ok::<(), hybrid_eval::EvalError>(())
/// ```
///
/// # Errors
/// [`EvalError::OneKind`] without a positive or without a negative example, [`EvalError::Empty`],
/// [`EvalError::Length`] or [`EvalError::NotFinite`].
pub fn roc_auc(scores: &[f64], positive: &[bool]) -> Result<f64, EvalError> {
    let curve = thresholds("ROC-AUC", scores, positive)?;
    let (positives, negatives) = totals(&curve);
    let mut area = 0.0;
    let (mut hits, mut alarms) = (0.0, 0.0);
    for point in &curve {
        area += (point.false_positives - alarms) * (point.true_positives + hits) / 2.0;
        (hits, alarms) = (point.true_positives, point.false_positives);
    }
    Ok(area / (positives * negatives))
}

/// Average precision: `Σ (R_n - R_{n-1}) P_n` over the distinct scores, highest first, with no
/// interpolation.
///
/// # Errors
/// As [`roc_auc`].
pub fn average_precision(scores: &[f64], positive: &[bool]) -> Result<f64, EvalError> {
    let curve = thresholds("average precision", scores, positive)?;
    let (positives, _) = totals(&curve);
    let mut sum = 0.0;
    let mut hits = 0.0;
    for point in &curve {
        let precision = point.true_positives / (point.true_positives + point.false_positives);
        sum += (point.true_positives - hits) / positives * precision;
        hits = point.true_positives;
    }
    Ok(sum)
}

/// Share of negative examples that score at least as high as the highest threshold that still
/// accepts `true_positive_rate` of the positive ones (0.95 gives "FPR at 95 % TPR", Hendrycks &
/// Gimpel 2017).
///
/// # Errors
/// As [`roc_auc`].
pub fn false_positive_rate_at(
    true_positive_rate: f64,
    scores: &[f64],
    positive: &[bool],
) -> Result<f64, EvalError> {
    let curve = thresholds("false positive rate", scores, positive)?;
    let (positives, negatives) = totals(&curve);
    let accepting = curve
        .iter()
        .find(|point| point.true_positives / positives >= true_positive_rate);
    Ok(accepting.map_or(1.0, |point| point.false_positives / negatives))
}

/// Cumulative counts at each distinct score, highest score first.
fn thresholds(
    metric: &'static str,
    scores: &[f64],
    positive: &[bool],
) -> Result<Vec<Threshold>, EvalError> {
    check_rows("scores", positive.len(), scores.len())?;
    if let Some(row) = scores.iter().position(|score| !score.is_finite()) {
        return Err(EvalError::NotFinite {
            what: "scores",
            row,
        });
    }
    if positive.iter().all(|p| *p) || !positive.iter().any(|p| *p) {
        return Err(EvalError::OneKind { metric });
    }
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    let mut curve: Vec<Threshold> = Vec::new();
    let (mut true_positives, mut false_positives) = (0.0, 0.0);
    for (place, row) in order.iter().enumerate() {
        if positive[*row] {
            true_positives += 1.0;
        } else {
            false_positives += 1.0;
        }
        if order
            .get(place + 1)
            .is_none_or(|next| scores[*next] != scores[*row])
        {
            curve.push(Threshold {
                true_positives,
                false_positives,
            });
        }
    }
    Ok(curve)
}

fn totals(curve: &[Threshold]) -> (f64, f64) {
    curve.last().map_or((0.0, 0.0), |last| {
        (last.true_positives, last.false_positives)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert, prop_assume, proptest};

    use super::{average_precision, false_positive_rate_at, roc_auc};
    use crate::EvalError;

    #[test]
    fn equal_scores_rank_by_chance() {
        assert_eq!(
            roc_auc(&[0.5; 4], &[true, false, true, false]).unwrap(),
            0.5
        );
        assert_eq!(
            average_precision(&[0.5; 4], &[true, false, false, false]).unwrap(),
            0.25
        );
    }

    #[test]
    fn auc_counts_ordered_pairs() {
        // Pairs (positive, negative): 0.8 > 0.6, 0.8 > 0.1, 0.4 < 0.6, 0.4 > 0.1.
        assert_eq!(
            roc_auc(&[0.8, 0.6, 0.4, 0.1], &[true, false, true, false]).unwrap(),
            0.75
        );
    }

    #[test]
    fn false_positives_at_a_required_recall() {
        let scores = [0.9, 0.8, 0.7, 0.6];
        let positive = [true, false, true, false];
        assert_eq!(
            false_positive_rate_at(0.5, &scores, &positive).unwrap(),
            0.0
        );
        assert_eq!(
            false_positive_rate_at(0.95, &scores, &positive).unwrap(),
            0.5
        );
    }

    #[test]
    fn one_kind_is_refused() {
        assert!(matches!(
            roc_auc(&[0.1, 0.2], &[true, true]),
            Err(EvalError::OneKind { .. })
        ));
        assert!(matches!(
            roc_auc(&[f64::NAN, 0.2], &[true, false]),
            Err(EvalError::NotFinite { row: 0, .. })
        ));
    }

    proptest! {
        #[test]
        fn turning_the_scores_round_turns_the_area_round(
            rows in proptest::collection::vec((-4i8..4, any::<bool>()), 2..40)
        ) {
            let (scores, positive): (Vec<f64>, Vec<bool>) = rows.iter().map(|(score, p)| (f64::from(*score), *p)).unzip();
            prop_assume!(positive.contains(&true) && positive.contains(&false));
            let negated: Vec<f64> = scores.iter().map(|score| -score).collect();
            let sum = roc_auc(&scores, &positive).unwrap() + roc_auc(&negated, &positive).unwrap();
            prop_assert!((sum - 1.0).abs() < 1e-12);
            let precision = average_precision(&scores, &positive).unwrap();
            prop_assert!(precision > 0.0 && precision <= 1.0 + 1e-12);
        }
    }
}

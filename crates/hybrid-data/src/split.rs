//! Dividing examples: fit / select / report, and k examples a label.

use std::collections::{BTreeMap, BTreeSet};

use rand::seq::SliceRandom;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::DataError;
use crate::example::Example;
use crate::label_set::label_of;
use crate::seed::rng_of;

/// Shares of the examples that are not fitted on.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Fractions {
    /// Share to choose on.
    pub select: f64,
    /// Share to report on.
    pub report: f64,
}

/// Disjoint parts of a set of examples, each in the original order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Splits {
    /// To train on.
    pub fit: Vec<Example>,
    /// To choose on.
    pub select: Vec<Example>,
    /// To report on.
    pub report: Vec<Example>,
}

/// Divides examples at random; what is in neither share is fit.
///
/// With `stratified`, each label is divided by itself, so that the shares hold for every label as
/// nearly as whole examples allow; rounding errors are handed on from label to label, so they hold
/// for the whole too. A label's last example always stays in fit.
///
/// # Errors
/// [`DataError::Fractions`] for shares outside 0..1, and [`DataError::Unlabelled`] when a
/// stratified split meets an example without label.
pub fn split(
    examples: Vec<Example>,
    fractions: Fractions,
    seed: u64,
    stratified: bool,
) -> Result<Splits, DataError> {
    let Fractions { select, report } = fractions;
    if !(select >= 0.0 && report >= 0.0 && select + report < 1.0) {
        return Err(DataError::Fractions { select, report });
    }
    let groups = if stratified {
        by_label(&examples)?
    } else {
        BTreeMap::from([(String::new(), (0..examples.len()).collect())])
    };

    let mut part_of = vec![Part::Fit; examples.len()];
    let (mut select_due, mut report_due) = (0.0, 0.0);
    for (label, mut rows) in groups {
        rows.shuffle(&mut rng_of(seed, &format!("split {label}")));
        let mut spare = rows.len().saturating_sub(1);
        let mut rows = rows.into_iter();
        for (part, share, due) in [
            (Part::Select, select, &mut select_due),
            (Part::Report, report, &mut report_due),
        ] {
            *due += share * rows.len() as f64;
            let taken = (due.round().max(0.0) as usize).min(spare);
            *due -= taken as f64;
            spare -= taken;
            rows.by_ref()
                .take(taken)
                .for_each(|row| part_of[row] = part);
        }
    }

    let mut splits = Splits {
        fit: Vec::new(),
        select: Vec::new(),
        report: Vec::new(),
    };
    for (example, part) in examples.into_iter().zip(part_of) {
        match part {
            Part::Fit => splits.fit.push(example),
            Part::Select => splits.select.push(example),
            Part::Report => splits.report.push(example),
        }
    }
    Ok(splits)
}

#[derive(Clone, Copy)]
enum Part {
    Fit,
    Select,
    Report,
}

/// Keeps `shots` examples of each label, in the original order: drawn with the seed, or without
/// one the first of each label. A label with fewer examples keeps all it has.
///
/// # Errors
/// [`DataError::Unlabelled`] for an example without a label.
pub fn k_shot(
    examples: Vec<Example>,
    shots: usize,
    seed: Option<u64>,
) -> Result<Vec<Example>, DataError> {
    let mut kept = Vec::new();
    for (label, mut rows) in by_label(&examples)? {
        if let Some(seed) = seed {
            rows.shuffle(&mut rng_of(seed, &format!("k_shot {label}")));
        }
        rows.truncate(shots);
        kept.extend(rows);
    }
    let kept: BTreeSet<usize> = kept.into_iter().collect();
    let rows = examples.into_iter().enumerate();
    Ok(rows
        .filter(|(row, _)| kept.contains(row))
        .map(|(_, example)| example)
        .collect())
}

/// Keeps `n` examples drawn with the seed, in the original order; all of them when there are fewer.
pub fn sample(examples: Vec<Example>, n: usize, seed: u64) -> Vec<Example> {
    let mut rows: Vec<usize> = (0..examples.len()).collect();
    rows.shuffle(&mut rng_of(seed, "sample"));
    rows.truncate(n);
    let kept: BTreeSet<usize> = rows.into_iter().collect();
    let rows = examples.into_iter().enumerate();
    rows.filter(|(row, _)| kept.contains(row))
        .map(|(_, example)| example)
        .collect()
}

/// The rows of each label, in order.
fn by_label(examples: &[Example]) -> Result<BTreeMap<String, Vec<usize>>, DataError> {
    let mut groups = BTreeMap::<String, Vec<usize>>::new();
    for (row, example) in examples.iter().enumerate() {
        groups
            .entry(label_of(example)?.to_owned())
            .or_default()
            .push(row);
    }
    Ok(groups)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::collection::vec;
    use proptest::prelude::{prop_assert, prop_assert_eq, proptest};

    use super::{Fractions, k_shot, split};
    use crate::error::DataError;
    use crate::example::Example;
    use crate::example::tests::example;

    fn examples(labels: &[u8]) -> Vec<Example> {
        labels
            .iter()
            .enumerate()
            .map(|(index, label)| example(index + 1, &label.to_string()))
            .collect()
    }

    fn lines(examples: &[Example]) -> Vec<usize> {
        examples.iter().map(|example| example.origin.line).collect()
    }

    fn counts(examples: &[Example]) -> BTreeMap<&str, usize> {
        let mut counts = BTreeMap::new();
        for example in examples {
            *counts.entry(example.label.as_deref().unwrap()).or_default() += 1;
        }
        counts
    }

    #[test]
    fn shots_without_seed_are_the_first_of_each_label() {
        let all = examples(&[1, 1, 2, 1, 2, 2, 3]);
        assert_eq!(
            lines(&k_shot(all.clone(), 2, None).unwrap()),
            [1, 2, 3, 5, 7]
        );
        assert_eq!(k_shot(all.clone(), 9, None).unwrap(), all);
    }

    #[test]
    fn shots_and_splits_depend_on_the_seed_alone() {
        let all = examples(&[7; 40]);
        let drawn = |seed| lines(&k_shot(all.clone(), 5, Some(seed)).unwrap());
        assert_eq!(drawn(1), drawn(1));
        assert_ne!(drawn(1), drawn(2));
        let fractions = Fractions {
            select: 0.25,
            report: 0.25,
        };
        let divided = |seed| split(all.clone(), fractions, seed, false).unwrap();
        assert_eq!(divided(1), divided(1));
        assert_ne!(lines(&divided(1).select), lines(&divided(2).select));
    }

    #[test]
    fn shares_that_leave_no_fit_are_refused() {
        for (select, report) in [(0.5, 0.5), (-0.1, 0.0), (f64::NAN, 0.0), (0.0, 1.0)] {
            let divided = split(examples(&[1, 2]), Fractions { select, report }, 0, true);
            assert!(
                matches!(divided, Err(DataError::Fractions { .. })),
                "{select} {report}"
            );
        }
    }

    proptest! {
        #[test]
        fn splits_are_disjoint_and_cover_all(
            labels in vec(0u8..6, 0..120), select in 0.0..0.5, report in 0.0..0.49, seed: u64, stratified: bool,
        ) {
            let all = examples(&labels);
            let parts = split(all.clone(), Fractions { select, report }, seed, stratified).unwrap();
            let mut together = Vec::new();
            for part in [&parts.fit, &parts.select, &parts.report] {
                prop_assert!(lines(part).is_sorted(), "the original order is kept");
                together.extend(lines(part));
            }
            together.sort_unstable();
            prop_assert_eq!(together, lines(&all));

            let wanted = select * all.len() as f64;
            if stratified {
                let fit = counts(&parts.fit);
                prop_assert_eq!(fit.len(), counts(&all).len(), "every label stays in fit");
                for (label, count) in counts(&parts.select) {
                    let due = select * counts(&all)[label] as f64;
                    prop_assert!((count as f64) < due + 2.0, "{} of label {}", count, label);
                }
            } else {
                prop_assert!((parts.select.len() as f64 - wanted).abs() <= 1.0);
            }
        }

        #[test]
        fn k_shot_respects_shots(labels in vec(0u8..6, 0..120), shots in 0usize..20, seed: Option<u64>) {
            let all = examples(&labels);
            let kept = k_shot(all.clone(), shots, seed).unwrap();
            prop_assert!(lines(&kept).is_sorted_by(|a, b| a < b));
            let (have, keep) = (counts(&all), counts(&kept));
            for (label, have) in have {
                prop_assert_eq!(keep.get(label).copied().unwrap_or(0), have.min(shots));
            }
        }
    }
}

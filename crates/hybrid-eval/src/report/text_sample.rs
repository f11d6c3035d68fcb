//! A plausible report for tests of a task whose answers are texts.

use std::collections::BTreeMap;

use super::sample::sample;
use crate::{
    Comparison, DataSummary, Final, Generalisation, Report, Resamples, TargetReport, TextFigures,
    TextReport, TextTask,
};

const SENTENCES: [&str; 6] = [
    "The train to the coast leaves at noon.",
    "She has read the whole report, but not the notes.",
    "It rains.",
    "Our neighbours keep two dogs and an old cat.",
    "Nobody knew where the key was.",
    "The bridge was built in 1889.",
];

/// A report over 24 texts.
pub(crate) fn text_sample(task: TextTask) -> Report {
    let references: Vec<[&str; 1]> = (0..24).map(|row| [SENTENCES[row % 6]]).collect();
    let inputs: Vec<String> = (0..24)
        .map(|row| format!("{}. {}", row + 1, SENTENCES[row % 6].to_uppercase()))
        .collect();
    let outputs = said(|row| row % 3 == 0);
    let resamples = Resamples::seeded(24, 200, 0).expect("not empty");
    let measure =
        |outputs: &[String]| TextFigures::of(task, outputs, &references).expect("one text each");
    let (figures, earlier) = (measure(&outputs), measure(&said(|row| row % 3 != 1)));
    let intervals = figures.intervals(&resamples).expect("same rows");
    let metric = task.deciding().to_owned();
    let value = figures.by_name()[&metric];
    let mut report = sample();
    let steps = report.candidates.len();
    for (step, candidate) in report.candidates.iter_mut().enumerate() {
        let share = (1.0 + step as f64) / steps as f64;
        candidate.prompt.label_words.clear();
        candidate.select = BTreeMap::from([(metric.clone(), share * value)]);
        if let Some(adapter) = &mut candidate.adapter {
            adapter.head = None;
        }
    }
    Report {
        task: "notes".to_owned(),
        base: "google/flan-t5-small".to_owned(),
        target: Some(TargetReport {
            metric: metric.clone(),
            value: 0.9 * value,
            reached: true,
        }),
        data: DataSummary {
            labels: 0,
            report: 24,
            ..report.data
        },
        final_result: Final {
            metric: metric.clone(),
            value,
            interval: intervals[&metric],
            per_metric: figures.by_name(),
            intervals,
            ..report.final_result
        },
        generalisation: Generalisation::of(&metric, value, value),
        comparisons: vec![Comparison {
            metric: metric.clone(),
            result: figures
                .compare(&earlier, &metric, &resamples)
                .expect("same rows"),
            ..report.comparisons.remove(0)
        }],
        confusion: None,
        calibration: None,
        texts: Some(TextReport::of(task, &inputs, &references, &outputs).expect("same rows")),
        ..report
    }
}

/// Outputs that lack their last word where `is_cut`.
fn said(is_cut: impl Fn(usize) -> bool) -> Vec<String> {
    let output = |row: usize| {
        let sentence = SENTENCES[row % 6];
        let end = sentence.rfind(' ').filter(|_| is_cut(row));
        sentence[..end.unwrap_or(sentence.len())].to_owned()
    };
    (0..24).map(output).collect()
}

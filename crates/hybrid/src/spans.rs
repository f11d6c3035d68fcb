//! Answers out of passages by an encoder with a span head (Devlin et al. 2019, section 4.2).
//!
//! A long passage is read in windows. Over all of its windows together, the start and the end of
//! the answer each have a softmax over the passage's tokens, so that no window gives an answer just
//! because it has none (Clark and Gardner 2018, section 3.2, shared normalisation). Without a head
//! nothing is known: every token is as likely a start and an end, and the first one is the answer.
//! That is the baseline: chance.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use hybrid_data::{Example, PassageReader, Window};
use hybrid_eval::log_softmax;

use crate::HybridError;
use crate::local_model::{LocalModel, SpanLogits};
use crate::recipe::{PassageConfig, Task};

/// The field of the question.
pub(crate) const QUESTION: &str = "question";
/// The field of the passage that answers it.
pub(crate) const PASSAGE: &str = "context";

/// Whether this base does this task by naming spans.
pub(crate) fn are_asked(task: Task, model: &LocalModel) -> bool {
    task == Task::QuestionAnswering && !model.is_language_model()
}

/// A passage as the model has read it for a question.
pub(crate) struct ReadPassage<'p> {
    text: &'p str,
    windows: Vec<Window>,
    /// Log-probabilities of start and end, by window.
    log_probabilities: Vec<[Vec<f64>; 2]>,
}

/// A piece of a passage.
pub(crate) struct Span<'p> {
    pub(crate) text: &'p str,
    /// Where it starts, in Unicode code points.
    pub(crate) start: usize,
    pub(crate) probability: f64,
}

/// Has the model read the passage of each example.
///
/// # Errors
/// [`HybridError::Data`] when the tokenizer refuses a text, [`HybridError::Interrupted`].
pub(crate) fn read<'p>(
    model: &mut LocalModel,
    config: &PassageConfig,
    inputs: impl Iterator<Item = &'p BTreeMap<String, String>>,
) -> Result<Vec<ReadPassage<'p>>, HybridError> {
    let pairs: Vec<(&str, &str)> = inputs.map(pair).collect();
    let windows = PassageReader::new(&model.tokenizer, config.stride)?.read(&pairs)?;
    let all: Vec<&Window> = windows.iter().flatten().collect();
    let mut logits = model.span_logits(&all)?.into_iter();
    let read = windows.into_iter().zip(pairs).map(|(windows, (_, text))| {
        let logits: Vec<SpanLogits> = logits.by_ref().take(windows.len()).collect();
        ReadPassage {
            text,
            log_probabilities: normalised(&logits),
            windows,
        }
    });
    Ok(read.collect())
}

fn pair(fields: &BTreeMap<String, String>) -> (&str, &str) {
    let field = |name: &str| fields.get(name).map_or("", String::as_str);
    (field(QUESTION), field(PASSAGE))
}

/// Log-probabilities over the tokens of all windows together.
fn normalised(logits: &[SpanLogits]) -> Vec<[Vec<f64>; 2]> {
    let sides = [0, 1].map(|side| {
        let all = logits.iter().flat_map(|window| &window[side]);
        let all: Vec<f64> = all.map(|logit| f64::from(*logit)).collect();
        log_softmax(&all)
    });
    let mut begin = 0;
    let windows = logits.iter().map(|window| {
        let places = begin..begin + window[0].len();
        begin = places.end;
        [0, 1].map(|side| sides[side][places.clone()].to_vec())
    });
    windows.collect()
}

impl ReadPassage<'_> {
    /// The most probable span of at most so many tokens, the first of equals; nothing where there
    /// is no token.
    pub(crate) fn best(&self, max_length: usize) -> Option<Span<'_>> {
        let mut best: Option<(f64, Range<usize>)> = None;
        for (window, [starts, ends]) in self.windows.iter().zip(&self.log_probabilities) {
            let Some((first, last)) = best_span(starts, ends, max_length) else {
                continue;
            };
            let score = starts[first] + ends[last];
            if best.as_ref().is_none_or(|(known, _)| score > *known) {
                best = Some((score, window.bytes_of(first, last)));
            }
        }
        let (score, bytes) = best?;
        // All windows that hold the span speak for it.
        let log_probability = self.log_probability(&bytes).unwrap_or(score);
        Some(Span {
            text: self.text[bytes.clone()].trim(),
            start: self.text[..bytes.start].chars().count(),
            probability: log_probability.exp(),
        })
    }

    /// The log-probability that the answer starts and ends as these bytes do, over all windows
    /// that hold them; nothing when none does.
    pub(crate) fn log_probability(&self, bytes: &Range<usize>) -> Option<f64> {
        let mut probabilities = [0.0; 2];
        for (window, [starts, ends]) in self.windows.iter().zip(&self.log_probabilities) {
            if let Some((first, last)) = window.tokens_of(bytes) {
                probabilities[0] += starts[first].exp();
                probabilities[1] += ends[last].exp();
            }
        }
        let found = probabilities.iter().all(|probability| *probability > 0.0);
        found.then(|| {
            probabilities
                .iter()
                .map(|probability| probability.ln())
                .sum()
        })
    }
}

/// The places with the highest sum of a start and an end that is not before it and fewer than
/// `max_length` places behind it; the first end of equals, and its first start. A queue holds the
/// starts that may still be the best of an end, the best one first.
fn best_span(starts: &[f64], ends: &[f64], max_length: usize) -> Option<(usize, usize)> {
    let mut best: Option<(f64, (usize, usize))> = None;
    let mut queue: VecDeque<usize> = VecDeque::new();
    for (last, (start, end)) in starts.iter().zip(ends).enumerate() {
        while queue.back().is_some_and(|place| starts[*place] < *start) {
            queue.pop_back();
        }
        queue.push_back(last);
        if queue[0] + max_length <= last {
            queue.pop_front();
        }
        let Some(first) = queue.front().copied() else {
            continue;
        };
        let score = starts[first] + end;
        if best.is_none_or(|(known, _)| score > known) {
            best = Some((score, (first, last)));
        }
    }
    best.map(|(_, span)| span)
}

/// A window that holds the wanted answer, as its first and last token of the passage there.
pub(crate) struct LabelledWindow {
    pub(crate) window: Window,
    pub(crate) first: usize,
    pub(crate) last: usize,
}

/// The windows that hold the wanted answer of their example; the others teach nothing.
///
/// # Errors
/// [`HybridError::Data`] when an answer is not where it is said to start, or when the tokenizer
/// refuses a text.
pub(crate) fn labelled_windows(
    model: &LocalModel,
    config: &PassageConfig,
    examples: &[Example],
) -> Result<Vec<LabelledWindow>, HybridError> {
    let pairs: Vec<(&str, &str)> = examples
        .iter()
        .map(|example| pair(&example.fields))
        .collect();
    let windows = PassageReader::new(&model.tokenizer, config.stride)?.read(&pairs)?;
    let mut labelled = Vec::new();
    for (example, windows) in examples.iter().zip(windows) {
        let Some(bytes) = example.label_in(PASSAGE)? else {
            continue;
        };
        labelled.extend(windows.into_iter().filter_map(|window| {
            let (first, last) = window.tokens_of(&bytes)?;
            Some(LabelledWindow {
                window,
                first,
                last,
            })
        }));
    }
    Ok(labelled)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::{prop_assert, prop_assert_eq, proptest};

    use super::{best_span, normalised};

    /// The highest score of all allowed pairs.
    fn by_trial(starts: &[f64], ends: &[f64], max_length: usize) -> Option<f64> {
        let mut best: Option<f64> = None;
        for (first, start) in starts.iter().enumerate() {
            for end in ends.iter().skip(first).take(max_length) {
                best = Some(best.map_or(start + end, |known| known.max(start + end)));
            }
        }
        best
    }

    #[test]
    fn the_first_of_equal_spans_is_the_best() {
        assert_eq!(best_span(&[0.0; 4], &[0.0; 4], 3), Some((0, 0)));
        let (starts, ends) = ([1.0, 0.0, 1.0], [0.0, 2.0, 2.0]);
        assert_eq!(best_span(&starts, &ends, 3), Some((0, 1)));
        assert_eq!(
            best_span(&starts, &ends, 1),
            Some((2, 2)),
            "too long before"
        );
        assert_eq!(best_span(&[], &[], 3), None);
        // The best end comes before the best start.
        assert_eq!(best_span(&[0.0, 5.0], &[5.0, 0.0], 2), Some((0, 0)));
    }

    #[test]
    fn windows_share_one_total() {
        let logits = [[vec![0.0, 0.0], vec![0.0, 3.0]], [vec![0.0], vec![1.0]]];
        let windows = normalised(&logits);
        let third = (1.0f64 / 3.0).ln();
        assert!(
            windows
                .iter()
                .flat_map(|window| &window[0])
                .all(|x| (x - third).abs() < 1e-9)
        );
        let ends = windows.iter().flat_map(|window| &window[1]);
        let total: f64 = ends.map(|x| x.exp()).sum();
        assert!((total - 1.0).abs() < 1e-9);
        assert!((windows[0][1][1] - windows[1][1][0] - 2.0).abs() < 1e-9);
    }

    proptest! {
        #[test]
        fn the_best_span_is_the_best_of_all(
            scores in vec((-3i8..3, -3i8..3), 0..24), max_length in 1usize..8,
        ) {
            let (starts, ends): (Vec<f64>, Vec<f64>) =
                scores.iter().map(|(start, end)| (f64::from(*start), f64::from(*end))).unzip();
            let found = best_span(&starts, &ends, max_length);
            if let Some((first, last)) = found {
                prop_assert!(first <= last && last - first < max_length);
            }
            let score = found.map(|(first, last)| starts[first] + ends[last]);
            prop_assert_eq!(score, by_trial(&starts, &ends, max_length));
        }
    }
}

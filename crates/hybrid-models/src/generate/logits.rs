//! What changes the scores of the next token before one is chosen, as Transformers' logits
//! processors do.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ModelError;

/// One change of the scores of the next token. Removed tokens get the score `-inf`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogitsProcessor {
    /// Divides all scores: below 1 likely tokens become likelier.
    Temperature(f64),
    /// Keeps this many of the best tokens, and those equal to the last of them.
    TopK(usize),
    /// Keeps the most likely tokens until they have this share of the probability (Holtzman et al.
    /// 2020, section 3.1).
    TopP(f64),
    /// Keeps tokens with at least this share of the best one's probability (Nguyen et al. 2024).
    MinP(f64),
    /// Keeps the tokens whose surprise is nearest to the expected one until they have this share of
    /// the probability (Meister et al. 2022).
    Typical(f64),
    /// Keeps tokens of at least this probability (Hewitt et al. 2022).
    Epsilon(f64),
    /// Makes tokens that have occurred less likely: positive scores are divided, negative ones
    /// multiplied (Keskar et al. 2019, section 4.1).
    RepetitionPenalty(f64),
    /// Removes tokens that would repeat a sequence of this many tokens.
    NoRepeatNgram(usize),
    /// Removes tokens until the sequence, prompt included, has a length.
    MinLength {
        /// Tokens before which none of `eos_ids` may come.
        length: usize,
        /// The tokens that end a sequence.
        eos_ids: Vec<i64>,
    },
    /// Removes tokens that would complete one of these sequences.
    BadWords(Vec<Vec<i64>>),
}

impl LogitsProcessor {
    /// Refuses settings that mean nothing.
    ///
    /// # Errors
    /// [`ModelError::GenerationSetting`].
    pub fn validate(&self) -> Result<(), ModelError> {
        let (key, expected, fits, found) = match self {
            Self::Temperature(value) => ("temperature", "more than 0", *value > 0.0, value),
            Self::RepetitionPenalty(value) => {
                ("repetition_penalty", "more than 0", *value > 0.0, value)
            }
            Self::TopP(value) => ("top_p", "from 0 to 1", (0.0..=1.0).contains(value), value),
            Self::MinP(value) => ("min_p", "from 0 to 1", (0.0..=1.0).contains(value), value),
            Self::Typical(value) => (
                "typical",
                "between 0 and 1",
                *value > 0.0 && *value < 1.0,
                value,
            ),
            Self::Epsilon(value) => (
                "epsilon",
                "between 0 and 1",
                *value > 0.0 && *value < 1.0,
                value,
            ),
            Self::TopK(0) => ("top_k", "1 or more", false, &0.0),
            Self::NoRepeatNgram(0) => ("no_repeat_ngram", "1 or more", false, &0.0),
            Self::BadWords(words) if words.iter().any(Vec::is_empty) => {
                ("bad_words", "1 token or more in each", false, &0.0)
            }
            Self::TopK(_) | Self::NoRepeatNgram(_) | Self::MinLength { .. } | Self::BadWords(_) => {
                return Ok(());
            }
        };
        match fits && found.is_finite() {
            true => Ok(()),
            false => Err(ModelError::GenerationSetting {
                key,
                expected,
                found: found.to_string(),
            }),
        }
    }

    /// Changes `scores`, one a token of the vocabulary, after the tokens `ids`, prompt included.
    pub fn apply(&self, ids: &[i64], scores: &mut [f32]) {
        match self {
            Self::Temperature(temperature) => {
                for score in scores {
                    *score = (f64::from(*score) / temperature) as f32;
                }
            }
            Self::TopK(k) => {
                if *k < scores.len() {
                    let mut best = scores.to_vec();
                    let (_, least, _) = best.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
                    let least = *least;
                    keep(scores, |_, score| score >= least);
                }
            }
            Self::TopP(share) => {
                let probabilities = softmax(scores);
                // From the least likely upward, as the sums below the threshold are compared.
                let mut below = 0.0;
                let mut order: Vec<usize> = (0..scores.len())
                    .filter(|token| scores[*token] > f32::NEG_INFINITY)
                    .collect();
                order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
                for (rank, token) in order.into_iter().enumerate().rev() {
                    below += probabilities[token];
                    if rank > 0 && below <= 1.0 - share {
                        scores[token] = f32::NEG_INFINITY;
                    }
                }
            }
            Self::MinP(share) => {
                let probabilities = softmax(scores);
                let best = argmax(scores);
                let least = share * probabilities[best];
                keep(scores, |token, _| {
                    token == best || probabilities[token] >= least
                });
            }
            Self::Typical(mass) => keep_typical(scores, *mass),
            Self::Epsilon(least) => {
                let probabilities = softmax(scores);
                let best = scores[argmax(scores)];
                keep(scores, |token, score| {
                    score >= best || probabilities[token] >= *least
                });
            }
            Self::RepetitionPenalty(penalty) => {
                let mut seen: Vec<usize> = ids
                    .iter()
                    .filter_map(|id| usize::try_from(*id).ok())
                    .collect();
                seen.sort_unstable();
                seen.dedup();
                for token in seen {
                    if let Some(score) = scores.get_mut(token) {
                        let value = f64::from(*score);
                        *score = if value < 0.0 {
                            value * penalty
                        } else {
                            value / penalty
                        } as f32;
                    }
                }
            }
            Self::NoRepeatNgram(size) => {
                if let Some(start) = (ids.len() + 1).checked_sub(*size) {
                    let last = &ids[start..];
                    let repeated = ids.windows(*size).filter(|window| window.starts_with(last));
                    remove(scores, repeated.map(|window| window[size - 1]));
                }
            }
            Self::MinLength { length, eos_ids } => {
                if ids.len() < *length {
                    remove(scores, eos_ids.iter().copied());
                }
            }
            Self::BadWords(words) => {
                let completed = words.iter().filter_map(|word| {
                    let (last, start) = word.split_last()?;
                    ids.ends_with(start).then_some(*last)
                });
                remove(scores, completed);
            }
        }
    }
}

fn keep(scores: &mut [f32], kept: impl Fn(usize, f32) -> bool) {
    for (token, score) in scores.iter_mut().enumerate() {
        if !kept(token, *score) {
            *score = f32::NEG_INFINITY;
        }
    }
}

fn remove(scores: &mut [f32], tokens: impl Iterator<Item = i64>) {
    for token in tokens {
        if let Some(score) = usize::try_from(token)
            .ok()
            .and_then(|token| scores.get_mut(token))
        {
            *score = f32::NEG_INFINITY;
        }
    }
}

fn keep_typical(scores: &mut [f32], mass: f64) {
    let logs = log_softmax(scores);
    let probabilities = softmax(scores);
    // A removed token takes no part: its 0 * -inf is no number.
    let terms = logs.iter().zip(&probabilities).filter(|(_, p)| **p > 0.0);
    let entropy: f64 = -terms.map(|(log, p)| log * p).sum::<f64>();
    let surprises: Vec<f64> = logs.iter().map(|log| (-log - entropy).abs()).collect();
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| surprises[*a].total_cmp(&surprises[*b]));
    let mut sum = 0.0;
    let last = order.iter().find(|token| {
        sum += probabilities[**token];
        sum >= mass
    });
    let (Some(first), Some(last)) = (order.first(), last.or(order.last())) else {
        return;
    };
    let (first, most) = (*first, surprises[*last]);
    keep(scores, |token, _| {
        token == first || surprises[token] <= most
    });
}

/// The first token of the best score.
pub(crate) fn argmax(scores: &[f32]) -> usize {
    let better = |best: usize, token: usize| {
        if scores[token] > scores[best] {
            token
        } else {
            best
        }
    };
    (0..scores.len()).reduce(better).unwrap_or(0)
}

pub(crate) fn log_softmax(scores: &[f32]) -> Vec<f64> {
    let best = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let shifted = scores
        .iter()
        .map(|score| f64::from(*score) - f64::from(best));
    let total: f64 = shifted.clone().map(f64::exp).sum();
    shifted.map(|score| score - total.ln()).collect()
}

pub(crate) fn softmax(scores: &[f32]) -> Vec<f64> {
    log_softmax(scores).into_iter().map(f64::exp).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, proptest};

    use super::LogitsProcessor;
    use crate::ModelError;

    fn kept(processor: &LogitsProcessor, ids: &[i64], scores: &[f32]) -> Vec<usize> {
        let mut scores = scores.to_vec();
        processor.apply(ids, &mut scores);
        (0..scores.len())
            .filter(|token| scores[*token] > f32::NEG_INFINITY)
            .collect()
    }

    /// Probabilities 0.5, 0.3, 0.15 and 0.05, out of order.
    fn scores() -> Vec<f32> {
        [0.15f32, 0.5, 0.05, 0.3].map(f32::ln).to_vec()
    }

    #[test]
    fn shares_keep_the_likely_tokens() {
        let kept = |processor| kept(&processor, &[], &scores());
        assert_eq!(kept(LogitsProcessor::TopK(2)), [1, 3]);
        assert_eq!(kept(LogitsProcessor::TopK(9)), [0, 1, 2, 3]);
        assert_eq!(kept(LogitsProcessor::TopP(0.75)), [1, 3]);
        assert_eq!(kept(LogitsProcessor::TopP(0.85)), [0, 1, 3]);
        assert_eq!(kept(LogitsProcessor::TopP(0.0)), [1]);
        assert_eq!(kept(LogitsProcessor::MinP(0.25)), [0, 1, 3]);
        assert_eq!(kept(LogitsProcessor::Epsilon(0.2)), [1, 3]);
        assert_eq!(kept(LogitsProcessor::Epsilon(0.9)), [1]);
    }

    #[test]
    fn sequences_that_must_not_come_do_not_come() {
        let flat = [0.0; 6];
        let ids = [1, 2, 3, 1, 2];
        let kept = |processor| kept(&processor, &ids, &flat);
        assert_eq!(kept(LogitsProcessor::NoRepeatNgram(3)), [0, 1, 2, 4, 5]);
        assert_eq!(kept(LogitsProcessor::NoRepeatNgram(1)), [0, 4, 5]);
        assert_eq!(kept(LogitsProcessor::NoRepeatNgram(9)), [0, 1, 2, 3, 4, 5]);
        let words = vec![vec![4], vec![1, 2, 5], vec![3, 0], vec![77]];
        assert_eq!(kept(LogitsProcessor::BadWords(words)), [0, 1, 2, 3]);
        let min_length = |length| LogitsProcessor::MinLength {
            length,
            eos_ids: vec![0, 3],
        };
        assert_eq!(kept(min_length(6)), [1, 2, 4, 5]);
        assert_eq!(kept(min_length(5)), [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn repeated_tokens_become_less_likely_once() {
        let mut scores = [2.0, -2.0, 1.0, 0.5];
        LogitsProcessor::RepetitionPenalty(2.0).apply(&[0, 1, 0, 1, 99, -1], &mut scores);
        assert_eq!(scores, [1.0, -4.0, 1.0, 0.5]);
    }

    #[test]
    fn settings_that_mean_nothing_are_refused_by_name() {
        for (processor, key) in [
            (LogitsProcessor::Temperature(0.0), "temperature"),
            (LogitsProcessor::Temperature(f64::NAN), "temperature"),
            (LogitsProcessor::TopK(0), "top_k"),
            (LogitsProcessor::TopP(1.5), "top_p"),
            (LogitsProcessor::MinP(-0.1), "min_p"),
            (LogitsProcessor::Typical(1.0), "typical"),
            (LogitsProcessor::Epsilon(0.0), "epsilon"),
            (
                LogitsProcessor::RepetitionPenalty(-1.0),
                "repetition_penalty",
            ),
            (LogitsProcessor::NoRepeatNgram(0), "no_repeat_ngram"),
            (LogitsProcessor::BadWords(vec![vec![]]), "bad_words"),
        ] {
            match processor.validate() {
                Err(ModelError::GenerationSetting { key: found, .. }) => assert_eq!(found, key),
                other => panic!("{key}: {other:?}"),
            }
        }
        assert!(LogitsProcessor::TopP(0.0).validate().is_ok());
    }

    proptest! {
        /// Whatever is removed, a token is left, and the best one is.
        #[test]
        fn the_best_token_stays(scores in prop::collection::vec(-20.0f32..20.0, 1..50), share in 0.0f64..1.0, k in 1usize..60) {
            let best = super::argmax(&scores);
            for processor in [LogitsProcessor::TopK(k), LogitsProcessor::TopP(share), LogitsProcessor::MinP(share), LogitsProcessor::Epsilon(share)] {
                assert!(kept(&processor, &[], &scores).contains(&best), "{processor:?}");
            }
            assert!(!kept(&LogitsProcessor::Typical(share.max(0.01)), &[], &scores).is_empty());
        }

        #[test]
        fn ids_outside_of_the_vocabulary_do_no_harm(ids in prop::collection::vec(any::<i64>(), 0..9)) {
            let mut scores = [0.0, 1.0];
            for processor in [LogitsProcessor::RepetitionPenalty(2.0), LogitsProcessor::NoRepeatNgram(2), LogitsProcessor::BadWords(vec![ids.clone(), vec![1]])] {
                processor.apply(&ids, &mut scores);
            }
        }
    }
}

//! BLEU (Papineni et al. 2002), as sacreBLEU (Post 2018) defines it.

use std::collections::HashMap;
use std::iter::Sum;

use serde::{Deserialize, Serialize};

use super::corpus::{CorpusMetric, yes_or_no};
use super::mteval::BleuTokenizer;
use super::ngrams::{NgramCounts, ngrams, overlap};
use super::words::{trim_end, words};

/// Longest n-grams that count.
const MAX_ORDER: usize = 4;

/// Stands in for the logarithm of 0.
const LOG_OF_ZERO: f64 = -9_999_999_999.0;

/// BLEU in percent: the geometric mean of the precisions of 1-grams to 4-grams, times a penalty for
/// being shorter than the reference.
///
/// ```
/// use hybrid_eval::{Bleu, CorpusMetric};
///
/// let hypotheses = ["The cat sat on the mat.", "He left."];
/// let references = [["The cat sat on a mat.", "A cat sat there."], ["He left early.", "He went."]];
/// let bleu = Bleu::default();
/// let score = bleu.score(&bleu.counts(&hypotheses, &references)?.iter().sum());
/// assert_eq!(score.counts, [9.0, 5.0, 2.0, 1.0]);
/// assert_eq!(score.totals, [10.0, 8.0, 6.0, 4.0]);
/// assert!((score.score - 46.530243).abs() < 1e-6);
///
/// // Short single sentences lack long n-grams: leave these out.
/// let bleu = Bleu { effective_order: true, ..Bleu::default() };
/// assert!((bleu.sentence("He left.", &["He left."])? - 100.0).abs() < 1e-9);
/// # Ok::<(), hybrid_eval::EvalError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bleu {
    /// How words are found.
    pub tokenizer: BleuTokenizer,
    /// What stands in for a precision of 0.
    pub smoothing: Smoothing,
    /// Whether upper and lower case are the same.
    pub lowercase: bool,
    /// Whether orders longer than the hypothesis are left out; wanted for single sentences.
    pub effective_order: bool,
}

/// What stands in for the precision of n-grams of which none matches (Chen & Cherry 2014).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Smoothing {
    /// `exp`: 1/2 of a match for the first such order, 1/4 for the second, and so on (method 3).
    #[default]
    Exponential,
    /// `floor`: 0.1 matches (method 1).
    Floor,
    /// `add-k`: one more match and n-gram in every order over 1 (method 2).
    AddOne,
    /// `none`: the figure is 0.
    None,
}

impl Smoothing {
    /// sacreBLEU's name, with the value where there is one.
    fn name(self) -> &'static str {
        match self {
            Self::Exponential => "exp",
            Self::Floor => "floor[0.10]",
            Self::AddOne => "add-k[1.00]",
            Self::None => "none",
        }
    }
}

/// What BLEU counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BleuCounts {
    /// Words of the hypothesis.
    pub hypothesis_length: u64,
    /// Words of the reference whose length is nearest, the shorter one if two are.
    pub reference_length: u64,
    /// n-grams of the hypothesis that a reference has, for n = 1 to 4.
    pub matches: [u64; MAX_ORDER],
    /// n-grams of the hypothesis.
    pub totals: [u64; MAX_ORDER],
}

impl<'row> Sum<&'row BleuCounts> for BleuCounts {
    fn sum<I: Iterator<Item = &'row BleuCounts>>(rows: I) -> Self {
        rows.fold(Self::default(), |sum, row| Self {
            hypothesis_length: sum.hypothesis_length + row.hypothesis_length,
            reference_length: sum.reference_length + row.reference_length,
            matches: std::array::from_fn(|n| sum.matches[n] + row.matches[n]),
            totals: std::array::from_fn(|n| sum.totals[n] + row.totals[n]),
        })
    }
}

/// BLEU and what it is made of.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct BleuScore {
    /// BLEU in percent.
    pub score: f64,
    /// Matches for n = 1 to 4, after [`Smoothing::AddOne`] where that is chosen.
    pub counts: [f64; MAX_ORDER],
    /// n-grams of the hypotheses, likewise.
    pub totals: [f64; MAX_ORDER],
    /// Smoothed precisions in percent.
    pub precisions: [f64; MAX_ORDER],
    /// `exp(1 - r/c)` if the hypotheses (c) are shorter than the references (r), else 1.
    pub brevity_penalty: f64,
    /// Words of the hypotheses.
    pub hypothesis_length: u64,
    /// Words of the references.
    pub reference_length: u64,
}

impl Bleu {
    /// The figure of summed counts, with what it is made of.
    pub fn score(&self, counts: &BleuCounts) -> BleuScore {
        let mut score = BleuScore {
            score: 0.0,
            counts: counts.matches.map(|count| count as f64),
            totals: counts.totals.map(|count| count as f64),
            precisions: [0.0; MAX_ORDER],
            brevity_penalty: brevity_penalty(counts),
            hypothesis_length: counts.hypothesis_length,
            reference_length: counts.reference_length,
        };
        if counts.matches == [0; MAX_ORDER] {
            return score;
        }
        let mut halved = 1.0;
        let mut order = MAX_ORDER;
        for n in 0..MAX_ORDER {
            if self.smoothing == Smoothing::AddOne && n > 0 {
                score.counts[n] += 1.0;
                score.totals[n] += 1.0;
            }
            if score.totals[n] == 0.0 {
                break;
            }
            if self.effective_order {
                order = n + 1;
            }
            let matched = if score.counts[n] > 0.0 {
                score.counts[n]
            } else {
                match self.smoothing {
                    Smoothing::Exponential => {
                        halved /= 2.0;
                        halved
                    }
                    Smoothing::Floor => 0.1,
                    Smoothing::AddOne | Smoothing::None => 0.0,
                }
            };
            score.precisions[n] = 100.0 * matched / score.totals[n];
        }
        let logarithms = score.precisions[..order].iter().map(|precision| {
            if *precision == 0.0 {
                LOG_OF_ZERO
            } else {
                precision.ln()
            }
        });
        score.score = score.brevity_penalty * (logarithms.sum::<f64>() / order as f64).exp();
        score
    }

    fn tokenize(&self, text: &str) -> String {
        let text = trim_end(text);
        if self.lowercase {
            self.tokenizer.tokenize(&text.to_lowercase())
        } else {
            self.tokenizer.tokenize(text)
        }
    }
}

impl CorpusMetric for Bleu {
    type Counts = BleuCounts;

    fn count(&self, hypothesis: &str, references: &[&str]) -> BleuCounts {
        let hypothesis = self.tokenize(hypothesis);
        let hypothesis: Vec<&str> = words(&hypothesis).collect();
        let references: Vec<String> = references.iter().map(|text| self.tokenize(text)).collect();
        let references: Vec<Vec<&str>> = references
            .iter()
            .map(|text| words(text).collect())
            .collect();
        let lengths = references.iter().map(Vec::len);
        let nearest = lengths.min_by_key(|length| (length.abs_diff(hypothesis.len()), *length));
        let mut counts = BleuCounts {
            hypothesis_length: hypothesis.len() as u64,
            reference_length: nearest.unwrap_or(0) as u64,
            ..BleuCounts::default()
        };
        for n in 0..MAX_ORDER {
            let found = ngrams(&hypothesis, n + 1);
            counts.matches[n] = overlap(&found, &most_in_any(&references, n + 1));
            counts.totals[n] = found.values().sum();
        }
        counts
    }

    fn figure(&self, counts: &BleuCounts) -> f64 {
        self.score(counts).score
    }

    fn settings(&self) -> String {
        format!(
            "case:{}|eff:{}|tok:{}|smooth:{}",
            if self.lowercase { "lc" } else { "mixed" },
            yes_or_no(self.effective_order),
            self.tokenizer.name(),
            self.smoothing.name(),
        )
    }
}

/// How often each n-gram occurs in the reference that has it most often.
fn most_in_any<'t>(references: &'t [Vec<&'t str>], order: usize) -> NgramCounts<'t, &'t str> {
    let mut most = HashMap::new();
    for (ngram, count) in references.iter().flat_map(|words| ngrams(words, order)) {
        let known = most.entry(ngram).or_insert(0);
        *known = count.max(*known);
    }
    most
}

fn brevity_penalty(counts: &BleuCounts) -> f64 {
    if counts.hypothesis_length >= counts.reference_length {
        1.0
    } else if counts.hypothesis_length == 0 {
        0.0
    } else {
        (1.0 - counts.reference_length as f64 / counts.hypothesis_length as f64).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::{Bleu, BleuCounts, CorpusMetric};

    /// Scores of sacreBLEU 2.6.0.
    #[test]
    fn short_and_empty_texts_score_as_in_the_reference() {
        let plain = Bleu::default();
        let effective = Bleu {
            effective_order: true,
            ..plain
        };
        for (hypothesis, reference, score, effective_score) in [
            ("", "a b", 0.0, 0.0),
            ("a b", "", 0.0, 0.0),
            ("", "", 0.0, 0.0),
            ("a", "a", 0.0, 100.0),
            (
                "a b c d",
                "a b c d e f",
                60.653065971263366,
                60.653065971263366,
            ),
        ] {
            let difference = plain.sentence(hypothesis, &[reference]).unwrap() - score;
            assert!(difference.abs() < 1e-9, "{hypothesis:?}");
            let difference =
                effective.sentence(hypothesis, &[reference]).unwrap() - effective_score;
            assert!(difference.abs() < 1e-9, "{hypothesis:?}");
        }
    }

    #[test]
    fn the_nearest_reference_gives_the_length() {
        let counts = Bleu::default().count("a b c", &["a b c d", "a b", "a b c d e f"]);
        assert_eq!(
            counts,
            BleuCounts {
                hypothesis_length: 3,
                reference_length: 2,
                matches: [3, 2, 1, 0],
                totals: [3, 2, 1, 0],
            }
        );
    }
}

//! ROUGE-1, ROUGE-2, ROUGE-L and ROUGE-Lsum (Lin 2004), as rouge_score 0.1.2 defines them.

mod subsequence;

use std::collections::{BTreeSet, HashMap};

use serde::{Deserialize, Serialize};

use super::ngrams::{ngrams, overlap};
use super::porter::porter_stem;
use super::ratio;
use crate::EvalError;

/// Words of more letters than this are stemmed.
const LONGEST_UNSTEMMED: usize = 3;

/// ROUGE, from 0 to 1. Words are runs of ASCII letters and digits in lower case: nothing else counts,
/// so texts without any score 0.
///
/// The figures of a set of examples are means ([`RougeScores::mean`]). Time grows with the product of
/// the numbers of words.
///
/// ```
/// use hybrid_eval::Rouge;
///
/// let rouge = Rouge { stemming: true };
/// let scores = rouge.score("The dogs ran home.", &["A dog runs home", "The dog ran."])?;
/// assert_eq!(scores.rouge_1.precision, 0.75);
/// assert_eq!(scores.rouge_1.recall, 1.0);
/// assert_eq!(rouge.tokenize("Stemming: it's 2 words"), ["stem", "it", "s", "2", "word"]);
/// # Ok::<(), hybrid_eval::EvalError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rouge {
    /// Whether words are compared by their Porter stems.
    pub stemming: bool,
}

/// Precision, recall and their harmonic mean, from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct RougeScore {
    /// Share of the prediction that the reference has.
    pub precision: f64,
    /// Share of the reference that the prediction has.
    pub recall: f64,
    /// Harmonic mean of both, 0 if both are.
    pub f_measure: f64,
}

/// The figures of one prediction, or their means.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct RougeScores {
    /// Common words.
    pub rouge_1: RougeScore,
    /// Common pairs of neighbouring words.
    pub rouge_2: RougeScore,
    /// Longest common subsequence of the whole texts.
    pub rouge_l: RougeScore,
    /// Longest common subsequences sentence by sentence, where each line is a sentence.
    pub rouge_lsum: RougeScore,
}

impl Rouge {
    /// Scores a prediction. Of several references, each figure takes the one with the highest
    /// F-measure, the first if there are more.
    ///
    /// # Errors
    /// [`EvalError::NoReference`] without a reference.
    pub fn score(
        &self,
        prediction: &str,
        references: &[impl AsRef<str>],
    ) -> Result<RougeScores, EvalError> {
        let prediction = Tokens::of(self, prediction);
        let mut scores = references
            .iter()
            .map(|reference| prediction.score(&Tokens::of(self, reference.as_ref())));
        let first = scores.next().ok_or(EvalError::NoReference { row: 0 })?;
        Ok(scores.fold(first, RougeScores::better_of_each))
    }

    /// The words of a text, stemmed if that is chosen.
    pub fn tokenize(&self, text: &str) -> Vec<String> {
        text.to_lowercase()
            .split(|c: char| !c.is_ascii_lowercase() && !c.is_ascii_digit())
            .map(|word| {
                if self.stemming && word.len() > LONGEST_UNSTEMMED {
                    porter_stem(word)
                } else {
                    word.to_owned()
                }
            })
            .filter(|word| !word.is_empty())
            .collect()
    }
}

impl RougeScores {
    /// The means over all rows.
    ///
    /// # Errors
    /// [`EvalError::Empty`] without rows.
    pub fn mean(rows: &[Self]) -> Result<Self, EvalError> {
        if rows.is_empty() {
            return Err(EvalError::Empty {
                what: "ROUGE scores",
            });
        }
        let mean = |figure: fn(&Self) -> RougeScore| {
            let mean = |part: fn(RougeScore) -> f64| {
                rows.iter().map(|row| part(figure(row))).sum::<f64>() / rows.len() as f64
            };
            RougeScore {
                precision: mean(|score| score.precision),
                recall: mean(|score| score.recall),
                f_measure: mean(|score| score.f_measure),
            }
        };
        Ok(Self {
            rouge_1: mean(|row| row.rouge_1),
            rouge_2: mean(|row| row.rouge_2),
            rouge_l: mean(|row| row.rouge_l),
            rouge_lsum: mean(|row| row.rouge_lsum),
        })
    }

    fn better_of_each(self, other: Self) -> Self {
        let better = |a: RougeScore, b: RougeScore| if b.f_measure > a.f_measure { b } else { a };
        Self {
            rouge_1: better(self.rouge_1, other.rouge_1),
            rouge_2: better(self.rouge_2, other.rouge_2),
            rouge_l: better(self.rouge_l, other.rouge_l),
            rouge_lsum: better(self.rouge_lsum, other.rouge_lsum),
        }
    }
}

impl RougeScore {
    fn of(hits: u64, prediction: u64, reference: u64) -> Self {
        let precision = ratio(hits as f64, prediction as f64);
        let recall = ratio(hits as f64, reference as f64);
        Self {
            precision,
            recall,
            f_measure: ratio(2.0 * precision * recall, precision + recall),
        }
    }
}

/// The words of a text, and of each of its lines.
struct Tokens {
    all: Vec<String>,
    lines: Vec<Vec<String>>,
}

impl Tokens {
    fn of(rouge: &Rouge, text: &str) -> Self {
        let lines: Vec<_> = text.split('\n').map(|line| rouge.tokenize(line)).collect();
        Self {
            all: lines.concat(),
            lines,
        }
    }

    fn score(&self, reference: &Self) -> RougeScores {
        let (found, wanted) = (self.all.len() as u64, reference.all.len() as u64);
        let longest = subsequence::length(&reference.all, &self.all);
        RougeScores {
            rouge_1: self.score_ngrams(reference, 1),
            rouge_2: self.score_ngrams(reference, 2),
            rouge_l: RougeScore::of(longest, found, wanted),
            rouge_lsum: RougeScore::of(self.line_hits(reference), found, wanted),
        }
    }

    fn score_ngrams(&self, reference: &Self, order: usize) -> RougeScore {
        let (found, wanted) = (ngrams(&self.all, order), ngrams(&reference.all, order));
        RougeScore::of(
            overlap(&found, &wanted),
            found.values().sum(),
            wanted.values().sum(),
        )
    }

    /// Words of the reference's lines that lie on the longest common subsequence with some line of
    /// the prediction (Lin 2004, section 3.2), no word more often than either side has it.
    fn line_hits(&self, reference: &Self) -> u64 {
        let mut left: HashMap<&str, u64> = HashMap::new();
        for (ngram, count) in ngrams(&self.all, 1) {
            left.insert(&ngram[0], count);
        }
        let mut hits = 0;
        for wanted in &reference.lines {
            let union: BTreeSet<usize> = self
                .lines
                .iter()
                .flat_map(|line| subsequence::indices(wanted, line))
                .collect();
            for index in union {
                if let Some(count) = left.get_mut(wanted[index].as_str())
                    && *count > 0
                {
                    *count -= 1;
                    hits += 1;
                }
            }
        }
        hits
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert, prop_assert_eq, proptest};

    use super::{Rouge, RougeScore, RougeScores};
    use crate::EvalError;

    fn parts(scores: RougeScores) -> [RougeScore; 4] {
        [
            scores.rouge_1,
            scores.rouge_2,
            scores.rouge_l,
            scores.rouge_lsum,
        ]
    }

    #[test]
    fn texts_without_words_score_nothing() {
        let rouge = Rouge::default();
        for (prediction, reference) in [("", ""), ("", "a"), ("a", ""), ("日本", "日本")] {
            let scores = rouge.score(prediction, &[reference]).unwrap();
            assert_eq!(scores, RougeScores::default());
        }
        let none: [&str; 0] = [];
        assert!(matches!(
            rouge.score("a", &none),
            Err(EvalError::NoReference { .. })
        ));
        assert!(matches!(
            RougeScores::mean(&[]),
            Err(EvalError::Empty { .. })
        ));
    }

    #[test]
    fn each_figure_takes_its_best_reference() {
        let scores = Rouge::default()
            .score("a b c d", &["d c b a", "a b x y"])
            .unwrap();
        assert_eq!(scores.rouge_1.f_measure, 1.0);
        assert_eq!(scores.rouge_2.f_measure, 1.0 / 3.0);
        assert_eq!(scores.rouge_l.f_measure, 0.5);
    }

    /// The order of sentences does not count for ROUGE-Lsum, but does for ROUGE-L.
    #[test]
    fn lines_are_sentences() {
        let scores = Rouge::default().score("c d\na b", &["a b\nc d"]).unwrap();
        assert_eq!(scores.rouge_l.f_measure, 0.5);
        assert_eq!(scores.rouge_lsum.f_measure, 1.0);
    }

    proptest! {
        #[test]
        fn any_text_has_figures(
            prediction in "([a-c]{1,2}[ \n]|\\PC){0,20}",
            reference in "([a-c]{1,2}[ \n]|\\PC){0,20}",
            stemming: bool,
        ) {
            let rouge = Rouge { stemming };
            let scores = parts(rouge.score(&prediction, &[&reference]).unwrap());
            let swapped = parts(rouge.score(&reference, &[&prediction]).unwrap());
            for (score, swapped) in scores.into_iter().zip(swapped).take(3) {
                prop_assert!((0.0..=1.0).contains(&score.f_measure));
                prop_assert_eq!(score.precision, swapped.recall);
            }
            if !prediction.contains('\n') && !reference.contains('\n') {
                prop_assert_eq!(scores[3], scores[2]);
            }
            let same = rouge.score(&prediction, &[&prediction]).unwrap();
            let has_words = !rouge.tokenize(&prediction).is_empty();
            prop_assert_eq!(same.rouge_lsum.f_measure, f64::from(has_words));
        }
    }
}

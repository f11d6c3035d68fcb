//! Translation edit rate (Snover et al. 2006), as sacreBLEU's port of Tercom defines it.

mod edit_distance;
mod shift;

use std::collections::HashMap;
use std::iter::Sum;

use serde::{Deserialize, Serialize};

use super::corpus::{CorpusMetric, yes_or_no};
use super::mteval::{is_western_punctuation, split_periods_and_dashes, surround, unescape};
use super::words::{single_spaced, trim_end, words};

/// TER in percent: insertions, deletions, substitutions and shifts of blocks that turn the hypothesis
/// into its nearest reference, over the mean length of its references. Lower is better, and 100 is
/// no bound.
///
/// Case is ignored. As in Tercom, shifts are searched greedily, a block moves by at most 50 words, and
/// the search in a row ends after 1,000 shifts.
///
/// ```
/// use hybrid_eval::{CorpusMetric, Ter};
///
/// // One shift, four words.
/// assert_eq!(Ter::default().sentence("mat on the cat", &["cat on the mat"])?, 50.0);
/// assert_eq!(Ter::default().sentence("on the mat cat", &["Cat on the mat"])?, 25.0);
/// # Ok::<(), hybrid_eval::EvalError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ter {
    /// Whether punctuation is parted from words, as in Tercom's `-N`.
    pub normalized: bool,
    /// Whether punctuation is dropped, as in Tercom's `-P`.
    pub no_punctuation: bool,
}

/// What TER counts.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct TerCounts {
    /// Edits.
    pub edits: u64,
    /// Words of the references: in each row their mean over its references.
    pub reference_length: f64,
}

impl<'row> Sum<&'row TerCounts> for TerCounts {
    fn sum<I: Iterator<Item = &'row TerCounts>>(rows: I) -> Self {
        rows.fold(Self::default(), |sum, row| Self {
            edits: sum.edits + row.edits,
            reference_length: sum.reference_length + row.reference_length,
        })
    }
}

impl Ter {
    fn tokenize(&self, text: &str) -> String {
        let mut text = trim_end(text).to_lowercase();
        if self.normalized {
            let joined = text.replace("\n-", "").replace('\n', " ");
            let parted = surround(&format!(" {} ", unescape(&joined)), is_western_punctuation);
            text = split_periods_and_dashes(&parted.replace("'s ", " 's "));
        }
        if self.no_punctuation {
            text.retain(|c| !matches!(c, '.' | ',' | '?' | ':' | ';' | '!' | '"' | '(' | ')'));
        }
        single_spaced(&text)
    }
}

impl CorpusMetric for Ter {
    type Counts = TerCounts;

    fn count(&self, hypothesis: &str, references: &[&str]) -> TerCounts {
        let hypothesis = self.tokenize(hypothesis);
        // sacreBLEU tokenizes references twice, which shows in words such as `'s's's`.
        let references: Vec<String> = references
            .iter()
            .map(|text| self.tokenize(&self.tokenize(text)))
            .collect();
        let mut numbers = HashMap::new();
        let hypothesis = numbered(&hypothesis, &mut numbers);
        let mut fewest = None;
        let mut length = 0;
        for reference in &references {
            let reference = numbered(reference, &mut numbers);
            let edits = shift::edits(&hypothesis, &reference);
            fewest = Some(fewest.map_or(edits, |known: u64| known.min(edits)));
            length += reference.len();
        }
        TerCounts {
            edits: fewest.unwrap_or(hypothesis.len() as u64),
            reference_length: length as f64 / references.len().max(1) as f64,
        }
    }

    fn figure(&self, counts: &TerCounts) -> f64 {
        if counts.reference_length > 0.0 {
            100.0 * (counts.edits as f64 / counts.reference_length)
        } else if counts.edits > 0 {
            100.0
        } else {
            0.0
        }
    }

    fn settings(&self) -> String {
        format!(
            "case:lc|tok:tercom|norm:{}|punct:{}|asian:no",
            yes_or_no(self.normalized),
            yes_or_no(!self.no_punctuation)
        )
    }
}

/// The words as numbers, equal for equal words, which compare faster.
fn numbered<'t>(text: &'t str, numbers: &mut HashMap<&'t str, usize>) -> Vec<usize> {
    words(text)
        .map(|word| {
            let next = numbers.len();
            *numbers.entry(word).or_insert(next)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{CorpusMetric, Ter};

    fn multiples(length: usize, step: usize, modulus: usize) -> String {
        let numbers = (0..length).map(|index| (index * step % modulus).to_string());
        numbers.collect::<Vec<_>>().join(" ")
    }

    /// Edits that sacreBLEU 2.6.0 counts, where beam and limits matter.
    #[test]
    fn long_and_uneven_texts_count_as_in_the_reference() {
        let cases = [
            ((1, 1, 7), (300, 3, 97), 299),
            ((300, 3, 97), (2, 3, 97), 298),
            ((120, 5, 61), (120, 7, 61), 115),
            ((200, 11, 17), (150, 13, 19), 150),
            ((0, 1, 9), (5, 1, 9), 5),
            ((5, 1, 9), (0, 1, 9), 5),
        ];
        for (hypothesis, reference, edits) in cases {
            let text = |(length, step, modulus)| multiples(length, step, modulus);
            let counts = Ter::default().count(&text(hypothesis), &[&text(reference)]);
            assert_eq!(counts.edits, edits, "{hypothesis:?} {reference:?}");
            assert_eq!(counts.reference_length, reference.0 as f64);
        }
    }

    /// Tokens of sacreBLEU 2.6.0.
    #[test]
    fn punctuation_is_parted_or_dropped() {
        let ter = Ter {
            normalized: true,
            no_punctuation: false,
        };
        assert_eq!(
            ter.tokenize("It's 3.5% (or “less”)."),
            "it 's 3.5 % ( or “less” ) ."
        );
        assert_eq!(ter.tokenize("foo-\nbar\n-baz"), "foo- barbaz");
        let ter = Ter {
            normalized: true,
            no_punctuation: true,
        };
        assert_eq!(
            ter.tokenize("1,000.5 a.b.c -- 5-6 3-"),
            "10005 a b c -- 5 - 6 3 -"
        );
    }

    #[test]
    fn a_text_of_two_thousand_words_is_scored() {
        let (hypothesis, reference) = (multiples(2000, 7, 1999), multiples(2000, 11, 1999));
        let counts = Ter::default().count(&hypothesis, &[&reference]);
        assert!(counts.edits > 0 && counts.edits <= 2000);
    }
}

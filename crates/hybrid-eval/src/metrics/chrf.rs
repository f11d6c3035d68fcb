//! chrF and chrF++ (Popović 2015, 2017), as sacreBLEU defines them.

use std::hash::Hash;
use std::iter::Sum;

use serde::{Deserialize, Serialize};

use super::corpus::{CorpusMetric, yes_or_no};
use super::ngrams::{ngrams, overlap};
use super::words::words;

/// Longest n-grams of characters that count.
const CHARACTER_ORDER: usize = 6;

/// chrF in percent: the F-score of character n-grams (n = 1 to 6), whose precisions and recalls are
/// averaged over the orders that both sides have. With several references, the one with the highest
/// score counts in each row.
///
/// ```
/// use hybrid_eval::{Chrf, CorpusMetric};
///
/// let plus_plus = Chrf { word_order: 2, ..Chrf::default() };
/// let references = [["Guten Morgen!", "Guten Tag!"]];
/// assert_eq!(plus_plus.corpus(&["Guten Tag!"], &references)?, 100.0);
/// assert_eq!(
///     plus_plus.signature(&references),
///     "nrefs:2|case:mixed|eff:yes|nc:6|nw:2|space:no|version:2.6.0"
/// );
/// # Ok::<(), hybrid_eval::EvalError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chrf {
    /// Longest n-grams of words that count too: 0 for chrF, 2 for chrF++.
    pub word_order: usize,
    /// How many times as much recall counts as precision.
    pub beta: u32,
    /// Whether white space is part of character n-grams.
    pub whitespace: bool,
}

impl Default for Chrf {
    fn default() -> Self {
        Self {
            word_order: 0,
            beta: 2,
            whitespace: false,
        }
    }
}

/// What chrF counts: one entry for each order of characters, then of words.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ChrfCounts {
    /// The n-grams of each order.
    pub orders: Vec<OrderCounts>,
}

/// The n-grams of one order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct OrderCounts {
    /// n-grams of the hypothesis; 0 if the reference has none of this order.
    pub hypothesis: u64,
    /// n-grams of the reference.
    pub reference: u64,
    /// n-grams of both.
    pub matches: u64,
}

impl<'row> Sum<&'row ChrfCounts> for ChrfCounts {
    fn sum<I: Iterator<Item = &'row ChrfCounts>>(rows: I) -> Self {
        let mut sum = Self::default();
        for row in rows {
            if sum.orders.len() < row.orders.len() {
                sum.orders.resize(row.orders.len(), OrderCounts::default());
            }
            for (sum, row) in sum.orders.iter_mut().zip(&row.orders) {
                sum.hypothesis += row.hypothesis;
                sum.reference += row.reference;
                sum.matches += row.matches;
            }
        }
        sum
    }
}

impl Chrf {
    fn characters(&self, text: &str) -> Vec<char> {
        if self.whitespace {
            text.chars().collect()
        } else {
            words(text).flat_map(str::chars).collect()
        }
    }

    /// The words for word n-grams, which nothing needs without these.
    fn words<'t>(&self, text: &'t str) -> Vec<&'t str> {
        if self.word_order == 0 {
            Vec::new()
        } else {
            words(text).flat_map(split_punctuation).flatten().collect()
        }
    }
}

impl CorpusMetric for Chrf {
    type Counts = ChrfCounts;

    fn count(&self, hypothesis: &str, references: &[&str]) -> ChrfCounts {
        let (characters, words) = (self.characters(hypothesis), self.words(hypothesis));
        let mut best: Option<(f64, ChrfCounts)> = None;
        for reference in references {
            let of_characters = self.characters(reference);
            let of_words = self.words(reference);
            let by_character =
                (1..=CHARACTER_ORDER).map(|n| compare_order(&characters, &of_characters, n));
            let by_word = (1..=self.word_order).map(|n| compare_order(&words, &of_words, n));
            let counts = ChrfCounts {
                orders: by_character.chain(by_word).collect(),
            };
            let figure = self.figure(&counts);
            if best.as_ref().is_none_or(|(highest, _)| figure > *highest) {
                best = Some((figure, counts));
            }
        }
        best.map(|(_, counts)| counts).unwrap_or_default()
    }

    fn figure(&self, counts: &ChrfCounts) -> f64 {
        let (mut precision, mut recall, mut effective_order) = (0.0, 0.0, 0.0);
        for order in &counts.orders {
            if order.hypothesis > 0 && order.reference > 0 {
                precision += order.matches as f64 / order.hypothesis as f64;
                recall += order.matches as f64 / order.reference as f64;
                effective_order += 1.0;
            }
        }
        if precision + recall == 0.0 {
            return 0.0;
        }
        precision /= effective_order;
        recall /= effective_order;
        let factor = f64::from(self.beta).powi(2);
        100.0 * (1.0 + factor) * precision * recall / (factor * precision + recall)
    }

    fn settings(&self) -> String {
        format!(
            "case:mixed|eff:yes|nc:{CHARACTER_ORDER}|nw:{}|space:{}",
            self.word_order,
            yes_or_no(self.whitespace)
        )
    }
}

fn compare_order<T: Eq + Hash>(hypothesis: &[T], reference: &[T], order: usize) -> OrderCounts {
    let (found, wanted) = (ngrams(hypothesis, order), ngrams(reference, order));
    OrderCounts {
        hypothesis: if wanted.is_empty() {
            0
        } else {
            found.values().sum()
        },
        reference: wanted.values().sum(),
        matches: overlap(&found, &wanted),
    }
}

/// Parts one mark of ASCII punctuation from the end of a word, or else from its beginning.
fn split_punctuation(word: &str) -> [Option<&str>; 2] {
    let mut characters = word.chars();
    let (first, last) = (characters.next(), characters.next_back());
    let is_mark = |character: Option<char>| character.is_some_and(|c| c.is_ascii_punctuation());
    if is_mark(last) {
        let (rest, mark) = word.split_at(word.len() - 1);
        [Some(rest), Some(mark)]
    } else if last.is_some() && is_mark(first) {
        let (mark, rest) = word.split_at(1);
        [Some(mark), Some(rest)]
    } else {
        [Some(word), None]
    }
}

#[cfg(test)]
mod tests {
    use super::{Chrf, CorpusMetric, split_punctuation};

    /// A score of sacreBLEU 2.6.0.
    #[test]
    fn orders_that_a_side_lacks_are_left_out() {
        let chrf = Chrf::default();
        let score = chrf.sentence("a b c d", &["a b c d e f"]).unwrap();
        assert!((score - 58.011049723756905).abs() < 1e-9, "{score}");
        assert_eq!(chrf.sentence("a", &["a"]).unwrap(), 100.0);
    }

    #[test]
    fn one_mark_is_parted_from_a_word() {
        assert_eq!(split_punctuation("(é)"), [Some("(é"), Some(")")]);
        assert_eq!(split_punctuation("(é"), [Some("("), Some("é")]);
        assert_eq!(split_punctuation("!"), [Some("!"), None]);
        assert_eq!(split_punctuation("!!"), [Some("!"), Some("!")]);
        assert_eq!(split_punctuation("—é"), [Some("—é"), None]);
    }
}

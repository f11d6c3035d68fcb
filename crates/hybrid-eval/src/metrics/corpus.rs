//! Figures of generated text that belong to a whole set of rows.

use std::iter::Sum;

use super::check_rows;
use crate::{EvalError, PairedComparison, Resamples};

/// The release whose figures and signatures are matched.
const SACREBLEU_VERSION: &str = "2.6.0";

/// A metric whose figure for a set of rows comes from the sum of what is counted in each row, so
/// that it is no mean over rows: BLEU, chrF and TER.
///
/// Each row has one hypothesis and one or more references, `references[row]`. All figures are
/// those of sacreBLEU 2.6.0, in percent.
///
/// ```
/// use hybrid_eval::{Chrf, CorpusMetric, Resamples};
///
/// let references = [["the cat sat"], ["a dog ran"]];
/// let before = ["cat", "the dog"];
/// let after = ["the cat sat", "a dog runs"];
/// let chrf = Chrf::default();
/// assert!((chrf.corpus(&after, &references)? - 79.210073).abs() < 1e-6);
/// assert_eq!(chrf.sentence(after[0], &references[0])?, 100.0);
///
/// let resamples = Resamples::seeded(references.len(), 1000, 7)?;
/// let compared = chrf.compare(&after, &before, &references, &resamples)?;
/// assert!(compared.difference > 0.0 && compared.p_one_sided < 0.05);
/// # Ok::<(), hybrid_eval::EvalError>(())
/// ```
pub trait CorpusMetric {
    /// What is counted in a row, or in many.
    type Counts: for<'row> Sum<&'row Self::Counts>;

    /// Counts one row. Without a reference nothing matches.
    fn count(&self, hypothesis: &str, references: &[&str]) -> Self::Counts;

    /// The figure of summed counts.
    fn figure(&self, counts: &Self::Counts) -> f64;

    /// The settings, as they stand in sacreBLEU's signatures.
    fn settings(&self) -> String;

    /// Counts each row.
    ///
    /// # Errors
    /// [`EvalError::Empty`] without rows, [`EvalError::Length`] if hypotheses and references differ
    /// in number, [`EvalError::NoReference`] for a row without any.
    fn counts<R: AsRef<str>>(
        &self,
        hypotheses: &[impl AsRef<str>],
        references: &[impl AsRef<[R]>],
    ) -> Result<Vec<Self::Counts>, EvalError> {
        check_rows(
            "hypotheses and references",
            hypotheses.len(),
            references.len(),
        )?;
        let rows = hypotheses.iter().zip(references).enumerate();
        rows.map(|(row, (hypothesis, references))| {
            let references: Vec<&str> = references.as_ref().iter().map(AsRef::as_ref).collect();
            if references.is_empty() {
                return Err(EvalError::NoReference { row });
            }
            Ok(self.count(hypothesis.as_ref(), &references))
        })
        .collect()
    }

    /// The figure of all rows together.
    ///
    /// # Errors
    /// As [`CorpusMetric::counts`].
    fn corpus<R: AsRef<str>>(
        &self,
        hypotheses: &[impl AsRef<str>],
        references: &[impl AsRef<[R]>],
    ) -> Result<f64, EvalError> {
        let counts = self.counts(hypotheses, references)?;
        Ok(self.figure(&counts.iter().sum()))
    }

    /// The figure of one row.
    ///
    /// # Errors
    /// [`EvalError::NoReference`] without a reference.
    fn sentence(&self, hypothesis: &str, references: &[impl AsRef<str>]) -> Result<f64, EvalError> {
        self.corpus(&[hypothesis], &[references])
    }

    /// Paired bootstrap of two sets of hypotheses for the same references (Koehn 2004): each draw
    /// sums the counts of its rows anew. The higher figure is ahead, for TER too: see
    /// [`TextFigures::compare`] for the better one.
    ///
    /// [`TextFigures::compare`]: crate::TextFigures::compare
    ///
    /// # Errors
    /// As [`CorpusMetric::counts`], or [`EvalError::Length`] if the resamples belong to another
    /// number of rows.
    fn compare<R: AsRef<str>>(
        &self,
        a: &[impl AsRef<str>],
        b: &[impl AsRef<str>],
        references: &[impl AsRef<[R]>],
        resamples: &Resamples,
    ) -> Result<PairedComparison, EvalError> {
        let (a, b) = (self.counts(a, references)?, self.counts(b, references)?);
        PairedComparison::of_counts(&a, &b, |counts| self.figure(counts), resamples)
    }

    /// All that decides about the figure, as sacreBLEU writes it.
    ///
    /// ```
    /// use hybrid_eval::{Bleu, CorpusMetric};
    ///
    /// assert_eq!(
    ///     Bleu::default().signature(&[["one reference"], ["for each row"]]),
    ///     "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0"
    /// );
    /// ```
    fn signature<R: AsRef<str>>(&self, references: &[impl AsRef<[R]>]) -> String {
        let mut numbers = references.iter().map(|row| row.as_ref().len());
        let first = numbers.next().unwrap_or(0);
        let number = if numbers.all(|number| number == first) {
            first.to_string()
        } else {
            "var".to_owned()
        };
        format!(
            "nrefs:{number}|{}|version:{SACREBLEU_VERSION}",
            self.settings()
        )
    }
}

/// `yes` or `no`, as signatures say it.
pub(crate) fn yes_or_no(value: bool) -> &'static str {
    if value { "yes" } else { "no" }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::{prop_assert, prop_assert_eq, proptest};
    use proptest::test_runner::TestCaseError;

    use super::CorpusMetric;
    use crate::{Bleu, BleuTokenizer, Chrf, EvalError, PairedComparison, Resamples, Ter};

    #[test]
    fn rows_without_partner_are_refused() {
        let ter = Ter::default();
        assert!(matches!(
            ter.corpus(&["a", "b"], &[vec!["a"], vec![]]),
            Err(EvalError::NoReference { row: 1 })
        ));
        assert!(matches!(
            ter.corpus(&["a", "b"], &[["a"]]),
            Err(EvalError::Length {
                expected: 2,
                found: 1,
                ..
            })
        ));
        let none: [&str; 0] = [];
        assert!(matches!(
            ter.corpus(&none, &[] as &[[&str; 1]]),
            Err(EvalError::Empty { .. })
        ));
    }

    #[test]
    fn unequal_numbers_of_references_are_told() {
        let references = [vec!["a"], vec!["b", "c"]];
        let signature = Chrf::default().signature(&references);
        assert!(signature.starts_with("nrefs:var|"), "{signature}");
    }

    /// Each draw is scored as a corpus of its own.
    #[test]
    fn draws_are_scored_as_corpora() {
        let references = [["a b c d e"], ["f g h i"], ["j k l m n o"]];
        let a = ["a b c d e", "f g x i", "j k l m"];
        let b = ["a b c d", "f g h i", "j k z m n o"];
        let draws = vec![vec![0, 0, 2], vec![1, 1, 0]];
        let bleu = Bleu::default();
        let compared = bleu
            .compare(
                &a,
                &b,
                &references,
                &Resamples::given(draws.clone()).unwrap(),
            )
            .unwrap();
        let differences: Vec<f64> = draws
            .iter()
            .map(|rows| {
                let references: Vec<_> = rows.iter().map(|row| references[*row]).collect();
                let score = |side: [&str; 3]| {
                    let hypotheses: Vec<&str> = rows.iter().map(|row| side[*row]).collect();
                    bleu.corpus(&hypotheses, &references).unwrap()
                };
                score(a) - score(b)
            })
            .collect();
        let wins = differences.iter().filter(|difference| **difference > 0.0);
        assert_eq!(compared.win_rate, wins.count() as f64 / 2.0);
        let middle = (differences[0] + differences[1]) / 2.0;
        let middle_of_interval = (compared.interval[0] + compared.interval[1]) / 2.0;
        assert!((middle - middle_of_interval).abs() < 1e-9);
        assert!(
            differences[0] > 0.0 && differences[1] < 0.0,
            "{differences:?}"
        );
    }

    /// Counts of single scores make the comparison of means.
    #[test]
    fn means_are_compared_alike() {
        let (a, b) = ([1.0, 1.0, 0.0, 1.0], [0.0, 1.0, 1.0, 0.0]);
        let resamples = Resamples::seeded(4, 300, 9).unwrap();
        let means = PairedComparison::of(&a, &b, &resamples).unwrap();
        let sums = PairedComparison::of_counts(&a, &b, |sum: &f64| sum / 4.0, &resamples).unwrap();
        assert_eq!(means, sums);
    }

    fn check(
        metric: &impl CorpusMetric,
        hypothesis: &str,
        references: &[String],
        highest: f64,
        same: f64,
    ) -> Result<(), TestCaseError> {
        let figure = metric.sentence(hypothesis, references).unwrap();
        prop_assert!((0.0..=highest + 1e-9).contains(&figure), "{figure}");
        let mut reversed = references.to_vec();
        reversed.reverse();
        let figure_reversed = metric.sentence(hypothesis, &reversed).unwrap();
        prop_assert!((figure - figure_reversed).abs() < 1e-9);
        let words = format!("{hypothesis} one two three four");
        let figure = metric.sentence(&words, &[&words]).unwrap();
        prop_assert!((figure - same).abs() < 1e-9, "{figure}");
        let twice = metric
            .corpus(&[hypothesis, hypothesis], &[references, references])
            .unwrap();
        prop_assert!(twice.is_finite());
        Ok(())
    }

    proptest! {
        #[test]
        fn any_text_has_figures(
            hypothesis in "(\\PC{0,3} ?){0,8}",
            references in vec("(\\PC{0,3} ?){0,8}", 1..4),
        ) {
            for tokenizer in [
                BleuTokenizer::V13a,
                BleuTokenizer::International,
                BleuTokenizer::Characters,
                BleuTokenizer::None,
            ] {
                let bleu = Bleu { tokenizer, effective_order: true, ..Bleu::default() };
                check(&bleu, &hypothesis, &references, 100.0, 100.0)?;
            }
            check(&Chrf::default(), &hypothesis, &references, 100.0, 100.0)?;
            let plus_plus = Chrf { word_order: 2, beta: 0, whitespace: true };
            check(&plus_plus, &hypothesis, &references, 100.0, 100.0)?;
            check(&Ter::default(), &hypothesis, &references, f64::MAX, 0.0)?;
        }

        #[test]
        fn shifts_never_cost_more_than_edits_in_place(
            hypothesis in vec(0..5_u8, 0..30),
            reference in vec(0..5_u8, 1..30),
        ) {
            let text = |words: &[u8]| {
                words.iter().map(u8::to_string).collect::<Vec<_>>().join(" ")
            };
            let counts = Ter::default().count(&text(&hypothesis), &[&text(&reference)]);
            // Levenshtein's distance, in full.
            let mut row: Vec<u64> = (0..=reference.len() as u64).collect();
            for (index, word) in hypothesis.iter().enumerate() {
                let mut diagonal = std::mem::replace(&mut row[0], index as u64 + 1);
                for column in 1..row.len() {
                    let kept = diagonal + u64::from(reference[column - 1] != *word);
                    diagonal = row[column];
                    row[column] = kept.min(row[column - 1] + 1).min(diagonal + 1);
                }
            }
            prop_assert!(counts.edits <= row[reference.len()]);
            let shortest = hypothesis.len().abs_diff(reference.len()) as u64;
            prop_assert!(counts.edits >= shortest);
            prop_assert_eq!(counts.reference_length, reference.len() as f64);
        }
    }
}

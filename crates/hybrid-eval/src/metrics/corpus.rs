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
    /// sums the counts of its rows anew.
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

//! All figures of one text an example, from outputs and references.

use std::collections::BTreeMap;
use std::iter::Sum;

use serde::{Deserialize, Serialize};

use super::bleu::{Bleu, BleuCounts};
use super::check_rows;
use super::chrf::{Chrf, ChrfCounts};
use super::corpus::CorpusMetric;
use super::rouge::{Rouge, RougeScores};
use super::squad::{Squad, SquadRow};
use super::ter::{Ter, TerCounts};
use crate::{EvalError, PairedComparison, Resamples, higher_is_better};

/// What is asked of texts, which decides how they are measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TextTask {
    /// Answers as SQuAD scores them ([`Squad`]), in percent; a question without reference is
    /// unanswerable.
    QuestionAnswering,
    /// sacreBLEU's figures with their defaults ([`Chrf`], [`Bleu`], [`Ter`]), in percent.
    Translation,
    /// F-measures of rouge_score with its defaults ([`Rouge`] without stemming), from 0 to 1.
    Summarization,
}

impl TextTask {
    /// The names of its figures, the deciding one first.
    pub fn figures(self) -> &'static [&'static str] {
        match self {
            Self::QuestionAnswering => &["f1", "exact_match"],
            Self::Translation => &["chrf", "bleu", "ter"],
            Self::Summarization => &["rouge1", "rouge2", "rougeL"],
        }
    }

    /// The figure that decides unless another is chosen.
    pub fn deciding(self) -> &'static str {
        self.figures()[0]
    }
}

/// Figures of a set of texts, with what is counted in each example, so that the figures of many
/// draws of the examples cost no more than sums.
///
/// ```
/// use hybrid_eval::{Resamples, TextFigures, TextTask};
///
/// let references = [["the cat sat"], ["a dog ran"]];
/// let before = TextFigures::of(TextTask::Translation, &["cat", "the dog"], &references)?;
/// let after = TextFigures::of(TextTask::Translation, &["the cat sat", "a dog runs"], &references)?;
/// assert!((after.by_name()["chrf"] - 79.210073).abs() < 1e-6);
///
/// let resamples = Resamples::seeded(references.len(), 1000, 7)?;
/// let [low, high] = after.intervals(&resamples)?["ter"];
/// assert!(low <= after.value("ter")? && after.value("ter")? <= high);
/// let compared = after.compare(&before, "ter", &resamples)?;
/// assert!(compared.difference < 0.0 && compared.win_rate == 1.0, "fewer edits are better");
/// # Ok::<(), hybrid_eval::EvalError>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct TextFigures {
    task: TextTask,
    n_examples: usize,
    /// One entry a figure, in the order of [`TextTask::figures`].
    statistics: Vec<Statistics>,
}

impl TextFigures {
    /// Measures one output an example against `references[example]`.
    ///
    /// # Errors
    /// [`EvalError::Empty`] without examples, [`EvalError::Length`] if outputs and references differ
    /// in number, [`EvalError::NoReference`] for an example without any unless questions are answered.
    pub fn of<R: AsRef<str>>(
        task: TextTask,
        outputs: &[impl AsRef<str>],
        references: &[impl AsRef<[R]>],
    ) -> Result<Self, EvalError> {
        check_rows("outputs and references", outputs.len(), references.len())?;
        let statistics = match task {
            TextTask::QuestionAnswering => {
                let rows = Squad::of(outputs, references)?.rows;
                let percent = |figure: fn(&SquadRow) -> f64| {
                    Statistics::Mean(rows.iter().map(|row| 100.0 * figure(row)).collect())
                };
                vec![percent(|row| row.f1), percent(|row| row.exact_match)]
            }
            TextTask::Translation => vec![
                Statistics::Chrf(Chrf::default().counts(outputs, references)?),
                Statistics::Bleu(Bleu::default().counts(outputs, references)?),
                Statistics::Ter(Ter::default().counts(outputs, references)?),
            ],
            TextTask::Summarization => {
                let rows = rouge(outputs, references)?;
                let f_measure = |figure: fn(&RougeScores) -> f64| {
                    Statistics::Mean(rows.iter().map(figure).collect())
                };
                vec![
                    f_measure(|row| row.rouge_1.f_measure),
                    f_measure(|row| row.rouge_2.f_measure),
                    f_measure(|row| row.rouge_l.f_measure),
                ]
            }
        };
        Ok(Self {
            task,
            n_examples: outputs.len(),
            statistics,
        })
    }

    /// What was measured.
    pub fn task(&self) -> TextTask {
        self.task
    }

    /// Number of examples.
    pub fn n_examples(&self) -> usize {
        self.n_examples
    }

    /// All figures by the name they have in reports, on the scale that [`TextTask`] tells.
    pub fn by_name(&self) -> BTreeMap<String, f64> {
        self.named()
            .map(|(name, statistics)| (name.to_owned(), self.whole(statistics)))
            .collect()
    }

    /// One figure.
    ///
    /// # Errors
    /// [`EvalError::UnknownFigure`] unless it is one of [`TextTask::figures`].
    pub fn value(&self, name: &str) -> Result<f64, EvalError> {
        Ok(self.whole(self.statistics(name)?))
    }

    /// One figure of each example alone, on the scale of the whole. F1, exact match and ROUGE are
    /// the means of these; chrF, BLEU and TER are not. BLEU leaves out n-grams longer than the
    /// output here, as sacreBLEU does for sentences.
    ///
    /// # Errors
    /// [`EvalError::UnknownFigure`] unless it is one of [`TextTask::figures`].
    pub fn per_example(&self, name: &str) -> Result<Vec<f64>, EvalError> {
        Ok(self.statistics(name)?.per_example())
    }

    /// Bootstrap 95 % intervals of all figures.
    ///
    /// # Errors
    /// [`EvalError::Length`] if the resamples belong to another number of examples.
    pub fn intervals(
        &self,
        resamples: &Resamples,
    ) -> Result<BTreeMap<String, [f64; 2]>, EvalError> {
        check_rows("resamples", self.n_examples, resamples.n_examples())?;
        let mut drawn = vec![Vec::with_capacity(resamples.count()); self.statistics.len()];
        resamples.for_each(|rows| {
            for (values, statistics) in drawn.iter_mut().zip(&self.statistics) {
                values.push(statistics.figure(rows));
            }
        });
        let names = self.task.figures().iter();
        Ok(names
            .zip(drawn)
            .map(|(name, values)| ((*name).to_owned(), crate::resample::interval(values)))
            .collect())
    }

    /// Paired bootstrap of one figure against that of `other` outputs for the same examples, in the
    /// same order (Koehn 2004). The difference is `self - other`; who is ahead in a draw depends on
    /// [`higher_is_better`].
    ///
    /// # Errors
    /// [`EvalError::UnknownFigure`] if a side lacks the figure, or [`EvalError::Length`] if the other
    /// side or the resamples belong to another number of examples.
    pub fn compare(
        &self,
        other: &Self,
        name: &str,
        resamples: &Resamples,
    ) -> Result<PairedComparison, EvalError> {
        let (a, b) = (self.statistics(name)?, other.statistics(name)?);
        check_rows("outputs", self.n_examples, other.n_examples)?;
        check_rows("resamples", self.n_examples, resamples.n_examples())?;
        let difference = self.whole(a) - other.whole(b);
        Ok(PairedComparison::drawn(
            difference,
            higher_is_better(name),
            resamples,
            |rows| a.figure(rows) - b.figure(rows),
        ))
    }

    fn named(&self) -> impl Iterator<Item = (&'static str, &Statistics)> {
        self.task.figures().iter().copied().zip(&self.statistics)
    }

    fn statistics(&self, name: &str) -> Result<&Statistics, EvalError> {
        let found = self.named().find(|(known, _)| *known == name);
        found
            .map(|(_, statistics)| statistics)
            .ok_or_else(|| EvalError::UnknownFigure {
                name: name.to_owned(),
                known: self.task.figures(),
            })
    }

    fn whole(&self, statistics: &Statistics) -> f64 {
        let rows: Vec<usize> = (0..self.n_examples).collect();
        statistics.figure(&rows)
    }
}

/// What is known of each example.
#[derive(Debug, Clone, PartialEq)]
enum Statistics {
    /// The figure is the mean of these.
    Mean(Vec<f64>),
    Chrf(Vec<ChrfCounts>),
    Bleu(Vec<BleuCounts>),
    Ter(Vec<TerCounts>),
}

impl Statistics {
    /// The figure of a draw of examples.
    fn figure(&self, rows: &[usize]) -> f64 {
        match self {
            Self::Mean(scores) => {
                rows.iter().map(|row| scores[*row]).sum::<f64>() / rows.len() as f64
            }
            Self::Chrf(counts) => Chrf::default().figure(&total(counts, rows)),
            Self::Bleu(counts) => Bleu::default().figure(&total(counts, rows)),
            Self::Ter(counts) => Ter::default().figure(&total(counts, rows)),
        }
    }

    fn per_example(&self) -> Vec<f64> {
        match self {
            Self::Mean(scores) => scores.clone(),
            Self::Chrf(counts) => each(&Chrf::default(), counts),
            Self::Bleu(counts) => {
                let of_sentences = Bleu {
                    effective_order: true,
                    ..Bleu::default()
                };
                each(&of_sentences, counts)
            }
            Self::Ter(counts) => each(&Ter::default(), counts),
        }
    }
}

fn total<C: for<'row> Sum<&'row C>>(counts: &[C], rows: &[usize]) -> C {
    rows.iter().map(|row| &counts[*row]).sum()
}

fn each<M: CorpusMetric>(metric: &M, counts: &[M::Counts]) -> Vec<f64> {
    counts.iter().map(|counts| metric.figure(counts)).collect()
}

fn rouge<R: AsRef<str>>(
    outputs: &[impl AsRef<str>],
    references: &[impl AsRef<[R]>],
) -> Result<Vec<RougeScores>, EvalError> {
    let examples = outputs.iter().zip(references).enumerate();
    examples
        .map(|(row, (output, references))| {
            let references = references.as_ref();
            if references.is_empty() {
                return Err(EvalError::NoReference { row });
            }
            Rouge::default().score(output.as_ref(), references)
        })
        .collect()
}

#[cfg(test)]
mod tests;

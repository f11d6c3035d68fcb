//! Trials, one after the other, within a budget and under an observer.

use std::cmp::Ordering;
use std::ops::ControlFlow;

use super::{Criterion, SearchEvent, SearchSpace, Trial};
use crate::error::PromptError;
use crate::prompt::Prompt;

/// What scoring a prompt found.
pub(super) struct Figures {
    pub(super) accuracy: f64,
    pub(super) log_loss: f64,
    pub(super) n_cut: usize,
}

/// Scores prompts on the first so many of a fixed list of examples. Costs are in what the model
/// reads: texts or tokens.
pub(super) trait Scorer {
    /// Scores a prompt, once `go` has allowed what it costs at most.
    fn score(
        &mut self,
        prompt: &Prompt,
        sample: usize,
        go: &mut dyn FnMut(u64) -> bool,
    ) -> Result<Option<Figures>, PromptError>;

    /// What everything so far has cost.
    fn spent(&self) -> u64;

    /// Whether every prompt of a space leaves room for an input when it has this instruction.
    fn fits(&mut self, space: &SearchSpace, instruction: &str) -> bool;

    /// Instructions that may do better where the prompt's own went wrong on the sample, for at most
    /// `left`; none if there is nothing that writes them.
    fn improve(
        &mut self,
        prompt: &Prompt,
        sample: usize,
        n: usize,
        seed: u64,
        left: Option<u64>,
    ) -> Result<Vec<String>, PromptError>;
}

/// Why no further trial is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// The observer broke the search off.
    Broken,
    /// The next trial costs more than is left of the budget.
    Unaffordable { needed: u64, left: u64 },
}

pub(super) struct Runner<'r> {
    pub(super) scorer: &'r mut dyn Scorer,
    pub(super) observer: &'r mut dyn FnMut(SearchEvent<'_>) -> ControlFlow<()>,
    pub(super) budget: Option<u64>,
    pub(super) criterion: Criterion,
    /// Trials of the whole search, as far as that is known.
    pub(super) n_planned: usize,
    pub(super) trials: Vec<Trial>,
    pub(super) stop: Option<Stop>,
}

impl Runner<'_> {
    /// What is left of the budget.
    pub(super) fn left(&self) -> Option<u64> {
        let spent = self.scorer.spent();
        self.budget.map(|budget| budget.saturating_sub(spent))
    }

    /// Scores a prompt on the first `sample` examples and returns which trial that is; none if the
    /// search has stopped. The same prompt on the same sample is the same trial.
    pub(super) fn trial(
        &mut self,
        prompt: &Prompt,
        sample: usize,
    ) -> Result<Option<usize>, PromptError> {
        let known = |trial: &Trial| trial.sample == sample && trial.prompt == *prompt;
        if let Some(index) = self.trials.iter().position(known) {
            return Ok(Some(index));
        }
        let before = self.scorer.spent();
        let left = self.left();
        let (n_done, n_planned) = (self.trials.len(), self.n_planned);
        let (observer, stop) = (&mut *self.observer, &mut self.stop);
        let figures = self.scorer.score(prompt, sample, &mut |cost| {
            *stop = match left {
                Some(left) if cost > left => Some(Stop::Unaffordable { needed: cost, left }),
                _ => {
                    let starting = SearchEvent::Starting {
                        prompt,
                        sample,
                        cost,
                        n_done,
                        n_planned,
                    };
                    observer(starting).is_break().then_some(Stop::Broken)
                }
            };
            stop.is_none()
        })?;
        let Some(figures) = figures else {
            return Ok(None);
        };
        let spent = self.scorer.spent();
        let trial = Trial {
            prompt: prompt.clone(),
            sample,
            accuracy: figures.accuracy,
            log_loss: figures.log_loss,
            n_cut: figures.n_cut,
            cost: spent - before,
            spent,
        };
        let event = (self.observer)(SearchEvent::Finished(&trial));
        self.trials.push(trial);
        if event.is_break() {
            self.stop = Some(Stop::Broken);
            return Ok(None);
        }
        Ok(Some(self.trials.len() - 1))
    }

    /// Puts places of trials into order, best first; equal ones stay as they are.
    pub(super) fn sort(&self, places: &mut [usize]) {
        let criterion = self.criterion;
        places.sort_by(|&a, &b| better(&self.trials[a], &self.trials[b], criterion));
    }
}

/// Which of two trials comes first; equal when only their order can tell. More examples come before
/// fewer, whatever was found on them.
pub(super) fn better(a: &Trial, b: &Trial, criterion: Criterion) -> Ordering {
    let by_accuracy = b.accuracy.total_cmp(&a.accuracy);
    let by_log_loss = a.log_loss.total_cmp(&b.log_loss);
    b.sample.cmp(&a.sample).then(match criterion {
        Criterion::Accuracy => by_accuracy.then(by_log_loss),
        Criterion::LogLoss => by_log_loss.then(by_accuracy),
    })
}

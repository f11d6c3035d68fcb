//! Stages: one step of a round. Each takes the best candidate so far and makes a new one.

pub(crate) mod adapter;
pub(crate) mod checkpoint;
mod divergence;
mod explained_variance;
pub(crate) mod language;
mod lockstep;
mod pass;
pub(crate) mod prefix;
pub(crate) mod prompt;
pub(crate) mod soft_start;
mod training;
mod variants;

use std::time::Instant;

use crate::HybridError;
use crate::candidate::Candidate;
use crate::journal::{Event, Journal, StopReason};
use crate::local_model::LocalModel;
use crate::progress::Progress;
use crate::recipe::{Budget, Recipe};
use crate::run_folder::RunFolder;
use crate::task::TaskData;

/// What a stage works with.
pub(crate) struct Context<'a> {
    pub(crate) recipe: &'a Recipe,
    pub(crate) run: &'a RunFolder,
    pub(crate) data: &'a TaskData,
    pub(crate) model: &'a mut LocalModel,
    pub(crate) journal: &'a mut Journal,
    pub(crate) progress: &'a mut Progress,
    pub(crate) spent: Spent,
    pub(crate) round: usize,
}

impl Context<'_> {
    /// Journals and shows an event.
    pub(crate) fn happened(&mut self, event: Event) -> Result<(), HybridError> {
        self.journal.append(&event)?;
        self.progress.event(&event);
        Ok(())
    }

    /// The seed of an event within this round.
    pub(crate) fn seed(&self, event: &str) -> u64 {
        hybrid_data::derive_seed(self.recipe.seed, &format!("{}/{event}", self.round))
    }
}

/// What finished stages have spent; the running stage adds its own.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Spent {
    pub(crate) seconds: f64,
    pub(crate) tokens: u64,
    pub(crate) flops: f64,
}

impl Spent {
    /// What finished stages have spent, read off their candidates.
    pub(crate) fn of<'c>(candidates: impl IntoIterator<Item = &'c Candidate>) -> Self {
        let costs = candidates.into_iter().map(|candidate| Self {
            seconds: candidate.cost.wall_s,
            tokens: candidate.cost.tokens,
            flops: candidate.cost.flops,
        });
        costs.fold(Self::default(), Self::and)
    }

    /// Both together.
    pub(crate) fn and(self, more: Self) -> Self {
        Self {
            seconds: self.seconds + more.seconds,
            tokens: self.tokens + more.tokens,
            flops: self.flops + more.flops,
        }
    }

    /// Which budget is used up when `more` comes on top.
    pub(crate) fn exceeds(self, budget: &Budget, more: Self) -> Option<StopReason> {
        if budget
            .max_minutes
            .is_some_and(|minutes| self.seconds + more.seconds >= minutes * 60.0)
        {
            return Some(StopReason::Minutes);
        }
        if budget
            .max_tokens
            .is_some_and(|tokens| self.tokens + more.tokens >= tokens)
        {
            return Some(StopReason::Tokens);
        }
        None
    }
}

/// Seconds and tokens of one stage, those before a kill included.
pub(crate) struct StageMeter {
    /// None while it rests.
    began: Option<Instant>,
    tokens_before: u64,
    flops_before: f64,
    carried: Spent,
}

impl StageMeter {
    pub(crate) fn new(model: &LocalModel, carried: Spent) -> Self {
        Self {
            began: Some(Instant::now()),
            tokens_before: model.tokens(),
            flops_before: model.flops(),
            carried,
        }
    }

    /// Forgets the tokens counted so far: work that a resumed stage repeats was counted before.
    pub(crate) fn recount(&mut self, model: &LocalModel) {
        self.tokens_before = model.tokens();
        self.flops_before = model.flops();
    }

    /// Counts nothing until [`go_on`](Self::go_on).
    pub(crate) fn rest(&mut self, model: &LocalModel) {
        self.carried = self.spent(model);
        self.began = None;
    }

    /// Counts from now on.
    pub(crate) fn go_on(&mut self, model: &LocalModel) {
        self.began = Some(Instant::now());
        self.recount(model);
    }

    /// Counts what was measured apart.
    pub(crate) fn add(&mut self, more: Spent) {
        self.carried = self.carried.and(more);
    }

    pub(crate) fn spent(&self, model: &LocalModel) -> Spent {
        let Some(began) = self.began else {
            return self.carried;
        };
        Spent {
            seconds: self.carried.seconds + began.elapsed().as_secs_f64(),
            tokens: self.carried.tokens + model.tokens() - self.tokens_before,
            flops: self.carried.flops + model.flops() - self.flops_before,
        }
    }
}

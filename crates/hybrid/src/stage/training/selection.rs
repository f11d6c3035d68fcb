//! How a training's states stand on select: the first, the best, and those on the way between.

use hybrid_adapters::{AdapterConfig, Trainable};
use hybrid_prompts::Prompt;

use super::{Best, Context, Training};
use crate::HybridError;
use crate::candidate::Candidate;
use crate::criterion::{Criterion, LOG_LOSS, Standing};
use crate::evaluate::{self, Scored};
use crate::journal::Event;
use crate::tensors;

/// How a training stood before its first update.
#[derive(Debug, Clone, Copy)]
pub(in crate::stage) struct First {
    pub(super) value: f64,
    pub(super) log_loss: f64,
    pub(super) standing: Standing,
}

impl Training<'_> {
    /// Scores the current state on select and keeps it when it is the best, and decides whether the
    /// training is over.
    pub(in crate::stage) fn evaluate(
        &mut self,
        context: &mut Context<'_>,
        prompt: &Prompt,
        criterion: Criterion,
    ) -> Result<(), HybridError> {
        self.meter.go_on(context.model);
        if self.progressed.best.is_none() {
            let first = self.trainable.eval().load_named_tensors(&self.first)?;
            let scored = score_on_select(context, prompt, first, criterion)?;
            let first = First {
                value: scored.metric(criterion.metric),
                log_loss: scored.log_loss,
                standing: scored.standing(criterion),
            };
            self.begin(context, first)?;
            self.best_scored = Some(scored);
        }
        let epoch = self.progressed.epoch;
        let scored = score_on_select(context, prompt, self.trainable.eval(), criterion)?;
        let (standing, value) = (scored.standing(criterion), scored.metric(criterion.metric));
        let log_loss = scored.log_loss;
        self.progressed.latest = Some(standing);
        self.evaluated(context, epoch, value, log_loss)?;
        if self
            .progressed
            .best
            .is_none_or(|best| standing.is_better_than(best.standing))
        {
            self.best = self.trainable.named_tensors().into_iter().collect();
            self.best_scored = Some(scored);
            self.progressed.best = Some(Best { epoch, standing });
            context.progress.best(criterion.in_words(value, log_loss));
        }
        let stopping = self.progressed.stopping.as_mut();
        let stop = stopping.is_some_and(|stopping| stopping.observe(standing.deciding()));
        self.progressed.evaluated = epoch;
        self.progressed.ended = stop || self.progressed.spent || epoch == self.config.epochs;
        self.checkpoint(context)?;
        self.meter.rest(context.model);
        Ok(())
    }

    /// The state before the first update stands so, unless it is known how it stands.
    pub(in crate::stage) fn begin(
        &mut self,
        context: &mut Context<'_>,
        first: First,
    ) -> Result<(), HybridError> {
        if self.progressed.best.is_some() {
            return Ok(());
        }
        self.evaluated(context, 0, first.value, first.log_loss)?;
        self.first_score = Some(first);
        let standing = first.standing;
        self.progressed.best = Some(Best { epoch: 0, standing });
        if let Some(stopping) = &mut self.progressed.stopping {
            stopping.observe(standing.deciding());
        }
        Ok(())
    }

    /// A state that scores as the parent does stands so before the first update, unless it is known how
    /// it stands.
    pub(in crate::stage) fn begin_as_parent(
        &mut self,
        context: &mut Context<'_>,
        parent: &Candidate,
        criterion: Criterion,
    ) -> Result<(), HybridError> {
        if !self.as_parent {
            return Ok(());
        }
        let first = First {
            value: parent.score(criterion.metric.name()),
            log_loss: parent.score(LOG_LOSS),
            standing: parent.standing(criterion),
        };
        self.begin(context, first)
    }

    /// How it stood before its first update, when this process has scored that.
    pub(in crate::stage) fn first(&self) -> Option<First> {
        self.first_score
    }

    /// Whether it begins as the same function as another: adapters change nothing, and the heads have
    /// the same values.
    pub(in crate::stage) fn begins_as(&self, other: &Self) -> bool {
        let starts_as_base = |training: &Self| {
            let configs = training.trainable.adapters.configs();
            configs.iter().all(AdapterConfig::starts_as_base)
        };
        let is_head = |(name, _): &(&String, _)| !name.starts_with("adapters.");
        let [own, others] = [self, other].map(|training| training.first.iter().filter(is_head));
        starts_as_base(self) && starts_as_base(other) && own.eq(others)
    }

    /// Journals the figures of the state after some passes.
    fn evaluated(
        &self,
        context: &mut Context<'_>,
        epoch: usize,
        value: f64,
        log_loss: f64,
    ) -> Result<(), HybridError> {
        context.happened(Event::Evaluated {
            stage: self.config.name.clone(),
            variant: self.number(),
            epoch,
            value,
            log_loss,
        })
    }

    /// Tries states on the way from the first to the best.
    pub(in crate::stage) fn interpolate(
        &mut self,
        context: &mut Context<'_>,
        prompt: &Prompt,
        criterion: Criterion,
    ) -> Result<(), HybridError> {
        let Some(Best { mut standing, .. }) = self.progressed.best else {
            return Ok(());
        };
        self.meter.go_on(context.model);
        let far = self.best.clone();
        for &share in &self.config.interpolate {
            let tensors = tensors::interpolated(&self.first, &far, share);
            let state = self.trainable.eval().load_named_tensors(&tensors)?;
            let scored = score_on_select(context, prompt, state, criterion)?;
            context.happened(Event::Interpolated {
                stage: self.config.name.clone(),
                variant: self.number(),
                share,
                value: scored.metric(criterion.metric),
                log_loss: scored.log_loss,
            })?;
            if scored.standing(criterion).is_better_than(standing) {
                standing = scored.standing(criterion);
                self.best = tensors;
                self.best_scored = Some(scored);
            }
        }
        self.meter.rest(context.model);
        Ok(())
    }
}

/// Scores a state on select.
fn score_on_select(
    context: &mut Context<'_>,
    prompt: &Prompt,
    state: Trainable,
    criterion: Criterion,
) -> Result<Scored, HybridError> {
    context.model.activate(Some(state), None);
    evaluate::score_on_select(context.model, prompt, context.data, criterion)
}

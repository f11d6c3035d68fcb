//! Strategies that lay out all their trials in advance: exhaustive, random, successive halving.

use super::runner::Runner;
use super::space::SearchSpace;
use super::strategy::Plan;
use crate::error::PromptError;
use crate::prompt::Prompt;

/// The prompts that take part, each once, made as they are needed.
pub(super) struct Proposals {
    incumbent: Option<Prompt>,
    space: SearchSpace,
    /// Where the incumbent stands in the space.
    own_place: Option<usize>,
}

impl Proposals {
    /// The incumbent first, then the space in its order. Where label words change no score,
    /// prompts that differ in them alone are one, which has the first prompt's words.
    pub(super) fn new(
        space: &SearchSpace,
        incumbent: Option<&Prompt>,
        reads_label_words: bool,
    ) -> Self {
        let mut space = space.distinct();
        let words = incumbent.map(|prompt| &prompt.label_words);
        if !reads_label_words && let Some(words) = words.or(space.label_words().first()) {
            let words = words.clone();
            space = space.with_only_label_words(words);
        }
        let own_place = incumbent
            .and_then(|prompt| space.find(prompt))
            .map(|point| space.index(point));
        Self {
            incumbent: incumbent.cloned(),
            space,
            own_place,
        }
    }

    pub(super) fn len(&self) -> usize {
        let own = usize::from(self.incumbent.is_some());
        (self.space.len() - usize::from(self.own_place.is_some())).saturating_add(own)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The space that is searched, every choice once.
    pub(super) fn into_space(self) -> SearchSpace {
        self.space
    }

    pub(super) fn get(&self, index: usize) -> Prompt {
        let index = match &self.incumbent {
            Some(incumbent) if index == 0 => return incumbent.clone(),
            Some(_) => index - 1,
            None => index,
        };
        let passed = self.own_place.is_some_and(|own| own <= index);
        self.space.at(self.space.point(index + usize::from(passed)))
    }
}

/// Runs rung after rung.
pub(super) fn run(
    plan: &Plan,
    proposals: &Proposals,
    runner: &mut Runner<'_>,
) -> Result<(), PromptError> {
    runner.n_planned = plan.n_trials();
    let mut alive = plan.first.clone();
    for rung in &plan.rungs {
        alive.truncate(rung.n_prompts);
        let mut places = Vec::with_capacity(alive.len());
        for &index in &alive {
            match runner.trial(&proposals.get(index), rung.sample)? {
                Some(trial) => places.push(trial),
                None => return Ok(()),
            }
        }
        let of_trial: Vec<(usize, usize)> = places.iter().copied().zip(alive).collect();
        runner.sort(&mut places);
        let index_of = |place: usize| {
            let found = of_trial.iter().find(|(trial, _)| *trial == place);
            found.map(|(_, index)| *index)
        };
        alive = places.into_iter().filter_map(index_of).collect();
    }
    Ok(())
}

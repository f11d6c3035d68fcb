//! What strategies share that choose their next trial by what the earlier ones found.

use std::collections::BTreeMap;

use hybrid_data::derive_seed;
use rand::seq::IndexedRandom;
use rand::{Rng, RngExt};
use rand_chacha::ChaCha8Rng;

use super::runner::{Runner, Stop};
use super::space::{INSTRUCTION, Point, SearchSpace};
use crate::error::PromptError;
use crate::instruction::InstructionGrammar;
use crate::sampling::rng_of;

/// So many of the best prompts are scored on all examples at the end.
const FINALISTS: usize = 3;

/// Draws that find nothing new before a search takes its space for used up.
const DRAWS: usize = 64;

/// Scored points of a space that may grow by instructions.
pub(super) struct Explorer<'e, 'r> {
    pub(super) space: SearchSpace,
    /// The rules by which instructions change; none where nothing reads them.
    pub(super) grammar: Option<&'e InstructionGrammar>,
    /// Instructions that a model improves at a time.
    pub(super) n_improved: usize,
    pub(super) runner: &'e mut Runner<'r>,
    /// Examples of each trial but the last ones.
    pub(super) sample: usize,
    pub(super) n_fit: usize,
    pub(super) seed: u64,
    /// The trial of each point.
    pub(super) scored: BTreeMap<Point, usize>,
}

impl Explorer<'_, '_> {
    pub(super) fn rng(&self, event: &str) -> ChaCha8Rng {
        rng_of(self.seed, event)
    }

    /// Scores a point; false once the search has stopped.
    pub(super) fn score(&mut self, point: Point) -> Result<bool, PromptError> {
        if self.scored.contains_key(&point) {
            return Ok(true);
        }
        let prompt = self.space.at(point);
        let trial = self.runner.trial(&prompt, self.sample)?;
        // A trial that the observer broke off after its end counts all the same.
        if let Some(trial) = trial {
            self.scored.insert(point, trial);
        }
        Ok(trial.is_some())
    }

    /// Scores the first points: the given one, then drawn ones; false once the search has stopped.
    pub(super) fn start(&mut self, first: Point, n: usize) -> Result<bool, PromptError> {
        if !self.score(first)? {
            return Ok(false);
        }
        for index in 1..n {
            let mut rng = self.rng(&format!("first prompt {index}"));
            let Some(point) = self.unscored(&mut rng) else {
                break;
            };
            if !self.score(point)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// A point that is not scored yet.
    pub(super) fn unscored(&self, rng: &mut impl Rng) -> Option<Point> {
        let sizes = self.space.sizes();
        (0..DRAWS)
            .map(|_| sizes.map(|size| rng.random_range(0..size)))
            .find(|point| !self.scored.contains_key(point))
    }

    /// A new point one step from another one: another choice of one part, or an edited instruction.
    pub(super) fn step(&mut self, from: Point, rng: &mut impl Rng) -> Option<Point> {
        for _ in 0..DRAWS {
            let sizes = self.space.sizes();
            // A part with one choice cannot change, but the instruction may by the grammar.
            let edits = match self.grammar {
                Some(grammar) => grammar.edits(&self.space.instructions()[from[INSTRUCTION]]),
                None => Vec::new(),
            };
            let mut parts: Vec<Option<usize>> = (0..sizes.len())
                .filter(|&part| sizes[part] > 1)
                .map(Some)
                .collect();
            if !edits.is_empty() {
                parts.push(None);
            }
            let mut point = from;
            match *parts.choose(rng)? {
                Some(part) => {
                    let other = rng.random_range(0..sizes[part] - 1);
                    point[part] = other + usize::from(other >= from[part]);
                }
                None => {
                    let edit = edits.choose(rng)?;
                    if !self.runner.scorer.fits(&self.space, &edit.instruction) {
                        continue;
                    }
                    point[INSTRUCTION] = self.space.instruction_place(&edit.instruction);
                }
            }
            if !self.scored.contains_key(&point) {
                return Some(point);
            }
        }
        None
    }

    /// New points by instructions that a model writes, given what went wrong at a point.
    pub(super) fn improved(&mut self, from: Point, event: &str) -> Result<Vec<Point>, PromptError> {
        if self.n_improved == 0 {
            return Ok(Vec::new());
        }
        let (prompt, left) = (self.space.at(from), self.runner.left());
        let seed = derive_seed(self.seed, event);
        let written =
            self.runner
                .scorer
                .improve(&prompt, self.sample, self.n_improved, seed, left)?;
        let mut points = Vec::new();
        for instruction in written {
            if !self.runner.scorer.fits(&self.space, &instruction) {
                continue;
            }
            let mut point = from;
            point[INSTRUCTION] = self.space.instruction_place(&instruction);
            points.push(point);
        }
        Ok(points)
    }

    /// The best scored points, best first.
    pub(super) fn best(&self, n: usize) -> Vec<Point> {
        let point_of: BTreeMap<usize, Point> = self
            .scored
            .iter()
            .map(|(point, trial)| (*trial, *point))
            .collect();
        let mut trials: Vec<usize> = point_of.keys().copied().collect();
        self.runner.sort(&mut trials);
        trials.truncate(n);
        trials
            .iter()
            .filter_map(|trial| point_of.get(trial).copied())
            .collect()
    }

    /// Scores the best prompts on all examples, as long as the budget allows it.
    pub(super) fn finish(mut self) -> Result<(), PromptError> {
        if self.runner.stop == Some(Stop::Broken) || self.sample == self.n_fit {
            return Ok(());
        }
        let stop = self.runner.stop.take();
        let finalists = self.best(FINALISTS);
        self.sample = self.n_fit;
        for point in finalists {
            let prompt = self.space.at(point);
            if self.runner.trial(&prompt, self.n_fit)?.is_none() {
                break;
            }
        }
        self.runner.stop = self.runner.stop.or(stop);
        Ok(())
    }

    /// How many trials `n` on the sample and the last ones on all examples are.
    pub(super) fn plan(&mut self, n: usize) {
        let last = if self.sample == self.n_fit {
            0
        } else {
            FINALISTS.min(n)
        };
        self.runner.n_planned = n.saturating_add(last);
    }
}

//! Search: propose prompts, score them on fit examples, keep the best.

mod encoder;
mod explorer;
mod ladder;
mod language;
mod neighbourhood;
mod parzen;
mod runner;
mod space;
mod strategy;
mod text_cache;

use std::collections::{BTreeMap, HashSet};

use hybrid_data::{Example, LabelSet};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::PromptError;
use crate::instruction::InstructionGrammar;
use crate::prompt::Prompt;

pub use encoder::search;
pub use language::{InstructionProposals, LanguageSearch, search_language};
pub use space::SearchSpace;
pub use strategy::SearchStrategy;

use explorer::Explorer;
use ladder::Proposals;
use neighbourhood::{beam, evolution};
use parzen::tree_parzen;
use runner::{Runner, Stop, better};
use space::Point;
use strategy::{Halving, Plan};

/// What is searched, over which examples, and how.
#[derive(Debug, Clone, Copy)]
pub struct SearchRequest<'a> {
    /// The prompts to choose from.
    pub space: &'a SearchSpace,
    /// A prompt that takes part in any case, first of all: the one in use so far.
    pub incumbent: Option<&'a Prompt>,
    /// Which prompts are scored on how many examples.
    pub strategy: &'a SearchStrategy,
    /// The labelled examples to score on.
    pub fit: &'a [Example],
    /// The labels, in class order.
    pub labels: &'a LabelSet,
    /// Which figure decides between prompts.
    pub criterion: Criterion,
    /// The one source of randomness.
    pub seed: u64,
}

/// One prompt scored on one sample.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// What was scored.
    pub prompt: Prompt,
    /// On how many fit examples.
    pub sample: usize,
    /// Share of right predictions; where there are no classes, the mean of what outputs are worth
    /// ([`LanguageScores::values`](crate::LanguageScores::values)).
    pub accuracy: f64,
    /// Mean negative log-probability of the right label or of the wanted tokens, in nats; 0 where
    /// outputs are generated.
    pub log_loss: f64,
    /// How many inputs were cut because their prompts were too long; 0 for an encoder, which cuts
    /// by itself.
    #[serde(default)]
    pub n_cut: usize,
    /// What the model had to read for it: texts for an encoder, tokens for a language model. What is
    /// known is not read again.
    pub cost: u64,
    /// What the search had spent by its end.
    pub spent: u64,
}

/// What a search tells while it runs.
#[derive(Debug, Clone, Copy)]
pub enum SearchEvent<'a> {
    /// A prompt is about to be scored: the moment to check a budget. Breaking here ends the search
    /// with what it has found.
    Starting {
        /// The prompt.
        prompt: &'a Prompt,
        /// On how many fit examples.
        sample: usize,
        /// Most texts or tokens that the model has yet to read for it.
        cost: u64,
        /// Trials that are done.
        n_done: usize,
        /// Trials of the whole search, or most of them where they depend on each other.
        n_planned: usize,
    },
    /// A prompt was scored. Breaking here ends the search too.
    Finished(&'a Trial),
}

/// What a search found.
#[derive(Debug, Clone, PartialEq)]
pub struct SearchOutcome {
    /// The best prompt.
    pub best: Prompt,
    /// All trials in the order they were made.
    pub trials: Vec<Trial>,
    /// Which figure decided.
    pub criterion: Criterion,
    /// How many texts or tokens the model read.
    pub spent: u64,
    /// Whether the search came to its end; false when the observer broke it off or the budget was
    /// too small for it.
    pub complete: bool,
}

impl SearchOutcome {
    /// The last trial of each prompt, best first: more examples before fewer, then higher
    /// accuracy, then lower log-loss (or the other way round), then the order of trials.
    pub fn ranking(&self) -> Vec<&Trial> {
        ranking(&self.trials, self.criterion)
    }

    /// The best prompt so far after each trial.
    pub fn curve(&self) -> Vec<BestSoFar> {
        let mut best: Option<&Trial> = None;
        let mut curve = Vec::with_capacity(self.trials.len());
        for trial in &self.trials {
            let so_far = match best {
                Some(best) if better(trial, best, self.criterion).is_ge() => best,
                _ => trial,
            };
            best = Some(so_far);
            curve.push(BestSoFar {
                spent: trial.spent,
                sample: so_far.sample,
                accuracy: so_far.accuracy,
                log_loss: so_far.log_loss,
            });
        }
        curve
    }

    /// The `n` best prompts, best first.
    pub fn shortlist(&self, n: usize) -> Vec<Prompt> {
        self.ranking()
            .into_iter()
            .take(n)
            .map(|trial| trial.prompt.clone())
            .collect()
    }
}

/// Which figure decides between two prompts that were scored on the same examples; the other one
/// breaks ties.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Criterion {
    /// The higher accuracy.
    #[default]
    Accuracy,
    /// The lower log-loss, which tells more on few examples.
    LogLoss,
}

/// The best prompt that a search had found when it had spent so much.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct BestSoFar {
    /// What the model had read: texts or tokens.
    pub spent: u64,
    /// On how many examples the best prompt had been scored. The figures of a later one on more
    /// examples may be lower.
    pub sample: usize,
    /// Its accuracy.
    pub accuracy: f64,
    /// Its log-loss.
    pub log_loss: f64,
}

/// The part of a request that does not depend on the kind of model.
struct Search<'a> {
    space: &'a SearchSpace,
    incumbent: Option<&'a Prompt>,
    strategy: &'a SearchStrategy,
    n_fit: usize,
    n_labels: usize,
    seed: u64,
    /// Whether label words change scores.
    reads_label_words: bool,
    grammar: Option<&'a InstructionGrammar>,
    n_improved: usize,
}

/// Runs a strategy to its end, or until the budget or the observer stops it.
fn run(search: &Search<'_>, mut runner: Runner<'_>) -> Result<SearchOutcome, PromptError> {
    let criterion = runner.criterion;
    let result = run_strategy(search, &mut runner);
    let (trials, stop) = (std::mem::take(&mut runner.trials), runner.stop);
    match result {
        Err(source) if trials.is_empty() => return Err(source),
        Err(source) => {
            return Err(PromptError::Search {
                trials,
                source: Box::new(source),
            });
        }
        Ok(()) => {}
    }
    let Some(best) = ranking(&trials, criterion)
        .first()
        .map(|trial| trial.prompt.clone())
    else {
        return Err(match stop {
            Some(Stop::Unaffordable { needed, left }) => PromptError::Budget { needed, left },
            _ => PromptError::StoppedEarly,
        });
    };
    Ok(SearchOutcome {
        best,
        trials,
        criterion,
        spent: runner.scorer.spent(),
        complete: stop.is_none(),
    })
}

fn run_strategy(search: &Search<'_>, runner: &mut Runner<'_>) -> Result<(), PromptError> {
    let (n_fit, n_labels, seed) = (search.n_fit, search.n_labels, search.seed);
    let proposals = Proposals::new(search.space, search.incumbent, search.reads_label_words);
    if proposals.is_empty() {
        return Err(PromptError::EmptySpace { what: "prompt" });
    }
    let (n_prompts, keep_first) = (proposals.len(), search.incumbent.is_some());
    match *search.strategy {
        SearchStrategy::Exhaustive => {
            let plan = Plan::exhaustive(n_prompts, n_fit)?;
            ladder::run(&plan, &proposals, runner)
        }
        SearchStrategy::Random { trials } => {
            let plan = Plan::random(trials, n_prompts, keep_first, n_fit, seed)?;
            ladder::run(&plan, &proposals, runner)
        }
        SearchStrategy::Halving {
            eta,
            first_sample,
            max_prompts,
        } => {
            let settings = Halving {
                eta,
                first_sample,
                max_prompts,
            };
            let plan = Plan::halving(settings, n_prompts, keep_first, n_fit, n_labels, seed)?;
            ladder::run(&plan, &proposals, runner)
        }
        SearchStrategy::Beam {
            width,
            rounds,
            expansions,
            sample,
        } => {
            PromptError::at_least("width", width, 1)?;
            PromptError::at_least("rounds", rounds, 1)?;
            PromptError::at_least("expansions", expansions, 1)?;
            let (explorer, first) = explorer(search, proposals, runner, sample)?;
            beam(explorer, first, width, rounds, expansions)
        }
        SearchStrategy::Evolution {
            population,
            generations,
            sample,
        } => {
            PromptError::at_least("population", population, 1)?;
            PromptError::at_least("generations", generations, 1)?;
            let (explorer, first) = explorer(search, proposals, runner, sample)?;
            evolution(explorer, first, population, generations)
        }
        SearchStrategy::TreeParzen {
            trials,
            startup,
            sample,
        } => {
            PromptError::at_least("trials", trials, 1)?;
            PromptError::at_least("startup", startup, 1)?;
            let (explorer, first) = explorer(search, proposals, runner, sample)?;
            tree_parzen(explorer, first, trials, startup)
        }
    }
}

/// An explorer, and the point from which it starts: the incumbent, or else the space's first.
fn explorer<'e, 'r>(
    search: &Search<'e>,
    proposals: Proposals,
    runner: &'e mut Runner<'r>,
    sample: Option<usize>,
) -> Result<(Explorer<'e, 'r>, Point), PromptError> {
    let sample = match sample {
        Some(sample) => PromptError::at_least("sample", sample, 1)?.min(search.n_fit),
        None => search.n_fit,
    };
    let first = proposals.get(0);
    let mut space = proposals.into_space();
    let first = space.find_or_add(&first);
    let explorer = Explorer {
        space,
        grammar: search.grammar,
        n_improved: search.n_improved,
        runner,
        sample,
        n_fit: search.n_fit,
        seed: search.seed,
        scored: BTreeMap::new(),
    };
    Ok((explorer, first))
}

fn ranking(trials: &[Trial], criterion: Criterion) -> Vec<&Trial> {
    let mut ranked: Vec<&Trial> = trials.iter().collect();
    ranked.sort_by(|a, b| better(a, b, criterion));
    let mut seen = HashSet::new();
    ranked.retain(|trial| seen.insert(trial.prompt.id()));
    ranked
}

#[cfg(test)]
mod tests;

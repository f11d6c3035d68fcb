//! Search: propose prompts, score them on fit examples, keep the best.

mod fit_sample;
mod space;
mod strategy;
mod text_cache;

use std::cmp::Ordering;
use std::collections::HashSet;
use std::ops::ControlFlow;

use hybrid_data::{Example, LabelSet};
use serde::{Deserialize, Serialize};

use crate::error::PromptError;
use crate::model::PromptModel;
use crate::prompt::Prompt;
use crate::scoring::score;
use crate::template::Template;

pub use space::SearchSpace;
pub use strategy::SearchStrategy;

use fit_sample::nested_order;
use strategy::Plan;
use text_cache::TextCache;

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
    /// Share of right predictions.
    pub accuracy: f64,
    /// Mean negative log-probability of the right label, in nats.
    pub log_loss: f64,
    /// How many texts the model had to read for it; known ones are not read again.
    pub n_texts: usize,
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
        /// How many texts the model has yet to read for it.
        n_unread: usize,
        /// Trials that are done.
        n_done: usize,
        /// Trials of the whole search.
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
    /// How many texts the model read.
    pub n_texts: usize,
    /// Whether the search came to its end; false when the observer broke it off.
    pub complete: bool,
}

impl SearchOutcome {
    /// The last trial of each prompt, best first: more examples before fewer, then higher
    /// accuracy, then lower log-loss, then the order of trials.
    pub fn ranking(&self) -> Vec<&Trial> {
        ranking(&self.trials)
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

/// Finds the best prompt of a space on the fit examples.
///
/// The model reads no text twice. Where it has a trained head, label words change no score, so
/// prompts that differ in them alone are one, and keep the incumbent's words (without incumbent,
/// the first ones). The same request finds the same prompts in the same order.
///
/// # Errors
/// A fault of the request before any trial as itself; [`PromptError::StoppedEarly`] when the
/// observer breaks before the first trial ended; else [`PromptError::Search`], which holds the
/// trials so far.
pub fn search<M: PromptModel>(
    request: SearchRequest<'_>,
    model: &mut M,
    observer: &mut dyn FnMut(SearchEvent<'_>) -> ControlFlow<()>,
) -> Result<SearchOutcome, PromptError> {
    let SearchRequest {
        labels, fit, seed, ..
    } = request;
    if fit.is_empty() {
        return Err(PromptError::EmptySpace {
            what: "fit example",
        });
    }
    let targets = labels.targets(fit)?;
    let mut cache = TextCache::new(model, labels.len())?;
    let prompts = proposals(request, cache.has_head());
    if prompts.is_empty() {
        return Err(PromptError::EmptySpace { what: "prompt" });
    }
    let plan = Plan::new(
        request.strategy,
        prompts.len(),
        request.incumbent.is_some(),
        fit.len(),
        labels.len(),
        seed,
    )?;
    let order = nested_order(&targets, labels.len(), seed);
    let ordered: Vec<Example> = order.into_iter().map(|row| fit[row].clone()).collect();

    let mut trials: Vec<Trial> = Vec::new();
    let complete = match run(
        &plan,
        &prompts,
        &ordered,
        labels,
        &mut cache,
        observer,
        &mut trials,
    ) {
        Ok(complete) => complete,
        Err(source) if trials.is_empty() => return Err(source),
        Err(source) => {
            return Err(PromptError::Search {
                trials,
                source: Box::new(source),
            });
        }
    };
    let Some(best) = ranking(&trials).first().map(|trial| trial.prompt.clone()) else {
        return Err(PromptError::StoppedEarly);
    };
    Ok(SearchOutcome {
        best,
        trials,
        n_texts: cache.n_texts(),
        complete,
    })
}

/// The prompts that take part, each once.
fn proposals(request: SearchRequest<'_>, has_head: bool) -> Vec<Prompt> {
    let mut seen = HashSet::new();
    let candidates = request
        .incumbent
        .cloned()
        .into_iter()
        .chain(request.space.prompts());
    let mut prompts: Vec<Prompt> = Vec::new();
    for mut prompt in candidates {
        if has_head && let Some(first) = prompts.first() {
            prompt.label_words.clone_from(&first.label_words);
        }
        if seen.insert(prompt.id()) {
            prompts.push(prompt);
        }
    }
    prompts
}

/// Runs rung after rung; false when the observer broke it off.
fn run<M: PromptModel>(
    plan: &Plan,
    prompts: &[Prompt],
    fit: &[Example],
    labels: &LabelSet,
    cache: &mut TextCache<'_, M>,
    observer: &mut dyn FnMut(SearchEvent<'_>) -> ControlFlow<()>,
    trials: &mut Vec<Trial>,
) -> Result<bool, PromptError> {
    let mut alive = plan.first.clone();
    for rung in &plan.rungs {
        alive.truncate(rung.n_prompts);
        let start = trials.len();
        for &index in &alive {
            let prompt = &prompts[index];
            let examples = &fit[..rung.sample];
            let starting = SearchEvent::Starting {
                prompt,
                sample: rung.sample,
                n_unread: n_unread(prompt, examples, cache)?,
                n_done: trials.len(),
                n_planned: plan.n_trials(),
            };
            if observer(starting).is_break() {
                return Ok(false);
            }
            let before = cache.n_texts();
            let scores = score(prompt, examples, labels, cache)?;
            trials.push(Trial {
                prompt: prompt.clone(),
                sample: rung.sample,
                accuracy: scores.accuracy,
                log_loss: scores.log_loss,
                n_texts: cache.n_texts() - before,
            });
            if observer(SearchEvent::Finished(&trials[trials.len() - 1])).is_break() {
                return Ok(false);
            }
        }
        let mut places: Vec<usize> = (0..alive.len()).collect();
        places.sort_by(|&a, &b| better(&trials[start + a], &trials[start + b]));
        alive = places.into_iter().map(|place| alive[place]).collect();
    }
    Ok(true)
}

fn n_unread<M: PromptModel>(
    prompt: &Prompt,
    examples: &[Example],
    cache: &TextCache<'_, M>,
) -> Result<usize, PromptError> {
    let template = Template::parse(&prompt.template)?;
    let texts = examples
        .iter()
        .map(|example| template.render(&example.fields))
        .collect::<Result<Vec<_>, _>>()?;
    let words = prompt
        .label_words
        .values()
        .flatten()
        .filter(|_| !cache.has_head());
    Ok(cache.n_unread(texts.iter().chain(words)))
}

/// Which of two trials on the same sample comes first; equal when only their order can tell.
fn better(a: &Trial, b: &Trial) -> Ordering {
    b.sample
        .cmp(&a.sample)
        .then(b.accuracy.total_cmp(&a.accuracy))
        .then(a.log_loss.total_cmp(&b.log_loss))
}

fn ranking(trials: &[Trial]) -> Vec<&Trial> {
    let mut ranked: Vec<&Trial> = trials.iter().collect();
    ranked.sort_by(|a, b| better(a, b));
    let mut seen = HashSet::new();
    ranked.retain(|trial| seen.insert(trial.prompt.id()));
    ranked
}

#[cfg(test)]
mod tests;

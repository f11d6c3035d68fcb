//! The search with a sentence encoder.

use std::ops::ControlFlow;

use hybrid_data::{Example, LabelSet};

use super::runner::{Figures, Runner, Scorer};
use super::text_cache::TextCache;
use super::{Search, SearchEvent, SearchOutcome, SearchRequest, SearchSpace, run};
use crate::error::PromptError;
use crate::model::PromptModel;
use crate::prompt::Prompt;
use crate::sampling::balanced_order;
use crate::scoring::score;
use crate::template::Template;

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
    let cache = TextCache::new(model, labels.len())?;
    let order = balanced_order(&targets, labels.len(), seed);
    let search = Search {
        space: request.space,
        incumbent: request.incumbent,
        strategy: request.strategy,
        n_fit: fit.len(),
        n_labels: labels.len(),
        seed,
        reads_label_words: !cache.has_head(),
        grammar: None,
        n_improved: 0,
    };
    let mut scorer = EncoderScorer {
        cache,
        fit: order.into_iter().map(|row| fit[row].clone()).collect(),
        labels,
    };
    let runner = Runner {
        scorer: &mut scorer,
        observer,
        budget: None,
        criterion: request.criterion,
        n_planned: 0,
        trials: Vec::new(),
        stop: None,
    };
    run(&search, runner)
}

struct EncoderScorer<'a, M> {
    cache: TextCache<'a, M>,
    fit: Vec<Example>,
    labels: &'a LabelSet,
}

impl<M: PromptModel> Scorer for EncoderScorer<'_, M> {
    fn score(
        &mut self,
        prompt: &Prompt,
        sample: usize,
        go: &mut dyn FnMut(u64) -> bool,
    ) -> Result<Option<Figures>, PromptError> {
        let examples = &self.fit[..sample];
        if !go(n_unread(prompt, examples, &self.cache)? as u64) {
            return Ok(None);
        }
        let scores = score(prompt, examples, self.labels, &mut self.cache)?;
        Ok(Some(Figures {
            accuracy: scores.accuracy,
            log_loss: scores.log_loss,
            n_cut: 0,
        }))
    }

    fn spent(&self) -> u64 {
        self.cache.n_texts() as u64
    }

    fn fits(&mut self, _: &SearchSpace, _: &str) -> bool {
        true
    }

    fn improve(
        &mut self,
        _: &Prompt,
        _: usize,
        _: usize,
        _: u64,
        _: Option<u64>,
    ) -> Result<Vec<String>, PromptError> {
        Ok(Vec::new())
    }
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

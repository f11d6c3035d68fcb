//! The prompt stage: search templates x label words with the parent's adapter active.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use hybrid_eval::SearchPoint;
use hybrid_prompts::{
    BestSoFar, Criterion as SearchCriterion, LanguageSearch, Objective, Prompt, SearchEvent,
    SearchOutcome, SearchRequest, SearchSpace, Trial, default_instructions,
    default_language_templates, search, search_language,
};

use super::{Context, Spent, StageMeter};
use crate::HybridError;
use crate::criterion::Criterion;
use crate::evaluate::{self, Scored, are_clearly_below};
use crate::interrupt;
use crate::journal::{Event, Journal};
use crate::progress::Progress;
use crate::recipe::{Budget, ChooseBy, PromptStage, Recipe};
use crate::task::TaskData;

/// The best prompt on select, with its scores.
pub(crate) struct Searched {
    pub(crate) prompt: Prompt,
    pub(crate) scored: Scored,
    /// The best prompt so far after each trial.
    pub(crate) curve: Vec<SearchPoint>,
    pub(crate) spent: Spent,
}

/// Searches on fit and chooses on select among the best few and the parent's own prompt.
///
/// The model's active adapter is the parent's. Tries that were broken off have taken `earlier`
/// seconds by the end of each of their steps.
///
/// # Errors
/// [`HybridError`]; the trials so far are in the journal.
pub(crate) fn run(
    context: &mut Context<'_>,
    config: &PromptStage,
    parent: &Prompt,
    criterion: Criterion,
    earlier: Vec<f64>,
) -> Result<Searched, HybridError> {
    let clock = Clock {
        began: Instant::now(),
        earlier,
        n_done: 0,
    };
    let carried = Spent {
        seconds: clock.carried(),
        ..Spent::default()
    };
    let meter = StageMeter::new(context.model, carried);
    let data = context.data;
    let space = match context.model.is_language_model() {
        true => language_space(context.recipe, data, config)?,
        false => space(context.recipe, data, config)?,
    };
    let seed = context.seed(&config.name);
    let request = SearchRequest {
        space: &space,
        incumbent: Some(parent),
        strategy: &config.strategy,
        fit: &data.fit.examples,
        labels: &data.task.labels,
        criterion: search_criterion(context, criterion),
        seed,
    };
    let mut watch = Watch {
        config,
        context_spent: context.spent,
        journal: context.journal,
        progress: context.progress,
        budget: &context.recipe.budget,
        clock,
        tokens: context.model.token_counter(),
        tokens_before: context.model.tokens(),
        failed: None,
    };
    watch.progress.begin(&config.name, 0, 1);
    let scoring = evaluate::label_scoring(context.model, &data.task);
    let found = if context.model.is_language_model() {
        let language = LanguageSearch {
            request,
            objective: match data.task.kind.text_task() {
                None => Objective::Labels(&scoring),
                Some(_) => Objective::Likelihood,
            },
            demonstrations: &config.demonstrations,
            instructions: config.proposals,
            budget: token_budget(config, &context.recipe.budget, context.spent),
        };
        let see = &mut |event: SearchEvent<'_>| watch.see(event);
        context
            .model
            .prompted(|model| search_language(language, model, None, see))
    } else {
        search(request, context.model, &mut |event| watch.see(event)).map_err(HybridError::from)
    };
    let (failed, mut clock) = (watch.failed, watch.clock);
    context.progress.end();
    if let Some(error) = failed {
        return Err(error);
    }
    context.model.check_interrupt()?;
    let outcome = found?;

    let mut shortlist: Vec<Prompt> = outcome.shortlist(config.shortlist);
    if !shortlist.contains(parent) {
        shortlist.push(parent.clone());
    }
    let mut candidates: Vec<(Prompt, Scored)> = Vec::with_capacity(shortlist.len());
    for prompt in shortlist {
        let scored = evaluate::score_on_select(context.model, &prompt, data, criterion)?;
        context.happened(Event::Shortlisted {
            stage: config.name.clone(),
            prompt: prompt.id(),
            value: scored.metric(criterion.metric),
            log_loss: scored.log_loss,
            seconds: clock.done(),
        })?;
        candidates.push((prompt, scored));
    }
    let (prompt, scored) = chosen(candidates, parent, criterion, config.margin);
    Ok(Searched {
        prompt,
        scored,
        curve: curve(&outcome),
        spent: meter.spent(context.model),
    })
}

/// The best of some prompts, the parent's own among them, which stays where none is clearly better.
fn chosen(
    candidates: Vec<(Prompt, Scored)>,
    parent: &Prompt,
    criterion: Criterion,
    margin: f64,
) -> (Prompt, Scored) {
    let (parents, others): (Vec<_>, Vec<_>) = candidates
        .into_iter()
        .partition(|(prompt, _)| prompt == parent);
    let mut parents = parents.into_iter();
    let mut best = parents
        .next()
        .expect("the parent's prompt is always on the shortlist");
    let losses = best.1.losses.clone();
    for (prompt, scored) in others {
        let better = scored
            .standing(criterion)
            .is_better_than(best.1.standing(criterion));
        if better && (margin == 0.0 || are_clearly_below(&scored.losses, &losses, margin)) {
            best = (prompt, scored);
        }
    }
    best
}

fn curve(outcome: &SearchOutcome) -> Vec<SearchPoint> {
    let point = |best: BestSoFar| SearchPoint {
        spent: best.spent,
        sample: best.sample,
        accuracy: best.accuracy,
        log_loss: best.log_loss,
    };
    outcome.curve().into_iter().map(point).collect()
}

/// Which figure of the fit examples decides in a search.
pub(crate) fn search_criterion(context: &Context<'_>, criterion: Criterion) -> SearchCriterion {
    let by_log_loss = match context.data.task.kind.text_task() {
        // Not `choose_by` for an encoder: fit is larger than select, and by log-loss the default
        // recipe comes out lower on the report split (87.0 % against 87.4 %).
        None => context.model.is_language_model() && criterion.choose_by != ChooseBy::Metric,
        // The probability of the wanted text is all that is asked.
        Some(_) => true,
    };
    match by_log_loss {
        true => SearchCriterion::LogLoss,
        false => SearchCriterion::Accuracy,
    }
}

/// Most tokens that a search may still spend.
fn token_budget(config: &PromptStage, budget: &Budget, spent: Spent) -> u64 {
    let left = budget
        .max_tokens
        .map(|most| most.saturating_sub(spent.tokens));
    let limits = [config.max_tokens, left];
    limits.into_iter().flatten().min().unwrap_or(u64::MAX)
}

/// The space that a stage searches.
///
/// # Errors
/// [`HybridError::Prompt`] for a faulty template or label word.
pub(crate) fn space(
    recipe: &Recipe,
    data: &TaskData,
    config: &PromptStage,
) -> Result<SearchSpace, HybridError> {
    let fields = recipe.data.fields.keys().cloned().collect();
    Ok(SearchSpace::build(
        &fields,
        &data.task.labels,
        &config.templates,
        &config.label_patterns,
        &config.label_words,
    )?)
}

/// The space that a stage searches with a language model.
///
/// # Errors
/// [`HybridError::Prompt`] for a faulty template or label word.
pub(crate) fn language_space(
    recipe: &Recipe,
    data: &TaskData,
    config: &PromptStage,
) -> Result<SearchSpace, HybridError> {
    let fields = recipe.data.fields.keys().cloned().collect();
    let templates = match (&config.templates[..], &recipe.prompt) {
        ([], Some(prompt)) => vec![prompt.template.clone()],
        ([], None) => default_language_templates(&fields),
        (given, _) => given.to_vec(),
    };
    let patterns = match &config.label_patterns[..] {
        [] => vec![vec!["{{ label }}".to_owned()]],
        given => given.to_vec(),
    };
    let given = match (&config.label_words, &recipe.prompt) {
        (words, Some(prompt)) if words.is_empty() => &prompt.label_words,
        (words, _) => words,
    };
    let instructions = match &config.instructions[..] {
        [] => default_instructions(recipe.task.kind()),
        given => given.to_vec(),
    };
    let space = SearchSpace::build(&fields, &data.task.labels, &templates, &patterns, given)?
        .with_instructions(instructions)
        .with_more_label_words(config.more_label_words.iter().cloned());
    let space = match &config.formats[..] {
        [] => space,
        formats => space.with_formats(formats.to_vec()),
    };
    Ok(match (&config.answer_starts[..], &recipe.prompt) {
        ([], None) => space,
        ([], Some(prompt)) => space.with_answer_starts(vec![prompt.answer_start.clone()]),
        (given, _) => space.with_answer_starts(given.to_vec()),
    })
}

/// Seconds of a prompt stage over all tries at it.
struct Clock {
    began: Instant,
    /// What earlier tries had taken by the end of each step.
    earlier: Vec<f64>,
    /// Steps that this try has done.
    n_done: usize,
}

impl Clock {
    /// What earlier tries have taken.
    fn carried(&self) -> f64 {
        self.earlier.last().copied().unwrap_or(0.0)
    }

    /// Seconds by the end of the last step. While this try goes the way of an earlier one, they are
    /// that one's: a step that was affordable then still is.
    fn seconds(&self) -> f64 {
        let last = self.n_done.checked_sub(1);
        match last.and_then(|last| self.earlier.get(last)) {
            Some(seconds) => *seconds,
            None => self.carried() + self.began.elapsed().as_secs_f64(),
        }
    }

    /// A step is done. Returns the seconds by now.
    fn done(&mut self) -> f64 {
        self.n_done += 1;
        self.seconds()
    }
}

/// Journals trials, shows them and breaks the search off when it must end.
struct Watch<'w> {
    config: &'w PromptStage,
    context_spent: Spent,
    journal: &'w mut Journal,
    progress: &'w mut Progress,
    budget: &'w Budget,
    clock: Clock,
    tokens: Arc<AtomicU64>,
    tokens_before: u64,
    failed: Option<HybridError>,
}

impl Watch<'_> {
    fn see(&mut self, event: SearchEvent<'_>) -> ControlFlow<()> {
        match event {
            SearchEvent::Starting {
                n_done, n_planned, ..
            } => {
                self.progress
                    .at(n_done, n_planned, || "searching".to_owned());
                let spent = Spent {
                    seconds: self.clock.seconds(),
                    tokens: self.tokens.load(Ordering::Relaxed) - self.tokens_before,
                    ..Spent::default()
                };
                // One trial at least, so that the stage has something to choose from.
                let over = n_done > 0 && self.context_spent.exceeds(self.budget, spent).is_some();
                if over || interrupt::asked() {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            }
            SearchEvent::Finished(trial) => match self.finished(trial) {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    self.failed = Some(error);
                    ControlFlow::Break(())
                }
            },
        }
    }

    fn finished(&mut self, trial: &Trial) -> Result<(), HybridError> {
        let event = Event::Trial {
            stage: self.config.name.clone(),
            prompt: trial.prompt.id(),
            instruction: trial.prompt.instruction.clone(),
            template: trial.prompt.template.clone(),
            answer_start: trial.prompt.answer_start.clone(),
            demonstrations: trial.prompt.demonstrations.examples.len(),
            sample: trial.sample,
            accuracy: trial.accuracy,
            log_loss: trial.log_loss,
            spent: trial.spent,
            seconds: self.clock.done(),
        };
        self.journal.append(&event)?;
        self.progress.event(&event);
        Ok(())
    }
}

//! The alternation: baseline, then prompt and adapter stages in turn, until the target is met, the
//! budget is spent or a round brings nothing.

use std::collections::BTreeSet;

use hybrid_adapters::{Adapters, ClassifierHead, SpanHead, Trainable};
use hybrid_eval::Cost;
use hybrid_prompts::{Prompt, Template, default_language_templates, label_words};

use crate::HybridError;
use crate::candidate::Candidate;
use crate::criterion::{Criterion, LOG_LOSS};
use crate::evaluate;
use crate::journal::{Event, StopReason, seconds_of_stage};
use crate::recipe::{Recipe, StageConfig};
use crate::stage::{Context, Spent, StageMeter, adapter, prompt};
use crate::task::TaskSettings;
use crate::tensors::NamedTensors;

/// All candidates of a run and why it stopped.
pub(crate) struct Outcome {
    pub(crate) candidates: Vec<Candidate>,
    pub(crate) stopped: StopReason,
}

impl Outcome {
    /// The last adopted candidate.
    pub(crate) fn winner(&self) -> &Candidate {
        winner(&self.candidates)
    }

    /// All other candidates.
    pub(crate) fn losers(&self) -> impl Iterator<Item = &Candidate> {
        let winner = &self.winner().id;
        let candidates = self.candidates.iter();
        candidates.filter(move |candidate| candidate.id != *winner)
    }
}

fn winner(candidates: &[Candidate]) -> &Candidate {
    candidates
        .iter()
        .rev()
        .find(|candidate| candidate.adopted)
        .expect("the baseline is adopted")
}

/// Runs all rounds, going on after the stages that `done` lists.
///
/// # Errors
/// [`HybridError`]; every finished candidate is stored in the run folder.
pub(crate) fn run(context: &mut Context<'_>, done: &[Event]) -> Result<Outcome, HybridError> {
    let criterion = Criterion::of(context.recipe);
    let mut candidates = finished(context, done)?;
    if candidates.is_empty() {
        candidates.push(baseline(context, criterion)?);
    }
    let stages = &context.recipe.stages;
    loop {
        if let Some(stopped) = stop(context, &candidates) {
            context.happened(Event::Stopped { reason: stopped })?;
            return Ok(Outcome {
                candidates,
                stopped,
            });
        }
        let finished = candidates.len() - 1;
        let (round, config) = (
            finished / stages.len() + 1,
            &stages[finished % stages.len()],
        );
        context.round = round;
        context.spent = Spent::of(&candidates);
        context.happened(Event::StageBegan {
            round,
            stage: config.name().to_owned(),
        })?;
        let earlier = seconds_of_stage(done, round, config.name());
        let candidate = stage(context, config, &candidates, criterion, earlier)?;
        candidates.push(candidate);
    }
}

/// The candidates of the stages that have ended, in order. Where the files of one are gone, as a
/// power cut may leave it, its stage and those after it count as not done.
fn finished(context: &Context<'_>, done: &[Event]) -> Result<Vec<Candidate>, HybridError> {
    let mut candidates: Vec<Candidate> = Vec::new();
    for event in done {
        let Event::StageEnded { candidate: id, .. } = event else {
            continue;
        };
        // A stage that was run again for that reason ends for a second time.
        if let Some(place) = candidates.iter().position(|earlier| earlier.id == *id) {
            candidates.truncate(place);
        }
        let Some(candidate) = Candidate::read(context.run, id)? else {
            context.progress.say(&format!(
                "the files of {id} are gone; its stage is run again"
            ));
            break;
        };
        candidates.push(candidate);
    }
    Ok(candidates)
}

fn stop(context: &Context<'_>, candidates: &[Candidate]) -> Option<StopReason> {
    let best = winner(candidates);
    if context
        .recipe
        .target
        .is_some_and(|target| target.is_reached(best.score(target.metric.name())))
    {
        return Some(StopReason::Target);
    }
    if let Some(reason) = Spent::of(candidates).exceeds(&context.recipe.budget, Spent::default()) {
        return Some(reason);
    }
    let stages = context.recipe.stages.len();
    let finished = candidates.len() - 1;
    if finished >= stages && finished.is_multiple_of(stages) {
        let last_round = &candidates[candidates.len() - stages..];
        if !last_round.iter().any(|candidate| candidate.adopted) {
            return Some(StopReason::NoGain);
        }
    }
    (finished >= stages * context.recipe.budget.max_rounds).then_some(StopReason::Rounds)
}

/// The plain prompt: the fields alone and the label names as they read. An encoder that answers out
/// of passages has no prompt; without a span head it answers by chance (see [`crate::spans`]).
fn baseline(context: &mut Context<'_>, criterion: Criterion) -> Result<Candidate, HybridError> {
    let meter = StageMeter::new(context.model, Spent::default());
    let prompt = first_prompt(
        context.recipe,
        &context.data.task,
        context.model.is_language_model(),
    )?;
    context.model.activate(None, None);
    context.progress.scoring(&context.data.select, "select");
    let scored = evaluate::score_on_select(context.model, &prompt, context.data, criterion)?;
    context
        .progress
        .cut(scored.n_cut, &context.data.select, "select");
    let candidate = Candidate {
        id: "baseline".to_owned(),
        stage: "baseline".to_owned(),
        round: 0,
        parent: None,
        prompt,
        adapter: None,
        select: scored.by_name(),
        predictions: scored.predictions(),
        outputs: scored.outputs.clone(),
        adopted: true,
        cost: cost(meter.spent(context.model), Cost::default()),
        search: Vec::new(),
        curve: Vec::new(),
    };
    finish(context, candidate, None, criterion)
}

/// The prompt that a run starts from: the recipe's, or the plain one.
///
/// # Errors
/// [`HybridError::Prompt`] for a faulty template or label word.
pub(crate) fn first_prompt(
    recipe: &Recipe,
    task: &TaskSettings,
    is_language_model: bool,
) -> Result<Prompt, HybridError> {
    let fields: BTreeSet<String> = recipe.data.fields.keys().cloned().collect();
    let plain = Prompt::plain(&fields, &task.labels)?;
    let Some(given) = &recipe.prompt else {
        let cued = default_language_templates(&fields).swap_remove(0);
        return Ok(Prompt {
            template: if is_language_model {
                cued
            } else {
                plain.template
            },
            ..plain
        });
    };
    Template::for_fields(&given.template, &fields)?;
    let names = ["{{ label }}".to_owned()];
    Ok(Prompt {
        label_words: label_words(&task.labels, &names, &given.label_words)?,
        ..given.clone()
    })
}

fn cost(spent: Spent, rest: Cost) -> Cost {
    Cost {
        wall_s: spent.seconds,
        tokens: spent.tokens,
        flops: spent.flops,
        ..rest
    }
}

/// Runs one stage from the best candidate so far. A prompt stage that was broken off has taken
/// `earlier` seconds by the end of each of its steps.
fn stage(
    context: &mut Context<'_>,
    config: &StageConfig,
    candidates: &[Candidate],
    criterion: Criterion,
    earlier: Vec<f64>,
) -> Result<Candidate, HybridError> {
    let parent = winner(candidates);
    context.model.forget();
    let mut candidate = Candidate {
        id: format!("{}-{}", context.round, config.name()),
        stage: config.name().to_owned(),
        round: context.round,
        parent: Some(parent.id.clone()),
        search: Vec::new(),
        curve: Vec::new(),
        ..parent.clone()
    };
    let (scored, tensors, spent, part) = match config {
        StageConfig::Prompt(config) => {
            let tensors = activate(context, parent)?;
            let searched = prompt::run(context, config, &parent.prompt, criterion, earlier)?;
            candidate.prompt = searched.prompt;
            candidate.search = searched.curve;
            let part = Cost {
                prompt_s: searched.spent.seconds,
                ..Cost::default()
            };
            (searched.scored, tensors, searched.spent, part)
        }
        StageConfig::Adapter(config) => {
            let (record, trained) = adapter::train(context, config, parent, criterion)?;
            let part = Cost {
                train_s: trained.spent.seconds,
                trainable_parameters: record.trainable_parameters as u64,
                ..Cost::default()
            };
            candidate.adapter = Some(record);
            candidate.curve = trained.curve;
            let scored = match trained.scored {
                Some(scored) => scored,
                None => {
                    context.model.activate(Some(trained.trainable), None);
                    let data = context.data;
                    evaluate::score_on_select(context.model, &candidate.prompt, data, criterion)?
                }
            };
            (scored, Some(trained.tensors), trained.spent, part)
        }
    };
    context
        .progress
        .cut(scored.n_cut, &context.data.select, "select");
    candidate.select = scored.by_name();
    candidate.predictions = scored.predictions();
    candidate.outputs = scored.outputs.clone();
    candidate.adopted = scored
        .standing(criterion)
        .is_better_than(parent.standing(criterion));
    candidate.cost = cost(spent, part);
    finish(context, candidate, tensors.as_ref(), criterion)
}

/// Makes a candidate's adapter the active one and returns its values.
pub(crate) fn activate(
    context: &mut Context<'_>,
    candidate: &Candidate,
) -> Result<Option<NamedTensors>, HybridError> {
    let Some(record) = &candidate.adapter else {
        context.model.activate(None, None);
        return Ok(None);
    };
    let tensors = Candidate::read_tensors(context.run, &candidate.id)?;
    let base = context.model.base.as_base();
    let device = &context.model.device;
    let adapters = Adapters::init(&record.methods, base, 0, device)?;
    let (d_model, n_labels) = (context.model.d_model(), context.data.task.labels.len());
    let head = record.head.as_ref();
    let trainable = Trainable {
        adapters,
        head: head.map(|head| ClassifierHead::init(head.clone(), d_model, n_labels, 0, device)),
        span_head: record.span_head.then(|| SpanHead::init(d_model, 0, device)),
    }
    .load_named_tensors(&tensors)?;
    context.model.activate(Some(trainable), Some(&candidate.id));
    Ok(Some(tensors))
}

/// Stores a candidate and journals it.
fn finish(
    context: &mut Context<'_>,
    candidate: Candidate,
    tensors: Option<&NamedTensors>,
    criterion: Criterion,
) -> Result<Candidate, HybridError> {
    candidate.store(context.run, tensors)?;
    let score = candidate.score(criterion.metric.name());
    if candidate.adopted {
        context
            .progress
            .best(criterion.in_words(score, candidate.score(LOG_LOSS)));
    }
    context.progress.say(&format!(
        "{:>12}: {}, {:.1} s{}",
        candidate.id,
        criterion.in_words(score, candidate.score(LOG_LOSS)),
        candidate.cost.wall_s,
        if candidate.adopted {
            ""
        } else {
            " (not adopted)"
        },
    ));
    context.happened(Event::StageEnded {
        round: candidate.round,
        stage: candidate.stage.clone(),
        candidate: candidate.id.clone(),
        adopted: candidate.adopted,
    })?;
    Ok(candidate)
}

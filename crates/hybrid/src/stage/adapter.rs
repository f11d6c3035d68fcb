//! The adapter stage: theta <- theta - alpha * gradient over a frozen base.

use std::sync::Arc;

use hybrid_adapters::{AdapterConfig, Adapters, ClassifierHead, HeadConfig, SpanHead, Trainable};
use hybrid_data::Encoding;
use hybrid_prompts::{Prompt, SIMILARITY_SCALE};

use super::checkpoint::Checkpoint;
use super::explained_variance;
use super::language;
use super::pass::{Input, SpanTarget, Targets};
use super::prefix::{Frozen, Prefix};
use super::soft_start::{self, same_but_for_starts};
use super::training::{Start, Trained, Training};
use super::{Context, Spent, StageMeter, variants};
use crate::HybridError;
use crate::candidate::{AdapterRecord, Candidate};
use crate::criterion::Criterion;
use crate::evaluate;
use crate::recipe::{AdapterStage, HeadInit};
use crate::spans;
use crate::tensors::{self, NamedTensors};

/// Trains the stage's adapters and head, starting at `parent`; of several variants the one that is
/// best on select.
///
/// # Errors
/// [`HybridError`]; an interruption leaves a checkpoint behind.
pub(crate) fn train(
    context: &mut Context<'_>,
    config: &AdapterStage,
    parent: &Candidate,
    criterion: Criterion,
) -> Result<(AdapterRecord, Trained), HybridError> {
    let choices = config.choices();
    context.model.keep_lower_states(true);
    let (winner, spent) = variants::trained(context, config, &choices, parent, criterion)?;
    context.model.keep_lower_states(false);
    let mut trained = winner.training.finish(context.model)?;
    trained.spent = spent;
    Ok((winner.record, trained))
}

/// A training with what its candidate will say of it.
pub(super) struct Prepared<'c> {
    pub(super) record: AdapterRecord,
    pub(super) training: Training<'c>,
}

/// The training of a stage, or of one of its variants, from where a checkpoint left it. Of the others
/// it takes the frozen part over where that is the same.
pub(super) fn prepare<'c>(
    context: &mut Context<'_>,
    config: &'c AdapterStage,
    variant: Option<usize>,
    parent: &Candidate,
    others: &[Prepared<'_>],
) -> Result<Prepared<'c>, HybridError> {
    let (encodings, targets) = rows(context, config, &parent.prompt)?;
    let place = variant.unwrap_or(0);
    let checkpoint = Checkpoint::read(context.run, context.round, &config.name, place)?;
    let carried = checkpoint.as_ref().map(|checkpoint| &checkpoint.progressed);
    let carried = carried.map_or(Spent::default(), |progressed| Spent {
        seconds: progressed.seconds,
        tokens: progressed.tokens,
        flops: progressed.flops,
    });
    let mut meter = StageMeter::new(context.model, carried);
    let asks_spans = spans::are_asked(context.data.task.kind, context.model);
    let has_labels = !context.model.is_language_model() && !asks_spans;
    let head = has_labels.then(|| config.head.config());
    let total_steps = config.total_steps(encodings.len());
    let rows = (encodings.as_slice(), &targets);
    let start = start(context, config, head.as_ref(), parent, rows, total_steps)?;
    let n_layers = context.model.n_layers();
    let head_alone = config.methods.is_empty();
    let trained_head = start.trainable.head.as_ref();
    let span_head = start.trainable.span_head.as_ref();
    let (lowest_layer, trainable_parameters) = match head_alone {
        true => (
            n_layers,
            trained_head.map_or(0, ClassifierHead::n_parameters)
                + span_head.map_or(0, SpanHead::n_parameters),
        ),
        false => (
            start.trainable.adapters.lowest_layer().unwrap_or(n_layers),
            start.trainable.n_parameters(),
        ),
    };
    let record = AdapterRecord {
        methods: start.trainable.adapters.configs().to_vec(),
        head,
        span_head: asks_spans,
        trainable_parameters,
    };
    // Hidden tokens change what is pooled.
    let pooling = record.head.as_ref().map(|head| head.pooling);
    let frozen = Frozen {
        layers: lowest_layer,
        pooling: pooling.filter(|_| head_alone && config.token_dropout == 0.0),
        in_front: record.methods.iter().any(AdapterConfig::is_in_front),
    };
    let mut others = others.iter().map(|other| other.training.prefix());
    let prefix = match others.find(|prefix| prefix.is_of(frozen)) {
        Some(prefix) => prefix.clone(),
        None => {
            let (bytes, folder) = (config.kept_mb << 20, context.run.path());
            let model = &mut *context.model;
            Arc::new(Prefix::plan(model, &encodings, frozen, bytes, folder))
        }
    };
    if checkpoint.is_some() {
        meter.recount(context.model);
    }
    let input = Input {
        encodings,
        targets,
        lowest_layer,
        prefix,
    };
    meter.rest(context.model);
    let training = Training::new(context, config, variant, input, start, checkpoint, meter)?;
    Ok(Prepared { record, training })
}

/// The fit examples as tokens, and what is to be learned of them.
fn rows(
    context: &mut Context<'_>,
    config: &AdapterStage,
    prompt: &Prompt,
) -> Result<(Vec<Encoding>, Targets), HybridError> {
    if context.model.is_language_model() {
        return language::rows(context, prompt);
    }
    let data = context.data;
    if spans::are_asked(data.task.kind, context.model) {
        return windows(context);
    }
    let mut texts = evaluate::render(prompt, data.fit.fields())?;
    let mut classes = data.fit.targets.clone();
    if config.train_on_label_words {
        let (words, of_words) = evaluate::labelled_words(prompt, &data.task.labels);
        texts.extend(words);
        classes.extend(of_words);
    }
    Ok((context.model.encode(&texts)?, Targets::Head(classes)))
}

/// The windows that hold the answers of the fit examples.
fn windows(context: &Context<'_>) -> Result<(Vec<Encoding>, Targets), HybridError> {
    let data = context.data;
    let labelled = spans::labelled_windows(context.model, &data.task.passages, &data.fit.examples)?;
    let (encodings, targets) = labelled
        .into_iter()
        .map(|labelled| {
            let target = SpanTarget {
                passage: labelled.window.passage,
                first: labelled.first,
                last: labelled.last,
            };
            (labelled.window.encoding, target)
        })
        .unzip();
    Ok((encodings, Targets::Spans(targets)))
}

/// The stage's parameters before the first update. What the parent has of the same kind goes on
/// from there; all else starts anew. A fresh adapter mostly starts as the identity, and a recipe whose
/// stages have different adapters is refused before a run, so only a fresh head changes what the
/// parent says.
fn start(
    context: &mut Context<'_>,
    config: &AdapterStage,
    head: Option<&HeadConfig>,
    parent: &Candidate,
    rows: (&[Encoding], &Targets),
    total_steps: usize,
) -> Result<Start, HybridError> {
    let device = context.model.device.clone();
    let seed = context.seed(&format!("{}/init", config.name));
    let trained = match &parent.adapter {
        Some(_) => Candidate::read_tensors(context.run, &parent.id)?,
        None => NamedTensors::new(),
    };
    let earlier = parent
        .adapter
        .as_ref()
        .map(|old| old.methods.as_slice())
        .unwrap_or_default();
    let goes_on = config.methods.is_empty() || same_but_for_starts(&config.methods, earlier);
    let methods = match goes_on {
        true => earlier.to_vec(),
        false => soft_start::methods(
            config,
            context.model,
            context.data,
            &parent.prompt,
            total_steps,
        )?,
    };
    let adapters = match goes_on {
        true => Adapters::init(&methods, context.model.base.as_base(), seed, &device)?
            .load_named_tensors(&tensors::under(&trained, "adapters."))?,
        false => {
            let pooling = head.map(|head| head.pooling);
            explained_variance::init(context, config, &methods, rows, pooling, seed)?
        }
    };
    // A method that is dropped changes the function, and one that does not start as the identity.
    let is_identity = || methods.iter().all(AdapterConfig::starts_as_base);
    // A language model's label words are calibrated without an adapter only.
    let scores_alike = || {
        let task = &context.data.task;
        let has_words = context.model.is_language_model() && !task.labels.is_empty();
        !has_words || task.scoring_of(true) == task.scoring_of(false)
    };
    let as_parent = goes_on || earlier.is_empty() && is_identity() && scores_alike();
    let Some(head) = head else {
        let asks_spans = spans::are_asked(context.data.task.kind, context.model);
        let has_head = parent.adapter.as_ref().is_some_and(|old| old.span_head);
        let mut span_head =
            asks_spans.then(|| SpanHead::init(context.model.d_model(), seed, &device));
        if has_head {
            let tensors = tensors::under(&trained, "span_head.");
            let load = |head: SpanHead| head.load_named_tensors(&tensors);
            span_head = span_head.map(load).transpose()?;
        }
        return Ok(Start {
            trainable: Trainable {
                adapters,
                head: None,
                span_head,
            },
            as_parent: as_parent && has_head == asks_spans,
        });
    };
    if parent
        .adapter
        .as_ref()
        .is_some_and(|old| old.head.as_ref() == Some(head))
    {
        let d_model = context.model.d_model();
        let n_labels = context.data.task.labels.len();
        let fresh = ClassifierHead::init(head.clone(), d_model, n_labels, seed, &device);
        let head = fresh.load_named_tensors(&tensors::under(&trained, "head."))?;
        return Ok(Start {
            trainable: Trainable {
                adapters,
                head: Some(head),
                span_head: None,
            },
            as_parent,
        });
    }
    let bare = Trainable {
        adapters: adapters.clone(),
        head: None,
        span_head: None,
    };
    context.model.activate(Some(bare), None);
    let init = config.head.init;
    let as_parent = as_parent && parent.adapter.is_none() && is_prompt(context, init, head);
    let head = initial_head(context, init, head, &parent.prompt, seed)?;
    Ok(Start {
        trainable: Trainable {
            adapters,
            head: Some(head),
            span_head: None,
        },
        as_parent,
    })
}

/// Whether a fresh head scores as the prompt does that it starts from.
fn is_prompt(context: &Context<'_>, init: HeadInit, head: &HeadConfig) -> bool {
    init == HeadInit::LabelWords
        && head.normalize
        && head.pooling == context.model.pooling
        && head.scale == f64::from(SIMILARITY_SCALE)
}

fn initial_head(
    context: &mut Context<'_>,
    init: HeadInit,
    config: &HeadConfig,
    prompt: &Prompt,
    seed: u64,
) -> Result<ClassifierHead, HybridError> {
    let device = context.model.device.clone();
    let vectors = match init {
        HeadInit::Random => {
            let d_model = context.model.d_model();
            let n_labels = context.data.task.labels.len();
            return Ok(ClassifierHead::init(
                config.clone(),
                d_model,
                n_labels,
                seed,
                &device,
            ));
        }
        HeadInit::LabelWords => {
            evaluate::label_vectors(context.model, context.data, prompt, config.pooling)?
        }
        HeadInit::Centroids => {
            evaluate::centroids(context.model, context.data, prompt, config.pooling)?
        }
        HeadInit::LabelWordsAndCentroids => {
            let words =
                evaluate::label_vectors(context.model, context.data, prompt, config.pooling)?;
            let centroids =
                evaluate::centroids(context.model, context.data, prompt, config.pooling)?;
            let sum = |(a, b): (Vec<f32>, Vec<f32>)| a.iter().zip(&b).map(|(a, b)| a + b).collect();
            words.into_iter().zip(centroids).map(sum).collect()
        }
    };
    Ok(ClassifierHead::from_label_vectors(
        config.clone(),
        vectors,
        &device,
    )?)
}

//! The training loop of an adapter stage: batches, updates, evaluations, checkpoints.

mod selection;

use std::sync::Arc;

use burn::optim::GradientsParams;
use hybrid_adapters::{RankAllocator, SideBySide, Trainable};
use hybrid_data::{BatchLimits, BatchOrder, Encoding, derive_seed, length_buckets};
use hybrid_eval::{CurvePoint, TrainingPass};
use hybrid_models::{Hooks, is_host};
use hybrid_optim::{EarlyStopping, Updater};

use super::checkpoint::{Best, Checkpoint, Progressed};
use super::divergence::diverged;
use super::pass::{Input, Learner, Piece};
use super::prefix::Prefix;
use super::{Context, Spent, StageMeter};
use crate::criterion::Standing;
use crate::evaluate::Scored;
use crate::journal::Event;
use crate::local_model::LocalModel;
use crate::recipe::AdapterStage;
use crate::tensors::NamedTensors;
use crate::{HybridError, parallel};

pub(super) use selection::First;

/// Padded tokens of a forward beyond which a processor takes as long for each.
const ON_PROCESSOR: usize = 512;

/// What a training leaves: its best state and what it took.
pub(crate) struct Trained {
    pub(crate) trainable: Trainable,
    pub(crate) tensors: NamedTensors,
    /// Its scores on select, when this process has made them.
    pub(crate) scored: Option<Scored>,
    pub(crate) curve: Vec<CurvePoint>,
    pub(crate) spent: Spent,
}

/// Where a training starts.
pub(super) struct Start {
    pub(super) trainable: Trainable,
    /// Whether it scores as the parent does.
    pub(super) as_parent: bool,
}

/// A stage while it trains, or one of its variants.
pub(super) struct Training<'c> {
    config: &'c AdapterStage,
    /// Of several variants this one's place.
    variant: Option<usize>,
    input: Input,
    trainable: Trainable,
    as_parent: bool,
    /// When this process has scored it.
    first_score: Option<First>,
    updater: Updater<Trainable>,
    /// Of a stack whose ranks are chosen while it trains.
    ranks: Option<RankAllocator>,
    first: NamedTensors,
    best: NamedTensors,
    best_scored: Option<Scored>,
    progressed: Progressed,
    meter: StageMeter,
    total_steps: usize,
}

impl<'c> Training<'c> {
    pub(super) fn new(
        context: &Context<'_>,
        config: &'c AdapterStage,
        variant: Option<usize>,
        input: Input,
        start: Start,
        checkpoint: Option<Checkpoint>,
        meter: StageMeter,
    ) -> Result<Self, HybridError> {
        let total_steps = config.total_steps(input.encodings.len());
        let autodiff = context.model.device.clone().autodiff();
        let (start, as_parent) = (start.trainable, start.as_parent);
        let trainable = match config.methods.is_empty() {
            true => Trainable {
                head: start.head.map(|head| head.train_on(&autodiff)),
                span_head: start.span_head.map(|head| head.train_on(&autodiff)),
                ..start
            },
            false => start.train_on(&autodiff),
        };
        let updater = Updater::new(
            config.optimizer.clone(),
            &config.groups,
            config.schedule.clone(),
            config.max_grad_norm,
            total_steps,
            &trainable,
        )?;
        let ranks = match config.methods.is_empty() {
            true => None,
            false => RankAllocator::new(&trainable.adapters)?,
        };
        let first: NamedTensors = trainable.named_tensors().into_iter().collect();
        let mut training = Self {
            config,
            variant,
            input,
            best: first.clone(),
            first,
            best_scored: None,
            trainable,
            as_parent,
            first_score: None,
            updater,
            ranks,
            progressed: Progressed {
                round: context.round,
                stage: config.name.clone(),
                epoch: 0,
                batch: 0,
                curve: Vec::new(),
                evaluated: 0,
                spent: false,
                ended: false,
                best: None,
                latest: None,
                stood: Vec::new(),
                stopping: config.early_stopping.clone().map(EarlyStopping::new),
                seconds: 0.0,
                tokens: 0,
                flops: 0.0,
            },
            meter,
            total_steps,
        };
        if let Some(checkpoint) = checkpoint {
            training.trainable = training.trainable.load_named_tensors(&checkpoint.current)?;
            training
                .updater
                .load_state_tensors(&training.trainable, &checkpoint.optimizer)?;
            if let Some(ranks) = &mut training.ranks {
                ranks.load_state_tensors(&checkpoint.ranks)?;
            }
            training.best = checkpoint.best;
            training.progressed = checkpoint.progressed;
        }
        Ok(training)
    }

    /// How the state that was scored last stood at the decision of this number, which may be now.
    pub(super) fn stood(
        &mut self,
        context: &mut Context<'_>,
        decision: usize,
    ) -> Result<Standing, HybridError> {
        if let Some(standing) = self.progressed.stood.get(decision) {
            return Ok(*standing);
        }
        let latest = self.progressed.latest;
        let latest = latest.expect("select is scored before a decision");
        self.progressed.stood.push(latest);
        self.checkpoint(context)?;
        Ok(latest)
    }

    /// What lies under the lowest layer that it trains.
    pub(super) fn prefix(&self) -> &Arc<Prefix> {
        &self.input.prefix
    }

    /// What the stage is called.
    pub(super) fn name(&self) -> &str {
        &self.config.name
    }

    /// What it has taken so far.
    pub(super) fn spent(&self, model: &LocalModel) -> Spent {
        self.meter.spent(model)
    }

    /// Of several variants this one's number, counted from 1.
    pub(super) fn number(&self) -> Option<usize> {
        self.variant.map(|variant| variant + 1)
    }

    /// Whether it learns from the same batches as another over the same frozen layers, and its stack may
    /// stand beside the other's.
    pub(super) fn goes_with(&self, other: &Self, model: &LocalModel) -> bool {
        let may_stand = |training: &Self| {
            let adapters = &training.trainable.adapters;
            SideBySide::check(adapters, model.base.as_base()).is_ok()
        };
        // What is dropped depends on whether rows come with their padding.
        let packs = |training: &Self| training.trainable.adapters.takes_tokens_alone();
        Arc::ptr_eq(&self.input.prefix, &other.input.prefix)
            && self.config.batch_size == other.config.batch_size
            && self.config.token_dropout == other.config.token_dropout
            && packs(self) == packs(other)
            && may_stand(self)
            && may_stand(other)
    }

    /// Whether more is to be done until select is scored after so many epochs.
    pub(super) fn goes_on(&self, enough: usize) -> bool {
        !self.progressed.ended && self.progressed.evaluated < enough
    }

    /// Whether select is to be scored before more is done.
    pub(super) fn is_due(&self, enough: usize) -> bool {
        let Progressed {
            epoch,
            batch,
            evaluated,
            spent,
            ..
        } = self.progressed;
        let whole = batch == 0 && epoch > evaluated;
        let regular = epoch.is_multiple_of(self.config.evaluate_every);
        spent || (whole && (regular || [self.config.epochs, enough].contains(&epoch)))
    }

    /// Its place: passes that are complete, and updates of the running one.
    pub(super) fn place(&self) -> (usize, usize) {
        (self.progressed.epoch, self.progressed.batch)
    }

    /// The running pass is complete.
    pub(super) fn end_epoch(&mut self) {
        self.progressed.epoch += 1;
        self.progressed.batch = 0;
    }

    /// Nothing more is trained; select is scored once more.
    pub(super) fn budget_is_spent(&mut self) {
        self.progressed.spent = true;
    }

    /// Updates that are complete, and how many there are to be.
    pub(super) fn steps(&self) -> (usize, usize) {
        (self.progressed.curve.len(), self.total_steps)
    }

    /// The rows of each update of a pass, with its seed.
    pub(super) fn batches(&self, context: &Context<'_>, epoch: usize) -> Vec<Piece> {
        let seed = context.seed(&format!("{}/epoch/{epoch}", self.config.name));
        let lengths: Vec<usize> = self.input.encodings.iter().map(Encoding::len).collect();
        let limits = BatchLimits {
            max_rows: self.config.batch_size,
            max_tokens: usize::MAX,
        };
        let batches = length_buckets(&lengths, limits, BatchOrder::Shuffled(seed));
        let batches = batches.into_iter().enumerate();
        let batches = batches.map(|(index, rows)| Piece {
            rows,
            seed: derive_seed(seed, &index.to_string()),
        });
        batches.collect()
    }

    /// A batch in pieces of similar length, of at most `max_tokens` padded tokens each, which are
    /// computed at the same time where the device allows it.
    pub(super) fn pieces(&self, model: &LocalModel, batch: &Piece) -> Vec<Piece> {
        let length = |row: &usize| self.input.encodings[*row].len();
        let lengths: Vec<usize> = batch.rows.iter().map(length).collect();
        let limits = BatchLimits {
            max_rows: lengths.len().div_ceil(parallel::pieces(&model.device)),
            max_tokens: self.config.max_tokens,
        };
        let pieces = length_buckets(&lengths, limits, BatchOrder::Sorted).into_iter();
        let pieces = pieces.enumerate().map(|(index, places)| Piece {
            rows: places.into_iter().map(|place| batch.rows[place]).collect(),
            seed: derive_seed(batch.seed, &index.to_string()),
        });
        pieces.collect()
    }

    /// How many trainings take a piece in one forward, of at most `max_tokens` padded tokens. On a
    /// processor there are no more than it computes well together, so that more cores than a batch has
    /// pieces find work.
    pub(super) fn at_once(&self, model: &LocalModel, piece: &Piece) -> usize {
        let most = match is_host(&model.device) {
            true => self.config.max_tokens.min(ON_PROCESSOR),
            false => self.config.max_tokens,
        };
        let lengths = piece
            .rows
            .iter()
            .map(|row| self.input.encodings[*row].len());
        let padded = piece.rows.len() * lengths.max().unwrap_or(0);
        (most / padded.max(1)).max(1)
    }

    pub(super) fn input(&self) -> &Input {
        &self.input
    }

    pub(super) fn learner(&self) -> Learner<'_> {
        Learner {
            config: self.config,
            trainable: &self.trainable,
        }
    }

    /// One update, by the losses and gradients of the pieces of a batch. Gradients are summed in
    /// order.
    pub(super) fn update(
        &mut self,
        model: &LocalModel,
        rows: &[usize],
        passed: Vec<(f64, GradientsParams)>,
    ) -> Result<CurvePoint, HybridError> {
        let mut loss_sum = 0.0;
        for (loss, gradients) in passed {
            loss_sum += loss;
            self.updater.accumulate(gradients);
        }
        if !loss_sum.is_finite() {
            let step = self.progressed.curve.len() + 1;
            return Err(diverged(model, &self.input, &self.trainable, rows, step));
        }
        if let Some(ranks) = &mut self.ranks {
            ranks.observe(&self.trainable.adapters, self.updater.accumulated());
        }
        let (mut trainable, report) = self.updater.step(self.trainable.clone())?;
        if let Some(ranks) = &mut self.ranks {
            let scale = report.grad_norm_clipped / report.grad_norm.max(f64::MIN_POSITIVE);
            trainable.adapters = ranks.allocate(trainable.adapters, scale);
        }
        self.trainable = trainable;
        let point = CurvePoint {
            step: report.step,
            loss: loss_sum,
            learning_rate: report.learning_rate,
            grad_norm: report.grad_norm,
        };
        self.progressed.batch += 1;
        self.progressed.curve.push(point);
        Ok(point)
    }

    /// Counts the work of some pieces.
    pub(super) fn count(&mut self, context: &mut Context<'_>, pieces: &[Piece]) {
        let (tokens, flops) = (context.model.tokens(), context.model.flops());
        for piece in pieces {
            let encodings = piece.rows.iter().map(|row| &self.input.encodings[*row]);
            let pass = TrainingPass {
                rows: piece.rows.len(),
                seq: encodings.clone().map(Encoding::len).max().unwrap_or(0),
                lowest_layer: self.input.lowest_layer,
                cached: self.input.prefix.keeps(),
                adapter_parameters: match self.config.methods.is_empty() {
                    true => 0,
                    false => self.trainable.adapters.n_parameters(),
                },
            };
            let flops = context.model.training_flops(pass);
            context.model.count_tokens(encodings);
            context.model.count_flops(flops);
        }
        self.meter.add(Spent {
            seconds: 0.0,
            tokens: context.model.tokens() - tokens,
            flops: context.model.flops() - flops,
        });
    }

    /// Counts seconds of work that was done for several at once.
    pub(super) fn add_seconds(&mut self, seconds: f64) {
        self.meter.add(Spent {
            seconds,
            ..Spent::default()
        });
    }

    /// Journals an update.
    pub(super) fn report(
        &self,
        context: &mut Context<'_>,
        point: CurvePoint,
    ) -> Result<(), HybridError> {
        if point.step.is_multiple_of(self.config.log_every) || point.step == self.total_steps {
            context.happened(Event::Step {
                stage: self.config.name.clone(),
                variant: self.number(),
                step: point.step,
                loss: point.loss,
                learning_rate: point.learning_rate,
                grad_norm: point.grad_norm,
            })?;
        }
        Ok(())
    }

    /// Whether its state is to be stored after this update.
    pub(super) fn is_to_be_stored(&self) -> bool {
        let step = self.progressed.curve.len();
        step.is_multiple_of(self.config.checkpoint_every)
    }

    fn checkpoint(&mut self, context: &mut Context<'_>) -> Result<(), HybridError> {
        let (variant, state) = self.state(context.model);
        state.store(context.run, variant)?;
        self.is_stored(context)
    }

    /// Its place among the variants, and its state.
    pub(super) fn state(&mut self, model: &LocalModel) -> (usize, Checkpoint) {
        let spent = self.meter.spent(model);
        self.progressed.seconds = spent.seconds;
        self.progressed.tokens = spent.tokens;
        self.progressed.flops = spent.flops;
        let state = Checkpoint {
            progressed: self.progressed.clone(),
            current: self.trainable.named_tensors().into_iter().collect(),
            best: self.best.clone(),
            optimizer: self.updater.state_tensors(),
            ranks: self
                .ranks
                .as_ref()
                .map(RankAllocator::state_tensors)
                .unwrap_or_default(),
        };
        (self.variant.unwrap_or(0), state)
    }

    /// Journals that its state is stored.
    pub(super) fn is_stored(&self, context: &mut Context<'_>) -> Result<(), HybridError> {
        let step = self.progressed.curve.len();
        context.happened(Event::Checkpoint {
            stage: self.config.name.clone(),
            variant: self.number(),
            step,
        })
    }

    /// The best state, ready for inference.
    pub(super) fn finish(self, model: &LocalModel) -> Result<Trained, HybridError> {
        let trainable = self.trainable.eval().load_named_tensors(&self.best)?;
        let spent = self.meter.spent(model);
        Ok(Trained {
            trainable,
            tensors: self.best,
            scored: self.best_scored,
            curve: self.progressed.curve,
            spent,
        })
    }
}

//! The training loop of an adapter stage: batches, updates, evaluations, checkpoints.

mod selection;

use std::sync::Arc;

use hybrid_adapters::{RankAllocator, Trainable};
use hybrid_data::{BatchLimits, BatchOrder, Encoding, derive_seed, length_buckets};
use hybrid_eval::{CurvePoint, TrainingPass};
use hybrid_optim::{EarlyStopping, Updater};

use super::checkpoint::{Best, Checkpoint, Progressed};
use super::divergence::diverged;
use super::pass::{Input, Pass, Piece};
use super::prefix::Prefix;
use super::{Context, Spent, StageMeter};
use crate::candidate::Candidate;
use crate::criterion::{Criterion, LOG_LOSS, Standing};
use crate::evaluate::Scored;
use crate::journal::Event;
use crate::local_model::LocalModel;
use crate::recipe::AdapterStage;
use crate::tensors::NamedTensors;
use crate::{HybridError, parallel};

pub(super) use selection::First;

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

    /// Trains for so many epochs in all, select scored at their end; to the end without a number.
    pub(super) fn run(
        &mut self,
        context: &mut Context<'_>,
        parent: &Candidate,
        criterion: Criterion,
        epochs: Option<usize>,
    ) -> Result<(), HybridError> {
        self.meter.go_on(context.model);
        let number = self.number().map(|number| format!(" {number}"));
        let name = self.config.name.clone() + &number.unwrap_or_default();
        let done = self.progressed.curve.len();
        context.progress.begin(&name, done, self.total_steps);
        if self.as_parent {
            let first = First {
                value: parent.score(criterion.metric.name()),
                log_loss: parent.score(LOG_LOSS),
                standing: parent.standing(criterion),
            };
            self.begin(context, first)?;
        }
        let enough = epochs.unwrap_or(usize::MAX);
        while !self.progressed.ended && self.progressed.evaluated < enough {
            if self.is_due(enough) {
                self.evaluate(context, &parent.prompt, criterion)?;
            } else {
                self.epoch(context)?;
            }
        }
        context.progress.end();
        if epochs.is_none() {
            self.interpolate(context, &parent.prompt, criterion)?;
        }
        self.meter.rest(context.model);
        Ok(())
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

    /// What it has taken so far.
    pub(super) fn spent(&self, model: &LocalModel) -> Spent {
        self.meter.spent(model)
    }

    /// Of several variants this one's number, counted from 1.
    pub(super) fn number(&self) -> Option<usize> {
        self.variant.map(|variant| variant + 1)
    }

    /// Whether select is to be scored before more is done.
    fn is_due(&self, enough: usize) -> bool {
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

    /// The rest of one pass, or what the budget allows of it.
    fn epoch(&mut self, context: &mut Context<'_>) -> Result<(), HybridError> {
        let event = format!("{}/epoch/{}", self.config.name, self.progressed.epoch);
        let seed = context.seed(&event);
        let lengths: Vec<usize> = self.input.encodings.iter().map(Encoding::len).collect();
        let limits = BatchLimits {
            max_rows: self.config.batch_size,
            max_tokens: usize::MAX,
        };
        let batches = length_buckets(&lengths, limits, BatchOrder::Shuffled(seed));
        while self.progressed.batch < batches.len() {
            let rows = &batches[self.progressed.batch];
            let point = self.update(
                context,
                rows,
                derive_seed(seed, &self.progressed.batch.to_string()),
            )?;
            self.progressed.batch += 1;
            self.progressed.curve.push(point);
            self.report(context, point)?;
            let spent = self.meter.spent(context.model);
            let interrupted = context.model.check_interrupt();
            if interrupted.is_err() || point.step.is_multiple_of(self.config.checkpoint_every) {
                self.checkpoint(context)?;
            }
            interrupted?;
            let budget = &context.recipe.budget;
            if context.spent.exceeds(budget, spent).is_some() {
                self.progressed.spent = true;
                return Ok(());
            }
        }
        self.progressed.epoch += 1;
        self.progressed.batch = 0;
        Ok(())
    }

    /// One update on one batch. The batch is divided into pieces of similar length, of at most
    /// `max_tokens` padded tokens each, which are computed at the same time where the device allows
    /// it; their gradients are summed in order.
    fn update(
        &mut self,
        context: &mut Context<'_>,
        rows: &[usize],
        seed: u64,
    ) -> Result<CurvePoint, HybridError> {
        let lengths: Vec<usize> = rows
            .iter()
            .map(|row| self.input.encodings[*row].len())
            .collect();
        let limits = BatchLimits {
            max_rows: rows.len().div_ceil(parallel::pieces(&context.model.device)),
            max_tokens: self.config.max_tokens,
        };
        let pieces = length_buckets(&lengths, limits, BatchOrder::Sorted);
        let pieces: Vec<Piece> = pieces
            .into_iter()
            .enumerate()
            .map(|(index, places)| Piece {
                rows: places.into_iter().map(|place| rows[place]).collect(),
                seed: derive_seed(seed, &index.to_string()),
            })
            .collect();
        self.count(context, &pieces);
        let model = &*context.model;
        let pass = Pass {
            config: self.config,
            input: &self.input,
            trainable: &self.trainable,
            weight: self.input.weight(rows),
        };
        let passed = parallel::try_map(&pieces, model.threads(), |piece| {
            pass.backward(model, piece)
        })?;
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
        Ok(CurvePoint {
            step: report.step,
            loss: loss_sum,
            learning_rate: report.learning_rate,
            grad_norm: report.grad_norm,
        })
    }

    /// Counts the work of some pieces.
    fn count(&self, context: &mut Context<'_>, pieces: &[Piece]) {
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
    }

    fn report(&self, context: &mut Context<'_>, point: CurvePoint) -> Result<(), HybridError> {
        context.progress.at(point.step, self.total_steps, || {
            format!("loss {:.4}", point.loss)
        });
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

    fn checkpoint(&mut self, context: &mut Context<'_>) -> Result<(), HybridError> {
        let spent = self.meter.spent(context.model);
        self.progressed.seconds = spent.seconds;
        self.progressed.tokens = spent.tokens;
        self.progressed.flops = spent.flops;
        Checkpoint {
            progressed: self.progressed.clone(),
            current: self.trainable.named_tensors().into_iter().collect(),
            best: self.best.clone(),
            optimizer: self.updater.state_tensors(),
            ranks: self
                .ranks
                .as_ref()
                .map(RankAllocator::state_tensors)
                .unwrap_or_default(),
        }
        .store(context.run, self.variant.unwrap_or(0))?;
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

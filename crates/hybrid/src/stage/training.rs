//! The training loop of an adapter stage: batches, updates, evaluations, checkpoints.

use burn::optim::GradientsParams;
use burn::tensor::{Int, Tensor, TensorData};
use hybrid_adapters::Trainable;
use hybrid_data::{BatchLimits, BatchOrder, Encoding, length_buckets};
use hybrid_eval::{CurvePoint, TrainingPass};
use hybrid_optim::{EarlyStopping, Updater, cross_entropy_sum};
use hybrid_prompts::Prompt;

use super::checkpoint::{Best, Checkpoint, Progressed};
use super::prefix::PrefixCache;
use super::{Context, Spent, StageMeter};
use crate::HybridError;
use crate::evaluate::{self, Criterion};
use crate::journal::Event;
use crate::local_model::LocalModel;
use crate::recipe::AdapterStage;
use crate::tensors::NamedTensors;

/// What a training leaves: its best state and what it took.
pub(crate) struct Trained {
    pub(crate) trainable: Trainable,
    pub(crate) tensors: NamedTensors,
    pub(crate) curve: Vec<CurvePoint>,
    pub(crate) spent: Spent,
}

/// What is trained on.
pub(super) struct Input {
    /// The rendered rows as tokens.
    pub(super) encodings: Vec<Encoding>,
    /// The label of each row.
    pub(super) targets: Vec<usize>,
    /// The lowest layer that is trained.
    pub(super) lowest_layer: usize,
    /// Activations under that layer.
    pub(super) prefix: Option<PrefixCache>,
}

/// A stage while it trains.
pub(super) struct Training<'c> {
    config: &'c AdapterStage,
    input: Input,
    trainable: Trainable,
    updater: Updater<Trainable>,
    best: NamedTensors,
    progressed: Progressed,
    meter: StageMeter,
    total_steps: usize,
}

impl<'c> Training<'c> {
    pub(super) fn new(
        context: &Context<'_>,
        config: &'c AdapterStage,
        input: Input,
        start: Trainable,
        checkpoint: Option<Checkpoint>,
        meter: StageMeter,
    ) -> Result<Self, HybridError> {
        let total_steps = config.epochs * input.targets.len().div_ceil(config.batch_size);
        let autodiff = context.model.device.clone().autodiff();
        let trainable = match config.methods.is_empty() {
            true => Trainable {
                head: start.head.map(|head| head.train_on(&autodiff)),
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
        let mut training = Self {
            config,
            input,
            best: trainable.named_tensors().into_iter().collect(),
            trainable,
            updater,
            progressed: Progressed {
                round: context.round,
                stage: config.name.clone(),
                epoch: 0,
                batch: 0,
                curve: Vec::new(),
                best: None,
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
            training.best = checkpoint.best;
            training.progressed = checkpoint.progressed;
        }
        Ok(training)
    }

    pub(super) fn run(
        &mut self,
        context: &mut Context<'_>,
        prompt: &Prompt,
        criterion: Criterion,
    ) -> Result<(), HybridError> {
        context.progress.begin(
            &self.config.name,
            self.progressed.curve.len(),
            self.total_steps,
        );
        if self.progressed.best.is_none() {
            self.evaluate(context, prompt, criterion)?;
        }
        while self.progressed.epoch < self.config.epochs {
            let spent_all = self.epoch(context)?;
            let last = self.progressed.epoch == self.config.epochs;
            if spent_all
                || last
                || self
                    .progressed
                    .epoch
                    .is_multiple_of(self.config.evaluate_every)
            {
                let stop = self.evaluate(context, prompt, criterion)?;
                if stop || spent_all {
                    break;
                }
            }
        }
        context.progress.end();
        Ok(())
    }

    /// The rest of one pass; true when the budget is spent.
    fn epoch(&mut self, context: &mut Context<'_>) -> Result<bool, HybridError> {
        let event = format!("{}/epoch/{}", self.config.name, self.progressed.epoch);
        let seed = context.seed(&event);
        let lengths: Vec<usize> = self
            .input
            .encodings
            .iter()
            .map(|encoding| encoding.ids.len())
            .collect();
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
                hybrid_data::derive_seed(seed, &self.progressed.batch.to_string()),
            )?;
            self.progressed.batch += 1;
            self.progressed.curve.push(point);
            self.report(context, point)?;
            let spent = self.meter.spent(context.model);
            if context
                .spent
                .exceeds(&context.recipe.budget, spent)
                .is_some()
            {
                return Ok(true);
            }
            let interrupted = context.check_interrupt();
            if interrupted.is_err() || point.step.is_multiple_of(self.config.checkpoint_every) {
                self.checkpoint(context)?;
            }
            interrupted?;
        }
        self.progressed.epoch += 1;
        self.progressed.batch = 0;
        Ok(false)
    }

    /// One update on one batch, accumulated over pieces of at most `max_tokens` padded tokens.
    fn update(
        &mut self,
        context: &mut Context<'_>,
        rows: &[usize],
        seed: u64,
    ) -> Result<CurvePoint, HybridError> {
        let lengths: Vec<usize> = rows
            .iter()
            .map(|row| self.input.encodings[*row].ids.len())
            .collect();
        let limits = BatchLimits {
            max_rows: rows.len(),
            max_tokens: self.config.max_tokens,
        };
        let mut loss_sum = 0.0;
        for (index, piece) in length_buckets(&lengths, limits, BatchOrder::Sorted)
            .into_iter()
            .enumerate()
        {
            // Dropout masks come from the device's generator.
            let seed = hybrid_data::derive_seed(seed, &index.to_string());
            context.model.device.seed(seed);
            let piece: Vec<usize> = piece.into_iter().map(|place| rows[place]).collect();
            let loss = self
                .loss(context, &piece, seed)?
                .div_scalar(rows.len() as f64);
            loss_sum += f64::from(loss.clone().into_scalar::<f32>());
            let mut gradients = loss.backward();
            self.updater.accumulate(GradientsParams::from_module(
                &mut gradients,
                &self.trainable,
            ));
        }
        let (trainable, report) = self.updater.step(self.trainable.clone())?;
        self.trainable = trainable;
        Ok(CurvePoint {
            step: report.step,
            loss: loss_sum,
            learning_rate: report.learning_rate,
            grad_norm: report.grad_norm,
        })
    }

    /// The summed loss of some rows.
    fn loss(
        &self,
        context: &mut Context<'_>,
        rows: &[usize],
        seed: u64,
    ) -> Result<Tensor<1>, HybridError> {
        let hidden_tokens = self.config.token_dropout;
        let batch = match hidden_tokens > 0.0 {
            true => context.model.batch_with_hidden_tokens(
                &self.input.encodings,
                rows,
                hidden_tokens,
                seed,
            ),
            false => context.model.batch(&self.input.encodings, rows),
        };
        context
            .model
            .count_tokens(rows.iter().map(|row| &self.input.encodings[*row]));
        let [n_rows, seq] = batch.input_ids.dims();
        let flops = context.model.size().training_flops(TrainingPass {
            rows: n_rows,
            seq,
            lowest_layer: self.input.lowest_layer,
            cached: self.input.prefix.is_some(),
            adapter_parameters: self.trainable.adapters.n_parameters(),
        });
        context.model.count_flops(flops);
        let model = &*context.model;
        let hooks = &self.trainable.adapters;
        let hidden = match &self.input.prefix {
            Some(prefix) => prefix.forward(model, rows, &batch, hooks),
            None => model.base.encoder.forward(&batch, hooks),
        };
        let head = self.trainable.head.as_ref().expect("a stage trains a head");
        let pooled = model.base.pool(hidden, &batch, head.pooling(), hooks)?;
        let targets: Vec<i32> = rows
            .iter()
            .map(|row| self.input.targets[*row] as i32)
            .collect();
        let targets: Tensor<1, Int> =
            Tensor::from_data(TensorData::new(targets, [rows.len()]), &model.device);
        Ok(cross_entropy_sum(
            head.forward(pooled),
            targets,
            self.config.label_smoothing,
        ))
    }

    /// Scores the current state on select and keeps it when it is the best; true to stop early.
    fn evaluate(
        &mut self,
        context: &mut Context<'_>,
        prompt: &Prompt,
        criterion: Criterion,
    ) -> Result<bool, HybridError> {
        let current: NamedTensors = self.trainable.named_tensors().into_iter().collect();
        context.model.activate(Some(self.trainable.eval()));
        let scored = evaluate::score(
            context.model,
            prompt,
            &context.data.labels,
            &context.data.select,
        )?;
        let (value, standing) = (scored.metric(criterion.metric), scored.standing(criterion));
        let epoch = self.progressed.epoch;
        context.happened(Event::Evaluated {
            stage: self.config.name.clone(),
            epoch,
            value,
            log_loss: scored.figures.log_loss,
        })?;
        if self
            .progressed
            .best
            .is_none_or(|best| standing.is_better_than(best.standing))
        {
            self.best = current;
            self.progressed.best = Some(Best { epoch, standing });
            context
                .progress
                .best(format!("{} {value:.4} on select", criterion.metric.name()));
        }
        let stop = self
            .progressed
            .stopping
            .as_mut()
            .is_some_and(|stopping| stopping.observe(value));
        self.checkpoint(context)?;
        Ok(stop)
    }

    fn report(&self, context: &mut Context<'_>, point: CurvePoint) -> Result<(), HybridError> {
        context.progress.at(point.step, self.total_steps, || {
            format!("loss {:.4}", point.loss)
        });
        if point.step.is_multiple_of(self.config.log_every) || point.step == self.total_steps {
            context.happened(Event::Step {
                stage: self.config.name.clone(),
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
        }
        .store(context.run)?;
        let step = self.progressed.curve.len();
        context.happened(Event::Checkpoint {
            stage: self.config.name.clone(),
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
            curve: self.progressed.curve,
            spent,
        })
    }
}

//! The adapter stage: theta <- theta - alpha * gradient over a frozen base.

use burn::optim::GradientsParams;
use burn::tensor::{Int, Tensor, TensorData};
use hybrid_adapters::{Adapters, ClassifierHead, HeadConfig, Trainable};
use hybrid_data::{BatchLimits, BatchOrder, Encoding, length_buckets};
use hybrid_eval::{CurvePoint, TrainingPass};
use hybrid_optim::{EarlyStopping, Updater, cross_entropy_sum};
use hybrid_prompts::Prompt;

use super::checkpoint::{Best, Checkpoint, Progressed};
use super::prefix::PrefixCache;
use super::{Context, Spent, StageMeter};
use crate::HybridError;
use crate::candidate::{AdapterRecord, Candidate};
use crate::evaluate;
use crate::journal::Event;
use crate::recipe::{AdapterStage, HeadInit, Metric};
use crate::tensors::{self, NamedTensors};

/// What a stage hands back: the candidate without lineage, and its tensors.
pub(crate) struct Trained {
    pub(crate) adapter: AdapterRecord,
    pub(crate) tensors: NamedTensors,
    pub(crate) trainable: Trainable,
    pub(crate) curve: Vec<CurvePoint>,
    pub(crate) spent: Spent,
}

/// The rows that are trained on: rendered, encoded, with the label of each.
struct Rows {
    encodings: Vec<Encoding>,
    targets: Vec<usize>,
}

/// Trains the stage's adapters and head, starting at `parent`.
///
/// # Errors
/// [`HybridError`]; an interruption leaves a checkpoint behind.
pub(crate) fn train(
    context: &mut Context<'_>,
    config: &AdapterStage,
    parent: &Candidate,
    metric: Metric,
) -> Result<Trained, HybridError> {
    let rows = rows(context, config, &parent.prompt)?;
    let checkpoint = Checkpoint::read(context.run, context.round, &config.name)?;
    let carried = checkpoint.as_ref().map_or(Spent::default(), |checkpoint| Spent {
        seconds: checkpoint.progressed.seconds,
        tokens: checkpoint.progressed.tokens,
        flops: checkpoint.progressed.flops,
    });
    let mut meter = StageMeter::new(context.model, carried);
    let head = head_config(config);
    let start = start(context, config, &head, parent)?;
    let adapter = AdapterRecord {
        methods: start.adapters.configs().to_vec(),
        head,
        trainable_parameters: start.n_parameters(),
    };
    let n_layers = context.model.base.encoder.n_layers();
    let lowest = match config.methods.is_empty() {
        true => n_layers,
        false => start.adapters.lowest_layer().unwrap_or(n_layers),
    };
    let prefix = PrefixCache::build(context.model, &rows.encodings, lowest, &start.adapters);
    if checkpoint.is_some() {
        meter.recount(context.model);
    }
    let mut training = Training::new(context, config, rows, prefix, start, checkpoint, meter, lowest)?;
    training.run(context, &parent.prompt, metric)?;
    let spent = training.meter.spent(context.model);
    let trainable = training.inference(&training.best)?;
    Ok(Trained { adapter, tensors: training.best, trainable, curve: training.progressed.curve, spent })
}

fn head_config(config: &AdapterStage) -> HeadConfig {
    let head = &config.head;
    HeadConfig { pooling: head.pooling, normalize: head.normalize, scale: head.scale }
}

/// Renders and encodes the fit examples, and the label words when they are trained on too.
fn rows(context: &Context<'_>, config: &AdapterStage, prompt: &Prompt) -> Result<Rows, HybridError> {
    let data = context.data;
    let mut texts = evaluate::render(prompt, data.fit.fields())?;
    let mut targets = data.fit.targets.clone();
    if config.train_on_label_words {
        for (index, label) in data.labels.names().iter().enumerate() {
            for word in prompt.words_of(label) {
                texts.push(word.clone());
                targets.push(index);
            }
        }
    }
    Ok(Rows { encodings: context.model.encode(&texts)?, targets })
}

/// The stage's parameters before the first update. What the parent has of the same kind goes on
/// from there; all else starts anew.
fn start(
    context: &mut Context<'_>,
    config: &AdapterStage,
    head: &HeadConfig,
    parent: &Candidate,
) -> Result<Trainable, HybridError> {
    let device = context.model.device.clone();
    let seed = context.seed(&format!("{}/init", config.name));
    let trained = match &parent.adapter {
        Some(_) => Candidate::read_tensors(context.run, &parent.id)?,
        None => NamedTensors::new(),
    };
    let earlier = parent.adapter.as_ref().map(|old| old.methods.as_slice()).unwrap_or_default();
    let methods = if config.methods.is_empty() { earlier } else { &config.methods };
    let mut adapters = Adapters::init(methods, &context.model.base, seed, &device)?;
    if methods == earlier {
        adapters = adapters.load_named_tensors(&tensors::under(&trained, "adapters."))?;
    }
    if parent.adapter.as_ref().is_some_and(|old| old.head == *head) {
        let d_model = context.model.base.encoder.d_model();
        let fresh = ClassifierHead::init(head.clone(), d_model, context.data.labels.len(), seed, &device);
        let head = fresh.load_named_tensors(&tensors::under(&trained, "head."))?;
        return Ok(Trainable { adapters, head: Some(head) });
    }
    context.model.activate(None);
    let head = initial_head(context, config.head.init, head, &parent.prompt, seed)?;
    Ok(Trainable { adapters, head: Some(head) })
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
            let d_model = context.model.base.encoder.d_model();
            let n_labels = context.data.labels.len();
            return Ok(ClassifierHead::init(config.clone(), d_model, n_labels, seed, &device));
        }
        HeadInit::LabelWords => evaluate::label_vectors(context.model, context.data, prompt, config.pooling)?,
        HeadInit::Centroids => evaluate::centroids(context.model, context.data, prompt, config.pooling)?,
        HeadInit::LabelWordsAndCentroids => {
            let words = evaluate::label_vectors(context.model, context.data, prompt, config.pooling)?;
            let centroids = evaluate::centroids(context.model, context.data, prompt, config.pooling)?;
            let sum = |(a, b): (Vec<f32>, Vec<f32>)| a.iter().zip(&b).map(|(a, b)| a + b).collect();
            words.into_iter().zip(centroids).map(sum).collect()
        }
    };
    Ok(ClassifierHead::from_label_vectors(config.clone(), vectors, &device)?)
}

/// A stage while it trains.
struct Training<'c> {
    config: &'c AdapterStage,
    rows: Rows,
    prefix: Option<PrefixCache>,
    trainable: Trainable,
    updater: Updater<Trainable>,
    best: NamedTensors,
    progressed: Progressed,
    meter: StageMeter,
    total_steps: usize,
    lowest_layer: usize,
}

impl<'c> Training<'c> {
    fn new(
        context: &Context<'_>,
        config: &'c AdapterStage,
        rows: Rows,
        prefix: Option<PrefixCache>,
        start: Trainable,
        checkpoint: Option<Checkpoint>,
        meter: StageMeter,
        lowest_layer: usize,
    ) -> Result<Self, HybridError> {
        let total_steps = config.epochs * rows.targets.len().div_ceil(config.batch_size);
        let autodiff = context.model.device.clone().autodiff();
        let trainable = match config.methods.is_empty() {
            true => Trainable { head: start.head.map(|head| head.train_on(&autodiff)), ..start },
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
            rows,
            prefix,
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
            lowest_layer,
        };
        if let Some(checkpoint) = checkpoint {
            training.trainable = training.trainable.load_named_tensors(&checkpoint.current)?;
            training.updater.load_state_tensors(&training.trainable, &checkpoint.optimizer)?;
            training.best = checkpoint.best;
            training.progressed = checkpoint.progressed;
        }
        Ok(training)
    }

    fn run(&mut self, context: &mut Context<'_>, prompt: &Prompt, metric: Metric) -> Result<(), HybridError> {
        context.progress.begin(&self.config.name, self.progressed.curve.len(), self.total_steps);
        if self.progressed.best.is_none() {
            self.evaluate(context, prompt, metric)?;
        }
        while self.progressed.epoch < self.config.epochs {
            let spent_all = self.epoch(context)?;
            let last = self.progressed.epoch == self.config.epochs;
            if spent_all || last || self.progressed.epoch % self.config.evaluate_every == 0 {
                let stop = self.evaluate(context, prompt, metric)?;
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
        let lengths: Vec<usize> = self.rows.encodings.iter().map(|encoding| encoding.ids.len()).collect();
        let limits = BatchLimits { max_rows: self.config.batch_size, max_tokens: usize::MAX };
        let batches = length_buckets(&lengths, limits, BatchOrder::Shuffled(seed));
        while self.progressed.batch < batches.len() {
            let rows = &batches[self.progressed.batch];
            let point = self.update(context, rows, hybrid_data::derive_seed(seed, &self.progressed.batch.to_string()))?;
            self.progressed.batch += 1;
            self.progressed.curve.push(point);
            self.report(context, point)?;
            let spent = self.meter.spent(context.model);
            if context.spent.exceeds(&context.recipe.budget, spent).is_some() {
                return Ok(true);
            }
            let interrupted = context.check_interrupt();
            if interrupted.is_err() || point.step % self.config.checkpoint_every == 0 {
                self.checkpoint(context)?;
            }
            interrupted?;
        }
        self.progressed.epoch += 1;
        self.progressed.batch = 0;
        Ok(false)
    }

    /// One update on one batch, accumulated over pieces of at most `max_tokens` padded tokens.
    fn update(&mut self, context: &mut Context<'_>, rows: &[usize], seed: u64) -> Result<CurvePoint, HybridError> {
        let lengths: Vec<usize> = rows.iter().map(|row| self.rows.encodings[*row].ids.len()).collect();
        let limits = BatchLimits { max_rows: rows.len(), max_tokens: self.config.max_tokens };
        let mut loss_sum = 0.0;
        for (index, piece) in length_buckets(&lengths, limits, BatchOrder::Sorted).into_iter().enumerate() {
            // Dropout masks come from the device's generator.
            let seed = hybrid_data::derive_seed(seed, &index.to_string());
            context.model.device.seed(seed);
            let piece: Vec<usize> = piece.into_iter().map(|place| rows[place]).collect();
            let loss = self.loss(context, &piece, seed)?.div_scalar(rows.len() as f64);
            loss_sum += f64::from(loss.clone().into_scalar::<f32>());
            let mut gradients = loss.backward();
            self.updater.accumulate(GradientsParams::from_module(&mut gradients, &self.trainable));
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
    fn loss(&self, context: &mut Context<'_>, rows: &[usize], seed: u64) -> Result<Tensor<1>, HybridError> {
        let hidden_tokens = self.config.token_dropout;
        let batch = match hidden_tokens > 0.0 {
            true => context.model.batch_with_hidden_tokens(&self.rows.encodings, rows, hidden_tokens, seed),
            false => context.model.batch(&self.rows.encodings, rows),
        };
        context.model.count_tokens(rows.iter().map(|row| &self.rows.encodings[*row]));
        let [n_rows, seq] = batch.input_ids.dims();
        let flops = context.model.size().training_flops(TrainingPass {
            rows: n_rows,
            seq,
            lowest_layer: self.lowest_layer,
            cached: self.prefix.is_some(),
            adapter_parameters: self.trainable.adapters.n_parameters(),
        });
        context.model.count_flops(flops);
        let model = &*context.model;
        let hooks = &self.trainable.adapters;
        let hidden = match &self.prefix {
            Some(prefix) => prefix.forward(model, rows, &batch, hooks),
            None => model.base.encoder.forward(&batch, hooks),
        };
        let head = self.trainable.head.as_ref().expect("a stage trains a head");
        let pooled = model.base.pool(hidden, &batch, head.pooling(), hooks)?;
        let targets: Vec<i32> = rows.iter().map(|row| self.rows.targets[*row] as i32).collect();
        let targets: Tensor<1, Int> = Tensor::from_data(TensorData::new(targets, [rows.len()]), &model.device);
        Ok(cross_entropy_sum(head.forward(pooled), targets, self.config.label_smoothing))
    }

    /// Scores the current state on select and keeps it when it is the best; true to stop early.
    fn evaluate(&mut self, context: &mut Context<'_>, prompt: &Prompt, metric: Metric) -> Result<bool, HybridError> {
        let current: NamedTensors = self.trainable.named_tensors().into_iter().collect();
        context.model.activate(Some(self.trainable.eval()));
        let scored = evaluate::score(context.model, prompt, &context.data.labels, &context.data.select)?;
        let (value, standing) = (scored.metric(metric), scored.standing(metric));
        let epoch = self.progressed.epoch;
        context.happened(Event::Evaluated { stage: self.config.name.clone(), epoch, value })?;
        if self.progressed.best.is_none_or(|best| standing.is_better_than(best.standing)) {
            self.best = current;
            self.progressed.best = Some(Best { epoch, standing });
            context.progress.best(format!("{} {value:.4} on select", metric.name()));
        }
        let stop = self.progressed.stopping.as_mut().is_some_and(|stopping| stopping.observe(value));
        self.checkpoint(context)?;
        Ok(stop)
    }

    fn report(&self, context: &mut Context<'_>, point: CurvePoint) -> Result<(), HybridError> {
        context.progress.at(point.step, self.total_steps, || format!("loss {:.4}", point.loss));
        if point.step % self.config.log_every == 0 || point.step == self.total_steps {
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
        context.happened(Event::Checkpoint { stage: self.config.name.clone(), step })
    }

    fn inference(&self, values: &NamedTensors) -> Result<Trainable, HybridError> {
        Ok(self.trainable.eval().load_named_tensors(values)?)
    }
}

//! Training steps of LoRA on a decoder or an encoder, on any device: tokens a second, model FLOPs
//! utilisation, processor time and peak memory.
//! `benches/peers/lora_gpu.py` makes a base with random weights and takes the same steps with PEFT.
//!
//! `cargo bench --bench lora_gpu -- --help`; `cargo xtask bench-gpu` lays it out for another machine.
#![allow(clippy::print_stdout, reason = "the figures are the output")]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use burn::optim::GradientsParams;
use burn::tensor::{Device, Int, Tensor, TensorData};
use clap::{Parser, ValueEnum};
use hybrid_adapters::{AdapterConfig, Adapters, LoraConfig, Targets};
use hybrid_eval::peak_rss_mb;
use hybrid_models::{
    Base, DecoderBatch, DecoderModel, EncoderBatch, Hooks, Model, Resolver, SiteKind, WeightFormat,
    open_device,
};
use hybrid_optim::{OptimizerConfig, ScheduleConfig, Updater, cross_entropy_sum};
use serde_json::json;

#[derive(Debug, Parser)]
#[command(args_override_self = true)]
struct Arguments {
    /// A folder, or a name that the resolver knows.
    #[arg(long, default_value = "HuggingFaceTB/SmolLM2-135M-Instruct")]
    model: String,
    /// What the model is.
    #[arg(long, value_enum, default_value_t = Kind::Decoder)]
    kind: Kind,
    #[arg(long, default_value = "flex")]
    device: String,
    #[arg(long, value_enum, default_value_t = Dtype::Float32)]
    dtype: Dtype,
    /// Names of the adapted layers, or `all-linear`.
    #[arg(long, value_delimiter = ',', default_value = "q_proj,v_proj")]
    targets: Vec<String>,
    #[arg(long, default_value_t = 16)]
    rank: usize,
    /// Rows of a batch.
    #[arg(long, default_value_t = 2)]
    rows: usize,
    /// Tokens of a row.
    #[arg(long, default_value_t = 128)]
    seq: usize,
    /// Run layers again in backward instead of keeping their activations.
    #[arg(long)]
    recompute: bool,
    /// Steps before those that are timed.
    #[arg(long, default_value_t = 2)]
    warmups: usize,
    /// Timed steps.
    #[arg(long, default_value_t = 5)]
    steps: usize,
    /// After this many seconds no further step begins but one that is timed.
    #[arg(long, default_value_t = 3600)]
    limit: u64,
    /// What the device can do, in TFLOP/s; 989 is an H100's bfloat16 without sparsity.
    #[arg(long, default_value_t = 989.0)]
    peak: f64,
    /// `cargo bench` says this to every bench.
    #[arg(long, hide = true)]
    bench: bool,
}

/// What is adapted, and to what.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    /// A language model that learns each next token.
    Decoder,
    /// An encoder whose vectors are to become short.
    Encoder,
}

/// How the base's weights are held.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Dtype {
    Float32,
    Bfloat16,
}

impl Dtype {
    fn format(self) -> WeightFormat {
        match self {
            Self::Float32 => WeightFormat::Float32,
            Self::Bfloat16 => WeightFormat::Bfloat16,
        }
    }
}

fn main() {
    let arguments = Arguments::parse();
    let begin = Instant::now();
    let device = open_device(&arguments.device).unwrap_or_else(|error| panic!("{error}"));
    let work = Work::new(&arguments, &device);
    eprintln!("loaded after {:.1} s", begin.elapsed().as_secs_f64());
    let mut training = Training::new(&arguments, work, device);
    let cpu_before = cpu_seconds();
    let (mut losses, mut warmups, mut timed) = (Vec::new(), Vec::new(), Vec::new());
    for index in 0..arguments.warmups + arguments.steps {
        let late = index > 0 && begin.elapsed() > Duration::from_secs(arguments.limit);
        if late && !timed.is_empty() {
            break;
        }
        let start = Instant::now();
        losses.push(training.step());
        let seconds = start.elapsed().as_secs_f64();
        match index < arguments.warmups && !late {
            true => warmups.push(seconds),
            false => timed.push(seconds),
        }
        eprintln!("step {index}: loss {:.4}, {seconds:.3} s", losses[index]);
    }
    let cpu_s = cpu_seconds() - cpu_before;
    let tokens = (arguments.rows * arguments.seq) as f64;
    let tokens_per_s = tokens / median(&timed);
    let flops = training.flops_per_token(arguments.seq);
    let figures = json!({
        "program": "hybrid",
        "device": arguments.device,
        "dtype": format!("{:?}", arguments.dtype).to_lowercase(),
        "targets": arguments.targets,
        "rank": arguments.rank,
        "rows": arguments.rows,
        "seq": arguments.seq,
        "recompute": arguments.recompute,
        "trained": training.adapters.n_parameters(),
        "parameters": training.work.base().n_parameters(),
        "warmup_s": warmups,
        "step_s": timed,
        "losses": losses,
        "cpu_s_a_step": cpu_s / losses.len() as f64,
        "peak_rss_mb": peak_rss_mb(),
        "tokens_per_s": tokens_per_s,
        "flops_per_token": flops,
        "utilisation": tokens_per_s * flops / (arguments.peak * 1e12),
    });
    println!("{figures}");
}

fn folder(model: &str) -> PathBuf {
    match Path::new(model).is_dir() {
        true => PathBuf::from(model),
        false => {
            let resolver = Resolver::from_environment();
            let resolved = resolver.resolve(model, &|line| eprintln!("{line}"));
            resolved.unwrap_or_else(|error| panic!("{error}")).folder
        }
    }
}

/// User and system time of this process so far; zero where the system does not tell.
fn cpu_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = text.rsplit(')').next().unwrap_or_default();
    let ticks = after_name.split_whitespace().skip(11).take(2);
    ticks
        .filter_map(|ticks| ticks.parse::<f64>().ok())
        .sum::<f64>()
        / 100.0
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() % 2 {
        1 => sorted[middle],
        _ => (sorted[middle - 1] + sorted[middle]) / 2.0,
    }
}

/// A base and what it reads in each step: rows without padding.
enum Work {
    Decoder {
        base: DecoderModel,
        batch: DecoderBatch,
        /// Of the logits that are read: all but each row's last.
        places: Vec<usize>,
        targets: Tensor<1, Int>,
    },
    Encoder {
        base: Model,
        batch: EncoderBatch,
    },
}

impl Work {
    fn new(arguments: &Arguments, device: &Device) -> Self {
        let folder = folder(&arguments.model);
        let (rows, seq) = (arguments.rows, arguments.seq);
        let input =
            |ids: &[i64]| Tensor::from_data(TensorData::new(ids.to_vec(), [rows, seq]), device);
        match arguments.kind {
            Kind::Decoder => {
                let base = DecoderModel::load_with(&folder, arguments.dtype.format(), device)
                    .unwrap_or_else(|error| panic!("{error}"));
                let ids = tokens(rows * seq, base.decoder.vocab_size());
                let read = (0..rows * seq).filter(|place| place % seq != seq - 1);
                let places: Vec<usize> = read.collect();
                let targets: Vec<i64> = places.iter().map(|place| ids[place + 1]).collect();
                let targets = TensorData::new(targets, [places.len()]);
                Self::Decoder {
                    batch: DecoderBatch {
                        input_ids: input(&ids),
                        attention_mask: None,
                        position_ids: None,
                    },
                    targets: Tensor::from_data(targets, device),
                    places,
                    base,
                }
            }
            Kind::Encoder => {
                let base =
                    Model::load_encoder(&folder, device).unwrap_or_else(|error| panic!("{error}"));
                let vocab = base.sites().iter().find_map(|site| match site.kind {
                    SiteKind::Embedding { n, .. } => Some(n),
                    _ => None,
                });
                let ids = tokens(rows * seq, vocab.unwrap_or(1));
                let input_ids: Tensor<2, Int> = input(&ids);
                let batch = EncoderBatch {
                    attention_mask: input_ids.ones_like(),
                    input_ids,
                    token_type_ids: None,
                };
                Self::Encoder { base, batch }
            }
        }
    }

    fn base(&self) -> &dyn Base {
        match self {
            Self::Decoder { base, .. } => base,
            Self::Encoder { base, .. } => base,
        }
    }

    fn loss(&self, hooks: &dyn Hooks) -> Tensor<1> {
        match self {
            Self::Decoder {
                base,
                batch,
                places,
                targets,
            } => {
                let hidden = base.decoder.forward(batch, None, hooks);
                let hidden = hidden.unwrap_or_else(|error| panic!("{error}"));
                let sum = base.sum_at(hidden, places, hooks, |logits, range| {
                    cross_entropy_sum(logits, targets.clone().slice([range]), 0.0)
                });
                let sum = sum.unwrap_or_else(|error| panic!("{error}"));
                sum.div_scalar(places.len() as f64)
            }
            Self::Encoder { base, batch } => base.encoder.forward(batch, hooks).square().mean(),
        }
    }
}

/// A training, as an adapter stage takes its steps.
struct Training {
    work: Work,
    device: Device,
    adapters: Adapters,
    updater: Updater<Adapters>,
    recompute: bool,
}

impl Training {
    fn new(arguments: &Arguments, work: Work, device: Device) -> Self {
        let targets = match arguments.targets.as_slice() {
            [name] if name == Targets::ALL_LINEAR => Targets::Pattern(name.clone()),
            names => Targets::names(&names.iter().map(String::as_str).collect::<Vec<_>>()),
        };
        let config = AdapterConfig::Lora(LoraConfig {
            r: arguments.rank,
            lora_alpha: 2.0 * arguments.rank as f64,
            target_modules: targets,
            ..LoraConfig::default()
        });
        let adapters = Adapters::init(&[config], work.base(), 0, &device)
            .unwrap_or_else(|error| panic!("{error}"))
            .train_on(&device.clone().autodiff());
        let optimizer = OptimizerConfig::Adamw {
            lr: 1e-4,
            betas: [0.9, 0.999],
            eps: 1e-8,
            weight_decay: 0.0,
        };
        let schedule = ScheduleConfig::default();
        let steps = arguments.warmups + arguments.steps;
        let updater = Updater::new(optimizer, &[], schedule, Some(1.0), steps, &adapters)
            .unwrap_or_else(|error| panic!("{error}"));
        Self {
            work,
            adapters,
            updater,
            recompute: arguments.recompute,
            device,
        }
    }

    /// One update; returns the loss before it.
    fn step(&mut self) -> f32 {
        let loss = match self.recompute {
            true => self.work.loss(&self.adapters.training_recomputed(0)),
            false => self.work.loss(&self.adapters),
        };
        let value = loss.clone().into_scalar::<f32>();
        let mut gradients = loss.backward();
        let gradients = GradientsParams::from_module(&mut gradients, &self.adapters);
        self.updater.accumulate(gradients);
        let moved = self.updater.step(self.adapters.clone());
        (self.adapters, _) = moved.unwrap_or_else(|error| panic!("{error}"));
        self.device.sync().unwrap_or_else(|error| panic!("{error}"));
        value
    }

    /// What a step computes for one token: forward and backward to the inputs of every product with a
    /// frozen weight (4 a weight), both and the weight's gradient for an adapter's (6 a weight), and
    /// queries with the keys they see, on average half the row, and those with values (6 each for a
    /// feature of a query). Norms, activations, softmax and what is computed twice do not count.
    fn flops_per_token(&self, seq: usize) -> f64 {
        let weights = |kind: SiteKind| match kind {
            SiteKind::Linear { d_in, d_out, .. } => d_in * d_out,
            SiteKind::Norm { .. } | SiteKind::Embedding { .. } | SiteKind::Block { .. } => 0,
        };
        let sites = self.work.base().sites().iter();
        let frozen: usize = sites.map(|site| weights(site.kind)).sum();
        let shapes = self.work.base().stacks();
        let features: usize = shapes
            .iter()
            .map(|of| of.n_layers * of.n_heads * of.d_head)
            .sum();
        let seen = seq as f64 / 2.0;
        4.0 * frozen as f64
            + 6.0 * self.adapters.n_parameters() as f64
            + 12.0 * features as f64 * seen
    }
}

/// Tokens without a pattern, the same as the peer's.
fn tokens(n: usize, vocab: usize) -> Vec<i64> {
    let scattered = (0..n as u64).map(|place| (place * 2_654_435_761) >> 7);
    scattered
        .map(|value| (value % vocab as u64) as i64)
        .collect()
}

//! What a LoRA adds to a frozen linear layer: forward and backward of both, beside the forward of the
//! layer alone with the gradient of its input. Then how long the LoRA of a whole model takes to load.
//!
//! `cargo bench --bench lora_linear -- --help`
#![allow(clippy::print_stdout, reason = "the figures are the output")]

use std::path::Path;
use std::time::Instant;

use burn::tensor::{Device, Distribution, Tensor};
use clap::Parser;
use hybrid_adapters::{AdapterConfig, Adapters, LoraConfig, Targets, load_peft, save_peft};
use hybrid_models::{
    Base, DecoderModel, EncoderDecoder, Hooks, Layer, Linear, NoHooks, Resolver, open_device,
};
use serde_json::json;

/// The layer: a query projection.
const SITE: &str = "encoder.block.0.layer.0.SelfAttention.q";
const MODEL: &str = "HuggingFaceTB/SmolLM2-135M-Instruct";

#[derive(Debug, Parser)]
#[command(args_override_self = true)]
struct Arguments {
    #[arg(long, default_value = "flex")]
    device: String,
    /// Input and output features of the layer.
    #[arg(long, default_value_t = 768)]
    width: usize,
    #[arg(long, default_value_t = 8)]
    rank: usize,
    /// Tokens of a batch.
    #[arg(long, value_delimiter = ',', default_values_t = [128, 512, 2048])]
    tokens: Vec<usize>,
    /// How often each is timed.
    #[arg(long, default_value_t = 41)]
    rounds: usize,
    /// Leave out the loading of the adapter of a model that has to be there or fetched.
    #[arg(long)]
    no_loading: bool,
    /// `cargo bench` says this to every bench.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let arguments = Arguments::parse();
    let device = open_device(&arguments.device).unwrap_or_else(|error| panic!("{error}"));
    let folder = tempfile::tempdir().unwrap_or_else(|error| panic!("{error}"));
    layer(&arguments, folder.path(), &device);
    if !arguments.no_loading {
        loading(&arguments, folder.path(), &device);
    }
}

fn lora(rank: usize, targets: Targets) -> AdapterConfig {
    AdapterConfig::Lora(LoraConfig {
        r: rank,
        lora_alpha: 16.0,
        target_modules: targets,
        ..LoraConfig::default()
    })
}

/// A LoRA by operations of the device, one after the other.
struct Parts {
    a: Tensor<2>,
    b: Tensor<2>,
}

impl Hooks for Parts {
    fn linear(&self, base: &Linear, x: Tensor<3>) -> Tensor<3> {
        let [batch, seq, d_in] = x.dims();
        let rows = x.clone().reshape([batch * seq, d_in]);
        let side = rows
            .matmul(self.a.clone())
            .mul_scalar(2.0)
            .matmul(self.b.clone());
        base.forward(x) + side.reshape([batch, seq, d_in])
    }
}

/// Times one layer without a LoRA, with one, and with one by parts, in turns.
fn layer(arguments: &Arguments, folder: &Path, device: &Device) {
    let width = arguments.width;
    let config = json!({
        "architectures": ["T5ForConditionalGeneration"], "model_type": "t5",
        "is_encoder_decoder": true, "d_model": width, "d_kv": width, "d_ff": 8, "num_layers": 1,
        "num_heads": 1, "vocab_size": 8, "feed_forward_proj": "relu", "decoder_start_token_id": 0,
        "pad_token_id": 0, "eos_token_id": 1,
    });
    std::fs::write(folder.join("config.json"), config.to_string())
        .unwrap_or_else(|error| panic!("{error}"));
    let base = EncoderDecoder::random(folder, 7, device).unwrap_or_else(|error| panic!("{error}"));
    let site = base.sites().find(SITE).expect("a query projection").id;
    let Some(Layer::Linear(linear)) = base.layer_at(site) else {
        panic!("{SITE} is no linear layer")
    };
    let targets = Targets::Names(vec![SITE.to_owned()]);
    let adapters = Adapters::init(&[lora(arguments.rank, targets)], &base, 0, device);
    let adapters = adapters.unwrap_or_else(|error| panic!("{error}"));
    let adapters = adapters.train_on(&device.clone().autodiff());
    for &tokens in &arguments.tokens {
        let x = Tensor::<3>::random([1, tokens, width], Distribution::Default, device);
        let seconds = |hooks: &dyn Hooks| step(linear, hooks, &x);
        let factor = |shape| {
            let values = Tensor::<2>::random(shape, Distribution::Default, device);
            values.autodiff().require_grad()
        };
        let parts = Parts {
            a: factor([width, arguments.rank]),
            b: factor([arguments.rank, width]),
        };
        let hooks: [&dyn Hooks; 3] = [&NoHooks, &adapters.training(0), &parts];
        for hooks in hooks {
            seconds(hooks);
        }
        let mut times = [const { Vec::new() }; 3];
        for _ in 0..arguments.rounds {
            for (times, hooks) in times.iter_mut().zip(hooks) {
                times.push(seconds(hooks));
            }
        }
        let [frozen, adapted, parts] = times.map(median);
        println!(
            "{}: {tokens} tokens, {width} features, rank {}: frozen {:.3} ms, LoRA {:.3} ms, \
             ratio {:.3}; by parts {:.3} ms, ratio {:.3}",
            arguments.device,
            arguments.rank,
            frozen * 1e3,
            adapted * 1e3,
            adapted / frozen,
            parts * 1e3,
            parts / frozen,
        );
    }
}

/// Forward and backward, until the gradient of the input is there.
fn step(linear: &Linear, hooks: &dyn Hooks, x: &Tensor<3>) -> f64 {
    let x = x.clone().autodiff().require_grad();
    let start = Instant::now();
    let y = hooks.linear(linear, x.clone());
    // From a slope of one at every value: a loss would take time of its own.
    let gradients = y.backward();
    let gradient = x.grad(&gradients).expect("the input is tracked");
    // A device that works while the host goes on is waited for.
    gradient.slice([0..1, 0..1, 0..1]).into_data();
    start.elapsed().as_secs_f64()
}

/// Times the loading of a LoRA's files for a whole model, with the first reading apart.
fn loading(arguments: &Arguments, folder: &Path, device: &Device) {
    let resolved = Resolver::from_environment().resolve(MODEL, &|line| eprintln!("{line}"));
    let resolved = resolved.unwrap_or_else(|error| panic!("{error}"));
    let base = DecoderModel::load(&resolved.folder, device);
    let base = base.unwrap_or_else(|error| panic!("{error}"));
    for (name, targets) in [
        ("q_proj, v_proj", Targets::names(&["q_proj", "v_proj"])),
        (
            "all linear",
            Targets::Pattern(Targets::ALL_LINEAR.to_owned()),
        ),
    ] {
        let adapters = Adapters::init(&[lora(arguments.rank, targets)], &base, 0, device);
        let adapters = adapters.unwrap_or_else(|error| panic!("{error}"));
        let n_parameters = adapters.n_parameters();
        let place = folder.join(name);
        save_peft(&adapters, &base, MODEL, None, &place).unwrap_or_else(|error| panic!("{error}"));
        let seconds = || {
            let start = Instant::now();
            load_peft(&place, &base, device).unwrap_or_else(|error| panic!("{error}"));
            start.elapsed().as_secs_f64()
        };
        let first = seconds();
        let times = (0..arguments.rounds).map(|_| seconds()).collect();
        println!(
            "{}: {MODEL}, {name}, rank {}, {n_parameters} parameters: loaded in {:.1} ms, at first \
             in {:.1} ms",
            arguments.device,
            arguments.rank,
            median(times) * 1e3,
            first * 1e3,
        );
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

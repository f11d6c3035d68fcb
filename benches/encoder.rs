//! MiniLM on flex: forward, training step of a LoRA, and the same
//! step when the layers under the adapter are cached.
//!
//! `cargo bench --bench encoder`

use burn::tensor::{Device, Distribution, Int, Tensor};
use divan::Bencher;
use divan::counter::ItemsCount;
use hybrid_adapters::{AdapterConfig, Adapters, LoraConfig, Targets};
use hybrid_models::{EncoderBatch, Hooks, Model, NoHooks, open_device};

const ROWS: usize = 16;
const SEQ: usize = 16;

fn main() {
    divan::main();
}

fn base(device: &Device) -> Model {
    let folder = std::env::var_os("HYBRID_BENCH_MODEL")
        .map(std::path::PathBuf::from)
        .unwrap_or_else(|| {
            let resolver = hybrid_models::Resolver::from_environment();
            let resolved = resolver.resolve("sentence-transformers/all-MiniLM-L6-v2", &|line| {
                eprintln!("{line}")
            });
            resolved.unwrap_or_else(|error| panic!("{error}")).folder
        });
    Model::load_encoder(&folder, device).unwrap_or_else(|error| panic!("{error}"))
}

fn batch(device: &Device) -> EncoderBatch {
    let input_ids =
        Tensor::<2>::random([ROWS, SEQ], Distribution::Uniform(1000.0, 20000.0), device).int();
    let attention_mask: Tensor<2, Int> = input_ids.ones_like();
    EncoderBatch {
        input_ids,
        attention_mask,
        token_type_ids: None,
    }
}

fn lora(base: &Model, layers: Option<Vec<usize>>, device: &Device) -> Adapters {
    let lora = LoraConfig {
        r: 8,
        lora_alpha: 16.0,
        target_modules: Targets::names(&["query", "value"]),
        layers_to_transform: layers,
        ..Default::default()
    };
    let adapters = Adapters::init(&[AdapterConfig::Lora(lora)], base, 0, device)
        .unwrap_or_else(|error| panic!("{error}"));
    adapters.train_on(&device.clone().autodiff())
}

#[divan::bench]
fn forward(bencher: Bencher<'_, '_>) {
    let device = open_device("flex").unwrap_or_else(|error| panic!("{error}"));
    let (base, batch) = (base(&device), batch(&device));
    bencher
        .counter(ItemsCount::new(ROWS))
        .bench_local(|| base.encoder.forward(&batch, &NoHooks).into_data());
}

#[divan::bench]
fn train_step_all_layers(bencher: Bencher<'_, '_>) {
    let device = open_device("flex").unwrap_or_else(|error| panic!("{error}"));
    let (base, batch) = (base(&device), batch(&device));
    let adapters = lora(&base, None, &device);
    bencher.counter(ItemsCount::new(ROWS)).bench_local(|| {
        base.encoder
            .forward(&batch, &adapters)
            .powi_scalar(2)
            .mean()
            .backward()
    });
}

#[divan::bench]
fn train_step_top_layers_over_cached_layers(bencher: Bencher<'_, '_>) {
    let device = open_device("flex").unwrap_or_else(|error| panic!("{error}"));
    let (base, batch) = (base(&device), batch(&device));
    let encoder = &base.encoder;
    let middle = encoder.n_layers() / 2;
    let adapters = lora(&base, Some((middle..encoder.n_layers()).collect()), &device);
    let attention = encoder.attention(&batch, &NoHooks);
    let embedded = encoder.embed(&batch, &attention, &NoHooks);
    let below = encoder.layers(0..middle, embedded, &attention, &NoHooks);
    let hooks: &dyn Hooks = &adapters;
    bencher.counter(ItemsCount::new(ROWS)).bench_local(|| {
        let above = middle..encoder.n_layers();
        encoder
            .layers(above, below.clone(), &attention, hooks)
            .powi_scalar(2)
            .mean()
            .backward()
    });
}

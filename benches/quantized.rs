//! Linear layers of SmolLM2-135M on flex: weights in their GGUF blocks beside dense ones.
//!
//! `cargo bench --bench quantized`

use burn::tensor::{Device, Distribution, Tensor};
use divan::Bencher;
use hybrid_models::{GgufFile, QuantizedWeight, Resolver, linear, open_device};

/// A feed-forward layer in Q4_1 and the output projection in Q8_0.
const LAYERS: [&str; 2] = [
    "model.layers.0.mlp.gate_proj.weight",
    "model.embed_tokens.weight",
];

/// Tokens of a batch: one step of decoding, eight sequences, a prompt.
const ROWS: [usize; 3] = [1, 8, 256];

fn main() {
    divan::main();
}

fn weight(name: &str) -> QuantizedWeight {
    let folder = std::env::var_os("HYBRID_SMOLLM2").map(std::path::PathBuf::from);
    let folder = folder.unwrap_or_else(|| {
        let resolved = Resolver::from_environment()
            .resolve("HuggingFaceTB/SmolLM2-135M-Instruct", &|line| {
                eprintln!("{line}")
            });
        resolved.unwrap_or_else(|error| panic!("{error}")).folder
    });
    let file = GgufFile::of_model(&folder).unwrap_or_else(|error| panic!("{error}"));
    let weights = file.expect("a GGUF file").weights();
    let mut weights = weights.unwrap_or_else(|error| panic!("{error}"));
    weights.remove(name).expect("a tensor of SmolLM2")
}

fn device() -> Device {
    open_device("flex").unwrap_or_else(|error| panic!("{error}"))
}

fn activations(n_rows: usize, weight: &QuantizedWeight, device: &Device) -> Tensor<3> {
    Tensor::random([1, n_rows, weight.row_len()], Distribution::Default, device)
}

#[divan::bench(args = ROWS, consts = [0, 1])]
fn kept<const LAYER: usize>(bencher: Bencher<'_, '_>, n_rows: usize) {
    let (weight, device) = (weight(LAYERS[LAYER]), device());
    let x = activations(n_rows, &weight, &device);
    bencher.bench_local(|| weight.linear(x.clone(), None).into_data());
}

#[divan::bench(args = ROWS, consts = [0, 1])]
fn dense<const LAYER: usize>(bencher: Bencher<'_, '_>, n_rows: usize) {
    let (weight, device) = (weight(LAYERS[LAYER]), device());
    let x = activations(n_rows, &weight, &device);
    let dense = weight.dense(&device);
    bencher.bench_local(|| linear(x.clone(), dense.clone(), None).into_data());
}

#[divan::bench(consts = [0, 1])]
fn dequantize<const LAYER: usize>(bencher: Bencher<'_, '_>) {
    let weight = weight(LAYERS[LAYER]);
    bencher.bench_local(|| weight.dequantize_rows(0..weight.n_rows()));
}

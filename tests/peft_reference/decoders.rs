//! Language models that read from left to right.

use std::path::{Path, PathBuf};

use burn::tensor::{Tensor, TensorData};
use hybrid_adapters::{AdapterConfig, Adapters, load_peft, peft_has, save_peft};
use hybrid_models::{DecoderBatch, DecoderModel, Hooks};
use serde_json::json;

use super::{Journey, Sent, TYPES, case, methods, n_trained, rows_of_each};
use crate::contracts::bench::moved;
use crate::contracts::families::in_names_of;
use crate::contracts::refusals::refusal;
use crate::contracts::stacks::stacks;
use crate::fixtures;

/// A decoder with a batch without padding.
pub(super) struct Bench {
    name: String,
    folder: PathBuf,
    model_type: String,
    /// Whether the heads together are as wide as a token's vector.
    has_plain_heads: bool,
    model: DecoderModel,
    batch: DecoderBatch,
}

/// The decoders among the fixtures that write. GPT-2 is not among them: PEFT's newer methods know
/// nothing of its transposed layers.
pub(super) fn benches() -> Vec<Bench> {
    let device = fixtures::device();
    let mut benches = Vec::new();
    for fixture in fixtures::language_models() {
        let folder = fixture.folder.join("model");
        let config = fixtures::json(&folder.join("config.json"));
        let model_type = config["model_type"].as_str().unwrap_or_default().to_owned();
        if model_type == "gpt2" {
            continue;
        }
        let size = |key: &str| config[key].as_u64();
        let widths = size("head_dim").zip(size("num_attention_heads"));
        let ids: Vec<i32> = (0..12).map(|place| 5 + place * 7 % 31).collect();
        let ids = TensorData::new(ids, [2, 6]);
        benches.push(Bench {
            name: fixture.name,
            model_type,
            has_plain_heads: widths.is_none_or(|(width, n)| Some(width * n) == size("hidden_size")),
            model: DecoderModel::load(&folder, &device).unwrap(),
            folder,
            batch: DecoderBatch {
                input_ids: Tensor::from_data(ids, &device),
                attention_mask: None,
                position_ids: None,
            },
        });
    }
    benches
}

impl Bench {
    /// Logits of the tokens, without those of what stands in front of them.
    fn logits(&self, hooks: &dyn Hooks) -> Tensor<3> {
        let logits = self.model.logits(&self.batch, hooks).unwrap();
        let ([_, all, _], [_, seq]) = (logits.dims(), self.batch.input_ids.dims());
        logits.narrow(1, all - seq, seq)
    }
}

/// Writes an adapter of each stack that PEFT has over these decoders into `folder`.
pub(super) fn send<'b>(benches: &'b [Bench], folder: &Path, journey: &mut Journey<'b>) {
    let device = fixtures::device();
    for bench in benches {
        for (index, (stack, _)) in stacks().into_iter().enumerate() {
            let stack = in_names_of(&bench.model, &stack);
            if refusal(&bench.model, &stack).is_some() || !is_for_peft(&stack, bench) {
                continue;
            }
            let text = serde_json::to_string(&stack).expect(TYPES);
            let name = format!("{} {text}", bench.name);
            let adapters = Adapters::init(&stack, &bench.model, 7, &device);
            let adapters = moved(adapters.unwrap_or_else(|error| panic!("{name}: {error}")));
            if !peft_has(&adapters) {
                continue;
            }
            let start = format!("{}-{index}", bench.name.replace('/', "-"));
            let place = folder.join(&start);
            save_peft(&adapters, &bench.model, "tiny", None, &place).unwrap();
            let ids = &bench.batch.input_ids;
            let mut written = case(&name, &bench.folder, &place, ids, &ids.ones_like());
            written["causal"] = rows_of_each(bench.logits(&adapters));
            written["trained"] = json!(n_trained(&adapters));
            journey.cases.push(written);
            let flat =
                |logits: Tensor<3>| -> Vec<f32> { logits.into_data().iter::<f32>().collect() };
            journey.sent.push(Sent {
                name,
                methods: methods(&stack),
                family: bench.model_type.clone(),
                again: folder.join(format!("{start}-again")),
                expected: flat(bench.logits(&adapters.encoded())),
                outputs: Box::new(move |adapter| {
                    let adapters = load_peft(adapter, &bench.model, &fixtures::device());
                    let adapters = adapters.unwrap_or_else(|error| panic!("{text}: {error}"));
                    flat(bench.logits(&adapters))
                }),
            });
        }
    }
}

/// Whether PEFT computes what a stack does over a decoder.
fn is_for_peft(stack: &[AdapterConfig], bench: &Bench) -> bool {
    stack.iter().all(|config| match config {
        AdapterConfig::AdaptionPrompt(_) => {
            bench.has_plain_heads && ["llama", "mistral"].contains(&bench.model_type.as_str())
        }
        // Without a graphics card PEFT has no second factor of a butterfly.
        AdapterConfig::Boft(config) => config.boft_n_butterfly_factor == 1,
        _ => true,
    })
}

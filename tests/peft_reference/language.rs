//! Language models: those that read from left to right, and those that read with one half and write with
//! the other.

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Int, Tensor, TensorData};
use hybrid_adapters::{AdapterConfig, Adapters, load_peft, peft_has, save_peft};
use hybrid_models::{BaseKind, DecoderBatch, EncoderBatch, Hooks};
use serde_json::json;

use super::{Journey, Sent, TYPES, case, ints, methods, n_trained, rows_of_each};
use crate::any_base::AnyBase;
use crate::contracts::bench::moved;
use crate::contracts::families::in_names_of;
use crate::contracts::refusals::refusal;
use crate::contracts::stacks::stacks;
use crate::fixtures;

/// A language model with a batch without padding.
pub(super) struct Bench {
    name: String,
    folder: PathBuf,
    /// Whether the heads together are as wide as a token's vector.
    has_plain_heads: bool,
    base: AnyBase,
    input_ids: Tensor<2, Int>,
    /// What an encoder-decoder's other half reads.
    target_ids: Tensor<2, Int>,
}

fn ids(first: i32, seq: usize, device: &Device) -> Tensor<2, Int> {
    let place = |place: usize| first + place as i32 * 7 % 31;
    let ids: Vec<i32> = (0..2 * seq).map(place).collect();
    Tensor::from_data(TensorData::new(ids, [2, seq]), device)
}

/// The language models among the fixtures that write.
pub(super) fn benches() -> Vec<Bench> {
    let device = fixtures::device();
    let mut benches = Vec::new();
    for fixture in fixtures::of_kind("model") {
        let folder = fixture.folder.join("model");
        if !fixture.meta["generation"].is_object() || BaseKind::of_folder(&folder).is_err() {
            continue;
        }
        let config = fixtures::json(&folder.join("config.json"));
        let size = |key: &str| config[key].as_u64();
        let widths = size("head_dim").zip(size("num_attention_heads"));
        benches.push(Bench {
            name: fixture.name,
            has_plain_heads: widths.is_none_or(|(width, n)| Some(width * n) == size("hidden_size")),
            base: AnyBase::load(&folder, &device),
            folder,
            input_ids: ids(5, 6, &device),
            target_ids: ids(3, 4, &device),
        });
    }
    assert!(!benches.is_empty(), "no language model among the fixtures");
    benches
}

impl Bench {
    /// Logits of the tokens, without those of what stands in front of them.
    fn logits(&self, hooks: &dyn Hooks) -> Tensor<3> {
        let (logits, seq) = match &self.base {
            AnyBase::Decoder(model) => {
                let batch = DecoderBatch {
                    input_ids: self.input_ids.clone(),
                    attention_mask: None,
                    position_ids: None,
                };
                let [_, seq] = self.input_ids.dims();
                (model.logits(&batch, hooks).unwrap(), seq)
            }
            AnyBase::EncoderDecoder(model) => {
                let batch = EncoderBatch {
                    input_ids: self.input_ids.clone(),
                    attention_mask: self.input_ids.ones_like(),
                    token_type_ids: None,
                };
                let encoded = model.encode(&batch, hooks).unwrap();
                let states = model
                    .decode(&self.target_ids, &encoded, None, hooks)
                    .unwrap();
                let [_, seq] = self.target_ids.dims();
                (model.logits(states, hooks), seq)
            }
            AnyBase::Encoder(_) => unreachable!("encoders do not write"),
        };
        let [_, all, _] = logits.dims();
        logits.narrow(1, all - seq, seq)
    }

    /// What the script reads of an adapter.
    fn case(&self, name: &str, adapter: &Path, logits: Tensor<3>) -> serde_json::Value {
        let mask = self.input_ids.ones_like();
        let mut case = case(name, &self.folder, adapter, &self.input_ids, &mask);
        match &self.base {
            AnyBase::EncoderDecoder(_) => {
                case["decoder_input_ids"] = ints(&self.target_ids);
                case["seq2seq"] = rows_of_each(logits);
            }
            _ => case["causal"] = rows_of_each(logits),
        }
        case
    }
}

/// Writes an adapter of each stack that PEFT has over these models into `folder`.
pub(super) fn send<'b>(benches: &'b [Bench], folder: &Path, journey: &mut Journey<'b>) {
    let device = fixtures::device();
    for bench in benches {
        let base = bench.base.as_base();
        for (index, (stack, _)) in stacks().into_iter().enumerate() {
            let stack = in_names_of(base, &stack);
            if refusal(base, &stack).is_some() || !is_for_peft(&stack, bench) {
                continue;
            }
            let text = serde_json::to_string(&stack).expect(TYPES);
            let name = format!("{} {text}", bench.name);
            let adapters = Adapters::init(&stack, base, 7, &device);
            let adapters = moved(adapters.unwrap_or_else(|error| panic!("{name}: {error}")));
            if !peft_has(&adapters) {
                continue;
            }
            let start = format!("{}-{index}", bench.name.replace('/', "-"));
            let place = folder.join(&start);
            save_peft(&adapters, base, "tiny", None, &place).unwrap();
            let mut case = bench.case(&name, &place, bench.logits(&adapters));
            case["trained"] = json!(n_trained(&adapters));
            journey.cases.push(case);
            let flat =
                |logits: Tensor<3>| -> Vec<f32> { logits.into_data().iter::<f32>().collect() };
            journey.sent.push(Sent {
                name,
                methods: methods(&stack),
                family: base.model_type().to_owned(),
                again: folder.join(format!("{start}-again")),
                expected: flat(bench.logits(&adapters.encoded())),
                outputs: Box::new(move |adapter| {
                    let base = bench.base.as_base();
                    let adapters = load_peft(adapter, base, &fixtures::device());
                    let adapters = adapters.unwrap_or_else(|error| panic!("{text}: {error}"));
                    flat(bench.logits(&adapters))
                }),
            });
        }
    }
}

/// Whether PEFT computes what a stack does over a language model.
fn is_for_peft(stack: &[AdapterConfig], bench: &Bench) -> bool {
    let model_type = bench.base.as_base().model_type();
    let of_two_stacks = matches!(bench.base, AnyBase::EncoderDecoder(_));
    stack.iter().all(|config| match config {
        AdapterConfig::AdaptionPrompt(_) => {
            bench.has_plain_heads && ["llama", "mistral"].contains(&model_type)
        }
        // Without a graphics card PEFT has no second factor of a butterfly.
        AdapterConfig::Boft(config) => config.boft_n_butterfly_factor == 1,
        // PEFT acts on `shared`, which Transformers' stacks do not read.
        AdapterConfig::Lora(_) if of_two_stacks => {
            let settings = serde_json::to_value(config).expect(TYPES);
            let targets = settings["target_modules"].as_array();
            !targets.is_some_and(|targets| targets.contains(&json!("shared")))
        }
        // PEFT has names of its own for words that two stacks share.
        AdapterConfig::TrainableTokens(_) => !of_two_stacks,
        // PEFT passes GPT-2's transposed layers over.
        AdapterConfig::Osf(_) => model_type != "gpt2",
        // PEFT does not pass the tasks on.
        AdapterConfig::MultitaskPromptTuning(_) => !of_two_stacks,
        _ => true,
    })
}

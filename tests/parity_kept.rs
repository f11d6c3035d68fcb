//! Decoders whose weights stay in the blocks of their GGUF file, against recorded outputs and
//! against themselves as 32-bit floats.

use std::path::Path;

use burn::tensor::{Tensor, TensorData};
use hybrid_adapters::Adapters;
use hybrid_models::{
    Base, DecoderBatch, DecoderModel, GenerationConfig, Hooks, Layer, NoHooks, Weight, WeightFormat,
};

use crate::any_base::host;
use crate::contracts::bench::{close, gradient_values, moved};
use crate::contracts::families::in_names_of;
use crate::contracts::refusals::{beside_weights, refusal};
use crate::contracts::stacks::stacks;
use crate::fixtures::{self, Fixture, Tensors, Tolerance};

/// A whole file, loaded in both ways, with inputs and recorded outputs.
struct Case {
    fixture: Fixture,
    kept: DecoderModel,
    dense: DecoderModel,
    inputs: Tensors,
    expected: Tensors,
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for fixture in fixtures::of_kind("gguf") {
        let Some(file) = fixture.meta["file"].as_str() else {
            continue;
        };
        let path = fixture.folder.join(file);
        cases.push(Case {
            kept: load(&path, WeightFormat::Keep),
            dense: load(&path, WeightFormat::Float32),
            inputs: Tensors::read(&fixture.folder.join("inputs.safetensors")),
            expected: Tensors::read(&fixture.folder.join("outputs.safetensors")),
            fixture,
        });
    }
    assert!(!cases.is_empty(), "no whole GGUF file among the fixtures");
    cases
}

fn load(path: &Path, format: WeightFormat) -> DecoderModel {
    DecoderModel::load_with(path, format, &fixtures::device()).unwrap()
}

impl Case {
    fn batch(&self) -> DecoderBatch {
        let device = fixtures::device();
        DecoderBatch {
            input_ids: self.inputs.int("input_ids", &device),
            attention_mask: Some(self.inputs.int("attention_mask", &device)),
            position_ids: None,
        }
    }

    /// The same rows with the tokens among which are those that stacks under test train.
    fn batch_of_low_tokens(&self) -> DecoderBatch {
        let batch = self.batch();
        let shape = batch.input_ids.dims();
        let ids: Vec<i32> = (0..shape.iter().product::<usize>() as i32)
            .map(|place| 5 + place * 7 % 31)
            .collect();
        DecoderBatch {
            input_ids: Tensor::from_data(TensorData::new(ids, shape), &fixtures::device()),
            ..batch
        }
    }

    /// Of tokens, not of what adapters put in front of them.
    fn adapted(&self, model: &DecoderModel, hooks: &dyn Hooks) -> Tensor<3> {
        let logits = model.logits(&self.batch_of_low_tokens(), hooks).unwrap();
        let ([_, all, _], seq) = (logits.dims(), self.inputs.shape("input_ids")[1]);
        logits.narrow(1, all - seq, seq)
    }

    /// Compares values of tokens, not of padding.
    fn check(&self, what: &str, found: Tensor<3>, expected: &[f32]) {
        let tolerance = Tolerance::of(&self.fixture.meta["tolerance"]);
        let width = found.dims()[2];
        let found = host(found);
        assert_eq!(found.len(), expected.len(), "{what}");
        let rows = found.chunks(width).zip(expected.chunks(width));
        let mask = self.inputs.ints("attention_mask");
        for ((found, expected), mask) in rows.zip(mask) {
            if *mask == 1 {
                tolerance.check(what, found, expected);
            }
        }
    }
}

#[test]
fn kept_weights_compute_what_is_recorded() {
    for case in cases() {
        let logits = case.kept.logits(&case.batch(), &NoHooks).unwrap();
        case.check("logits", logits, case.expected.floats("logits"));
        let recorded = case.expected.ints("generate_row0");
        let seq = case.inputs.shape("input_ids")[1];
        let rows = case.inputs.ints("input_ids").chunks(seq);
        let prompts: Vec<Vec<i64>> = rows.map(<[i64]>::to_vec).collect();
        let config = GenerationConfig {
            max_new_tokens: recorded.len(),
            ..GenerationConfig::default()
        };
        let generated = case
            .kept
            .generate(&prompts[..1], &config, &NoHooks, &mut |_, _| false);
        assert_eq!(generated.unwrap()[0].ids, recorded, "{}", case.fixture.name);
    }
}

#[test]
fn kept_weights_are_held_in_their_blocks() {
    for case in cases() {
        let types = case.fixture.meta["tensor_types"].as_object().unwrap();
        let n_blocks = types.values().filter(|format| *format != "F32").count();
        let held = |weight: &Weight| matches!(weight, Weight::Kept(_));
        let n_held = |model: &DecoderModel| {
            let layers = model
                .sites()
                .iter()
                .filter_map(|site| model.layer_at(site.id));
            layers
                .filter(|layer| match layer {
                    Layer::Linear(linear) => held(&linear.weight),
                    Layer::Embedding(embedding) => held(&embedding.weight),
                    Layer::Norm(_) => false,
                })
                .count()
        };
        assert_eq!(n_held(&case.kept), n_blocks, "{}", case.fixture.name);
        assert_eq!(n_held(&case.dense), 0, "{}", case.fixture.name);
        assert_eq!(case.kept.n_parameters(), case.dense.n_parameters());
        assert_eq!(case.kept.named_tensors(), case.dense.named_tensors());
    }
}

/// The base can be quantised without any method knowing.
#[test]
fn adapters_act_on_kept_weights_as_on_dense_ones() {
    let device = fixtures::device();
    for case in cases() {
        for (stack, _) in stacks() {
            let configs = in_names_of(&case.kept, &stack);
            let stack = serde_json::to_string(&configs).unwrap();
            let init = |model: &DecoderModel| Adapters::init(&configs, model, 3, &device);
            if let Some(refusal) = refusal(&case.kept, &configs) {
                for model in [&case.kept, &case.dense] {
                    assert!(
                        init(model).is_err_and(|error| refusal.is(&error)),
                        "{stack}"
                    );
                }
                continue;
            }
            let [on_kept, on_dense] =
                [&case.kept, &case.dense].map(|model| moved(init(model).unwrap()));
            // Some first values are what the base computes.
            let values = |adapters: &Adapters| -> Vec<f32> {
                let tensors = adapters.named_tensors().into_iter();
                tensors
                    .flat_map(|(_, data)| data.iter::<f32>().collect::<Vec<f32>>())
                    .collect()
            };
            close(&stack, &values(&on_kept), &values(&on_dense), 1e-5);
            let expected = host(case.adapted(&case.dense, &on_dense.eval()));
            let adapted = case.adapted(&case.kept, &on_kept.eval());
            case.check(&format!("adapted by {stack}"), adapted, &expected);
            if beside_weights(&case.kept, &configs).is_none() {
                let merged = on_kept.merge(&case.kept).unwrap();
                let merged = case.adapted(&merged, &NoHooks);
                case.check(&format!("merged with {stack}"), merged, &expected);
            }

            let gradients = |model: &DecoderModel, adapters: Adapters| {
                let adapters = adapters.train_on(&device.clone().autodiff());
                let loss = case.adapted(model, &adapters).square().mean();
                gradient_values(loss, &adapters)
            };
            let expected = gradients(&case.dense, on_dense);
            let largest = expected
                .iter()
                .fold(0.0f32, |max, value| max.max(value.abs()));
            assert!(largest > 1e-5, "{stack}: {largest}");
            let tolerance = Tolerance {
                atol: f64::from(largest) * 1e-4,
                rtol: 1e-3,
            };
            let found = gradients(&case.kept, on_kept);
            tolerance.check(&format!("gradients of {stack}"), &found, &expected);
        }
    }
}

#[test]
fn prompts_together_are_continued_as_alone() {
    for case in cases() {
        let vocab = case.kept.decoder.vocab_size() as i64;
        let prompt = |length: i64| (0..length).map(|i| (7 + i * i * 5) % vocab).collect();
        // More rows than are multiplied one by one.
        let prompts: Vec<Vec<i64>> = (3..14).map(prompt).collect();
        let config = GenerationConfig {
            max_new_tokens: 6,
            ..GenerationConfig::default()
        };
        let run = |prompts: &[Vec<i64>]| {
            case.kept
                .generate(prompts, &config, &NoHooks, &mut |_, _| false)
                .unwrap()
        };
        let alone: Vec<_> = prompts
            .iter()
            .flat_map(|p| run(std::slice::from_ref(p)))
            .collect();
        assert_eq!(run(&prompts), alone, "{}", case.fixture.name);
    }
}

//! Decoders whose weights are held as bfloat16, against recorded outputs and against themselves as
//! 32-bit floats.

use burn::tensor::{DType, FloatDType, Tensor};
use hybrid_adapters::{AdapterConfig, Adapters};
use hybrid_models::{
    Base, BaseKind, DecoderBatch, DecoderModel, Hooks, Layer, NoHooks, Weight, WeightFormat,
};
use serde_json::json;

use crate::any_base::host;
use crate::contracts::bench::{gradient_values, moved};
use crate::fixtures::{self, Fixture, Tensors, Tolerance};

/// The share of the largest value that values may differ by. A number keeps eight bits, so each
/// rounding moves it by up to 1/512 of itself, and dozens follow one another.
const SHARE: f64 = 1.0 / 16.0;

/// The share of a gradient's length that the difference of two may have. PyTorch's gradients of the
/// same models differ by 2 to 6 hundredths.
const SHARE_OF_GRADIENTS: f32 = 1.0 / 8.0;

/// A decoder loaded in both ways, with inputs and recorded outputs.
struct Case {
    fixture: Fixture,
    half: DecoderModel,
    whole: DecoderModel,
    inputs: Tensors,
    expected: Tensors,
}

/// None on a device that does not compute in bfloat16.
fn cases() -> Vec<Case> {
    let device = fixtures::device();
    if !device.supports_dtype(FloatDType::BF16) {
        return Vec::new();
    }
    let mut cases = Vec::new();
    for fixture in fixtures::of_kind("model") {
        let folder = fixture.folder.join("model");
        let class = fixture.meta["architecture"].as_str().unwrap_or_default();
        let writes = class.ends_with("ForCausalLM") || class.ends_with("LMHeadModel");
        if !writes || BaseKind::of_folder(&folder).unwrap() != BaseKind::Decoder {
            continue;
        }
        let load = |format| DecoderModel::load_with(&folder, format, &device).unwrap();
        cases.push(Case {
            half: load(WeightFormat::Bfloat16),
            whole: load(WeightFormat::Float32),
            inputs: Tensors::read(&fixture.folder.join("inputs.safetensors")),
            expected: Tensors::read(&fixture.folder.join("outputs.safetensors")),
            fixture,
        });
    }
    assert!(
        !cases.is_empty(),
        "no decoder that writes among the fixtures"
    );
    cases
}

fn length(values: impl Iterator<Item = f32>) -> f32 {
    values.map(|value| value * value).sum::<f32>().sqrt()
}

impl Case {
    fn logits(&self, model: &DecoderModel, hooks: &dyn Hooks) -> Tensor<3> {
        let device = fixtures::device();
        let batch = DecoderBatch {
            input_ids: self.inputs.int("input_ids", &device),
            attention_mask: Some(self.inputs.int("attention_mask", &device)),
            position_ids: None,
        };
        model.logits(&batch, hooks).unwrap()
    }

    /// Compares values of tokens, not of padding.
    fn check(&self, what: &str, found: Tensor<3>, expected: &[f32]) {
        let width = found.dims()[2];
        let mask = self.inputs.ints("attention_mask");
        let tokens = |values: &[f32]| -> Vec<f32> {
            let rows = values.chunks(width).zip(mask);
            let rows = rows.filter(|(_, mask)| **mask == 1);
            rows.flat_map(|(row, _)| row.to_vec()).collect()
        };
        let expected = tokens(expected);
        let largest = expected
            .iter()
            .fold(0.0f32, |max, value| max.max(value.abs()));
        let tolerance = Tolerance {
            atol: SHARE * f64::from(largest),
            rtol: 0.0,
        };
        let what = format!("{}: {what}", self.fixture.name);
        tolerance.check(&what, &tokens(&host(found)), &expected);
    }
}

#[test]
fn bfloat16_weights_compute_what_is_recorded() {
    for case in cases() {
        let logits = case.logits(&case.half, &NoHooks);
        let whole = host(case.logits(&case.whole, &NoHooks));
        assert_ne!(host(logits.clone()), whole, "{}", case.fixture.name);
        case.check("logits", logits, case.expected.floats("logits"));
    }
}

#[test]
fn matrices_are_bfloat16_and_all_else_is_not() {
    for case in cases() {
        for site in case.half.sites().iter() {
            let (matrix, vectors) = match case.half.layer_at(site.id) {
                Some(Layer::Linear(linear)) => (Some(&linear.weight), vec![&linear.bias]),
                Some(Layer::Embedding(embedding)) => (Some(&embedding.weight), Vec::new()),
                Some(Layer::Norm(norm)) => {
                    assert_eq!(norm.weight.dtype(), DType::F32, "{}", site.path);
                    (None, vec![&norm.bias])
                }
                None => continue,
            };
            for vector in vectors.into_iter().flatten() {
                assert_eq!(vector.dtype(), DType::F32, "{}", site.path);
            }
            let is_half = |matrix| matches!(matrix, &Weight::Bfloat16(_));
            assert!(matrix.is_none_or(is_half), "{}", site.path);
        }
        assert_eq!(case.half.n_parameters(), case.whole.n_parameters());
    }
}

/// No method knows how the base's weights are held.
#[test]
fn adapters_act_on_bfloat16_weights_as_on_32_bit_floats() {
    let device = fixtures::device();
    for case in cases() {
        for stack in [
            json!([{"method": "lora", "r": 2, "lora_alpha": 2.0}]),
            json!([{"method": "lora", "r": 2, "lora_alpha": 2.0, "use_dora": true}]),
            json!([{"method": "prefix_tuning", "num_virtual_tokens": 2}]),
        ] {
            let configs: Vec<AdapterConfig> = serde_json::from_value(stack.clone()).unwrap();
            let init =
                |model: &DecoderModel| moved(Adapters::init(&configs, model, 3, &device).unwrap());
            let (on_half, on_whole) = (init(&case.half), init(&case.whole));
            let expected = host(case.logits(&case.whole, &on_whole.eval()));
            case.check(
                "adapted",
                case.logits(&case.half, &on_half.eval()),
                &expected,
            );
            let merges = !configs.iter().any(AdapterConfig::is_in_front);
            let merged = on_half.merge(&case.half);
            assert_eq!(merged.is_ok(), merges, "{stack}");
            if let Ok(merged) = merged {
                case.check("merged", case.logits(&merged, &NoHooks), &expected);
            }
            let gradients = |model: &DecoderModel, adapters: Adapters| {
                let adapters = adapters.train_on(&device.clone().autodiff());
                let loss = case.logits(model, &adapters).square().mean();
                gradient_values(loss, &adapters)
            };
            let expected = gradients(&case.whole, on_whole);
            let found = gradients(&case.half, on_half);
            let differences = found.iter().zip(&expected).map(|(a, b)| a - b);
            let share = length(differences) / length(expected.iter().copied());
            let name = &case.fixture.name;
            assert!(
                share > 0.0 && share <= SHARE_OF_GRADIENTS,
                "{name}: {stack}: {share}"
            );
        }
    }
}

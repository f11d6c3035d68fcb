//! What every method promises, over decoders.

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Int, Tensor, TensorData};
use hybrid_adapters::{AdapterConfig, Adapters, load_peft, peft_has, save_peft};
use hybrid_models::{Base, DecoderBatch, DecoderModel, Hooks, NoHooks, SiteKind, cross_entropy};
use serde_json::{Value, json};

use super::bench::{close, differ, gradient_values, moved};
use crate::fixtures;

/// A decoder with a batch, part of it padding at the left.
pub(super) struct Bench {
    pub(super) name: String,
    pub(super) model: DecoderModel,
    pub(super) batch: DecoderBatch,
    labels: Tensor<2, Int>,
}

pub(super) fn benches() -> Vec<Bench> {
    let device = fixtures::device();
    let mut benches = Vec::new();
    for fixture in fixtures::language_models() {
        let folder = fixture.folder.join("model");
        let ints = |values: Vec<i32>| -> Tensor<2, Int> {
            Tensor::from_data(TensorData::new(values, [2, 6]), &device)
        };
        let ids: Vec<i32> = (0..12).map(|place| 5 + place * 7 % 31).collect();
        let mask = (0..12).map(|place| i32::from(place != 6 && place != 7));
        let batch = DecoderBatch::padded(ints(ids.clone()), ints(mask.collect()));
        benches.push(Bench {
            name: fixture.name,
            model: DecoderModel::load(&folder, &device).unwrap(),
            batch,
            labels: ints(ids),
        });
    }
    assert!(!benches.is_empty(), "no decoder among the fixtures");
    benches
}

/// Stacks of every method, in the names of all decoders, with whether they merge.
fn stacks(has_bias: bool) -> Vec<(Value, bool)> {
    let bottleneck = json!({"method": "bottleneck", "bottleneck_size": 3});
    let unfreeze = json!({"method": "unfreeze", "modules": ["layers.1", "h.1"]});
    let mut stacks = vec![
        (json!([{"method": "lora", "r": 2}]), true),
        (
            json!([{"method": "lora", "r": 2, "bias": "all", "target_modules": "all-linear"}]),
            true,
        ),
        (
            json!([{"method": "lora", "r": 2, "use_dora": true}, {"method": "ia3"}]),
            true,
        ),
        (json!([{"method": "ia3"}]), true),
        (json!([{"method": "layer_norm"}]), true),
        (
            json!([unfreeze, {"method": "lora", "r": 3, "use_rslora": true}]),
            true,
        ),
        (json!([bottleneck, {"method": "ia3"}]), false),
        (
            json!([{"method": "bottleneck", "bottleneck_size": 3, "placement": "parallel"},
                   {"method": "prefix_tuning", "num_virtual_tokens": 2}]),
            false,
        ),
        (
            json!([{"method": "compacter", "bottleneck_size": 4, "phm_dim": 2}]),
            false,
        ),
        (
            json!([{"method": "loreft", "r": 2, "prefix_positions": 3}]),
            false,
        ),
        (
            json!([{"method": "poly", "r": 2, "n_skills": 3, "n_tasks": 2}]),
            true,
        ),
        (
            json!([{"method": "prompt_tuning", "num_virtual_tokens": 3}, {"method": "lora", "r": 2}]),
            false,
        ),
        (
            json!([{"method": "prefix_tuning", "num_virtual_tokens": 2, "prefix_projection": true}]),
            false,
        ),
        (
            json!([{"method": "prefix_tuning", "num_virtual_tokens": 3, "init_token_ids": [7, 9]},
                   {"method": "lora", "r": 2, "use_dora": true}]),
            false,
        ),
        (
            json!([{"method": "unilora", "r": 2, "theta_d_length": 24, "init_weights": false}]),
            true,
        ),
        (
            json!([{"method": "tinylora", "u": 3, "weight_tying": 0.5}]),
            true,
        ),
        (
            json!([{"method": "beft", "target_modules": ["v_proj", "c_attn"]}]),
            has_bias,
        ),
        (
            json!([{"method": "lily", "r": 3, "stride_A": 2, "target_modules": "all-linear"}]),
            false,
        ),
        (
            json!([{"method": "cartridge", "num_virtual_tokens": 3, "num_frozen_tokens": 2}]),
            false,
        ),
        (
            json!([{"method": "p_tuning", "num_virtual_tokens": 3, "encoder_hidden_size": 4,
                    "encoder_reparameterization_type": "LSTM", "encoder_num_layers": 3}]),
            false,
        ),
    ];
    if has_bias {
        stacks.push((json!([{"method": "bitfit"}]), true));
    }
    stacks
}

impl Bench {
    pub(super) fn each(&self) -> Vec<(Adapters, String, bool)> {
        let has_bias = self.model.sites().iter().any(|site| {
            matches!(
                site.kind,
                SiteKind::Linear { bias: true, .. } | SiteKind::Norm { bias: true, .. }
            )
        });
        let device = fixtures::device();
        let build = |(stack, merges): (Value, bool)| {
            let text = format!("{}: {stack}", self.name);
            let configs: Vec<AdapterConfig> = serde_json::from_value(stack).unwrap();
            let adapters = Adapters::init(&configs, &self.model, 3, &device);
            let adapters = adapters.unwrap_or_else(|error| panic!("{text}: {error}"));
            (adapters, text, merges)
        };
        stacks(has_bias).into_iter().map(build).collect()
    }

    fn logits(&self, model: &DecoderModel, hooks: &dyn Hooks) -> Vec<f32> {
        let (logits, _) = model
            .target_logits(&self.batch, &self.labels, hooks)
            .unwrap();
        logits.into_data().iter::<f32>().collect()
    }
}

#[test]
fn parity_decoders_start_as_they_are_and_merge_to_the_same_function() {
    for bench in benches() {
        let base = bench.logits(&bench.model, &NoHooks);
        for (adapters, text, merges) in bench.each() {
            let mut configs = adapters.configs().iter();
            if configs.all(AdapterConfig::starts_as_base) {
                close(&text, &bench.logits(&bench.model, &adapters), &base, 1e-5);
            }
            let adapters = moved(adapters);
            let changed = bench.logits(&bench.model, &adapters);
            differ(&text, &changed, &base);
            match (adapters.merge(&bench.model), merges) {
                (Ok(merged), true) => {
                    close(&text, &bench.logits(&merged, &NoHooks), &changed, 1e-3);
                }
                (Err(_), false) => {}
                (found, _) => panic!("{text}: {:?}", found.map(|_| "merged")),
            }
            assert_eq!(bench.logits(&bench.model, &NoHooks), base, "{text}");
        }
    }
}

#[test]
fn parity_decoders_give_the_same_outputs_after_save_and_load() {
    let mut saved = 0;
    for bench in benches() {
        for (adapters, text, _) in bench.each() {
            if !peft_has(&adapters) {
                continue;
            }
            saved += 1;
            let (adapters, folder) = (moved(adapters), tempfile::tempdir().unwrap());
            save_peft(&adapters, &bench.model, "tiny", None, folder.path())
                .unwrap_or_else(|error| panic!("{text}: {error}"));
            let again = load_peft(folder.path(), &bench.model, &fixtures::device())
                .unwrap_or_else(|error| panic!("{text}: {error}"));
            let [again, first] =
                [&again, &adapters].map(|adapters| bench.logits(&bench.model, adapters));
            assert_eq!(again, first, "{text}");
        }
    }
    assert!(saved > 0);
}

/// Counts the parameters that have a gradient with a value other than zero.
struct WithGradient<'a> {
    gradients: &'a GradientsParams,
    counts: [usize; 2],
}

impl ModuleVisitor for WithGradient<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let gradient = self.gradients.get::<D>(param.id);
        let moves = gradient
            .is_some_and(|gradient| gradient.into_data().iter::<f32>().any(|value| value != 0.0));
        self.counts[usize::from(moves)] += 1;
    }
}

#[test]
fn parity_decoders_stay_as_they_are_while_every_parameter_learns() {
    for bench in benches() {
        let before = bench.model.named_tensors();
        for (adapters, text, _) in bench.each() {
            let adapters = moved(adapters).train_on(&fixtures::device().autodiff());
            let (logits, targets) = bench
                .model
                .target_logits(&bench.batch, &bench.labels, &adapters)
                .unwrap();
            let mut gradients = cross_entropy(logits, targets).backward();
            let gradients = GradientsParams::from_module(&mut gradients, &adapters);
            let mut visitor = WithGradient {
                gradients: &gradients,
                counts: [0, 0],
            };
            adapters.visit(&mut visitor);
            let [still, moving] = visitor.counts;
            // A key's bias moves no score against another: its gradient is but rounding or zero.
            assert!(
                moving > 0 && still * 10 <= moving,
                "{text}: {still} and {moving}"
            );
        }
        assert_eq!(bench.model.named_tensors(), before, "{}", bench.name);
    }
}

/// What a forward reads in two parts is what it reads at once, also the tokens' places.
#[test]
fn parity_decoders_with_interventions_read_on_from_a_cache() {
    for bench in benches() {
        let build = |loreft: Value| {
            let prompt = json!({"method": "prompt_tuning", "num_virtual_tokens": 2});
            let stack = serde_json::from_value::<Vec<AdapterConfig>>(json!([prompt, loreft]));
            Adapters::init(&stack.unwrap(), &bench.model, 3, &fixtures::device())
        };
        let adapters = moved(build(json!({"method": "loreft", "prefix_positions": 3})).unwrap());
        let decoder = &bench.model.decoder;
        let whole = decoder.forward(&bench.batch, None, &adapters).unwrap();
        let [_, n_all, _] = whole.dims();
        let [batch, seq] = bench.batch.input_ids.dims();
        let mut cache = decoder.new_cache(seq);
        let mut parts = Vec::new();
        for (start, end) in [(0, 2), (2, seq)] {
            let part = |ids: &Tensor<2, Int>| ids.clone().slice([0..batch, start..end]);
            let mask = bench.batch.attention_mask.as_ref().unwrap();
            let part = DecoderBatch {
                input_ids: part(&bench.batch.input_ids),
                attention_mask: Some(mask.clone().slice([0..batch, 0..end])),
                position_ids: bench.batch.position_ids.as_ref().map(part),
            };
            parts.push(decoder.forward(&part, Some(&mut cache), &adapters).unwrap());
        }
        let host = |x: Tensor<3>| x.into_data().iter::<f32>().collect::<Vec<f32>>();
        let tokens = |x: Tensor<3>| host(x.slice([0..batch, n_all - 4..n_all]));
        let found = Tensor::cat(parts, 1);
        close(&bench.name, &tokens(found), &tokens(whole), 1e-4);

        let error = build(json!({"method": "loreft", "suffix_positions": 1})).unwrap_err();
        assert!(error.to_string().contains("suffix_positions"), "{error}");
    }
}

#[test]
fn parity_decoder_layers_that_are_run_again_learn_the_same() {
    for bench in benches() {
        for (adapters, text, _) in bench.each() {
            let adapters = moved(adapters).train_on(&fixtures::device().autodiff());
            let loss = |hooks: &dyn Hooks| {
                let of_model = &bench.model;
                let found = of_model.target_logits(&bench.batch, &bench.labels, hooks);
                let (logits, targets) = found.unwrap_or_else(|error| panic!("{text}: {error}"));
                cross_entropy(logits, targets)
            };
            let kept = gradient_values(loss(&adapters.training(3)), &adapters);
            let again = gradient_values(loss(&adapters.training_recomputed(3)), &adapters);
            close(&text, &again, &kept, 1e-5);
        }
    }
}

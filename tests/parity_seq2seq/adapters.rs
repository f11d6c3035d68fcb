//! What adapter methods promise where only an encoder-decoder has a place for them; the contracts check
//! the rest.

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use hybrid_adapters::{AdapterConfig, Adapters, load_peft, peft_has, save_peft};
use hybrid_models::{Base, EncoderDecoder, Hooks, Layer, NoHooks};
use serde_json::{Value, json};

use super::{Case, cases, host};
use crate::contracts::bench::{close, differ, moved};

impl Case {
    fn adapters(&self, stack: &Value) -> Adapters {
        let stack: Vec<AdapterConfig> = serde_json::from_value(stack.clone()).unwrap();
        Adapters::init(&stack, &self.model, 3, &self.device)
            .unwrap_or_else(|error| panic!("{} with {stack:?}: {error}", self.fixture.name))
    }

    /// Stacks of what an encoder-decoder alone has: its own layers, and one of its two stacks of layers.
    fn stacks(&self) -> Vec<Value> {
        let whole = match self.model.model_type() {
            "t5" => json!(["relative_attention_bias", "EncDecAttention.k", "shared"]),
            "bart" => json!(["embed_positions", "encoder_attn.k_proj", "shared"]),
            _ => json!([
                "encoder.layers.0.self_attn_layer_norm",
                "encoder_attn.v_proj"
            ]),
        };
        vec![
            json!([{"method": "unfreeze", "modules": whole}]),
            json!([{"method": "loreft", "r": 2, "suffix_positions": 2, "layers_to_transform": [0],
                    "exclude_modules": r".*decoder\..*"}]),
            json!([{"method": "prefix_tuning", "num_virtual_tokens": 2, "num_transformer_submodules": 1}]),
        ]
    }
}

/// Counts parameters by tensor.
#[derive(Default)]
struct Count(usize);

impl ModuleVisitor for Count {
    fn visit_float<const D: usize>(&mut self, _: &Param<Tensor<D>>) {
        self.0 += 1;
    }
}

#[test]
fn parity_bases_start_as_they_are_and_merge_to_what_adapters_compute() {
    for case in cases() {
        let logits = |model: &EncoderDecoder, hooks: &dyn Hooks| {
            host(case.logits(model, &case.batch(), hooks))
        };
        let base = logits(&case.model, &NoHooks);
        for stack in case.stacks() {
            let text = format!("{}: {stack}", case.fixture.name);
            let adapters = case.adapters(&stack);
            let configs = adapters.configs();
            let in_front = configs.iter().any(AdapterConfig::is_in_front);
            if configs.iter().all(AdapterConfig::starts_as_base) {
                close(&text, &logits(&case.model, &adapters), &base, 1e-5);
            }
            let adapters = moved(adapters);
            let adapted = logits(&case.model, &adapters);
            differ(&text, &adapted, &base);
            match adapters.merge(&case.model) {
                Ok(merged) => close(&text, &logits(&merged, &NoHooks), &adapted, 1e-2),
                Err(error) => {
                    assert!(in_front || text.contains("loreft"), "{text}: {error}");
                }
            }
            let folder = tempfile::tempdir().unwrap();
            let saved = save_peft(&adapters, &case.model, "base", None, folder.path());
            assert_eq!(saved.is_ok(), peft_has(&adapters), "{text}");
            if saved.is_ok() {
                let loaded = load_peft(folder.path(), &case.model, &case.device).unwrap();
                assert_eq!(logits(&case.model, &loaded), adapted, "{text}");
                let config = folder.path().join("adapter_config.json");
                let config = crate::fixtures::json(&config);
                assert_eq!(config["task_type"], "SEQ_2_SEQ_LM", "{text}");
            }
        }
    }
}

#[test]
fn parity_bases_stay_frozen_while_every_parameter_learns() {
    for case in cases() {
        let before = case.model.named_tensors();
        for stack in case.stacks() {
            let text = format!("{}: {stack}", case.fixture.name);
            let adapters = moved(case.adapters(&stack));
            let adapters = adapters.train_on(&case.device.clone().autodiff());
            let loss = case
                .model
                .loss(&case.batch(), &case.int("labels"), &adapters);
            let mut gradients = loss.unwrap().backward();
            let gradients = GradientsParams::from_module(&mut gradients, &adapters);
            let mut count = Count::default();
            adapters.visit(&mut count);
            assert_eq!(gradients.len(), count.0, "{text}: without gradient");
            for site in case.model.sites().iter() {
                if let Some(Layer::Linear(linear)) = case.model.layer_at(site.id) {
                    let tracked = linear.weight.is_autodiff();
                    assert!(!tracked, "{text}: {} is tracked", site.path);
                }
            }
        }
        assert_eq!(case.model.named_tensors(), before, "{}", case.fixture.name);
    }
}

/// What is under the lowest layer does not depend on the adapters.
#[test]
fn parity_bases_count_the_lowest_layer_over_both_stacks() {
    for case in cases() {
        let (n_encoder, t5) = (
            case.model.n_encoder_layers(),
            case.model.model_type() == "t5",
        );
        let (cross, between) = match t5 {
            true => ("EncDecAttention.q", "encoder.final_layer_norm"),
            false => ("encoder_attn.q_proj", "decoder.layernorm_embedding"),
        };
        let lowest = |stack: Value| case.adapters(&stack).lowest_layer();
        let lora =
            |target: &str| lowest(json!([{"method": "lora", "r": 2, "target_modules": [target]}]));
        let name = &case.fixture.name;
        assert_eq!(lora(cross), Some(n_encoder), "{name}: {cross}");
        assert_eq!(lora("lm_head"), None, "{name}: lm_head");
        if case.model.model_type() != "marian" {
            let norm = json!([{"method": "layer_norm", "target_modules": [between]}]);
            assert_eq!(lowest(norm), Some(n_encoder), "{name}: {between}");
            let words = json!([{"method": "unfreeze", "modules": ["shared"]}]);
            assert_eq!(lowest(words), Some(0), "{name}: shared");
        }
    }
}

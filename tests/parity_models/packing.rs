//! Rows without their padding have the hidden states, and adapters the gradients, that they have with it.

use burn::tensor::{Device, Int, Tensor};
use hybrid_adapters::Adapters;
use hybrid_models::{Base, DecoderBatch, Hooks, is_host};
use serde_json::json;

use super::{Tolerance, decoders, encoders, host};
use crate::contracts::bench::{gradient_values, moved};

/// The hidden states of all rows under hooks, with zeros for padding, padding left out or not.
type HiddenStates<'a> = &'a dyn Fn(bool, &dyn Hooks) -> Tensor<3>;

/// What is compared of one base.
struct Packed<'a> {
    name: &'a str,
    base: &'a dyn Base,
    mask: Tensor<2, Int>,
    tolerance: &'a Tolerance,
    device: &'a Device,
}

impl Packed<'_> {
    fn check(&self, hidden: HiddenStates<'_>) {
        let stack = json!([{"method": "lora", "r": 2, "target_modules": "all-linear"}]);
        let stack: Vec<_> = serde_json::from_value(stack).unwrap();
        let adapters = Adapters::init(&stack, self.base, 5, self.device).unwrap();
        let adapters = moved(adapters).train_on(&self.device.clone().autodiff());
        let [size, seq] = self.mask.dims();
        let mask = self.mask.clone().float().reshape([size, seq, 1]);
        let [whole, packed] = [false, true].map(|packs| hidden(packs, &adapters));
        if is_host(self.device) {
            let padding = host(packed.clone() * (mask.clone() * -1.0 + 1.0));
            assert!(padding.iter().all(|value| *value == 0.0), "{}", self.name);
        }
        let [whole, packed] = [whole, packed].map(|hidden| hidden * mask.clone());
        let check = |what: &str, found: Vec<f32>, expected: Vec<f32>| {
            let what = format!("{}: {what}", self.name);
            self.tolerance.check(&what, &found, &expected);
        };
        check("hidden states", host(packed.clone()), host(whole.clone()));
        let [whole, packed] = [whole, packed].map(|hidden| {
            let loss = hidden.powi_scalar(2).mean();
            gradient_values(loss, &adapters)
        });
        check("gradients", packed, whole);
    }
}

#[test]
fn parity_of_encoders_without_padding() {
    for case in encoders::cases() {
        let (encoder, batch) = (&case.model.encoder, case.batch());
        let packed = Packed {
            name: &case.fixture.name,
            base: &case.model,
            mask: batch.attention_mask.clone(),
            tolerance: &case.tolerance,
            device: &case.device,
        };
        packed.check(&|packs, hooks| {
            let attention = encoder.attention(&batch, hooks);
            let embedded = encoder.embed(&batch, &attention, hooks);
            let attention = match packs {
                true => attention.packed(&batch.attention_mask, hooks),
                false => attention,
            };
            encoder.layers(0..encoder.n_layers(), embedded, &attention, hooks)
        });
    }
}

#[test]
fn parity_of_decoders_without_padding() {
    for case in decoders::cases() {
        for side in ["", "left_"] {
            let mask: Tensor<2, Int> = case.int(&format!("{side}attention_mask"));
            let ids = case.int(&format!("{side}input_ids"));
            let (decoder, batch) = (&case.model.decoder, DecoderBatch::padded(ids, mask.clone()));
            let packed = Packed {
                name: &case.fixture.name,
                base: &case.model,
                mask: mask.clone(),
                tolerance: &case.tolerance,
                device: &case.device,
            };
            packed.check(&|packs, hooks| {
                let (embedded, attention) = decoder.begin(&batch, None, hooks).unwrap();
                let attention = match packs {
                    true => attention.packed(&mask, hooks),
                    false => attention,
                };
                decoder.layers(0..decoder.n_layers(), embedded, &attention, None, hooks)
            });
        }
    }
}

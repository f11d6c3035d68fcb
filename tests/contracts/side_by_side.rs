//! Stacks that learn in one forward over copies of the same rows.

use burn::tensor::{Tensor, TensorData};
use hybrid_adapters::{AdapterConfig, AdapterError, Adapters, SideBySide};
use hybrid_models::{BaseKind, Hooks};
use serde_json::{Value, json};

use super::bench::{close, differ, gradient_values, moved};
use super::by_row::separable;
use super::families::in_names_of;
use super::subjects::{Subject, subjects};
use crate::any_base::{AnyBase, AnyBatch, host};

const SEED: u64 = 7;

/// Rows of the batch that each stack reads.
const ROWS: usize = 2;

/// The last hidden states; layers go over tokens alone where `packed` and hooks allow it.
fn hidden(base: &AnyBase, batch: &AnyBatch, hooks: &dyn Hooks, packed: bool) -> Tensor<3> {
    match base {
        AnyBase::Encoder(model) => {
            let (encoder, batch) = (&model.encoder, batch.for_encoder());
            let mut attention = encoder.attention(&batch, hooks);
            let embedded = encoder.embed(&batch, &attention, hooks);
            if packed {
                attention = attention.packed(&batch.attention_mask, hooks);
            }
            encoder.layers(0..encoder.n_layers(), embedded, &attention, hooks)
        }
        AnyBase::Decoder(model) => {
            let (decoder, batch) = (&model.decoder, batch.for_decoder());
            let (embedded, mut attention) = decoder.begin(&batch, None, hooks).unwrap();
            if packed {
                let mask = batch.attention_mask.expect("the batch has padding");
                attention = attention.packed(&mask, hooks);
            }
            let layers = 0..decoder.n_layers();
            let hidden = decoder.layers(layers, embedded, &attention, None, hooks);
            decoder.finish(hidden, hooks)
        }
        AnyBase::EncoderDecoder(_) => panic!("of one stack of layers"),
    }
}

/// A loss in which every state counts otherwise.
fn loss(hidden: Tensor<3>) -> Tensor<1> {
    let dims = hidden.dims();
    let n: usize = dims.iter().product();
    let weights: Vec<f32> = (0..n)
        .map(|place| 0.1 * (place as f32 * 1.3).sin())
        .collect();
    let weights = TensorData::new(weights, dims);
    let weights: Tensor<3> = Tensor::from_data(weights, &hidden.device());
    (hidden * weights).sum()
}

/// Each stack has the loss and the gradients that it has alone.
fn check(subject: &Subject, stacks: &[Adapters], packed: bool, text: &str) {
    let (base, autodiff) = (&subject.base, subject.device.clone().autodiff());
    let train = |stack: &Adapters| stack.clone().train_on(&autodiff);
    let stacks: Vec<Adapters> = stacks.iter().map(train).collect();
    let of_each: Vec<&Adapters> = stacks.iter().collect();
    let rows = [0, 1].repeat(stacks.len());
    let copies = subject.batch.rows(&rows);
    let together = || -> Vec<Tensor<1>> {
        let hooks = SideBySide::training(&of_each, ROWS, SEED);
        let hidden = hidden(base, &copies, &hooks, packed);
        let part = |index: usize| hidden.clone().narrow(0, index * ROWS, ROWS);
        (0..stacks.len()).map(|index| loss(part(index))).collect()
    };
    for (index, stack) in stacks.iter().enumerate() {
        let text = format!("stack {index} of {text}");
        let alone = || loss(hidden(base, &subject.batch, &stack.training(SEED), packed));
        let losses = together();
        let found = host(losses[index].clone());
        close(&text, &found, &host(alone()), 1e-5);
        let sum = losses.into_iter().reduce(|sum, loss| sum + loss);
        let gradients = gradient_values(sum.expect("there are stacks"), stack);
        let expected = gradient_values(alone(), stack);
        close_to_largest(&text, &gradients, &expected);
        differ(&text, &expected, &vec![0.0; expected.len()]);
    }
}

/// Equal to 1e-5 of the largest value: where gradients nearly cancel, what is left is rounding.
fn close_to_largest(text: &str, found: &[f32], expected: &[f32]) {
    let largest = expected.iter().fold(1.0f32, |most, x| most.max(x.abs()));
    let scaled = |values: &[f32]| -> Vec<f32> { values.iter().map(|x| x / largest).collect() };
    close(text, &scaled(found), &scaled(expected), 1e-5);
}

fn built(subject: &Subject, stack: Value) -> Adapters {
    let stack: Vec<AdapterConfig> = serde_json::from_value(stack).unwrap();
    let stack = in_names_of(subject.base(), &stack);
    moved(Adapters::init(&stack, subject.base(), 5, &subject.device).unwrap())
}

/// Encoders and decoders.
fn of_one_stack_of_layers() -> impl Iterator<Item = Subject> {
    let subjects = subjects().into_iter();
    subjects.filter(|subject| subject.base().kind() != BaseKind::EncoderDecoder)
}

#[test]
fn parity_bases_train_several_stacks_in_one_forward() {
    for subject in of_one_stack_of_layers() {
        let lora = |r: usize, alpha: f64, dropout: f64, targets: Value| {
            let lora = json!([{"method": "lora", "r": r, "lora_alpha": alpha,
                               "lora_dropout": dropout, "target_modules": targets}]);
            built(&subject, lora)
        };
        let all = || json!("all-linear");
        let loras = [
            lora(2, 3.0, 0.0, all()),
            lora(4, 16.0, 0.25, all()),
            lora(1, 5.0, 0.0, json!(["query", "value", "q_lin", "v_lin"])),
        ];
        let ia3 = built(&subject, json!([{"method": "ia3"}]));
        let mixed = [loras[0].clone(), ia3, loras[1].clone()];
        for packed in [false, true] {
            let text = format!("{}, packed: {packed}", subject.name());
            check(&subject, &loras, packed, &format!("LoRAs, {text}"));
            check(&subject, &mixed, packed, &format!("LoRAs and IA3, {text}"));
        }
    }
}

/// Each method beside another and a LoRA.
#[test]
fn parity_bases_train_stacks_of_all_methods_in_one_forward() {
    for kind in [BaseKind::Encoder, BaseKind::Decoder] {
        let mut subjects = of_one_stack_of_layers();
        let subject = subjects.find(|subject| subject.base().kind() == kind);
        let subject = subject.expect("a base of each kind");
        let lora = json!([{"method": "lora", "r": 2, "lora_dropout": 0.25,
                           "target_modules": "all-linear"}]);
        let lora = built(&subject, lora);
        let stacks = separable(&subject);
        let others = stacks.iter().cycle().skip(1);
        for ((a, text), (b, _)) in stacks.iter().zip(others).step_by(2) {
            SideBySide::check(a, subject.base()).unwrap();
            check(&subject, &[a.clone(), lora.clone(), b.clone()], false, text);
        }
    }
}

#[test]
fn parity_bases_name_what_cannot_stand_side_by_side() {
    let subject = of_one_stack_of_layers().next().expect("a base");
    let soft = json!([{"method": "ia3"}, {"method": "prompt_tuning", "num_virtual_tokens": 2}]);
    let error = SideBySide::check(&built(&subject, soft), subject.base()).unwrap_err();
    assert!(
        matches!(error, AdapterError::NotSideBySide { method, .. } if method == "prompt_tuning"),
        "{error}"
    );
}

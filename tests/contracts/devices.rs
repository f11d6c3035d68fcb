//! Every stack on the device under test and on flex.

use hybrid_adapters::Adapters;

use super::bench::{gradient_values, moved};
use super::subjects::{Subject, smallest_on};
use crate::any_base::host;
use crate::fixtures::{self, Tolerance};

/// Values that may differ by a share of the largest of them.
fn check(what: &str, found: &[f32], expected: &[f32]) {
    let largest = expected
        .iter()
        .fold(0.0f32, |max, value| max.max(value.abs()));
    let tolerance = Tolerance {
        atol: 1e-3 * f64::from(largest),
        rtol: 1e-3,
    };
    tolerance.check(what, found, expected);
}

/// Logits, loss and gradients of a training step without chance.
fn computed(subject: &Subject, adapters: Adapters) -> [Vec<f32>; 3] {
    let logits = subject.logits(&subject.base, &adapters);
    let adapters = adapters.train_on(&subject.device.clone().autodiff());
    let loss = subject.loss(&adapters);
    let value = host(loss.clone());
    [logits, value, gradient_values(loss, &adapters)]
}

/// One base alone, the smallest: on a software driver each kernel takes its time.
#[test]
fn parity_of_every_stack_with_flex() {
    let device = fixtures::device();
    let flex = hybrid_models::open_device("flex").unwrap_or_else(|_| device.clone());
    let [under_test, on_flex] = smallest_on([&device, &flex]);
    for ((adapters, text, _), (expected, ..)) in under_test.each().zip(on_flex.each()) {
        let found = computed(&under_test, moved(adapters));
        let expected = computed(&on_flex, moved(expected));
        let parts = ["logits", "loss", "gradients"]
            .into_iter()
            .zip(found.iter().zip(&expected));
        for (part, (found, expected)) in parts {
            check(&format!("{text}: {part}"), found, expected);
        }
    }
}

//! Several IA3s as one: weighted sums of their scales, as PEFT's `add_weighted_adapter` has them. A site
//! that one of them does not scale adds nothing to the sum there.

use std::collections::BTreeMap;

use burn::tensor::{Device, TensorData};
use hybrid_models::Base;

use crate::any_method::AnyMethod;
use crate::{AdapterConfig, AdapterError, Adapters, Ia3Config, Targets, frozen};

/// The sum at one site.
struct Sum {
    values: Vec<f64>,
    feedforward: bool,
}

/// # Errors
/// [`AdapterError::NotCombinable`] for another method beside IA3, and for a site whose input the one
/// scales and the other its output.
pub(super) fn combined(
    adapters: &[(&Adapters, f64)],
    base: &dyn Base,
    device: &Device,
) -> Result<Adapters, AdapterError> {
    let not = |reason| Err(AdapterError::NotCombinable { reason });
    let mut sums: BTreeMap<String, Sum> = BTreeMap::new();
    for (adapters, weight) in adapters {
        let [AnyMethod::Ia3(ia3)] = adapters.stack() else {
            return not("a single IA3 goes with single IA3s only");
        };
        for (path, scale) in ia3.scales().iter() {
            let scales = frozen::plain(&scale.ia3_l).into_data();
            let scales = scales.iter::<f64>().map(|value| value * weight);
            match sums.get_mut(path) {
                None => {
                    let sum = Sum {
                        values: scales.collect(),
                        feedforward: scale.feedforward,
                    };
                    sums.insert(path.to_owned(), sum);
                }
                Some(sum) if sum.feedforward == scale.feedforward => {
                    let sums = sum.values.iter_mut().zip(scales);
                    sums.for_each(|(sum, value)| *sum += value);
                }
                Some(_) => return not("one scales the input of a site, another its output"),
            }
        }
    }
    let feedforward = sums.iter().filter(|(_, sum)| sum.feedforward);
    let ia3 = Ia3Config {
        target_modules: Targets::Names(sums.keys().cloned().collect()),
        feedforward_modules: Targets::Names(feedforward.map(|(path, _)| path.clone()).collect()),
        exclude_modules: None,
        layers_to_transform: None,
    };
    let fresh = Adapters::init(&[AdapterConfig::Ia3(ia3)], base, 0, device)?;
    let tensors = sums.into_iter().map(|(path, sum)| {
        let values: Vec<f32> = sum.values.iter().map(|value| *value as f32).collect();
        let n = values.len();
        let name = format!("stack.0.Ia3.scales.{path}.ia3_l");
        (name, TensorData::new(values, [n]))
    });
    fresh.load_named_tensors(&tensors.collect())
}

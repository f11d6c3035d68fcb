//! Gradients and numbers of trained values.

use burn::module::{Module, ModuleMapper, Param};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use hybrid_adapters::torch_tensors;

use super::{Case, cases};
use crate::fixtures;

#[test]
fn parity_of_gradients_and_counts() {
    for case in cases() {
        let name = &case.fixture.name;
        assert_eq!(
            Some(case.trained.n_parameters() as u64),
            case.fixture.meta["trainable_parameters"].as_u64(),
            "{name}"
        );
        let adapters = case
            .trained
            .clone()
            .train_on(&case.device.clone().autodiff());
        let mut gradients = case.loss(&adapters).backward();
        let gradients = GradientsParams::from_module(&mut gradients, &adapters);
        let gradients = torch_tensors(&adapters.valid().map(&mut IntoGradients { gradients }));
        let expected = case.fixture.meta["grad_l2_norms"]
            .as_object()
            .expect("meta.json has gradient norms");
        let names: Vec<&str> = gradients.keys().map(String::as_str).collect();
        let mut expected_names: Vec<&str> = expected
            .keys()
            .map(|key| fixtures::module_path(key))
            .collect();
        expected_names.sort_unstable();
        assert_eq!(names, expected_names, "{name}");
        for (key, expected) in expected {
            let key = fixtures::module_path(key);
            if is_reflected(&case, key) {
                continue;
            }
            let gradient = &gradients[key];
            let norm = gradient
                .iter::<f32>()
                .map(|value| f64::from(value).powi(2))
                .sum::<f64>()
                .sqrt();
            let expected = expected.as_f64().unwrap();
            case.check(
                &format!("gradient of {key}"),
                &[norm as f32],
                &[expected as f32],
            );
        }
    }
}

/// Whether a gradient has passed PEFT's backward of C3A, which turns the gradient of its input
/// around: `w[t + u]` stands where the function has `w[t - u]` (`BlockCircularConvolution` in PEFT 0.21).
/// Here it is that of the function, so only the last site's is the same.
fn is_reflected(case: &Case, key: &str) -> bool {
    let gradients = torch_tensors(&case.adapters);
    let of_blocks = gradients.keys().filter(|key| key.ends_with("c3a_kernel"));
    let sites = case.base.as_base().sites();
    let place = |key: &str| {
        sites
            .find(key.strip_suffix(".c3a_kernel")?)
            .map(|site| site.id)
    };
    let last = of_blocks.filter_map(|key| place(key)).max();
    place(key).is_some_and(|site| Some(site) != last)
}

/// Puts each parameter's gradient in its place.
struct IntoGradients {
    gradients: GradientsParams,
}

impl ModuleMapper for IntoGradients {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let gradient = self
            .gradients
            .get::<D>(param.id)
            .expect("every parameter has a gradient");
        Param::initialized(param.id, gradient)
    }
}

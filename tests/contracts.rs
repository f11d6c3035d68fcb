//! What every adapter method promises, checked by the same tests for all of them over bases of all kinds.

use std::collections::{BTreeMap, BTreeSet};

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::{GradientsParams, SgdConfig};
use burn::tensor::{Tensor, TensorData};
use hybrid_adapters::{
    AdapterConfig, AdapterError, Adapters, catalogue, load_peft, peft_has, save_peft,
};
use hybrid_models::{Base, BaseKind, Layer, NoHooks};

use bench::{close, differ, gradient_values, most_apart, moved};
use refusals::{beside_weights, refusal};
use stacks::stacks;
use subjects::{Subject, subjects};

use crate::any_base::host;
use crate::fixtures;

pub(crate) mod bench;
mod by_row;
mod counts;
mod decoders;
mod devices;
mod drawn;
mod encoders;
pub(crate) mod eva;
pub(crate) mod families;
mod gates;
mod in_front;
mod layer_stacks;
pub(crate) mod refusals;
mod settings;
mod side_by_side;
pub(crate) mod stacks;
mod subjects;
mod switched;

#[test]
fn every_method_is_under_test() {
    let schema = schemars::schema_for!(AdapterConfig).to_value();
    let tag = |variant: &serde_json::Value| {
        variant["properties"]["method"]["const"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let methods: BTreeSet<String> = schema["oneOf"]
        .as_array()
        .unwrap()
        .iter()
        .map(tag)
        .collect();
    let tested = stacks()
        .into_iter()
        .flat_map(|(stack, _)| stack)
        .map(|config| config.name().to_owned())
        .collect();
    assert_eq!(methods, tested);
}

#[test]
fn parity_bases_start_as_they_are() {
    for subject in subjects() {
        let base = subject.logits(&subject.base, &NoHooks);
        for (adapters, text, _) in subject.each() {
            let starts = subject.logits(&subject.base, &adapters);
            let at_start = subject.allowed().at_start;
            match adapters.configs().iter().all(AdapterConfig::starts_as_base) {
                true => close(&text, &starts, &base, at_start),
                // What DEFT takes away at first is the square of small values.
                false => assert!(most_apart(&starts, &base) > 10.0 * at_start, "{text}"),
            }
            let moved = subject.logits(&subject.base, &moved(adapters));
            differ(&text, &moved, &base);
        }
    }
}

#[test]
fn parity_bases_stay_bit_unchanged_while_only_adapters_learn() {
    for subject in subjects() {
        let before = subject.base().named_tensors();
        for (adapters, text, _) in subject.each() {
            let start = moved(adapters).train_on(&subject.device.clone().autodiff());
            let first = subject.loss(&start).into_scalar::<f32>();
            // A rate that is too high for one base is right for another.
            let mut lasts = Vec::new();
            for rate in [0.02, 0.002, 0.0002, 0.00002] {
                lasts.push(after_three_steps(&subject, &text, &start, rate));
                if lasts.iter().any(|last| *last < first) {
                    break;
                }
            }
            assert!(
                lasts.iter().any(|last| *last < first),
                "{text}: the loss went from {first} to {lasts:?}"
            );
        }
        assert_eq!(subject.base().named_tensors(), before, "{}", subject.name());
    }
}

/// The loss after three steps, in which parameters alone had gradients.
fn after_three_steps(subject: &Subject, text: &str, start: &Adapters, rate: f64) -> f32 {
    let mut adapters = start.clone();
    let mut optimizer = SgdConfig::new().init();
    for _ in 0..3 {
        let mut gradients = subject.loss(&adapters).backward();
        assert_frozen(subject.base(), text);
        let gradients = GradientsParams::from_module(&mut gradients, &adapters);
        let mut learning = Learning {
            gradients: &gradients,
            n_without: 0,
            n_still: 0,
            n_moving: 0,
        };
        adapters.visit(&mut learning);
        let (still, moving) = (learning.n_still, learning.n_moving);
        assert_eq!(learning.n_without, 0, "{text}: parameters without gradient");
        // A key's bias moves no score against another, and of the last layer a classifier reads one
        // place alone.
        assert!(
            still < moving,
            "{text}: {still} parameters are still, {moving} learn"
        );
        adapters = optimizer.step(rate, adapters, gradients);
    }
    subject.loss(&adapters).into_scalar::<f32>()
}

/// Counts the parameters by what their gradients are.
struct Learning<'a> {
    gradients: &'a GradientsParams,
    n_without: usize,
    /// Zero everywhere.
    n_still: usize,
    n_moving: usize,
}

impl ModuleVisitor for Learning<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        assert!(param.val().is_require_grad());
        let gradient = self.gradients.get::<D>(param.id);
        let moves = gradient.map(|gradient| host(gradient).iter().any(|value| *value != 0.0));
        let count = match moves {
            None => &mut self.n_without,
            Some(false) => &mut self.n_still,
            Some(true) => &mut self.n_moving,
        };
        *count += 1;
    }
}

/// No value of the base is tracked: not one of all that it has.
fn assert_frozen(base: &dyn Base, text: &str) {
    let mut n_values = 0;
    for site in base.sites().iter() {
        let Some(layer) = base.layer_at(site.id) else {
            continue;
        };
        let (weight, size) = match layer {
            Layer::Linear(linear) => (linear.weight.is_autodiff(), linear.weight.dims().to_vec()),
            Layer::Embedding(table) => (table.weight.is_autodiff(), table.weight.dims().to_vec()),
            Layer::Norm(norm) => (norm.weight.is_autodiff(), norm.weight.dims().to_vec()),
        };
        let bias = layer.bias();
        let is_tracked = weight || bias.is_some_and(Tensor::is_autodiff);
        assert!(!is_tracked, "{text}: {} is tracked", site.path);
        let of_weight = match base.layers().is_tied(site.id) {
            true => 0,
            false => size.iter().product(),
        };
        n_values += of_weight + bias.map_or(0, |bias| bias.shape().num_elements());
    }
    assert_eq!(
        n_values,
        base.layers().n_parameters(),
        "{text}: values passed over"
    );
}

#[test]
fn parity_layers_that_are_run_again_learn_the_same() {
    for subject in subjects() {
        for (adapters, text, _) in subject.each() {
            let adapters = moved(adapters).train_on(&subject.device.clone().autodiff());
            let kept = subject.loss(&adapters.training(3));
            let again = subject.loss(&adapters.training_recomputed(3));
            let [kept_loss, again_loss] = [&kept, &again].map(|loss| host(loss.clone()));
            close(&text, &again_loss, &kept_loss, 1e-6);
            let [kept, again] = [kept, again].map(|loss| gradient_values(loss, &adapters));
            close(&text, &again, &kept, 1e-5);
        }
    }
}

/// Merging gives another base. The one that is merged into is left as it is: to take an adapter out
/// again is to go on with that, to the last bit.
#[test]
fn parity_bases_merge_to_the_same_function_and_are_there_unmerged() {
    for subject in subjects() {
        let before = subject.base().named_tensors();
        let computed = subject.logits(&subject.base, &NoHooks);
        for (adapters, text, _) in subject.each() {
            let adapters = moved(adapters);
            let merged = subject.base.merged(&adapters);
            if let Some(beside) = beside_weights(subject.base(), adapters.configs()) {
                let error = merged.err().unwrap_or_else(|| panic!("{text}: merged"));
                assert!(
                    matches!(error, AdapterError::NotMergeable { method, .. } if method == beside),
                    "{text}: {error}"
                );
                continue;
            }
            let merged = merged.unwrap_or_else(|error| panic!("{text}: {error}"));
            close(
                &text,
                &subject.logits(&merged, &NoHooks),
                &subject.logits(&subject.base, &adapters),
                subject.allowed().merged,
            );
            assert_eq!(subject.logits(&subject.base, &NoHooks), computed, "{text}");
        }
        assert_eq!(subject.base().named_tensors(), before, "{}", subject.name());
    }
}

#[test]
fn parity_bases_give_the_same_outputs_after_save_and_load() {
    for subject in subjects() {
        let base = subject.base();
        for (adapters, text, _) in subject.each() {
            let adapters = moved(adapters);
            let tensors: BTreeMap<String, TensorData> =
                adapters.named_tensors().into_iter().collect();
            let tracked = subject.device.clone().autodiff();
            let fresh = Adapters::init(adapters.configs(), base, 8, &tracked).unwrap();
            let loaded = fresh.load_named_tensors(&tensors).unwrap();
            assert_eq!(loaded.named_tensors(), adapters.named_tensors(), "{text}");
            let logits = |adapters: &Adapters| subject.logits(&subject.base, adapters);
            let expected = logits(&adapters);
            close(&text, &logits(&loaded), &expected, 1e-5);
            close(&text, &logits(&loaded.eval()), &expected, 1e-5);

            let folder = tempfile::tempdir().unwrap();
            let saved = save_peft(&adapters, base, "base", None, folder.path());
            assert_eq!(saved.is_ok(), peft_has(&adapters), "{text}");
            if saved.is_err() {
                let n_files = std::fs::read_dir(folder.path()).unwrap().count();
                assert_eq!(n_files, 0, "{text}: half written");
                continue;
            }
            let loaded = load_peft(folder.path(), base, &subject.device)
                .unwrap_or_else(|error| panic!("{text}: {error}"));
            close(&text, &logits(&loaded), &expected, 1e-5);
            let again = tempfile::tempdir().unwrap();
            save_peft(&adapters, base, "base", None, again.path()).unwrap();
            for file in ["adapter_config.json", "adapter_model.safetensors"] {
                let [first, second] = [&folder, &again]
                    .map(|folder| std::fs::read(folder.path().join(file)).unwrap());
                assert_eq!(first, second, "{text}: {file}");
            }
            let config = fixtures::json(&folder.path().join("adapter_config.json"));
            match base.kind() {
                // It depends on what becomes of the head.
                BaseKind::Encoder => {}
                BaseKind::Decoder => assert_eq!(config["task_type"], "CAUSAL_LM", "{text}"),
                BaseKind::EncoderDecoder => {
                    assert_eq!(config["task_type"], "SEQ_2_SEQ_LM", "{text}")
                }
            }
        }
    }
}

#[test]
fn parity_bases_have_the_expected_parameters() {
    for subject in subjects() {
        let base = subject.base();
        for (adapters, text, count) in subject.each() {
            let sites = base.sites().iter();
            let counts = sites.map(|site| count(&families::path_in_bert(base, site), &site.kind));
            let at_sites: usize = counts.sum();
            let beside = families::of_second_stack(base, adapters.configs());
            let expected = at_sites.checked_add_signed(beside).unwrap();
            assert_eq!(adapters.n_parameters(), expected, "{text}");
            let named: usize = adapters
                .named_tensors()
                .iter()
                .map(|(_, data)| data.shape().num_elements())
                .sum();
            assert_eq!(named, expected, "{text}");
        }
    }
}

/// Methods whose first values depend on the seed whatever their settings.
const RANDOM: [&str; 18] = [
    "lily",
    "unilora",
    "deft",
    "glora",
    "peanut",
    "adalora",
    "adaption_prompt",
    "bottleneck",
    "compacter",
    "loreft",
    "poly",
    "loha",
    "lokr",
    "hra",
    "vblora",
    "hira",
    "delora",
    "gralora",
];

#[test]
fn parity_bases_see_the_same_first_values_for_the_same_seed() {
    for subject in subjects() {
        for (adapters, text, _) in subject.each() {
            let device = subject.device.clone().autodiff();
            let init = |seed| {
                let again = Adapters::init(adapters.configs(), subject.base(), seed, &device);
                again.unwrap().named_tensors()
            };
            assert_eq!(init(7), adapters.named_tensors(), "{text}");
            let random = adapters.configs().iter().any(|method| {
                let name = method.name();
                let config = serde_json::to_value(method).unwrap();
                let in_front = AdapterConfig::is_in_front(method);
                in_front && config["init_token_ids"].is_null()
                    || ["fourierft", "c3a", "tinylora", "waveft"].contains(&name)
                        && config["init_weights"] != true
                    || RANDOM.contains(&name)
                    || name == "lora"
                        && !["pissa", "olora"]
                            .map(serde_json::Value::from)
                            .contains(&config["init_lora_weights"])
            });
            let differs = init(9) != adapters.named_tensors();
            assert_eq!(differs, random, "{text}");
        }
    }
}

/// What the catalogue says of a method is what it does.
#[test]
fn parity_bases_bear_the_catalogue_out() {
    for subject in subjects() {
        for info in catalogue() {
            let stack = [info.default_config()];
            let text = format!("{}: {}", subject.name(), info.name);
            let adapters = match Adapters::init(&stack, subject.base(), 0, &subject.device) {
                Ok(adapters) => adapters,
                // Defaults are for larger bases than these.
                Err(AdapterError::Rank { .. } | AdapterError::Setting { .. }) => continue,
                Err(error) => {
                    let refusal = refusal(subject.base(), &stack);
                    assert!(
                        refusal.is_some_and(|refusal| refusal.is(&error)),
                        "{text}: {error}"
                    );
                    continue;
                }
            };
            let merges = beside_weights(subject.base(), &stack).is_none();
            assert_eq!(subject.base.merged(&adapters).is_ok(), merges, "{text}");
            assert!(info.merges || !merges, "{text}");
            let is_in_peft = info.peft_type.is_some();
            // Unfrozen layers stand beside another method there.
            assert_eq!(peft_has(&adapters), is_in_peft, "{text}");
            let over = info.over(subject.base(), &subject.device).unwrap();
            assert_eq!(over.n_parameters(), adapters.n_parameters(), "{text}");
        }
    }
}

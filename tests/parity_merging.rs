//! Several adapters over one base: alone, together and combined into one, against PEFT.

use std::collections::BTreeMap;

use burn::tensor::Device;
use hybrid_adapters::{
    AdapterConfig, AdapterError, Adapters, CombineConfig, combine, load_peft, save_peft,
};
use hybrid_models::{Hooks, NoHooks};
use serde_json::{Value, json};

use crate::any_base::{AnyBase, AnyBatch};
use crate::fixtures::{self, Fixture, Tensors, Tolerance};

/// A fixture with its base and its adapters by name.
struct Case {
    fixture: Fixture,
    base: AnyBase,
    adapters: BTreeMap<String, Adapters>,
    batch: AnyBatch,
    expected: Tensors,
    device: Device,
}

fn cases() -> Vec<Case> {
    let device = fixtures::device();
    let case = |fixture: Fixture| {
        let at = |key: &str| {
            fixture
                .folder
                .join(fixture.meta[key].as_str().expect("a path"))
        };
        let base = AnyBase::load(&at("base"), &device);
        let names = fixture.meta["adapters"].as_object().expect("adapters");
        let load = |name: &String| {
            let folder = fixture.folder.join(format!("adapter_{name}"));
            let adapters = load_peft(&folder, base.as_base(), &device);
            (
                name.clone(),
                adapters.unwrap_or_else(|error| panic!("{name}: {error}")),
            )
        };
        Case {
            adapters: names.keys().map(load).collect(),
            batch: AnyBatch::read(&Tensors::read(&at("inputs")), "", &device),
            expected: Tensors::read(&fixture.folder.join("outputs.safetensors")),
            device: device.clone(),
            base,
            fixture,
        }
    };
    fixtures::of_kind("merging").into_iter().map(case).collect()
}

impl Case {
    fn check(&self, base: &AnyBase, name: &str, hooks: &dyn Hooks) {
        let logits = base.counted(&base.logits(&self.batch, hooks), &self.batch);
        let output = format!("logits.{name}");
        let recorded = base.counted(self.expected.floats(&output), &self.batch);
        Tolerance::of(&self.fixture.meta["tolerance"]).check(name, &logits, &recorded);
    }

    fn combined(&self, settings: &Value) -> Result<Adapters, AdapterError> {
        let names = settings["adapters"].as_array().expect("names");
        let weights = settings["weights"].as_array().expect("weights");
        let weighted: Vec<(&Adapters, f64)> = names
            .iter()
            .zip(weights)
            .map(|(name, weight)| {
                let name = name.as_str().expect("a name");
                (&self.adapters[name], weight.as_f64().expect("a number"))
            })
            .collect();
        let mut config = settings.clone();
        let keys = config.as_object_mut().expect("settings");
        keys.retain(|key, _| key != "adapters" && key != "weights");
        let config: CombineConfig = serde_json::from_value(config).expect("settings of a rule");
        combine(&weighted, &config, self.base.as_base(), &self.device)
    }
}

#[test]
fn parity_of_adapters_alone_together_and_combined() {
    for case in cases() {
        let mut names: Vec<&str> = case.expected.names().collect();
        let mut seen = |name: String| names.retain(|output| *output != format!("logits.{name}"));
        case.check(&case.base, "disabled", &NoHooks);
        seen("disabled".to_owned());
        for (name, adapters) in &case.adapters {
            case.check(&case.base, name, adapters);
            seen(name.clone());
        }
        let [a, b] = ["a", "b"].map(|name| case.adapters[name].clone());
        let both = a.then(b, case.base.as_base()).unwrap();
        case.check(&case.base, "simultaneous_ab", &both);
        seen("simultaneous_ab".to_owned());
        let merged = case.base.merged(&both).unwrap();
        case.check(&merged, "merged_ab", &NoHooks);
        seen("merged_ab".to_owned());
        let combinations = case.fixture.meta["combinations"].as_object();
        for (name, settings) in combinations.expect("combinations") {
            let combined = case
                .combined(settings)
                .unwrap_or_else(|error| panic!("{name}: {error}"));
            case.check(&case.base, name, &combined);
            seen(name.clone());
            // One LoRA like any other.
            let folder = tempfile::tempdir().unwrap();
            save_peft(&combined, case.base.as_base(), "base", None, folder.path()).unwrap();
            let again = load_peft(folder.path(), case.base.as_base(), &case.device).unwrap();
            case.check(&case.base, name, &again);
        }
        assert!(
            names.is_empty(),
            "no test understands the outputs {names:?}"
        );
    }
}

/// Rules with chance in them have no recorded outputs: on the whole they are near the plain sum.
#[test]
fn parity_base_takes_rules_of_products_and_of_chance() {
    let case = &cases()[0];
    let plain = |rule: &str, density: f64| {
        json!({"adapters": ["a", "b"], "weights": [0.7, 0.4], "combination_type": rule, "density": density,
               "svd_rank": 8})
    };
    let logits = |adapters: &Adapters| {
        case.base
            .counted(&case.base.logits(&case.batch, adapters), &case.batch)
    };
    let exact = logits(&case.combined(&plain("svd", 1.0)).unwrap());
    for rule in ["magnitude_prune_svd", "dare_linear_svd"] {
        let all_kept = logits(&case.combined(&plain(rule, 1.0)).unwrap());
        let tolerance = Tolerance {
            atol: 1e-4,
            rtol: 1e-3,
        };
        tolerance.check(rule, &all_kept, &exact);
    }
    for rule in ["dare_linear", "dare_ties", "dare_ties_svd", "ties_svd"] {
        let [one, same] = [0, 0].map(|_| logits(&case.combined(&plain(rule, 0.5)).unwrap()));
        assert_eq!(one, same, "{rule}");
        let other = logits(&case.combined(&plain(rule, 0.4)).unwrap());
        assert_ne!(one, other, "{rule}");
    }
}

#[test]
fn parity_base_refuses_what_cannot_be_combined() {
    let case = &cases()[0];
    let refusal = |settings: Value| case.combined(&settings).unwrap_err().to_string();
    let ranks = refusal(
        json!({"adapters": ["a", "c"], "weights": [1.0, 1.0], "combination_type": "linear"}),
    );
    assert!(ranks.contains("ranks differ"), "{ranks}");
    let density =
        refusal(json!({"adapters": ["a", "b"], "weights": [1.0, 1.0], "combination_type": "ties"}));
    assert!(density.contains("density"), "{density}");
    let rank = refusal(
        json!({"adapters": ["a"], "weights": [1.0], "combination_type": "svd", "svd_rank": 0}),
    );
    assert!(rank.contains("svd_rank"), "{rank}");
    let ia3: Vec<AdapterConfig> = serde_json::from_value(json!([{"method": "ia3"}])).unwrap();
    let ia3 = Adapters::init(&ia3, case.base.as_base(), 0, &case.device).unwrap();
    let config = serde_json::from_value(json!({"combination_type": "cat"})).unwrap();
    let found = combine(&[(&ia3, 1.0)], &config, case.base.as_base(), &case.device);
    assert!(matches!(found, Err(AdapterError::NotCombinable { .. })));
    let none = combine(&[], &config, case.base.as_base(), &case.device);
    assert!(matches!(none, Err(AdapterError::NotCombinable { .. })));
}

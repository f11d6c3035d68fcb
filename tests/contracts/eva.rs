//! LoRAs that start at what their sites see.

use std::collections::BTreeMap;

use burn::tensor::TensorData;
use hybrid_adapters::{
    AdapterConfig, AdapterError, Adapters, ExplainedVariance, load_peft, save_peft,
};
use hybrid_models::{Base, NoHooks, Site};
use serde_json::{Value, json};

use super::bench::{Bench, benches, close, moved};
use crate::fixtures;

const TARGETS: [&str; 5] = ["query", "value", "q_lin", "v_lin", "dense"];

fn stack(eva: Value) -> Vec<AdapterConfig> {
    let stack = json!([
        {"method": "lora", "r": 2, "lora_alpha": 3, "init_lora_weights": "eva", "eva_config": eva,
         "target_modules": TARGETS, "exclude_modules": ["pooler.dense", "classifier.dense"]},
        {"method": "ia3"},
    ]);
    serde_json::from_value(stack).unwrap()
}

/// The stack after the bench's batch was shown until all was settled, and how often that was.
pub(crate) fn started(bench: &Bench, stack: &[AdapterConfig]) -> (Adapters, usize) {
    let mut seen = ExplainedVariance::new(stack, &bench.model, 5, &bench.device).unwrap();
    assert!(!seen.is_empty());
    let mut times = 0;
    loop {
        let hooks = seen.of_tokens(&bench.batch.attention_mask, None);
        bench.model.encoder.forward(&bench.batch, &hooks);
        drop(hooks);
        times += 1;
        if seen.update() {
            return (seen.init(&bench.model).unwrap(), times);
        }
        assert!(times < 9, "{}", bench.name);
    }
}

/// The factors `A` by path, `[d_in, rank]`.
pub(crate) fn first_factors(adapters: &Adapters) -> BTreeMap<String, TensorData> {
    let factor = |(name, data): (String, TensorData)| {
        let path = name.strip_prefix("stack.0.Lora.factors.")?;
        Some((path.strip_suffix(".lora_a")?.to_owned(), data))
    };
    adapters
        .named_tensors()
        .into_iter()
        .filter_map(factor)
        .collect()
}

fn ranks(adapters: &Adapters) -> BTreeMap<String, usize> {
    let rank = |(path, a): (String, TensorData)| (path, a.shape()[1]);
    first_factors(adapters).into_iter().map(rank).collect()
}

/// `Aᵀ A`.
fn products(a: &TensorData) -> Vec<Vec<f32>> {
    let [d_in, rank] = [a.shape()[0], a.shape()[1]];
    let values: Vec<f32> = a.iter::<f32>().collect();
    let dot = |i: usize, j: usize| {
        let places = 0..d_in;
        places
            .map(|row| values[row * rank + i] * values[row * rank + j])
            .sum()
    };
    (0..rank)
        .map(|i| (0..rank).map(|j| dot(i, j)).collect())
        .collect()
}

fn assert_orthogonal(path: &str, a: &TensorData, is_unit: bool) {
    for (i, row) in products(a).iter().enumerate() {
        for (j, value) in row.iter().enumerate() {
            match i == j {
                true if is_unit => assert!((value - 1.0).abs() < 1e-5, "{path}: {value}"),
                true => assert!(
                    *value > 0.0 && (value - 1.0).abs() > 1e-3,
                    "{path}: {value}"
                ),
                false => assert!(value.abs() < 1e-5, "{path}: {value}"),
            }
        }
    }
}

#[test]
fn parity_bases_give_eva_orthonormal_vectors_and_all_ranks() {
    let mut n_moved = 0;
    for bench in benches() {
        let base = bench.logits(&bench.model, &NoHooks);
        let (adapters, times) = started(&bench, &stack(json!({"rho": 2})));
        assert_eq!(times, 2, "the same batch moves nothing");
        close(
            &bench.name,
            &bench.logits(&bench.model, &adapters),
            &base,
            1e-6,
        );
        let sites = bench.model.sites();
        let is_target = |site: &&Site| {
            let name = site.path.rsplit('.').next().unwrap_or_default();
            site.layer.is_some() && TARGETS.contains(&name)
        };
        let n_sites = sites.iter().filter(is_target).count();
        let ranks = ranks(&adapters);
        assert_eq!(ranks.values().sum::<usize>(), 2 * n_sites);
        assert!(ranks.values().all(|rank| (1..=4).contains(rank)));
        n_moved += ranks.values().filter(|rank| **rank != 2).count();
        for (path, a) in first_factors(&adapters) {
            assert_orthogonal(&path, &a, true);
        }
        // No redistribution.
        let (adapters, _) = started(&bench, &stack(json!({"rho": 1})));
        let ranks = self::ranks(&adapters);
        assert!(ranks.len() == n_sites && ranks.values().all(|rank| *rank == 2));
        let (adapters, _) = started(&bench, &stack(json!({"rho": 1, "whiten": true})));
        for (path, a) in first_factors(&adapters) {
            assert_orthogonal(&path, &a, false);
        }
    }
    assert!(n_moved > 0, "no site has another rank than before");
}

/// The pooler is not asked here.
#[test]
fn parity_bases_give_no_rank_to_what_is_not_reached() {
    for bench in benches() {
        let stack = json!([{"method": "lora", "r": 2, "init_lora_weights": "eva",
                            "target_modules": ["query", "q_lin", "pooler.dense"]}]);
        let stack: Vec<AdapterConfig> = serde_json::from_value(stack).unwrap();
        let (adapters, _) = started(&bench, &stack);
        let ranks = ranks(&adapters);
        assert!(
            ranks.keys().all(|path| !path.contains("pooler")),
            "{ranks:?}"
        );
        let sites = bench.model.sites().iter();
        let names = ["query", "q_lin"];
        let n = sites
            .filter(|site| names.iter().any(|name| site.path.ends_with(name)))
            .count();
        assert_eq!(ranks.values().sum::<usize>(), 2 * n);
    }
}

/// Queries, keys and values see the same, and so start at the same.
#[test]
fn parity_bases_share_the_vectors_of_one_input() {
    for bench in benches() {
        let (adapters, _) = started(&bench, &stack(json!({"rho": 1})));
        let first = first_factors(&adapters);
        let pairs = [["query", "value"], ["q_lin", "v_lin"]];
        let of = |layer: usize, names: [&str; 2]| {
            names.map(|name| {
                let layer = format!("layer.{layer}.");
                let mut paths = first.iter();
                let found = paths.find(|(path, _)| path.contains(&layer) && path.ends_with(name));
                found.map(|(_, a)| a.clone())
            })
        };
        for [a, b] in pairs.map(|pair| of(1, pair)) {
            assert_eq!(a, b);
        }
        let layers = [of(0, pairs[0]), of(1, pairs[0])];
        assert!(layers[0] != layers[1] || layers[0][0].is_none());
    }
}

#[test]
fn parity_bases_keep_eva_through_files_and_named_values() {
    for bench in benches() {
        for adjust in [true, false] {
            let eva = json!({"rho": 2, "adjust_scaling_factors": adjust});
            let (adapters, _) = started(&bench, &stack(eva)[..1]);
            let adapters = moved(adapters);
            let expected = bench.logits(&bench.model, &adapters);
            let folder = tempfile::tempdir().unwrap();
            save_peft(&adapters, &bench.model, "tiny", None, folder.path()).unwrap();
            let loaded = load_peft(folder.path(), &bench.model, &bench.device).unwrap();
            close(
                &bench.name,
                &bench.logits(&bench.model, &loaded),
                &expected,
                1e-6,
            );

            let config = fixtures::json(&folder.path().join("adapter_config.json"));
            assert_eq!(config["init_lora_weights"], "eva");
            assert_eq!(config["eva_config"]["adjust_scaling_factors"], adjust);
            let ranks = ranks(&adapters);
            let moved_ranks: BTreeMap<_, _> =
                ranks.iter().filter(|(_, rank)| **rank != 2).collect();
            assert_eq!(config["rank_pattern"], json!(moved_ranks));
            let alphas: BTreeMap<_, f64> = moved_ranks
                .iter()
                .filter(|_| adjust)
                .map(|(path, rank)| (path, 3.0 * **rank as f64 / 2.0))
                .collect();
            let written = config["alpha_pattern"].as_object().unwrap();
            assert_eq!(written.len(), alphas.len());
            for (path, alpha) in alphas {
                assert_eq!(written[path.as_str()].as_f64(), Some(alpha));
            }
            let targets = config["target_modules"].as_array().unwrap();
            assert_eq!(targets.len(), ranks.len());

            // As a run keeps it.
            let configs = adapters.configs();
            let again = Adapters::init(configs, &bench.model, 0, &bench.device).unwrap();
            let tensors = adapters.named_tensors().into_iter().collect();
            let again = again.load_named_tensors(&tensors).unwrap();
            assert_eq!(bench.logits(&bench.model, &again), expected);
        }
    }
}

#[test]
fn parity_bases_refuse_eva_without_data_or_with_wrong_settings() {
    let bench = benches().remove(0);
    let (base, device) = (&bench.model, &bench.device);
    let refusal = |result: Result<Adapters, AdapterError>| result.unwrap_err().to_string();
    let error = refusal(Adapters::init(&stack(json!({})), base, 0, device));
    assert!(
        error.contains("init_lora_weights") && error.contains("ExplainedVariance"),
        "{error}"
    );
    for (eva, key) in [
        (json!({"rho": 0.5}), "rho is 0.5"),
        (json!({"tau": 1.5}), "tau is 1.5"),
    ] {
        let error = ExplainedVariance::new(&stack(eva), base, 0, device).unwrap_err();
        assert!(error.to_string().contains(key), "{error}");
    }
    let other = json!([{"method": "lora", "eva_config": {}}]);
    let other: Vec<AdapterConfig> = serde_json::from_value(other).unwrap();
    let error = refusal(Adapters::init(&other, base, 0, device));
    assert!(error.contains("eva_config is given"), "{error}");

    // Ten tokens, and candidates for more of them.
    let many = stack(json!({"rho": 8}));
    let mut seen = ExplainedVariance::new(&many, base, 0, device).unwrap();
    assert!(!seen.update());
    let hooks = seen.of_tokens(&bench.batch.attention_mask, None);
    base.encoder.forward(&bench.batch, &hooks);
    drop(hooks);
    assert!(!seen.update());
    let error = refusal(seen.init(base));
    assert!(error.contains("10 tokens for 16"), "{error}");

    let plain = json!([{"method": "lora", "r": 2}]);
    let plain: Vec<AdapterConfig> = serde_json::from_value(plain).unwrap();
    let seen = ExplainedVariance::new(&plain, base, 4, device).unwrap();
    assert!(seen.is_empty());
    let expected = Adapters::init(&plain, base, 4, device).unwrap();
    assert_eq!(
        seen.init(base).unwrap().named_tensors(),
        expected.named_tensors()
    );
}

/// Tokens that are not to be written do not count where that is asked for.
#[test]
fn parity_bases_hide_tokens_from_eva() {
    for bench in benches() {
        let start = |eva: Value, wanted: bool| {
            let stack = stack(eva);
            let mut seen = ExplainedVariance::new(&stack, &bench.model, 5, &bench.device).unwrap();
            let mask = &bench.batch.attention_mask;
            let [rows, seq] = mask.dims();
            let last = mask.clone().slice([0..rows, 1..seq]);
            let none = burn::tensor::Tensor::zeros([rows, 1], &bench.device);
            let labels = burn::tensor::Tensor::cat(vec![none, last], 1);
            let hooks = seen.of_tokens(mask, wanted.then_some(&labels));
            bench.model.encoder.forward(&bench.batch, &hooks);
            drop(hooks);
            seen.update();
            first_factors(&seen.init(&bench.model).unwrap())
        };
        let all = start(json!({}), false);
        assert_ne!(start(json!({}), true), all);
        assert_eq!(start(json!({"use_label_mask": false}), true), all);
    }
}

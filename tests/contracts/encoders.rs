//! What stacks over encoders may be, and what some of their settings do there.

use burn::optim::GradientsParams;
use hybrid_adapters::{AdapterConfig, AdapterError, Adapters};
use hybrid_optim::{GroupConfig, OptimizerConfig, ScheduleConfig, Updater};
use serde_json::json;

use super::bench::{benches, close, moved, refusal_of_value};

#[test]
fn parity_bases_are_pure_under_the_lowest_layer() {
    for bench in benches() {
        let of = |value: serde_json::Value| {
            let stack: Vec<AdapterConfig> = serde_json::from_value(value).unwrap();
            Adapters::init(&stack, &bench.model, 0, &bench.device)
                .unwrap()
                .lowest_layer()
        };
        assert_eq!(of(json!([])), None);
        assert_eq!(
            of(json!([{"method": "unfreeze", "modules": ["classifier"]}])),
            None
        );
        assert_eq!(
            of(json!([{"method": "lora", "r": 1, "layers_to_transform": [1]}])),
            Some(1)
        );
        assert_eq!(
            of(json!([{"method": "bottleneck", "layers_to_transform": [1]}, {"method": "ia3"}])),
            Some(0)
        );
        assert_eq!(
            of(json!([{"method": "unfreeze", "modules": ["embeddings"]}])),
            Some(0)
        );
        assert_eq!(
            of(json!([{"method": "prefix_tuning", "num_virtual_tokens": 1}])),
            Some(0)
        );
        assert_eq!(
            of(json!([{"method": "layer_norm", "target_modules": ["embeddings.LayerNorm"]}])),
            Some(0)
        );
    }
}

#[test]
fn parity_bases_refuse_illegal_stacks() {
    for bench in benches() {
        let error = |value: serde_json::Value| {
            let stack: Vec<AdapterConfig> = serde_json::from_value(value).unwrap();
            Adapters::init(&stack, &bench.model, 0, &bench.device)
                .expect_err("an illegal stack was built")
        };
        for stack in [
            json!([{"method": "bitfit"}, {"method": "layer_norm"}]),
            json!([{"method": "ia3"}, {"method": "ia3"}]),
            json!([{"method": "unipelt"}, {"method": "prefix_tuning", "num_virtual_tokens": 1}]),
            json!([{"method": "ia3"}, {"method": "lora", "r": 1, "use_dora": true}]),
            json!([{"method": "lora", "r": 1}, {"method": "lora", "r": 1, "use_dora": true}]),
            json!([{"method": "bitfit"}, {"method": "lora", "r": 1, "bias": "lora_only"}]),
            json!([{"method": "lora", "r": 1}, {"method": "hira", "r": 1}]),
            json!([{"method": "road", "group_size": 2}, {"method": "boft"}]),
            json!([{"method": "vera"}, {"method": "miss", "r": 4, "init_weights": "bat"}]),
            json!([{"method": "unfreeze", "modules": ["layer.0"]}, {"method": "unfreeze", "modules": ["layer.0"]}]),
        ] {
            let error = error(stack);
            assert!(
                matches!(&error, AdapterError::Stacking { site, .. } if !site.is_empty()),
                "{error}"
            );
        }
        let norm =
            error(json!([{"method": "lora", "r": 1, "target_modules": ["embeddings.LayerNorm"]}]));
        assert!(
            matches!(
                norm,
                AdapterError::UnsupportedTarget {
                    found: "a norm",
                    ..
                }
            ),
            "{norm}"
        );
        let embedding =
            error(json!([{"method": "adalora", "target_modules": ["word_embeddings"]}]));
        assert!(
            matches!(embedding, AdapterError::UnsupportedTarget { .. }),
            "{embedding}"
        );
        let rank = error(json!([{"method": "lora", "r": 4096}]));
        assert!(
            matches!(rank, AdapterError::Rank { rank: 4096, .. }),
            "{rank}"
        );
        let unfrozen = error(json!([{"method": "unfreeze", "modules": ["lyaer"]}]));
        assert!(unfrozen.to_string().contains("near names"), "{unfrozen}");
    }
}

/// Indices of a file that point out of the weight are an error, not a crash.
#[test]
fn parity_bases_refuse_indices_out_of_the_weight() {
    let bench = benches().remove(0);
    let stack = json!([{"method": "shira", "r": 1}]);
    let text = refusal_of_value(&bench, stack, "indices", 1_000_000i32.to_le_bytes());
    assert!(
        text.contains("shira_indices") && text.contains("1000000"),
        "{text}"
    );
}

/// LoRA+ and LoRA-FA: groups of the optimizer give each factor a rate of its own.
#[test]
fn parity_bases_train_factors_at_rates_of_their_own() {
    let bench = &benches()[0];
    let stack: Vec<AdapterConfig> =
        serde_json::from_value(json!([{"method": "lora", "r": 2}])).unwrap();
    let adapters = moved(Adapters::init(&stack, &bench.model, 0, &bench.device).unwrap());
    let adapters = adapters.train_on(&bench.device.clone().autodiff());
    let changes = |groups: serde_json::Value| {
        let groups: Vec<GroupConfig> = serde_json::from_value(groups).unwrap();
        let rule = OptimizerConfig::Sgd {
            lr: 0.1,
            momentum: 0.0,
            weight_decay: 0.0,
        };
        let schedule = ScheduleConfig::default();
        let mut updater = Updater::new(rule, &groups, schedule, None, 4, &adapters).unwrap();
        let gradients = bench.loss(&adapters).backward();
        updater.accumulate(GradientsParams::from_grads(gradients, &adapters));
        let (after, _) = updater.step(adapters.clone()).unwrap();
        let before = adapters.named_tensors().into_iter();
        before
            .zip(after.named_tensors())
            .map(|((name, before), (_, after))| {
                let pairs = after.iter::<f32>().zip(before.iter::<f32>());
                (
                    name,
                    pairs
                        .map(|(after, before)| after - before)
                        .collect::<Vec<f32>>(),
                )
            })
            .collect::<Vec<_>>()
    };
    let plain = changes(json!([]));
    let plus = changes(
        json!([{"pattern": "lora_b$", "lr_scale": 4.0}, {"pattern": "lora_a$", "lr_scale": 0.0}]),
    );
    for ((name, plain), (_, plus)) in plain.iter().zip(&plus) {
        let factor = if name.ends_with("lora_b") { 4.0 } else { 0.0 };
        let expected: Vec<f32> = plain.iter().map(|change| change * factor).collect();
        close(name, plus, &expected, 1e-5);
        assert!(plain.iter().any(|change| change.abs() > 1e-5), "{name}");
    }
}

/// Ranks and blocks that are larger than the matrix are refused where a method has no sense with them,
/// and taken where it has: VeRA's and PVeRA's matrices are of any rank, LoKr and DEFT cut it down.
#[test]
fn parity_bases_hold_sizes_against_their_matrices() {
    const RANK: Option<&str> = None;
    for bench in benches() {
        let init = |settings: &serde_json::Value| {
            let stack = serde_json::from_value::<Vec<AdapterConfig>>(json!([settings])).unwrap();
            Adapters::init(&stack, &bench.model, 0, &bench.device)
        };
        for (settings, key) in [
            (json!({"method": "lora", "r": 4096}), RANK),
            (json!({"method": "lora", "r": 4096, "use_dora": true}), RANK),
            (
                json!({"method": "lora", "r": 4096, "target_modules": ["word_embeddings"]}),
                RANK,
            ),
            (json!({"method": "adalora", "init_r": 4096}), RANK),
            (json!({"method": "loha", "r": 4096}), RANK),
            (json!({"method": "hra", "r": 4096}), RANK),
            (json!({"method": "miss", "r": 4096}), RANK),
            (json!({"method": "randlora", "r": 4096}), RANK),
            (
                json!({"method": "vblora", "r": 4096, "vector_length": 1}),
                RANK,
            ),
            (json!({"method": "hira", "r": 4096}), RANK),
            (json!({"method": "delora", "r": 4096}), RANK),
            (json!({"method": "gralora", "r": 4096}), RANK),
            (json!({"method": "shira", "r": 4096}), RANK),
            (json!({"method": "poly", "r": 4096}), RANK),
            (json!({"method": "peanut", "r": 4096}), RANK),
            (json!({"method": "loreft", "r": 4096}), RANK),
            (json!({"method": "unipelt", "r": 4096}), RANK),
            (
                json!({"method": "fourierft", "n_frequency": 1_000_000}),
                Some("n_frequency"),
            ),
            (
                json!({"method": "boft", "boft_block_size": 4096}),
                Some("boft_block_size"),
            ),
            (
                json!({"method": "boft", "boft_block_size": 0, "boft_block_num": 4096}),
                Some("boft_block_num"),
            ),
            (
                json!({"method": "c3a", "block_size": 4096}),
                Some("block_size"),
            ),
            (
                json!({"method": "road", "group_size": 4096}),
                Some("group_size"),
            ),
            (
                json!({"method": "compacter", "bottleneck_size": 8192, "phm_dim": 4096}),
                Some("phm_dim"),
            ),
        ] {
            let error = init(&settings).err();
            let error = error.unwrap_or_else(|| panic!("{}: {settings} was built", bench.name));
            match (key, &error) {
                (
                    RANK,
                    AdapterError::Rank {
                        rank: 4096, site, ..
                    },
                ) => assert!(!site.is_empty()),
                (Some(key), AdapterError::Setting { key: found, .. }) => assert_eq!(key, *found),
                _ => panic!("{}: {settings}: {error}", bench.name),
            }
        }
        for method in ["vera", "pvera", "lokr", "deft"] {
            let settings = json!({"method": method, "r": 4096});
            let built = init(&settings);
            built.unwrap_or_else(|error| panic!("{}: {settings}: {error}", bench.name));
        }
    }
}

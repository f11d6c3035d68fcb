//! Settings that fit no layer, and stored values that make no sense, are named.

use hybrid_adapters::{AdapterConfig, AdapterError, Adapters};
use serde_json::json;

use super::bench::{benches, refusal_of_value};

#[test]
fn parity_bases_refuse_settings_that_do_not_fit() {
    for bench in benches() {
        for (method, expected) in [
            (json!({"method": "waveft", "n_frequency": 0}), "n_frequency"),
            (
                json!({"method": "waveft", "n_frequency": 100_000_000}),
                "n_frequency",
            ),
            (
                json!({"method": "waveft", "n_frequency": 1, "wavelet_family": "db11"}),
                "wavelet_family",
            ),
            (
                json!({"method": "glora", "config_A_B": "none", "config_C": "none", "config_D_E": "none"}),
                "config_A_B",
            ),
            (
                json!({"method": "osf", "effective_rank": 0}),
                "effective_rank",
            ),
            (
                json!({"method": "osf", "effective_rank": 1.0}),
                "effective_rank",
            ),
            (
                json!({"method": "osf", "rank_pattern": {"": 0.001}}),
                "effective_rank",
            ),
            (json!({"method": "adamss", "r": 100_000}), "r"),
            (
                json!({"method": "adamss", "num_subspaces": 0}),
                "num_subspaces",
            ),
            (
                json!({"method": "adamss", "subspace_rank": 0}),
                "subspace_rank",
            ),
        ] {
            let stack: Vec<AdapterConfig> = serde_json::from_value(json!([method])).unwrap();
            let found = Adapters::init(&stack, &bench.model, 0, &bench.device);
            match found.map(|_| ()) {
                Err(AdapterError::Setting { key, .. }) => assert_eq!(key, expected, "{method}"),
                other => panic!("{method}: {other:?}"),
            }
        }
    }
}

/// PEFT would add what stands for nothing.
#[test]
fn parity_bases_refuse_a_nothing_that_is_not_zero() {
    let bench = benches().remove(0);
    let stack = json!([{"method": "glora", "config_C": "none"}]);
    let text = refusal_of_value(&bench, stack, "glora_C.zeros", 0.5f32.to_le_bytes());
    assert!(
        text.contains("glora_C.zeros") && text.contains("0.5"),
        "{text}"
    );
}

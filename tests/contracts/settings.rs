//! Settings that fit no layer are named.

use hybrid_adapters::{AdapterConfig, AdapterError, Adapters};
use serde_json::json;

use super::bench::benches;

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

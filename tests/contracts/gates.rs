//! Gates that average over a row's tokens pay no attention to what is beside them.

use burn::tensor::Tensor;
use hybrid_adapters::{AdapterConfig, Adapters};
use hybrid_models::EncoderBatch;
use serde_json::json;

use super::bench::{benches, close, moved};

/// A row without its padding is what it is in a batch.
#[test]
fn parity_gates_leave_padding_out() {
    for bench in benches() {
        let stack = json!([{"method": "unipelt", "r": 2, "bottleneck_size": 3},
                           {"method": "prompt_tuning", "num_virtual_tokens": 2}]);
        let stack: Vec<AdapterConfig> = serde_json::from_value(stack).unwrap();
        let adapters = moved(Adapters::init(&stack, &bench.model, 7, &bench.device).unwrap());
        let all = bench.logits(&bench.model, &adapters);
        let [batch, seq] = bench.batch.input_ids.dims();
        let n_tokens = bench
            .batch
            .attention_mask
            .clone()
            .slice([1..batch, 0..seq])
            .sum();
        let n_tokens = n_tokens.into_scalar::<i64>() as usize;
        assert!(n_tokens < seq);
        let alone = |x: &Tensor<2, burn::tensor::Int>| x.clone().slice([1..batch, 0..n_tokens]);
        let row = EncoderBatch {
            input_ids: alone(&bench.batch.input_ids),
            attention_mask: alone(&bench.batch.attention_mask),
            token_type_ids: None,
        };
        let found = bench.model.classify(&row, &adapters).unwrap();
        let found: Vec<f32> = found.into_data().iter::<f32>().collect();
        close(&bench.name, &found, &all[all.len() - found.len()..], 1e-4);
    }
}

//! What is drawn while training: dropout, mixtures of skills, inner features.

use hybrid_adapters::{AdapterConfig, Adapters};
use serde_json::json;

use super::bench::{benches, close, differ, moved};

#[test]
fn parity_bases_feel_dropout_in_training_only() {
    for bench in benches() {
        for stack in [
            json!([{"method": "lora", "r": 2, "lora_dropout": 0.5}]),
            json!([{"method": "lora", "r": 2, "lora_dropout": 0.5, "use_dora": true}]),
            json!([{"method": "p_tuning", "num_virtual_tokens": 2, "encoder_dropout": 0.5,
                    "encoder_reparameterization_type": "LSTM"}]),
            json!([{"method": "vera", "r": 4, "vera_dropout": 0.5}]),
            json!([{"method": "pvera", "r": 4}]),
            json!([{"method": "poly", "r": 2}]),
            json!([{"method": "deft", "r": 4, "deft_dropout": 0.5}]),
            json!([{"method": "loha", "r": 2, "rank_dropout": 0.5}]),
            json!([{"method": "lokr", "r": 2, "rank_dropout": 0.5, "rank_dropout_scale": true}]),
            json!([{"method": "miss", "r": 4, "miss_dropout": 0.5}]),
            json!([{"method": "randlora", "r": 4, "randlora_alpha": 4, "randlora_dropout": 0.5}]),
            json!([{"method": "vblora", "r": 2, "vector_length": 4, "vblora_dropout": 0.5}]),
            json!([{"method": "hira", "r": 2, "hira_dropout": 0.5}]),
            json!([{"method": "delora", "r": 2, "module_dropout": 0.5}]),
            json!([{"method": "gralora", "r": 2, "gralora_dropout": 0.5}]),
            json!([{"method": "unilora", "r": 2, "theta_d_length": 20, "init_weights": false,
                    "unilora_dropout": 0.5}]),
            json!([{"method": "tinylora", "r": 2, "u": 4, "tinylora_dropout": 0.5}]),
        ] {
            let stack: Vec<AdapterConfig> = serde_json::from_value(stack).unwrap();
            let adapters = moved(Adapters::init(&stack, &bench.model, 0, &bench.device).unwrap());
            let expected = bench.logits(&bench.model, &adapters);
            let training = adapters.train_on(&bench.device.clone().autodiff());
            let run = |seed| bench.logits(&bench.model, &training.training(seed));
            differ(&bench.name, &run(1), &expected);
            differ(&bench.name, &run(1), &run(2));
            let evaluated = bench.logits(&bench.model, &training);
            close(&bench.name, &evaluated, &expected, 1e-6);
        }
    }
}

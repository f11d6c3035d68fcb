//! The stacks under test: every method with settings that are not its defaults, and compositions.

use hybrid_adapters::AdapterConfig;
use hybrid_models::SiteKind;
use serde_json::json;

use super::counts::{
    at_queries_and_values, bias, divisor_up_to_4, factors, in_head, in_layer, keys, last_block,
    name, norm, pair, whole, words,
};
use super::layer_stacks;

/// Number of parameters at a site with this path and kind.
pub(crate) type Expected = fn(&str, &SiteKind) -> usize;

/// Stacks under test with the number of parameters that each must have, by site.
pub(crate) fn stacks() -> Vec<(Vec<AdapterConfig>, Expected)> {
    let stack = |value: serde_json::Value| serde_json::from_value(value).unwrap();
    let mut stacks: Vec<(Vec<AdapterConfig>, Expected)> = vec![
        (
            stack(
                json!([{"method": "lora", "r": 3, "lora_alpha": 7, "target_modules": ["query", "value", "q_lin", "v_lin"],
                          "rank_pattern": {"value|v_lin": 2}}]),
            ),
            |path, kind| match name(path) {
                "query" | "q_lin" => factors(3, kind),
                "value" | "v_lin" => factors(2, kind),
                _ => 0,
            },
        ),
        (
            stack(
                json!([{"method": "lora", "r": 2, "lora_alpha": 3, "use_rslora": true, "bias": "lora_only",
                          "target_modules": "all-linear"}]),
            ),
            |path, kind| {
                if in_head(path) {
                    0
                } else {
                    factors(2, kind) + bias(kind) * usize::from(factors(2, kind) > 0)
                }
            },
        ),
        (
            stack(
                json!([{"method": "lora", "r": 2, "bias": "all", "target_modules": r".*(query|q_lin)",
                          "alpha_pattern": {"layer.0.attention.self.query": 1.5}}]),
            ),
            |path, kind| {
                bias(kind)
                    + if matches!(name(path), "query" | "q_lin") {
                        factors(2, kind)
                    } else {
                        0
                    }
            },
        ),
        (
            stack(
                json!([{"method": "lora", "r": 2, "layers_to_transform": [1], "exclude_modules": ["value", "v_lin"]}]),
            ),
            |path, kind| {
                if in_layer(path, 1) && matches!(name(path), "query" | "q_lin") {
                    factors(2, kind)
                } else {
                    0
                }
            },
        ),
        (
            stack(
                json!([{"method": "lora", "r": 2, "lora_alpha": 3, "use_dora": true, "bias": "lora_only"}]),
            ),
            |path, kind| match (name(path), kind) {
                ("query" | "value" | "q_lin" | "v_lin", SiteKind::Linear { d_out, .. }) => {
                    factors(2, kind) + bias(kind) + d_out
                }
                _ => 0,
            },
        ),
        (stack(json!([{"method": "ia3"}])), |path, kind| {
            match (name(path), kind) {
                ("key" | "value" | "k_lin" | "v_lin", SiteKind::Linear { d_out, .. }) => *d_out,
                (_, SiteKind::Linear { d_in, .. })
                    if path.ends_with("output.dense")
                        || path.ends_with("out_lin")
                        || path.ends_with("ffn.lin2") =>
                {
                    *d_in
                }
                _ => 0,
            }
        }),
        (
            stack(json!([{"method": "bitfit", "exclude_modules": ["key", "k_lin"]}])),
            |path, kind| {
                if matches!(name(path), "key" | "k_lin") {
                    0
                } else {
                    bias(kind)
                }
            },
        ),
        (stack(json!([{"method": "layer_norm"}])), |_, kind| {
            norm(kind)
        }),
        (
            stack(json!([{"method": "bottleneck", "bottleneck_size": 5, "activation": "gelu"}])),
            |_, kind| pair(5, kind),
        ),
        (
            stack(
                json!([{"method": "bottleneck", "bottleneck_size": 4, "placement": "pfeiffer", "activation": "tanh"}]),
            ),
            |path, kind| if last_block(path) { pair(4, kind) } else { 0 },
        ),
        (
            stack(json!([{"method": "unfreeze", "modules": ["layer.1", "embeddings"]}])),
            |path, kind| {
                if in_layer(path, 1) || path.contains("embeddings.") {
                    whole(kind)
                } else {
                    0
                }
            },
        ),
        (
            stack(
                json!([{"method": "ia3"}, {"method": "lora", "r": 2, "target_modules": ["value", "v_lin"]}]),
            ),
            |path, kind| {
                let (_, ia3) = &stacks()[5];
                ia3(path, kind)
                    + if matches!(name(path), "value" | "v_lin") {
                        factors(2, kind)
                    } else {
                        0
                    }
            },
        ),
        (
            stack(
                json!([{"method": "lora", "r": 2, "target_modules": ["value", "v_lin"]}, {"method": "ia3"},
                         {"method": "bottleneck", "bottleneck_size": 3}, {"method": "layer_norm"}]),
            ),
            |path, kind| {
                let (_, both) = &stacks()[11];
                both(path, kind) + pair(3, kind) + norm(kind)
            },
        ),
        (
            stack(
                json!([{"method": "lora", "r": 2, "target_modules": "all-linear", "bias": "all"},
                         {"method": "unfreeze", "modules": ["classifier", "layer.0"]}]),
            ),
            |path, kind| match (
                in_layer(path, 0) || path.split('.').any(|part| part == "classifier"),
                in_head(path),
            ) {
                (true, _) => whole(kind),
                (false, true) => bias(kind),
                (false, false) => bias(kind) + factors(2, kind),
            },
        ),
        (
            stack(
                json!([{"method": "prompt_tuning", "num_virtual_tokens": 3, "prompt_tuning_init": "SAMPLE_VOCAB"}]),
            ),
            |path, kind| words(3, path, kind),
        ),
        (
            stack(json!([{"method": "prefix_tuning", "num_virtual_tokens": 2}])),
            |path, kind| keys(2, path, kind),
        ),
        (
            stack(
                json!([{"method": "prefix_tuning", "num_virtual_tokens": 2, "init_token_ids": [6, 5, 7]},
                         {"method": "lora", "r": 2, "target_modules": ["value", "v_lin"]}]),
            ),
            |path, kind| {
                keys(2, path, kind)
                    + if matches!(name(path), "value" | "v_lin") {
                        factors(2, kind)
                    } else {
                        0
                    }
            },
        ),
        (
            stack(
                json!([{"method": "p_tuning", "num_virtual_tokens": 3, "encoder_hidden_size": 5}]),
            ),
            |path, kind| {
                let d_model = words(1, path, kind);
                match d_model {
                    0 => 0,
                    d_model => 3 * d_model + 5 * d_model + 5 + 5 * 5 + 5 + 5 * d_model + d_model,
                }
            },
        ),
        (
            stack(
                json!([{"method": "prompt_tuning", "num_virtual_tokens": 3, "prompt_tuning_init": "TEXT",
                          "init_token_ids": [6, 5]},
                         {"method": "ia3"}, {"method": "prefix_tuning", "num_virtual_tokens": 1}]),
            ),
            |path, kind| {
                let (_, ia3) = &stacks()[5];
                words(3, path, kind) + ia3(path, kind) + keys(1, path, kind)
            },
        ),
        (
            stack(json!([{"method": "vera", "r": 5, "d_initial": 0.3}])),
            |path, kind| at_queries_and_values(path, kind, |_, d_out| 5 + d_out),
        ),
        (
            stack(json!([{"method": "loha", "r": 2, "alpha": 3}])),
            |path, kind| at_queries_and_values(path, kind, |d_in, d_out| 4 * (d_in + d_out)),
        ),
        (
            stack(json!([{"method": "lokr", "r": 1, "alpha": 3, "decompose_factor": 4}])),
            |path, kind| {
                at_queries_and_values(path, kind, |d_in, d_out| {
                    let (a, b) = (divisor_up_to_4(d_in), divisor_up_to_4(d_out));
                    a * b + d_in / a + d_out / b
                })
            },
        ),
        (
            stack(
                json!([{"method": "fourierft", "n_frequency": 9, "init_weights": true},
                         {"method": "lora", "r": 1, "target_modules": ["query", "q_lin"]}]),
            ),
            |path, kind| {
                at_queries_and_values(path, kind, |_, _| 9)
                    + match name(path) {
                        "query" | "q_lin" => factors(1, kind),
                        _ => 0,
                    }
            },
        ),
        (
            stack(json!([{"method": "fourierft", "n_frequency": 9}])),
            |path, kind| at_queries_and_values(path, kind, |_, _| 9),
        ),
        (
            stack(json!([{"method": "oft", "oft_block_size": 4}])),
            |path, kind| at_queries_and_values(path, kind, |d_in, _| d_in / 4 * 6),
        ),
        (
            stack(
                json!([{"method": "oft", "oft_block_size": 0, "r": 4, "block_share": true, "coft": true,
                          "eps": 0.5, "use_cayley_neumann": false}]),
            ),
            |path, kind| at_queries_and_values(path, kind, |d_in, _| d_in / 4 * (d_in / 4 - 1) / 2),
        ),
        (
            stack(json!([{"method": "boft", "boft_block_size": 4}])),
            |path, kind| at_queries_and_values(path, kind, |d_in, d_out| d_in * 4 + d_out),
        ),
        (
            stack(json!([{"method": "boft", "boft_block_size": 4, "boft_n_butterfly_factor": 2}])),
            |path, kind| at_queries_and_values(path, kind, |d_in, d_out| d_in * 8 + d_out),
        ),
        (
            stack(json!([{"method": "hra", "r": 2}, {"method": "ia3"}])),
            |path, kind| {
                let (_, ia3) = &stacks()[5];
                ia3(path, kind) + at_queries_and_values(path, kind, |d_in, _| 2 * d_in)
            },
        ),
        (
            stack(json!([{"method": "hra", "r": 3, "apply_GS": true}])),
            |path, kind| at_queries_and_values(path, kind, |d_in, _| 3 * d_in),
        ),
        (stack(json!([{"method": "miss", "r": 5}])), |path, kind| {
            at_queries_and_values(path, kind, |_, d_out| 5 * d_out)
        }),
        (
            stack(json!([{"method": "miss", "r": 4, "init_weights": "mini", "mini_r": 2}])),
            |path, kind| at_queries_and_values(path, kind, |_, _| 8),
        ),
        (
            stack(json!([{"method": "miss", "r": 4, "init_weights": "bat"},
                         {"method": "lora", "r": 1, "target_modules": ["query", "q_lin"]}])),
            |path, kind| {
                at_queries_and_values(path, kind, |_, d_out| 4 * d_out)
                    + match name(path) {
                        "query" | "q_lin" => factors(1, kind),
                        _ => 0,
                    }
            },
        ),
        (
            stack(json!([{"method": "randlora", "r": 3, "randlora_alpha": 6}])),
            |path, kind| {
                at_queries_and_values(path, kind, |d_in, d_out| {
                    let smaller = d_in.min(d_out);
                    smaller.div_ceil(3) * (3 + smaller)
                })
            },
        ),
        (
            stack(
                json!([{"method": "randlora", "r": 4, "randlora_alpha": 4, "sparse": true, "save_projection": false}]),
            ),
            |path, kind| {
                at_queries_and_values(path, kind, |d_in, d_out| {
                    let smaller = d_in.min(d_out);
                    smaller.div_ceil(4) * (4 + smaller)
                })
            },
        ),
        (
            stack(
                json!([{"method": "vblora", "r": 2, "num_vectors": 6, "vector_length": 8,
                          "init_vector_bank_bound": 0.5}]),
            ),
            |path, kind| {
                usize::from(words(1, path, kind) > 0) * 48
                    + at_queries_and_values(path, kind, |d_in, d_out| 12 * (d_in + d_out) / 8)
            },
        ),
        (stack(json!([{"method": "hira", "r": 2}])), |path, kind| {
            at_queries_and_values(path, kind, |d_in, d_out| 2 * (d_in + d_out))
        }),
        (
            stack(json!([{"method": "delora", "r": 2, "delora_lambda": 3}])),
            |path, kind| at_queries_and_values(path, kind, |d_in, d_out| 2 * (d_in + d_out) + 1),
        ),
        (
            stack(json!([{"method": "gralora", "r": 4, "hybrid_r": 1}])),
            |path, kind| at_queries_and_values(path, kind, |d_in, d_out| 5 * (d_in + d_out)),
        ),
        (
            stack(json!([{"method": "c3a", "block_size": 8, "init_weights": true}])),
            |path, kind| at_queries_and_values(path, kind, |d_in, d_out| d_in * d_out / 8),
        ),
        (
            stack(json!([{"method": "c3a", "block_size": 4, "init_weights": "gaussian"}])),
            |path, kind| at_queries_and_values(path, kind, |d_in, d_out| d_in * d_out / 4),
        ),
        (
            stack(json!([{"method": "road", "group_size": 4}])),
            |path, kind| at_queries_and_values(path, kind, |_, d_out| d_out),
        ),
        (
            stack(
                json!([{"method": "road", "group_size": 8, "variant": "road_2"}, {"method": "layer_norm"}]),
            ),
            |path, kind| norm(kind) + at_queries_and_values(path, kind, |_, d_out| 2 * d_out),
        ),
        (
            stack(json!([{"method": "road", "group_size": 8, "variant": "road_4"}])),
            |path, kind| at_queries_and_values(path, kind, |_, d_out| 4 * d_out),
        ),
        (
            stack(json!([{"method": "shira", "r": 1, "random_seed": 5}])),
            |path, kind| at_queries_and_values(path, kind, |d_in, d_out| d_in + d_out),
        ),
        (
            stack(
                json!([{"method": "adalora", "init_r": 3, "target_r": 2, "lora_alpha": 7, "total_step": 9,
                          "bias": "lora_only", "target_modules": "all-linear"}]),
            ),
            |path, kind| match factors(3, kind) {
                _ if in_head(path) => 0,
                0 => 0,
                factors => factors + 3 + bias(kind),
            },
        ),
        (
            stack(
                json!([{"method": "lora", "r": 2, "lora_alpha": 3, "init_lora_weights": "pissa", "use_dora": true}]),
            ),
            |path, kind| {
                let (_, dora) = &stacks()[4];
                match dora(path, kind) {
                    0 => 0,
                    n => n - bias(kind),
                }
            },
        ),
        (
            stack(
                json!([{"method": "lora", "r": 2, "init_lora_weights": "olora", "target_modules": ["query", "q_lin"]},
                         {"method": "lora", "r": 2, "init_lora_weights": "orthogonal", "target_modules": ["value", "v_lin"]}]),
            ),
            |path, kind| match name(path) {
                "query" | "q_lin" | "value" | "v_lin" => factors(2, kind),
                _ => 0,
            },
        ),
        (
            stack(
                json!([{"method": "lora", "r": 3, "lora_alpha": 7, "lora_bias": true,
                          "target_modules": ["query", "q_lin"]}]),
            ),
            |path, kind| match (name(path), kind) {
                ("query" | "q_lin", SiteKind::Linear { d_out, .. }) => factors(3, kind) + d_out,
                _ => 0,
            },
        ),
        (
            stack(
                json!([{"method": "lora", "r": 2, "lora_alpha": 3, "init_lora_weights": "gaussian",
                          "target_modules": ["word_embeddings", "query", "q_lin"]}]),
            ),
            |path, kind| match (name(path), kind) {
                ("query" | "q_lin", _) => factors(2, kind),
                ("word_embeddings", SiteKind::Embedding { n, d_model }) => 2 * (n + d_model),
                _ => 0,
            },
        ),
        (
            stack(
                json!([{"method": "lora", "r": 2, "target_modules": ["value", "v_lin"]},
                         {"method": "trainable_tokens", "token_indices": [6, 1, 7, 2]}]),
            ),
            |path, kind| {
                words(4, path, kind)
                    + match name(path) {
                        "value" | "v_lin" => factors(2, kind),
                        _ => 0,
                    }
            },
        ),
        (
            stack(
                json!([{"method": "multitask_prompt_tuning", "num_virtual_tokens": 3, "num_ranks": 2,
                          "num_tasks": 1}]),
            ),
            |path, kind| match words(1, path, kind) {
                0 => 0,
                d_model => 3 * d_model + 3 * 2 + 2 * d_model,
            },
        ),
        (
            stack(json!([{"method": "adaption_prompt", "adapter_len": 3}])),
            |path, kind| match (name(path), kind) {
                ("key" | "k_lin", SiteKind::Linear { d_in, .. }) => 3 * d_in + 1,
                _ => 0,
            },
        ),
        (
            stack(json!([{"method": "trainable_tokens", "token_indices": [6, 1, 7, 2]}])),
            |path, kind| words(4, path, kind),
        ),
    ];
    stacks.extend(layer_stacks::stacks());
    stacks
}

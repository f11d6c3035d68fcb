//! Stacks under test: what acts on sub-layers and on whole layers, what mixes by task, and PEFT's newer
//! methods.

use hybrid_adapters::AdapterConfig;
use hybrid_models::SiteKind;
use serde_json::json;

use super::counts::{
    at_biased_queries_and_values, at_queries_and_values, factors, in_head, in_layer, keys,
    last_block, name, norm, pair, words,
};
use super::stacks::Expected;

/// `n` small matrices that all adapters share, counted once.
fn shared(n: usize, path: &str, kind: &SiteKind) -> usize {
    usize::from(words(1, path, kind) > 0) * n * n * n
}

/// Factors and biases of one adapter out of Kronecker products.
fn phm_pair(size: usize, rank: usize, kind: &SiteKind) -> usize {
    match kind {
        SiteKind::Block { d_model } => (2 * rank + 1) * (d_model + size),
        _ => 0,
    }
}

/// Changes of hidden states at the end of a layer.
fn interventions(n: usize, r: usize, path: &str, kind: &SiteKind) -> usize {
    match kind {
        SiteKind::Block { d_model } if last_block(path) => n * (2 * r * d_model + r),
        _ => 0,
    }
}

/// A prefix of 2, side paths of rank 2, adapters of 3 features, and three gates a layer.
fn unipelt(path: &str, kind: &SiteKind) -> usize {
    let inner = match kind {
        SiteKind::Block { d_model } if last_block(path) => pair(3, kind) + 3 * (d_model + 1),
        _ => 0,
    };
    let lora = at_queries_and_values(path, kind, |d_in, d_out| 2 * (d_in + d_out));
    keys(2, path, kind) + lora + inner
}

/// Whether a path lies in the first of two layers that share.
fn is_first_of_two(path: &str) -> bool {
    let layer = path.split(".layer.").nth(1);
    let layer = layer.and_then(|rest| rest.split('.').next());
    layer.is_some_and(|layer| {
        layer
            .parse()
            .is_ok_and(|layer: usize| layer.is_multiple_of(2))
    })
}

/// Stacks with the number of parameters that each must have, by site.
pub(super) fn stacks() -> Vec<(Vec<AdapterConfig>, Expected)> {
    let stack = |value: serde_json::Value| serde_json::from_value(value).unwrap();
    vec![
        (
            stack(
                json!([{"method": "bottleneck", "bottleneck_size": 4, "placement": "parallel", "scaling": 4,
                          "activation": "relu"}, {"method": "lora", "r": 1}]),
            ),
            |path, kind| {
                let adapter = if last_block(path) { pair(4, kind) } else { 0 };
                adapter + at_queries_and_values(path, kind, |d_in, d_out| d_in + d_out)
            },
        ),
        // Mix-and-Match.
        (
            stack(json!([{"method": "prefix_tuning", "num_virtual_tokens": 2},
                         {"method": "bottleneck", "bottleneck_size": 4, "placement": "parallel", "scaling": 4}])),
            |path, kind| {
                let adapter = if last_block(path) { pair(4, kind) } else { 0 };
                keys(2, path, kind) + adapter
            },
        ),
        (
            stack(json!([{"method": "compacter", "bottleneck_size": 6, "phm_dim": 2}])),
            |path, kind| shared(2, path, kind) + phm_pair(6, 1, kind),
        ),
        (
            stack(
                json!([{"method": "compacter", "bottleneck_size": 4, "phm_dim": 4, "phm_rank": 2,
                          "placement": "parallel", "activation": "silu"},
                         {"method": "lora", "r": 2, "target_modules": ["value", "v_lin"]}]),
            ),
            |path, kind| {
                let adapter = if last_block(path) {
                    phm_pair(4, 2, kind)
                } else {
                    0
                };
                let lora = match name(path) {
                    "value" | "v_lin" => factors(2, kind),
                    _ => 0,
                };
                shared(4, path, kind) + adapter + lora
            },
        ),
        (
            stack(
                json!([{"method": "loreft", "r": 2, "prefix_positions": 2, "suffix_positions": 2}]),
            ),
            |path, kind| interventions(2, 2, path, kind),
        ),
        (
            stack(json!([{"method": "prompt_tuning", "num_virtual_tokens": 3},
                         {"method": "loreft", "r": 3, "prefix_positions": 1, "suffix_positions": 1,
                          "tied_weights": true}])),
            |path, kind| words(3, path, kind) + interventions(1, 3, path, kind),
        ),
        (
            stack(
                json!([{"method": "unipelt", "num_virtual_tokens": 2, "r": 2, "bottleneck_size": 3}]),
            ),
            unipelt,
        ),
        (
            stack(json!([{"method": "prompt_tuning", "num_virtual_tokens": 2},
                         {"method": "unipelt", "num_virtual_tokens": 2, "r": 2, "bottleneck_size": 3,
                          "activation": "tanh"}, {"method": "ia3"}])),
            |path, kind| {
                let (_, ia3) = &super::stacks::stacks()[5];
                words(2, path, kind) + unipelt(path, kind) + ia3(path, kind)
            },
        ),
        (
            stack(json!([{"method": "poly", "r": 2, "n_skills": 3, "n_splits": 2, "n_tasks": 2}])),
            |path, kind| at_queries_and_values(path, kind, |d_in, d_out| 6 * (d_in + d_out) + 12),
        ),
        (
            stack(
                json!([{"method": "poly", "r": 1, "n_skills": 2, "n_tasks": 3, "task": 2,
                          "init_weights": false}]),
            ),
            |path, kind| at_queries_and_values(path, kind, |d_in, d_out| 2 * (d_in + d_out) + 6),
        ),
        (
            stack(json!([{"method": "pvera", "r": 5, "d_initial": 0.3}])),
            |path, kind| at_queries_and_values(path, kind, |_, d_out| 10 + d_out),
        ),
        (
            stack(
                json!([{"method": "pvera", "r": 3, "projection_prng_key": 4, "save_projection": false}]),
            ),
            |path, kind| at_queries_and_values(path, kind, |_, d_out| 6 + d_out),
        ),
        (
            stack(
                json!([{"method": "peanut", "r": 3, "depth": 2, "act_fn": "tanh", "scaling": 0.5}]),
            ),
            |path, kind| at_queries_and_values(path, kind, |_, d_out| 6 * d_out + 36),
        ),
        (
            stack(json!([{"method": "peanut", "r": 2}, {"method": "ia3"}])),
            |path, kind| {
                let (_, ia3) = &super::stacks::stacks()[5];
                ia3(path, kind) + at_queries_and_values(path, kind, |_, d_out| 4 * d_out)
            },
        ),
        (
            stack(json!([{"method": "deft", "r": 3, "alpha": 6}])),
            |path, kind| at_queries_and_values(path, kind, |d_in, d_out| 3 * (d_in + d_out)),
        ),
        (
            stack(json!([{"method": "deft", "r": 2, "para": true}])),
            |path, kind| at_queries_and_values(path, kind, |_, d_out| 2 * d_out),
        ),
        (
            stack(json!([{"method": "waveft", "n_frequency": 9, "scaling": 3}])),
            |path, kind| at_queries_and_values(path, kind, |_, _| 9),
        ),
        (
            stack(
                json!([{"method": "waveft", "n_frequency": 7, "wavelet_family": "sym4",
                          "random_loc_seed": 3, "init_weights": false}]),
            ),
            |path, kind| at_queries_and_values(path, kind, |_, _| 7),
        ),
        (
            stack(
                json!([{"method": "waveft", "n_frequency": 5, "use_idwt": false,
                          "proportional_parameters": true}]),
            ),
            |path, kind| at_queries_and_values(path, kind, |_, _| 5),
        ),
        (stack(json!([{"method": "glora", "r": 3}])), |path, kind| {
            at_biased_queries_and_values(path, kind, |d_in, d_out, bias| {
                6 * (d_in + d_out) + usize::from(bias) * (3 * (d_in + 1) + 2)
            })
        }),
        (
            stack(
                json!([{"method": "glora", "r": 2, "config_A_B": "none", "config_D_E": "vector"}]),
            ),
            |path, kind| {
                at_queries_and_values(path, kind, |d_in, d_out| 2 * (d_in + 1) + 2 * d_out)
            },
        ),
        (
            stack(
                json!([{"method": "glora", "config_A_B": "vector", "config_C": "vector",
                          "config_D_E": "none"}, {"method": "lora", "r": 1}]),
            ),
            |path, kind| {
                at_biased_queries_and_values(path, kind, |d_in, d_out, bias| {
                    d_in + 3 * d_out + usize::from(bias) * d_in
                })
            },
        ),
        (
            stack(json!([{"method": "osf", "effective_rank": 5}])),
            |path, kind| {
                at_queries_and_values(path, kind, |d_in, d_out| {
                    (d_in.min(d_out) - 5) * (d_in + d_out + 1)
                })
            },
        ),
        (
            stack(json!([{"method": "osf", "rank_pattern": {"layer.0": 0.75}}])),
            |path, kind| match in_layer(path, 0) {
                true => at_queries_and_values(path, kind, |d_in, d_out| {
                    let most = d_in.min(d_out);
                    (most - most * 3 / 4) * (d_in + d_out + 1)
                }),
                false => at_queries_and_values(path, kind, |d_in, d_out| {
                    d_in.min(d_out).div_ceil(2) * (d_in + d_out + 1)
                }),
            },
        ),
        (
            stack(json!([{"method": "adamss", "r": 6, "num_subspaces": 3}])),
            |path, kind| at_queries_and_values(path, kind, |_, d_out| 3 * 6 + d_out),
        ),
        (
            stack(
                json!([{"method": "adamss", "r": 8, "num_subspaces": 4, "use_dynamic_rank": true,
                          "random_seed": 3}]),
            ),
            |path, kind| at_queries_and_values(path, kind, |_, d_out| 4 * 8 + d_out),
        ),
        (
            stack(
                json!([{"method": "unilora", "r": 3, "theta_d_length": 20, "init_theta_d_bound": 2.0}]),
            ),
            |path, kind| usize::from(words(1, path, kind) > 0) * 20,
        ),
        (
            stack(
                json!([{"method": "unilora", "r": 1, "theta_d_length": 12, "init_weights": false,
                          "save_indices": true, "proj_seed": 7}, {"method": "layer_norm"}]),
            ),
            |path, kind| norm(kind) + usize::from(words(1, path, kind) > 0) * 12,
        ),
        (
            stack(json!([{"method": "tinylora", "u": 3, "weight_tying": 0.5,
                          "init_weights": "uniform", "init_v_bound": 2.0}])),
            |path, _| 3 * usize::from(matches!(name(path), "query" | "q_lin")),
        ),
        (
            stack(json!([{"method": "tinylora", "r": 1, "u": 5, "save_projection": false}])),
            |path, kind| at_queries_and_values(path, kind, |_, _| 5),
        ),
        (
            stack(
                json!([{"method": "tinylora", "r": 3, "u": 2, "weight_tying": 1.0, "projection_seed": 5,
                          "save_projection": false}]),
            ),
            |path, kind| usize::from(words(1, path, kind) > 0) * 2,
        ),
        (stack(json!([{"method": "beft"}])), |path, kind| {
            match (name(path), kind) {
                ("value" | "v_lin", SiteKind::Linear { d_out, .. }) => *d_out,
                _ => 0,
            }
        }),
        (
            stack(
                json!([{"method": "lora", "r": 1}, {"method": "beft", "target_modules": ["query", "q_lin"]}]),
            ),
            |path, kind| match (name(path), kind) {
                ("query" | "q_lin", SiteKind::Linear { d_out, .. }) => factors(1, kind) + d_out,
                ("value" | "v_lin", _) => factors(1, kind),
                _ => 0,
            },
        ),
        (
            stack(json!([{"method": "lily", "r": 3, "stride_A": 2, "num_B": 3, "scaling": 2.0}])),
            |path, kind| {
                let first = |is_first: bool| usize::from(is_first);
                match (name(path), kind) {
                    (
                        "query" | "value" | "q_lin" | "v_lin",
                        SiteKind::Linear { d_in, d_out, .. },
                    ) => {
                        let a = first(is_first_of_two(path)) * 3 * d_in;
                        a + first(in_layer(path, 0)) * 9 * d_out + 9
                    }
                    _ => 0,
                }
            },
        ),
        (
            stack(
                json!([{"method": "lily", "r": 2, "init_weights": false, "target_modules": "all-linear"}]),
            ),
            |path, kind| match kind {
                SiteKind::Linear { d_in, d_out, .. } if !in_head(path) => {
                    let is_first = in_layer(path, 0) || !path.contains(".layer.");
                    2 * d_in + usize::from(is_first) * 4 * d_out + 4
                }
                _ => 0,
            },
        ),
        (
            stack(
                json!([{"method": "cartridge", "num_virtual_tokens": 4, "num_frozen_tokens": 2}]),
            ),
            |path, kind| keys(2, path, kind),
        ),
        (
            stack(
                json!([{"method": "cartridge", "num_virtual_tokens": 3, "init_token_ids": [6, 1]},
                         {"method": "lora", "r": 1}]),
            ),
            |path, kind| {
                keys(2, path, kind) + at_queries_and_values(path, kind, |d_in, d_out| d_in + d_out)
            },
        ),
    ]
}

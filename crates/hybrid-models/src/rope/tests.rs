//! Frequencies against those of Transformers 5.23, whose `LlamaRotaryEmbedding` printed the
//! expected values.

use burn::tensor::{Device, Tensor};
use serde_json::{Value, json};

use super::{Rope, Scaling};
use crate::config_file::ConfigFile;

fn read(keys: Value) -> Result<Rope, String> {
    let Value::Object(mut keys) = keys else {
        panic!("not an object")
    };
    keys.entry("max_position_embeddings")
        .or_insert_with(|| json!(128));
    let config = ConfigFile::new("config.json".into(), keys);
    Rope::read(&config, 16).map_err(|error| error.to_string())
}

fn check(keys: Value, seq: usize, expected: [f32; 8]) {
    let found = read(keys.clone()).unwrap().frequencies(seq);
    for (found, expected) in found.iter().zip(expected) {
        assert!(
            (found - expected).abs() <= 2e-6 * expected,
            "{keys}: {found} instead of {expected}"
        );
    }
}

#[test]
fn every_variant_has_the_frequencies_of_transformers() {
    check(
        json!({"rope_parameters": {"rope_type": "default", "rope_theta": 5000.0}}),
        100,
        [
            1.0,
            0.344_848_84,
            0.118_920_714,
            0.041_009_668,
            0.014_142_136,
            0.004_876_898_6,
            0.001_681_792_8,
            0.000_579_964_25,
        ],
    );
    check(
        json!({"rope_theta": 10000.0, "rope_scaling": {"type": "linear", "factor": 4}}),
        100,
        [
            0.25,
            0.079_056_94,
            0.025,
            0.007_905_694_7,
            0.0025,
            0.000_790_569_47,
            0.000_25,
            7.905_694_7e-5,
        ],
    );
    check(
        json!({"rope_parameters": {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0,
            "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}}),
        100,
        [
            1.0,
            0.244_384_59,
            0.013_042_256,
            0.003_952_847_3,
            0.001_25,
            0.000_395_284_73,
            0.000_125,
            3.952_847_3e-5,
        ],
    );
}

#[test]
fn dynamic_scaling_begins_beyond_the_maximum() {
    let keys = json!({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}});
    check(
        keys.clone(),
        100,
        [
            1.0,
            0.316_227_76,
            0.1,
            0.031_622_777,
            0.01,
            0.003_162_277_8,
            0.001,
            0.000_316_227_76,
        ],
    );
    check(
        keys.clone(),
        300,
        [
            1.0,
            0.262_445,
            0.068_877_37,
            0.018_076_522,
            0.004_744_092,
            0.001_245_063_3,
            0.000_326_760_64,
            8.575_669e-5,
        ],
    );
    // The length that counts is that of the positions, not the number of tokens.
    let rope = read(keys).unwrap();
    let at = |positions: [i32; 2]| {
        let positions = Tensor::<1, _>::from_ints(positions, &Device::flex()).unsqueeze();
        let x = Tensor::<4>::ones([1, 1, 2, 16], &Device::flex());
        let turned = rope.rotation(positions).apply(x).into_data();
        turned.iter::<f32>().take(16).collect::<Vec<f32>>()
    };
    assert_eq!(at([5, 6]), at([5, 127]));
    assert_ne!(at([5, 6]), at([5, 299]));
}

#[test]
fn yarn_has_the_frequencies_and_the_factor_of_transformers() {
    let cases = [
        (
            json!({"rope_parameters": {"rope_type": "yarn", "factor": 4.0,
                "original_max_position_embeddings": 32}}),
            1.138_629_436,
            [
                1.0,
                0.197_642_36,
                0.025,
                0.007_905_694_7,
                0.0025,
                0.000_790_569_47,
                0.000_25,
                7.905_694_7e-5,
            ],
        ),
        (
            json!({"rope_theta": 1000.0, "rope_scaling": {"type": "yarn", "factor": 8.0, "mscale": 0.7,
                "mscale_all_dim": 1.2, "beta_fast": 16, "beta_slow": 2, "truncate": false,
                "original_max_position_embeddings": 64}}),
            0.916_791_251,
            [
                1.0,
                0.225_975_14,
                0.022_228_492,
                0.009_373_677,
                0.003_952_847_3,
                0.001_666_901_9,
                0.000_702_926_66,
                0.000_296_421_73,
            ],
        ),
        (
            json!({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1000.0, "factor": 8.0,
                "attention_factor": 1.5}}),
            1.5,
            [
                1.0,
                0.329_450_4,
                0.100_028_22,
                0.025_777_612,
                0.003_952_847_3,
                0.001_666_901_9,
                0.000_702_926_66,
                0.000_296_421_73,
            ],
        ),
    ];
    for (keys, expected_factor, frequencies) in cases {
        check(keys.clone(), 100, frequencies);
        match read(keys).unwrap().scaling {
            Scaling::Yarn {
                attention_factor, ..
            } => assert!((attention_factor - expected_factor).abs() < 1e-8),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn the_old_spelling_comes_first_and_the_length_beside_the_section_too() {
    let rope = read(json!({
        "rope_theta": 500.0, "original_max_position_embeddings": 16,
        "rope_parameters": {"rope_type": "linear", "factor": 2.0},
        "rope_scaling": {"rope_type": "llama3", "factor": 2.0, "low_freq_factor": 1.0, "high_freq_factor": 2.0,
            "original_max_position_embeddings": 32}
    }))
    .unwrap();
    assert_eq!(rope.theta, 500.0);
    match rope.scaling {
        Scaling::Llama3 {
            original_positions, ..
        } => assert_eq!(original_positions, 16),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_not_understood_is_refused_by_name() {
    for (keys, parts) in [
        (
            json!({"rope_parameters": {"rope_type": "longrope"}}),
            ["rope_parameters.rope_type", "longrope"],
        ),
        (
            json!({"rope_scaling": {"type": "linear"}}),
            ["rope_scaling.factor", "missing"],
        ),
        (
            json!({"rope_scaling": {"type": "default", "mrope_section": [1, 2]}}),
            ["rope_scaling.mrope_section", "not supported"],
        ),
        (
            json!({"partial_rotary_factor": 0.5}),
            ["partial_rotary_factor", "found 0.5"],
        ),
        (
            json!({"rope_parameters": {"rope_type": "llama3", "factor": 2, "low_freq_factor": 4,
                "high_freq_factor": 1}}),
            ["high_freq_factor", "more than low_freq_factor 4"],
        ),
        (
            json!({"max_position_embeddings": null}),
            ["max_position_embeddings", "missing"],
        ),
    ] {
        let message = read(keys).unwrap_err();
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    }
}

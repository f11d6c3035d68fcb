//! Llama 3.1's rotary scaling, which GGUF files carry as one factor for each frequency.
//!
//! llama.cpp's converter computes the tensor `rope_freqs.weight` from `rope_scaling` of `config.json`
//! and keeps nothing else of it. Going back is safe only for settings that are known: those that all
//! of Meta's models share are tried, and the factors must come out.

use std::f64::consts::TAU;

use serde_json::{Value, json};

const LOW_FREQ_FACTOR: f64 = 1.0;
const HIGH_FREQ_FACTOR: f64 = 4.0;
const ORIGINAL_POSITIONS: f64 = 8192.0;

/// `rope_parameters` for these factors, or nothing if they are not those of Llama 3.1.
pub(super) fn llama3_parameters(factors: &[f32], theta: f64) -> Option<Value> {
    let d_head = 2.0 * factors.len() as f64;
    // The slowest frequency is divided by the whole factor.
    let factor = f64::from(*factors.last()?);
    let expected = |pair: usize| {
        let frequency = theta.powf(-2.0 * pair as f64 / d_head);
        let turns = ORIGINAL_POSITIONS * frequency / TAU;
        let kept = (turns - LOW_FREQ_FACTOR) / (HIGH_FREQ_FACTOR - LOW_FREQ_FACTOR);
        let kept = kept.clamp(0.0, 1.0);
        1.0 / ((1.0 - kept) / factor + kept)
    };
    let near = |(pair, found): (usize, &f32)| {
        let expected = expected(pair);
        (f64::from(*found) - expected).abs() <= 1e-3 * expected
    };
    (factor >= 1.0 && factors.iter().enumerate().all(near)).then(|| {
        json!({
            "rope_type": "llama3",
            "rope_theta": theta,
            "factor": factor,
            "low_freq_factor": LOW_FREQ_FACTOR,
            "high_freq_factor": HIGH_FREQ_FACTOR,
            "original_max_position_embeddings": ORIGINAL_POSITIONS as u64,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::llama3_parameters;

    /// `rope_freqs.weight` of Llama 3.2 1B (theta 500,000, heads of 64, factor 32), by llama.cpp's
    /// converter in float32.
    const LLAMA_3_2: [f32; 32] = [
        1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.6513292,
        3.2922626, 9.66673, 32.0, 32.0, 32.0, 32.0, 32.0, 32.0, 32.0, 32.0, 32.0, 32.0, 32.0, 32.0,
        32.0, 32.0,
    ];

    #[test]
    fn settings_of_llama_3_are_found() {
        let found = llama3_parameters(&LLAMA_3_2, 500_000.0).unwrap();
        assert_eq!(
            (&found["rope_type"], &found["factor"]),
            (&"llama3".into(), &32.0.into())
        );
    }

    #[test]
    fn other_factors_are_not_taken_for_them() {
        let mut changed = LLAMA_3_2;
        changed[16] *= 1.01;
        assert_eq!(llama3_parameters(&changed, 500_000.0), None);
        assert_eq!(llama3_parameters(&LLAMA_3_2, 10_000.0), None);
        assert_eq!(llama3_parameters(&[], 10_000.0), None);
    }
}

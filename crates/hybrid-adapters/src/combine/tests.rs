//! The algebra of adapters.

use burn::tensor::{Device, TensorData};
use proptest::prelude::{Strategy, prop, proptest};
use serde_json::{Value, json};

use super::{CombineConfig, combine, pairs};
use crate::one_linear::{D_IN, D_OUT, N_VALUES, OneLinear, base};
use crate::{AdapterConfig, AdapterError, Adapters};

fn any_base() -> OneLinear {
    base(&[0.5; N_VALUES], &Device::flex()).0
}

/// A method at the one layer, with these values.
fn with_tensors(method: Value, tensors: Vec<(&str, Vec<f32>, Vec<usize>)>) -> Adapters {
    let stack = serde_json::from_value::<Vec<AdapterConfig>>(json!([method])).unwrap();
    let adapters = Adapters::init(&stack, &any_base(), 0, &Device::flex()).unwrap();
    let named = tensors
        .into_iter()
        .map(|(name, values, shape)| (format!("stack.0.{name}"), TensorData::new(values, shape)));
    adapters.load_named_tensors(&named.collect()).unwrap()
}

/// A LoRA with the first of these values.
fn lora(rank: usize, values: &[f32]) -> Adapters {
    let method = json!({"method": "lora", "r": rank, "lora_alpha": 3, "target_modules": ["dense"]});
    let (a, b) = (rank * D_IN, rank * D_OUT);
    let tensors = vec![
        (
            "Lora.factors.dense.lora_a",
            values[..a].to_vec(),
            vec![D_IN, rank],
        ),
        (
            "Lora.factors.dense.lora_b",
            values[a..a + b].to_vec(),
            vec![rank, D_OUT],
        ),
    ];
    with_tensors(method, tensors)
}

/// An IA3 of the outputs, or of the inputs.
fn ia3(feedforward: bool, values: &[f32]) -> Adapters {
    let method = match feedforward {
        true => {
            json!({"method": "ia3", "target_modules": ["dense"], "feedforward_modules": ["dense"]})
        }
        false => json!({"method": "ia3", "target_modules": ["dense"], "feedforward_modules": []}),
    };
    let scales = (
        "Ia3.scales.dense.ia3_l",
        values.to_vec(),
        vec![values.len()],
    );
    with_tensors(method, vec![scales])
}

fn try_combined(
    adapters: &[(&Adapters, f64)],
    rule: &str,
    settings: Value,
) -> Result<Adapters, AdapterError> {
    let mut config = settings;
    config["combination_type"] = json!(rule);
    let config: CombineConfig = serde_json::from_value(config).unwrap();
    combine(adapters, &config, &any_base(), &Device::flex())
}

/// By a rule, of the largest rank there is and with all values kept.
fn combined(adapters: &[(&Adapters, f64)], rule: &str) -> Adapters {
    let settings = match rule {
        "linear" | "cat" => json!({}),
        _ => json!({"density": 1.0, "svd_rank": D_IN}),
    };
    try_combined(adapters, rule, settings).unwrap()
}

/// What a LoRA adds to the weight.
fn delta(adapters: &Adapters) -> Vec<f64> {
    let pairs = pairs(adapters).unwrap();
    pairs[0].1.product().values
}

fn weighted_sum(parts: &[(&[f64], f64)]) -> Vec<f64> {
    let n = parts[0].0.len();
    let sum = |place: usize| {
        parts
            .iter()
            .map(|(values, weight)| values[place] * weight)
            .sum()
    };
    (0..n).map(sum).collect()
}

fn assert_close(what: &str, found: &[f64], expected: &[f64]) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (f, e) in found.iter().zip(expected) {
        assert!(
            (f - e).abs() <= 1e-4 * (1.0 + e.abs()),
            "{what}: {found:?}, not {expected:?}"
        );
    }
}

fn values() -> impl Strategy<Value = Vec<f32>> {
    prop::collection::vec(-1.0f32..1.0, 2 * (D_IN + D_OUT))
}

proptest! {
    /// Side by side, and decomposed at full rank, adapters are exactly their weighted sum.
    #[test]
    fn sums_of_adapters_are_sums_of_what_they_add(
        (first, second) in (values(), values()),
        [v, w] in prop::array::uniform2(-2.0f64..2.0),
        rank in 1usize..=2,
    ) {
        let (first, second) = (lora(rank, &first), lora(1, &second));
        let expected = weighted_sum(&[(&delta(&first), v), (&delta(&second), w)]);
        for rule in ["cat", "svd", "magnitude_prune_svd", "dare_linear_svd"] {
            let found = combined(&[(&first, v), (&second, w)], rule);
            assert_close(rule, &delta(&found), &expected);
        }
    }

    /// Summed factors are the sum where no factor of one meets one of the other's; of one adapter
    /// alone, always.
    #[test]
    fn sums_of_factors_are_sums_where_factors_do_not_meet(
        (first, second) in (values(), values()),
        [v, w] in prop::array::uniform2(-2.0f64..2.0),
    ) {
        let on_rank = |values: &[f32], rank: usize| {
            let mut kept = values.to_vec();
            for (place, value) in kept.iter_mut().enumerate() {
                let own = if place < 2 * D_IN { place % 2 } else { (place - 2 * D_IN) / D_OUT };
                *value = if own == rank { *value } else { 0.0 };
            }
            lora(2, &kept)
        };
        let (first, second) = (on_rank(&first, 0), on_rank(&second, 1));
        let expected = weighted_sum(&[(&delta(&first), v), (&delta(&second), w)]);
        let found = combined(&[(&first, v), (&second, w)], "linear");
        assert_close("linear", &delta(&found), &expected);
        let alone = combined(&[(&first, v)], "linear");
        assert_close("one", &delta(&alone), &weighted_sum(&[(&delta(&first), v)]));
    }

    /// A task that is added and taken away leaves nothing.
    #[test]
    fn negation_cancels(values in values(), w in -2.0f64..2.0) {
        let adapters = lora(1, &values);
        let nothing = vec![0.0; D_IN * D_OUT];
        for rule in ["linear", "cat", "svd", "dare_linear", "magnitude_prune"] {
            let found = combined(&[(&adapters, w), (&adapters, -w)], rule);
            assert_close(rule, &delta(&found), &nothing);
        }
    }

    /// A merged adapter is taken out again by its negation.
    #[test]
    fn merged_weights_are_restored_by_the_negation(
        own in prop::collection::vec(-1.0f32..1.0, N_VALUES),
        values in values(),
        rank in 1usize..=2,
    ) {
        let (_, linear) = base(&own, &Device::flex());
        let adapters = lora(rank, &values);
        let negated = combined(&[(&adapters, -1.0)], "cat");
        let merged = adapters.merged_linear(&linear).unwrap();
        let restored = negated.merged_linear(&merged).unwrap();
        let host = |data: TensorData| -> Vec<f64> { data.iter::<f64>().collect() };
        let (found, expected) = (host(restored.weight.to_data()), host(linear.weight.to_data()));
        let far = found.iter().zip(&expected).map(|(f, e)| (f - e).abs()).fold(0.0, f64::max);
        assert!(far < 1e-5, "{found:?}, not {expected:?}");
    }

    /// Where everything is kept, what chooses changes nothing, and where all signs are one, the mean is
    /// the sum over the number of adapters: of both factors, so twice of what they add.
    #[test]
    fn rules_that_choose_keep_everything_at_density_one(
        (first, second) in (values(), values()),
        [v, w] in prop::array::uniform2(0.1f64..2.0),
    ) {
        let (a, b) = (lora(2, &first), lora(2, &second));
        let both = [(&a, v), (&b, -w)];
        let linear = combined(&both, "linear").named_tensors();
        for rule in ["dare_linear", "magnitude_prune"] {
            assert_eq!(combined(&both, rule).named_tensors(), linear, "{rule}");
        }
        let ties = combined(&both, "ties").named_tensors();
        assert_eq!(combined(&both, "dare_ties").named_tensors(), ties);
        let ties = combined(&both, "ties_svd").named_tensors();
        assert_eq!(combined(&both, "dare_ties_svd").named_tensors(), ties);

        let alone = [(&a, v)];
        let (ties, linear) = (combined(&alone, "ties"), combined(&alone, "linear"));
        assert_close("one", &delta(&ties), &delta(&linear));
        let positive = |values: &[f32]| -> Vec<f32> { values.iter().map(|value| value.abs()).collect() };
        let (a, b) = (lora(2, &positive(&first)), lora(2, &positive(&second)));
        let both = [(&a, v), (&b, w)];
        let (ties, linear) = (combined(&both, "ties"), combined(&both, "linear"));
        let quarter = weighted_sum(&[(&delta(&linear), 0.25)]);
        assert_close("one sign", &delta(&ties), &quarter);
    }

    /// IA3s are summed scale by scale.
    #[test]
    fn sums_of_scales(
        (first, second) in (prop::array::uniform4(-2.0f32..2.0), prop::array::uniform4(-2.0f32..2.0)),
        [v, w] in prop::array::uniform2(-2.0f64..2.0),
        feedforward in prop::bool::ANY,
    ) {
        let n = if feedforward { D_IN } else { D_OUT };
        let (a, b) = (ia3(feedforward, &first[..n]), ia3(feedforward, &second[..n]));
        let found = combined(&[(&a, v), (&b, w)], "linear");
        let found: Vec<f64> = found.named_tensors()[0].1.iter::<f64>().collect();
        let host = |values: &[f32]| -> Vec<f64> { values[..n].iter().map(|value| f64::from(*value)).collect() };
        assert_close("scales", &found, &weighted_sum(&[(&host(&first), v), (&host(&second), w)]));
        let same = combined(&[(&a, 1.0)], "linear");
        assert_eq!(same.named_tensors(), a.named_tensors());
    }
}

#[test]
fn what_scales_cannot_be_is_refused() {
    let (of_outputs, of_inputs) = (ia3(false, &[1.0; D_OUT]), ia3(true, &[1.0; D_IN]));
    let lora = lora(1, &[0.5; 16]);
    for (adapters, rule, part) in [
        (
            [(&of_outputs, 1.0), (&of_inputs, 1.0)],
            "linear",
            "another its output",
        ),
        ([(&of_outputs, 1.0), (&lora, 1.0)], "linear", "single IA3"),
        ([(&lora, 1.0), (&of_outputs, 1.0)], "linear", "single IA3"),
        ([(&of_outputs, 1.0), (&of_outputs, 1.0)], "cat", "linear"),
    ] {
        let error = try_combined(&adapters, rule, json!({})).unwrap_err();
        assert!(
            matches!(error, AdapterError::NotCombinable { .. }),
            "{error}"
        );
        assert!(error.to_string().contains(part), "{error}");
    }
    let nothing = try_combined(&[(&of_outputs, f64::NAN)], "linear", json!({}));
    assert!(matches!(
        nothing,
        Err(AdapterError::Setting { key: "weight", .. })
    ));
}

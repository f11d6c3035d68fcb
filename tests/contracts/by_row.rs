//! Batches in which each row has its own stack.

use burn::tensor::{Int, Tensor};
use hybrid_adapters::{AdapterConfig, AdapterError, Adapters, RowAdapters};
use hybrid_models::{Base, DecoderBatch, EncoderBatch, EncoderDecoder, Hooks, NoHooks};
use serde_json::json;

use super::bench::{benches, close, differ, moved};
use super::decoders;
use crate::any_base::host;
use crate::fixtures;

/// Methods that a row cannot have for itself.
const SHARED: [&str; 9] = [
    "adaption_prompt",
    "cartridge",
    "lily",
    "multitask_prompt_tuning",
    "p_tuning",
    "poly",
    "prefix_tuning",
    "prompt_tuning",
    "unipelt",
];

/// Of the two rows of a batch, five.
const ROWS: [i32; 5] = [0, 1, 0, 1, 1];

/// Who has which row of the five, out of two stacks.
const OWNERS: [Option<&str>; 5] = [Some("b"), None, Some("a"), Some("b"), Some("a")];

fn five(x: &Tensor<2, Int>) -> Tensor<2, Int> {
    x.clone().select(0, Tensor::from_ints(ROWS, &x.device()))
}

/// The stacks that rows can have, with what each is; that the others are refused by name is checked.
fn separable(base: &dyn Base, all: Vec<(Adapters, String)>) -> Vec<(Adapters, String)> {
    let (mut found, mut refused) = (Vec::new(), 0);
    for (adapters, text) in all {
        let adapters = moved(adapters);
        let is_shared = |config: &&AdapterConfig| SHARED.contains(&config.name());
        let shared = adapters
            .configs()
            .iter()
            .find(is_shared)
            .map(AdapterConfig::name);
        match RowAdapters::new([("own".to_owned(), adapters.clone())], base) {
            Ok(rows) => {
                assert_eq!(shared, None, "{text}");
                assert_eq!(rows.names().collect::<Vec<_>>(), ["own"]);
                found.push((adapters, text));
            }
            Err(AdapterError::NotByRow {
                adapter, method, ..
            }) => {
                assert_eq!((adapter.as_str(), Some(method)), ("own", shared), "{text}");
                refused += 1;
            }
            Err(error) => panic!("{text}: {error}"),
        }
    }
    assert!(refused > 0 && found.len() > refused);
    found
}

/// Each row is what it is when all rows have its stack.
fn check(
    base: &dyn Base,
    [a, b]: [&(Adapters, String); 2],
    rows_of: impl Fn(&dyn Hooks) -> Vec<Vec<f32>>,
) {
    let named = [("a", a), ("b", b)].map(|(name, (stack, _))| (name.to_owned(), stack.clone()));
    let adapters = RowAdapters::new(named, base).unwrap();
    let found = rows_of(&adapters.for_rows(&OWNERS).unwrap());
    let [of_a, of_b, of_base] = [&a.0 as &dyn Hooks, &b.0, &NoHooks].map(&rows_of);
    for (row, owner) in OWNERS.iter().enumerate() {
        let (expected, text) = match owner {
            Some("a") => (&of_a, &a.1),
            Some(_) => (&of_b, &b.1),
            None => (&of_base, &a.1),
        };
        close(
            &format!("row {row}, {text}"),
            &found[row],
            &expected[row],
            1e-5,
        );
    }
    differ(&a.1, &of_a.concat(), &of_base.concat());
    // All rows with one owner.
    close(
        &b.1,
        &rows_of(&adapters.for_rows(&[Some("b"); 5]).unwrap()).concat(),
        &of_b.concat(),
        0.0,
    );
}

fn in_rows<const D: usize>(x: Tensor<D>) -> Vec<Vec<f32>> {
    let n = x.dims()[0];
    let values = host(x);
    values
        .chunks(values.len() / n)
        .map(<[f32]>::to_vec)
        .collect()
}

#[test]
fn parity_bases_give_each_row_its_own_stack() {
    for bench in benches() {
        let all = bench.each().collect();
        let stacks = separable(&bench.model, all);
        let batch = EncoderBatch {
            input_ids: five(&bench.batch.input_ids),
            attention_mask: five(&bench.batch.attention_mask),
            token_type_ids: None,
        };
        let rows_of = |hooks: &dyn Hooks| in_rows(bench.model.classify(&batch, hooks).unwrap());
        let others = stacks.iter().cycle().skip(1);
        for (a, b) in stacks.iter().zip(others) {
            check(&bench.model, [a, b], rows_of);
        }
    }
}

#[test]
fn parity_decoders_give_each_row_its_own_stack() {
    for bench in decoders::benches() {
        let all = bench
            .each()
            .into_iter()
            .map(|(stack, text, _)| (stack, text));
        let stacks = separable(&bench.model, all.collect());
        let mask = bench.batch.attention_mask.as_ref().map(five);
        let batch = DecoderBatch::padded(five(&bench.batch.input_ids), mask.unwrap());
        let rows_of = |hooks: &dyn Hooks| in_rows(bench.model.logits(&batch, hooks).unwrap());
        let others = stacks.iter().cycle().skip(1);
        for (a, b) in stacks.iter().zip(others) {
            check(&bench.model, [a, b], rows_of);
        }
    }
}

#[test]
fn parity_bases_name_what_rows_cannot_have() {
    let bench = benches().remove(0);
    let (adapters, _) = bench.each().next().unwrap();
    let rows = RowAdapters::new([("bank".to_owned(), adapters)], &bench.model).unwrap();
    let error = rows
        .for_rows(&[Some("bnak"), None])
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("bnak") && error.contains("bank"), "{error}");
    let device = fixtures::device();
    for fixture in fixtures::of_kind("model") {
        let Ok(model) = EncoderDecoder::load(&fixture.folder.join("model"), &device) else {
            continue;
        };
        let path = "relative_attention_bias";
        if !model.sites().iter().any(|site| site.path.ends_with(path)) {
            continue;
        }
        let stack = json!([{"method": "lora", "r": 1, "target_modules": [path]}]);
        let stack: Vec<AdapterConfig> = serde_json::from_value(stack).unwrap();
        let adapters = Adapters::init(&stack, &model, 0, &device).unwrap();
        let error = RowAdapters::new([("t".to_owned(), adapters)], &model).unwrap_err();
        assert!(error.to_string().contains("distances"), "{error}");
    }
}

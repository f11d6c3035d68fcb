//! Batches in which each row has its own stack.

use hybrid_adapters::{AdapterConfig, AdapterError, Adapters, RowAdapters};
use hybrid_models::{Base, EncoderDecoder, Hooks, NoHooks};
use serde_json::json;

use super::bench::{benches, close, differ, moved};
use super::subjects::{Subject, subjects};
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

/// Whether a method unfreezes biases of distances.
fn has_distances_in(base: &dyn Base, config: &AdapterConfig) -> bool {
    let device = fixtures::device();
    let adapters = Adapters::init(std::slice::from_ref(config), base, 0, &device).unwrap();
    let mut names = adapters.named_tensors().into_iter();
    names.any(|(name, _)| name.contains("relative_attention_bias"))
}

/// The stacks that rows can have, with what each is; that the others are refused by name is checked.
pub(super) fn separable(subject: &Subject) -> Vec<(Adapters, String)> {
    let base = subject.base();
    let (mut found, mut refused) = (Vec::new(), 0);
    for (adapters, text, _) in subject.each() {
        let adapters = moved(adapters);
        // All rows have one bias for each distance between two tokens.
        let is_shared = |config: &&AdapterConfig| {
            let unfreezes = matches!(config, AdapterConfig::Unfreeze(_));
            SHARED.contains(&config.name()) || unfreezes && has_distances_in(base, config)
        };
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
    subject: &Subject,
    [a, b]: [&(Adapters, String); 2],
    rows_of: impl Fn(&dyn Hooks) -> Vec<Vec<f32>>,
) {
    let named = [("a", a), ("b", b)].map(|(name, (stack, _))| (name.to_owned(), stack.clone()));
    let adapters = RowAdapters::new(named, subject.base()).unwrap();
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
            subject.allowed().by_row,
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

#[test]
fn parity_bases_give_each_row_its_own_stack() {
    for subject in subjects() {
        let stacks = separable(&subject);
        let batch = subject.batch.rows(&ROWS);
        let rows_of = |hooks: &dyn Hooks| -> Vec<Vec<f32>> {
            let values = subject.base.logits(&batch, hooks);
            let rows = values.chunks(values.len() / ROWS.len());
            rows.map(<[f32]>::to_vec).collect()
        };
        let others = stacks.iter().cycle().skip(1);
        for (a, b) in stacks.iter().zip(others) {
            check(&subject, [a, b], rows_of);
        }
    }
}

#[test]
fn parity_bases_name_what_rows_cannot_have() {
    let bench = benches().remove(0);
    let lora =
        serde_json::from_value::<Vec<AdapterConfig>>(json!([{"method": "lora", "r": 1}])).unwrap();
    let adapters = Adapters::init(&lora, &bench.model, 0, &bench.device).unwrap();
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

//! Adapters written here, loaded by PEFT itself, written by it and loaded here again. Runs only where
//! the reference stack is installed: `HYBRID_REFERENCE_PYTHON` names its interpreter. The table of
//! what was found is written to the file that `HYBRID_REFERENCE_TABLE` names.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::{Path, PathBuf};

use burn::tensor::{Int, Tensor};
use hybrid_adapters::{AdapterConfig, Adapters};
use serde_json::{Value, json};

use crate::contracts::bench::close;
use crate::fixtures;
use crate::reference;

mod encoders;
mod language;

const TYPES: &str = "the reference computes on rows of numbers";

/// Adapters of one base on their way to PEFT and back.
#[derive(Default)]
struct Journey<'b> {
    /// What the script reads.
    cases: Vec<Value>,
    sent: Vec<Sent<'b>>,
}

type Outputs<'b> = dyn Fn(&Path) -> Vec<f32> + 'b;

/// An adapter that PEFT is given.
struct Sent<'b> {
    name: String,
    /// The methods of its stack.
    methods: String,
    family: String,
    /// Where PEFT writes it again.
    again: PathBuf,
    expected: Vec<f32>,
    /// Reads a folder, and computes what is expected.
    outputs: Box<Outputs<'b>>,
}

/// The largest differences of a method.
#[derive(Default)]
struct Found {
    families: BTreeSet<String>,
    n_adapters: usize,
    in_peft: f64,
    merged: Option<f64>,
    back: f64,
}

#[test]
fn parity_of_files_in_peft_itself() {
    let Some(python) = reference::python() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let (encoders, language_models) = (encoders::benches(), language::benches());
    let mut journey = Journey::default();
    encoders::send(&encoders, folder.path(), &mut journey);
    language::send(&language_models, folder.path(), &mut journey);
    reference::compare(python, "peft_reference.py", folder.path(), journey.cases);
    let differences = fixtures::json(&folder.path().join("differences.json"));

    let mut found: BTreeMap<String, Found> = BTreeMap::new();
    for sent in journey.sent {
        let kinds = &differences[&sent.name];
        if kinds["refused"].is_string() {
            // Methods that PEFT does not put on GPT-2's transposed layers.
            assert_eq!(sent.family, "gpt2", "{}: {kinds}", sent.name);
            continue;
        }
        let outputs = (sent.outputs)(&sent.again);
        close(&sent.name, &outputs, &sent.expected, 1e-5);
        // Then `adapter_model.bin` is all that is there.
        std::fs::remove_file(sent.again.join("adapter_model.safetensors")).unwrap();
        close(
            &sent.name,
            &(sent.outputs)(&sent.again),
            &sent.expected,
            1e-5,
        );

        let of_method = found.entry(sent.methods).or_default();
        of_method.families.insert(sent.family);
        of_method.n_adapters += 1;
        of_method.in_peft = of_method.in_peft.max(kinds["as adapter"].as_f64().unwrap());
        of_method.merged = kinds["merged"]
            .as_f64()
            .into_iter()
            .chain(of_method.merged)
            .reduce(f64::max);
        let back = outputs
            .iter()
            .zip(&sent.expected)
            .map(|(a, b)| f64::from((a - b).abs()));
        of_method.back = back.fold(of_method.back, f64::max);
    }
    if let Some(path) = std::env::var_os("HYBRID_REFERENCE_TABLE") {
        std::fs::write(path, table(&found)).unwrap();
    }
}

fn table(found: &BTreeMap<String, Found>) -> String {
    let mut text = "# Adapters there and back\n\n\
        Each adapter, its values moved at random, is written by hybrid, loaded by PEFT 0.21.2 over the same tiny \
        base, written by PEFT and loaded by hybrid. Largest difference of an output from hybrid's own, in the \
        last run of\n\n```sh\nHYBRID_REFERENCE_PYTHON=venv/bin/python HYBRID_REFERENCE_TABLE=docs/peft_both_ways.md \\\n  \
        cargo test --test tests -- peft_reference\n```\n\n\
        | method | bases | adapters | hybrid to PEFT | merged by PEFT | PEFT to hybrid |\n\
        | --- | --- | ---: | ---: | ---: | ---: |\n"
        .to_owned();
    for (methods, found) in found {
        let families: Vec<&str> = found.families.iter().map(String::as_str).collect();
        let merged = found.merged.map_or("-".to_owned(), difference);
        let Found {
            n_adapters,
            in_peft,
            back,
            ..
        } = found;
        writeln!(
            text,
            "| {methods} | {} | {n_adapters} | {} | {merged} | {} |",
            families.join(", "),
            difference(*in_peft),
            difference(*back)
        )
        .expect("strings take text");
    }
    text
}

fn difference(value: f64) -> String {
    match value {
        0.0 => "0".to_owned(),
        value => format!("{value:.1e}"),
    }
}

/// The names of a stack's methods.
fn methods(stack: &[AdapterConfig]) -> String {
    let names: Vec<&str> = stack.iter().map(AdapterConfig::name).collect();
    names.join(" + ")
}

/// How many values a stack trains at the layers of its base, without layers that are trained whole.
fn n_trained(adapters: &Adapters) -> usize {
    let whole = |name: &str| {
        [".Unfreeze.", "classifier"]
            .iter()
            .any(|part| name.contains(part))
    };
    let tensors = adapters.named_tensors().into_iter();
    let sizes = tensors.filter(|(name, _)| !whole(name));
    sizes.map(|(_, data)| data.shape().num_elements()).sum()
}

/// Rows of numbers for JSON.
pub(crate) fn rows(x: Tensor<2>) -> Value {
    let [_, width] = x.dims();
    let values: Vec<f32> = x.into_data().iter::<f32>().collect();
    json!(values.chunks(width).collect::<Vec<_>>())
}

/// The same for each element of a batch.
fn rows_of_each(x: Tensor<3>) -> Value {
    let [batch, seq, width] = x.dims();
    let row = |row| rows(x.clone().narrow(0, row, 1).reshape([seq, width]));
    (0..batch).map(row).collect()
}

fn ints(x: &Tensor<2, Int>) -> Value {
    let [_, width] = x.dims();
    let values: Vec<i64> = x.to_data().iter::<i64>().collect();
    json!(values.chunks(width).collect::<Vec<_>>())
}

/// One case for the script, without the expected output.
pub(crate) fn case(
    name: &str,
    base: &Path,
    adapter: &Path,
    ids: &Tensor<2, Int>,
    mask: &Tensor<2, Int>,
) -> Value {
    json!({
        "name": name,
        "base": base,
        "adapter": adapter,
        "input_ids": ints(ids),
        "attention_mask": ints(mask),
    })
}

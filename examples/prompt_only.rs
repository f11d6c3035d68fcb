//! Prompt learning alone: which template and label words classify best, without any training?
//!
//! `cargo run --example prompt_only`

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

use hybrid::LocalModel;
use hybrid_data::{FieldMapping, LabelSet, Tokenizer, read_examples};
use hybrid_models::{Model, Pooling, Resolver, open_device};
use hybrid_prompts::{Criterion, SearchRequest, SearchSpace, SearchStrategy, score, search};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let data = Path::new("data/banking77");
    let mapping = FieldMapping::new([("text", "text")], Some("label"));
    let fit = read_examples(&data.join("fit.jsonl"), &mapping)?;
    let select = read_examples(&data.join("select.jsonl"), &mapping)?;
    let labels = LabelSet::of(&fit)?;

    let device = open_device("flex")?;
    let resolved = Resolver::from_environment()
        .resolve("sentence-transformers/all-MiniLM-L6-v2", &|line| {
            eprintln!("{line}")
        })?;
    let base = Model::load_encoder(&resolved.folder, &device)?;
    let tokenizer = Tokenizer::from_file(&resolved.folder.join("tokenizer.json"), 64)?;
    let mut model = LocalModel::new(base, tokenizer, device, Pooling::Mean);

    let fields = ["text".to_owned()].into();
    let templates = [
        "{{ text }}".to_owned(),
        "customer question: {{ text }}".to_owned(),
    ];
    let patterns = [
        vec!["{{ label }}".to_owned()],
        vec!["a question about {{ label }}".to_owned()],
    ];
    let space = SearchSpace::build(&fields, &labels, &templates, &patterns, &BTreeMap::new())?;
    let request = SearchRequest {
        space: &space,
        incumbent: None,
        strategy: &SearchStrategy::Exhaustive,
        fit: &fit,
        labels: &labels,
        criterion: Criterion::Accuracy,
        seed: 42,
    };
    let outcome = search(request, &mut model, &mut |_| ControlFlow::Continue(()))?;
    for trial in outcome.ranking() {
        println!("{:.3} on fit  {}", trial.accuracy, trial.prompt.template);
    }
    let scores = score(&outcome.best, &select, &labels, &mut model)?;
    println!("{:.3} on select with the best prompt", scores.accuracy);
    Ok(())
}

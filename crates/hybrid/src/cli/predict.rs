//! `predict`: texts in, one a line; labels out as they come.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use super::DeviceArgument;
use super::lines::{End, Lines};
use super::output::{self, Reader, say};
use crate::HybridError;
use crate::artifact::Artifact;
use crate::evaluate;
use crate::spans;

/// The most lines that are classified together.
const CHUNK: usize = 256;
/// Between two lines that say how far a file is labelled.
const PAUSE: Duration = Duration::from_secs(10);

#[derive(Debug, clap::Args)]
pub(super) struct PredictArguments {
    /// The artifact folder.
    artifact: PathBuf,
    /// File of texts or JSON objects, one a line; standard input when left out. Empty lines are
    /// skipped.
    input: Option<PathBuf>,
    /// How many labels to print for each line, most probable first.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    top_k: u16,
    #[command(flatten)]
    device: DeviceArgument,
}

pub(super) fn predict(arguments: &PredictArguments) -> Result<(), HybridError> {
    let mut artifact = Artifact::load(&arguments.artifact, &arguments.device.device, &say)?;
    let (origin, reader): (PathBuf, Box<dyn Read>) = match &arguments.input {
        Some(path) => {
            let file = File::open(path).map_err(|source| HybridError::Read {
                path: path.clone(),
                source,
            })?;
            say(&format!("labelling the lines of {}", path.display()));
            (path.clone(), Box::new(file))
        }
        None => ("standard input".into(), Box::new(std::io::stdin().lock())),
    };
    let mut lines = Lines::new(origin, reader);
    let mut said = Instant::now();
    loop {
        if arguments.input.is_some() && said.elapsed() > PAUSE {
            said = Instant::now();
            say(&format!("  {} lines", lines.number()));
        }
        let mut inputs = Vec::new();
        let end = lines.collect(CHUNK, &mut inputs, |line| fields(line, &artifact));
        // What came before a faulty line is answered before the fault is reported.
        let reader = answer(&mut artifact, &inputs, usize::from(arguments.top_k))?;
        if end? == End::OfInput || reader == Reader::HasGone {
            return Ok(());
        }
    }
}

/// The template's fields on one line; nothing for an empty line.
fn fields(line: &str, artifact: &Artifact) -> Result<Option<BTreeMap<String, String>>, String> {
    let line = line.trim();
    if line.is_empty() {
        return Ok(None);
    }
    let names = &artifact.description.data.fields;
    if !line.starts_with('{') {
        if names.len() != 1 {
            let wanted: Vec<&str> = names.keys().map(String::as_str).collect();
            return Err(format!(
                "expected a JSON object with the fields {}",
                wanted.join(", ")
            ));
        }
        return Ok(names
            .keys()
            .next()
            .map(|name| BTreeMap::from([(name.clone(), line.to_owned())])));
    }
    let object: Map<String, Value> =
        serde_json::from_str(line).map_err(|error| error.to_string())?;
    // Either name will do: that of the data's column, or the template's own.
    let value = |names: [&String; 2]| names.into_iter().find_map(|name| object.get(name));
    let field = |(name, column): (&String, &String)| match value([column, name]) {
        Some(Value::String(text)) => Ok((name.clone(), text.clone())),
        Some(other) => Err(format!(
            "field `{column}`: expected a string, found {other}"
        )),
        None => Err(format!("field `{column}` is missing")),
    };
    names.iter().map(field).collect::<Result<_, _>>().map(Some)
}

/// Writes the labels of some inputs, or what the model answers.
fn answer(
    artifact: &mut Artifact,
    inputs: &[BTreeMap<String, String>],
    top_k: usize,
) -> Result<Reader, HybridError> {
    if inputs.is_empty() {
        return Ok(Reader::Listens);
    }
    let task = &artifact.description.task;
    if spans::are_asked(task.kind, &artifact.model) {
        return output::write(&answers(artifact, inputs)?);
    }
    if task.kind.text_task().is_some() {
        return output::write(&written(artifact, inputs)?);
    }
    let rows = evaluate::probabilities(&mut artifact.model, &artifact.prompt, task, inputs)?;
    let labels = &task.labels;
    let mut lines = String::new();
    for (fields, row) in inputs.iter().zip(rows) {
        let mut order: Vec<usize> = (0..row.len()).collect();
        order.sort_by(|a, b| row[*b].total_cmp(&row[*a]).then(a.cmp(b)));
        let mut line = json!({
            "label": labels.names()[order[0]],
            "probability": row[order[0]],
            "input": fields,
        });
        if top_k > 1 {
            let top: Vec<Value> = order
                .iter()
                .take(top_k)
                .map(|index| json!({"label": labels.names()[*index], "probability": row[*index]}))
                .collect();
            line["top"] = Value::Array(top);
        }
        // Writing into a string cannot fail.
        let _ = writeln!(lines, "{line}");
    }
    output::write(&lines)
}

/// The answers to some questions out of their passages, one JSON line each: where they start there,
/// in Unicode code points, and their probability.
fn answers(
    artifact: &mut Artifact,
    inputs: &[BTreeMap<String, String>],
) -> Result<String, HybridError> {
    let passages = &artifact.description.task.passages;
    let read = spans::read(&mut artifact.model, passages, inputs.iter())?;
    let mut lines = String::new();
    for (fields, passage) in inputs.iter().zip(&read) {
        let best = passage.best(passages.max_answer_length);
        let line = json!({
            "output": best.as_ref().map_or("", |span| span.text),
            "start": best.as_ref().map(|span| span.start),
            "probability": best.as_ref().map(|span| span.probability),
            "input": fields,
        });
        // Writing into a string cannot fail.
        let _ = writeln!(lines, "{line}");
    }
    Ok(lines)
}

/// What the model writes for some inputs, one JSON line each.
fn written(
    artifact: &mut Artifact,
    inputs: &[BTreeMap<String, String>],
) -> Result<String, HybridError> {
    let task = &artifact.description.task;
    let outputs = evaluate::write(&mut artifact.model, &artifact.prompt, task, inputs)?;
    let mut lines = String::new();
    for (fields, output) in inputs.iter().zip(outputs) {
        // Writing into a string cannot fail.
        let _ = writeln!(lines, "{}", json!({"output": output, "input": fields}));
    }
    Ok(lines)
}

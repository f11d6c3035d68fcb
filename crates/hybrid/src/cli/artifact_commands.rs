//! `eval`, `predict` and `merge`: what can be done with an artifact.
#![allow(
    clippy::print_stdout,
    reason = "the results are these commands' output"
)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use hybrid_data::{FieldMapping, read_examples};
use serde_json::{Map, Value, json};

use crate::HybridError;
use crate::artifact::Artifact;
use crate::evaluate;
use crate::merged;
use crate::task::Split;

use super::DeviceArgument;

/// Lines that are read, classified and written together.
const CHUNK: usize = 256;

#[derive(Debug, clap::Args)]
pub(super) struct EvalArguments {
    /// The artifact folder.
    artifact: PathBuf,
    /// Labelled examples; the run's own report split when left out.
    #[arg(long)]
    data: Option<PathBuf>,
    /// Print all figures as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    device: DeviceArgument,
}

#[derive(Debug, clap::Args)]
pub(super) struct PredictArguments {
    /// The artifact folder.
    artifact: PathBuf,
    /// File of texts or JSON objects, one a line; standard input when left out.
    input: Option<PathBuf>,
    /// How many labels to print for each line, most probable first.
    #[arg(long, default_value_t = 1)]
    top_k: usize,
    #[command(flatten)]
    device: DeviceArgument,
}

#[derive(Debug, clap::Args)]
pub(super) struct MergeArguments {
    /// The artifact folder.
    artifact: PathBuf,
    /// The folder to write; it must not exist or be empty.
    #[arg(long)]
    out: PathBuf,
    #[command(flatten)]
    device: DeviceArgument,
}

fn say(line: &str) {
    eprintln!("{line}");
}

pub(super) fn eval(arguments: &EvalArguments) -> Result<(), HybridError> {
    let mut artifact = Artifact::load(&arguments.artifact, &arguments.device.device, &say)?;
    let data = &artifact.description.data;
    let path = arguments
        .data
        .clone()
        .unwrap_or_else(|| data.folder.join(&data.report));
    let mapping = FieldMapping {
        fields: data.fields.clone(),
        label: Some(data.label.clone()),
    };
    let examples = read_examples(&path, &mapping)?;
    let targets = artifact.description.labels.targets(&examples)?;
    let split = Split { examples, targets };
    let figures = evaluate::score(
        &mut artifact.model,
        &artifact.prompt,
        &artifact.description.labels,
        &split,
    )?
    .figures;
    if arguments.json {
        let mut fields = json!(figures.by_name());
        fields["examples"] = split.targets.len().into();
        println!("{fields:#}");
    } else {
        println!("examples  {}", split.targets.len());
        println!("accuracy  {}", figures.accuracy);
        println!("macro F1  {}", figures.macro_average.f1);
        println!("MCC       {}", figures.mcc);
    }
    Ok(())
}

pub(super) fn predict(arguments: &PredictArguments) -> Result<(), HybridError> {
    let mut artifact = Artifact::load(&arguments.artifact, &arguments.device.device, &say)?;
    let origin = arguments
        .input
        .as_ref()
        .map_or("standard input".to_owned(), |path| {
            path.display().to_string()
        });
    let reader: Box<dyn BufRead> = match &arguments.input {
        Some(path) => {
            let failed = |source| HybridError::Read {
                path: path.clone(),
                source,
            };
            Box::new(BufReader::new(std::fs::File::open(path).map_err(failed)?))
        }
        None => Box::new(std::io::stdin().lock()),
    };
    let mut lines = reader.lines().enumerate();
    let mut failed = None;
    while failed.is_none() {
        let mut inputs = Vec::new();
        for (index, line) in lines.by_ref().take(CHUNK) {
            let line = line.map_err(|error| error.to_string());
            match line.and_then(|line| fields(&line, &artifact)) {
                Ok(Some(fields)) => inputs.push(fields),
                Ok(None) => {}
                Err(reason) => {
                    failed = Some(HybridError::Input {
                        origin: origin.clone(),
                        line: index + 1,
                        reason,
                    });
                    break;
                }
            }
        }
        if inputs.is_empty() && failed.is_none() {
            return Ok(());
        }
        // What came before a faulty line is answered before the fault is reported.
        answer(&mut artifact, &inputs, arguments.top_k)?;
    }
    failed.map_or(Ok(()), Err)
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
    let field = |(name, column): (&String, &String)| match object.get(column) {
        Some(Value::String(text)) => Ok((name.clone(), text.clone())),
        Some(other) => Err(format!(
            "field `{column}`: expected a string, found {other}"
        )),
        None => Err(format!("field `{column}` is missing")),
    };
    names.iter().map(field).collect::<Result<_, _>>().map(Some)
}

fn answer(
    artifact: &mut Artifact,
    inputs: &[BTreeMap<String, String>],
    top_k: usize,
) -> Result<(), HybridError> {
    let labels = &artifact.description.labels;
    let rows = evaluate::probabilities(&mut artifact.model, &artifact.prompt, labels, inputs)?;
    let mut out = std::io::stdout().lock();
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
        let failed = |source| HybridError::Write {
            path: PathBuf::from("standard output"),
            source,
        };
        writeln!(out, "{line}").map_err(failed)?;
    }
    Ok(())
}

pub(super) fn merge(arguments: &MergeArguments) -> Result<(), HybridError> {
    let artifact = Artifact::load(&arguments.artifact, &arguments.device.device, &say)?;
    let out: &Path = &arguments.out;
    let occupied = std::fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_some());
    if occupied {
        return Err(HybridError::Preflight {
            what: format!("{}: the folder is not empty", out.display()),
            remedy: "choose another --out".to_owned(),
        });
    }
    merged::write(&artifact, out)?;
    println!("{}", out.display());
    Ok(())
}

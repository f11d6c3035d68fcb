//! `predict`: texts in, one a line or one a row; labels out as they come.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hybrid_data::{FieldMapping, read_examples};
use serde_json::{Map, Value, json};

use super::DeviceArgument;
use super::lines::{End, Lines};
use super::output::{self, Reader, say};
use crate::HybridError;
use crate::artifact::Artifact;
use crate::evaluate;
use crate::spans;

/// Template field to text.
type Fields = BTreeMap<String, String>;

/// The most lines that are classified together.
const CHUNK: usize = 256;
/// Between two lines that say how far a file is labelled.
const PAUSE: Duration = Duration::from_secs(10);

#[derive(Debug, clap::Args)]
pub(super) struct PredictArguments {
    /// The artifact folder, or a folder of PEFT's that holds a classifier.
    artifact: PathBuf,
    /// File of texts or JSON objects, one a line; standard input when left out. Empty lines are
    /// skipped. Of a table (`.csv`, `.parquet`) the columns are read that the run has read.
    input: Option<PathBuf>,
    /// How many labels to print for each line, most probable first.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    top_k: u16,
    #[command(flatten)]
    device: DeviceArgument,
}

pub(super) fn predict(arguments: &PredictArguments) -> Result<(), HybridError> {
    let artifact = Artifact::load(&arguments.artifact, &arguments.device.device, &say)?;
    let mut predictor = Predictor {
        artifact,
        top_k: usize::from(arguments.top_k),
        n_cut: 0,
    };
    let answered = match &arguments.input {
        Some(path) if is_table(path) => predictor.answer_table(path),
        Some(path) => {
            let file = File::open(path).map_err(|source| HybridError::Read {
                path: path.clone(),
                source,
            })?;
            say(&format!("labelling the lines of {}", path.display()));
            predictor.answer_lines(Lines::new(path.clone(), file), true)
        }
        None => {
            let input = std::io::stdin().lock();
            predictor.answer_lines(Lines::new("standard input".into(), input), false)
        }
    };
    if predictor.n_cut > 0 {
        let n_cut = predictor.n_cut;
        say(&format!(
            "{n_cut} inputs are cut: their prompts are too long"
        ));
    }
    answered
}

/// Whether a file has columns with names.
fn is_table(path: &Path) -> bool {
    let extension = path.extension().and_then(OsStr::to_str);
    extension.is_some_and(|extension| {
        ["csv", "parquet"]
            .iter()
            .any(|table| extension.eq_ignore_ascii_case(table))
    })
}

/// The template's fields on one line; nothing for an empty line.
fn fields(line: &str, artifact: &Artifact) -> Result<Option<Fields>, String> {
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

/// Answers inputs with an artifact.
struct Predictor {
    artifact: Artifact,
    top_k: usize,
    /// Inputs that were cut because their prompts were too long.
    n_cut: usize,
}

impl Predictor {
    /// Answers each line, as it comes or in large batches.
    fn answer_lines<R: Read>(
        &mut self,
        mut lines: Lines<R>,
        is_file: bool,
    ) -> Result<(), HybridError> {
        let mut said = Instant::now();
        loop {
            if is_file && said.elapsed() > PAUSE {
                said = Instant::now();
                say(&format!("  {} lines", lines.number()));
            }
            let mut inputs = Vec::new();
            let end = lines.collect(CHUNK, &mut inputs, |line| fields(line, &self.artifact));
            // What came before a faulty line is answered before the fault is reported.
            let reader = self.answer(&inputs)?;
            if end? == End::OfInput || reader == Reader::HasGone {
                return Ok(());
            }
        }
    }

    /// Answers each row of a table.
    fn answer_table(&mut self, path: &Path) -> Result<(), HybridError> {
        let columns = FieldMapping {
            label: None,
            references: None,
            ..self.artifact.description.data.mapping()
        };
        let examples = read_examples(path, &columns)?;
        say(&format!(
            "labelling {} rows of {}",
            examples.len(),
            path.display()
        ));
        let inputs: Vec<Fields> = examples.into_iter().map(|row| row.fields).collect();
        for inputs in inputs.chunks(CHUNK) {
            if self.answer(inputs)? == Reader::HasGone {
                break;
            }
        }
        Ok(())
    }

    /// Writes the labels of some inputs, or what the model answers.
    fn answer(&mut self, inputs: &[Fields]) -> Result<Reader, HybridError> {
        if inputs.is_empty() {
            return Ok(Reader::Listens);
        }
        let task = &self.artifact.description.task;
        let lines = if spans::are_asked(task.kind, &self.artifact.model) {
            self.spans(inputs)?
        } else if task.kind.text_task().is_some() {
            self.texts(inputs)?
        } else {
            self.labels(inputs)?
        };
        output::write(&lines)
    }

    /// The most probable labels, one JSON line an input.
    fn labels(&mut self, inputs: &[Fields]) -> Result<String, HybridError> {
        let Artifact {
            description,
            model,
            prompt,
            ..
        } = &mut self.artifact;
        let answered = evaluate::probabilities(model, prompt, &description.task, inputs)?;
        self.n_cut += answered.n_cut;
        let labels = &description.task.labels;
        let mut lines = String::new();
        for (fields, row) in inputs.iter().zip(answered.rows) {
            let mut order: Vec<usize> = (0..row.len()).collect();
            order.sort_by(|a, b| row[*b].total_cmp(&row[*a]).then(a.cmp(b)));
            let mut line = json!({
                "label": labels.names()[order[0]],
                "probability": row[order[0]],
                "input": fields,
            });
            if self.top_k > 1 {
                let named = |index: &usize| json!({"label": labels.names()[*index], "probability": row[*index]});
                let top = order.iter().take(self.top_k).map(named).collect();
                line["top"] = Value::Array(top);
            }
            // Writing into a string cannot fail.
            let _ = writeln!(lines, "{line}");
        }
        Ok(lines)
    }

    /// The answers to some questions out of their passages, one JSON line each: where they start
    /// there, in Unicode code points, and their probability.
    fn spans(&mut self, inputs: &[Fields]) -> Result<String, HybridError> {
        let passages = &self.artifact.description.task.passages;
        let read = spans::read(&mut self.artifact.model, passages, inputs.iter())?;
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
    fn texts(&mut self, inputs: &[Fields]) -> Result<String, HybridError> {
        let Artifact {
            description,
            model,
            prompt,
            ..
        } = &mut self.artifact;
        let answered = evaluate::write(model, prompt, &description.task, inputs)?;
        self.n_cut += answered.n_cut;
        let mut lines = String::new();
        for (fields, output) in inputs.iter().zip(answered.rows) {
            // Writing into a string cannot fail.
            let _ = writeln!(lines, "{}", json!({"output": output, "input": fields}));
        }
        Ok(lines)
    }
}

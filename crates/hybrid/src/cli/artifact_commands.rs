//! `eval` and `merge`: what else can be done with an artifact.

use std::fmt::Write;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use hybrid_data::read_examples;
use hybrid_eval::ConfusionReport;
use serde_json::json;

use super::DeviceArgument;
use super::output::{self, say};
use crate::HybridError;
use crate::artifact::Artifact;
use crate::evaluate::{self, Figures};
use crate::merged;
use crate::summary::resamples;
use crate::task::{Split, report_split};

#[derive(Debug, clap::Args)]
pub(super) struct EvalArguments {
    /// The artifact folder, or a folder of PEFT's that holds a classifier.
    artifact: PathBuf,
    /// Labelled examples; the run's own report split when left out.
    #[arg(long)]
    data: Option<PathBuf>,
    /// Show precision, recall and F1 of each label too.
    #[arg(long)]
    per_class: bool,
    /// Print all figures as JSON with all their digits, those of each label, the confusion matrix
    /// and the 95 % intervals included.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    device: DeviceArgument,
}

#[derive(Debug, clap::Args)]
pub(super) struct MergeArguments {
    /// The artifact folder, or a folder of PEFT's that holds a classifier.
    artifact: PathBuf,
    /// The folder to write: a new or an empty one.
    #[arg(long)]
    out: PathBuf,
    #[command(flatten)]
    device: DeviceArgument,
}

pub(super) fn eval(arguments: &EvalArguments) -> Result<(), HybridError> {
    let mut artifact = Artifact::load(&arguments.artifact, &arguments.device.device, &say)?;
    let split = match &arguments.data {
        None if artifact.description.has_run() => report_split(&artifact.description)?,
        None => {
            return Err(HybridError::Option {
                option: "--data",
                reason: "an adapter without its run knows no examples; name a file of them",
            });
        }
        Some(path) => {
            let examples = read_examples(path, &artifact.description.data.mapping())?;
            Split::new(examples, &artifact.description.task.labels)?
        }
    };
    say(&format!("scoring {} rows", split.examples.len()));
    let task = artifact.description.task.clone();
    let scored = evaluate::score(&mut artifact.model, &artifact.prompt, &task, &split)?;
    if scored.n_cut > 0 {
        say(&format!(
            "{} inputs are cut: their prompts are too long",
            scored.n_cut
        ));
    }
    let confusion = match &scored.figures {
        Figures::Texts(_) => None,
        Figures::Labels(figures) => {
            let names = task.labels.names().to_vec();
            Some(ConfusionReport::of(names, &figures.confusion)?)
        }
    };
    let resamples = resamples(artifact.description.seed, "report", split.examples.len())?;
    let intervals = scored.intervals(&split, &resamples)?;
    if arguments.json {
        let mut fields = json!(scored.reported());
        fields["examples"] = split.examples.len().into();
        fields["intervals"] = json!(intervals);
        if let Some(confusion) = &confusion {
            fields["confusion"] = json!(confusion);
        }
        return output::print(&format!("{fields:#}"));
    }
    let mut text = format!("examples  {}", split.examples.len());
    let figures = scored.figures_by_name();
    for metric in task.kind.metrics() {
        // Writing into a string cannot fail.
        let _ = write!(
            text,
            "\n{:8}  {:.4}",
            metric.title(),
            figures[metric.name()]
        );
        if let Some([low, high]) = intervals.get(metric.name()) {
            let _ = write!(text, " [{low:.4}, {high:.4}]");
        }
    }
    if let Some(confusion) = confusion.filter(|_| arguments.per_class) {
        text.push_str("\n\n");
        text.push_str(&class_table(&confusion));
    }
    output::print(&text)
}

/// One line a label.
fn class_table(confusion: &ConfusionReport) -> String {
    let widths = confusion.labels.iter().map(|label| label.chars().count());
    let width = widths.max().unwrap_or(0).max("label".len());
    let mut table = format!(
        "{:width$}  precision  recall      F1  examples  predicted",
        "label"
    );
    for (label, class) in confusion.labels.iter().zip(&confusion.per_class) {
        // Writing into a string cannot fail.
        let _ = write!(
            table,
            "\n{label:width$}  {:9.4}  {:6.4}  {:6.4}  {:8}  {:9}",
            class.precision, class.recall, class.f1, class.support, class.predicted
        );
    }
    table
}

/// Whether nothing is lost when a folder is written there: nothing lies there, or an empty folder.
pub(super) fn is_free(out: &Path) -> bool {
    match out.symlink_metadata() {
        Err(error) => error.kind() == ErrorKind::NotFound,
        Ok(found) => {
            found.is_dir()
                && std::fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_none())
        }
    }
}

pub(super) fn merge(arguments: &MergeArguments) -> Result<(), HybridError> {
    let out = &arguments.out;
    if !is_free(out) {
        return Err(HybridError::Occupied { path: out.clone() });
    }
    let artifact = Artifact::load(&arguments.artifact, &arguments.device.device, &say)?;
    merged::write(&artifact, out)?;
    output::print(&out.display().to_string())
}

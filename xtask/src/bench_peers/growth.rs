//! How the cost of training grows: with rows, tokens, layers and candidates; and what is resident over
//! many updates.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use super::document;
use super::process::{self, Said};
use crate::error::XtaskError;
use crate::workspace;
use clap::Args;
use points::{Point, axes, watched};

mod fewer_layers;
mod points;
mod report;
mod texts;

const RECIPE: &str = "benches/peers/training/growth.toml";

/// Layers of the model of the recipe.
const LAYERS: usize = 6;
const ROWS: usize = 1000;
const STEPS: usize = 1000;

/// How much is measured.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Rows of the smallest training; few of them try the bench out.
    #[arg(long, default_value_t = ROWS, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..))]
    rows: usize,
    /// Updates over which resident memory is watched.
    #[arg(long, default_value_t = STEPS, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(20..))]
    steps: usize,
    /// The folder of `benchmarks.md` and of the figures in `benchmarks`.
    #[arg(long, default_value = "docs", value_name = "FOLDER")]
    out: PathBuf,
}

/// A training, measured.
#[derive(Debug)]
struct Measured {
    point: Point,
    /// Seconds from the beginning of the stage to its end.
    seconds: f64,
    peak_rss_mb: f64,
    /// Tokens that the run read, those that were only scored included.
    tokens: Option<u64>,
    /// Resident memory in MB after each update.
    resident_mb: Vec<f64>,
    version: String,
    /// The share of processor time that other programs took.
    foreign: Option<f64>,
    /// Runs that were disturbed and done again.
    repeated: usize,
}

/// What trainings are done with.
struct Bench<'a> {
    hybrid: &'a Path,
    /// The model of the recipe.
    model: PathBuf,
    folder: &'a Path,
}

/// Measures all trainings and writes the figures down.
pub(super) fn run(arguments: &Arguments) -> Result<ExitCode, XtaskError> {
    let targets = ["--bin", "hybrid", "--bench", "training"];
    let Some(built) = workspace::build(&targets, &[], &[])? else {
        return Ok(ExitCode::FAILURE);
    };
    let mut prepare = Command::new(built.program("training")?);
    prepare.arg("model").arg(workspace::root().join(RECIPE));
    let model = process::json_of(&mut prepare)?;
    let folder = tempfile::tempdir().map_err(XtaskError::write(&std::env::temp_dir()))?;
    let bench = Bench {
        hybrid: built.program("hybrid")?,
        model: PathBuf::from(model["model"].as_str().unwrap_or_default()),
        folder: folder.path(),
    };
    let axes = axes(arguments.rows);
    let mut measured: Vec<Measured> = Vec::new();
    for point in axes.iter().flat_map(|axis| axis.points.iter().copied()) {
        if measured.iter().all(|done| done.point != point) {
            measured.push(bench.measure(point)?);
        }
    }
    let watched = bench.measure(watched(arguments.steps))?;
    let (section, figures) = report::report(&axes, &measured, &watched, &command(arguments));
    println!("{section}");
    if figures["is_quiet"] != true {
        eprintln!("not written, the machine was busy");
        return Ok(ExitCode::FAILURE);
    }
    document::write(&arguments.out, "growth", report::TITLE, &section, &figures)?;
    Ok(ExitCode::SUCCESS)
}

/// What one types to measure again.
fn command(arguments: &Arguments) -> String {
    let mut command = "cargo xtask bench-peers growth".to_owned();
    for (option, value, default) in [
        ("rows", arguments.rows, ROWS),
        ("steps", arguments.steps, STEPS),
    ] {
        if value != default {
            command.push_str(&format!(" --{option} {value}"));
        }
    }
    command
}

impl Bench<'_> {
    /// One training in a process of its own.
    fn measure(&self, point: Point) -> Result<Measured, XtaskError> {
        let Point {
            rows,
            seq,
            layers,
            candidates,
            ..
        } = point;
        eprintln!("{rows} rows, {seq} tokens, {layers} layers, candidates: {candidates}");
        let model = self.model(layers)?;
        let data = self.folder.join("data");
        texts::write(&model, rows, seq, &data)?;
        let run = || {
            let mut command = Command::new(self.hybrid);
            command
                .arg("train")
                .arg(workspace::root().join(RECIPE))
                .args(["--json", "--fresh", "--device", "flex", "--out"])
                .arg(self.folder.join("run"));
            for (key, value) in [
                ("base.model", model.display().to_string()),
                ("data.folder", data.display().to_string()),
            ] {
                command.arg("--set").arg(format!("{key}={value}"));
            }
            for setting in point.settings() {
                command.arg("--set").arg(setting);
            }
            process::set_environment(&mut command);
            process::listen(&mut command)
        };
        let (said, repeated) = process::undisturbed(run)?;
        Measured::of(point, &said, repeated).ok_or_else(|| XtaskError::Failed {
            program: "hybrid train".to_owned(),
            outcome: "it said no beginning, end or memory of its stage".to_owned(),
        })
    }

    /// The folder of a model with so many layers.
    fn model(&self, layers: usize) -> Result<PathBuf, XtaskError> {
        if layers == LAYERS {
            return Ok(self.model.clone());
        }
        let folder = self.folder.join(format!("layers-{layers}"));
        if !folder.is_dir() {
            fewer_layers::write(&self.model, layers, &folder)?;
        }
        Ok(folder)
    }
}

impl Measured {
    /// What a run said; none if something of it is not there.
    fn of(point: Point, said: &[Said], repeated: usize) -> Option<Self> {
        let first = |name: &str| said.iter().find(|said| said.event["event"] == name);
        let last = |name: &str| said.iter().rfind(|said| said.event["event"] == name);
        let steps = said.iter().filter(|said| said.event["event"] == "step");
        let report = first("report")?;
        let peaks = said.iter().take_while(|said| said.at_s <= report.at_s);
        let version = first("started")?.event["version"].as_str()?;
        Some(Self {
            point,
            // The baseline ends before the stage begins.
            seconds: last("stage_ended")?.at_s - first("stage_began")?.at_s,
            peak_rss_mb: peaks.filter_map(|said| said.peak_rss_mb).reduce(f64::max)?,
            tokens: report.event["cost"]["tokens"].as_u64(),
            resident_mb: steps.filter_map(|said| said.rss_mb).collect(),
            version: version.to_owned(),
            foreign: process::foreign(said),
            repeated,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::points::axes;
    use super::{Arguments, Measured, Said, command};

    #[test]
    fn a_run_is_read_off_what_it_says() {
        let said = |at_s: f64, memory: f64, event: Value| Said {
            at_s,
            peak_rss_mb: Some(memory),
            rss_mb: Some(memory - 1.0),
            event,
            foreign: Some(0.02),
        };
        let said = [
            said(0.1, 9.0, json!({"event": "started", "version": "1.2"})),
            said(
                0.5,
                9.0,
                json!({"event": "stage_ended", "stage": "baseline"}),
            ),
            said(1.0, 10.0, json!({"event": "stage_began"})),
            said(2.0, 20.0, json!({"event": "step"})),
            said(3.0, 30.0, json!({"event": "step"})),
            said(3.5, 31.0, json!({"event": "stage_ended"})),
            said(4.0, 32.0, json!({"event": "report", "cost": {"tokens": 7}})),
        ];
        let point = axes(8)[0].points[0];
        let measured = Measured::of(point, &said, 1).unwrap();
        assert_eq!((measured.seconds, measured.peak_rss_mb), (2.5, 32.0));
        assert_eq!(measured.resident_mb, [19.0, 29.0]);
        assert_eq!((measured.tokens, measured.foreign), (Some(7), Some(0.02)));
        assert!(Measured::of(point, &said[..5], 0).is_none());
    }

    #[test]
    fn the_command_names_what_is_not_usual() {
        let arguments = |rows, steps| Arguments {
            rows,
            steps,
            out: "docs".into(),
        };
        let usual = "cargo xtask bench-peers growth";
        assert_eq!(command(&arguments(1000, 1000)), usual);
        assert_eq!(command(&arguments(8, 1000)), format!("{usual} --rows 8"));
    }
}

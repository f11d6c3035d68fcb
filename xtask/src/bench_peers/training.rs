//! Training and search: hybrid and its peers take turns, work by work.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use clap::Args;
use clap::builder::PossibleValuesParser;
use serde_json::{Value, json};

use super::summary::Measured;
use super::{document, exported, machine, process, python};
use crate::error::XtaskError;
use crate::libtorch::Variables;
use crate::{train, workspace};
use trace::{Amount, Losses, Trace};
use work::{Given, Peer, WORKS, Work};

mod choice;
mod report;
mod trace;
mod work;

const ROUNDS: u64 = 3;

/// How the programs are compared.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// How often each program runs.
    #[arg(long, default_value_t = ROUNDS, value_parser = clap::value_parser!(u64).range(1..))]
    rounds: u64,
    /// A work to measure; more than once for several, all when left out.
    #[arg(
        long = "work",
        value_name = "NAME",
        value_parser = PossibleValuesParser::new(WORKS.iter().map(|work| work.name))
    )]
    works: Vec<String>,
    /// Where hybrid computes.
    #[arg(long, default_value = "flex", value_parser = ["flex", "tch"])]
    device: String,
    /// The folder of Banking77's train.jsonl and test.jsonl.
    #[arg(long, env = "HYBRID_BANKING77", value_name = "FOLDER")]
    banking77: Option<PathBuf>,
    /// The folder of SST-2's train.jsonl and test.jsonl.
    #[arg(long, env = "HYBRID_SST2", value_name = "FOLDER")]
    sst2: Option<PathBuf>,
    /// Train on so many rows at most, to try the bench out.
    #[arg(long)]
    rows: Option<usize>,
    /// The folder of `benchmarks.md` and of the figures in `benchmarks`.
    #[arg(long, default_value = "docs", value_name = "FOLDER")]
    out: PathBuf,
}

/// A work, measured.
struct Measurement {
    work: &'static Work,
    /// Hybrid first.
    programs: Vec<Program>,
    amount: Amount,
}

/// A program that does a work.
struct Program {
    measured: Measured,
    /// Its command as one would type it, without the places of this machine.
    shown: String,
    versions: Value,
    /// The loss of each update of the last run.
    losses: Losses,
    /// The setting that each run chose, where there are some.
    chosen: Vec<u64>,
    /// What became of all settings in the last run, where the program trains each to its end.
    grid: Value,
    matrix_product_gflops: Option<f64>,
    /// The largest share of processor time that other programs took in a run that counts.
    foreign: Option<f64>,
    /// Runs that were disturbed and done again.
    repeated: usize,
}

/// What the works are done with.
struct Bench<'a> {
    arguments: &'a Arguments,
    python: OsString,
    hybrid: PathBuf,
    prepare: PathBuf,
    variables: Variables,
}

pub(super) fn run(arguments: &Arguments) -> Result<ExitCode, XtaskError> {
    let is_chosen = |work: &&Work| {
        arguments.works.is_empty() || arguments.works.iter().any(|name| name == work.name)
    };
    let works: Vec<&'static Work> = WORKS.iter().filter(is_chosen).collect();
    for work in &works {
        work.data.folder(work.name, arguments)?;
    }
    let python = python::interpreter()?;
    let (features, variables) = train::backends([arguments.device.as_str()])?;
    let targets = ["--bin", "hybrid", "--bench", "training"];
    let Some(built) = workspace::build(&targets, &features, &variables)? else {
        return Ok(ExitCode::FAILURE);
    };
    let bench = Bench {
        arguments,
        python,
        hybrid: built.program("hybrid")?.to_owned(),
        prepare: built.program("training")?.to_owned(),
        variables,
    };
    let mut code = ExitCode::SUCCESS;
    for work in works {
        let measurement = bench.measure(work)?;
        let (section, figures) = report::report(&measurement, arguments);
        let name = report::file_name(work, &arguments.device);
        let title = match arguments.device.as_str() {
            "flex" => work.title.to_owned(),
            device => format!("{} ({device})", work.title),
        };
        println!("## {title}\n\n{section}");
        // What was measured beside other work flatters one program or the other.
        if figures["is_quiet"] == true {
            document::write(&arguments.out, &name, &title, &section, &figures)?;
        } else {
            eprintln!("{}: not written, the machine was busy", work.name);
            code = ExitCode::FAILURE;
        }
    }
    Ok(code)
}

impl Bench<'_> {
    /// Does a work with each program in turn, round by round.
    fn measure(&self, work: &'static Work) -> Result<Measurement, XtaskError> {
        let folder = tempfile::tempdir().map_err(XtaskError::write(&std::env::temp_dir()))?;
        let data = folder.path().join("data");
        let source = work.data.folder(work.name, self.arguments)?;
        work.data.lay_out(&source, &data, self.arguments.rows)?;
        let recipe = workspace::root().join(work.recipe);
        let job = match work.given {
            Given::Updates | Given::Settings => {
                self.job(&recipe, &data, &folder.path().join("adapter"))?
            }
            Given::Data => self.free_job(&recipe, &data)?,
        };
        let job_path = folder.path().join("job.json");
        fs::write(&job_path, job.to_string()).map_err(XtaskError::write(&job_path))?;

        let mut amount = amount(&job);
        let settings = work
            .settings
            .iter()
            .map(|setting| format!(" --set {setting}"));
        let settings: String = settings.collect();
        let shown = format!("hybrid train {}{settings} --json", work.recipe);
        let mut programs = vec![Program::new("hybrid", shown)];
        programs.extend(work.peers.iter().map(|peer| {
            let Peer { name, script, mode } = peer;
            Program::new(name, format!("python {script} JOB {mode}"))
        }));
        for round in 1..=self.arguments.rounds {
            for (place, program) in programs.iter_mut().enumerate() {
                let (name, rounds) = (program.measured.name, self.arguments.rounds);
                eprintln!("{}, round {round} of {rounds}: {name}", work.name);
                let run = || {
                    let mut command = match place.checked_sub(1) {
                        None => self.own(work, &data, &folder.path().join("run")),
                        Some(peer) => self.peer(&work.peers[peer], &job_path),
                    };
                    process::set_environment(&mut command);
                    process::listen(&mut command)
                };
                let (said, repeated) = process::undisturbed(run)?;
                let trace = Trace::new(said);
                program.repeated += repeated;
                amount.flops = amount.flops.or_else(|| trace.flops());
                program.add(work, &trace, amount);
            }
        }
        Ok(Measurement {
            work,
            programs,
            amount,
        })
    }

    /// What the peers are given that do what a recipe does.
    fn job(&self, recipe: &Path, data: &Path, adapter: &Path) -> Result<Value, XtaskError> {
        let mut prepare = Command::new(&self.prepare);
        prepare
            .arg("job")
            .arg(recipe)
            .arg(adapter)
            .arg(format!("data.folder={}", data.display()))
            .envs(self.variables.iter().cloned());
        let mut job = process::json_of(&mut prepare)?;
        job["threads"] = json!(machine::threads());
        let model = PathBuf::from(job["model"].as_str().unwrap_or_default());
        if model.is_file() {
            job["float32_folder"] = json!(exported::float32(&self.python, &model)?);
        }
        Ok(job)
    }

    /// What peers are given that do as they like.
    fn free_job(&self, recipe: &Path, data: &Path) -> Result<Value, XtaskError> {
        let mut prepare = Command::new(&self.prepare);
        prepare
            .arg("model")
            .arg(recipe)
            .envs(self.variables.iter().cloned());
        let mut job = process::json_of(&mut prepare)?;
        job["data"] = json!(data);
        job["threads"] = json!(machine::threads());
        Ok(job)
    }

    fn own(&self, work: &Work, data: &Path, run: &Path) -> Command {
        let mut command = Command::new(&self.hybrid);
        command
            .arg("train")
            .arg(workspace::root().join(work.recipe))
            .args(work.settings.iter().flat_map(|setting| ["--set", *setting]))
            .args(["--json", "--fresh", "--device", &self.arguments.device])
            .arg("--out")
            .arg(run)
            .arg("--set")
            .arg(format!("data.folder={}", data.display()))
            .envs(self.variables.iter().cloned());
        command
    }

    fn peer(&self, peer: &Peer, job: &Path) -> Command {
        let script = workspace::root().join("benches/peers").join(peer.script);
        let mut command = Command::new(&self.python);
        command.arg(script).arg(job).arg(peer.mode);
        command
    }
}

impl Program {
    fn new(name: &'static str, shown: String) -> Self {
        Self {
            measured: Measured::new(name),
            shown,
            versions: Value::Null,
            losses: Losses::new(),
            chosen: Vec::new(),
            grid: Value::Null,
            matrix_product_gflops: None,
            foreign: None,
            repeated: 0,
        }
    }

    /// Adds the figures of a run.
    fn add(&mut self, work: &Work, trace: &Trace, amount: Amount) {
        for figure in work.figures {
            if let Some(value) = trace.value(figure, amount) {
                self.measured.add(figure, value);
            }
        }
        self.versions = trace.versions();
        self.losses = trace.losses();
        self.chosen.extend(trace.chosen());
        self.grid = trace.grid().cloned().unwrap_or_default();
        let foreign = self.foreign.into_iter().chain(trace.foreign());
        self.foreign = foreign.reduce(f64::max);
        let peak = trace.matrix_product_gflops();
        let best = self.matrix_product_gflops.into_iter().chain(peak);
        self.matrix_product_gflops = best.reduce(f64::max);
    }
}

/// What a job asks for.
fn amount(job: &Value) -> Amount {
    let epochs = job["batches"].as_array().into_iter().flatten();
    let batches = epochs.flat_map(|epoch| epoch.as_array().into_iter().flatten());
    let n_tokens = |row: &Value| {
        let row = row.as_u64().unwrap_or_default() as usize;
        job["ids"][row].as_array().map_or(0, Vec::len)
    };
    let sizes: Vec<(usize, usize)> = batches
        .filter_map(Value::as_array)
        .map(|rows| (rows.len(), rows.iter().map(n_tokens).sum()))
        .collect();
    let (first_rows, first_tokens) = sizes.first().copied().unwrap_or_default();
    Amount {
        rows: sizes.iter().map(|(rows, _)| rows).sum(),
        tokens: sizes.iter().map(|(_, tokens)| tokens).sum(),
        first_rows,
        first_tokens,
        flops: None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::amount;

    #[test]
    fn the_rows_and_tokens_of_all_epochs_count() {
        let job = json!({"ids": [[1, 2], [3, 4, 5]], "batches": [[[0], [1]], [[1, 0]]]});
        let amount = amount(&job);
        assert_eq!((amount.rows, amount.tokens), (4, 10));
        assert_eq!((amount.first_rows, amount.first_tokens), (1, 2));
    }
}

//! `cargo xtask compare-methods`: every method of parameter-efficient fine-tuning on one task.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use clap::Args;
use serde_json::{Value, json};

use crate::error::XtaskError;
use crate::workspace;

const RECIPE: &str = "recipes/compare_methods.toml";
const RUNS: &str = "benches/methods.toml";

/// Between these lines of the README lies the table.
const MARKS: [&str; 2] = ["<!-- methods: begin -->", "<!-- methods: end -->"];

/// What is compared, and where it is written.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Methods of `benches/methods.toml` to train, by name; all when left out. A part of them is
    /// printed, and not written down.
    #[arg(long = "method", value_name = "NAME")]
    methods: Vec<String>,
    /// The folder of the run folders. A finished run is not repeated.
    #[arg(long, default_value = "runs/compare_methods", value_name = "FOLDER")]
    runs: PathBuf,
}

/// A method with its settings and learning rate.
struct Run {
    name: String,
    /// As a recipe has it.
    methods: String,
    lr: f64,
}

/// Trains all methods one after the other and writes the table into the README, and the figures
/// into `docs/benchmarks/methods.json`.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, XtaskError> {
    let root = workspace::root();
    let runs = runs(&root.join(RUNS))?;
    let wanted = |run: &&Run| {
        let names = &arguments.methods;
        names.is_empty() || names.iter().any(|name| run.name.starts_with(name.as_str()))
    };
    let wanted: Vec<&Run> = runs.iter().filter(wanted).collect();
    let Some(built) = workspace::build(&["--bin", "hybrid"], &[], &[])? else {
        return Ok(ExitCode::FAILURE);
    };
    let mut figures = Vec::new();
    for (index, run) in wanted.iter().enumerate() {
        eprintln!("{} of {}: {}", index + 1, wanted.len(), run.name);
        let folder = arguments.runs.join(run.name.replace([' ', ','], "_"));
        let report = run.train(built.program("hybrid")?, &root.join(RECIPE), &folder)?;
        figures.push(figures_of(run, &report));
    }
    let table = table(&figures);
    println!("{table}");
    if arguments.methods.is_empty() {
        let path = root.join("docs/benchmarks/methods.json");
        fs::write(&path, format!("{:#}\n", json!(figures))).map_err(XtaskError::write(&path))?;
        let path = root.join("README.md");
        let text = fs::read_to_string(&path).map_err(XtaskError::read(&path))?;
        let text = with_table(&text, &table).ok_or(XtaskError::Marks { path: path.clone() })?;
        fs::write(&path, text).map_err(XtaskError::write(&path))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The runs of a file.
fn runs(path: &Path) -> Result<Vec<Run>, XtaskError> {
    let text = fs::read_to_string(path).map_err(XtaskError::read(path))?;
    let wrong = |reason: String| XtaskError::Runs {
        path: path.to_owned(),
        reason,
    };
    let table: toml::Table = text
        .parse()
        .map_err(|error: toml::de::Error| wrong(error.to_string()))?;
    let runs = table.get("run").and_then(toml::Value::as_array);
    let runs = runs.ok_or_else(|| wrong("expected [[run]]".to_owned()))?;
    let read = |run: &toml::Value| {
        let methods = run.get("methods").filter(|methods| methods.is_array())?;
        Some(Run {
            name: name(methods.as_array()?)?,
            methods: methods.to_string(),
            lr: run.get("lr")?.as_float()?,
        })
    };
    let runs = runs.iter().map(|run| {
        read(run).ok_or_else(|| wrong(format!("expected `lr` and `methods`, found {run}")))
    });
    runs.collect()
}

/// The method, and the settings that make it a variant of itself.
fn name(methods: &[toml::Value]) -> Option<String> {
    let mut names = Vec::new();
    for method in methods {
        let mut name = method.get("method")?.as_str()?.to_owned();
        for (key, value) in method.as_table()? {
            match (key.as_str(), value) {
                ("init_lora_weights" | "placement", toml::Value::String(value)) => {
                    name = format!("{name}, {value}");
                }
                ("use_dora", toml::Value::Boolean(true)) => name.push_str(", DoRA"),
                _ => {}
            }
        }
        names.push(name);
    }
    match names.is_empty() {
        true => Some("head alone".to_owned()),
        false => Some(names.join(" + ")),
    }
}

impl Run {
    /// The report of the run in a folder, which goes on where it stopped.
    fn train(&self, hybrid: &Path, recipe: &Path, folder: &Path) -> Result<Value, XtaskError> {
        let mut command = Command::new(hybrid);
        command.arg("train").arg(recipe).arg("--quiet");
        command.arg("--out").arg(folder);
        command
            .arg("--set")
            .arg(format!("stages.0.methods={}", self.methods));
        command
            .arg("--set")
            .arg(format!("stages.0.optimizer.lr={:?}", self.lr));
        workspace::output(&mut command)?;
        let path = folder.join("report.json");
        let text = fs::read_to_string(&path).map_err(XtaskError::read(&path))?;
        serde_json::from_str(&text).map_err(|error| XtaskError::Runs {
            path,
            reason: error.to_string(),
        })
    }
}

fn figures_of(run: &Run, report: &Value) -> Value {
    let adapters = report["candidates"].as_array().into_iter().flatten();
    let trained = adapters
        .rev()
        .find(|candidate| candidate["stage"] != "baseline");
    json!({
        "name": run.name,
        "methods": run.methods,
        "lr": run.lr,
        "trainable_parameters": trained.map(|trained| &trained["cost"]["trainable_parameters"]),
        "select_log_loss": trained.map(|trained| &trained["select"]["log_loss"]),
        "accuracy": report["final"]["value"],
        "interval": report["final"]["interval"],
        "adopted": trained.map(|trained| &trained["adopted"]),
        "train_s": report["cost"]["train_s"],
        "peak_rss_mb": report["cost"]["peak_rss_mb"],
        "device": report["device"],
        "versions": report["provenance"]["versions"],
    })
}

/// The runs by their accuracy, the best first.
fn table(figures: &[Value]) -> String {
    let number = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
    let mut figures: Vec<&Value> = figures.iter().collect();
    figures.sort_by(|a, b| number(&b["accuracy"]).total_cmp(&number(&a["accuracy"])));
    let heading = "| method | learning rate | trained values | test accuracy | training, s | peak memory, MB |\n\
                   | --- | ---: | ---: | ---: | ---: | ---: |\n";
    let row = |figures: &Value| {
        let accuracy = match figures["adopted"].as_bool() {
            Some(false) => "not better than the prompt".to_owned(),
            _ => format!("{:.1} %", 100.0 * number(&figures["accuracy"])),
        };
        format!(
            "| {} | {:e} | {} | {accuracy} | {:.0} | {:.0} |\n",
            figures["name"].as_str().unwrap_or_default(),
            number(&figures["lr"]),
            figures["trainable_parameters"],
            number(&figures["train_s"]),
            number(&figures["peak_rss_mb"]),
        )
    };
    heading.to_owned() + &figures.into_iter().map(row).collect::<String>()
}

/// A document with the table between its marks, or none without marks.
fn with_table(document: &str, table: &str) -> Option<String> {
    let [begin, end] = MARKS;
    let (before, rest) = document.split_once(begin)?;
    let (_, after) = rest.split_once(end)?;
    Some(format!("{before}{begin}\n\n{table}\n{end}{after}"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::{RUNS, runs, table, with_table};
    use crate::workspace;

    #[test]
    fn every_run_has_a_name_of_its_own() {
        let runs = runs(&workspace::root().join(RUNS)).unwrap();
        let names: BTreeSet<&str> = runs.iter().map(|run| run.name.as_str()).collect();
        assert_eq!(names.len(), runs.len());
        assert!(names.contains("head alone") && names.contains("lora, DoRA"));
        assert!(runs.iter().all(|run| run.lr > 0.0));
    }

    #[test]
    fn the_best_method_comes_first() {
        let figures = |name: &str, accuracy: f64, adopted: bool| {
            json!({
                "name": name, "lr": 0.002, "trainable_parameters": 10, "accuracy": accuracy,
                "adopted": adopted, "train_s": 2.4, "peak_rss_mb": 300.0,
            })
        };
        let table = table(&[
            figures("a", 0.5, true),
            figures("b", 0.75, true),
            figures("c", 0.1, false),
        ]);
        let rows: Vec<&str> = table.lines().skip(2).collect();
        assert_eq!(rows[0], "| b | 2e-3 | 10 | 75.0 % | 2 | 300 |");
        assert!(rows[1].starts_with("| a |"));
        assert_eq!(
            rows[2],
            "| c | 2e-3 | 10 | not better than the prompt | 2 | 300 |"
        );
    }

    #[test]
    fn the_table_takes_the_place_of_the_old_one() {
        let document = "a\n<!-- methods: begin -->\nold\n<!-- methods: end -->\nb\n";
        assert_eq!(
            with_table(document, "new\n").unwrap(),
            "a\n<!-- methods: begin -->\n\nnew\n\n<!-- methods: end -->\nb\n"
        );
        assert_eq!(with_table("a\n", "new\n"), None);
    }
}

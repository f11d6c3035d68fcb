//! Decoding SmolLM2: hybrid, llama.cpp and Transformers take turns with one job.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use serde_json::{Value, json};

use super::summary::{Figure, Measured, ratios, ratios_json, table};
use super::{document, exported, machine, process, python};
use crate::error::XtaskError;
use crate::workspace;

const MODEL: &str = "HuggingFaceTB/SmolLM2-135M-Instruct";

/// A text of the repository that does not change.
const TEXT: &str = "LICENSE-APACHE";

const LOAD: Figure = figure("load_s", "load, s", 3);
const FIRST: Figure = figure("first_token_s", "start to first token, s", 2);
const PROMPT: Figure = figure("prompt_tokens_per_s", "prompt, tokens/s", 0);
const ALONE: Figure = figure("alone_tokens_per_s", "one sequence, tokens/s", 1);
const BATCH: Figure = figure("batch_tokens_per_s", "batch, tokens/s", 1);
const MEMORY: Figure = figure("peak_rss_mb", "peak memory, MB", 0);
const FIGURES: [Figure; 6] = [LOAD, FIRST, PROMPT, ALONE, BATCH, MEMORY];

const fn figure(key: &'static str, heading: &'static str, digits: usize) -> Figure {
    Figure {
        key,
        heading,
        digits,
    }
}

/// How the programs are compared.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// How often each program runs.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    rounds: u64,
    /// Tokens that are written behind each prompt.
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u64).range(2..))]
    new_tokens: u64,
    /// The folder of `benchmarks.md` and `benchmarks/decoding.json`.
    #[arg(long, default_value = "docs", value_name = "FOLDER")]
    out: PathBuf,
}

/// A program that takes jobs.
struct Program {
    measured: Measured,
    command: Vec<OsString>,
    /// How it holds the weights, where a job can say so.
    weights: &'static str,
    versions: Value,
    /// The tokens that it wrote, row by row.
    ids: Vec<Vec<u64>>,
}

pub(super) fn run(arguments: &Arguments) -> Result<ExitCode, XtaskError> {
    let python = python::interpreter()?;
    let Some(built) = workspace::build(&["--bench", "decoding"], &[], &[])? else {
        return Ok(ExitCode::FAILURE);
    };
    let hybrid = built.program("decoding")?;
    let mut prepare = Command::new(hybrid);
    prepare
        .args(["prepare", MODEL])
        .arg(workspace::root().join(TEXT))
        .arg(arguments.new_tokens.to_string());
    let mut job = process::json_of(&mut prepare)?;
    let threads = machine::threads();
    job["threads"] = json!(threads);
    let gguf = PathBuf::from(job["model"].as_str().unwrap_or_default());
    job["float32_folder"] = json!(exported::float32(&python, &gguf)?);

    let mut programs = programs(hybrid, python);
    let folder = tempfile::tempdir().map_err(XtaskError::write(&std::env::temp_dir()))?;
    for round in 1..=arguments.rounds {
        for program in &mut programs {
            let (name, rounds) = (program.measured.name, arguments.rounds);
            eprintln!("round {round} of {rounds}: {name}");
            program.run(&mut job, &folder.path().join("job.json"))?;
        }
    }
    let (section, figures) = report(&programs, &job, arguments.rounds);
    document::write(&arguments.out, "decoding", "Decoding", &section, &figures)?;
    println!("{section}");
    Ok(ExitCode::SUCCESS)
}

fn programs(hybrid: &Path, python: OsString) -> [Program; 4] {
    let hybrid = vec![hybrid.as_os_str().to_owned(), "measure".into()];
    let peer = |script: &str| {
        let script = workspace::root().join("benches/peers").join(script);
        vec![python.clone(), script.into_os_string()]
    };
    let program = |name, command, weights| Program {
        measured: Measured::new(name),
        command,
        weights,
        versions: Value::Null,
        ids: Vec::new(),
    };
    [
        program("hybrid, keep", hybrid.clone(), "keep"),
        program("hybrid, float32", hybrid, "float32"),
        program("llama.cpp, Q4_1", peer("llama_cpp_peer.py"), "keep"),
        program(
            "Transformers, float32",
            peer("transformers_peer.py"),
            "float32",
        ),
    ]
}

impl Program {
    /// Does the job in a process of its own and keeps the figures.
    fn run(&mut self, job: &mut Value, path: &Path) -> Result<(), XtaskError> {
        job["weights"] = json!(self.weights);
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        job["started"] = json!(now.map_or(0.0, |now| now.as_secs_f64()));
        fs::write(path, job.to_string()).map_err(XtaskError::write(path))?;
        let mut command = Command::new(&self.command[0]);
        command.args(&self.command[1..]).arg(path);
        process::set_environment(&mut command);
        let found = process::json_of(&mut command)?;
        let seconds = |key: &str| found[key].as_f64();
        let rows = job["batch"].as_array().map_or(0, Vec::len) as f64;
        let length = job["prompt"].as_array().map_or(0, Vec::len) as f64;
        // The first token of each row comes of reading the prompt.
        let rest = job["new_tokens"].as_f64().unwrap_or_default() - 1.0;
        for (figure, value) in [
            (LOAD, seconds("load_s")),
            (FIRST, seconds("first_token_s")),
            (PROMPT, seconds("prompt_s").map(|s| length / s)),
            (ALONE, seconds("alone_s").map(|s| rest / s)),
            (BATCH, seconds("batch_s").map(|s| rows * rest / s)),
            (MEMORY, seconds("peak_rss_mb")),
        ] {
            if let Some(value) = value {
                self.measured.add(&figure, value);
            }
        }
        self.versions = found["versions"].clone();
        self.ids = serde_json::from_value(found["ids"].clone()).unwrap_or_default();
        Ok(())
    }

    /// The command as one would type it, without the places of this machine.
    fn shown(&self) -> String {
        let name = |word: &OsString| {
            let name = Path::new(word).file_name().unwrap_or(word.as_os_str());
            let name = name.to_string_lossy();
            // Cargo adds a hash to the names of benches.
            match name.starts_with("decoding-") {
                true => "decoding".to_owned(),
                false => name.into_owned(),
            }
        };
        let words: Vec<String> = self.command.iter().map(name).collect();
        format!("{} JOB", words.join(" "))
    }
}

/// The section of the document, and everything behind it.
fn report(programs: &[Program; 4], job: &Value, rounds: u64) -> (String, Value) {
    let [kept, float32, llama, transformers] = programs.each_ref().map(|p| &p.measured);
    let pairs = [
        (kept, llama),
        (float32, llama),
        (kept, transformers),
        (float32, transformers),
    ];
    let length = |value: &Value| value.as_array().map_or(0, Vec::len);
    let (prompt, rows) = (length(&job["prompt"]), length(&job["batch"]));
    let (row, new) = (length(&job["batch"][0]), &job["new_tokens"]);
    let (threads, processor) = (&job["threads"], machine::processor());
    let agreements: Vec<f64> = programs
        .iter()
        .map(|program| agreement(&program.ids, &programs[3].ids))
        .collect();
    let figures = json!({
        "command": "cargo xtask bench-peers decoding",
        "model": MODEL,
        "file": Path::new(job["model"].as_str().unwrap_or_default()).file_name()
            .map(|name| name.to_string_lossy()),
        "processor": processor,
        "threads": threads,
        "rounds": rounds,
        "prompt_tokens": prompt,
        "batch_rows": rows,
        "batch_prompt_tokens": row,
        "new_tokens": new,
        "programs": programs.iter().zip(&agreements).map(|(program, agreement)| json!({
            "name": program.measured.name,
            "command": program.shown(),
            "versions": program.versions,
            "figures": program.measured.json(&FIGURES),
            "leading_tokens_as_transformers": agreement,
        })).collect::<Value>(),
        "ratios": ratios_json(&pairs, &FIGURES),
    });
    let measured = programs.iter().map(|program| &program.measured);
    let agreed: Vec<String> = measured
        .clone()
        .zip(&agreements)
        .take(3)
        .map(|(program, share)| format!("{} {:.0} %", program.name, share * 100.0))
        .collect();
    let versions: BTreeSet<String> = programs
        .iter()
        .flat_map(|program| program.versions.as_object().into_iter().flatten())
        .map(|(name, version)| format!("{name} {}", version.as_str().unwrap_or("not known")))
        .collect();
    let versions: Vec<String> = versions.into_iter().collect();
    let section = format!(
        "`cargo xtask bench-peers decoding`; every value is in \
         [decoding.json](benchmarks/decoding.json).\n\n\
         SmolLM2-135M-Instruct from one GGUF file (Q4_1) on {processor}, {threads} threads. Each \
         program had a process of its own in each of {rounds} rounds, one program after the \
         other: medians, in brackets least and most. It reads a prompt of {prompt} tokens, then writes {new} tokens greedily \
         behind one prompt of {row} tokens and behind {rows} of them in one batch. Speeds of \
         writing count from the first new token on. Loading leaves out the start of Python and \
         its imports; the time from the start of the process to the first token behind {row} \
         tokens has them. Peak memory is that of the whole process, mapped files included.\n\n{}\n{}\n\
         Leading tokens of the batch that are those of Transformers: {}. Versions: {}.\n",
        table(measured, &FIGURES),
        ratios(&pairs, &FIGURES),
        agreed.join(", "),
        versions.join(", "),
    );
    (section, figures)
}

/// The share of tokens up to the first difference in each row.
fn agreement(rows: &[Vec<u64>], expected: &[Vec<u64>]) -> f64 {
    let equal = |(row, expected): (&Vec<u64>, &Vec<u64>)| {
        let pairs = row.iter().zip(expected);
        pairs
            .take_while(|(token, expected)| token == expected)
            .count()
    };
    let n_equal: usize = rows.iter().zip(expected).map(equal).sum();
    let n_expected: usize = expected.iter().map(Vec::len).sum();
    n_equal as f64 / n_expected.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::agreement;

    #[test]
    fn rows_agree_up_to_their_first_difference() {
        let expected = [vec![1, 2, 3], vec![4, 5, 6]];
        assert_eq!(agreement(&expected, &expected), 1.0);
        assert_eq!(
            agreement(&[vec![1, 2, 9], vec![7, 5, 6]], &expected),
            2.0 / 6.0
        );
        assert_eq!(agreement(&[], &expected), 0.0);
    }
}

//! Project tasks: `cargo xtask train`, `ci`, `tidy`, `libtorch`, `bench-peers`, `bench-gpu`,
//! `compare-methods`.
#![allow(clippy::print_stdout, reason = "what a task finds is its output")]

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod bench_gpu;
mod bench_peers;
mod compare_methods;
mod error;
mod libtorch;
mod tidy;
mod train;
mod workspace;

/// Project tasks.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Build `hybrid` for the chosen device and run `hybrid train` with these arguments.
    #[command(disable_help_flag = true)]
    Train {
        /// Arguments of `hybrid train`; `--help` lists them.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Everything that continuous integration checks (`.ci/run`).
    Ci,
    /// The project's own rules: crate arrows, names, lengths, first lines.
    Tidy,
    /// Fetch libtorch for the processor, lay it out in the cache and print how to use it.
    Libtorch,
    /// Lay out, in a new folder, the bench of graphics cards and all that it needs on another Linux
    /// machine with an NVIDIA driver: copy the folder there and start its `run.sh`.
    BenchGpu {
        /// The folder.
        #[arg(long, value_name = "FOLDER")]
        out: PathBuf,
        /// Devices to build for. The build for cuda fetches LLVM from GitHub; that for tch-cuda needs
        /// a libtorch with CUDA in LIBTORCH, here and there of the same version.
        #[arg(
            long,
            value_delimiter = ',',
            value_parser = ["cuda", "wgpu", "tch-cuda"],
            default_value = "cuda,wgpu"
        )]
        devices: Vec<String>,
    },
    /// Measure `hybrid` beside other programs and write the figures into `docs`.
    #[command(subcommand)]
    BenchPeers(bench_peers::Comparison),
    /// Train every method of parameter-efficient fine-tuning on one task and write the table of the
    /// README.
    CompareMethods(compare_methods::Arguments),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().task {
        Task::Train { arguments } => train::run(&arguments),
        Task::Ci => workspace::script(".ci/run"),
        Task::Tidy => tidy::run(),
        Task::Libtorch => libtorch::run(),
        Task::BenchGpu { out, devices } => bench_gpu::run(&out, &devices),
        Task::BenchPeers(comparison) => bench_peers::run(&comparison),
        Task::CompareMethods(arguments) => compare_methods::run(&arguments),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::{Cli, Task};

    #[test]
    fn arguments_reach_their_tasks() {
        Cli::command().debug_assert();
        let cli = Cli::parse_from([
            "xtask", "train", "a.toml", "--device", "tch", "--set", "seed=7", "--help",
        ]);
        let Task::Train { arguments } = cli.task else {
            panic!("not train")
        };
        assert_eq!(
            arguments,
            ["a.toml", "--device", "tch", "--set", "seed=7", "--help"]
        );
        let cli = Cli::parse_from(["xtask", "bench-gpu", "--out", "layout"]);
        let Task::BenchGpu { devices, .. } = cli.task else {
            panic!("not bench-gpu")
        };
        assert_eq!(devices, ["cuda", "wgpu"]);
        let cli = Cli::parse_from(["xtask", "train", "--out", "run-a"]);
        let Task::Train { arguments } = cli.task else {
            panic!("not train")
        };
        assert_eq!(arguments, ["--out", "run-a"]);
    }
}

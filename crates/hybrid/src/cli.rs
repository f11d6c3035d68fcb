//! The command line: thin doors to [`crate::train`] and to artifacts.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::error::describe;
use crate::progress::Show;
use crate::{HybridError, TrainOptions, interrupt};

mod adapter_commands;
mod artifact_commands;
mod generate;
mod lines;
mod output;
mod predict;

/// Hybrid fine-tuning: search the prompt, train a small adapter, alternate the two.
#[derive(Debug, Parser)]
#[command(
    name = "hybrid",
    version,
    after_help = "Examples:
  hybrid train recipes/banking77.toml --out runs/banking77
  hybrid eval runs/banking77/artifact --per-class
  echo 'where is my card?' | hybrid predict runs/banking77/artifact
  hybrid merge runs/banking77/artifact --out merged
  hybrid generate --model HuggingFaceTB/SmolLM2-135M-Instruct 'Name three rivers.'
Exit codes: 0 done, 1 failed or stopped, 2 the input must be changed."
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a recipe: baseline, prompt search, adapter training, report, artifact.
    #[command(after_help = "Examples:
  hybrid train
  hybrid train recipes/clinc150.toml --out runs/clinc --set seed=7
  hybrid train recipes/banking77.toml --set data.folder=my-data --set target.value=0.9
The same command on an unfinished run folder goes on where it stopped.")]
    Train(TrainArguments),
    /// Score an artifact on labelled examples.
    #[command(after_help = "Examples:
  hybrid eval runs/banking77/artifact
  hybrid eval runs/banking77/artifact --per-class
  hybrid eval runs/banking77/artifact --data more.jsonl --json")]
    Eval(artifact_commands::EvalArguments),
    /// Label texts: one text or one JSON object a line in, one JSON object a line out.
    #[command(after_help = "Examples:
  echo 'where is my card?' | hybrid predict runs/banking77/artifact
  hybrid predict runs/banking77/artifact questions.jsonl --top-k 3 > answers.jsonl")]
    Predict(predict::PredictArguments),
    /// Write the base with the adapter merged into its weights, as a Hugging Face folder.
    #[command(after_help = "Example:
  hybrid merge runs/banking77/artifact --out merged
  hybrid predict merged questions.txt")]
    Merge(artifact_commands::MergeArguments),
    /// Make one LoRA or IA3 of several over the same base, each with its weight, in PEFT's format.
    #[command(after_help = "Examples:
  hybrid combine runs/a/artifact runs/b/artifact --out both
  hybrid combine french=1 formal=0.5 slang=-0.3 --rule ties --density 0.5 --out mixed")]
    Combine(adapter_commands::CombineArguments),
    /// List the adapter methods: what each does, where it acts, whether it merges, its paper.
    #[command(after_help = "Examples:
  hybrid methods
  hybrid methods --base HuggingFaceTB/SmolLM2-135M-Instruct
  hybrid methods --recipe recipes/banking77.toml
With a base, the values that each trains with its defaults, and the memory that they take while they
train, with gradients and the moments of Adam; with a recipe also that of the activations of an update,
as long as inputs and batches may get there.")]
    Methods(adapter_commands::MethodsArguments),
    /// Explain an adapter: a folder in PEFT's format or an artifact.
    #[command(after_help = "Examples:
  hybrid inspect my-lora
  hybrid inspect runs/banking77/artifact --json
  hybrid inspect my-lora --base HuggingFaceTB/SmolLM2-135M-Instruct")]
    Inspect(adapter_commands::InspectArguments),
    /// Let a decoder or an encoder-decoder write texts, token by token, for one or more prompts.
    #[command(after_help = "Examples:
  hybrid generate --model HuggingFaceTB/SmolLM2-135M-Instruct 'Name three rivers.'
  hybrid generate --model model.gguf --dtype keep --max-tokens 8 < questions.txt
  hybrid generate --model model.gguf --system 'Answer in one word.' --stop . 'Is water wet?'
  hybrid generate --model models/gpt2 --plain --temperature 0.8 --top-p 0.95 --seed 7 'Once'
  hybrid generate --model google-t5/t5-small --beams 4 --json 'translate English to German: Hello.'
Several prompts are run together. Tokens per second and peak memory go to standard error.")]
    Generate(generate::GenerateArguments),
    /// Print the JSON Schema of recipes, for editors.
    #[command(after_help = "Example:
  hybrid schema > recipe.schema.json
A recipe whose first line is `#:schema ./recipe.schema.json` is then checked and completed while it
is edited, where the editor knows TOML schemas (Taplo, Even Better TOML).")]
    Schema,
    /// Print shell completions.
    #[command(after_help = "Example:
  hybrid completions bash > /etc/bash_completion.d/hybrid")]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, clap::Args)]
struct TrainArguments {
    /// The recipe file.
    #[arg(default_value = "recipes/banking77.toml")]
    recipe: PathBuf,
    /// The run folder; `runs/NAME` of the recipe when left out.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Change one key of the recipe; the value is read as TOML, or else as text.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_value)]
    settings: Vec<(String, String)>,
    /// Remove what an earlier run left in the folder and start over.
    #[arg(long)]
    fresh: bool,
    #[command(flatten)]
    device: DeviceArgument,
    #[command(flatten)]
    show: ShowArguments,
}

#[derive(Debug, clap::Args)]
struct DeviceArgument {
    /// Where to compute: flex (embedded, processor), tch (libtorch), tch-cuda, wgpu, cuda.
    #[arg(long, default_value = "flex", env = "HYBRID_DEVICE")]
    device: String,
}

#[derive(Debug, clap::Args)]
struct ShowArguments {
    /// Show nothing but errors.
    #[arg(long, conflicts_with = "json")]
    quiet: bool,
    /// Print JSON on standard output.
    #[arg(long)]
    json: bool,
}

impl ShowArguments {
    fn show(&self) -> Show {
        match (self.quiet, self.json) {
            (_, true) => Show::Json,
            (true, _) => Show::Quiet,
            _ => Show::Auto,
        }
    }
}

fn key_value(text: &str) -> Result<(String, String), String> {
    text.split_once('=')
        .filter(|(key, _)| !key.trim().is_empty())
        .map(|(key, value)| (key.trim().to_owned(), value.to_owned()))
        .ok_or_else(|| "expected KEY=VALUE".to_owned())
}

/// Parses the command line, runs it and turns the outcome into an exit code.
pub fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", describe(&error));
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(cli: Cli) -> Result<(), HybridError> {
    match cli.command {
        Command::Train(arguments) => {
            interrupt::listen();
            crate::train(&TrainOptions {
                recipe: arguments.recipe,
                out: arguments.out,
                settings: arguments.settings,
                fresh: arguments.fresh,
                device: arguments.device.device,
                show: arguments.show.show(),
            })
        }
        Command::Eval(arguments) => artifact_commands::eval(&arguments),
        Command::Predict(arguments) => predict::predict(&arguments),
        Command::Merge(arguments) => artifact_commands::merge(&arguments),
        Command::Combine(arguments) => adapter_commands::combine_adapters(&arguments),
        Command::Methods(arguments) => adapter_commands::methods(&arguments),
        Command::Inspect(arguments) => adapter_commands::inspect(&arguments),
        Command::Generate(arguments) => generate::generate(&arguments),
        Command::Schema => {
            let schema = serde_json::to_string_pretty(&crate::recipe::schema());
            output::print(&schema.expect("a schema is plain data"))
        }
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "hybrid", &mut script);
            output::print(String::from_utf8_lossy(&script).trim_end())
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::{Cli, key_value};

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn settings_are_split_at_the_first_equals_sign() {
        assert_eq!(
            key_value("a.b=c=d"),
            Ok(("a.b".to_owned(), "c=d".to_owned()))
        );
        assert!(key_value("a.b").is_err());
        assert!(key_value("=b").is_err());
    }
}

//! `generate`: prompts in, text out as it comes.

mod answers;
mod settings;

use std::io::IsTerminal;

use hybrid_eval::peak_rss_mb;
use hybrid_models::{Resolver, WeightFormat};

use super::DeviceArgument;
use super::lines::{End, Lines};
use super::output::Reader;
use crate::HybridError;
use crate::generator::Generator;
use answers::{Answers, Format};
use settings::SettingArguments;

/// The most prompts from standard input that are run together.
const CHUNK: usize = 32;

#[derive(Debug, clap::Args)]
pub(super) struct GenerateArguments {
    /// Prompts; each line of standard input when left out.
    #[arg(value_name = "PROMPT")]
    prompts: Vec<String>,
    /// The model: a folder, a GGUF file or a name on the hub.
    #[arg(long)]
    model: String,
    /// How the weights are held.
    #[arg(long, value_enum, default_value_t = Dtype::Float32)]
    dtype: Dtype,
    /// What the system says before each prompt, where the chat template has a place for it.
    #[arg(long, value_name = "TEXT", conflicts_with = "plain")]
    system: Option<String>,
    /// Take prompts as they are, without the model's chat template.
    #[arg(long)]
    plain: bool,
    #[command(flatten)]
    settings: SettingArguments,
    /// End a text before this string; may be given several times.
    #[arg(long = "stop", value_name = "TEXT")]
    stops: Vec<String>,
    /// Print one JSON object for each prompt: prompt, text, finish, n_tokens.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    device: DeviceArgument,
}

/// How the weights are held.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Dtype {
    /// As 32-bit floats: fast.
    Float32,
    /// Matrices as bfloat16: half the room, fast on devices that multiply so.
    Bfloat16,
    /// Quantised as in the GGUF file, dequantised as they are used: small.
    Keep,
}

impl Dtype {
    fn format(self) -> WeightFormat {
        match self {
            Self::Float32 => WeightFormat::Float32,
            Self::Bfloat16 => WeightFormat::Bfloat16,
            Self::Keep => WeightFormat::Keep,
        }
    }
}

pub(super) fn generate(arguments: &GenerateArguments) -> Result<(), HybridError> {
    arguments.settings.check()?;
    let say = |line: &str| eprintln!("{line}");
    let resolved = Resolver::from_environment().resolve(&arguments.model, &say)?;
    let mut generator = Generator::open(
        &resolved.folder,
        arguments.dtype.format(),
        &arguments.device.device,
    )?;
    if arguments.plain {
        generator = generator.without_chat();
    }
    let format = match arguments.json {
        true => Format::Json,
        false => Format::Text,
    };
    let mut session = Session {
        answers: Answers::new(&generator, &arguments.stops, format),
        arguments,
        generator: &generator,
        n_batches: 0,
    };
    let answered = match arguments.prompts.is_empty() {
        true => session.answer_lines(),
        false => session.answer(&arguments.prompts).map(drop),
    };
    eprintln!("{}", session.answers.speed());
    if let Some(megabytes) = peak_rss_mb() {
        eprintln!("peak memory {megabytes:.0} MB");
    }
    answered
}

/// The prompts of one command.
struct Session<'a> {
    arguments: &'a GenerateArguments,
    generator: &'a Generator,
    answers: Answers<'a>,
    n_batches: u64,
}

impl Session<'_> {
    fn answer_lines(&mut self) -> Result<(), HybridError> {
        let input = std::io::stdin();
        if input.is_terminal() {
            eprintln!("one prompt a line; Ctrl-D ends");
        }
        let mut lines = Lines::new("standard input".into(), input.lock());
        loop {
            let mut prompts = Vec::new();
            let end = lines.collect(CHUNK, &mut prompts, |line| {
                let line = line.trim_end_matches(['\r', '\n']);
                Ok((!line.trim().is_empty()).then(|| line.to_owned()))
            });
            // What came before a faulty line is answered before the fault is reported.
            let reader = self.answer(&prompts)?;
            if end? == End::OfInput || reader == Reader::HasGone {
                return Ok(());
            }
        }
    }

    /// Runs prompts as one batch and prints what is written.
    fn answer(&mut self, prompts: &[String]) -> Result<Reader, HybridError> {
        if prompts.is_empty() {
            return Ok(Reader::Listens);
        }
        let system = self.arguments.system.as_deref();
        let encoded = self.generator.encode(prompts, system)?;
        let settings = &self.arguments.settings;
        let room = self.generator.room(&encoded)?;
        let config = settings.config(room, self.n_batches, self.generator.eos_ids());
        self.n_batches += 1;
        self.answers.write(prompts, &encoded, &config)
    }
}

//! Label words scored with SmolLM2 on SST-2 behind one prompt with eight demonstrations: what the
//! inputs share read once, beside each sequence and each input read on its own.
//!
//! `HYBRID_SST2=FOLDER cargo bench --bench shared_prefixes`; the folder has SST-2's `train.jsonl`
//! and `test.jsonl` (fields `text` and `label`).

use std::error::Error;
use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use hybrid::load_tokenizer;
use hybrid_data::{Example, FieldMapping, LabelSet, Tokenizer, k_shot, read_examples, sample};
use hybrid_models::{DecoderModel, NoHooks, Resolver, ScoreRequest, open_device};
use hybrid_prompts::{DemonstrationChoice, Prompt, Renderer, continuation};

/// Inputs that are scored: as many as a run reads together.
const INPUTS: usize = 32;
const DEMONSTRATIONS: usize = 8;
const SEED: u64 = 42;
/// Most by which scores may differ.
const TOLERANCE: f32 = 1e-4;
/// How many times fewer tokens must be read.
const LEAST_RATIO: f64 = 5.0;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::var_os("HYBRID_SST2")
        .map(PathBuf::from)
        .ok_or("HYBRID_SST2 must name a folder with SST-2's train.jsonl and test.jsonl")?;
    let mapping = FieldMapping::new([("text", "text")], Some("label"));
    let read = |name: &str| read_examples(&folder.join(name), &mapping);
    let (fit, inputs) = (read("train.jsonl")?, read("test.jsonl")?);
    let name = "HuggingFaceTB/SmolLM2-135M-Instruct";
    let resolved = Resolver::from_environment().resolve(name, &|line| eprintln!("{line}"))?;
    let tokenizer = load_tokenizer(&resolved.folder, 8192)?;
    let model = DecoderModel::load(&resolved.folder, &open_device("flex")?)?;

    let prompt = prompt(fit)?;
    let sequences = sequences(&prompt, &sample(inputs, INPUTS, SEED), &tokenizer)?;
    let shared = score(&model, &sequences, sequences.len())?;
    let by_input = score(&model, &sequences, prompt.label_words.len())?;
    let alone = score(&model, &sequences, 1)?;

    let mut out = std::io::stdout();
    writeln!(out, "{INPUTS} inputs, {} sequences", sequences.len())?;
    for (way, read) in [
        ("each sequence alone", &alone),
        ("each input alone", &by_input),
        ("what is shared once", &shared),
    ] {
        let fewer = alone.tokens as f64 / read.tokens as f64;
        let difference = shared.difference(read);
        let Read {
            tokens, seconds, ..
        } = read;
        writeln!(
            out,
            "{way}: {tokens} tokens ({fewer:.2} times fewer), {seconds:.2} s, scores within \
             {difference:.1e}"
        )?;
        if difference > TOLERANCE {
            return Err(format!("{way}: scores differ by more than {TOLERANCE:e}").into());
        }
    }
    let ratio = by_input.tokens as f64 / shared.tokens as f64;
    writeln!(out, "against each input alone: {ratio:.2} times fewer")?;
    if ratio < LEAST_RATIO {
        return Err(format!("expected {LEAST_RATIO} times fewer tokens or better").into());
    }
    Ok(())
}

/// The recipe's prompt with demonstrations that are balanced over the labels.
fn prompt(fit: Vec<Example>) -> Result<Prompt, Box<dyn Error>> {
    let labels = LabelSet::of(&fit)?;
    let fit = k_shot(fit, DEMONSTRATIONS, Some(SEED))?;
    let targets: Vec<usize> = fit
        .iter()
        .filter_map(|example| labels.index_of(example.label.as_deref()?))
        .collect();
    let (n, sets) = (DEMONSTRATIONS, 1);
    let choice = DemonstrationChoice::Balanced { n, sets };
    let mut sets = choice.sets(&fit, &targets, labels.len(), SEED)?;
    let words = labels.names().iter();
    Ok(Prompt {
        template: "Review: {{ text }}\nSentiment:".to_owned(),
        label_words: words
            .map(|label| (label.clone(), vec![label.clone()]))
            .collect(),
        demonstrations: sets.remove(0),
        ..Prompt::default()
    })
}

/// The tokens of each input with each label word, and how many of them are the prompt's.
fn sequences(
    prompt: &Prompt,
    inputs: &[Example],
    tokenizer: &Tokenizer,
) -> Result<Vec<(Vec<i64>, usize)>, Box<dyn Error>> {
    let mut renderer = Renderer::new(prompt, None)?;
    let shown: Vec<usize> = (0..DEMONSTRATIONS).collect();
    let mut sequences = Vec::new();
    for input in inputs {
        let text = renderer.render(&input.fields, &shown)?;
        let context = tokenizer.ids(&text.whole(), !text.has_special_tokens)?;
        for word in prompt.label_words.values().flatten() {
            let word = tokenizer.ids(&continuation(&text.whole(), word), false)?;
            let ids = context.iter().chain(&word).map(|id| i64::from(*id));
            sequences.push((ids.collect(), context.len()));
        }
    }
    Ok(sequences)
}

/// What scoring read, found and took.
#[derive(Default)]
struct Read {
    tokens: usize,
    seconds: f64,
    /// The log-probability of each sequence's label word.
    scores: Vec<f32>,
}

impl Read {
    /// The largest difference of a score.
    fn difference(&self, other: &Self) -> f32 {
        let pairs = self.scores.iter().zip(&other.scores);
        pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    }
}

/// Scores sequences, so many at a time.
fn score(
    model: &DecoderModel,
    sequences: &[(Vec<i64>, usize)],
    together: usize,
) -> Result<Read, Box<dyn Error>> {
    let mut read = Read::default();
    let start = Instant::now();
    for sequences in sequences.chunks(together) {
        let requests: Vec<ScoreRequest<'_>> = sequences
            .iter()
            .map(|(ids, n_context)| ScoreRequest {
                ids,
                n_context: *n_context,
            })
            .collect();
        let scores = model.score(&requests, &NoHooks)?;
        read.tokens += scores.tokens_read;
        let of_words = scores.log_probs.iter().map(|tokens| tokens.iter().sum());
        read.scores.extend::<Vec<f32>>(of_words.collect());
    }
    read.seconds = start.elapsed().as_secs_f64();
    Ok(read)
}

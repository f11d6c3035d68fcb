//! Hybrid's side of `cargo xtask bench-peers decoding`: one job, done and timed in one process.
//!
//!     decoding prepare MODEL TEXT NEW_TOKENS   prints the job that all programs are given
//!     decoding measure JOB                     does the job and prints what it took
//!
//! A job is a JSON object: `model`, a GGUF file; `weights`, `keep` or `float32`; `threads`;
//! `started`, when the process was started, in seconds of the Unix clock; `prompt`, the ids that are
//! read at once; `batch`, the prompts that are continued, the first of them also alone;
//! `new_tokens`, how many are written behind each. The scripts beside this file take the same.

use std::error::Error;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use hybrid::load_tokenizer;
use hybrid_eval::peak_rss_mb;
use hybrid_models::{
    DecoderModel, GenerationConfig, GgufFile, NoHooks, Resolver, WeightFormat, open_device,
};
use serde_json::{Value, json};

/// Tokens of the prompt that is read at once.
const PROMPT: usize = 512;
/// Prompts that are continued together, and the tokens of each.
const BATCH: [usize; 2] = [8, 64];

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let printed = match words[..] {
        ["prepare", model, text, new_tokens] => prepare(model, text.as_ref(), new_tokens.parse()?)?,
        ["measure", job] => measure(&serde_json::from_slice(&std::fs::read(job)?)?)?,
        _ => return Err("expected `prepare MODEL TEXT NEW_TOKENS` or `measure JOB`".into()),
    };
    writeln!(std::io::stdout(), "{printed}")?;
    Ok(())
}

/// A job over the words of a text.
fn prepare(model: &str, text: &Path, new_tokens: usize) -> Result<Value, Box<dyn Error>> {
    let resolved = Resolver::from_environment().resolve(model, &|line| eprintln!("{line}"))?;
    let file = GgufFile::of_model(&resolved.folder)?;
    let file = file.ok_or_else(|| format!("{model} has no GGUF file"))?;
    let tokenizer = load_tokenizer(&resolved.folder, usize::MAX >> 32)?;
    let ids = tokenizer.ids(&std::fs::read_to_string(text)?, false)?;
    let [rows, length] = BATCH;
    let least = PROMPT.max(rows * length);
    if ids.len() < least {
        let (path, found) = (text.display(), ids.len());
        return Err(format!("{path}: expected {least} tokens or more, found {found}").into());
    }
    let batch: Vec<&[u32]> = ids.chunks_exact(length).take(rows).collect();
    let path = std::path::absolute(file.path())?;
    Ok(json!({
        "model": path, "prompt": ids[..PROMPT], "batch": batch, "new_tokens": new_tokens,
    }))
}

fn measure(job: &Value) -> Result<Value, Box<dyn Error>> {
    let format: WeightFormat = serde_json::from_value(job["weights"].clone())?;
    let path: PathBuf = serde_json::from_value(job["model"].clone())?;
    let prompt: Vec<i64> = serde_json::from_value(job["prompt"].clone())?;
    let batch: Vec<Vec<i64>> = serde_json::from_value(job["batch"].clone())?;
    let new_tokens: usize = serde_json::from_value(job["new_tokens"].clone())?;

    let start = Instant::now();
    let model = DecoderModel::load_with(&path, format, &open_device("flex")?)?;
    let load_s = start.elapsed().as_secs_f64();
    write(&model, &batch[..1], 1)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
    let first_token_s = now - job["started"].as_f64().ok_or("a job without `started`")?;

    let read = write(&model, &[prompt], 1)?;
    let alone = write(&model, &batch[..1], new_tokens)?;
    let together = write(&model, &batch, new_tokens)?;
    Ok(json!({
        "versions": { "hybrid": env!("CARGO_PKG_VERSION") },
        "load_s": load_s,
        "first_token_s": first_token_s,
        "prompt_s": read.prompt_s,
        "alone_s": alone.rest_s,
        "batch_s": together.rest_s,
        "ids": together.ids,
        "peak_rss_mb": peak_rss_mb(),
    }))
}

/// Continuations and what they took.
struct Written {
    /// Until the first token of the first row.
    prompt_s: f64,
    /// After it.
    rest_s: f64,
    ids: Vec<Vec<i64>>,
}

/// Continues prompts by the best tokens; no token ends a sequence.
fn write(
    model: &DecoderModel,
    prompts: &[Vec<i64>],
    new_tokens: usize,
) -> Result<Written, Box<dyn Error>> {
    let config = GenerationConfig {
        max_new_tokens: new_tokens,
        ..GenerationConfig::default()
    };
    let (start, mut first) = (Instant::now(), None);
    let generated = model.generate(prompts, &config, &NoHooks, &mut |_, _| {
        first.get_or_insert_with(Instant::now);
        false
    })?;
    let (first, end) = (first.unwrap_or(start), Instant::now());
    Ok(Written {
        prompt_s: (first - start).as_secs_f64(),
        rest_s: (end - first).as_secs_f64(),
        ids: generated.into_iter().map(|row| row.ids).collect(),
    })
}

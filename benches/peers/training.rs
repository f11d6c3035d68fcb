//! What `cargo xtask bench-peers training` gives the peers.
//!
//!     training model RECIPE                       prints where its base is: `{"model": FOLDER}`
//!     training job RECIPE FOLDER [KEY=VALUE...]   prints what a recipe does, for a peer to do the
//!                                                 same; LoRA's first values go into FOLDER
//!
//! A job is a JSON object: `model`, a folder or GGUF file; `adapter`, a folder in PEFT's format, or
//! null; `head`, the first values of the classifier; `label_tokens`, in place of a head the first
//! tokens of each label's words; `ids` and `targets` of each row; `batches`, for each epoch the rows
//! of each update; `lr`, the constant rate of AdamW. Of a stage with variants, `variants` has the
//! `adapter` and the `lr` of each, and `select` and `report` have `ids` and `targets` to score.
//!
//! The recipe has one adapter stage, and a prompt if its base is a language model. Its draws are
//! those of a run of it (`ARCHITECTURE.md`, Determinism); where they were not, losses would differ.

use std::error::Error;
use std::io::Write;
use std::path::{Path, PathBuf};

use hybrid::load_tokenizer;
use hybrid::recipe::{AdapterStage, AdapterVariant, HeadStage, Recipe, StageConfig, load};
use hybrid_adapters::{AdapterConfig, Adapters, ClassifierHead, HeadConfig, HeadForm, save_peft};
use hybrid_data::{
    BatchLimits, BatchOrder, Example, FieldMapping, LabelSet, Tokenizer, derive_seed,
    length_buckets, read_examples,
};
use hybrid_models::{Base, DecoderModel, GgufFile, Model, Resolver, open_device};
use hybrid_optim::OptimizerConfig;
use hybrid_prompts::{Prompt, Renderer, continuation};
use serde_json::{Value, json};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let printed = match &words[..] {
        ["model", recipe] => json!({ "model": model_of(&load(recipe.as_ref(), &[])?)? }),
        ["job", recipe, folder, settings @ ..] => {
            let pair = |text: &&str| {
                let (key, value) = text.split_once('=').unwrap_or((text, ""));
                (key.to_owned(), value.to_owned())
            };
            let settings: Vec<(String, String)> = settings.iter().map(pair).collect();
            prepare(&load(recipe.as_ref(), &settings)?, folder.as_ref())?
        }
        _ => return Err("expected `model RECIPE` or `job RECIPE FOLDER [KEY=VALUE...]`".into()),
    };
    writeln!(std::io::stdout(), "{printed}")?;
    Ok(())
}

/// The folder of a recipe's base, or its GGUF file.
fn model_of(recipe: &Recipe) -> Result<PathBuf, Box<dyn Error>> {
    let name = &recipe.base.model;
    let resolved = Resolver::from_environment().resolve(name, &|line| eprintln!("{line}"))?;
    let file = GgufFile::of_model(&resolved.folder)?;
    let path = file.map_or(resolved.folder, |file| file.path().to_owned());
    Ok(std::path::absolute(path)?)
}

fn prepare(recipe: &Recipe, folder: &Path) -> Result<Value, Box<dyn Error>> {
    let [StageConfig::Adapter(stage)] = &recipe.stages[..] else {
        return Err("expected a recipe of one adapter stage".into());
    };
    let mapping = FieldMapping::new([("text", "text")], Some("label"));
    let read = |file: &Path| read_examples(&recipe.data.folder.join(file), &mapping);
    let fit = read(&recipe.data.fit)?;
    let labels = LabelSet::of(&fit)?;
    let model = model_of(recipe)?;
    let device = open_device("flex")?;
    let init_seed = derive_seed(recipe.seed, &format!("1/{}/init", stage.name));
    let save = |base: &dyn Base| save_adapter(&stage.methods, base, init_seed, folder);
    let encoded =
        |tokenizer: &Tokenizer, rows: &[Example]| -> Result<Vec<Vec<u32>>, Box<dyn Error>> {
            let texts: Vec<String> = rows.iter().map(|row| row.fields["text"].clone()).collect();
            let encodings = tokenizer.encode(&texts)?;
            Ok(encodings.into_iter().map(|row| row.ids).collect())
        };

    let mut job = match &recipe.prompt {
        Some(prompt) => {
            let tokenizer = load_tokenizer(&model, usize::MAX)?;
            let base = DecoderModel::load(&model, &device)?;
            let (ids, label_tokens) = language_rows(prompt, &fit, &labels, &tokenizer)?;
            json!({
                "model": model, "adapter": save(&base)?,
                "label_tokens": label_tokens, "ids": ids,
            })
        }
        None => {
            let tokenizer = load_tokenizer(&model, recipe.base.max_length)?;
            let base = Model::load_encoder(&model, &device)?;
            let config = head_config(&stage.head);
            let d_model = base.encoder.d_model();
            let head = ClassifierHead::init(config, d_model, labels.len(), init_seed, &device);
            let mut job = json!({
                "model": model, "adapter": save(&base)?,
                "head": described(&head), "ids": encoded(&tokenizer, &fit)?,
            });
            if !stage.variants.is_empty() {
                job["variants"] = json!(variants(stage, &base, init_seed, folder)?);
                let select = recipe.data.select.as_ref().ok_or("expected select rows")?;
                for (part, file) in [("select", select), ("report", &recipe.data.report)] {
                    let rows = read(file)?;
                    job[part] = json!({
                        "ids": encoded(&tokenizer, &rows)?, "targets": labels.targets(&rows)?,
                    });
                }
            }
            job
        }
    };
    let lengths: Vec<usize> = serde_json::from_value::<Vec<Vec<u32>>>(job["ids"].clone())?
        .iter()
        .map(Vec::len)
        .collect();
    job["targets"] = json!(labels.targets(&fit)?);
    job["batches"] = json!(batches(recipe.seed, stage, &lengths));
    job["lr"] = json!(constant_rate(&stage.optimizer)?);
    Ok(job)
}

/// The first values and the rate of each variant.
fn variants(
    stage: &AdapterStage,
    base: &dyn Base,
    seed: u64,
    folder: &Path,
) -> Result<Vec<Value>, Box<dyn Error>> {
    let variants = stage.variants.iter().enumerate();
    let described = variants.map(|(place, variant)| -> Result<Value, Box<dyn Error>> {
        let methods = variant.methods.as_ref().unwrap_or(&stage.methods);
        let optimizer = variant.optimizer.as_ref().unwrap_or(&stage.optimizer);
        let known = AdapterVariant {
            methods: variant.methods.clone(),
            optimizer: variant.optimizer.clone(),
            ..AdapterVariant::default()
        };
        if *variant != known {
            return Err("expected variants of methods and optimizer alone".into());
        }
        let folder = folder.join(format!("variant-{}", place + 1));
        Ok(json!({
            "adapter": save_adapter(methods, base, seed, &folder)?,
            "lr": constant_rate(optimizer)?,
        }))
    });
    described.collect()
}

fn constant_rate(optimizer: &OptimizerConfig) -> Result<f64, Box<dyn Error>> {
    match optimizer {
        OptimizerConfig::Adamw { lr, .. } => Ok(*lr),
        _ => Err("expected a stage with AdamW".into()),
    }
}

/// Writes the first values of adapters, if there are any; where.
fn save_adapter(
    methods: &[AdapterConfig],
    base: &dyn Base,
    seed: u64,
    folder: &Path,
) -> Result<Option<PathBuf>, Box<dyn Error>> {
    if methods.is_empty() {
        return Ok(None);
    }
    let adapters = Adapters::init(methods, base, seed, &open_device("flex")?)?;
    save_peft(&adapters, base, "base", None, folder)?;
    Ok(Some(std::path::absolute(folder)?))
}

fn head_config(head: &HeadStage) -> HeadConfig {
    HeadConfig {
        pooling: head.pooling,
        normalize: head.normalize,
        scale: head.scale,
        form: HeadForm::Linear,
    }
}

/// Pooling and values of a head: `weight` by row of `[d_model, n_labels]`.
fn described(head: &ClassifierHead) -> Value {
    let values = head.named_tensors();
    let of = |name: &str| {
        let found = values.iter().find(|(key, _)| key == name);
        found.map(|(_, data)| data.iter::<f32>().collect::<Vec<f32>>())
    };
    json!({
        "pooling": head.pooling(), "normalize": head.config().normalize,
        "n_labels": head.n_labels(), "weight": of("weight"), "bias": of("bias"),
    })
}

/// The rows of each update, for each epoch.
fn batches(seed: u64, stage: &AdapterStage, lengths: &[usize]) -> Vec<Vec<Vec<usize>>> {
    let limits = BatchLimits {
        max_rows: stage.batch_size,
        max_tokens: usize::MAX,
    };
    let epoch = |epoch: usize| {
        let seed = derive_seed(seed, &format!("1/{}/epoch/{epoch}", stage.name));
        length_buckets(lengths, limits, BatchOrder::Shuffled(seed))
    };
    (0..stage.epochs).map(epoch).collect()
}

/// The tokens of each prompt, and the first tokens of each label's words.
fn language_rows(
    prompt: &Prompt,
    fit: &[Example],
    labels: &LabelSet,
    tokenizer: &Tokenizer,
) -> Result<(Vec<Vec<u32>>, Vec<Vec<u32>>), Box<dyn Error>> {
    let mut renderer = Renderer::new(prompt, None)?;
    let (mut ids, mut before) = (Vec::new(), String::new());
    for example in fit {
        before = renderer.render(&example.fields, &[])?.whole();
        ids.push(tokenizer.ids(&before, true)?);
    }
    let first = |word: &String| -> Result<u32, Box<dyn Error>> {
        let ids = tokenizer.ids(&continuation(&before, word), false)?;
        Ok(*ids.first().ok_or("a label word without tokens")?)
    };
    let tokens = labels
        .names()
        .iter()
        .map(|label| prompt.words_of(label).iter().map(first).collect())
        .collect::<Result<_, _>>()?;
    Ok((ids, tokens))
}

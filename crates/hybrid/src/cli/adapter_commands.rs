//! `methods`, `inspect` and `combine`: what adapters there are, what one is, and several as one.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use hybrid_adapters::{
    AdapterConfig, Adapters, CombinationType, CombineConfig, MajoritySign, MethodInfo, PeftSummary,
    TrainingMemory, catalogue, combine, inspect_peft, load_peft, save_peft,
};
use hybrid_models::{Base, BaseKind, DecoderModel, EncoderDecoder, Model, open_device};
use serde_json::{Value, json};

use super::DeviceArgument;
use super::artifact_commands::is_free;
use super::output::{self, say};
use crate::artifact::{ArtifactDescription, PEFT};
use crate::open_model::find_base;
use crate::peft_artifact;
use crate::recipe::{self, AdapterStage, BaseInit, Recipe, StageConfig};
use crate::{HybridError, error::describe, parallel};

#[derive(Debug, clap::Args)]
pub(super) struct MethodsArguments {
    /// Count each method's values over this base: a hub id, a folder or a GGUF file.
    #[arg(long)]
    base: Option<String>,
    /// Estimate the memory that each takes in the adapter stages of this recipe, over its base when
    /// none is given.
    #[arg(long)]
    recipe: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    device: DeviceArgument,
}

#[derive(Debug, clap::Args)]
pub(super) struct InspectArguments {
    /// An adapter's folder in PEFT's format, or an artifact.
    adapter: PathBuf,
    /// Hold the adapter against this base: a hub id, a folder or a GGUF file.
    #[arg(long)]
    base: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    device: DeviceArgument,
}

#[derive(Debug, clap::Args)]
pub(super) struct CombineArguments {
    /// LoRAs over one base: folders in PEFT's format or artifacts, each with its weight after `=`,
    /// which may be negative; 1 when left out.
    #[arg(required = true, value_name = "ADAPTER[=WEIGHT]", value_parser = weighted)]
    adapters: Vec<(PathBuf, f64)>,
    /// The folder to write: a new or an empty one.
    #[arg(long)]
    out: PathBuf,
    /// How they become one: linear, cat, svd, ties, ties_svd, dare_linear, dare_linear_svd,
    /// dare_ties, dare_ties_svd, magnitude_prune, magnitude_prune_svd.
    #[arg(long, default_value = "svd", value_parser = rule)]
    rule: CombinationType,
    /// Rank of the result for `svd`; the largest rank when left out.
    #[arg(long)]
    rank: Option<usize>,
    /// Share of the values that ties, dare and magnitude_prune keep.
    #[arg(long)]
    density: Option<f64>,
    /// Let each adapter have one vote on a value's sign, for ties.
    #[arg(long)]
    by_frequency: bool,
    /// Of the values that dare drops.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// The base; the first adapter's when left out.
    #[arg(long)]
    base: Option<String>,
    #[command(flatten)]
    device: DeviceArgument,
}

fn weighted(text: &str) -> Result<(PathBuf, f64), String> {
    let Some((folder, weight)) = text.rsplit_once('=') else {
        return Ok((text.into(), 1.0));
    };
    let number = weight
        .parse::<f64>()
        .ok()
        .filter(|weight| weight.is_finite());
    let number = number.ok_or_else(|| format!("{weight:?} is no weight; expected a number"))?;
    Ok((folder.into(), number))
}

fn rule(text: &str) -> Result<CombinationType, String> {
    serde_json::from_value(json!(text)).map_err(|error| error.to_string())
}

/// The layers of a base, without its tokenizer; a run puts a head of its own on an encoder.
fn open_base(name: &str, for_run: bool, device: &Device) -> Result<Box<dyn Base>, HybridError> {
    let folder = find_base(name, BaseInit::Pretrained, &say)?.folder;
    Ok(match BaseKind::of_folder(&folder)? {
        BaseKind::Encoder if for_run => Box::new(Model::load_encoder(&folder, device)?),
        BaseKind::Encoder => Box::new(Model::load(&folder, device)?),
        BaseKind::Decoder => Box::new(DecoderModel::load(&folder, device)?),
        BaseKind::EncoderDecoder => Box::new(EncoderDecoder::load(&folder, device)?),
    })
}

pub(super) fn methods(arguments: &MethodsArguments) -> Result<(), HybridError> {
    let device = open_device(&arguments.device.device)?;
    let recipe = arguments.recipe.as_deref();
    let recipe = recipe.map(|path| recipe::load(path, &[])).transpose()?;
    let of_recipe = recipe.as_ref().map(|recipe| recipe.base.model.as_str());
    let base = arguments.base.as_deref().or(of_recipe);
    let base = base.map(|name| open_base(name, recipe.is_some(), &device));
    let base = base.transpose()?;
    let update = recipe.as_ref().map(|recipe| Update::of(recipe, &device));
    let sized = |info: &MethodInfo| {
        let base = base.as_deref()?;
        Some(info.over(base, &device).map(|adapters| {
            let Update { tokens, recomputes } = update.unwrap_or_default();
            let memory = TrainingMemory::estimated(&adapters, base, tokens, recomputes);
            (adapters.n_parameters(), memory)
        }))
    };
    if arguments.json {
        let row = |info: &MethodInfo| {
            let mut row = json!(info);
            row["settings"] = json!(info.default_config());
            match sized(info) {
                Some(Ok((n, memory))) => {
                    row["parameters"] = json!(n);
                    row["training_bytes"] = json!(memory);
                    if update.is_none() {
                        row["training_bytes"]["activations"] = Value::Null;
                    }
                }
                Some(Err(error)) => row["refused"] = json!(describe(&error)),
                None => {}
            }
            row
        };
        let rows: Vec<Value> = catalogue().iter().map(row).collect();
        return output::print(&format!("{:#}", json!(rows)));
    }
    let width = catalogue()
        .iter()
        .map(|info| info.name.len())
        .max()
        .unwrap_or(0);
    let mut text = String::new();
    for info in catalogue() {
        let merges = merging(info);
        let in_peft = info.peft_type.unwrap_or("not in PEFT");
        // Writing into a string cannot fail.
        let _ = writeln!(text, "{:width$}  {}", info.name, info.does);
        let _ = writeln!(text, "{:width$}  {}; {merges}; {in_peft}", "", info.acts_on);
        let _ = writeln!(text, "{:width$}  {}", "", info.paper);
        match sized(info) {
            Some(Ok((n, memory))) => {
                let trained = in_megabytes(memory.trained);
                let _ = write!(text, "{:width$}  {n} values, {trained} to train", "");
                if update.is_some() {
                    let [kept, all] = [memory.activations, memory.total()].map(in_megabytes);
                    let _ = write!(text, ", activations up to {kept}, with the base {all}");
                }
                let _ = writeln!(text);
            }
            Some(Err(error)) => {
                let _ = writeln!(
                    text,
                    "{:width$}  not over this base: {}",
                    "",
                    describe(&error)
                );
            }
            None => {}
        }
    }
    output::print(text.trim_end())
}

/// What is computed at once in an update of a recipe's adapter stages, at most.
#[derive(Debug, Clone, Copy, Default)]
struct Update {
    tokens: usize,
    recomputes: bool,
}

impl Update {
    fn of(recipe: &Recipe, device: &Device) -> Self {
        let stages = recipe.stages.iter().filter_map(|stage| match stage {
            StageConfig::Adapter(stage) => Some(stage),
            StageConfig::Prompt(_) => None,
        });
        let max_length = recipe.base.max_length;
        let tokens = |stage: &AdapterStage| {
            let at_once = stage.max_tokens.max(max_length) * parallel::pieces(device);
            let copies = match stage.variants_together {
                true => stage.variants.len().max(1),
                false => 1,
            };
            at_once.min(stage.batch_size * max_length * copies)
        };
        Self {
            tokens: stages.clone().map(tokens).max().unwrap_or(0),
            recomputes: stages.clone().all(|stage| stage.recompute_layers),
        }
    }
}

fn merging(info: &MethodInfo) -> &'static str {
    match info.merges {
        true => "merges",
        false => "does not merge",
    }
}

fn in_megabytes(bytes: usize) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

/// Where an adapter lies: in a folder of its own, or in an artifact.
fn peft_folder(folder: &Path) -> PathBuf {
    let inside = [folder.join("artifact").join(PEFT), folder.join(PEFT)];
    let found = inside.into_iter().find(|inside| inside.is_dir());
    found.unwrap_or_else(|| folder.to_owned())
}

pub(super) fn inspect(arguments: &InspectArguments) -> Result<(), HybridError> {
    let folder = peft_folder(&arguments.adapter);
    let is_of_peft = peft_artifact::is_there(&folder);
    if !is_of_peft && let Some(description) = ArtifactDescription::find(&arguments.adapter)? {
        return inspect_artifact(&description, arguments.json);
    }
    let summary = inspect_peft(&folder)?;
    let fit = match &arguments.base {
        None => None,
        Some(name) => {
            let device = open_device(&arguments.device.device)?;
            let base = open_base(name, false, &device)?;
            Some(load_peft(&folder, base.as_ref(), &device)?.n_parameters())
        }
    };
    match arguments.json {
        true => output::print(&format!("{:#}", as_json(&summary, fit))),
        false => output::print(&as_text(&summary, fit)),
    }
}

/// An artifact whose adapter PEFT's format cannot hold, or that has none.
fn inspect_artifact(description: &ArtifactDescription, json: bool) -> Result<(), HybridError> {
    if json {
        return output::print(&format!("{:#}", json!(description)));
    }
    let mut text = format!("base      {}", description.base);
    match &description.adapter {
        None => text.push_str("\nadapter   none: a prompt alone"),
        Some(record) => {
            for config in &record.methods {
                text.push_str(&of_method(config));
            }
            let n = record.trainable_parameters;
            // Writing into a string cannot fail.
            let _ = write!(text, "\nvalues    {n} were trained");
        }
    }
    output::print(&text)
}

fn of_method(config: &AdapterConfig) -> String {
    let info = MethodInfo::of(config);
    let merges = merging(info);
    let mut settings = json!(config);
    if let Some(settings) = settings.as_object_mut() {
        settings.remove("method");
    }
    format!(
        "\nmethod    {}: {}; {merges}\npaper     {}\nsettings  {settings}",
        info.name, info.does, info.paper
    )
}

fn as_json(summary: &PeftSummary, fit: Option<usize>) -> Value {
    let mut value = json!({
        "base": summary.base_name,
        "methods": summary.methods,
        "modules_to_save": summary.modules_to_save,
        "n_values": summary.n_values,
        "peft_type": summary.peft_type,
        "peft_version": summary.peft_version,
        "task_type": summary.task_type,
        "tensors": summary.shapes,
    });
    if let Some(n) = fit {
        value["trainable_over_base"] = json!(n);
    }
    value
}

fn as_text(summary: &PeftSummary, fit: Option<usize>) -> String {
    let or_none = |name: &Option<String>| name.clone().unwrap_or_else(|| "not named".to_owned());
    let mut text = format!(
        "format    PEFT {}, {}\nbase      {}\ntask      {}",
        or_none(&summary.peft_version),
        summary.peft_type,
        or_none(&summary.base_name),
        or_none(&summary.task_type)
    );
    for config in &summary.methods {
        text.push_str(&of_method(config));
    }
    // Writing into a string cannot fail.
    let _ = write!(
        text,
        "\ntensors   {} with {} values, {}",
        summary.shapes.len(),
        summary.n_values,
        in_megabytes(4 * summary.n_values)
    );
    if !summary.modules_to_save.is_empty() {
        let _ = write!(text, "\nwhole     {}", summary.modules_to_save.join(", "));
    }
    if let Some(n) = fit {
        let _ = write!(text, "\nfits      the base, with {n} trained values");
    }
    for (name, shape) in &summary.shapes {
        let _ = write!(text, "\n  {name} {shape:?}");
    }
    text
}

pub(super) fn combine_adapters(arguments: &CombineArguments) -> Result<(), HybridError> {
    let out = &arguments.out;
    if !is_free(out) {
        return Err(HybridError::Occupied { path: out.clone() });
    }
    let folders: Vec<PathBuf> = arguments
        .adapters
        .iter()
        .map(|(folder, _)| peft_folder(folder))
        .collect();
    let first = inspect_peft(&folders[0])?;
    let name = arguments.base.clone().or(first.base_name);
    let name = name.ok_or(HybridError::Option {
        option: "--base",
        reason: "the first adapter names no base",
    })?;
    let device = open_device(&arguments.device.device)?;
    let base = open_base(&name, false, &device)?;
    let mut loaded: Vec<Adapters> = Vec::new();
    for folder in &folders {
        loaded.push(load_peft(folder, base.as_ref(), &device)?);
    }
    let weights = arguments.adapters.iter().map(|(_, weight)| *weight);
    let weighted: Vec<(&Adapters, f64)> = loaded.iter().zip(weights).collect();
    let config = CombineConfig {
        combination_type: arguments.rule,
        svd_rank: arguments.rank,
        density: arguments.density,
        majority_sign_method: match arguments.by_frequency {
            true => MajoritySign::Frequency,
            false => MajoritySign::Total,
        },
        seed: arguments.seed,
    };
    let combined = combine(&weighted, &config, base.as_ref(), &device)?;
    save_peft(&combined, base.as_ref(), &name, None, out)?;
    output::print(&out.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::weighted;

    #[test]
    fn a_weight_stands_after_the_last_equals_sign() {
        assert_eq!(weighted("a=b=-0.5"), Ok(("a=b".into(), -0.5)));
        assert_eq!(weighted("folder"), Ok(("folder".into(), 1.0)));
        assert!(weighted("folder=much").is_err());
        assert!(weighted("folder=NaN").is_err());
    }
}

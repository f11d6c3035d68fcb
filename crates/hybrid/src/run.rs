//! A run from recipe to report: check everything first, then work, then tell.

use std::path::{Path, PathBuf};

use hybrid_eval::Report;
use hybrid_models::{Model, Resolver, open_device};
use serde_json::Value;

use crate::HybridError;
use crate::alternate::{self, Outcome};
use crate::artifact::{self, ArtifactDescription};
use crate::journal::{Event, Journal};
use crate::local_model::LocalModel;
use crate::model_tokenizer::load_tokenizer;
use crate::preflight;
use crate::progress::{Progress, Show};
use crate::recipe::{self, Recipe};
use crate::run_folder::{RunFolder, is_occupied, write_folder_whole, write_whole};
use crate::stage::{Context, Spent};
use crate::summary;
use crate::task::TaskData;

/// What `train` is asked to do.
#[derive(Debug, Clone)]
pub struct TrainOptions {
    /// The recipe file.
    pub recipe: PathBuf,
    /// The run folder; `runs/NAME` when left out.
    pub out: Option<PathBuf>,
    /// Keys of the recipe to change: `--set key=value`.
    pub settings: Vec<(String, String)>,
    /// Remove what an earlier run left in the folder.
    pub fresh: bool,
    /// Name of the device.
    pub device: String,
    /// What to show.
    pub show: Show,
}

/// Runs a recipe into a run folder, or goes on with an unfinished run there.
///
/// Nothing is written before recipe, device, data, base and prompts have been checked.
///
/// # Errors
/// [`HybridError`]; what was finished before an error is in the run folder.
pub fn train(options: &TrainOptions) -> Result<(), HybridError> {
    let mut progress = Progress::new(options.show);
    let recipe = recipe::load(&options.recipe, &options.settings)?;
    let out = options
        .out
        .clone()
        .unwrap_or_else(|| Path::new("runs").join(&recipe.name));
    if !options.fresh && is_finished(&out, &recipe)? {
        let report = out.join("report.html");
        progress.say(&format!(
            "this run is finished: {} (start over with --fresh)",
            report.display()
        ));
        return show_report(&out, &progress);
    }

    let device = open_device(&options.device)?;
    let data = TaskData::read(&recipe.data, recipe.seed)?;
    let resolved =
        Resolver::from_environment().resolve(&recipe.base.model, &|line| progress.say(line))?;
    progress.say(&format!(
        "base {} from {}",
        recipe.base.model, resolved.source
    ));
    let base = Model::load_encoder(&resolved.folder, &device)?;
    let tokenizer = load_tokenizer(&resolved.folder, recipe.base.max_length)?;
    let mut model = LocalModel::new(base, tokenizer, device, recipe.base.pooling);
    preflight::check(&recipe, &data, &model)?;

    let run = RunFolder::open(&out)?;
    model.work_for(run.path());
    if options.fresh {
        run.clear()?;
    }
    let text = toml::to_string_pretty(&recipe).expect("recipes are plain data");
    write_whole(&run.recipe(), text.as_bytes())?;
    let (mut journal, done) = Journal::open(&run.journal())?;
    let mut context = Context {
        recipe: &recipe,
        run: &run,
        data: &data,
        model: &mut model,
        journal: &mut journal,
        progress: &mut progress,
        spent: Spent::default(),
        round: 0,
    };
    context.happened(Event::Started {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        device: options.device.clone(),
    })?;
    let outcome = alternate::run(&mut context, &done)?;
    finish(&mut context, &outcome, &options.device)?;
    show_report(&out, &progress)
}

/// Whether the folder holds a finished run of this recipe.
fn is_finished(out: &Path, recipe: &Recipe) -> Result<bool, HybridError> {
    let stored = out.join("recipe.toml");
    if !stored.exists() {
        return if is_occupied(out) {
            Err(HybridError::NotARun {
                path: out.to_owned(),
            })
        } else {
            Ok(false)
        };
    }
    let old = recipe::load_resolved(&stored)?;
    let plain = |recipe: &Recipe| serde_json::to_value(recipe).expect("recipes are plain data");
    let mut changes = Vec::new();
    differences("", &plain(&old), &plain(recipe), &mut changes);
    if !changes.is_empty() {
        return Err(HybridError::RecipeChanged {
            path: out.to_owned(),
            changes,
        });
    }
    Ok(out.join("report.json").exists()
        && out.join("report.html").exists()
        && out.join("README.md").exists())
}

/// The keys in which two recipes differ: `key: old -> new`.
fn differences(key: &str, old: &Value, new: &Value, changes: &mut Vec<String>) {
    let below = |name: &str| {
        if key.is_empty() {
            name.to_owned()
        } else {
            format!("{key}.{name}")
        }
    };
    match (old, new) {
        (Value::Object(a), Value::Object(b)) => {
            let added = b.keys().filter(|name| !a.contains_key(*name));
            for name in a.keys().chain(added) {
                let side = |fields: &serde_json::Map<String, Value>| {
                    fields.get(name).cloned().unwrap_or(Value::Null)
                };
                differences(&below(name), &side(a), &side(b), changes);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (index, (a, b)) in a.iter().zip(b).enumerate() {
                differences(&below(&index.to_string()), a, b, changes);
            }
        }
        _ if old == new => {}
        _ => changes.push(format!("{key}: {old} -> {new}")),
    }
}

/// Scores the winner on the report split and writes artifact and report.
fn finish(context: &mut Context<'_>, outcome: &Outcome, device: &str) -> Result<(), HybridError> {
    let winner = outcome.winner();
    alternate::activate(context, winner)?;
    let report = summary::report(context, outcome, device)?;
    let details = summary::card_details(context, winner);
    let recipe = context.recipe;
    let description = ArtifactDescription::new(
        recipe.base.model.clone(),
        recipe.base.max_length,
        recipe.base.pooling,
        context.data.labels.clone(),
        winner.adapter.clone(),
        recipe.data.clone(),
    );
    write_folder_whole(&context.run.artifact(), |folder| {
        artifact::write(
            folder,
            &description,
            &winner.prompt,
            context.model.active(),
            &context.model.base,
        )?;
        Ok(report.write_card(&details, &folder.join("README.md"))?)
    })?;
    report.write_card(&details, &context.run.card())?;
    report.write_html(&context.run.report_html())?;
    context.run.clear_checkpoint()?;
    // Last, because its presence says that the run is finished.
    report.write_json(&context.run.report_json())?;
    context.happened(Event::Finished)
}

fn show_report(out: &Path, progress: &Progress) -> Result<(), HybridError> {
    let path = out.join("report.json");
    let report = Report::read_json(&path)?;
    progress.say(&summary::in_words(&report, out));
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::differences;

    #[test]
    fn differences_name_key_old_and_new() {
        let mut changes = Vec::new();
        let old = json!({"seed": 1, "stages": [{"epochs": 4}], "gone": 1});
        let new = json!({"seed": 1, "stages": [{"epochs": 5}], "budget": {"max_rounds": 2}});
        differences("", &old, &new, &mut changes);
        assert_eq!(
            changes,
            [
                "stages.0.epochs: 4 -> 5",
                "gone: 1 -> null",
                "budget: null -> {\"max_rounds\":2}"
            ]
        );
    }
}

//! A run from recipe to report: check everything first, then work, then tell.

use std::path::{Path, PathBuf};

use hybrid_eval::Report;
use hybrid_models::open_device;
use serde::Serialize;
use serde_json::{Value, json};

use crate::HybridError;
use crate::alternate::{self, Outcome};
use crate::artifact::{self, ArtifactDescription};
use crate::inputs::Inputs;
use crate::journal::{Event, Journal};
use crate::local_model::Memory;
use crate::open_model::{find_base, open_model};
use crate::preflight;
use crate::progress::{Progress, Show};
use crate::recipe::{self, Recipe};
use crate::run_folder::{Content, RunFolder, content_of, write_folder_whole, write_whole};
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
    let file = recipe::load_file(&options.recipe, &options.settings)?;
    let recipe = &file.recipe;
    let out = options
        .out
        .clone()
        .unwrap_or_else(|| Path::new("runs").join(&recipe.name));
    if is_finished(&out, recipe, options)? {
        return show_finished(&out, &progress);
    }

    let device = open_device(&options.device)?;
    let data = TaskData::read(recipe)?;
    let init = recipe.base.init;
    let resolved = find_base(&recipe.base.model, init, &|line| progress.say(line))?;
    progress.say(&format!(
        "base {} from {}",
        recipe.base.model, resolved.source
    ));
    let mut model = open_model(
        &resolved.folder,
        (init, recipe.seed),
        recipe.base.max_length,
        recipe.base.pooling,
        recipe.base.dtype,
        device,
    )?;
    preflight::check(&file, &data, &model)?;
    let inputs = Inputs::of(&recipe.data, &resolved.folder, &options.device)?;

    let run = RunFolder::open(&out)?;
    // Before the lock was ours another process may have begun a run here, or finished one.
    if is_finished(&out, recipe, options)? {
        return show_finished(&out, &progress);
    }
    if options.fresh {
        run.clear()?;
    }
    run.write_recipe(recipe)?;
    let memory = match model.is_language_model() {
        true => Memory::open(&run.answers())?,
        false => Memory::default(),
    };
    model.work_for(run.path(), memory);
    let (mut journal, done) = Journal::open(&run.journal())?;
    same_inputs(&out, &done, &inputs)?;
    let mut context = Context {
        recipe,
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
        inputs,
    })?;
    let outcome = alternate::run(&mut context, &done)?;
    finish(&mut context, &outcome, &options.device)?;
    show_report(&out, &progress)
}

/// Whether the folder holds a finished run of this recipe on this device that is to be kept.
fn is_finished(out: &Path, recipe: &Recipe, options: &TrainOptions) -> Result<bool, HybridError> {
    match content_of(out) {
        Content::Nothing => return Ok(false),
        Content::Foreign => {
            return Err(HybridError::NotARun {
                path: out.to_owned(),
            });
        }
        Content::Run if options.fresh => return Ok(false),
        Content::Run => {}
    }
    let old = recipe::load_resolved(&out.join("recipe.toml"))?;
    refuse_changes(out, &old, recipe)?;
    let finished = ["report.json", "report.html", "README.md"]
        .iter()
        .all(|name| out.join(name).is_file());
    if finished {
        let device = |name: &str| json!({ "device": name });
        let report = Report::read_json(&out.join("report.json"))?;
        refuse_changes(out, &device(&report.device), &device(&options.device))?;
    }
    Ok(finished)
}

/// Refuses to go on with a run that was begun with other inputs.
fn same_inputs(out: &Path, done: &[Event], inputs: &Inputs) -> Result<(), HybridError> {
    let begun = done.iter().find_map(|event| match event {
        Event::Started { inputs, .. } => Some(inputs),
        _ => None,
    });
    begun.map_or(Ok(()), |begun| refuse_changes(out, begun, inputs))
}

fn refuse_changes<T: Serialize>(out: &Path, old: &T, new: &T) -> Result<(), HybridError> {
    let plain = |value: &T| serde_json::to_value(value).expect("recipes and inputs are plain data");
    let mut changes = Vec::new();
    differences("", &plain(old), &plain(new), &mut changes);
    if changes.is_empty() {
        return Ok(());
    }
    Err(HybridError::Changed {
        path: out.to_owned(),
        changes,
    })
}

/// The keys in which two values differ: `key: old -> new`.
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
    let card = report.to_card(&summary::card_details(context, winner))?;
    let recipe = context.recipe;
    let description =
        ArtifactDescription::of(recipe, context.data.task.clone(), winner.adapter.clone());
    write_folder_whole(&context.run.artifact(), |folder| {
        artifact::write(
            folder,
            &description,
            &winner.prompt,
            context.model.active(),
            context.model.base.as_base(),
        )?;
        write_whole(&folder.join("README.md"), card.as_bytes())
    })?;
    write_whole(&context.run.card(), card.as_bytes())?;
    write_whole(&context.run.report_html(), report.to_html()?.as_bytes())?;
    context.run.clear_checkpoints()?;
    // Last, because its presence says that the run is finished.
    write_whole(&context.run.report_json(), report.to_json()?.as_bytes())?;
    context.happened(Event::Finished)
}

fn show_finished(out: &Path, progress: &Progress) -> Result<(), HybridError> {
    progress.say(&format!(
        "this run is finished: {} (start over with --fresh)",
        out.join("report.html").display()
    ));
    show_report(out, progress)
}

fn show_report(out: &Path, progress: &Progress) -> Result<(), HybridError> {
    let report = Report::read_json(&out.join("report.json"))?;
    progress.say(&summary::in_words(&report, out));
    progress.result(&summary::in_json(&report, out));
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

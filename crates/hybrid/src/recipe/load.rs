//! Reads a recipe file into a [`Recipe`].

use std::path::{Path, PathBuf};

use serde_json::Value;
use toml::de::DeTable;

use super::check::{Fault, RecipeFaults, check};
use super::set::set;
use super::{Recipe, StageConfig};

/// Why a recipe cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecipeError {
    /// The file cannot be read.
    #[error("{path}: the recipe cannot be read: {source}")]
    Read {
        /// The recipe file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{path}: not a TOML file: {source}")]
    Syntax {
        /// The recipe file.
        path: PathBuf,
        /// Where and why.
        source: toml::de::Error,
    },
    /// The file is TOML but no recipe.
    #[error(transparent)]
    Faults(#[from] RecipeFaults),
}

/// The JSON Schema of a recipe, for editors.
pub fn schema() -> Value {
    schemars::schema_for!(Recipe).to_value()
}

/// Reads a recipe and applies `--set` pairs to it. `data.folder` becomes absolute: in the file it
/// is relative to the file, in a `--set` to the current folder.
///
/// # Errors
/// [`RecipeError`]; all faults of the file are reported together.
pub fn load(path: &Path, settings: &[(String, String)]) -> Result<Recipe, RecipeError> {
    let folder = path.parent().unwrap_or(Path::new(""));
    let set_folder = settings.iter().any(|(key, _)| key == "data.folder");
    let mut recipe = read(path, settings)?;
    let root = if set_folder { Path::new("") } else { folder };
    recipe.data.folder = absolute(&root.join(&recipe.data.folder));
    if Path::new(&recipe.base.model).is_relative()
        && folder
            .join(&recipe.base.model)
            .join("config.json")
            .is_file()
    {
        recipe.base.model = absolute(&folder.join(&recipe.base.model))
            .to_string_lossy()
            .into_owned();
    }
    Ok(recipe)
}

/// Reads a recipe that a run has stored: its paths are absolute already.
///
/// # Errors
/// [`RecipeError`].
pub fn load_resolved(path: &Path) -> Result<Recipe, RecipeError> {
    read(path, &[])
}

fn absolute(path: &Path) -> PathBuf {
    path.canonicalize()
        .or_else(|_| std::path::absolute(path))
        .unwrap_or_else(|_| path.to_owned())
}

fn read(path: &Path, settings: &[(String, String)]) -> Result<Recipe, RecipeError> {
    let source = std::fs::read_to_string(path).map_err(|source| RecipeError::Read {
        path: path.to_owned(),
        source,
    })?;
    let syntax = |source| RecipeError::Syntax {
        path: path.to_owned(),
        source,
    };
    let document = DeTable::parse(&source).map_err(syntax)?;
    let mut value: Value = toml::from_str(&source).map_err(syntax)?;
    let refuse = |faults| {
        RecipeError::Faults(RecipeFaults {
            path: path.to_owned(),
            faults,
        })
    };

    let mut faults = Vec::new();
    for (key, text) in settings {
        if let Err(message) = set(&mut value, key, text) {
            faults.push(Fault {
                line: None,
                key: key.clone(),
                message,
            });
        }
    }
    let schema = schema();
    let validator =
        jsonschema::validator_for(&schema).expect("the derived schema is a valid schema");
    faults.extend(check(&validator, &value, &source, document.get_ref()));
    for fault in &mut faults {
        let is_set = |(key, _): &(String, String)| {
            fault.key == *key || fault.key.starts_with(&format!("{key}."))
        };
        if settings.iter().any(is_set) {
            fault.line = None;
        }
    }
    if !faults.is_empty() {
        return Err(refuse(faults));
    }
    let recipe: Recipe = serde_json::from_value(value).map_err(|error| {
        refuse(vec![Fault {
            line: Some(1),
            key: "recipe".to_owned(),
            message: error.to_string(),
        }])
    })?;
    let faults = contradictions(&recipe);
    if faults.is_empty() {
        Ok(recipe)
    } else {
        Err(refuse(faults))
    }
}

/// Faults that no schema can see.
fn contradictions(recipe: &Recipe) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut fault = |key: &str, message: &str| {
        faults.push(Fault {
            line: Some(1),
            key: key.to_owned(),
            message: message.to_owned(),
        });
    };
    match (&recipe.data.select, recipe.data.select_fraction) {
        (None, None) => fault("data", "one of `select` and `select_fraction` is needed"),
        (Some(_), Some(_)) => fault("data", "`select` and `select_fraction` exclude each other"),
        _ => {}
    }
    if recipe.data.fields.is_empty() {
        fault("data.fields", "at least one field is needed");
    }
    let mut names: Vec<&str> = recipe.stages.iter().map(StageConfig::name).collect();
    names.sort_unstable();
    if names.windows(2).any(|pair| pair[0] == pair[1]) {
        fault("stages", "two stages have the same `name`");
    }
    faults
}

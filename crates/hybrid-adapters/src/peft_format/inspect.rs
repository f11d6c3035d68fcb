//! What an adapter's folder in PEFT's format says, without a base to hold it against.

use std::collections::BTreeMap;
use std::path::Path;

use super::{CONFIG, config_file, read_tensors};
use crate::{AdapterConfig, AdapterError, named_tensors};

/// An adapter on disk.
#[derive(Debug, Clone, PartialEq)]
pub struct PeftSummary {
    /// PEFT's name of the method.
    pub peft_type: String,
    /// The base that it was trained over.
    pub base_name: Option<String>,
    /// What it was trained for.
    pub task_type: Option<String>,
    /// The release of PEFT that wrote it, or whose format was written.
    pub peft_version: Option<String>,
    /// The method with its settings, and what stands beside it.
    pub methods: Vec<AdapterConfig>,
    /// Modules that are stored whole.
    pub modules_to_save: Vec<String>,
    /// Shape of every tensor.
    pub shapes: BTreeMap<String, Vec<usize>>,
    /// Values of all tensors.
    pub n_values: usize,
}

/// Reads an adapter's folder and says what is in it; every value is looked at.
///
/// # Errors
/// As [`super::load_peft`], but for what only a base can tell.
pub fn inspect_peft(folder: &Path) -> Result<PeftSummary, AdapterError> {
    let config = config_file::read(&folder.join(CONFIG))?;
    let (path, tensors) = read_tensors(folder)?;
    let mut shapes = BTreeMap::new();
    for (name, data) in &tensors {
        let shape = data.shape().as_slice().to_vec();
        named_tensors::checked(name, data, &shape).map_err(|source| AdapterError::File {
            path: path.clone(),
            source: Box::new(source),
        })?;
        shapes.insert(name.clone(), shape);
    }
    let mut methods = vec![config.method];
    methods.extend(config.beside);
    Ok(PeftSummary {
        peft_type: config.peft_type,
        base_name: config.base_name,
        task_type: config.task_type,
        peft_version: config.peft_version,
        methods,
        modules_to_save: config.modules_to_save,
        n_values: shapes
            .values()
            .map(|shape| shape.iter().product::<usize>())
            .sum(),
        shapes,
    })
}

//! Reading an adapter in PEFT's format.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::{Device, TensorData};
use hybrid_models::{Base, SiteKind, SiteTable};

use super::config_file::{self, PeftConfig};
use super::keys::places;
use super::{CONFIG, KEY_PREFIX, TENSORS, tensor_file};
use crate::{AdapterConfig, AdapterError, Adapters, Targets, UnfreezeConfig, named_tensors};

/// Reads a LoRA, IA3 or LayerNorm-tuning adapter that PEFT, or [`super::save_peft`], has written.
///
/// `modules_to_save` become unfrozen layers. On a base without head, an adapter of a base with head
/// fits too: its paths are taken without the encoder's prefix (`bert.`), and what it stores of the
/// head is passed over.
///
/// # Errors
/// [`AdapterError::Read`] for a missing file; [`AdapterError::PeftType`],
/// [`AdapterError::PeftOption`] or [`AdapterError::PeftKeys`] for what this version does not have;
/// [`AdapterError::Format`]; and [`AdapterError::File`] around a tensor that is missing, of another
/// shape, not finite, or without a place in the base.
pub fn load_peft(
    folder: &Path,
    base: &dyn Base,
    device: &Device,
) -> Result<Adapters, AdapterError> {
    let config = config_file::read(&folder.join(CONFIG))?;
    let path = folder.join(TENSORS);
    let tensors = tensor_file::read(&path)?;
    build(config, tensors, base, device).map_err(|source| AdapterError::File {
        path,
        source: Box::new(source),
    })
}

fn build(
    config: PeftConfig,
    tensors: BTreeMap<String, TensorData>,
    base: &dyn Base,
    device: &Device,
) -> Result<Adapters, AdapterError> {
    let mut tensors = by_path(tensors)?;
    let sites = base.sites();
    let prefix = encoder_prefix(&tensors, sites);
    let mut configs = vec![config.method];
    let whole = whole_modules(sites, &prefix, &config.modules_to_save);
    if !whole.is_empty() {
        configs.push(AdapterConfig::Unfreeze(UnfreezeConfig {
            modules: Targets::Names(whole),
        }));
    }
    let adapters = Adapters::build(&configs, base, &prefix, 0, device)?;
    let shapes: BTreeMap<String, Vec<usize>> =
        named_tensors::shapes(&adapters).into_iter().collect();
    let mut named = BTreeMap::new();
    for place in places(&adapters) {
        let key = format!("{prefix}{}", place.stored);
        let full = format!("{KEY_PREFIX}{key}");
        let Some(data) = tensors.remove(&key) else {
            return Err(AdapterError::Missing { name: full });
        };
        let data = named_tensors::checked(&full, &data, &place.layout.shape(&shapes[&place.name]))?;
        named.insert(place.name, place.layout.to_parameter(&data));
    }
    let skipped = |key: &str| {
        let of_absent_head = !sites.iter().any(|site| site.head)
            && modules(key).any(|path| ends_with_any(path, &config.modules_to_save));
        // With `bias: all` PEFT also stores the inner names of its wrapper around a whole module.
        of_absent_head || key.contains(".modules_to_save.") || key.contains(".original_module.")
    };
    let names: Vec<String> = tensors
        .into_keys()
        .filter(|key| !skipped(key))
        .map(|key| format!("{KEY_PREFIX}{key}"))
        .collect();
    match names.is_empty() {
        true => adapters.load_named_tensors(&named),
        false => Err(AdapterError::Unexpected { names }),
    }
}

/// The tensors without the prefix that PEFT puts before every key.
fn by_path(
    tensors: BTreeMap<String, TensorData>,
) -> Result<BTreeMap<String, TensorData>, AdapterError> {
    let names: Vec<String> = tensors
        .keys()
        .filter(|key| !key.starts_with(KEY_PREFIX))
        .cloned()
        .collect();
    match names.is_empty() {
        true => Ok(tensors
            .into_iter()
            .map(|(key, data)| (key[KEY_PREFIX.len()..].to_owned(), data))
            .collect()),
        false => Err(AdapterError::Unexpected { names }),
    }
}

/// What stands before a base's paths in the file: nothing, or the name of the encoder within the
/// model with head that the adapter was trained on.
fn encoder_prefix(tensors: &BTreeMap<String, TensorData>, sites: &SiteTable) -> String {
    let at_site = |path: &str| modules(path).any(|path| sites.find(path).is_some());
    if tensors.keys().any(|key| at_site(key)) {
        return String::new();
    }
    let first = tensors
        .keys()
        .filter_map(|key| key.split_once('.'))
        .find(|(_, rest)| at_site(rest));
    first.map_or(String::new(), |(name, _)| format!("{name}."))
}

/// The paths of all modules around a tensor.
fn modules(key: &str) -> impl Iterator<Item = &str> {
    key.match_indices('.').map(|(end, _)| &key[..end])
}

/// PEFT's rule for `modules_to_save`: the end of the path, also within a name.
fn ends_with_any(path: &str, names: &[String]) -> bool {
    names.iter().any(|name| path.ends_with(name.as_str()))
}

/// Full paths of the sites within the modules that are stored whole.
fn whole_modules(sites: &SiteTable, prefix: &str, names: &[String]) -> Vec<String> {
    let weighted = sites
        .iter()
        .filter(|site| !matches!(site.kind, SiteKind::Block { .. }));
    let paths = weighted.map(|site| format!("{prefix}{}", site.path));
    paths
        .filter(|path| {
            ends_with_any(path, names) || modules(path).any(|path| ends_with_any(path, names))
        })
        .collect()
}

//! Reading an adapter in PEFT's format.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::{Device, TensorData};
use hybrid_models::{Base, SiteKind, SiteTable};

use super::config_file::{self, PeftConfig};
use super::keys::places;
use super::values::taken;
use super::{CONFIG, full_key, is_whole, key_start, read_tensors, stored_table};
use crate::method::Kept;
use crate::named_tensors::checked;
use crate::{AdapterConfig, AdapterError, Adapters, Targets, UnfreezeConfig, cartridge, vblora};

/// The output layer of a language model, as Transformers names it.
const OUTPUT: &str = "lm_head";

/// Reads an adapter that PEFT, or [`super::save_peft`], has written.
///
/// Of P-tuning and of a prefix with projection a file holds what the small network computed; the
/// adapter is then as [`Adapters::encoded`] leaves it.
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
    let (path, tensors) = read_tensors(folder)?;
    build(config, tensors, base, device).map_err(|source| AdapterError::File {
        path: match source.is_of_settings() {
            true => folder.join(CONFIG),
            false => path,
        },
        source: Box::new(source),
    })
}

fn build(
    config: PeftConfig,
    tensors: BTreeMap<String, TensorData>,
    base: &dyn Base,
    device: &Device,
) -> Result<Adapters, AdapterError> {
    let mut tensors = tensors;
    match &config.method {
        AdapterConfig::Vblora(config) if config.save_only_topk_weights => {
            vblora::with_logits(&mut tensors, config)?;
        }
        AdapterConfig::Cartridge(config) => cartridge::split(&mut tensors, config),
        _ => {}
    }
    let start = key_start(&config.method);
    let keys = by_path(tensors.keys(), start)?;
    let sites = base.sites();
    let prefix = encoder_prefix(&keys, sites);
    let mut configs = vec![config.method];
    configs.extend(config.beside);
    let whole = whole_modules(sites, &prefix, &config.modules_to_save);
    if !whole.is_empty() {
        configs.push(AdapterConfig::Unfreeze(UnfreezeConfig {
            modules: Targets::Names(whole),
        }));
    }
    let mut adapters =
        Adapters::build_for(&configs, base, &prefix, 0, device, Some(&tensors))?.encoded();
    let places = places(&adapters).into_iter();
    let places = places
        .map(|place| (full_key(start, &prefix, &place.stored), place))
        .collect();
    if let Some(AdapterConfig::Adalora(config)) = configs.first() {
        let emptied: Vec<&str> = config.emptied().collect();
        tensors.retain(|key, data| {
            let path = key.strip_prefix(start).and_then(|key| key.rsplit_once('.'));
            let is_empty = data.shape().num_elements() == 0;
            !(is_empty && path.is_some_and(|(path, _)| emptied.contains(&path)))
        });
    }
    let named = taken(&adapters, places, &mut tensors)?;
    take_kept(&mut adapters, start, &prefix, &mut tensors)?;
    check_embeddings(&mut tensors, base, start, &prefix)?;
    let skipped = |key: &str| {
        let of_absent_head = !sites.iter().any(|site| site.head)
            && modules(key)
                .any(|path| path == OUTPUT || ends_with_any(path, &config.modules_to_save));
        // With `bias: all` PEFT also stores the inner names of its wrapper around a whole module.
        of_absent_head || key.contains(".modules_to_save.") || key.contains(".original_module.")
    };
    let names: Vec<String> = tensors
        .into_keys()
        .filter(|key| !key.strip_prefix(start).is_some_and(skipped))
        .collect();
    match names.is_empty() {
        true => adapters.load_named_tensors(&named),
        false => Err(AdapterError::Unexpected { names }),
    }
}

/// Takes what methods keep beside their parameters out of `tensors`.
///
/// # Errors
/// [`AdapterError::Missing`], [`AdapterError::Shape`] or [`AdapterError::NotFinite`].
fn take_kept(
    adapters: &mut Adapters,
    start: &str,
    prefix: &str,
    tensors: &mut BTreeMap<String, TensorData>,
) -> Result<(), AdapterError> {
    for method in adapters.stack_mut() {
        let method = method.as_method_mut();
        for Kept {
            stored,
            data,
            again,
        } in method.kept()
        {
            let name = full_key(start, prefix, &stored);
            match tensors.remove(&name) {
                Some(found) => {
                    let found = checked(&name, &found, data.shape().as_slice())?;
                    if !again {
                        method.keep(&stored, &found)?;
                    }
                }
                None if again => {}
                None => return Err(AdapterError::Missing { name }),
            }
        }
    }
    Ok(())
}

/// Takes out the base's own embeddings and output layer, which PEFT stores whole beside LoRA there.
///
/// # Errors
/// [`AdapterError::OtherBase`] for values that are not the base's: the adapter was trained over
/// others. [`AdapterError::Shape`] or [`AdapterError::NotFinite`].
fn check_embeddings(
    tensors: &mut BTreeMap<String, TensorData>,
    base: &dyn Base,
    start: &str,
    prefix: &str,
) -> Result<(), AdapterError> {
    for site in base.sites().iter() {
        let key = format!("{start}{prefix}{}.base_layer.weight", site.path);
        let Some(stored) = tensors.get(&key) else {
            continue;
        };
        let Some(own) = base.layer_at(site.id).and_then(stored_table) else {
            continue;
        };
        let stored = checked(&key, stored, own.shape().as_slice())?;
        let pairs = stored.iter::<f32>().zip(own.iter::<f32>());
        // Of a quantised base the values are near.
        let (far, all) = pairs.fold((0.0, 0.0), |(far, all), (stored, own)| {
            (far + (stored - own).powi(2), all + own.powi(2))
        });
        if far > 0.05 * all {
            return Err(AdapterError::OtherBase { name: key });
        }
        tensors.remove(&key);
    }
    Ok(())
}

/// The keys without what PEFT puts before every one.
fn by_path<'k>(
    keys: impl Iterator<Item = &'k String>,
    start: &str,
) -> Result<Vec<String>, AdapterError> {
    let (mut paths, mut names) = (Vec::new(), Vec::new());
    for key in keys.filter(|key| !is_whole(key)) {
        match key.strip_prefix(start) {
            Some(path) => paths.push(path.to_owned()),
            None => names.push(key.clone()),
        }
    }
    match names.is_empty() {
        true => Ok(paths),
        false => Err(AdapterError::Unexpected { names }),
    }
}

/// What stands before a base's paths in the file: nothing, or the name of the encoder within the
/// model with head that the adapter was trained on.
fn encoder_prefix(keys: &[String], sites: &SiteTable) -> String {
    let at_site = |path: &str| modules(path).any(|path| sites.find(path).is_some());
    if keys.iter().any(|key| at_site(key)) {
        return String::new();
    }
    let first = keys
        .iter()
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

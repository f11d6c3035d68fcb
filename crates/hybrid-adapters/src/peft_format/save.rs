//! Writing an adapter in PEFT's format.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::TensorData;
use hybrid_models::{Base, Layer, SiteId, SiteKind, SiteTable, write_whole};

use super::classifier::Place;
use super::config_text::{classifies_rows, config_text, keeps_modules};
use super::keys::has_lora;
use super::values::stored_tensors;
use super::{CONFIG, TENSORS, full_key, is_within, key_start, stored_table, tensor_file};
use crate::any_method::AnyMethod;
use crate::head::ClassifierHead;
use crate::targets::ends_with_name;
use crate::{AdaloraConfig, AdapterConfig, AdapterError, Adapters, cartridge, vblora};

/// Whether PEFT's format can hold a stack: one method that PEFT has, with unfrozen layers or
/// without.
pub fn peft_has(adapters: &Adapters) -> bool {
    why_not(adapters).is_none()
}

/// Whether the file of a stack holds this head, too, as [`save_peft`] writes it.
pub fn peft_has_head(adapters: &Adapters, base: &dyn Base, head: &ClassifierHead) -> bool {
    peft_has(adapters) && keeps_modules(adapters) && place_of(head, base).is_some()
}

fn why_not(adapters: &Adapters) -> Option<&'static str> {
    let mut configs = adapters.configs().iter();
    let names_task = |config: &AdapterConfig| match config {
        AdapterConfig::MultitaskPromptTuning(config) => config.task > 0,
        AdapterConfig::Poly(config) => config.task > 0,
        _ => false,
    };
    if configs.any(names_task) {
        return Some("a file does not say which task is asked for");
    }
    let mut methods = 0;
    for (config, method) in adapters.configs().iter().zip(adapters.stack()) {
        match method {
            AnyMethod::Lora(_)
            | AnyMethod::Adalora(_)
            | AnyMethod::Ia3(_)
            | AnyMethod::LayerNorm(_)
            | AnyMethod::PromptTuning(_)
            | AnyMethod::PrefixTuning(_)
            | AnyMethod::PTuning(_)
            | AnyMethod::MultitaskPromptTuning(_)
            | AnyMethod::AdaptionPrompt(_)
            | AnyMethod::Cartridge(_) => methods += 1,
            AnyMethod::TrainableTokens(_) if has_lora(adapters) => {}
            AnyMethod::TrainableTokens(_) => methods += 1,
            AnyMethod::Unfreeze(_) => {}
            _ if config.at_sites().is_some() => methods += 1,
            _ => return Some("PEFT has no such method"),
        }
    }
    let unfreezes = |method: &AnyMethod| matches!(method, AnyMethod::Unfreeze(_));
    if !keeps_modules(adapters) && adapters.stack().iter().any(unfreezes) {
        return Some("a file of that method holds no whole modules");
    }
    (methods != 1).then_some("a file holds one method, beside unfreeze")
}

/// Writes a stack so that PEFT 0.21 loads it over the same base; the same stack gives the same
/// bytes. `base_name` is the folder or hub id that the file names as its base.
///
/// A head that computes what Transformers' own over that base does goes along: the adapter is then
/// one of its class for sequence classification, task `SEQ_CLS`. Any other head does not; the
/// adapter of a base without head is then of task `FEATURE_EXTRACTION`. What small networks put
/// in front of the tokens is written as [`Adapters::encoded`] gives it, with the base's own head
/// where that classifies rows: PEFT wants it. Over a head of another kind than that and a language
/// model's the file names no task, and PEFT then puts nothing in front.
///
/// # Errors
/// [`AdapterError::NotInPeft`] or [`AdapterError::Write`].
pub fn save_peft(
    adapters: &Adapters,
    base: &dyn Base,
    base_name: &str,
    head: Option<&ClassifierHead>,
    folder: &Path,
) -> Result<(), AdapterError> {
    if let Some(reason) = why_not(adapters) {
        let stack: Vec<&str> = adapters
            .configs()
            .iter()
            .map(|config| config.name())
            .collect();
        return Err(AdapterError::NotInPeft {
            stack: stack.join(", "),
            reason,
        });
    }
    let head = head.filter(|_| keeps_modules(adapters));
    let head = head.and_then(|head| Some((head, place_of(head, base)?)));
    let prefix = head.as_ref().map_or("", |(_, place)| place.body).to_owned();
    let adapters = &adapters.clone().encoded();
    let start = adapters.configs().iter().map(key_start).min();
    let start = start.unwrap_or_default();
    let kept = adapters.stack().iter();
    let kept = kept.flat_map(|method| method.as_method().kept());
    let mut tensors: BTreeMap<String, TensorData> = stored_tensors(adapters)
        .into_iter()
        .chain(kept.map(|kept| (kept.stored, kept.data)))
        .map(|(key, data)| (full_key(start, &prefix, &key), data))
        .collect();
    tensors.extend(embeddings(adapters, base, start, &prefix));
    for config in adapters.configs() {
        match config {
            AdapterConfig::Adalora(config) => {
                tensors.extend(without_rank(config, base, start, &prefix));
            }
            AdapterConfig::Vblora(config) if config.save_only_topk_weights => {
                vblora::without_logits(&mut tensors, config.topk);
            }
            AdapterConfig::Cartridge(_) => cartridge::join(&mut tensors),
            _ => {}
        }
    }
    let mut whole = whole_modules(adapters, base, &prefix);
    let in_front = adapters.configs().iter().any(AdapterConfig::is_in_front);
    if let Some(head) = row_head(base.sites()).filter(|_| in_front) {
        // PEFT puts something in front of the tokens only for a task, and that stores its head.
        whole.retain(|path| !is_within(path, head));
        whole.push(head.to_owned());
    }
    complete(&mut tensors, base, &format!("{start}{prefix}"), &whole);
    if let Some((head, place)) = head {
        whole.push(place.module.to_owned());
        tensors.extend(place.tensors(start, head));
    }
    std::fs::create_dir_all(folder).map_err(|source| AdapterError::Write {
        path: folder.to_owned(),
        source,
    })?;
    tensor_file::write(&folder.join(TENSORS), &tensors)?;
    let text = config_text(adapters, base, base_name, &prefix, &whole);
    let path = folder.join(CONFIG);
    write_whole(&path, text.as_bytes()).map_err(|source| AdapterError::Write { path, source })
}

/// The place of a head over a base without one, if it is the one that Transformers puts there.
fn place_of(head: &ClassifierHead, base: &dyn Base) -> Option<Place> {
    let bare = !base.sites().iter().any(|site| site.head);
    let place = Place::of(base).filter(|_| bare)?;
    place.is_of(head.config()).then_some(place)
}

/// The base's own values that PEFT stores where LoRA acts on word vectors or the output layer, by
/// the names that it knows them by.
fn embeddings(
    adapters: &Adapters,
    base: &dyn Base,
    start: &str,
    prefix: &str,
) -> Vec<(String, TensorData)> {
    let mut sites = Vec::new();
    for method in adapters.stack() {
        if let AnyMethod::Lora(lora) = method {
            sites.extend(lora.factors().sites().chain(lora.tables().sites()));
        }
    }
    let words: Vec<SiteId> = base.stacks().iter().map(|stack| stack.words).collect();
    let path = |site: SiteId| base.sites().get(site).path.as_str();
    let known = |site: &SiteId| {
        ["embed_tokens", "lm_head"]
            .iter()
            .any(|name| ends_with_name(path(*site), name))
    };
    if !sites.iter().any(known) {
        return Vec::new();
    }
    let stored = sites
        .into_iter()
        .filter(|site| words.contains(site) || path(*site) == "lm_head");
    stored
        .filter_map(|site| {
            let key = format!("{start}{prefix}{}.base_layer.weight", path(site));
            Some((key, stored_table(base.layer_at(site)?)?))
        })
        .collect()
}

/// What PEFT stores of the sites that have no rank left.
fn without_rank(
    config: &AdaloraConfig,
    base: &dyn Base,
    start: &str,
    prefix: &str,
) -> Vec<(String, TensorData)> {
    let mut tensors = Vec::new();
    for path in config.emptied() {
        let site = base.sites().find(path.strip_prefix(prefix).unwrap_or(path));
        let Some(SiteKind::Linear { d_in, d_out, .. }) = site.map(|site| site.kind) else {
            continue;
        };
        for (tensor, shape) in [
            ("lora_A", [0, d_in]),
            ("lora_E", [0, 1]),
            ("lora_B", [d_out, 0]),
        ] {
            let empty = TensorData::new(Vec::<f32>::new(), shape);
            tensors.push((format!("{start}{path}.{tensor}"), empty));
        }
    }
    tensors
}

/// Full paths of the unfrozen layers.
fn whole_modules(adapters: &Adapters, base: &dyn Base, prefix: &str) -> Vec<String> {
    let unfrozen = adapters
        .stack()
        .iter()
        .filter(|method| matches!(method, AnyMethod::Unfreeze(_)));
    unfrozen
        .flat_map(|method| method.as_method().sites())
        .map(|site| format!("{prefix}{}", base.sites().get(site).path))
        .collect()
}

/// The module of a base's own head that reads one vector a row.
fn row_head(sites: &SiteTable) -> Option<&'static str> {
    let heads = |name: &str| {
        let mut heads = sites.iter().filter(|site| site.head);
        heads.any(|site| is_within(&site.path, name))
    };
    match classifies_rows(sites) && heads("classifier") {
        true => Some("classifier"),
        false => heads("score").then_some("score"),
    }
}

/// Adds the base's values of modules that PEFT stores whole only because their names end alike:
/// `classifier` stands for DistilBERT's `pre_classifier` too. `start` stands before every path.
fn complete(
    tensors: &mut BTreeMap<String, TensorData>,
    base: &dyn Base,
    start: &str,
    whole: &[String],
) {
    for site in base.sites().iter() {
        let path = format!("{start}{}", site.path);
        let ends = |path: &str| whole.iter().any(|name| path.ends_with(name.as_str()));
        if !ends(&path) && !path.match_indices('.').any(|(end, _)| ends(&path[..end])) {
            continue;
        }
        let Some(layer) = base.layer_at(site.id) else {
            continue;
        };
        let weight = match layer {
            Layer::Linear(linear) if base.layers().input_first(site.id) => linear.weight.to_data(),
            Layer::Linear(linear) => linear.weight.clone().transpose().to_data(),
            Layer::Norm(norm) => norm.weight.to_data(),
            Layer::Embedding(embedding) => embedding.weight.to_data(),
        };
        let mut add = |tensor: &str, data: TensorData| {
            let key = format!("{path}.{tensor}");
            tensors.entry(key).or_insert_with(|| data.convert::<f32>());
        };
        add("weight", weight);
        if let Some(bias) = layer.bias() {
            add("bias", bias.to_data());
        }
    }
}

//! Writing `adapter_config.json`.

use std::collections::BTreeMap;

use hybrid_models::{Base, BaseKind, IGNORED, SiteId, SiteTable};
use serde_json::{Value, json};

use super::PEFT_VERSION;
use super::keys::has_lora;
use crate::adaption_prompt::attention_of;
use crate::any_method::AnyMethod;
use crate::site_method::SiteConfig;
use crate::{
    AdaloraConfig, AdapterConfig, Adapters, BiasMode, Ia3Config, LayerNormConfig, LoraConfig,
    PatternMap, Targets, TrainableTokensConfig,
};

mod in_front;
mod lily;

/// The file's text, keys in order, as PEFT writes it.
pub(super) fn config_text(
    adapters: &Adapters,
    base: &dyn Base,
    base_name: &str,
    prefix: &str,
    modules_to_save: &[String],
) -> String {
    let task = task(base, modules_to_save, keeps_modules(adapters));
    let mut keys = BTreeMap::from([
        ("auto_mapping", Value::Null),
        ("base_model_name_or_path", json!(base_name)),
        ("inference_mode", json!(true)),
        (
            "modules_to_save",
            if modules_to_save.is_empty() {
                Value::Null
            } else {
                json!(modules_to_save)
            },
        ),
        ("peft_version", json!(PEFT_VERSION)),
        ("revision", Value::Null),
        ("task_type", task),
    ]);
    for (config, method) in adapters.configs().iter().zip(adapters.stack()) {
        let own = match (config, method) {
            (AdapterConfig::Lora(config), AnyMethod::Lora(method)) => lora(
                config,
                &full_paths(
                    method
                        .factors()
                        .iter()
                        .map(|(path, _)| path)
                        .chain(method.tables().iter().map(|(path, _)| path)),
                    prefix,
                ),
                prefix,
                input_first(base, method.factors().sites()),
            ),
            (AdapterConfig::Adalora(config), AnyMethod::Adalora(method)) => {
                let adapted = match &config.rank_pattern {
                    // It names the sites without a rank too.
                    Some(pattern) => pattern
                        .keys()
                        .filter_map(|key| key.strip_suffix(".lora_E"))
                        .map(str::to_owned)
                        .collect(),
                    None => full_paths(method.triplets().iter().map(|(path, _)| path), prefix),
                };
                let sites = method.triplets().sites();
                adalora(config, &adapted, prefix, input_first(base, sites))
            }
            (AdapterConfig::Ia3(config), AnyMethod::Ia3(method)) => {
                let feedforward = method
                    .scales()
                    .iter()
                    .filter(|(_, scale)| scale.feedforward)
                    .map(|(path, _)| path);
                let all = method.scales().iter().map(|(path, _)| path);
                ia3(
                    config,
                    &full_paths(all, prefix),
                    &full_paths(feedforward, prefix),
                    prefix,
                    input_first(base, method.scales().sites()),
                )
            }
            (AdapterConfig::LayerNorm(config), AnyMethod::LayerNorm(method)) => layer_norm(
                config,
                &full_paths(method.norms().iter().map(|(path, _)| path), prefix),
                prefix,
            ),
            (AdapterConfig::TrainableTokens(config), AnyMethod::TrainableTokens(method))
                if !has_lora(adapters) =>
            {
                let paths = method.tables().iter().map(|(path, _)| path);
                trainable_tokens(config, &full_paths(paths, prefix), prefix)
            }
            (AdapterConfig::PromptTuning(config), _) => in_front::prompt_tuning(config, base),
            (AdapterConfig::PrefixTuning(config), _) => in_front::prefix_tuning(config, base),
            (AdapterConfig::PTuning(config), _) => in_front::p_tuning(config, base),
            (AdapterConfig::MultitaskPromptTuning(config), _) => in_front::multitask(config, base),
            (AdapterConfig::Cartridge(config), _) => in_front::cartridge(config, base),
            (AdapterConfig::AdaptionPrompt(config), AnyMethod::AdaptionPrompt(method)) => {
                let mut modules = method
                    .prompts()
                    .iter()
                    .filter_map(|(path, _)| attention_of(path));
                let name = modules.next().and_then(|module| module.rsplit('.').next());
                vec![
                    ("adapter_layers", json!(method.prompts().iter().count())),
                    ("adapter_len", json!(config.adapter_len)),
                    ("peft_type", json!("ADAPTION_PROMPT")),
                    (
                        "target_modules",
                        json!(config.target_modules.as_deref().or(name)),
                    ),
                ]
            }
            (AdapterConfig::Lily(config), method) => {
                let mut keys = at_sites(config, &[], prefix, false);
                let sites = method.as_method().sites();
                keys.extend(lily::targets(config, base, &sites, prefix));
                keys
            }
            (config, method) => match config.at_sites() {
                Some(config) => {
                    let sites = method.as_method().sites();
                    let paths = sites
                        .iter()
                        .map(|site| base.sites().get(*site).path.as_str());
                    let paths = full_paths(paths, prefix);
                    at_sites(config, &paths, prefix, input_first(base, sites.into_iter()))
                }
                None => Vec::new(),
            },
        };
        keys.extend(own);
    }
    if !keeps_modules(adapters) {
        keys.remove("modules_to_save");
    }
    if let Some(tokens) = tokens_beside_lora(adapters, prefix) {
        keys.insert("trainable_token_indices", tokens);
    }
    serde_json::to_string_pretty(&keys).expect("JSON values are always text")
}

/// Whether PEFT's files of a stack can hold whole modules, a classifier among them.
pub(super) fn keeps_modules(adapters: &Adapters) -> bool {
    adapters.configs().iter().all(|config| match config {
        AdapterConfig::TrainableTokens(_) => has_lora(adapters),
        config => !matches!(config, AdapterConfig::AdaptionPrompt(_)),
    })
}

/// PEFT's name of what the base is trained for. Where it `keeps_modules`, PEFT stores the head of a
/// base that classifies rows, so a file without one cannot say so.
fn task(base: &dyn Base, modules_to_save: &[String], keeps_modules: bool) -> Value {
    let sites = base.sites();
    let whole = |name: &str| modules_to_save.iter().any(|path| path == name);
    let heads = |name: &str| sites.find(name).is_some_and(|site| site.head);
    // A head that comes along to a base without one reads one vector a row.
    let bare = !sites.iter().any(|site| site.head);
    let classifies = |is_there: &dyn Fn(&str) -> bool| {
        is_there("classifier") && (bare || classifies_rows(sites)) || is_there("score")
    };
    if classifies(&whole) || !keeps_modules && classifies(&heads) {
        return json!("SEQ_CLS");
    }
    match base.kind() {
        BaseKind::Decoder if heads("lm_head") => json!("CAUSAL_LM"),
        BaseKind::EncoderDecoder if heads("lm_head") => json!("SEQ_2_SEQ_LM"),
        _ if !bare => Value::Null,
        _ => json!("FEATURE_EXTRACTION"),
    }
}

/// Whether a head over this base, there or to come, reads one vector a row: token classifiers have
/// a `classifier` too, but nothing that pools.
pub(super) fn classifies_rows(sites: &SiteTable) -> bool {
    let pools = |path: &str| {
        ["pooler.dense", "pre_classifier", "classifier.out_proj"]
            .iter()
            .any(|name| path.ends_with(name))
    };
    sites.iter().any(|site| pools(&site.path))
}

/// Whether files have the weights at these sites as `[d_in, d_out]`: PEFT's `fan_in_fan_out`.
fn input_first(base: &dyn Base, mut sites: impl Iterator<Item = SiteId>) -> bool {
    sites.any(|site| base.layers().input_first(site))
}

type Keys = Vec<(&'static str, Value)>;

fn full_paths<'a>(paths: impl Iterator<Item = &'a str>, prefix: &str) -> Vec<String> {
    paths.map(|path| format!("{prefix}{path}")).collect()
}

/// Whether a selection means the same in PEFT and under a prefix: names do, patterns of whole paths
/// do not, and `all-linear` depends on the class of the model.
fn carries_over(targets: Option<&Targets>, prefix: &str) -> bool {
    match targets {
        None | Some(Targets::Names(_)) => true,
        Some(pattern) => prefix.is_empty() && !pattern.is_all_linear(),
    }
}

/// Settings that have their names and values in PEFT.
fn at_sites(config: &dyn SiteConfig, paths: &[String], prefix: &str, input_first: bool) -> Keys {
    const SELECTING: [&str; 3] = ["exclude_modules", "layers_to_transform", "layers_pattern"];
    let (form, values, selection) = (config.form(), config.values(), config.selection());
    let has = |key: &&str| form.keys.contains(key);
    let as_given = carries_over(selection.targets, prefix)
        && carries_over(selection.exclude, prefix)
        && SELECTING
            .iter()
            .all(|key| has(key) || !values.contains_key(*key));
    let value = |key: &str| match (key, values.get(key)) {
        ("target_modules", _) if !as_given => json!(paths),
        (key, _) if SELECTING.contains(&key) && !as_given => Value::Null,
        (_, Some(value)) => value.clone(),
        (key, None) if key.ends_with("_pattern") && !SELECTING.contains(&key) => json!({}),
        (_, None) => Value::Null,
    };
    let own = form.keys.iter().map(|key| (*key, value(key)));
    let others = form.neutral.iter().chain(form.only);
    let order = form
        .fan_in_fan_out
        .then(|| ("fan_in_fan_out", json!(input_first)));
    own.chain(others.map(|(key, written)| (*key, written.value())))
        .chain(order)
        .chain([("peft_type", json!(form.peft_type))])
        .collect()
}

fn lora(config: &LoraConfig, paths: &[String], prefix: &str, input_first: bool) -> Keys {
    let chosen = config
        .eva_config
        .as_ref()
        .and_then(|eva| eva.ranks.as_ref());
    // What data left out is no target.
    let as_given = chosen.is_none()
        && carries_over(Some(&config.target_modules), prefix)
        && carries_over(config.exclude_modules.as_ref(), prefix);
    let own = paths.iter().filter_map(|path| path.strip_prefix(prefix));
    let config = &config
        .with_chosen_patterns(prefix, own)
        .expect("the patterns served to build the stack");
    let given = |value: Value| if as_given { value } else { Value::Null };
    let bias = match config.bias {
        BiasMode::None => "none",
        BiasMode::LoraOnly => "lora_only",
        BiasMode::All => "all",
    };
    let mut keys: Keys = [
        "alora_invocation_tokens",
        "arrow_config",
        "corda_config",
        "kasa_config",
        "layer_replication",
        "lora_ga_config",
        "megatron_config",
        "monteclora_config",
        "target_parameters",
        "trainable_token_indices",
        "use_bdlora",
        "velora_config",
    ]
    .map(|key| (key, Value::Null))
    .into();
    keys.extend([
        (
            "alpha_pattern",
            by_pattern(&config.alpha_pattern, |alpha| number(*alpha)),
        ),
        ("bias", json!(bias)),
        ("ensure_weight_tying", json!(false)),
        ("eva_config", eva_config(config)),
        ("exclude_modules", given(json!(config.exclude_modules))),
        ("fan_in_fan_out", json!(input_first)),
        ("init_lora_weights", json!(config.init_lora_weights)),
        ("layers_pattern", given(json!(config.layers_pattern))),
        (
            "layers_to_transform",
            given(json!(config.layers_to_transform)),
        ),
        ("loftq_config", json!({})),
        ("lora_alpha", number(config.lora_alpha)),
        ("lora_bias", json!(config.lora_bias)),
        ("lora_dropout", json!(config.lora_dropout)),
        ("megatron_core", json!("megatron.core")),
        ("peft_type", json!("LORA")),
        ("qalora_group_size", json!(16)),
        ("r", json!(config.r)),
        (
            "rank_pattern",
            by_pattern(&config.rank_pattern, |rank| json!(rank)),
        ),
        (
            "target_modules",
            if as_given {
                json!(config.target_modules)
            } else {
                json!(paths)
            },
        ),
        ("use_dora", json!(config.use_dora)),
        ("use_qalora", json!(false)),
        ("use_rslora", json!(config.use_rslora)),
    ]);
    keys
}

/// How EVA chose ranks and first values; without settings of its own as PEFT takes it.
fn eva_config(config: &LoraConfig) -> Value {
    let Some(eva) = &config.eva_config else {
        return Value::Null;
    };
    json!({
        "rho": eva.rho,
        "tau": eva.tau,
        "use_label_mask": eva.use_label_mask,
        "label_mask_value": IGNORED,
        "whiten": eva.whiten,
        "adjust_scaling_factors": eva.adjust_scaling_factors,
    })
}

fn adalora(config: &AdaloraConfig, paths: &[String], prefix: &str, input_first: bool) -> Keys {
    let shared = LoraConfig {
        lora_alpha: config.lora_alpha,
        lora_dropout: config.lora_dropout,
        bias: config.bias,
        target_modules: config.target_modules.clone(),
        exclude_modules: config.exclude_modules.clone(),
        layers_to_transform: config.layers_to_transform.clone(),
        layers_pattern: config.layers_pattern.clone(),
        ..LoraConfig::default()
    };
    let mut keys = lora(&shared, paths, prefix, input_first);
    // PEFT wants a number of steps with room for a reduction.
    let total_step = config
        .total_step
        .unwrap_or(config.tinit + config.tfinal + 1);
    keys.extend([
        ("beta1", json!(config.beta1)),
        ("beta2", json!(config.beta2)),
        ("deltaT", json!(config.delta_t)),
        ("init_r", json!(config.init_r)),
        ("orth_reg_weight", json!(config.orth_reg_weight)),
        ("peft_type", json!("ADALORA")),
        ("rank_pattern", json!(config.rank_pattern)),
        ("target_r", json!(config.target_r)),
        ("tfinal", json!(config.tfinal)),
        ("tinit", json!(config.tinit)),
        ("total_step", json!(total_step)),
    ]);
    keys
}

fn ia3(
    config: &Ia3Config,
    paths: &[String],
    feedforward: &[String],
    prefix: &str,
    input_first: bool,
) -> Keys {
    let as_given = carries_over(Some(&config.target_modules), prefix)
        && carries_over(Some(&config.feedforward_modules), prefix)
        && carries_over(config.exclude_modules.as_ref(), prefix)
        && config.layers_to_transform.is_none();
    vec![
        (
            "exclude_modules",
            if as_given {
                json!(config.exclude_modules)
            } else {
                Value::Null
            },
        ),
        ("fan_in_fan_out", json!(input_first)),
        (
            "feedforward_modules",
            if as_given {
                json!(config.feedforward_modules)
            } else {
                json!(feedforward)
            },
        ),
        ("init_ia3_weights", json!(true)),
        ("peft_type", json!("IA3")),
        (
            "target_modules",
            if as_given {
                json!(config.target_modules)
            } else {
                json!(paths)
            },
        ),
    ]
}

fn layer_norm(config: &LayerNormConfig, paths: &[String], prefix: &str) -> Keys {
    let as_given = config.target_modules.is_some()
        && carries_over(config.target_modules.as_ref(), prefix)
        && carries_over(config.exclude_modules.as_ref(), prefix)
        && config.layers_to_transform.is_none();
    vec![
        (
            "exclude_modules",
            if as_given {
                json!(config.exclude_modules)
            } else {
                Value::Null
            },
        ),
        ("peft_type", json!("LN_TUNING")),
        (
            "target_modules",
            if as_given {
                json!(config.target_modules)
            } else {
                json!(paths)
            },
        ),
    ]
}

fn trainable_tokens(config: &TrainableTokensConfig, paths: &[String], prefix: &str) -> Keys {
    let targets = config.target_modules.as_ref();
    let as_given = targets.is_some() && carries_over(targets, prefix);
    vec![
        ("init_weights", json!(config.init_weights)),
        ("peft_type", json!("TRAINABLE_TOKENS")),
        (
            "target_modules",
            if as_given {
                json!(targets)
            } else {
                json!(paths)
            },
        ),
        ("token_indices", json!(config.token_indices)),
    ]
}

/// LoRA's `trainable_token_indices`: a list is of the word vectors, others go by name.
fn tokens_beside_lora(adapters: &Adapters, prefix: &str) -> Option<Value> {
    if !has_lora(adapters) {
        return None;
    }
    let mut by_name = serde_json::Map::new();
    for (config, method) in adapters.configs().iter().zip(adapters.stack()) {
        let (AdapterConfig::TrainableTokens(config), AnyMethod::TrainableTokens(method)) =
            (config, method)
        else {
            continue;
        };
        if config.target_modules.is_none() && adapters.stack().len() == 2 {
            return Some(json!(config.token_indices));
        }
        let paths = method.tables().iter().map(|(path, _)| path);
        let of_path = |path| (path, json!(config.token_indices));
        by_name.extend(full_paths(paths, prefix).into_iter().map(of_path));
    }
    (!by_name.is_empty()).then_some(Value::Object(by_name))
}

fn by_pattern<V>(map: &PatternMap<V>, value: impl Fn(&V) -> Value) -> Value {
    Value::Object(
        map.iter()
            .map(|(pattern, of)| (pattern.to_owned(), value(of)))
            .collect(),
    )
}

/// A number as PEFT writes it: whole ones without a point.
fn number(value: f64) -> Value {
    match value.fract() == 0.0 && value.abs() < 1e15 {
        true => json!(value as i64),
        false => json!(value),
    }
}

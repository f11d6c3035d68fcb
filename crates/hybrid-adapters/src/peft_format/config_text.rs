//! Writing `adapter_config.json`.

use std::collections::BTreeMap;

use hybrid_models::{Base, BaseKind, SiteId, SiteTable, StackShape};
use serde_json::{Value, json};

use crate::adapters::AnyMethod;
use crate::site_method::SiteConfig;
use crate::{
    AdapterConfig, Adapters, BiasMode, Ia3Config, LayerNormConfig, LoraConfig, PTuningConfig,
    PatternMap, PrefixTuningConfig, PromptTuningConfig, Targets,
};

/// The PEFT release whose keys are written.
const PEFT_VERSION: &str = "0.21.2";

/// The file's text, keys in order, as PEFT writes it.
pub(super) fn config_text(
    adapters: &Adapters,
    base: &dyn Base,
    base_name: &str,
    prefix: &str,
    modules_to_save: &[String],
) -> String {
    let task = task(base, modules_to_save);
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
                &full_paths(method.factors().iter().map(|(path, _)| path), prefix),
                prefix,
                input_first(base, method.factors().sites()),
            ),
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
            (AdapterConfig::PromptTuning(config), _) => prompt_tuning(config, base),
            (AdapterConfig::PrefixTuning(config), _) => prefix_tuning(config, base),
            (AdapterConfig::PTuning(config), _) => p_tuning(config, base),
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
    serde_json::to_string_pretty(&keys).expect("JSON values are always text")
}

/// PEFT's name of what the base is trained for.
fn task(base: &dyn Base, modules_to_save: &[String]) -> Value {
    let sites = base.sites();
    let whole = |name: &str| modules_to_save.iter().any(|path| path == name);
    let heads = |name: &str| sites.find(name).is_some_and(|site| site.head);
    if whole("classifier") && classifies_rows(sites) || whole("score") {
        return json!("SEQ_CLS");
    }
    match base.kind() {
        BaseKind::Decoder if heads("lm_head") => json!("CAUSAL_LM"),
        BaseKind::EncoderDecoder if heads("lm_head") => json!("SEQ_2_SEQ_LM"),
        _ if sites.iter().any(|site| site.head) => Value::Null,
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
    let as_given = carries_over(Some(&config.target_modules), prefix)
        && carries_over(config.exclude_modules.as_ref(), prefix);
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
        "eva_config",
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
        ("exclude_modules", given(json!(config.exclude_modules))),
        ("fan_in_fan_out", json!(input_first)),
        ("init_lora_weights", json!(true)),
        ("layers_pattern", given(json!(config.layers_pattern))),
        (
            "layers_to_transform",
            given(json!(config.layers_to_transform)),
        ),
        ("loftq_config", json!({})),
        ("lora_alpha", number(config.lora_alpha)),
        ("lora_bias", json!(false)),
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

/// The sizes that PEFT takes from the base's configuration. Those of a prefix are its keys'.
fn in_front(
    num_virtual_tokens: usize,
    num_transformer_submodules: Option<usize>,
    base: &dyn Base,
    is_prefix: bool,
) -> Keys {
    let stacks = base.stacks();
    let stack = stacks.first();
    let size = |of: fn(&StackShape) -> usize| json!(stack.map(of));
    let (heads, token_dim) = match is_prefix {
        true => (
            size(|stack| stack.n_kv_heads),
            size(|stack| stack.n_kv_heads * stack.d_head),
        ),
        false => (size(|stack| stack.n_heads), size(|stack| stack.d_model)),
    };
    vec![
        ("num_attention_heads", heads),
        ("num_layers", size(|stack| stack.n_layers)),
        (
            "num_transformer_submodules",
            json!(num_transformer_submodules.unwrap_or(stacks.len())),
        ),
        ("num_virtual_tokens", json!(num_virtual_tokens)),
        ("token_dim", token_dim),
    ]
}

/// The size within a small network: PEFT puts that of a vector for none.
fn hidden_size(given: Option<usize>, keys: &Keys) -> Value {
    let token_dim = keys.iter().find(|(key, _)| *key == "token_dim");
    match (given, token_dim) {
        (None, Some((_, token_dim))) => token_dim.clone(),
        (given, _) => json!(given),
    }
}

fn prompt_tuning(config: &PromptTuningConfig, base: &dyn Base) -> Keys {
    let (n_virtual, n_stacks) = (config.num_virtual_tokens, config.num_transformer_submodules);
    let mut keys = in_front(n_virtual, n_stacks, base, false);
    keys.extend([
        ("peft_type", json!("PROMPT_TUNING")),
        ("prompt_tuning_init", json!(config.prompt_tuning_init)),
        (
            "prompt_tuning_init_text",
            json!(config.prompt_tuning_init_text),
        ),
        ("tokenizer_kwargs", Value::Null),
        (
            "tokenizer_name_or_path",
            json!(config.tokenizer_name_or_path),
        ),
    ]);
    keys
}

fn prefix_tuning(config: &PrefixTuningConfig, base: &dyn Base) -> Keys {
    let (n_virtual, n_stacks) = (config.num_virtual_tokens, config.num_transformer_submodules);
    let mut keys = in_front(n_virtual, n_stacks, base, true);
    keys.extend([
        (
            "encoder_hidden_size",
            hidden_size(config.encoder_hidden_size, &keys),
        ),
        ("init_weights", json!(config.init_weights)),
        ("peft_type", json!("PREFIX_TUNING")),
        ("prefix_projection", json!(config.prefix_projection)),
    ]);
    keys
}

fn p_tuning(config: &PTuningConfig, base: &dyn Base) -> Keys {
    let (n_virtual, n_stacks) = (config.num_virtual_tokens, config.num_transformer_submodules);
    let mut keys = in_front(n_virtual, n_stacks, base, false);
    keys.extend([
        ("encoder_dropout", json!(config.encoder_dropout)),
        (
            "encoder_hidden_size",
            hidden_size(config.encoder_hidden_size, &keys),
        ),
        ("encoder_num_layers", json!(config.encoder_num_layers)),
        (
            "encoder_reparameterization_type",
            json!(config.encoder_reparameterization_type),
        ),
        ("peft_type", json!("P_TUNING")),
    ]);
    keys
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

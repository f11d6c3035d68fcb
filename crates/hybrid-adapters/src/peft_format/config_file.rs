//! Reading `adapter_config.json`.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::key_lists::{
    ADALORA, ADAPTION_PROMPT, CARTRIDGE, IA3, Keys, LN_TUNING, LORA, MULTITASK_PROMPT_TUNING,
    NEUTRAL, P_TUNING, PREFIX_TUNING, PROMPT_TUNING, TRAINABLE_TOKENS,
};
use crate::config::FORMS;
use crate::site_method::PeftForm;
use crate::{
    AdaloraConfig, AdapterConfig, AdapterError, AdaptionPromptConfig, CartridgeConfig, Ia3Config,
    LayerNormConfig, LoraConfig, MultitaskPromptTuningConfig, PTuningConfig, PrefixTuningConfig,
    PromptTuningConfig, Targets, TrainableTokensConfig,
};

/// What a file says.
#[derive(Debug)]
pub(super) struct PeftConfig {
    pub(super) peft_type: String,
    pub(super) base_name: Option<String>,
    pub(super) task_type: Option<String>,
    pub(super) peft_version: Option<String>,
    pub(super) method: AdapterConfig,
    /// What an option of the method makes of it beside.
    pub(super) beside: Vec<AdapterConfig>,
    /// Ends of the paths of modules that are stored whole.
    pub(super) modules_to_save: Vec<String>,
}

/// Files of this kind take a few kilobytes.
const MAX_BYTES: usize = 16 << 20;

/// Types that have keys of their own.
const TYPES: [&str; 11] = [
    "LORA",
    "ADALORA",
    "IA3",
    "LN_TUNING",
    "TRAINABLE_TOKENS",
    "PROMPT_TUNING",
    "PREFIX_TUNING",
    "P_TUNING",
    "MULTITASK_PROMPT_TUNING",
    "ADAPTION_PROMPT",
    "CARTRIDGE",
];

/// # Errors
/// [`AdapterError::Read`], [`AdapterError::Format`], [`AdapterError::PeftType`],
/// [`AdapterError::PeftOption`] or [`AdapterError::PeftKeys`].
pub(super) fn read(path: &Path) -> Result<PeftConfig, AdapterError> {
    let bytes = std::fs::read(path).map_err(|source| AdapterError::Read {
        path: path.to_owned(),
        source,
    })?;
    parse(path, &bytes)
}

fn parse(path: &Path, bytes: &[u8]) -> Result<PeftConfig, AdapterError> {
    if bytes.len() > MAX_BYTES {
        let reason = format!("{} bytes; at most {MAX_BYTES} are read", bytes.len());
        return Err(AdapterError::Format {
            path: path.to_owned(),
            reason,
            source: None,
        });
    }
    let config: Map<String, Value> =
        serde_json::from_slice(bytes).map_err(|source| AdapterError::Format {
            path: path.to_owned(),
            reason: format!("not a JSON object: {source}"),
            source: Some(Box::new(source)),
        })?;
    let found = config.get("peft_type").and_then(Value::as_str);
    let found = found.ok_or_else(|| AdapterError::Format {
        path: path.to_owned(),
        reason: "peft_type: expected the name of a method, found none".to_owned(),
        source: None,
    })?;
    let method = match found {
        "LORA" => {
            check_initialisation(path, &config)?;
            AdapterConfig::Lora(method::<LoraConfig>(path, &config, &LORA)?)
        }
        "ADALORA" => AdapterConfig::Adalora(method::<AdaloraConfig>(path, &config, &ADALORA)?),
        "IA3" => AdapterConfig::Ia3(method::<Ia3Config>(path, &config, &IA3)?),
        "LN_TUNING" => {
            AdapterConfig::LayerNorm(method::<LayerNormConfig>(path, &config, &LN_TUNING)?)
        }
        "TRAINABLE_TOKENS" => AdapterConfig::TrainableTokens(method::<TrainableTokensConfig>(
            path,
            &config,
            &TRAINABLE_TOKENS,
        )?),
        "PROMPT_TUNING" => AdapterConfig::PromptTuning(method::<PromptTuningConfig>(
            path,
            &config,
            &PROMPT_TUNING,
        )?),
        "PREFIX_TUNING" => AdapterConfig::PrefixTuning(method::<PrefixTuningConfig>(
            path,
            &config,
            &PREFIX_TUNING,
        )?),
        "P_TUNING" => AdapterConfig::PTuning(method::<PTuningConfig>(path, &config, &P_TUNING)?),
        "MULTITASK_PROMPT_TUNING" => {
            AdapterConfig::MultitaskPromptTuning(method::<MultitaskPromptTuningConfig>(
                path,
                &config,
                &MULTITASK_PROMPT_TUNING,
            )?)
        }
        "ADAPTION_PROMPT" => AdapterConfig::AdaptionPrompt(method::<AdaptionPromptConfig>(
            path,
            &config,
            &ADAPTION_PROMPT,
        )?),
        "CARTRIDGE" => {
            AdapterConfig::Cartridge(method::<CartridgeConfig>(path, &config, &CARTRIDGE)?)
        }
        found => match FORMS.iter().find(|form| form.peft_type == found) {
            Some(form) => at_sites(path, &config, form)?,
            None => {
                let mut supported = TYPES.to_vec();
                supported.extend(FORMS.iter().map(|form| form.peft_type));
                return Err(AdapterError::PeftType {
                    path: path.to_owned(),
                    found: found.to_owned(),
                    supported: supported.join(", "),
                });
            }
        },
    };
    let modules_to_save = match config.get("modules_to_save") {
        None | Some(Value::Null) => Vec::new(),
        Some(names) => typed(path, names.clone())?,
    };
    let beside = match (&method, config.get("trainable_token_indices")) {
        (AdapterConfig::Lora(_), Some(tokens)) if !is_off(tokens) => trained_tokens(path, tokens)?,
        _ => Vec::new(),
    };
    Ok(PeftConfig {
        peft_type: found.to_owned(),
        base_name: text(&config, "base_model_name_or_path"),
        task_type: text(&config, "task_type"),
        peft_version: text(&config, "peft_version"),
        method,
        beside,
        modules_to_save,
    })
}

fn text(config: &Map<String, Value>, key: &str) -> Option<String> {
    config.get(key).and_then(Value::as_str).map(str::to_owned)
}

/// LoRA's `trainable_token_indices`: of the word vectors, or by the name of the table.
fn trained_tokens(path: &Path, tokens: &Value) -> Result<Vec<AdapterConfig>, AdapterError> {
    let of = |target_modules: Option<Targets>, tokens: &Value| {
        Ok(AdapterConfig::TrainableTokens(TrainableTokensConfig {
            token_indices: typed(path, tokens.clone())?,
            target_modules,
            init_weights: true,
        }))
    };
    match tokens {
        Value::Object(by_name) => by_name
            .iter()
            .map(|(name, tokens)| of(Some(Targets::Names(vec![name.clone()])), tokens))
            .collect(),
        tokens => Ok(vec![of(None, tokens)?]),
    }
}

/// Names of first values that a file can have. Others change the base in ways that a file does not
/// tell: by chance, or by what data made of it.
fn check_initialisation(path: &Path, config: &Map<String, Value>) -> Result<(), AdapterError> {
    let key = "init_lora_weights";
    match config.get(key) {
        None | Some(Value::Null | Value::Bool(_)) => Ok(()),
        Some(Value::String(name))
            if ["gaussian", "orthogonal", "eva", "mica", "pissa", "olora"]
                .contains(&name.to_lowercase().as_str()) =>
        {
            Ok(())
        }
        Some(value) => Err(not_supported(path, key, value)),
    }
}

fn not_supported(path: &Path, key: &str, value: &Value) -> AdapterError {
    AdapterError::PeftOption {
        path: path.to_owned(),
        key: key.to_owned(),
        value: value.to_string(),
    }
}

fn method<T: DeserializeOwned>(
    path: &Path,
    config: &Map<String, Value>,
    keys: &Keys,
) -> Result<T, AdapterError> {
    let groups = [keys.used, keys.neutral, keys.off, NEUTRAL.as_slice()];
    check_known(path, config, &groups.concat())?;
    for key in keys.off {
        if let Some(value) = config.get(*key)
            && !is_off(value)
        {
            return Err(not_supported(path, key, value));
        }
    }
    typed(path, Value::Object(used(config, keys.used)))
}

/// The settings of a method that has one form in files.
fn at_sites(
    path: &Path,
    config: &Map<String, Value>,
    form: &PeftForm,
) -> Result<AdapterConfig, AdapterError> {
    let others = form.neutral.iter().chain(form.only).map(|(key, _)| *key);
    let known: Vec<&str> = form
        .keys
        .iter()
        .chain(&NEUTRAL)
        .copied()
        .chain(others)
        .collect();
    check_known(path, config, &known)?;
    for (key, only) in form.only {
        if let Some(value) = config.get(*key)
            && !is_off(value)
            && *value != only.value()
        {
            return Err(not_supported(path, key, value));
        }
    }
    let mut own = used(config, form.keys);
    own.insert("method".to_owned(), form.method.into());
    typed(path, Value::Object(own))
}

/// Passes keys of later releases over as long as what they name is not asked for.
///
/// # Errors
/// [`AdapterError::PeftKeys`] naming all keys that are not known and neither null nor false.
fn check_known(
    path: &Path,
    config: &Map<String, Value>,
    known: &[&str],
) -> Result<(), AdapterError> {
    let asks = |value: &Value| !matches!(value, Value::Null | Value::Bool(false));
    let unknown = config
        .iter()
        .filter(|(key, value)| !known.contains(&key.as_str()) && asks(value));
    let keys: Vec<String> = unknown.map(|(key, _)| key.clone()).collect();
    match keys.is_empty() {
        true => Ok(()),
        false => Err(AdapterError::PeftKeys {
            path: path.to_owned(),
            keys,
            peft_version: text(config, "peft_version"),
        }),
    }
}

/// The values of our own settings.
fn used(config: &Map<String, Value>, keys: &[&str]) -> Map<String, Value> {
    let mut own = Map::new();
    for key in keys {
        if let Some(value) = config.get(*key).filter(|value| !value.is_null()) {
            own.extend(as_ours(key, value).map(|value| ((*key).to_owned(), value)));
        }
    }
    own
}

fn is_off(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(on) => !on,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::String(_) | Value::Number(_) => false,
    }
}

/// A value as our configuration has it: PEFT also allows one where a list is meant, and an empty
/// value where nothing is meant.
fn as_ours(key: &str, value: &Value) -> Option<Value> {
    let empty =
        value.as_array().is_some_and(Vec::is_empty) || value.as_str().is_some_and(str::is_empty);
    match key {
        // Data chose the first values, which nothing but training depends on.
        "init_lora_weights" => match value.as_str().map(str::to_lowercase) {
            Some(name) if ["eva", "mica"].contains(&name.as_str()) => None,
            Some(name) => Some(Value::String(name)),
            None => Some(value.clone()),
        },
        "exclude_modules" | "layers_to_transform" | "layers_pattern" if empty => None,
        "layers_to_transform" | "layers_pattern" if !value.is_array() => {
            Some(Value::Array(vec![value.clone()]))
        }
        _ => Some(value.clone()),
    }
}

fn typed<T: DeserializeOwned>(path: &Path, value: Value) -> Result<T, AdapterError> {
    serde_json::from_value(value).map_err(|source| AdapterError::Format {
        path: path.to_owned(),
        reason: source.to_string(),
        source: Some(Box::new(source)),
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::{any, prop, proptest};
    use serde_json::{Value, json};

    use super::{PeftConfig, parse};
    use crate::{AdapterConfig, AdapterError, BiasMode, Targets};

    fn read(change: impl Fn(&mut Value)) -> Result<PeftConfig, AdapterError> {
        let mut value = json!({
            "peft_type": "LORA", "r": 4, "lora_alpha": 10, "bias": "lora_only", "target_modules": ["query"],
            "modules_to_save": ["classifier"], "use_dora": false, "loftq_config": {}, "exclude_modules": null,
            "rank_pattern": {"z": 1, "a": 2}, "init_lora_weights": true
        });
        change(&mut value);
        parse(
            Path::new("adapter_config.json"),
            value.to_string().as_bytes(),
        )
    }

    #[test]
    fn a_lora_file_is_read() {
        let config = read(|_| ()).unwrap();
        assert_eq!(config.modules_to_save, ["classifier"]);
        let AdapterConfig::Lora(lora) = config.method else {
            panic!("not LoRA")
        };
        assert_eq!(
            (lora.r, lora.lora_alpha, lora.bias),
            (4, 10.0, BiasMode::LoraOnly)
        );
        assert_eq!(lora.target_modules, Targets::names(&["query"]));
        assert_eq!(
            lora.rank_pattern
                .iter()
                .map(|(name, _)| name)
                .collect::<Vec<_>>(),
            ["z", "a"]
        );
    }

    #[test]
    fn one_value_stands_for_a_list_of_one() {
        let change = |value: &mut Value| {
            value["layers_to_transform"] = json!(1);
            value["layers_pattern"] = json!("layer");
        };
        let AdapterConfig::Lora(lora) = read(change).unwrap().method else {
            panic!("not LoRA")
        };
        assert_eq!(lora.layers_to_transform, Some(vec![1]));
        assert_eq!(lora.layers_pattern, Some(vec!["layer".to_owned()]));
    }

    #[test]
    fn options_that_change_the_result_are_refused_by_name() {
        for (key, value) in [
            ("layer_replication", json!([[0, 1]])),
            ("init_lora_weights", json!("pissa_niter_4")),
            ("init_lora_weights", json!("corda")),
            ("loftq_config", json!({"loftq_bits": 4})),
            ("use_qalora", json!(true)),
            ("ensure_weight_tying", json!(true)),
        ] {
            match read(|config| config[key] = value.clone()) {
                Err(AdapterError::PeftOption { key: found, .. }) => assert_eq!(found, key),
                other => panic!("{key}: {other:?}"),
            }
        }
    }

    #[test]
    fn unknown_keys_and_types_are_named() {
        for value in [json!(1), json!(true), json!(""), json!([]), json!({})] {
            match read(|config| config["new_trick"] = value.clone()) {
                Err(AdapterError::PeftKeys { keys, .. }) => assert_eq!(keys, ["new_trick"]),
                other => panic!("{value}: {other:?}"),
            }
        }
        let error = read(|config| config["peft_type"] = json!("XLORA"))
            .unwrap_err()
            .to_string();
        assert!(error.contains("XLORA") && error.contains("LOHA"), "{error}");
        let error = read(|config| config["peft_type"] = json!(null)).unwrap_err();
        assert!(error.to_string().contains("peft_type: expected"), "{error}");
        assert!(matches!(
            read(|config| config["r"] = json!("four")),
            Err(AdapterError::Format { .. })
        ));
        assert!(parse(Path::new("x"), b"[]").is_err());
    }

    #[test]
    fn keys_of_later_releases_are_passed_over_while_they_are_off() {
        for peft_type in ["LORA", "VERA"] {
            let of_later = |trick: Value| {
                let mut value = json!({"peft_type": peft_type, "target_modules": ["query"],
                                       "peft_version": "0.99.1", "new_trick": trick});
                value["another_trick"] = json!(false);
                parse(Path::new("x"), value.to_string().as_bytes())
            };
            assert!(of_later(json!(null)).is_ok() && of_later(json!(false)).is_ok());
            let error = of_later(json!(2)).unwrap_err().to_string();
            assert!(
                error.contains("new_trick") && error.contains("0.99.1"),
                "{error}"
            );
            assert!(!error.contains("another_trick"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
            let _ = parse(Path::new("x"), &bytes);
        }
    }
}

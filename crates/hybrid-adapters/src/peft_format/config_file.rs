//! Reading `adapter_config.json`.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::config::FORMS;
use crate::site_method::PeftForm;
use crate::{
    AdapterConfig, AdapterError, Ia3Config, LayerNormConfig, LoraConfig, PTuningConfig,
    PrefixTuningConfig, PromptTuningConfig,
};

/// What a file says.
#[derive(Debug)]
pub(super) struct PeftConfig {
    pub(super) method: AdapterConfig,
    /// Ends of the paths of modules that are stored whole.
    pub(super) modules_to_save: Vec<String>,
}

/// Files of this kind take a few kilobytes.
const MAX_BYTES: usize = 16 << 20;

/// Keys of every method that say nothing about the result.
const NEUTRAL: [&str; 10] = [
    "auto_mapping",
    "base_model_name_or_path",
    "fan_in_fan_out",
    "inference_mode",
    "modules_to_save",
    "peft_type",
    "peft_version",
    "revision",
    "runtime_config",
    "task_type",
];

/// The keys of one method.
struct Keys {
    /// Keys of our own configuration, with the same meaning.
    used: &'static [&'static str],
    /// Keys that say nothing about what stored tensors compute.
    neutral: &'static [&'static str],
    /// Keys that change the result unless they are off.
    off: &'static [&'static str],
}

const LORA: Keys = Keys {
    used: &[
        "r",
        "lora_alpha",
        "lora_dropout",
        "bias",
        "target_modules",
        "exclude_modules",
        "layers_to_transform",
        "layers_pattern",
        "use_rslora",
        "use_dora",
        "rank_pattern",
        "alpha_pattern",
    ],
    neutral: &[
        "ensure_weight_tying",
        "eva_config",
        "init_lora_weights",
        "megatron_config",
        "megatron_core",
        "qalora_group_size",
    ],
    off: &[
        "alora_invocation_tokens",
        "arrow_config",
        "corda_config",
        "kasa_config",
        "layer_replication",
        "loftq_config",
        "lora_bias",
        "lora_ga_config",
        "monteclora_config",
        "target_parameters",
        "trainable_token_indices",
        "use_bdlora",
        "use_qalora",
        "velora_config",
    ],
};

const IA3: Keys = Keys {
    used: &["target_modules", "feedforward_modules", "exclude_modules"],
    neutral: &["init_ia3_weights"],
    off: &[],
};

const LN_TUNING: Keys = Keys {
    used: &["target_modules", "exclude_modules"],
    neutral: &[],
    off: &[],
};

const PROMPT_TUNING: Keys = Keys {
    used: &[
        "num_virtual_tokens",
        "token_dim",
        "num_transformer_submodules",
        "prompt_tuning_init",
        "prompt_tuning_init_text",
        "tokenizer_name_or_path",
    ],
    neutral: &["num_attention_heads", "num_layers", "tokenizer_kwargs"],
    off: &[],
};

const PREFIX_TUNING: Keys = Keys {
    used: &[
        "num_virtual_tokens",
        "token_dim",
        "num_transformer_submodules",
        "prefix_projection",
        "encoder_hidden_size",
        "init_weights",
    ],
    neutral: &["num_attention_heads", "num_layers"],
    off: &[],
};

const P_TUNING: Keys = Keys {
    used: &[
        "num_virtual_tokens",
        "token_dim",
        "num_transformer_submodules",
        "encoder_reparameterization_type",
        "encoder_hidden_size",
        "encoder_num_layers",
        "encoder_dropout",
    ],
    neutral: &["num_attention_heads", "num_layers"],
    off: &[],
};

/// Types that have keys of their own above.
const TYPES: [&str; 6] = [
    "LORA",
    "IA3",
    "LN_TUNING",
    "PROMPT_TUNING",
    "PREFIX_TUNING",
    "P_TUNING",
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
    let found = config
        .get("peft_type")
        .and_then(Value::as_str)
        .unwrap_or("nothing");
    let method = match found {
        "LORA" => {
            check_initialisation(path, &config)?;
            AdapterConfig::Lora(method::<LoraConfig>(path, &config, &LORA)?)
        }
        "IA3" => AdapterConfig::Ia3(method::<Ia3Config>(path, &config, &IA3)?),
        "LN_TUNING" => {
            AdapterConfig::LayerNorm(method::<LayerNormConfig>(path, &config, &LN_TUNING)?)
        }
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
    Ok(PeftConfig {
        method,
        modules_to_save,
    })
}

/// Some initialisations store factors of a base that they changed; on the unchanged base those
/// compute something else.
fn check_initialisation(path: &Path, config: &Map<String, Value>) -> Result<(), AdapterError> {
    let key = "init_lora_weights";
    match config.get(key) {
        None | Some(Value::Null | Value::Bool(_)) => Ok(()),
        Some(Value::String(name)) if ["gaussian", "orthogonal", "eva"].contains(&name.as_str()) => {
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

/// # Errors
/// [`AdapterError::PeftKeys`] naming all keys that are not known.
fn check_known(
    path: &Path,
    config: &Map<String, Value>,
    known: &[&str],
) -> Result<(), AdapterError> {
    let unknown = config.keys().filter(|key| !known.contains(&key.as_str()));
    let keys: Vec<String> = unknown.cloned().collect();
    match keys.is_empty() {
        true => Ok(()),
        false => Err(AdapterError::PeftKeys {
            path: path.to_owned(),
            keys,
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
            ("lora_bias", json!(true)),
            ("layer_replication", json!([[0, 1]])),
            ("init_lora_weights", json!("pissa")),
            ("loftq_config", json!({"loftq_bits": 4})),
            ("trainable_token_indices", json!([1])),
        ] {
            match read(|config| config[key] = value.clone()) {
                Err(AdapterError::PeftOption { key: found, .. }) => assert_eq!(found, key),
                other => panic!("{key}: {other:?}"),
            }
        }
    }

    #[test]
    fn unknown_keys_and_types_are_named() {
        match read(|config| config["new_trick"] = json!(null)) {
            Err(AdapterError::PeftKeys { keys, .. }) => assert_eq!(keys, ["new_trick"]),
            other => panic!("{other:?}"),
        }
        let error = read(|config| config["peft_type"] = json!("XLORA"))
            .unwrap_err()
            .to_string();
        assert!(error.contains("XLORA") && error.contains("LOHA"), "{error}");
        assert!(matches!(
            read(|config| config["r"] = json!("four")),
            Err(AdapterError::Format { .. })
        ));
        assert!(parse(Path::new("x"), b"[]").is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
            let _ = parse(Path::new("x"), &bytes);
        }
    }
}

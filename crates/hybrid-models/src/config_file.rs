//! A model's `config.json`, read key by key.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::GgufFile;
use crate::ModelError;
use crate::kernels::Activation;

/// Sizes above this are taken for damage.
const MAX_SIZE: u64 = 1 << 24;

/// The keys of a `config.json`, or of a section of it.
#[derive(Debug)]
pub(crate) struct ConfigFile {
    path: PathBuf,
    /// Before keys in messages: `rope_parameters.` within that section.
    section: String,
    keys: Map<String, Value>,
}

impl ConfigFile {
    /// Reads the configuration of a model folder, or what a GGUF file says in its place.
    ///
    /// # Errors
    /// [`ModelError::Read`] or [`ModelError::Json`]; for a GGUF file, an error of its header.
    pub(crate) fn read(folder: &Path) -> Result<Self, ModelError> {
        if let Some(file) = GgufFile::of_model(folder)? {
            return Ok(Self::new(file.path().to_owned(), file.config()?));
        }
        Self::read_file(folder.join("config.json"))
    }

    /// Reads the settings of generation that a model folder may have beside its configuration.
    ///
    /// # Errors
    /// [`ModelError::Read`] or [`ModelError::Json`].
    pub(crate) fn read_generation(folder: &Path) -> Result<Option<Self>, ModelError> {
        let path = folder.join("generation_config.json");
        path.is_file().then(|| Self::read_file(path)).transpose()
    }

    fn read_file(path: PathBuf) -> Result<Self, ModelError> {
        let text = std::fs::read(&path).map_err(|source| ModelError::Read {
            path: path.clone(),
            source,
        })?;
        let keys = serde_json::from_slice(&text).map_err(|source| ModelError::Json {
            path: path.clone(),
            source,
        })?;
        Ok(Self::new(path, keys))
    }

    /// Keys that stand in `path`.
    pub(crate) fn new(path: PathBuf, keys: Map<String, Value>) -> Self {
        Self {
            path,
            section: String::new(),
            keys,
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What stands beside the name that was found.
    ///
    /// # Errors
    /// [`ModelError::UnknownArchitecture`] with all names there are.
    pub(crate) fn choose<T: Copy>(
        &self,
        found: &str,
        choices: &[(&'static str, T)],
    ) -> Result<T, ModelError> {
        let chosen = choices.iter().find(|(name, _)| *name == found);
        chosen
            .map(|(_, value)| *value)
            .ok_or_else(|| ModelError::UnknownArchitecture {
                path: self.path.clone(),
                found: found.to_owned(),
                known: choices.iter().map(|(name, _)| *name).collect(),
            })
    }

    /// A value that is there and not null.
    fn value(&self, key: &str) -> Option<&Value> {
        self.keys.get(key).filter(|value| !value.is_null())
    }

    /// The error of a value that cannot be used.
    pub(crate) fn invalid(
        &self,
        key: &str,
        expected: impl Into<String>,
        found: impl ToString,
    ) -> ModelError {
        ModelError::InvalidValue {
            path: self.path.clone(),
            key: format!("{}{key}", self.section),
            expected: expected.into(),
            found: found.to_string(),
        }
    }

    fn missing(&self, key: &str) -> ModelError {
        ModelError::MissingKey {
            path: self.path.clone(),
            key: format!("{}{key}", self.section),
        }
    }

    /// Whether a key is there, null or not.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.keys.contains_key(key)
    }

    /// The names of all keys.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.keys.keys().map(String::as_str)
    }

    /// The keys of a section; nothing when it is left out or empty.
    pub(crate) fn section(&self, key: &str) -> Result<Option<Self>, ModelError> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Object(keys)) if keys.is_empty() => Ok(None),
            Some(Value::Object(keys)) => Ok(Some(Self {
                path: self.path.clone(),
                section: format!("{}{key}.", self.section),
                keys: keys.clone(),
            })),
            Some(other) => Err(self.invalid(key, "keys with values", other)),
        }
    }

    /// A required text.
    pub(crate) fn text(&self, key: &str) -> Result<&str, ModelError> {
        self.optional_text(key)?.ok_or_else(|| self.missing(key))
    }

    /// A text that may be left out.
    pub(crate) fn optional_text(&self, key: &str) -> Result<Option<&str>, ModelError> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        let text = value.as_str();
        text.map(Some)
            .ok_or_else(|| self.invalid(key, "a text", value))
    }

    /// A list of texts that may be left out.
    pub(crate) fn texts(&self, key: &str) -> Result<Option<Vec<&str>>, ModelError> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        let texts = value.as_array().and_then(|texts| {
            let texts = texts.iter().map(Value::as_str);
            texts.collect::<Option<Vec<&str>>>()
        });
        texts
            .map(Some)
            .ok_or_else(|| self.invalid(key, "a list of texts", value))
    }

    /// The class in `architectures`, if any.
    pub(crate) fn class(&self) -> Result<Option<&str>, ModelError> {
        let Some(value) = self.value("architectures") else {
            return Ok(None);
        };
        let classes = value
            .as_array()
            .ok_or_else(|| self.invalid("architectures", "a list of class names", value))?;
        match classes.first() {
            None => Ok(None),
            Some(Value::String(class)) => Ok(Some(class)),
            Some(other) => Err(self.invalid("architectures", "a list of class names", other)),
        }
    }

    /// A required positive size.
    pub(crate) fn size(&self, key: &str) -> Result<usize, ModelError> {
        self.optional_size(key)?.ok_or_else(|| self.missing(key))
    }

    /// A positive size, if it is there and not null.
    pub(crate) fn optional_size(&self, key: &str) -> Result<Option<usize>, ModelError> {
        let size = self.value(key).map(|value| self.parse_size(key, value));
        size.transpose()
    }

    /// A positive size that may be left out.
    pub(crate) fn size_or(&self, key: &str, default: usize) -> Result<usize, ModelError> {
        Ok(self.optional_size(key)?.unwrap_or(default))
    }

    /// A number of things, perhaps none, that may be left out.
    pub(crate) fn count_or(&self, key: &str, default: usize) -> Result<usize, ModelError> {
        match self.value(key) {
            Some(value) if value.as_u64() == Some(0) => Ok(0),
            _ => self.size_or(key, default),
        }
    }

    fn parse_size(&self, key: &str, value: &Value) -> Result<usize, ModelError> {
        match value.as_u64() {
            Some(size @ 1..=MAX_SIZE) => Ok(size as usize),
            _ => Err(self.invalid(key, format!("a whole number from 1 to {MAX_SIZE}"), value)),
        }
    }

    /// An id of the vocabulary that may be left out.
    pub(crate) fn id_or(&self, key: &str, default: usize) -> Result<usize, ModelError> {
        Ok(self.optional_id(key)?.unwrap_or(default))
    }

    /// An id of the vocabulary, if it is there and not null.
    pub(crate) fn optional_id(&self, key: &str) -> Result<Option<usize>, ModelError> {
        let id = self.value(key).map(|value| self.parse_id(key, value));
        id.transpose()
    }

    fn parse_id(&self, key: &str, value: &Value) -> Result<usize, ModelError> {
        match value.as_u64() {
            Some(id @ 0..MAX_SIZE) => Ok(id as usize),
            _ => Err(self.invalid(key, "a token id", value)),
        }
    }

    /// One id of the vocabulary, several or none.
    pub(crate) fn ids(&self, key: &str) -> Result<Vec<i64>, ModelError> {
        let Some(value) = self.value(key) else {
            return Ok(Vec::new());
        };
        let values = match value {
            Value::Array(values) => values.as_slice(),
            _ => std::slice::from_ref(value),
        };
        let id = |value: &Value| match value.as_u64() {
            Some(id @ 0..MAX_SIZE) => Ok(id as i64),
            _ => Err(self.invalid(key, "a token id or a list of them", value)),
        };
        values.iter().map(id).collect()
    }

    /// A required id of the vocabulary.
    pub(crate) fn id(&self, key: &str) -> Result<usize, ModelError> {
        self.optional_id(key)?.ok_or_else(|| self.missing(key))
    }

    /// A list of lists of ids of the vocabulary; empty when it is left out.
    pub(crate) fn id_lists(&self, key: &str) -> Result<Vec<Vec<i64>>, ModelError> {
        let Some(value) = self.value(key) else {
            return Ok(Vec::new());
        };
        let lists = value.as_array().and_then(|lists| {
            let lists = lists.iter().map(Value::as_array);
            lists.collect::<Option<Vec<&Vec<Value>>>>()
        });
        let lists = lists.ok_or_else(|| self.invalid(key, "a list of lists of ids", value))?;
        let parse = |id: &Value| Ok(self.parse_id(key, id)? as i64);
        lists
            .into_iter()
            .map(|ids| ids.iter().map(parse).collect())
            .collect()
    }

    /// Refuses an id that is not in the vocabulary.
    ///
    /// # Errors
    /// [`ModelError::InvalidValue`].
    pub(crate) fn check_id(&self, key: &str, id: i64, vocab: usize) -> Result<(), ModelError> {
        match (0..vocab as i64).contains(&id) {
            true => Ok(()),
            false => Err(self.invalid(key, format!("an id below {vocab}"), id)),
        }
    }

    /// A positive number that may be left out.
    pub(crate) fn positive_or(&self, key: &str, default: f64) -> Result<f64, ModelError> {
        Ok(self.optional_positive(key)?.unwrap_or(default))
    }

    /// A required positive number.
    pub(crate) fn positive(&self, key: &str) -> Result<f64, ModelError> {
        self.optional_positive(key)?
            .ok_or_else(|| self.missing(key))
    }

    /// A positive number, if it is there and not null.
    pub(crate) fn optional_positive(&self, key: &str) -> Result<Option<f64>, ModelError> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        value
            .as_f64()
            .filter(|number| number.is_finite() && *number > 0.0)
            .map(Some)
            .ok_or_else(|| self.invalid(key, "a positive number", value))
    }

    /// A switch that may be left out.
    pub(crate) fn switch_or(&self, key: &str, default: bool) -> Result<bool, ModelError> {
        let Some(value) = self.value(key) else {
            return Ok(default);
        };
        value
            .as_bool()
            .ok_or_else(|| self.invalid(key, "true or false", value))
    }

    /// An activation function that may be left out.
    pub(crate) fn activation_or(
        &self,
        key: &str,
        default: Activation,
    ) -> Result<Activation, ModelError> {
        let Some(value) = self.value(key) else {
            return Ok(default);
        };
        let name = value
            .as_str()
            .ok_or_else(|| self.invalid(key, "a name", value))?;
        Activation::of_name(name).ok_or_else(|| {
            self.invalid(
                key,
                format!("one of {}", Activation::NAMES.join(", ")),
                name,
            )
        })
    }

    /// Number of labels: the length of `id2label`, or `num_labels`, or Transformers' default of 2.
    pub(crate) fn n_labels(&self) -> Result<usize, ModelError> {
        match self.value("id2label") {
            None => self.size_or("num_labels", 2),
            Some(Value::Object(labels)) if !labels.is_empty() => Ok(labels.len()),
            Some(other) => Err(self.invalid("id2label", "names by index", other)),
        }
    }

    /// Width of one attention head.
    ///
    /// # Errors
    /// [`ModelError::InvalidValue`] if `d_model` is no multiple of `n_heads`.
    pub(crate) fn check_heads(
        &self,
        key: &str,
        d_model: usize,
        n_heads: usize,
    ) -> Result<(), ModelError> {
        if d_model.is_multiple_of(n_heads) {
            return Ok(());
        }
        Err(self.invalid(
            key,
            format!("a divisor of the hidden size {d_model}"),
            n_heads,
        ))
    }

    /// Refuses an option that this crate does not know, whatever its value.
    ///
    /// # Errors
    /// [`ModelError::InvalidValue`] if `key` is there and not null.
    pub(crate) fn refuse(&self, key: &str) -> Result<(), ModelError> {
        match self.value(key) {
            Some(found) => Err(self.invalid(key, "no such key, which is not supported", found)),
            None => Ok(()),
        }
    }

    /// Refuses a variant that this crate does not compute.
    ///
    /// # Errors
    /// [`ModelError::InvalidValue`] if `key` is there and not `expected`.
    pub(crate) fn require(&self, key: &str, expected: &Value) -> Result<(), ModelError> {
        match self.value(key) {
            Some(found) if found != expected => Err(self.invalid(key, expected.to_string(), found)),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::ConfigFile;
    use crate::ModelError;

    fn config(keys: Value) -> ConfigFile {
        let Value::Object(keys) = keys else {
            panic!("not an object")
        };
        ConfigFile::new("config.json".into(), keys)
    }

    #[test]
    fn sizes_are_positive_and_bounded() {
        let config =
            config(json!({"zero": 0, "negative": -1, "text": "4", "huge": 1u64 << 40, "fine": 4}));
        assert_eq!(config.size("fine").unwrap(), 4);
        for key in ["zero", "negative", "text", "huge"] {
            let error = config.size(key).unwrap_err();
            assert!(
                matches!(error, ModelError::InvalidValue { .. }),
                "{key}: {error}"
            );
        }
        let error = config.size("absent").unwrap_err().to_string();
        assert_eq!(error, "config.json: `absent` is missing");
    }

    #[test]
    fn unknown_activations_list_the_known_ones() {
        let config = config(json!({"hidden_act": "swishy"}));
        let error = config
            .activation_or("hidden_act", crate::kernels::Activation::Gelu)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("swishy") && error.contains("gelu_new"),
            "{error}"
        );
    }

    #[test]
    fn keys_of_a_section_are_named_with_it() {
        let config =
            config(json!({"rope": {"factor": -1, "type": 3}, "empty": {}, "list": ["a", 1]}));
        let section = config.section("rope").unwrap().unwrap();
        let error = section.positive("factor").unwrap_err().to_string();
        assert_eq!(
            error,
            "config.json: `rope.factor`: expected a positive number, found -1"
        );
        let missing = section.size("length").unwrap_err().to_string();
        assert_eq!(missing, "config.json: `rope.length` is missing");
        assert!(section.optional_text("type").is_err() && section.refuse("type").is_err());
        assert!(config.section("empty").unwrap().is_none());
        assert!(config.section("list").is_err() && config.texts("list").is_err());
    }

    #[test]
    fn ids_may_be_one_or_several() {
        let config = config(json!({"one": 2, "several": [3, 1], "none": null, "text": [1, "a"]}));
        assert_eq!(config.ids("one").unwrap(), [2]);
        assert_eq!(config.ids("several").unwrap(), [3, 1]);
        assert!(config.ids("none").unwrap().is_empty());
        assert!(config.ids("text").is_err());
    }

    #[test]
    fn heads_must_divide_the_hidden_size() {
        let error = config(json!({}))
            .check_heads("num_attention_heads", 10, 4)
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            "config.json: `num_attention_heads`: expected a divisor of the hidden size 10, found 4"
        );
    }
}

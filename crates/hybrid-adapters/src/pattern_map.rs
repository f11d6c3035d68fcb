//! Settings by site pattern, in the order in which they are tried.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use fancy_regex::Regex;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::AdapterError;

/// A map from patterns to values that keeps its order: the first pattern that fits decides, as in
/// PEFT's `rank_pattern` and `alpha_pattern`.
#[derive(Debug, Clone, PartialEq)]
pub struct PatternMap<V>(Vec<(String, V)>);

impl<V> Default for PatternMap<V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<V> FromIterator<(String, V)> for PatternMap<V> {
    fn from_iter<I: IntoIterator<Item = (String, V)>>(entries: I) -> Self {
        Self(entries.into_iter().collect())
    }
}

impl<V> PatternMap<V> {
    /// Whether there is no pattern.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Patterns and values in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &V)> {
        self.0
            .iter()
            .map(|(pattern, value)| (pattern.as_str(), value))
    }

    /// The value of the first pattern that equals the end of `path`, counted in whole names.
    ///
    /// # Errors
    /// [`AdapterError::Pattern`].
    pub(crate) fn first(
        &self,
        method: &'static str,
        key: &'static str,
        path: &str,
    ) -> Result<Option<&V>, AdapterError> {
        self.matching(method, key, path, |pattern| {
            format!(r"\A(?:.*\.)?(?:{pattern})\z")
        })
    }

    /// The value of the first pattern that is found anywhere in `path`.
    ///
    /// # Errors
    /// [`AdapterError::Pattern`].
    pub(crate) fn first_within(
        &self,
        method: &'static str,
        key: &'static str,
        path: &str,
    ) -> Result<Option<&V>, AdapterError> {
        self.matching(method, key, path, str::to_owned)
    }

    fn matching(
        &self,
        method: &'static str,
        key: &'static str,
        path: &str,
        whole: impl Fn(&str) -> String,
    ) -> Result<Option<&V>, AdapterError> {
        for (pattern, value) in &self.0 {
            let wrong = |source| AdapterError::Pattern {
                method,
                key,
                pattern: pattern.clone(),
                source: Box::new(source),
            };
            let regex = Regex::new(&whole(pattern)).map_err(wrong)?;
            if regex.is_match(path).map_err(wrong)? {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }
}

impl<V: Serialize> Serialize for PatternMap<V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(pattern, value)| (pattern, value)))
    }
}

impl<'de, V: Deserialize<'de>> Deserialize<'de> for PatternMap<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder<V>(PhantomData<V>);
        impl<'de, V: Deserialize<'de>> Visitor<'de> for InOrder<V> {
            type Value = PatternMap<V>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map from patterns to values")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(PatternMap(entries))
            }
        }
        deserializer.deserialize_map(InOrder(PhantomData))
    }
}

impl<V: JsonSchema> JsonSchema for PatternMap<V> {
    fn schema_name() -> Cow<'static, str> {
        format!("PatternMap_of_{}", V::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        <std::collections::BTreeMap<String, V>>::json_schema(generator)
    }
}

#[cfg(test)]
mod tests {
    use super::PatternMap;

    fn map(json: &str) -> PatternMap<usize> {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn the_first_fitting_pattern_decides() {
        let map = map(r#"{"z.*query": 1, "query": 2, "encoder.layer.0.x": 3}"#);
        let first = |path| map.first("lora", "rank_pattern", path).unwrap().copied();
        assert_eq!(first("a.b.query"), Some(2));
        assert_eq!(first("z.b.query"), Some(1));
        assert_eq!(first("query"), Some(2));
        assert_eq!(first("a.myquery"), None);
        assert_eq!(first("bert.encoder.layer.0.x"), Some(3));
        assert_eq!(first("a.query.b"), None);
    }

    #[test]
    fn patterns_are_found_within_a_path() {
        let map = map(r#"{"b\\.q": 1, "quer": 2}"#);
        let first = |path| {
            map.first_within("osf", "rank_pattern", path)
                .unwrap()
                .copied()
        };
        assert_eq!(first("a.b.query"), Some(1));
        assert_eq!(first("a.query.b"), Some(2));
        assert_eq!(first("a.value"), None);
    }

    #[test]
    fn order_survives_a_round_trip() {
        let text = r#"{"z":1,"a":2}"#;
        assert_eq!(serde_json::to_string(&map(text)).unwrap(), text);
    }

    #[test]
    fn a_broken_pattern_is_an_error() {
        assert!(
            map(r#"{"(": 1}"#)
                .first("lora", "rank_pattern", "query")
                .is_err()
        );
    }
}

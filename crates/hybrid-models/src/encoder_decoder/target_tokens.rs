//! Token ids that a decoder's input and output are made with.

use std::path::Path;

use burn::tensor::{Int, Tensor};

use crate::config_file::ConfigFile;
use crate::{IGNORED, ModelError};

/// Token ids that the input and the output of an encoder-decoder's decoder are made with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetTokens {
    /// What a decoder's input begins with.
    pub start: i64,
    /// What stands in place of tokens after the end.
    pub pad: i64,
    /// What ends a target; any one of them.
    pub end: Vec<i64>,
    /// What a generated target must begin with, after `start`.
    pub forced_first: Option<i64>,
    /// What the last token of a generated target must be when its length is used up.
    pub forced_last: Option<i64>,
    /// Sequences that no generated target may hold, such as Marian's padding.
    pub forbidden: Vec<Vec<i64>>,
}

/// Ids that Transformers takes when a configuration leaves a key out.
pub(crate) struct DefaultTokens {
    pub(crate) start: Option<usize>,
    pub(crate) pad: usize,
    pub(crate) end: i64,
    pub(crate) forced_last: Option<i64>,
}

impl TargetTokens {
    /// Reads `config.json`; what ends a target, is forced or is forbidden comes from
    /// `generation_config.json` where there is one, as in Transformers.
    ///
    /// # Errors
    /// [`ModelError::MissingKey`], [`ModelError::InvalidValue`] for an id that is not below `vocab`.
    pub(crate) fn read(
        folder: &Path,
        config: &ConfigFile,
        default: &DefaultTokens,
        vocab: usize,
    ) -> Result<Self, ModelError> {
        let start = match default.start {
            Some(start) => config.id_or("decoder_start_token_id", start)?,
            None => config.id("decoder_start_token_id")?,
        } as i64;
        let pad = config.id_or("pad_token_id", default.pad)? as i64;
        config.check_id("decoder_start_token_id", start, vocab)?;
        config.check_id("pad_token_id", pad, vocab)?;
        let generation = ConfigFile::read_generation(folder)?;
        let (settings, end, forced_last) = match &generation {
            Some(settings) => (settings, Vec::new(), None),
            None => (config, vec![default.end], default.forced_last),
        };
        let forced = |key: &str, default: Option<i64>| -> Result<Option<i64>, ModelError> {
            match settings.has(key) {
                true => Ok(settings.optional_id(key)?.map(|id| id as i64)),
                false => Ok(default),
            }
        };
        let tokens = Self {
            start,
            pad,
            end: match settings.has("eos_token_id") {
                true => settings.ids("eos_token_id")?,
                false => end,
            },
            forced_first: forced("forced_bos_token_id", None)?,
            forced_last: forced("forced_eos_token_id", forced_last)?,
            forbidden: settings.id_lists("bad_words_ids")?,
        };
        let check = |key: &str, id: &i64| settings.check_id(key, *id, vocab);
        for id in &tokens.end {
            check("eos_token_id", id)?;
        }
        for id in tokens.forbidden.iter().flatten() {
            check("bad_words_ids", id)?;
        }
        for (key, id) in [
            ("forced_bos_token_id", &tokens.forced_first),
            ("forced_eos_token_id", &tokens.forced_last),
        ] {
            id.iter().try_for_each(|id| check(key, id))?;
        }
        Ok(tokens)
    }

    /// The decoder's input of targets: each moved one place to the right behind
    /// [`start`](Self::start), [`IGNORED`] replaced by [`pad`](Self::pad).
    ///
    /// # Shapes
    /// - `labels`: `[batch, seq]` → the same
    pub fn shift_right(&self, labels: &Tensor<2, Int>) -> Tensor<2, Int> {
        let [batch, seq] = labels.dims();
        let ignored = labels.clone().equal_elem(IGNORED);
        let tokens = labels.clone().mask_fill(ignored, self.pad);
        let start = Tensor::full([batch, 1], self.start, &labels.device());
        Tensor::cat(vec![start, tokens.narrow(1, 0, seq - 1)], 1)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Tensor};
    use serde_json::{Value, json};

    use super::{DefaultTokens, TargetTokens};
    use crate::config_file::ConfigFile;
    use crate::{IGNORED, ModelError};

    fn read(config: Value, generation: Option<Value>) -> Result<TargetTokens, ModelError> {
        let folder = tempfile::tempdir().unwrap();
        let write = |file: &str, value: Value| {
            std::fs::write(folder.path().join(file), value.to_string()).unwrap();
        };
        write("config.json", config);
        if let Some(generation) = generation {
            write("generation_config.json", generation);
        }
        let default = DefaultTokens {
            start: Some(8),
            pad: 7,
            end: 6,
            forced_last: Some(5),
        };
        let config = ConfigFile::read(folder.path()).unwrap();
        TargetTokens::read(folder.path(), &config, &default, 10)
    }

    #[test]
    fn what_is_left_out_is_as_in_transformers() {
        let tokens = read(json!({}), None).unwrap();
        let expected = TargetTokens {
            start: 8,
            pad: 7,
            end: vec![6],
            forced_first: None,
            forced_last: Some(5),
            forbidden: Vec::new(),
        };
        assert_eq!(tokens, expected);
        // A null is no default.
        let config = json!({"forced_eos_token_id": null, "eos_token_id": null, "pad_token_id": 1});
        let tokens = read(config, None).unwrap();
        assert_eq!(
            (tokens.pad, tokens.end, tokens.forced_last),
            (1, vec![], None)
        );
    }

    #[test]
    fn settings_of_generation_have_a_file_of_their_own() {
        let config =
            json!({"decoder_start_token_id": 2, "eos_token_id": 3, "forced_eos_token_id": 3});
        let generation = json!({
            "eos_token_id": [1, 4], "forced_bos_token_id": 9, "bad_words_ids": [[7], [1, 2]],
        });
        let tokens = read(config, Some(generation)).unwrap();
        let expected = TargetTokens {
            start: 2,
            pad: 7,
            end: vec![1, 4],
            forced_first: Some(9),
            forced_last: None,
            forbidden: vec![vec![7], vec![1, 2]],
        };
        assert_eq!(tokens, expected);
    }

    #[test]
    fn ids_outside_of_the_vocabulary_are_refused() {
        for (config, generation) in [
            (json!({"decoder_start_token_id": 10}), None),
            (json!({"pad_token_id": 10}), None),
            (json!({"pad_token_id": -1}), None),
            (json!({"eos_token_id": [1, 10]}), None),
            (json!({"forced_bos_token_id": 10}), None),
            (json!({"bad_words_ids": [[1], [10]]}), None),
            (json!({"bad_words_ids": [1]}), None),
            (json!({}), Some(json!({"eos_token_id": 10}))),
        ] {
            let key = generation.as_ref().unwrap_or(&config).clone();
            let key = key.as_object().unwrap().keys().next().unwrap().clone();
            let error = read(config, generation).unwrap_err().to_string();
            assert!(error.contains(&key), "{key}: {error}");
        }
    }

    #[test]
    fn labels_move_one_place_to_the_right() {
        let labels = [[4, 5, IGNORED as i32], [IGNORED as i32, 3, 4]];
        let labels = Tensor::from_ints(labels, &Device::flex());
        let tokens = read(json!({}), None).unwrap();
        let ids: Vec<i64> = tokens.shift_right(&labels).into_data().iter().collect();
        assert_eq!(ids, [8, 4, 5, 8, 7, 3]);
    }
}

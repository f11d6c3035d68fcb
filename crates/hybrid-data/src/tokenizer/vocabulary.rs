//! Tokenizers out of the vocabularies that GGUF files carry: byte-level BPE.

use std::collections::HashSet;
use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::Tokenizer;
use super::splitting::Splitting;
use crate::DataError;

/// The `tokenizer.ggml.*` keys of a GGUF file, as they stand there.
#[derive(Debug, Clone, Default)]
pub struct Vocabulary {
    /// The file, for messages.
    pub path: PathBuf,
    /// `model`: the kind of tokenizer; `gpt2` is byte-level BPE.
    pub model: String,
    /// `pre`: how texts are split into words.
    pub pre: Option<String>,
    /// `tokens`, by id, in the byte-level alphabet.
    pub tokens: Vec<String>,
    /// `token_type`: 3 for control tokens, 4 for tokens that users added, by id.
    pub token_types: Option<Vec<u64>>,
    /// `merges`: two tokens and a space between them, most frequent first.
    pub merges: Vec<String>,
    /// `bos_token_id`: the token before a text.
    pub bos_token_id: Option<u64>,
    /// `eos_token_id`: the token that ends a text.
    pub eos_token_id: Option<u64>,
    /// `unknown_token_id`: stands for bytes that are in no token.
    pub unknown_token_id: Option<u64>,
    /// `padding_token_id`.
    pub padding_token_id: Option<u64>,
    /// `add_bos_token`: whether texts are opened by the token before a text.
    pub add_bos_token: Option<bool>,
    /// `add_eos_token`: whether texts are closed by the token that ends a text.
    pub add_eos_token: Option<bool>,
}

/// Whose way of splitting texts into words counts for a GGUF vocabulary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SplitReading {
    /// The model's own, which `tokenizer.ggml.pre` names: what the model was trained with.
    #[default]
    Model,
    /// GPT-2's for every model, as Transformers reads GGUF files.
    Transformers,
}

/// Numbers of token types.
const CONTROL: u64 = 3;
const USER_DEFINED: u64 = 4;

impl Vocabulary {
    fn invalid(&self, key: &str, expected: impl Into<String>, found: impl ToString) -> DataError {
        DataError::Vocabulary {
            path: self.path.clone(),
            key: format!("tokenizer.ggml.{key}"),
            expected: expected.into(),
            found: found.to_string(),
        }
    }

    /// The token of an id that one of the keys gives.
    fn token(&self, key: &str, id: Option<u64>) -> Result<Option<&str>, DataError> {
        let Some(id) = id else { return Ok(None) };
        let token = usize::try_from(id)
            .ok()
            .and_then(|id| self.tokens.get(id))
            .ok_or_else(|| self.invalid(key, format!("an id below {}", self.tokens.len()), id))?;
        Ok(Some(token))
    }

    fn splitting(&self, reading: SplitReading) -> Result<Splitting, DataError> {
        let Some(pre) = &self.pre else {
            return Ok(Splitting::Gpt2);
        };
        match reading {
            SplitReading::Transformers => Ok(Splitting::Gpt2),
            SplitReading::Model => Splitting::named(pre)
                .ok_or_else(|| self.invalid("pre", format!("one of {}", Splitting::known()), pre)),
        }
    }

    /// The tokens that are found in a text before it is split: special ones are left out of decoded
    /// texts, the others are not.
    fn added_tokens(&self) -> Result<Vec<Value>, DataError> {
        let added = |id: usize, special: bool| {
            json!({
                "id": id,
                "content": self.tokens[id],
                "single_word": false,
                "lstrip": false,
                "rstrip": false,
                "normalized": false,
                "special": special,
            })
        };
        let Some(types) = &self.token_types else {
            let special = [self.unknown_token_id, self.bos_token_id, self.eos_token_id];
            let mut ids: Vec<usize> = special.iter().flatten().map(|id| *id as usize).collect();
            ids.sort_unstable();
            ids.dedup();
            return Ok(ids.into_iter().map(|id| added(id, true)).collect());
        };
        if types.len() != self.tokens.len() {
            let expected = format!("{} types, one for each token", self.tokens.len());
            return Err(self.invalid("token_type", expected, types.len()));
        }
        let numbered = types.iter().enumerate();
        Ok(numbered
            .filter(|(_, number)| [CONTROL, USER_DEFINED].contains(number))
            .map(|(id, number)| added(id, *number == CONTROL))
            .collect())
    }

    fn merges(&self) -> Result<Vec<Value>, DataError> {
        let pairs = self.merges.iter().map(|merge| match merge.split_once(' ') {
            Some((left, right)) if !left.is_empty() && !right.is_empty() => {
                Ok(json!([left, right]))
            }
            _ => Err(self.invalid(
                "merges",
                "two tokens with a space between",
                format!("{merge:?}"),
            )),
        });
        pairs.collect()
    }

    /// The ids by token, each token once.
    fn ids(&self) -> Result<Map<String, Value>, DataError> {
        let mut seen = HashSet::new();
        if let Some(twice) = self.tokens.iter().find(|token| !seen.insert(*token)) {
            return Err(self.invalid("tokens", "each token once", format!("{twice:?} twice")));
        }
        let numbered = self.tokens.iter().enumerate();
        Ok(numbered
            .map(|(id, token)| (token.clone(), id.into()))
            .collect())
    }

    /// The tokens in front of each text and behind it, as a template.
    fn post_processor(&self, splitting: Splitting) -> Result<Value, DataError> {
        let bos = self.token("bos_token_id", self.bos_token_id)?;
        let eos = self.token("eos_token_id", self.eos_token_id)?;
        let bos = bos.filter(|_| self.add_bos_token.unwrap_or(splitting.adds_bos()));
        let eos = eos.filter(|_| self.add_eos_token.unwrap_or(false));
        let special = |token: Option<&str>, type_id: u32| {
            token.map(|token| json!({"SpecialToken": {"id": token, "type_id": type_id}}))
        };
        let part = |text: &str, type_id: u32| {
            let sequence = json!({"Sequence": {"id": text, "type_id": type_id}});
            let bos = special(bos, type_id).into_iter();
            bos.chain([sequence]).chain(special(eos, type_id))
        };
        let tokens = [(bos, self.bos_token_id), (eos, self.eos_token_id)];
        let tokens: Map<String, Value> = tokens
            .into_iter()
            .filter_map(|(token, id)| {
                let token = token?;
                let value = json!({"id": token, "ids": [id?], "tokens": [token]});
                Some((token.to_owned(), value))
            })
            .collect();
        Ok(json!({
            "type": "TemplateProcessing",
            "single": part("A", 0).collect::<Vec<_>>(),
            "pair": part("A", 0).chain(part("B", 1)).collect::<Vec<_>>(),
            "special_tokens": tokens,
        }))
    }

    /// The vocabulary as a `tokenizer.json`.
    fn tokenizer_json(&self, reading: SplitReading) -> Result<Value, DataError> {
        if self.model != "gpt2" {
            return Err(self.invalid("model", "gpt2 (byte-level BPE)", &self.model));
        }
        if self.tokens.is_empty() {
            return Err(self.invalid("tokens", "some tokens", "none"));
        }
        let splitting = self.splitting(reading)?;
        Ok(json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": self.added_tokens()?,
            "normalizer": splitting.normalizer(),
            "pre_tokenizer": splitting.pre_tokenizer(),
            "post_processor": self.post_processor(splitting)?,
            "decoder": {
                "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true,
            },
            "model": {
                "type": "BPE",
                "dropout": null,
                "unk_token": self.token("unknown_token_id", self.unknown_token_id)?,
                "continuing_subword_prefix": null,
                "end_of_word_suffix": null,
                "fuse_unk": true,
                "byte_fallback": false,
                "ignore_merges": splitting.whole_words_first(),
                "vocab": self.ids()?,
                "merges": self.merges()?,
            },
        }))
    }
}

impl Tokenizer {
    /// The tokenizer of a GGUF vocabulary. Texts are cut as [`from_file`](Self::from_file) cuts
    /// them.
    ///
    /// # Errors
    /// [`DataError::Vocabulary`] for keys that contradict each other or ask for another kind of
    /// tokenizer, [`DataError::Tokenizer`] for merges of unknown tokens, [`DataError::MaxLength`].
    pub fn from_vocabulary(
        vocabulary: &Vocabulary,
        reading: SplitReading,
        max_length: usize,
    ) -> Result<Self, DataError> {
        for (key, id) in [
            ("bos_token_id", vocabulary.bos_token_id),
            ("eos_token_id", vocabulary.eos_token_id),
            ("unknown_token_id", vocabulary.unknown_token_id),
            ("padding_token_id", vocabulary.padding_token_id),
        ] {
            vocabulary.token(key, id)?;
        }
        let json = vocabulary.tokenizer_json(reading)?;
        let inner = serde_json::from_value(json).map_err(|source| DataError::Tokenizer {
            path: vocabulary.path.clone(),
            source: source.into(),
        })?;
        let pad_id = vocabulary.padding_token_id.or(vocabulary.eos_token_id);
        Self::new(
            &vocabulary.path,
            inner,
            pad_id.map(|id| id as u32),
            max_length,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::{SplitReading, Vocabulary};
    use crate::{DataError, Tokenizer};

    /// Bytes that the tests use, a few merges and two special tokens.
    fn vocabulary() -> Vocabulary {
        let tokens = [
            "<s>", "</s>", "<tool>", "a", "b", "1", "2", "Ġ", "Ċ", "ab", "12", "Ġ1", "Ġa",
        ];
        let types = [3, 3, 4, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1];
        Vocabulary {
            path: "model.gguf".into(),
            model: "gpt2".into(),
            pre: Some("smollm".into()),
            tokens: tokens.map(str::to_owned).to_vec(),
            token_types: Some(types.to_vec()),
            merges: ["a b", "1 2", "Ġ 1", "Ġ a"].map(str::to_owned).to_vec(),
            bos_token_id: Some(0),
            eos_token_id: Some(1),
            ..Vocabulary::default()
        }
    }

    fn ids(vocabulary: &Vocabulary, reading: SplitReading, text: &str) -> Vec<u32> {
        let tokenizer = Tokenizer::from_vocabulary(vocabulary, reading, 64).unwrap();
        tokenizer.encode(&[text.to_owned()]).unwrap().remove(0).ids
    }

    #[test]
    fn the_model_decides_how_digits_are_split() {
        let own = |text| ids(&vocabulary(), SplitReading::Model, text);
        let theirs = |text| ids(&vocabulary(), SplitReading::Transformers, text);
        assert_eq!((own("12"), theirs("12")), (vec![5, 6], vec![10]));
        assert_eq!((own(" 1"), theirs(" 1")), (vec![7, 5], vec![11]));
        assert_eq!((own("ab a"), theirs("ab a")), (vec![9, 12], vec![9, 12]));
    }

    #[test]
    fn special_tokens_are_found_in_texts_and_left_out_of_decoded_ones() {
        let tokenizer = Tokenizer::from_vocabulary(&vocabulary(), SplitReading::Model, 64).unwrap();
        let ids = ids(&vocabulary(), SplitReading::Model, "<s>ab<tool>\n</s>");
        assert_eq!(ids, [0, 9, 2, 8, 1]);
        assert_eq!(tokenizer.decode(&ids, true).unwrap(), "ab<tool>\n");
        assert_eq!(tokenizer.decode(&ids, false).unwrap(), "<s>ab<tool>\n</s>");
        assert_eq!((tokenizer.pad_id(), tokenizer.vocab_size()), (1, 13));
        let adding = Vocabulary {
            add_bos_token: Some(true),
            add_eos_token: Some(true),
            ..vocabulary()
        };
        assert_eq!(
            super::tests::ids(&adding, SplitReading::Model, "ab"),
            [0, 9, 1]
        );
        let llama = Vocabulary {
            pre: Some("llama-bpe".into()),
            ..vocabulary()
        };
        assert_eq!(
            super::tests::ids(&llama, SplitReading::Model, "12"),
            [0, 10]
        );
    }

    #[test]
    fn faults_name_the_key() {
        let refused = |change: fn(&mut Vocabulary)| {
            let mut vocabulary = vocabulary();
            change(&mut vocabulary);
            let refused = Tokenizer::from_vocabulary(&vocabulary, SplitReading::Model, 64);
            refused.unwrap_err()
        };
        for (error, expected) in [
            (
                refused(|v| v.model = "llama".into()),
                "`tokenizer.ggml.model`: expected gpt2 (byte-level BPE), found llama",
            ),
            (
                refused(|v| v.pre = Some("whale".into())),
                "`tokenizer.ggml.pre`: expected one of gpt-2, smollm",
            ),
            (
                refused(|v| v.tokens.clear()),
                "`tokenizer.ggml.bos_token_id`: expected an id below 0, found 0",
            ),
            (
                refused(|v| v.tokens[4] = "a".into()),
                "`tokenizer.ggml.tokens`: expected each token once, found \"a\" twice",
            ),
            (
                refused(|v| v.token_types = Some(vec![1])),
                "`tokenizer.ggml.token_type`: expected 13 types",
            ),
            (
                refused(|v| v.merges[0] = "ab".into()),
                "`tokenizer.ggml.merges`: expected two tokens with a space between, found \"ab\"",
            ),
            (
                refused(|v| v.eos_token_id = Some(13)),
                "`tokenizer.ggml.eos_token_id`: expected an id below 13, found 13",
            ),
        ] {
            assert!(error.to_string().contains(expected), "{error}");
        }
        let unknown = refused(|v| v.merges[0] = "a z".into());
        assert!(matches!(unknown, DataError::Tokenizer { .. }), "{unknown}");
    }
}

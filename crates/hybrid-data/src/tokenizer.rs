//! Texts to token ids with a `tokenizer.json` or a GGUF vocabulary.

mod splitting;
mod vocabulary;

use std::path::Path;
use std::sync::Arc;

use tokenizers::{PostProcessor, TruncationDirection, TruncationParams, TruncationStrategy};

use crate::error::DataError;

pub use vocabulary::{SplitReading, Vocabulary};

/// The tokens of one text, or of a pair of texts, special tokens included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoding {
    /// Token ids.
    pub ids: Vec<u32>,
    /// 0 for tokens of the first text, 1 for those of the second.
    pub type_ids: Vec<u32>,
}

impl Encoding {
    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there is no token.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}

/// A tokenizer in the Hugging Face format. Clones share it.
///
/// Padding and truncation that are written into the file are switched off: texts are cut at the
/// given length and padded by batch ([`pad`](crate::pad)).
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: Arc<tokenizers::Tokenizer>,
    pad_id: u32,
    max_length: usize,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`. Texts are cut on the right to `max_length` tokens, special tokens
    /// included; of a pair, the longer text is cut first.
    ///
    /// # Errors
    /// [`DataError::Read`] and [`DataError::Tokenizer`] for the file, [`DataError::MaxLength`] when
    /// the length leaves no room for text.
    pub fn from_file(path: &Path, max_length: usize) -> Result<Self, DataError> {
        let bytes = std::fs::read(path).map_err(|source| DataError::Read {
            path: path.to_owned(),
            source,
        })?;
        let inner =
            tokenizers::Tokenizer::from_bytes(bytes).map_err(|source| DataError::Tokenizer {
                path: path.to_owned(),
                source,
            })?;
        let pad_id = match inner.get_padding() {
            Some(padding) => Some(padding.pad_id),
            None => ["[PAD]", "<pad>"]
                .iter()
                .find_map(|token| inner.token_to_id(token)),
        };
        Self::new(path, inner, pad_id, max_length)
    }

    /// The library's tokenizer with this one's truncation; `path` is for messages.
    fn new(
        path: &Path,
        mut inner: tokenizers::Tokenizer,
        pad_id: Option<u32>,
        max_length: usize,
    ) -> Result<Self, DataError> {
        let unusable = |source| DataError::Tokenizer {
            path: path.to_owned(),
            source,
        };
        inner.with_padding(None);
        inner.with_truncation(None).map_err(unusable)?;
        check_room(max_length, n_special(&inner, false))?;
        let truncation = TruncationParams {
            max_length,
            strategy: TruncationStrategy::LongestFirst,
            stride: 0,
            direction: TruncationDirection::Right,
        };
        inner.with_truncation(Some(truncation)).map_err(unusable)?;
        Ok(Self {
            inner: Arc::new(inner),
            pad_id: pad_id.unwrap_or(0),
            max_length,
        })
    }

    /// The id that fills padded places; they are masked, so any id of the vocabulary would do.
    pub fn pad_id(&self) -> u32 {
        self.pad_id
    }

    /// Most tokens of an encoding.
    pub fn max_length(&self) -> usize {
        self.max_length
    }

    /// How many ids there are, added tokens included.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// One more than the largest id that an encoding or its padding can hold: the least vocabulary
    /// that a model must have.
    pub fn id_bound(&self) -> usize {
        let ids = self.inner.get_vocab(true).into_values();
        let special = self.inner.encode_fast("", true);
        let special = special.map_or_else(|_| Vec::new(), |encoding| encoding.get_ids().to_vec());
        ids.chain(special)
            .chain([self.pad_id])
            .max()
            .map_or(0, |largest| largest as usize + 1)
    }

    /// Encodes texts, in parallel, in order.
    ///
    /// # Errors
    /// [`DataError::Encode`] when the tokenizer refuses a text.
    pub fn encode(&self, texts: &[String]) -> Result<Vec<Encoding>, DataError> {
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        self.encode_batch(texts, true)
    }

    /// Encodes texts that have their special tokens in them, as a chat template writes them: none
    /// are added. In parallel, in order.
    ///
    /// # Errors
    /// [`DataError::Encode`] when the tokenizer refuses a text.
    pub fn encode_as_written(&self, texts: &[String]) -> Result<Vec<Encoding>, DataError> {
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        self.encode_batch(texts, false)
    }

    /// Encodes pairs of texts (premise and hypothesis, question and passage), in parallel, in
    /// order.
    ///
    /// # Errors
    /// [`DataError::Encode`] when the tokenizer refuses a text, [`DataError::MaxLength`] when the
    /// length leaves no room beside the special tokens of a pair.
    pub fn encode_pairs(&self, pairs: &[(String, String)]) -> Result<Vec<Encoding>, DataError> {
        check_room(self.max_length, n_special(&self.inner, true))?;
        let pairs: Vec<(&str, &str)> = pairs
            .iter()
            .map(|(a, b)| (a.as_str(), b.as_str()))
            .collect();
        self.encode_batch(pairs, true)
    }

    fn encode_batch<'s>(
        &self,
        inputs: Vec<impl Into<tokenizers::EncodeInput<'s>> + Send>,
        add_special_tokens: bool,
    ) -> Result<Vec<Encoding>, DataError> {
        let encodings = self
            .inner
            .encode_batch_fast(inputs, add_special_tokens)
            .map_err(|source| DataError::Encode { source })?;
        let encodings = encodings.iter().map(|encoding| Encoding {
            ids: encoding.get_ids().to_vec(),
            type_ids: encoding.get_type_ids().to_vec(),
        });
        Ok(encodings.collect())
    }

    /// The ids of one text, cut like all texts.
    ///
    /// # Errors
    /// [`DataError::Encode`] when the tokenizer refuses the text.
    pub fn ids(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, DataError> {
        let encoded = self.inner.encode_fast(text, add_special_tokens);
        let encoded = encoded.map_err(|source| DataError::Encode { source })?;
        Ok(encoded.get_ids().to_vec())
    }

    /// The text of ids.
    ///
    /// # Errors
    /// [`DataError::Encode`] when the tokenizer's decoder refuses them.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String, DataError> {
        self.inner
            .decode(ids, skip_special_tokens)
            .map_err(|source| DataError::Encode { source })
    }

    /// The library's tokenizer with this one's settings, for offsets and vocabularies.
    pub fn inner(&self) -> &tokenizers::Tokenizer {
        &self.inner
    }
}

/// Tokens that the tokenizer adds to one text or to a pair.
pub(crate) fn n_special(tokenizer: &tokenizers::Tokenizer, is_pair: bool) -> usize {
    tokenizer
        .get_post_processor()
        .map_or(0, |processor| processor.added_tokens(is_pair))
}

/// Refuses what the library's truncation would compute with a negative number of tokens.
fn check_room(max_length: usize, n_special: usize) -> Result<(), DataError> {
    if max_length <= n_special {
        return Err(DataError::MaxLength {
            max_length,
            n_special,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{DataError, Tokenizer};

    /// A word-level tokenizer with baked-in padding and truncation.
    fn tokenizer_file() -> tempfile::NamedTempFile {
        let json = serde_json::json!({
            "version": "1.0",
            "truncation": {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0},
            "padding": {"strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 5,
                        "pad_type_id": 0, "pad_token": "[PAD]"},
            "added_tokens": [],
            "normalizer": {"type": "Lowercase"},
            "pre_tokenizer": {"type": "Whitespace"},
            "post_processor": {"type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                           {"SpecialToken": {"id": "[SEP]", "type_id": 0}}],
                "pair": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                         {"SpecialToken": {"id": "[SEP]", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}},
                         {"SpecialToken": {"id": "[SEP]", "type_id": 1}}],
                "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [1], "tokens": ["[CLS]"]},
                                   "[SEP]": {"id": "[SEP]", "ids": [2], "tokens": ["[SEP]"]}}},
            "decoder": null,
            "model": {"type": "WordLevel", "unk_token": "[UNK]",
                      "vocab": {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "card": 3, "my": 4, "[PAD]": 5}},
        });
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), json.to_string()).unwrap();
        file
    }

    #[test]
    fn settings_of_the_file_are_replaced() {
        let file = tokenizer_file();
        let tokenizer = Tokenizer::from_file(file.path(), 5).unwrap();
        assert_eq!(tokenizer.pad_id(), 5);
        assert_eq!(tokenizer.id_bound(), 6);
        let texts = ["my Card", "", "card card my card my"].map(str::to_owned);
        let encodings = tokenizer.encode(&texts).unwrap();
        let ids: Vec<&[u32]> = encodings
            .iter()
            .map(|encoding| encoding.ids.as_slice())
            .collect();
        assert_eq!(ids, [&[1, 4, 3, 2][..], &[1, 2], &[1, 3, 3, 4, 2]]);
        let pair = &tokenizer
            .encode_pairs(&[("my".to_owned(), "card card card".to_owned())])
            .unwrap()[0];
        assert_eq!(
            (&pair.ids[..], &pair.type_ids[..]),
            (&[1, 4, 2, 3, 2][..], &[0, 0, 0, 1, 1][..])
        );
        assert!(tokenizer.encode(&[]).unwrap().is_empty());
        let written = tokenizer.encode_as_written(&texts).unwrap();
        assert_eq!(written[0].ids, [4, 3]);
    }

    #[test]
    fn unusable_files_and_lengths_are_refused() {
        let file = tokenizer_file();
        let pair = [("my".to_owned(), "card".to_owned())];
        let refused = Tokenizer::from_file(file.path(), 3)
            .unwrap()
            .encode_pairs(&pair);
        assert!(matches!(
            refused,
            Err(DataError::MaxLength {
                max_length: 3,
                n_special: 3
            })
        ));
        let refused = Tokenizer::from_file(file.path(), 2);
        assert!(matches!(
            refused,
            Err(DataError::MaxLength {
                max_length: 2,
                n_special: 2
            })
        ));
        for bytes in [&b"{}"[..], b"", b"\xff\xfe", b"[1,"] {
            std::fs::write(file.path(), bytes).unwrap();
            assert!(matches!(
                Tokenizer::from_file(file.path(), 9),
                Err(DataError::Tokenizer { .. })
            ));
        }
        let missing = file.path().with_extension("missing");
        assert!(matches!(
            Tokenizer::from_file(&missing, 9),
            Err(DataError::Read { .. })
        ));
    }
}

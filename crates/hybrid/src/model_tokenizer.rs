//! The tokenizer that comes with a model: a `tokenizer.json`, or the vocabulary of a GGUF file.

use std::path::Path;

use hybrid_data::{SplitReading, Tokenizer, Vocabulary};
use hybrid_models::{GgufFile, ModelError};

use crate::HybridError;

/// Loads the tokenizer of a model's folder or GGUF file. A `tokenizer.json` beside a GGUF file comes
/// first. Texts are cut to `max_length` tokens.
///
/// # Errors
/// [`HybridError::Data`] for the tokenizer, [`HybridError::Model`] for a GGUF header.
pub fn load_tokenizer(model: &Path, max_length: usize) -> Result<Tokenizer, HybridError> {
    let json = model.join("tokenizer.json");
    if !json.is_file()
        && let Some(file) = GgufFile::of_model(model)?
    {
        let vocabulary = gguf_vocabulary(&file)?;
        let reading = SplitReading::Model;
        return Ok(Tokenizer::from_vocabulary(
            &vocabulary,
            reading,
            max_length,
        )?);
    }
    Ok(Tokenizer::from_file(&json, max_length)?)
}

/// The vocabulary in a GGUF file's metadata.
///
/// # Errors
/// [`ModelError::MissingKey`], [`ModelError::InvalidValue`], [`ModelError::Gguf`].
pub fn gguf_vocabulary(file: &GgufFile) -> Result<Vocabulary, ModelError> {
    let key = |name: &str| format!("tokenizer.ggml.{name}");
    let required = |name: &str| ModelError::MissingKey {
        path: file.path().to_owned(),
        key: key(name),
    };
    let texts = |name: &str| -> Result<Option<Vec<String>>, ModelError> {
        let texts = file.texts(&key(name))?;
        Ok(texts.map(|texts| texts.into_iter().map(str::to_owned).collect()))
    };
    let id = |name: &str| file.unsigned(&key(name));
    let model = file.text(&key("model"))?.ok_or_else(|| required("model"))?;
    Ok(Vocabulary {
        path: file.path().to_owned(),
        model: model.to_owned(),
        pre: file.text(&key("pre"))?.map(str::to_owned),
        tokens: texts("tokens")?.ok_or_else(|| required("tokens"))?,
        token_types: file.unsigned_numbers(&key("token_type"))?,
        // Kinds of tokenizers without merges are refused by their name.
        merges: texts("merges")?.unwrap_or_default(),
        bos_token_id: id("bos_token_id")?,
        eos_token_id: id("eos_token_id")?,
        unknown_token_id: id("unknown_token_id")?,
        padding_token_id: id("padding_token_id")?,
        add_bos_token: file.switch(&key("add_bos_token"))?,
        add_eos_token: file.switch(&key("add_eos_token"))?,
    })
}

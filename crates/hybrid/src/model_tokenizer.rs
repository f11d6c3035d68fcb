//! The tokenizer that comes with a model: a `tokenizer.json`, or the vocabulary of a GGUF file; and
//! its chat template.

use std::path::Path;

use hybrid_data::{SplitReading, Tokenizer, Vocabulary};
use hybrid_models::{GgufFile, ModelError};
use hybrid_prompts::ChatTemplate;
use serde_json::Value;

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

/// Loads the chat template of a model's folder or GGUF file, if it has one: `chat_template.jinja`,
/// `chat_template` in `tokenizer_config.json` (of several the one named `default`), or
/// `tokenizer.chat_template` of the GGUF file, in this order.
///
/// # Errors
/// [`HybridError::Read`] and [`HybridError::Model`] naming the file, [`HybridError::Prompt`] for a
/// template that is not valid.
pub fn load_chat_template(model: &Path) -> Result<Option<ChatTemplate>, HybridError> {
    let own = model.join("chat_template.jinja");
    let own = own.is_file().then(|| read(&own)).transpose()?;
    let path = model.join("tokenizer_config.json");
    let config: Value = match path.is_file() {
        false => Value::Null,
        true => {
            let text = read(&path)?;
            serde_json::from_str(&text).map_err(|source| ModelError::Json { path, source })?
        }
    };
    let source = own
        .as_deref()
        .or_else(|| named_template(&config["chat_template"]));
    if let Some(source) = source {
        let token = |key: &str| {
            let token = &config[key];
            let text = token.as_str().or_else(|| token["content"].as_str());
            text.unwrap_or_default()
        };
        let template = ChatTemplate::parse(source, token("bos_token"), token("eos_token"))?;
        return Ok(Some(template));
    }
    match GgufFile::of_model(model)? {
        Some(file) => gguf_chat_template(&file),
        None => Ok(None),
    }
}

fn read(path: &Path) -> Result<String, HybridError> {
    std::fs::read_to_string(path).map_err(|source| HybridError::Read {
        path: path.to_owned(),
        source,
    })
}

/// The template itself, or the default one among several with names.
fn named_template(template: &Value) -> Option<&str> {
    let several = template.as_array().into_iter().flatten();
    let mut several = several.filter(|template| template["name"] == "default");
    let default = || several.next().and_then(|named| named["template"].as_str());
    template.as_str().or_else(default)
}

fn gguf_chat_template(file: &GgufFile) -> Result<Option<ChatTemplate>, HybridError> {
    let Some(source) = file.text("tokenizer.chat_template")? else {
        return Ok(None);
    };
    let vocabulary = gguf_vocabulary(file)?;
    let token = |id: Option<u64>| {
        let id = id.and_then(|id| usize::try_from(id).ok());
        let text = id.and_then(|id| vocabulary.tokens.get(id));
        text.map_or("", String::as_str)
    };
    let (bos, eos) = (
        token(vocabulary.bos_token_id),
        token(vocabulary.eos_token_id),
    );
    Ok(Some(ChatTemplate::parse(source, bos, eos)?))
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

#[cfg(test)]
mod tests {
    use hybrid_prompts::Message;
    use serde_json::json;

    use super::load_chat_template;
    use crate::HybridError;

    #[test]
    fn chat_templates_are_found_in_their_order() {
        let folder = tempfile::tempdir().unwrap();
        let write =
            |file: &str, text: &str| std::fs::write(folder.path().join(file), text).unwrap();
        let rendered = || {
            let template = load_chat_template(folder.path()).unwrap();
            template.map(|template| template.render(&[Message::user("hi")], true).unwrap())
        };
        assert_eq!(rendered(), None);
        let config = |template: serde_json::Value| json!({"chat_template": template, "bos_token": {"content": "<s>"}, "eos_token": "</s>"});
        write("tokenizer_config.json", &config(json!(null)).to_string());
        assert_eq!(rendered(), None);
        let one = json!("{{ bos_token }}{{ messages[0].content }}{{ eos_token }}");
        write("tokenizer_config.json", &config(one).to_string());
        assert_eq!(rendered().as_deref(), Some("<s>hi</s>"));
        let several = json!([
            {"name": "tool_use", "template": "tools"},
            {"name": "default", "template": "{{ bos_token }}"},
        ]);
        write("tokenizer_config.json", &config(several).to_string());
        assert_eq!(rendered().as_deref(), Some("<s>"));
        write("chat_template.jinja", "{{ eos_token }}!");
        assert_eq!(rendered().as_deref(), Some("</s>!"));
    }

    #[test]
    fn a_faulty_chat_template_is_no_missing_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer_config.json");
        std::fs::write(&path, "{").unwrap();
        let error = load_chat_template(folder.path()).unwrap_err();
        assert!(matches!(error, HybridError::Model(_)), "{error:?}");
        std::fs::write(&path, json!({"chat_template": "{% for %}"}).to_string()).unwrap();
        let error = load_chat_template(folder.path()).unwrap_err();
        assert!(matches!(error, HybridError::Prompt(_)), "{error:?}");
    }
}

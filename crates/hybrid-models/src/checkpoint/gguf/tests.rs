//! GGUF files written by hand and read back.

mod hostile;
mod writer;

use super::{BlockFormat, GgufFile, GgufTensor, GgufValue};
use crate::checkpoint::Checkpoint;
use crate::config_file::ConfigFile;
use writer::{ARRAY, F32, TEXT, Writer, array, floats, parse, text, tiny_llama};

#[test]
fn every_type_of_value_is_read() {
    let inner = array(2, 2, &[1, 0, 2, 0]);
    let nested = [inner.clone(), array(2, 1, &[3, 0])].concat();
    let file = Writer::new()
        .key("u8", 0, [200])
        .key("i8", 1, [0xff])
        .key("u16", 2, 40_000u16.to_le_bytes())
        .key("i16", 3, (-2i16).to_le_bytes())
        .u32("u32", u32::MAX)
        .key("i32", 5, (-3i32).to_le_bytes())
        .key("f32", F32, 0.5f32.to_le_bytes())
        .key("bool", 7, [1])
        .key("text", TEXT, text("grün"))
        .key(
            "texts",
            ARRAY,
            array(TEXT, 2, &[text("x"), text("")].concat()),
        )
        .key("u64", 10, u64::MAX.to_le_bytes())
        .key("i64", 11, i64::MIN.to_le_bytes())
        .key("f64", 12, 0.1f64.to_le_bytes())
        .key("bools", ARRAY, array(7, 2, &[0, 1]))
        .key("nested", ARRAY, array(ARRAY, 2, &nested));
    for version in [2, 3] {
        let file = parse(
            Writer {
                version,
                ..file.clone()
            }
            .bytes(),
        )
        .unwrap();
        for (key, value) in [
            ("u8", 200),
            ("u16", 40_000),
            ("u32", 4_294_967_295),
            ("u64", u64::MAX),
        ] {
            assert_eq!(file.unsigned(key).unwrap(), Some(value), "{key}");
        }
        for (key, expected) in [("i8", -1), ("i16", -2), ("i32", -3), ("i64", i64::MIN)] {
            let Some(GgufValue::Signed(found)) = file.value(key).unwrap() else {
                panic!("{key}")
            };
            assert_eq!(found, expected, "{key}");
        }
        assert_eq!(file.float("f32").unwrap(), Some(0.5));
        assert_eq!(file.float("f64").unwrap(), Some(0.1));
        assert_eq!(file.switch("bool").unwrap(), Some(true));
        assert_eq!(file.text("text").unwrap(), Some("grün"));
        assert_eq!(file.texts("texts").unwrap().unwrap(), ["x", ""]);
        assert_eq!(file.text("absent").unwrap(), None);
        let Some(GgufValue::Array(outer)) = file.value("nested").unwrap() else {
            panic!("not an array")
        };
        let inner: Vec<Vec<u64>> = outer
            .values()
            .map(|inner| match inner.unwrap() {
                GgufValue::Array(inner) => inner
                    .values()
                    .map(|value| value.unwrap().as_unsigned().unwrap())
                    .collect(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(inner, [vec![1, 2], vec![3]]);
        let error = file.unsigned("text").unwrap_err().to_string();
        assert_eq!(
            error,
            "model.gguf: `text`: expected a whole number of 0 or more, found \"grün\""
        );
        assert!(file.unsigned("i8").is_err() && file.texts("bools").is_err());
    }
}

#[test]
fn tensors_start_where_the_alignment_says() {
    let writer = Writer {
        alignment: 128,
        ..Writer::new()
            .u32("general.alignment", 128)
            .tensor("a", &[2, 3], 0, floats(&[1., 2., 3., 4., 5., 6.]))
            .tensor("b", &[32], 8, [&[0, 0x3c][..], &[7; 32]].concat())
    };
    let file = parse(writer.bytes()).unwrap();
    let dequantized = |tensor: &GgufTensor| {
        let mut values = vec![0.0; tensor.shape().iter().product()];
        tensor.format().dequantize(tensor.bytes(), &mut values);
        values
    };
    let a = &file.tensors()["a"];
    assert_eq!(a.shape(), [3, 2]);
    assert_eq!(dequantized(a), [1., 2., 3., 4., 5., 6.]);
    let b = &file.tensors()["b"];
    assert_eq!(
        (b.format(), dequantized(b)),
        (BlockFormat::Q8_0, vec![7.0; 32])
    );
}

#[test]
fn a_model_is_loaded_from_a_file_or_its_folder() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    std::fs::write(&path, tiny_llama().bytes()).unwrap();
    for place in [folder.path(), &path] {
        let config = ConfigFile::read(place).unwrap();
        assert_eq!(config.path(), path);
        assert_eq!(config.text("model_type").unwrap(), "llama");
        assert_eq!(config.class().unwrap(), Some("LlamaForCausalLM"));
        for (key, value) in [
            ("vocab_size", 3),
            ("hidden_size", 8),
            ("head_dim", 4),
            ("num_key_value_heads", 1),
        ] {
            assert_eq!(config.size(key).unwrap(), value, "{key}");
        }
        assert!(config.switch_or("tie_word_embeddings", false).unwrap());
        assert!(config.switch_or("attention_bias", false).unwrap());

        let mut checkpoint = Checkpoint::open(place).unwrap();
        let first_column = |name: &str, shape: &[usize], checkpoint: &mut Checkpoint| {
            let data = checkpoint.take(name, shape).unwrap();
            data.iter::<f32>()
                .step_by(8)
                .map(|v| v as usize / 8)
                .collect::<Vec<_>>()
        };
        let query = "model.layers.0.self_attn.q_proj.weight";
        let rows = first_column(query, &[8, 8], &mut checkpoint);
        assert_eq!(rows, [0, 2, 1, 3, 4, 6, 5, 7]);
        let value = "model.layers.0.self_attn.v_proj.weight";
        assert_eq!(first_column(value, &[4, 8], &mut checkpoint), [0, 1, 2, 3]);
        let bias = checkpoint
            .take("model.layers.0.self_attn.q_proj.bias", &[8])
            .unwrap();
        assert_eq!(
            bias.iter::<f32>().collect::<Vec<_>>(),
            [0., 2., 1., 3., 4., 6., 5., 7.]
        );
        let key = "model.layers.0.self_attn.k_proj.weight";
        let weight = checkpoint.take_quantized(key, &[4, 8]).unwrap().unwrap();
        assert_eq!(
            weight.dequantize_rows(1..3)[..9],
            [16., 17., 18., 19., 20., 21., 22., 23., 8.]
        );
        let norm = checkpoint
            .take_quantized("model.embed_tokens.weight", &[3, 8])
            .unwrap();
        assert!(
            norm.is_none(),
            "float32 values are used where they are mapped"
        );
        checkpoint
            .take("model.embed_tokens.weight", &[3, 8])
            .unwrap();
        checkpoint.finish(|_| false).unwrap();
    }
    std::fs::write(folder.path().join("other.gguf"), "").unwrap();
    let error = ConfigFile::read(folder.path()).unwrap_err().to_string();
    assert!(
        error.ends_with("name one of its GGUF files: other.gguf, tiny.gguf"),
        "{error}"
    );
}

#[test]
fn configurations_that_contradict_themselves_are_refused() {
    let changed = |key: &str, value: u32| {
        let mut writer = tiny_llama();
        writer.keys.retain(|(name, ..)| name != key);
        parse(writer.u32(key, value).bytes())
            .unwrap()
            .config()
            .unwrap_err()
            .to_string()
    };
    for (found, expected) in [
        (
            changed("llama.vocab_size", 4),
            "`llama.vocab_size`: expected 3 tokens, one for each row of `token_embd.weight`, found 4",
        ),
        (
            changed("llama.attention.head_count", 3),
            "`llama.attention.head_count`: expected a divisor",
        ),
        (
            changed("llama.rope.dimension_count", 2),
            "`llama.rope.dimension_count`: expected 4",
        ),
        (
            changed("llama.expert_count", 8),
            "`llama.expert_count`: expected 0, found 8",
        ),
        (
            changed("split.count", 2),
            "`split.count`: expected 1, found 2",
        ),
        (
            changed("general.architecture", 2),
            "`general.architecture`: expected a text, found 2",
        ),
    ] {
        assert!(found.contains(expected), "{found}");
    }
    let mut tokens = tiny_llama();
    tokens
        .keys
        .retain(|(name, ..)| name != "tokenizer.ggml.tokens");
    let four = ["a", "b", "c", "d"].map(text).concat();
    let tokens = tokens.key("tokenizer.ggml.tokens", ARRAY, array(TEXT, 4, &four));
    let error = parse(tokens.bytes())
        .unwrap()
        .config()
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("`tokenizer.ggml.tokens`: expected 3 tokens"),
        "{error}"
    );
    let mut unnamed = tiny_llama();
    unnamed.keys[0].2 = text("whale");
    let error = parse(unnamed.bytes())
        .unwrap()
        .config()
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("unknown architecture whale; known are llama, qwen2, qwen3"),
        "{error}"
    );
    let scaled = tiny_llama().tensor("rope_freqs.weight", &[2], 0, floats(&[1., 3.]));
    let error = parse(scaled.bytes())
        .unwrap()
        .config()
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("`rope_freqs.weight`: expected the factors that Llama 3.1 divides"),
        "{error}"
    );
    let mut heads = tiny_llama();
    heads.tensors[2] = (
        "blk.0.attn_k.weight".to_owned(),
        vec![8, 3],
        0,
        floats(&[0.; 24]),
    );
    let error = parse(heads.bytes())
        .unwrap()
        .weights()
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("`blk.0.attn_k.weight`: expected shape [4, 8], found [3, 8]"),
        "{error}"
    );
}

//! SmolLM2 as the program loads it, with its weights expanded and left in their blocks: what it
//! reads, what it says next, and what it makes of a text.

use burn::tensor::{Int, Tensor, TensorData};
use hybrid::{load_chat_template, load_tokenizer};
use hybrid_data::Tokenizer;
use hybrid_models::{
    DecoderBatch, DecoderModel, GenerationConfig, GgufFile, NoHooks, ScoreRequest, WeightFormat,
};
use hybrid_prompts::Message;
use serde_json::Value;

use super::host;
use crate::fixtures::{self, Fixture, Tensors, Tolerance};

const SMOLLM2: &str = "HuggingFaceTB/SmolLM2-135M-Instruct";

pub(super) fn check(fixture: &Fixture) {
    let folder = fixtures::real_model("HYBRID_SMOLLM2", SMOLLM2);
    let file = GgufFile::of_model(&folder).unwrap().expect("a GGUF file");
    let expected = Tensors::read(&fixture.folder.join("outputs.safetensors"));
    check_file(fixture, &file, &expected);
    check_conversations(&folder);
    let tokenizer = load_tokenizer(&folder, 1 << 20).unwrap();
    for format in [WeightFormat::Keep, WeightFormat::Float32] {
        let model = DecoderModel::load_with(&folder, format, &fixtures::device()).unwrap();
        check_logits(fixture, &model, &expected);
        check_continuations(fixture, &model, &tokenizer);
        check_texts(fixture, &model, &tokenizer);
    }
}

fn rows<'v>(fixture: &'v Fixture, key: &str) -> &'v [Value] {
    let rows = fixture.meta[key].as_array();
    rows.unwrap_or_else(|| panic!("{}: no {key}", fixture.name))
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}

fn ids(value: &Value) -> Vec<i64> {
    let ids = value.as_array().expect("token ids").iter();
    ids.map(|id| id.as_i64().expect("a token id")).collect()
}

/// A difference that is allowed, of a figure or relative to it.
fn allowed(fixture: &Fixture, key: &str) -> f64 {
    let allowed = fixture.meta["tolerance"][key].as_f64();
    allowed.unwrap_or_else(|| panic!("{}: no tolerance {key}", fixture.name))
}

/// Configuration and dequantised weights.
fn check_file(fixture: &Fixture, file: &GgufFile, expected: &Tensors) {
    let config = file.config().unwrap();
    for (key, value) in fixture.meta["config"].as_object().expect("a configuration") {
        assert_eq!(config.get(key), Some(value), "{key}");
    }
    let theta = &config["rope_parameters"]["rope_theta"];
    assert_eq!(theta, &fixture.meta["rope_theta"]);
    let weights = file.weights().unwrap();
    // What the file holds must be equal to the last bit.
    let exact = Tolerance {
        atol: 0.0,
        rtol: 0.0,
    };
    for output in expected.names() {
        let (name, n_rows) = match output.strip_prefix("dequantized_first4rows.") {
            Some(name) => (name, 4),
            None => (output, 1),
        };
        if name.starts_with("input_ids.") || name.starts_with("logits.") {
            continue;
        }
        let values = weights[name].dequantize_rows(0..n_rows);
        exact.check(output, &values, expected.floats(output));
    }
}

/// The model's own chat template, found and run as the program does.
fn check_conversations(folder: &std::path::Path) {
    let template = load_chat_template(folder).unwrap();
    let template = template.expect("a chat template");
    let mut n_compared = 0;
    for fixture in fixtures::of_kind("tokenizer") {
        let path = fixture.folder.join("chat.json");
        if !text(&fixture.meta["source"]).contains("SmolLM2") || !path.is_file() {
            continue;
        }
        let chat = fixtures::json(&path);
        for row in chat["renderings"].as_array().expect("conversations") {
            let messages: Vec<Message> = serde_json::from_value(row["messages"].clone()).unwrap();
            let generate = row["add_generation_prompt"].as_bool().expect("a choice");
            let rendered = template.render(&messages, generate).unwrap();
            assert_eq!(rendered, text(&row["text"]));
            n_compared += 1;
        }
    }
    assert!(n_compared > 0, "no conversation was compared");
}

/// The logits of the token after each prompt.
fn check_logits(fixture: &Fixture, model: &DecoderModel, expected: &Tensors) {
    let tolerance = Tolerance {
        atol: allowed(fixture, "logits_atol"),
        rtol: allowed(fixture, "logits_rtol"),
    };
    let device = fixtures::device();
    for (index, prompt) in rows(fixture, "prompts").iter().enumerate() {
        let prompt_ids = ids(&prompt["input_ids"]);
        assert_eq!(prompt_ids, expected.ints(&format!("input_ids.{index}")));
        let seq = prompt_ids.len();
        let input_ids = TensorData::new(prompt_ids, [1, seq]);
        let input_ids: Tensor<2, Int> = Tensor::from_data(input_ids, &device);
        let batch = DecoderBatch {
            input_ids,
            attention_mask: None,
            position_ids: None,
        };
        let logits = model.logits(&batch, &NoHooks).unwrap();
        let last = host(logits.narrow(1, seq - 1, 1));
        let name = format!("logits.{index}");
        tolerance.check(&name, &last, expected.floats(&name));
        let mut best: Vec<usize> = (0..last.len()).collect();
        best.sort_by(|a, b| last[*b].total_cmp(&last[*a]));
        let first = ids(&prompt["top20_ids"])[0];
        assert_eq!(best[0] as i64, first, "{name}");
    }
}

/// Greedy continuations of the prompts alone and together, from text to text.
fn check_continuations(fixture: &Fixture, model: &DecoderModel, tokenizer: &Tokenizer) {
    let prompts = rows(fixture, "prompts");
    let mut tokens = Vec::new();
    for prompt in prompts {
        let found = tokenizer.ids(text(&prompt["text"]), true).unwrap();
        let found: Vec<i64> = found.into_iter().map(i64::from).collect();
        assert_eq!(found, ids(&prompt["input_ids"]), "{}", prompt["text"]);
        tokens.push(found);
    }
    let config = GenerationConfig {
        max_new_tokens: ids(&prompts[0]["greedy_ids"]).len(),
        ..GenerationConfig::default()
    };
    let generate = |prompts: &[Vec<i64>]| {
        let generated = model.generate(prompts, &config, &NoHooks, &mut |_, _| false);
        generated.unwrap()
    };
    let alone = generate(&tokens[..1]);
    let together = generate(&tokens);
    assert_eq!(alone[0].ids, together[0].ids);
    for (prompt, generated) in prompts.iter().zip(together) {
        assert_eq!(
            generated.ids,
            ids(&prompt["greedy_ids"]),
            "{}",
            prompt["text"]
        );
        let written: Vec<u32> = generated.ids.iter().map(|id| *id as u32).collect();
        let written = tokenizer.decode(&written, false).unwrap();
        assert_eq!(written, text(&prompt["greedy_text"]));
    }
}

/// The negative log-probabilities of the tokens of texts.
fn check_texts(fixture: &Fixture, model: &DecoderModel, tokenizer: &Tokenizer) {
    let tolerance = Tolerance {
        atol: allowed(fixture, "logits_atol"),
        rtol: allowed(fixture, "logits_rtol"),
    };
    for row in rows(fixture, "texts") {
        let tokens = ids(&row["input_ids"]);
        let found = tokenizer.ids(text(&row["text"]), true).unwrap();
        let found: Vec<i64> = found.into_iter().map(i64::from).collect();
        assert_eq!(found, tokens, "{}", row["text"]);
        let request = ScoreRequest {
            ids: &tokens,
            n_context: 1,
        };
        let scores = model.score(&[request], &NoHooks).unwrap();
        let found: Vec<f32> = scores.log_probs[0].iter().map(|value| -value).collect();
        let expected = row["token_nll"].as_array().expect("figures of tokens");
        let expected: Vec<f32> = expected
            .iter()
            .map(|value| value.as_f64().expect("a figure") as f32)
            .collect();
        tolerance.check(text(&row["text"]), &found, &expected);
        let mean = found.iter().map(|value| f64::from(*value)).sum::<f64>() / found.len() as f64;
        let wanted = row["mean_nll"].as_f64().expect("a figure");
        assert!(
            (mean - wanted).abs() <= allowed(fixture, "mean_nll_atol"),
            "{}: {mean} instead of {wanted}",
            row["text"]
        );
    }
}

//! Each option of `hybrid generate` by itself: it does what the library does with that setting, and
//! something else than without it.

use std::path::Path;

use hybrid_models::{BeamConfig, DecoderModel, Decoding, GenerationConfig, NoHooks};
use serde_json::{Value, json};

use super::{Chat, MAX_TOKENS, decoded, decoder_with_words, generate, lines};
use crate::fixtures;
use crate::tiny_task::{messages, printed};

const PROMPT: &str = "Hello there";

fn answer(model: &Path, options: &[&str], prompt: &str) -> Value {
    let output = generate(model)
        .args(["--plain", "--json", prompt])
        .args(options)
        .assert()
        .success();
    lines(&printed(&output)).remove(0)
}

fn text(chat: &Chat, options: &[&str]) -> String {
    let answer = answer(&chat.path, options, PROMPT);
    answer["text"].as_str().unwrap().to_owned()
}

/// Pushed to its end, each setting leaves the best token alone to draw.
#[test]
fn each_setting_of_sampling_narrows_what_is_drawn() {
    let chat = Chat::new();
    let greedy = text(&chat, &[]);
    assert_ne!(text(&chat, &["--seed", "5"]), greedy);
    assert_ne!(text(&chat, &["--temperature", "1"]), greedy);
    for setting in [
        ["--temperature", "0.0001"],
        ["--top-k", "1"],
        ["--top-p", "0.0001"],
        ["--min-p", "1"],
    ] {
        assert_eq!(text(&chat, &setting), greedy, "{setting:?}");
    }
}

#[test]
fn a_repetition_penalty_keeps_tokens_from_coming_again() {
    let chat = Chat::new();
    let config = GenerationConfig {
        max_new_tokens: MAX_TOKENS,
        eos_ids: chat.model.eos_ids().to_vec(),
        repetition_penalty: 1e6,
        ..GenerationConfig::default()
    };
    let encoding = &chat.tokenizer.encode(&[PROMPT.to_owned()]).unwrap()[0];
    let prompt: Vec<i64> = encoding.ids.iter().map(|id| i64::from(*id)).collect();
    let prompts = [prompt.clone()];
    let generated = chat
        .model
        .generate(&prompts, &config, &NoHooks, &mut |_, _| false);
    let generated = generated.unwrap().remove(0);
    let mut all = [prompt.clone(), generated.ids.clone()].concat();
    all.sort_unstable();
    all.dedup();
    let mut of_prompt = prompt;
    of_prompt.sort_unstable();
    of_prompt.dedup();
    assert_eq!(all.len(), of_prompt.len() + generated.ids.len());
    let found = text(&chat, &["--repetition-penalty", "1e6"]);
    assert_eq!(found, decoded(&chat.tokenizer, &generated));
}

/// Half of the tokens end a text, so that beams have ends of all lengths.
#[test]
fn a_length_penalty_decides_between_short_and_long_beams() {
    let folder = decoder_with_words();
    let load = || DecoderModel::load(folder.path(), &fixtures::device()).unwrap();
    let eos_ids: Vec<usize> = (0..load().decoder.vocab_size()).step_by(2).collect();
    let config = json!({ "eos_token_id": eos_ids }).to_string();
    std::fs::write(folder.path().join("generation_config.json"), config).unwrap();
    let model = load();
    let mut lengths = Vec::new();
    for penalty in ["-9", "9"] {
        let options = ["--beams", "4", "--length-penalty", penalty];
        let found = answer(folder.path(), &options, "w1 w3");
        let config = GenerationConfig {
            max_new_tokens: MAX_TOKENS,
            eos_ids: model.eos_ids().to_vec(),
            decoding: Decoding::Beam(BeamConfig {
                n_beams: 4,
                length_penalty: penalty.parse().unwrap(),
                ..BeamConfig::default()
            }),
            ..GenerationConfig::default()
        };
        let generated = model.generate(&[vec![1, 3]], &config, &NoHooks, &mut |_, _| false);
        let n_tokens = generated.unwrap()[0].ids.len();
        assert_eq!(found["n_tokens"], n_tokens, "{penalty}");
        lengths.push(n_tokens);
    }
    assert!(lengths[0] < lengths[1], "{lengths:?}");
}

#[test]
fn more_beams_find_what_the_library_finds() {
    let chat = Chat::new();
    let encoding = &chat.tokenizer.encode(&[PROMPT.to_owned()]).unwrap()[0];
    let prompt: Vec<i64> = encoding.ids.iter().map(|id| i64::from(*id)).collect();
    let config = GenerationConfig {
        max_new_tokens: MAX_TOKENS,
        eos_ids: chat.model.eos_ids().to_vec(),
        decoding: Decoding::Beam(BeamConfig {
            n_beams: 6,
            ..BeamConfig::default()
        }),
        ..GenerationConfig::default()
    };
    let generated = chat
        .model
        .generate(&[prompt], &config, &NoHooks, &mut |_, _| false);
    let generated = generated.unwrap().remove(0);
    let found = text(&chat, &["--beams", "6"]);
    assert_eq!(found, decoded(&chat.tokenizer, &generated));
}

#[test]
fn a_prompt_that_fills_the_context_is_refused() {
    let chat = Chat::new();
    let prompt = "word ".repeat(chat.model.decoder.max_positions());
    let said = messages(&generate(&chat.path).arg(prompt).assert().code(2));
    let limit = chat.model.decoder.max_positions();
    let expected = format!("positions are asked for; the model has {limit}");
    assert!(said.contains(&expected), "{said}");
}

//! `hybrid generate` on the fixtures' tiny models, against the library's own loop over whole texts.

mod options;

use std::io::{BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use assert_cmd::Command;
use burn::tensor::{Tensor, TensorData};
use hybrid::load_tokenizer;
use hybrid_data::Tokenizer;
use hybrid_models::{
    BaseKind, DecoderModel, EncoderBatch, EncoderDecoder, Finish, Generated, GenerationConfig,
    NoHooks,
};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use crate::fixtures::{self, Tensors};
use crate::tiny_task::{TinyTask, hybrid, messages, printed};

const MAX_TOKENS: usize = 24;

/// A GGUF model with a chat template, and conversations rendered by Transformers.
struct Chat {
    path: PathBuf,
    model: DecoderModel,
    tokenizer: Tokenizer,
    expected: Value,
}

impl Chat {
    fn new() -> Self {
        let fixtures = fixtures::of_kind("gguf");
        let whole = |fixture: &&fixtures::Fixture| fixture.meta["file"].is_string();
        let fixture = fixtures.iter().find(whole).expect("a whole GGUF file");
        let path = fixture.folder.join(fixture.meta["file"].as_str().unwrap());
        Self {
            model: DecoderModel::load(&path, &fixtures::device()).unwrap(),
            tokenizer: load_tokenizer(&path, 1 << 20).unwrap(),
            expected: fixtures::json(&fixture.folder.join("tokenizer_expected.json")),
            path,
        }
    }

    /// What is said in the conversation of a single turn, and its text.
    fn turn(&self) -> (&str, &str) {
        let chats = self.expected["chat"].as_array().unwrap();
        let chat = chats
            .iter()
            .find(|chat| chat["messages"].as_array().unwrap().len() == 1);
        let chat = chat.expect("a conversation of one turn");
        let message = &chat["messages"][0];
        assert_eq!(message["role"], "user");
        (
            message["content"].as_str().unwrap(),
            chat["text"].as_str().unwrap(),
        )
    }

    /// The continuation of a text with its special tokens in it.
    fn continued(&self, text: &str) -> (String, Generated) {
        let encoding = &self
            .tokenizer
            .encode_as_written(&[text.to_owned()])
            .unwrap()[0];
        let prompt: Vec<i64> = encoding.ids.iter().map(|id| i64::from(*id)).collect();
        let config = GenerationConfig {
            max_new_tokens: MAX_TOKENS,
            eos_ids: self.model.eos_ids().to_vec(),
            ..GenerationConfig::default()
        };
        let generated = self
            .model
            .generate(&[prompt], &config, &NoHooks, &mut |_, _| false);
        let generated = generated.unwrap().remove(0);
        (decoded(&self.tokenizer, &generated), generated)
    }

    fn command(&self) -> Command {
        generate(&self.path)
    }
}

fn generate(model: &Path) -> Command {
    let mut command = hybrid();
    command.args([
        "generate",
        "--max-tokens",
        &MAX_TOKENS.to_string(),
        "--model",
    ]);
    command.arg(model);
    command
}

fn decoded(tokenizer: &Tokenizer, generated: &Generated) -> String {
    let ids: Vec<u32> = generated.ids.iter().map(|id| *id as u32).collect();
    tokenizer.decode(&ids, true).unwrap()
}

fn finish(generated: &Generated) -> &'static str {
    match generated.finish {
        Finish::EndOfSequence => "end_of_sequence",
        Finish::Stopped => "stop_string",
        Finish::Length => "length",
    }
}

fn lines(printed: &str) -> Vec<Value> {
    let lines = printed.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn a_prompt_goes_through_the_chat_template_unless_plain() {
    let chat = Chat::new();
    let (prompt, text) = chat.turn();
    let output = chat.command().arg(prompt).assert().success();
    assert_eq!(printed(&output), format!("{}\n", chat.continued(text).0));
    let said = messages(&output);
    for part in ["prompt ", "generation ", "tokens/s", "peak memory "] {
        assert!(said.contains(part), "{part}: {said}");
    }

    let output = chat.command().args(["--plain", prompt]).assert().success();
    assert_eq!(printed(&output), format!("{}\n", chat.continued(prompt).0));

    let output = chat
        .command()
        .args(["--system", "You are terse.", prompt])
        .assert()
        .success();
    let opening = "<|im_start|>system\nYou are terse.<|im_end|>\n";
    let text = format!("{opening}{text}");
    assert_eq!(printed(&output), format!("{}\n", chat.continued(&text).0));
}

#[test]
fn kept_weights_write_the_same_text() {
    let chat = Chat::new();
    let (prompt, text) = chat.turn();
    let output = chat
        .command()
        .args(["--dtype", "keep", prompt])
        .assert()
        .success();
    assert_eq!(printed(&output), format!("{}\n", chat.continued(text).0));
}

#[test]
fn prompts_of_a_batch_are_answered_as_alone() {
    let chat = Chat::new();
    let rows = chat.expected["rows"].as_array().unwrap().iter();
    let texts = rows.map(|row| row["text"].as_str().unwrap());
    let prompts: Vec<&str> = texts
        .filter(|text| !text.trim().is_empty() && !text.contains(['\n', '\r']) && text.len() < 100)
        .take(5)
        .collect();
    assert!(prompts.len() > 2, "{prompts:?}");
    let output = chat
        .command()
        .args(["--plain", "--json"])
        .args(&prompts)
        .assert()
        .success();
    let found = lines(&printed(&output));
    let mut texts = Vec::new();
    for (line, prompt) in found.iter().zip(&prompts) {
        let (text, generated) = chat.continued(prompt);
        let expected = json!({
            "prompt": prompt,
            "text": text,
            "finish": finish(&generated),
            "n_tokens": generated.ids.len(),
        });
        assert_eq!(*line, expected);
        texts.push(text);
    }
    assert_eq!(texts.len(), prompts.len());

    let input = prompts.join("\n");
    let output = chat
        .command()
        .arg("--plain")
        .write_stdin(input)
        .assert()
        .success();
    assert_eq!(printed(&output), format!("{}\n", texts.join("\n\n")));
}

#[test]
fn a_text_ends_before_a_stop_string() {
    let chat = Chat::new();
    let (prompt, text) = chat.turn();
    let (whole, _) = chat.continued(text);
    // From within one token to within a later one.
    let boundaries: Vec<usize> = whole.char_indices().map(|(at, _)| at).collect();
    let at = |share: f64| boundaries[(boundaries.len() as f64 * share) as usize];
    let (start, end) = (at(0.25), at(0.6));
    let stop = &whole[start..end];
    let expected = &whole[..whole.find(stop).unwrap()];
    for beams in [&[][..], &["--beams", "1"]] {
        let output = chat
            .command()
            .args(["--stop", stop, "--json", prompt])
            .args(beams)
            .assert();
        let found = lines(&printed(&output.success()));
        assert_eq!(found[0]["text"], expected, "{beams:?}");
        assert_eq!(found[0]["finish"], "stop_string", "{beams:?}");
        let n_tokens = found[0]["n_tokens"].as_u64().unwrap();
        assert!(n_tokens < MAX_TOKENS as u64, "{beams:?}: {n_tokens}");
    }
    let output = chat
        .command()
        .args(["--stop", stop, prompt])
        .assert()
        .success();
    assert_eq!(printed(&output), format!("{expected}\n"));
}

#[test]
fn the_seed_decides_what_is_drawn() {
    let chat = Chat::new();
    let drawn = |seed: &str| {
        let settings = [
            "--temperature",
            "1.5",
            "--top-k",
            "50",
            "--top-p",
            "0.95",
            "--min-p",
            "0.01",
        ];
        let output = chat
            .command()
            .args(settings)
            .args(["--seed", seed, "Hello"])
            .assert();
        printed(&output.success())
    };
    let first = drawn("1");
    assert_eq!(drawn("1"), first);
    assert_ne!(drawn("2"), first);
}

/// A fixture's folder with a tokenizer whose words are `w0`, `w1` and so on.
fn with_words(source: &Path, vocab: usize) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in ["config.json", "generation_config.json", "model.safetensors"] {
        std::fs::copy(source.join(file), folder.path().join(file)).unwrap();
    }
    let words: Map<String, Value> = (0..vocab).map(|id| (format!("w{id}"), json!(id))).collect();
    let tokenizer = json!({
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "WordLevel", "unk_token": "w0", "vocab": words},
    });
    std::fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    folder
}

/// A Llama with such a tokenizer: its positions have no end.
fn decoder_with_words() -> TempDir {
    let fixtures = fixtures::of_kind("model");
    let sources = fixtures.iter().map(|fixture| fixture.folder.join("model"));
    let mut llamas = sources.filter(|source| {
        let config = fixtures::json(&source.join("config.json"));
        config["architectures"][0] == "LlamaForCausalLM"
    });
    let source = llamas.next().expect("a Llama");
    let model = DecoderModel::load(&source, &fixtures::device()).unwrap();
    with_words(&source, model.decoder.vocab_size())
}

#[test]
fn text_comes_while_it_is_written_and_ends_with_its_reader() {
    let folder = decoder_with_words();
    let endless = json!({"eos_token_id": []}).to_string();
    std::fs::write(folder.path().join("generation_config.json"), endless).unwrap();
    let most = 200_000;
    let mut child = std::process::Command::new(assert_cmd::cargo::cargo_bin!("hybrid"))
        .args(["generate", "--max-tokens", &most.to_string(), "--model"])
        .arg(folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    writeln!(stdin, "w1 w2").unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    output.read_exact(&mut [0; 8]).unwrap();
    // The input stays open: only the reader that goes away ends the command.
    drop(output);
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        assert!(start.elapsed().as_secs() < 120, "it goes on");
        std::thread::sleep(Duration::from_millis(20));
    }
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let said = String::from_utf8(output.stderr).unwrap();
    let line = said
        .lines()
        .find_map(|line| line.strip_prefix("generation  "));
    let n_tokens = line.and_then(|line| line.split(' ').next()?.parse::<usize>().ok());
    assert!(
        n_tokens.is_some_and(|n_tokens| n_tokens < most - 1),
        "{said}"
    );
    drop(stdin);
}

#[test]
fn encoder_decoders_answer_what_their_encoder_reads() {
    let device = fixtures::device();
    let mut n_models = 0;
    for fixture in fixtures::of_kind("model") {
        let source = fixture.folder.join("model");
        if !BaseKind::of_folder(&source).is_ok_and(|kind| kind == BaseKind::EncoderDecoder) {
            continue;
        }
        let model = EncoderDecoder::load(&source, &device).unwrap();
        let folder = with_words(&source, model.vocab_size());
        let inputs = Tensors::read(&fixture.folder.join("inputs.safetensors"));
        let seq = inputs.shape("input_ids")[1];
        let rows = inputs.ints("input_ids").chunks(seq);
        let masks = inputs.ints("attention_mask").chunks(seq);
        let config = GenerationConfig {
            max_new_tokens: 8,
            eos_ids: model.tokens().end.clone(),
            ..GenerationConfig::default()
        };
        let (mut prompts, mut expected) = (Vec::new(), Vec::new());
        for (ids, mask) in rows.zip(masks) {
            let ids: Vec<i64> = ids
                .iter()
                .zip(mask)
                .filter(|(_, m)| **m == 1)
                .map(|(id, _)| *id)
                .collect();
            let words: Vec<String> = ids.iter().map(|id| format!("w{id}")).collect();
            prompts.push(words.join(" "));
            let data = TensorData::new(ids.clone(), [1, ids.len()]);
            let input_ids = Tensor::from_data(data, &device);
            let batch = EncoderBatch {
                attention_mask: Tensor::ones_like(&input_ids),
                input_ids,
                token_type_ids: None,
            };
            let generated = model.generate(&batch, &config, &NoHooks, &mut |_, _| false);
            let generated = generated.unwrap().remove(0);
            let mut written = generated.ids.clone();
            written.retain(|id| !config.eos_ids.contains(id));
            let words: Vec<String> = written.iter().map(|id| format!("w{id}")).collect();
            expected.push((words.join(" "), finish(&generated)));
        }
        let output = hybrid()
            .args(["generate", "--max-tokens", "8", "--json", "--model"])
            .arg(folder.path())
            .args(&prompts)
            .assert()
            .success();
        let found = lines(&printed(&output));
        assert_eq!(found.len(), expected.len(), "{}", fixture.name);
        for (line, (text, finish)) in found.iter().zip(expected) {
            assert_eq!(line["text"], text, "{}", fixture.name);
            assert_eq!(line["finish"], finish, "{}", fixture.name);
        }
        n_models += 1;
    }
    assert!(n_models > 0, "no encoder-decoder was run");
}

#[test]
fn what_does_not_fit_is_refused_with_a_reason() {
    let task = TinyTask::new();
    let chat = Chat::new();
    let decoder = &chat.path;
    for (model, arguments, reason) in [
        (&task.file("model"), &["x"][..], "an encoder writes no text"),
        (&task.file("nowhere"), &["x"], "there is no such folder"),
        (decoder, &["--plain", "--system", "s", "x"], "--plain"),
        (decoder, &["--beams", "2", "--seed", "1", "x"], "--seed"),
        (decoder, &["--length-penalty", "2", "x"], "--beams"),
        (decoder, &["--temperature", "0", "x"], "temperature"),
        (decoder, &["--beams", "0", "x"], "n_beams"),
        (decoder, &["--plain", ""], "prompt 0 has no token"),
    ] {
        let output = generate(model).args(arguments).assert().code(2);
        let said = messages(&output);
        assert!(said.contains(reason), "{arguments:?}: {said}");
        assert_eq!(printed(&output), "", "{arguments:?}");
    }
}

#[test]
fn options_that_the_model_has_no_place_for_are_refused() {
    let chat = Chat::new();
    let words = decoder_with_words();
    let output = generate(words.path())
        .args(["--system", "s", "w1"])
        .assert()
        .code(2);
    assert!(messages(&output).contains("no chat template"));
    let config = json!({"chat_template": "{{ messages[-1].content }}"}).to_string();
    std::fs::write(words.path().join("tokenizer_config.json"), config).unwrap();
    let output = generate(words.path())
        .args(["--system", "s", "w1"])
        .assert()
        .code(2);
    assert!(messages(&output).contains("shows no system message"));
    let output = generate(words.path())
        .args(["--dtype", "keep", "w1"])
        .assert()
        .code(2);
    assert!(messages(&output).contains("only the weights of a GGUF file"));
    generate(words.path())
        .args(["--dtype", "bfloat16", "--plain", "w1"])
        .assert()
        .success();
    // The conversation of another model has the place.
    chat.command()
        .args(["--system", "s", "w1"])
        .assert()
        .success();
}

//! Decoders: every recorded output, and what a load promises.

use burn::tensor::{Int, Tensor};
use hybrid_models::{Base, DecoderBatch, DecoderModel, NoHooks, cross_entropy};
use serde_json::{Value, json};

use super::{Case, DECODERS, Output, Refusals, host};
use crate::fixtures;

pub(super) fn cases() -> Vec<Case<DecoderModel>> {
    super::cases(&DECODERS, DecoderModel::load)
}

impl Case<DecoderModel> {
    pub(super) fn int<const D: usize>(&self, name: &str) -> Tensor<D, Int> {
        self.inputs.int(name, &self.device)
    }

    /// Rows padded at the right, or the same rows padded at the left.
    pub(super) fn batch(&self, side: &str) -> DecoderBatch {
        DecoderBatch {
            input_ids: self.int(&format!("{side}input_ids")),
            attention_mask: Some(self.int(&format!("{side}attention_mask"))),
            position_ids: None,
        }
    }

    /// Rows padded at the left, with the recorded positions.
    fn left_with_positions(&self) -> DecoderBatch {
        DecoderBatch {
            position_ids: Some(self.int("left_position_ids")),
            ..self.batch("left_")
        }
    }

    pub(super) fn is_classifier(&self) -> bool {
        self.architecture().ends_with("ForSequenceClassification")
    }

    pub(super) fn logits(&self, batch: &DecoderBatch) -> Tensor<3> {
        let logits = self.model.logits(batch, &NoHooks);
        logits.unwrap_or_else(|error| panic!("{}: {error}", self.fixture.name))
    }

    fn labels_of_rows(&self, batch: &DecoderBatch) -> Tensor<2> {
        self.model.classify(batch, &NoHooks).unwrap()
    }

    pub(super) fn hidden(&self, batch: &DecoderBatch) -> Tensor<3> {
        self.model.decoder.forward(batch, None, &NoHooks).unwrap()
    }

    /// All hidden states, from the embeddings to the last layer's, which is normalised.
    fn hidden_states(&self) -> Vec<Tensor<3>> {
        let (decoder, batch) = (&self.model.decoder, self.batch(""));
        let (embedded, attention) = decoder.begin(&batch, None, &NoHooks).unwrap();
        let mut states = vec![embedded];
        for index in 0..decoder.n_layers() {
            let hidden = states[index].clone();
            states.push(decoder.layers(index..index + 1, hidden, &attention, None, &NoHooks));
        }
        let last = states.pop().expect("at least the embeddings");
        states.push(decoder.finish(last, &NoHooks));
        states
    }

    /// One output by its name in the fixture; none for what another test looks at.
    fn output(&self, name: &str) -> Option<Output> {
        let classifier = self.is_classifier();
        Some(match name {
            "logits" if classifier => Output::whole(self.labels_of_rows(&self.batch(""))),
            "logits_left_default_positions" if classifier => {
                Output::whole(self.labels_of_rows(&self.batch("left_")))
            }
            "loss" if classifier => {
                let logits = self.labels_of_rows(&self.batch(""));
                Output::whole(cross_entropy(logits, self.int("labels")))
            }
            "logits" => Output::tokens(self.logits(&self.batch("")), "attention_mask"),
            "logits_left_default_positions" => {
                Output::tokens(self.logits(&self.batch("left_")), "left_attention_mask")
            }
            "logits_left_mask_positions" => Output::tokens(
                self.logits(&self.left_with_positions()),
                "left_attention_mask",
            ),
            "loss" => {
                let labels = self.int("labels");
                let loss = self.model.loss(&self.batch(""), &labels, &NoHooks);
                Output::whole(loss.unwrap())
            }
            name if name.starts_with("generate_") => return None,
            _ => {
                let index = name
                    .strip_prefix("hidden_states.")
                    .and_then(|index| index.parse::<usize>().ok())
                    .unwrap_or_else(|| panic!("{}: unknown output {name:?}", self.fixture.name));
                Output::tokens(self.hidden_states().swap_remove(index), "attention_mask")
            }
        })
    }
}

#[test]
fn parity_of_every_recorded_output() {
    for case in cases() {
        for name in case.expected.names() {
            if let Some(output) = case.output(name) {
                case.check_output(name, &output);
            }
        }
    }
}

/// Tokens that end a sequence come from the settings of generation, else from the configuration.
#[test]
fn parity_of_end_tokens() {
    for case in cases() {
        let listed = |file: &str| {
            let path = case.fixture.folder.join("model").join(file);
            let value = path
                .is_file()
                .then(|| fixtures::json(&path)["eos_token_id"].clone())?;
            match value {
                Value::Array(ids) => ids.iter().map(Value::as_i64).collect::<Option<Vec<i64>>>(),
                id => id.as_i64().map(|id| vec![id]),
            }
        };
        let expected = listed("generation_config.json").or_else(|| listed("config.json"));
        let expected = expected.unwrap_or_default();
        assert_eq!(case.model.eos_ids(), expected, "{}", case.fixture.name);
    }
}

#[test]
fn parity_of_parameter_counts() {
    cases().iter().for_each(Case::check_parameter_count);
}

#[test]
fn parity_of_site_paths_with_checkpoint_keys() {
    cases()
        .iter()
        .for_each(|case| case.check_checkpoint_keys(&[]));
}

/// A headless load of any checkpoint gives the decoder's outputs under paths without prefix.
#[test]
fn parity_of_headless_loads() {
    for case in cases() {
        let name = &case.fixture.name;
        let folder = case.fixture.folder.join("model");
        let headless = DecoderModel::load_headless(&folder, &case.device).unwrap();
        let batch = case.batch("");
        let hidden = headless.decoder.forward(&batch, None, &NoHooks).unwrap();
        assert_eq!(host(hidden), host(case.hidden(&batch)), "{name}");
        for site in headless.sites().iter() {
            let outer = case.model.sites().iter().filter(|outer| !outer.head);
            let found = outer.filter(|outer| outer.path.ends_with(&format!(".{}", site.path)));
            assert_eq!(found.count(), 1, "{name}: {}", site.path);
        }
        let lacks = headless.logits(&batch, &NoHooks).unwrap_err().to_string();
        assert!(lacks.contains("no language model head"), "{lacks}");
    }
}

/// Positions taken from the mask make padding on either side, and more of it, change nothing.
#[test]
fn parity_does_not_depend_on_padding() {
    for case in cases() {
        let [right, left] = ["", "left_"].map(|side| {
            let ids = case.int(&format!("{side}input_ids"));
            DecoderBatch::padded(ids, case.int(&format!("{side}attention_mask")))
        });
        let [size, seq] = right.input_ids.dims();
        let ones = Tensor::<2, Int>::ones([size, 2], &case.device);
        let more = |ids: &Tensor<2, Int>, mask: &Tensor<2, Int>| {
            let pad = |x: &Tensor<2, Int>, value: i64| {
                Tensor::cat(vec![ones.clone() * value, x.clone()], 1)
            };
            DecoderBatch::padded(pad(ids, 3), pad(mask, 0))
        };
        let longer = more(&left.input_ids, left.attention_mask.as_ref().unwrap());
        let tokens = |batch: &DecoderBatch| {
            let hidden = case.hidden(batch);
            let width = hidden.dims()[2];
            let mask = batch.attention_mask.clone().unwrap().into_data();
            let values = host(hidden);
            let rows = values.chunks(width).zip(mask.iter::<i64>());
            rows.filter(|(_, mask)| *mask == 1)
                .flat_map(|(row, _)| row.to_vec())
                .collect::<Vec<f32>>()
        };
        let expected = tokens(&right);
        assert!(expected.len() < size * seq * case.model.decoder.d_model());
        for batch in [left, longer] {
            case.tolerance
                .check(&case.fixture.name, &tokens(&batch), &expected);
        }
    }
}

/// Reading a batch in pieces through the cache equals reading it at once.
#[test]
fn parity_of_cached_and_plain_forwards() {
    for case in cases() {
        for side in ["", "left_"] {
            let batch = case.batch(side);
            let [size, seq] = batch.input_ids.dims();
            let plain = case.hidden(&batch);
            let mut cache = case.model.decoder.new_cache(1);
            let mut pieces = Vec::new();
            for (start, end) in [(0, 3), (3, 4), (4, seq - 1), (seq - 1, seq)] {
                let part = |x: &Tensor<2, Int>, start| x.clone().narrow(1, start, end - start);
                let piece = DecoderBatch {
                    input_ids: part(&batch.input_ids, start),
                    attention_mask: batch.attention_mask.as_ref().map(|mask| part(mask, 0)),
                    position_ids: None,
                };
                let hidden = case
                    .model
                    .decoder
                    .forward(&piece, Some(&mut cache), &NoHooks);
                pieces.push(hidden.unwrap());
            }
            assert_eq!(cache.len(), seq);
            let joined = Tensor::cat(pieces, 1);
            let mask = batch.attention_mask.unwrap().float();
            let seen = |x: Tensor<3>| host(x * mask.clone().reshape([size, seq, 1]));
            let name = format!("{} {side}", case.fixture.name);
            case.tolerance.check(&name, &seen(joined), &seen(plain));
        }
    }
}

/// The loss reaches the output layer at the targets only, and equals that over all logits.
#[test]
fn parity_of_losses_at_targets_only() {
    for case in cases().iter().filter(|case| !case.is_classifier()) {
        let batch = case.batch("");
        let [size, seq] = batch.input_ids.dims();
        let labels = case.int::<2>("labels");
        let (logits, targets) = case.model.target_logits(&batch, &labels, &NoHooks).unwrap();
        let counted = case.inputs.ints("labels").chunks(seq);
        let counted: usize = counted
            .map(|row| row[1..].iter().filter(|label| **label >= 0).count())
            .sum();
        assert_eq!(logits.dims()[0], counted, "{}", case.fixture.name);
        assert_eq!(targets.dims(), [counted]);
        let vocab = case.model.decoder.vocab_size();
        let all = case.logits(&batch).narrow(1, 0, seq - 1);
        let all = cross_entropy(
            all.reshape([size * (seq - 1), vocab]),
            labels
                .clone()
                .narrow(1, 1, seq - 1)
                .reshape([size * (seq - 1)]),
        );
        let some = cross_entropy(logits, targets);
        case.tolerance
            .check(&case.fixture.name, &host(some), &host(all));
        let none = labels.zeros_like() - 100;
        let error = case.model.loss(&batch, &none, &NoHooks).unwrap_err();
        assert!(error.to_string().contains("every label"), "{error}");
    }
}

/// Faults of a checkpoint against its configuration, on every fixture.
#[test]
fn parity_with_the_configuration_is_demanded() {
    for case in cases() {
        let refusals = Refusals::new(&case, DecoderModel::load);
        let refused = |config: &Value, parts: &[&str]| refusals.check(config, parts);
        let gpt2 = case.config()["model_type"] == "gpt2";
        let config = || {
            let mut config = case.config();
            let keys = config.as_object_mut().unwrap();
            // Layers and their types are changed one at a time.
            keys.remove("layer_types");
            if gpt2 && keys["n_inner"].is_null() {
                keys["n_inner"] = json!(4 * keys["n_embd"].as_u64().unwrap());
            }
            config
        };
        let with = |key: &str, value: Value| {
            let mut config = config();
            config[key] = value;
            config
        };
        let size = |key: &str| config()[key].as_u64().expect("a size");
        let [layers, heads, d_ff, words] = match gpt2 {
            true => ["n_layer", "n_head", "n_inner", "wte.weight"],
            false => [
                "num_hidden_layers",
                "num_attention_heads",
                "intermediate_size",
                "embed_tokens.weight",
            ],
        };
        let vocab = size("vocab_size");
        refused(
            &with("vocab_size", json!(vocab + 1)),
            &[words, "expected shape", "found"],
        );
        refused(&with(layers, json!(size(layers) + 1)), &["is missing"]);
        let fewer = with(layers, json!(size(layers) - 1));
        refused(&fewer, &["has no place in the model"]);
        let wider = with(d_ff, json!(size(d_ff) + 1));
        refused(&wider, &["expected shape", "found"]);
        refused(&with(heads, json!(0)), &["config.json", heads, "found 0"]);
        let mut missing = config();
        missing.as_object_mut().unwrap().remove("vocab_size");
        refused(&missing, &["`vocab_size` is missing"]);
        refused(
            &with("model_type", json!("mamba")),
            &["config.json", "mamba", "gpt2, llama, mistral, qwen2, qwen3"],
        );
        refused(
            &with("architectures", json!(["HaikuForCausalLM"])),
            &["HaikuForCausalLM", "ForSequenceClassification"],
        );
        refused(
            &with("quantization_config", json!({"bits": 4})),
            &["quantization_config", "not supported"],
        );
        if gpt2 {
            let odd = with(heads, json!(size("n_embd") + 1));
            refused(&odd, &["n_head", "divisor"]);
            let cross = with("add_cross_attention", json!(true));
            refused(&cross, &["add_cross_attention", "expected false"]);
            continue;
        }
        let kv_heads = with("num_key_value_heads", json!(size(heads) + 1));
        refused(&kv_heads, &["num_key_value_heads", "divisor"]);
        let rope = with("rope_parameters", json!({"rope_type": "longrope"}));
        refused(&rope, &["rope_parameters.rope_type", "longrope", "yarn"]);
        let activation = with("hidden_act", json!("swishy"));
        refused(&activation, &["hidden_act", "swishy"]);
        if ["qwen2", "qwen3"].contains(&case.model.model_type()) {
            let types = vec!["sliding_attention"; size(layers) as usize];
            let sliding = with("layer_types", json!(types));
            refused(&sliding, &["layer_types", "no sliding window"]);
            let short = with("layer_types", json!(["full_attention"]));
            refused(&short, &["layer_types", "found 1"]);
        }
    }
}

/// An untied output layer in the checkpoint is used even where the configuration ties it; a tied
/// one that is stored all the same is counted once.
#[test]
fn parity_of_stored_output_layers() {
    let case = cases()
        .into_iter()
        .find(|case| case.config()["tie_word_embeddings"] == true && !case.is_classifier())
        .expect("a fixture with tied embeddings");
    let folder = tempfile::tempdir().unwrap();
    let source = case.fixture.folder.join("model");
    let config = folder.path().join("config.json");
    std::fs::copy(source.join("config.json"), config).unwrap();
    let bytes = std::fs::read(source.join("model.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let words = file
        .iter()
        .find(|(name, _)| name.ends_with("embed_tokens.weight") || name.ends_with("wte.weight"));
    let words = words.expect("word embeddings").1;
    let load = |change: &dyn Fn(u8) -> u8| {
        let changed: Vec<u8> = words.data().iter().map(|byte| change(*byte)).collect();
        let output =
            safetensors::tensor::TensorView::new(words.dtype(), words.shape().to_vec(), &changed);
        let tensors = file.iter().chain([("lm_head.weight", output.unwrap())]);
        let bytes = safetensors::serialize(tensors, None).unwrap();
        std::fs::write(folder.path().join("model.safetensors"), bytes).unwrap();
        DecoderModel::load(folder.path(), &case.device).unwrap()
    };
    let same = load(&|byte| byte);
    assert_eq!(same.n_parameters(), case.model.n_parameters());
    let batch = case.batch("");
    let logits = |model: &DecoderModel| host(model.logits(&batch, &NoHooks).unwrap());
    assert_eq!(logits(&same), host(case.logits(&batch)));
    // The lowest bit of a float32's last byte is a factor of four.
    let other = load(&|byte| byte ^ 1);
    let n_words: usize = words.shape().iter().product();
    assert_eq!(other.n_parameters(), case.model.n_parameters() + n_words);
    assert_ne!(logits(&other), logits(&same));
}

//! Encoders: every recorded output, and what a load promises.

use burn::tensor::{Int, Tensor};
use hybrid_models::{
    Base, EncoderBatch, Model, NoHooks, Pooling, binary_cross_entropy, cross_entropy,
    mean_squared_error,
};
use serde_json::Value;

use super::{Case, ENCODERS, Output, Refusals, host};
use crate::fixtures::Tensors;

pub(super) fn cases() -> Vec<Case<Model>> {
    super::cases(&ENCODERS, Model::load)
}

impl Case<Model> {
    pub(super) fn batch(&self) -> EncoderBatch {
        let int = |name: &str| self.inputs.int::<2>(name, &self.device);
        EncoderBatch {
            input_ids: int("input_ids"),
            attention_mask: int("attention_mask"),
            token_type_ids: self
                .inputs
                .has("token_type_ids")
                .then(|| int("token_type_ids")),
        }
    }

    /// All hidden states, from the embeddings to the last layer's.
    fn hidden_states(&self) -> Vec<Tensor<3>> {
        let (encoder, batch) = (&self.model.encoder, self.batch());
        let attention = encoder.attention(&batch, &NoHooks);
        let mut states = vec![encoder.embed(&batch, &attention, &NoHooks)];
        for index in 0..encoder.n_layers() {
            let hidden = states[index].clone();
            states.push(encoder.layers(index..index + 1, hidden, &attention, &NoHooks));
        }
        states
    }

    fn last_hidden_state(&self) -> Tensor<3> {
        self.model.encoder.forward(&self.batch(), &NoHooks)
    }

    fn pooled(&self, pooling: Pooling) -> Tensor<2> {
        self.model
            .pool(self.last_hidden_state(), &self.batch(), pooling, &NoHooks)
            .unwrap()
    }

    fn classified(&self, batch: &EncoderBatch) -> Tensor<2> {
        self.model.classify(batch, &NoHooks).unwrap()
    }

    /// Logits of every token, whatever head the model has.
    fn token_logits(&self) -> Tensor<3> {
        match self.architecture() {
            name if name.ends_with("ForMaskedLM") => {
                self.model.masked_lm(&self.batch(), &NoHooks).unwrap()
            }
            name if name.ends_with("ForTokenClassification") => {
                self.model.classify_tokens(&self.batch(), &NoHooks).unwrap()
            }
            name => panic!("{}: {name} has no logits of tokens", self.fixture.name),
        }
    }

    fn loss(&self) -> Tensor<1> {
        if self.architecture().ends_with("ForQuestionAnswering") {
            let [start, end] = self.model.answer_span(&self.batch(), &NoHooks).unwrap();
            let targets = |name: &str| self.inputs.int::<1>(name, &self.device);
            let losses = cross_entropy(start, targets("start_positions"))
                + cross_entropy(end, targets("end_positions"));
            return losses / 2.0;
        }
        let logits = self.token_logits();
        let [batch, seq, classes] = logits.dims();
        let labels: Tensor<2, Int> = self.inputs.int("labels", &self.device);
        cross_entropy(
            logits.reshape([batch * seq, classes]),
            labels.reshape([batch * seq]),
        )
    }

    /// One output by its name in the fixture.
    fn output(&self, name: &str) -> Output {
        let per_token = |x| Output::tokens(x, "attention_mask");
        let sequence = self.architecture().ends_with("ForSequenceClassification");
        match name {
            "last_hidden_state" => per_token(self.last_hidden_state()),
            "pooler_output" | "pooled" => Output::whole(self.pooled(Pooling::Pooler)),
            "mean_pooled" => Output::whole(self.pooled(Pooling::Mean)),
            "mean_pooled_normalized" => {
                let pooled = self.pooled(Pooling::Mean);
                let norm = pooled.clone().square().sum_dim(1).sqrt();
                Output::whole(pooled / norm)
            }
            "logits" if sequence => Output::whole(self.classified(&self.batch())),
            "logits" => per_token(self.token_logits()),
            "logits_no_mask" => {
                let attention_mask = self.batch().attention_mask.ones_like();
                Output::whole(self.classified(&EncoderBatch {
                    attention_mask,
                    ..self.batch()
                }))
            }
            "start_logits" | "end_logits" => {
                let [start, end] = self.model.answer_span(&self.batch(), &NoHooks).unwrap();
                let logits = if name == "start_logits" { start } else { end };
                per_token(logits.unsqueeze_dim(2))
            }
            "loss" => Output::whole(self.loss()),
            "loss_single_label" => {
                let labels = self.inputs.int("labels", &self.device);
                Output::whole(cross_entropy(self.classified(&self.batch()), labels))
            }
            "loss_multi_label" => {
                let labels = self.inputs.float("labels_multi", &self.device);
                Output::whole(binary_cross_entropy(self.classified(&self.batch()), labels))
            }
            "loss_regression" => {
                let labels = self.inputs.float("labels_regression", &self.device);
                Output::whole(mean_squared_error(self.classified(&self.batch()), labels))
            }
            _ => {
                let index = name
                    .strip_prefix("hidden_states.")
                    .and_then(|index| index.parse::<usize>().ok());
                let index = index
                    .unwrap_or_else(|| panic!("{}: unknown output {name:?}", self.fixture.name));
                per_token(self.hidden_states().swap_remove(index))
            }
        }
    }
}

#[test]
fn parity_of_every_recorded_output() {
    for case in cases() {
        for name in case.expected.names() {
            case.check_output(name, &case.output(name));
        }
    }
}

#[test]
fn parity_of_parameter_counts() {
    cases().iter().for_each(Case::check_parameter_count);
}

/// Site paths are the module paths of Transformers: with the checkpoint's own spelling where the
/// architecture has a head, and none of the names invented.
#[test]
fn parity_of_site_paths_with_checkpoint_keys() {
    for case in cases() {
        // The bias of a tied output layer stands under the path of its head.
        case.check_checkpoint_keys(&["cls.predictions", "lm_head"]);
    }
}

/// A headless load of any checkpoint gives the encoder's outputs under paths without prefix.
#[test]
fn parity_of_headless_loads() {
    for case in cases() {
        let headless =
            Model::load_encoder(&case.fixture.folder.join("model"), &case.device).unwrap();
        let hidden = host(headless.encoder.forward(&case.batch(), &NoHooks));
        assert_eq!(
            hidden,
            host(case.last_hidden_state()),
            "{}",
            case.fixture.name
        );
        let prefix = format!("{}.", headless.model_type());
        assert!(
            headless
                .sites()
                .iter()
                .all(|site| !site.path.starts_with(&prefix)),
            "{}",
            case.fixture.name
        );
    }
}

/// Longer padding changes nothing for the tokens of a row.
#[test]
fn parity_does_not_depend_on_the_length_of_padding() {
    for case in cases() {
        let batch = case.batch();
        let [size, seq] = batch.input_ids.dims();
        let config = case.config();
        let pad_id = config["pad_token_id"].as_i64().unwrap_or(0);
        let longer = |x: &Tensor<2, Int>, value: i64| {
            let padding = Tensor::full([size, 3], value, &case.device);
            Tensor::cat(vec![x.clone(), padding], 1)
        };
        let padded = EncoderBatch {
            input_ids: longer(&batch.input_ids, pad_id),
            attention_mask: longer(&batch.attention_mask, 0),
            token_type_ids: batch.token_type_ids.as_ref().map(|ids| longer(ids, 0)),
        };
        let plain = case.last_hidden_state();
        let [_, _, d_model] = plain.dims();
        let hidden =
            case.model
                .encoder
                .forward(&padded, &NoHooks)
                .slice([0..size, 0..seq, 0..d_model]);
        case.tolerance
            .check(&case.fixture.name, &host(hidden), &host(plain));
    }
}

/// A checkpoint in half precision loads; its outputs are near those of the whole one.
#[test]
fn parity_of_half_precision_checkpoints() {
    let case = cases().remove(0);
    let source = case.fixture.folder.join("model");
    let file = Tensors::read(&source.join("model.safetensors"));
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(
        source.join("config.json"),
        folder.path().join("config.json"),
    )
    .unwrap();
    let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = file
        .names()
        .map(|name| {
            // The upper half of a float32 is its bfloat16, cut off.
            let bytes = file
                .floats(name)
                .iter()
                .flat_map(|value| value.to_le_bytes()[2..].to_vec())
                .collect();
            (name.to_owned(), file.shape(name).to_vec(), bytes)
        })
        .collect();
    let views = tensors.iter().map(|(name, shape, bytes)| {
        let view =
            safetensors::tensor::TensorView::new(safetensors::Dtype::BF16, shape.clone(), bytes);
        (name.as_str(), view.unwrap())
    });
    let bytes = safetensors::serialize(views, None).unwrap();
    std::fs::write(folder.path().join("model.safetensors"), bytes).unwrap();
    let half = Model::load(folder.path(), &case.device).unwrap();
    let hidden = host(half.encoder.forward(&case.batch(), &NoHooks));
    let whole = host(case.last_hidden_state());
    let worst = hidden
        .iter()
        .zip(&whole)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max);
    assert!(
        worst > 0.0 && worst < 0.25,
        "{}: {worst}",
        case.fixture.name
    );
}

/// Faults of a checkpoint against its configuration, on every fixture.
#[test]
fn parity_with_the_configuration_is_demanded() {
    for case in cases() {
        let refusals = Refusals::new(&case, Model::load);
        let refused = |config: &Value, parts: &[&str]| refusals.check(config, parts);
        let config = case.config();
        let keys = match config["model_type"].as_str() {
            Some("distilbert") => ["vocab_size", "n_layers", "n_heads", "hidden_dim"],
            _ => [
                "vocab_size",
                "num_hidden_layers",
                "num_attention_heads",
                "intermediate_size",
            ],
        };
        let with = |key: &str, change: &dyn Fn(u64) -> u64| {
            let mut config = config.clone();
            config[key] = change(config[key].as_u64().expect("a size")).into();
            config
        };
        let [vocab, layers, heads, d_ff] = keys;
        refused(
            &with(vocab, &|n| n + 1),
            &["word_embeddings.weight", "expected shape", "found"],
        );
        refused(&with(layers, &|n| n + 1), &["is missing"]);
        refused(&with(layers, &|n| n - 1), &["has no place in the model"]);
        refused(&with(d_ff, &|n| n + 1), &["expected shape", "found"]);
        refused(&with(heads, &|_| 0), &["config.json", heads, "found 0"]);
        // More heads than features: never a divisor.
        let width = ["hidden_size", "dim"]
            .iter()
            .find_map(|key| config[*key].as_u64());
        refused(
            &with(heads, &|_| width.expect("a width") + 1),
            &["config.json", heads, "divisor"],
        );
        let mut unknown = config.clone();
        unknown["model_type"] = "mamba".into();
        refused(
            &unknown,
            &["config.json", "mamba", "bert, roberta, distilbert"],
        );
        let mut class = config.clone();
        class["architectures"] = serde_json::json!(["BertForHaiku"]);
        refused(&class, &["BertForHaiku", "ForSequenceClassification"]);
        let mut missing = config.clone();
        missing.as_object_mut().unwrap().remove(vocab);
        refused(&missing, &["`vocab_size` is missing"]);
    }
}

//! Every recorded output of the `model` fixtures of encoder-decoders against Transformers.

use burn::tensor::{Device, Int, Tensor, TensorData};
use hybrid_models::{
    Base, BaseKind, EncoderBatch, EncoderDecoder, GenerationConfig, Hooks, IGNORED, NoHooks,
};
use serde_json::Value;

use crate::any_base::host;
use crate::fixtures::{self, Fixture, Tensors, Tolerance};

mod adapters;
mod files;
mod generation;
mod hooks;
mod scores;

/// A fixture with its model loaded.
struct Case {
    fixture: Fixture,
    model: EncoderDecoder,
    inputs: Tensors,
    expected: Tensors,
    tolerance: Tolerance,
    device: Device,
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for fixture in fixtures::of_kind("model") {
        let kind = BaseKind::of_folder(&fixture.folder.join("model"));
        if kind.is_ok_and(|kind| kind == BaseKind::EncoderDecoder) {
            cases.push(Case::load(fixture));
        }
    }
    assert!(!cases.is_empty(), "no fixture of an encoder-decoder");
    cases
}

impl Case {
    fn load(fixture: Fixture) -> Self {
        let device = fixtures::device();
        let model = EncoderDecoder::load(&fixture.folder.join("model"), &device)
            .unwrap_or_else(|error| panic!("{}: {error}", fixture.name));
        Self {
            inputs: Tensors::read(&fixture.folder.join("inputs.safetensors")),
            expected: Tensors::read(&fixture.folder.join("outputs.safetensors")),
            tolerance: Tolerance::of(&fixture.meta["tolerance"]),
            fixture,
            model,
            device,
        }
    }

    fn int(&self, name: &str) -> Tensor<2, Int> {
        self.inputs.int(name, &self.device)
    }

    fn batch(&self) -> EncoderBatch {
        EncoderBatch {
            input_ids: self.int("input_ids"),
            attention_mask: self.int("attention_mask"),
            token_type_ids: None,
        }
    }

    fn config(&self) -> Value {
        fixtures::json(&self.fixture.folder.join("model/config.json"))
    }

    fn logits(&self, model: &EncoderDecoder, batch: &EncoderBatch, hooks: &dyn Hooks) -> Tensor<3> {
        let encoded = model.encode(batch, hooks).unwrap();
        let ids = model.tokens().shift_right(&self.int("labels"));
        model.logits(model.decode(&ids, &encoded, None, hooks).unwrap(), hooks)
    }

    fn check_floats(&self, name: &str, actual: &[f32]) {
        let what = format!("{}: {name}", self.fixture.name);
        self.tolerance
            .check(&what, actual, self.expected.floats(name));
    }

    /// The encoder's values at tokens alone.
    fn check_encoder(&self, name: &str, actual: Tensor<3>) {
        let width = actual.dims()[2];
        let mask = self.inputs.ints("attention_mask");
        let tokens = |values: &[f32]| -> Vec<f32> {
            let rows = values.chunks(width).zip(mask);
            rows.filter(|(_, mask)| **mask == 1)
                .flat_map(|(row, _)| row.to_vec())
                .collect()
        };
        let (actual, expected) = (host(actual), self.expected.floats(name));
        let what = format!("{}: {name}", self.fixture.name);
        assert_eq!(actual.len(), expected.len(), "{what}: number of values");
        self.tolerance
            .check(&what, &tokens(&actual), &tokens(expected));
    }

    fn check(&self) {
        let name = &self.fixture.name;
        let encoder = self.model.encoder_states(&self.batch(), &NoHooks).unwrap();
        let encoded = self.model.encode(&self.batch(), &NoHooks).unwrap();
        let ids = self.model.tokens().shift_right(&self.int("labels"));
        let decoder = self.model.decoder_states(&ids, &encoded, &NoHooks).unwrap();
        for output in self.expected.names() {
            match output {
                "encoder_last_hidden_state" => self.check_encoder(output, encoded.states.clone()),
                "logits" => {
                    let logits = self.logits(&self.model, &self.batch(), &NoHooks);
                    self.check_floats(output, &host(logits));
                }
                "loss" => {
                    let labels = self.int("labels");
                    let loss = self.model.loss(&self.batch(), &labels, &NoHooks);
                    self.check_floats(output, &host(loss.unwrap()));
                }
                "generate_greedy" => {
                    let (rows, margin) = self.greedy(&|_, _| ());
                    let recorded = self.expected.ints(output);
                    assert_eq!(rows.concat(), recorded, "{name}");
                    self.check_floats("generate_margin", &[margin]);
                    let generated = self.generated(&self.model, GenerationConfig::default());
                    let generated = self.sequences(&generated);
                    assert_eq!(generated, recorded, "{name}: with a cache");
                }
                // With `generate_greedy`.
                "generate_margin" => {}
                output if output.starts_with("generate_beam") => {
                    let found = self.beams(output);
                    if output.ends_with("_scores") {
                        let scores: Vec<f32> = found
                            .iter()
                            .map(|row| row.score.expect("beam search scores") as f32)
                            .collect();
                        self.check_floats(output, &scores);
                    } else {
                        let recorded = self.expected.ints(output);
                        assert_eq!(self.sequences(&found), recorded, "{name}: {output}");
                    }
                }
                output => match output.rsplit_once('.') {
                    Some(("encoder_hidden_states", index)) => {
                        let index: usize = index.parse().unwrap();
                        self.check_encoder(output, encoder[index].clone());
                    }
                    Some(("decoder_hidden_states", index)) => {
                        let index: usize = index.parse().unwrap();
                        self.check_floats(output, &host(decoder[index].clone()));
                    }
                    _ => panic!("{name}: unknown output {output:?}"),
                },
            }
        }
        let states = |stack: &str| {
            let names = self.expected.names();
            names.filter(|name| name.starts_with(stack)).count()
        };
        assert_eq!(states("encoder_hidden_states."), encoder.len(), "{name}");
        assert_eq!(states("decoder_hidden_states."), decoder.len(), "{name}");
    }
}

#[test]
fn parity_of_every_recorded_output() {
    for case in cases() {
        case.check();
    }
}

#[test]
fn parity_of_parameter_counts() {
    for case in cases() {
        assert_eq!(
            Some(case.model.n_parameters() as u64),
            case.fixture.meta["parameters"].as_u64(),
            "{}",
            case.fixture.name
        );
    }
}

/// Site paths are the module paths of Transformers, and what is written is what was read.
#[test]
fn parity_of_site_paths_with_checkpoint_keys() {
    for case in cases() {
        let name = &case.fixture.name;
        let file = Tensors::read(&case.fixture.folder.join("model/model.safetensors"));
        let mut written = case.model.named_tensors();
        written.sort_by(|a, b| a.0.cmp(&b.0));
        let keys: Vec<&str> = written.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(keys, file.names().collect::<Vec<_>>(), "{name}");
        for (key, data) in &written {
            let values: Vec<f32> = data.iter::<f32>().collect();
            assert_eq!(values, file.floats(key), "{name}: {key}");
            assert_eq!(data.shape().as_slice(), file.shape(key), "{name}: {key}");
            let path = key.rsplit_once('.').map_or(key.as_str(), |(path, _)| path);
            // What Transformers does not train is no site.
            let fixed = path == "final_logits_bias"
                || path.ends_with("embed_positions") && case.model.model_type() == "marian";
            let site = case.model.sites().find(path);
            assert_eq!(site.is_some(), !fixed, "{name}: {path}");
        }
    }
}

/// Sequences beyond learned or tabulated positions, and batches that do not fit together.
#[test]
fn parity_refuses_what_does_not_fit() {
    for case in cases() {
        let name = &case.fixture.name;
        let model = &case.model;
        let long = |n: usize| EncoderBatch {
            input_ids: Tensor::ones([1, n], &case.device),
            attention_mask: Tensor::ones([1, n], &case.device),
            token_type_ids: None,
        };
        match model.max_positions() {
            None => assert_eq!(model.model_type(), "t5"),
            Some(limit) => {
                model.encode(&long(limit), &NoHooks).unwrap();
                let error = model.encode(&long(limit + 1), &NoHooks).unwrap_err();
                let error = error.to_string();
                let asked = format!("{} positions", limit + 1);
                assert!(error.contains(&asked), "{name}: {error}");
            }
        }
        let uneven = EncoderBatch {
            attention_mask: Tensor::ones([1, 2], &case.device),
            ..long(3)
        };
        let error = model.encode(&uneven, &NoHooks).unwrap_err().to_string();
        assert!(error.contains("attention_mask"), "{name}: {error}");
        let encoded = model.encode(&long(3), &NoHooks).unwrap();
        let ids = Tensor::ones([2, 1], &case.device);
        let error = model.decode(&ids, &encoded, None, &NoHooks).unwrap_err();
        assert!(error.to_string().contains("decoder_input_ids"), "{error}");
        let config = GenerationConfig {
            max_new_tokens: model.max_positions().unwrap_or(1) + 1,
            ..GenerationConfig::default()
        };
        let generate = |batch| model.generate(batch, &config, &NoHooks, &mut |_, _| false);
        match model.max_positions() {
            None => assert_eq!(generate(&long(3)).unwrap()[0].ids.len(), 2, "{name}"),
            Some(limit) => {
                let error = generate(&long(3)).unwrap_err().to_string();
                assert!(error.contains(&format!("the model has {limit}")), "{error}");
            }
        }
        let unknown = EncoderBatch {
            input_ids: Tensor::full([1, 3], 1_000_000, &case.device),
            ..long(3)
        };
        let config = GenerationConfig {
            max_new_tokens: 1,
            ..GenerationConfig::default()
        };
        let error = model.generate(&unknown, &config, &NoHooks, &mut |_, _| false);
        let error = error.unwrap_err().to_string();
        assert!(error.contains("1000000"), "{name}: {error}");
        let ignored = Tensor::full([1, 4], IGNORED, &case.device);
        let error = model.loss(&long(3), &ignored, &NoHooks).unwrap_err();
        assert!(error.to_string().contains("ignored"), "{name}: {error}");
    }
}

/// The output layer gives at the places of targets what it gives at all places.
#[test]
fn parity_logits_at_places_are_those_of_all_places() {
    for case in cases() {
        let all = case.logits(&case.model, &case.batch(), &NoHooks);
        let [size, seq, vocab] = all.dims();
        let labels = case.int("labels");
        let (logits, targets) = case
            .model
            .target_logits(&case.batch(), &labels, &NoHooks)
            .unwrap();
        let kept: Vec<i64> = labels
            .to_data()
            .iter::<i64>()
            .filter(|label| *label >= 0)
            .collect();
        let targets: Vec<i64> = targets.into_data().iter().collect();
        assert_eq!(targets, kept, "{}", case.fixture.name);
        let labels: Vec<i64> = labels.into_data().iter().collect();
        let places: Vec<i32> = (0..size * seq)
            .filter(|place| labels[*place] >= 0)
            .map(|place| place as i32)
            .collect();
        let n_places = places.len();
        let places = Tensor::from_data(TensorData::new(places, [n_places]), &case.device);
        let chosen = all.reshape([size * seq, vocab]).select(0, places);
        case.tolerance
            .check(&case.fixture.name, &host(logits), &host(chosen));
    }
}

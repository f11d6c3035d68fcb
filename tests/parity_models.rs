//! Every recorded output of the `model` fixtures against Transformers.

use std::path::Path;

use burn::tensor::{Device, Tensor};
use hybrid_models::{Base, BaseKind, ModelError};
use serde_json::Value;

use crate::any_base::host;
use crate::fixtures::{self, Fixture, Tensors, Tolerance};

mod decoders;
mod encoders;
mod generation;
mod hooks;
mod packing;

/// `model_type`s of encoders.
const ENCODERS: [&str; 3] = ["bert", "roberta", "distilbert"];
/// `model_type`s of decoders.
const DECODERS: [&str; 5] = ["gpt2", "llama", "mistral", "qwen2", "qwen3"];
/// `model_type`s of encoder-decoders; [`crate::parity_seq2seq`] compares their outputs.
const ENCODER_DECODERS: [&str; 3] = ["bart", "marian", "t5"];
/// `model_type`s whose fixtures are read by later work on this project.
const LATER: [&str; 4] = ["clip", "vit", "wav2vec2", "whisper"];

/// A fixture with its model loaded.
struct Case<M> {
    fixture: Fixture,
    model: M,
    inputs: Tensors,
    expected: Tensors,
    tolerance: Tolerance,
    device: Device,
}

/// All fixtures of some `model_type`s, at least one.
fn cases<M>(
    model_types: &[&str],
    load: impl Fn(&Path, &Device) -> Result<M, ModelError>,
) -> Vec<Case<M>> {
    let known = |model_type: &str| {
        [ENCODERS.as_slice(), &DECODERS, &ENCODER_DECODERS, &LATER]
            .iter()
            .any(|types| types.contains(&model_type))
    };
    let mut cases = Vec::new();
    for fixture in fixtures::of_kind("model") {
        let config = fixtures::json(&fixture.folder.join("model/config.json"));
        let model_type = config["model_type"]
            .as_str()
            .expect("config.json has a model_type");
        assert!(
            known(model_type),
            "{}: no test understands model_type {model_type:?}",
            fixture.name
        );
        if model_types.contains(&model_type) {
            let device = fixtures::device();
            cases.push(Case {
                model: load(&fixture.folder.join("model"), &device)
                    .unwrap_or_else(|error| panic!("{}: {error}", fixture.name)),
                inputs: Tensors::read(&fixture.folder.join("inputs.safetensors")),
                expected: Tensors::read(&fixture.folder.join("outputs.safetensors")),
                tolerance: Tolerance::of(&fixture.meta["tolerance"]),
                fixture,
                device,
            });
        }
    }
    assert!(!cases.is_empty(), "no fixture of {model_types:?}");
    cases
}

/// One computed output.
struct Output {
    values: Vec<f32>,
    /// Values of one token and the mask of those that count; none when all do.
    per_token: Option<(usize, &'static str)>,
}

impl Output {
    fn whole<const D: usize>(x: Tensor<D>) -> Self {
        Self {
            values: host(x),
            per_token: None,
        }
    }

    fn tokens(x: Tensor<3>, mask: &'static str) -> Self {
        let width = x.dims()[2];
        Self {
            values: host(x),
            per_token: Some((width, mask)),
        }
    }
}

impl<M: Base> Case<M> {
    fn architecture(&self) -> &str {
        self.fixture.meta["architecture"]
            .as_str()
            .expect("meta.json names the architecture")
    }

    fn config(&self) -> Value {
        fixtures::json(&self.fixture.folder.join("model/config.json"))
    }

    fn check_output(&self, name: &str, output: &Output) {
        let expected = self.expected.floats(name);
        let what = format!("{}: {name}", self.fixture.name);
        let Some((width, mask)) = output.per_token else {
            return self.tolerance.check(&what, &output.values, expected);
        };
        let mask = self.inputs.ints(mask);
        let tokens = |values: &[f32]| -> Vec<f32> {
            let rows = values
                .chunks(width)
                .zip(mask)
                .filter(|(_, mask)| **mask == 1);
            rows.flat_map(|(row, _)| row.to_vec()).collect()
        };
        assert_eq!(
            output.values.len(),
            expected.len(),
            "{what}: number of values"
        );
        self.tolerance
            .check(&what, &tokens(&output.values), &tokens(expected));
    }

    fn check_parameter_count(&self) {
        let expected = self.fixture.meta["parameters"]
            .as_u64()
            .expect("meta.json counts parameters");
        assert_eq!(
            self.model.n_parameters() as u64,
            expected,
            "{}",
            self.fixture.name
        );
    }

    /// Every tensor of the checkpoint is written under its name again, unchanged, and every module
    /// with one is a site. `without_site` are ends of names that another site stands for.
    fn check_checkpoint_keys(&self, without_site: &[&str]) {
        let name = &self.fixture.name;
        let file = Tensors::read(&self.fixture.folder.join("model/model.safetensors"));
        let mut written = self.model.named_tensors();
        written.sort_by(|a, b| a.0.cmp(&b.0));
        let keys: Vec<&str> = written.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(keys, file.names().collect::<Vec<_>>(), "{name}");
        for (key, data) in &written {
            assert_eq!(data.shape().as_slice(), file.shape(key), "{name}: {key}");
            let values: Vec<f32> = data.iter::<f32>().collect();
            assert_eq!(values, file.floats(key), "{name}: {key}");
        }
        for key in file.names() {
            let path = key.rsplit_once('.').expect("a key has a module path").0;
            let elsewhere = without_site.iter().any(|end| path.ends_with(end));
            assert!(
                elsewhere || self.model.sites().find(path).is_some(),
                "{name}: no site {path}"
            );
        }
    }
}

/// A copy of a fixture's weights beside configurations to be refused.
struct Refusals<'a, M> {
    case: &'a Case<M>,
    folder: tempfile::TempDir,
    load: fn(&Path, &Device) -> Result<M, ModelError>,
}

impl<'a, M: std::fmt::Debug> Refusals<'a, M> {
    fn new(case: &'a Case<M>, load: fn(&Path, &Device) -> Result<M, ModelError>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let weights = "model.safetensors";
        let source = case.fixture.folder.join("model").join(weights);
        std::fs::copy(source, folder.path().join(weights)).unwrap();
        Self { case, folder, load }
    }

    /// Fails unless the configuration is refused in words that hold all `parts`.
    fn check(&self, config: &Value, parts: &[&str]) {
        let path = self.folder.path().join("config.json");
        std::fs::write(path, config.to_string()).unwrap();
        let message = (self.load)(self.folder.path(), &self.case.device)
            .unwrap_err()
            .to_string();
        for part in parts {
            assert!(
                message.contains(part),
                "{}: {part:?} is not in: {message}",
                self.case.fixture.name
            );
        }
    }
}

/// Every model of the fixtures is told apart by its configuration, and those of later work are
/// refused with the names of all that are known.
#[test]
fn parity_of_kinds() {
    for fixture in fixtures::of_kind("model") {
        let folder = fixture.folder.join("model");
        let config = fixtures::json(&folder.join("config.json"));
        let model_type = config["model_type"].as_str().unwrap();
        match BaseKind::of_folder(&folder) {
            Ok(BaseKind::Encoder) => assert!(ENCODERS.contains(&model_type)),
            Ok(BaseKind::Decoder) => assert!(DECODERS.contains(&model_type)),
            Ok(BaseKind::EncoderDecoder) => assert!(ENCODER_DECODERS.contains(&model_type)),
            Err(error) => {
                assert!(LATER.contains(&model_type), "{error}");
                let message = error.to_string();
                for known in [ENCODERS.as_slice(), &DECODERS, &ENCODER_DECODERS].concat() {
                    assert!(message.contains(known), "{known}: {message}");
                }
            }
        }
    }
}

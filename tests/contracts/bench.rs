//! Small classifiers to try adapters on, and ways to compare what they compute.

use std::collections::BTreeMap;
use std::path::PathBuf;

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Int, Tensor, TensorData};
use hybrid_adapters::{AdapterConfig, Adapters, load_peft, save_peft};
use hybrid_models::{EncoderBatch, Hooks, Model, cross_entropy};

use crate::any_base::host;
use crate::fixtures;

/// A small classifier with a batch, part of it padding, and targets.
pub(crate) struct Bench {
    pub(crate) name: String,
    pub(crate) folder: PathBuf,
    pub(crate) model: Model,
    pub(crate) batch: EncoderBatch,
    pub(crate) device: Device,
    targets: Tensor<1, Int>,
}

/// One classifier of each architecture among the fixtures.
pub(crate) fn benches() -> Vec<Bench> {
    let device = fixtures::device();
    let mut benches = BTreeMap::new();
    for fixture in fixtures::of_kind("model") {
        let folder = fixture.folder.join("model");
        let config = fixtures::json(&folder.join("config.json"));
        let class = config["architectures"][0].as_str().unwrap_or_default();
        if !["Bert", "Roberta", "DistilBert"]
            .iter()
            .any(|family| class == format!("{family}ForSequenceClassification"))
        {
            continue;
        }
        let model = Model::load(&folder, &device).unwrap();
        let pad = config["pad_token_id"].as_i64().unwrap_or(0);
        // No token may be the padding's: RoBERTa counts positions by it.
        let id = |place: i64| {
            (pad + 1 + place * 5 % (model.encoder.vocab_size() as i64 - pad - 1)) as i32
        };
        let ids: Vec<i32> = (0..12)
            .map(|place| if place > 9 { pad as i32 } else { id(place) })
            .collect();
        let mask: Vec<i32> = (0..12).map(|place| i32::from(place <= 9)).collect();
        let ints = |values: Vec<i32>| Tensor::from_data(TensorData::new(values, [2, 6]), &device);
        let batch = EncoderBatch {
            input_ids: ints(ids),
            attention_mask: ints(mask),
            token_type_ids: None,
        };
        let targets = Tensor::from_data(TensorData::new(vec![0i32, 1], [2]), &device);
        let bench = Bench {
            name: fixture.name,
            folder,
            model,
            batch,
            targets,
            device: device.clone(),
        };
        benches.insert(class.to_owned(), bench);
    }
    assert!(!benches.is_empty(), "no classifier among the fixtures");
    benches.into_values().collect()
}

impl Bench {
    pub(crate) fn logits(&self, model: &Model, hooks: &dyn Hooks) -> Vec<f32> {
        model
            .classify(&self.batch, hooks)
            .unwrap()
            .into_data()
            .iter::<f32>()
            .collect()
    }

    pub(crate) fn loss(&self, hooks: &dyn Hooks) -> Tensor<1> {
        cross_entropy(
            self.model.classify(&self.batch, hooks).unwrap(),
            self.targets.clone(),
        )
    }
}

/// The stack with every value moved, so that nothing is zero or one any more.
pub(crate) fn moved(adapters: Adapters) -> Adapters {
    let mut place = 0u64;
    let tensors: BTreeMap<String, TensorData> = adapters
        .named_tensors()
        .into_iter()
        .map(|(name, data)| {
            let values: Vec<f32> = data
                .iter::<f32>()
                .map(|value| {
                    place += 1;
                    value + 0.2 * ((place as f32) * 1.7).sin()
                })
                .collect();
            (name, TensorData::new(values, data.shape().clone()))
        })
        .collect();
    adapters.load_named_tensors(&tensors).unwrap()
}

pub(crate) fn close(text: &str, actual: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(actual.len(), expected.len(), "{text}");
    for (a, e) in actual.iter().zip(expected) {
        assert!(
            (a - e).abs() <= tolerance * (1.0 + e.abs()),
            "{text}: {actual:?} instead of {expected:?}"
        );
    }
}

pub(crate) fn differ(text: &str, a: &[f32], b: &[f32]) {
    let most = most_apart(a, b);
    assert!(most > 1e-3, "{text}: the adapter changes nothing");
}

/// The largest difference between two values in the same place.
pub(crate) fn most_apart(a: &[f32], b: &[f32]) -> f32 {
    let pairs = a.iter().zip(b);
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// The gradients of a loss by the values of adapters, one after the other.
pub(crate) fn gradient_values(loss: Tensor<1>, adapters: &Adapters) -> Vec<f32> {
    struct Values {
        gradients: GradientsParams,
        values: Vec<f32>,
    }
    impl ModuleVisitor for Values {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let gradient = self.gradients.get::<D>(param.id);
            self.values.extend(gradient.map(host).unwrap_or_default());
        }
    }
    let mut gradients = loss.backward();
    let mut values = Values {
        gradients: GradientsParams::from_module(&mut gradients, adapters),
        values: Vec::new(),
    };
    adapters.visit(&mut values);
    values.values
}

/// What is said of a file of PEFT's in which the first value of a tensor is another one.
pub(super) fn refusal_of_value(
    bench: &Bench,
    stack: serde_json::Value,
    tensor: &str,
    value: [u8; 4],
) -> String {
    let stack: Vec<AdapterConfig> = serde_json::from_value(stack).unwrap();
    let adapters = Adapters::init(&stack, &bench.model, 0, &bench.device).unwrap();
    let folder = tempfile::tempdir().unwrap();
    save_peft(&adapters, &bench.model, "base", None, folder.path()).unwrap();
    let path = folder.path().join("adapter_model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let (_, view) = file
        .iter()
        .find(|(name, _)| name.ends_with(tensor))
        .unwrap();
    let start = view.data().as_ptr() as usize - bytes.as_ptr() as usize;
    bytes[start..start + 4].copy_from_slice(&value);
    std::fs::write(&path, bytes).unwrap();
    let error = load_peft(folder.path(), &bench.model, &bench.device).unwrap_err();
    error.to_string()
}

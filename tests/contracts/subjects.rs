//! Bases of all kinds, each with a batch and what it is to learn: what the contracts are checked over.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Int, Tensor, TensorData};
use hybrid_adapters::Adapters;
use hybrid_models::{Base, BaseKind, DecoderModel, Hooks, IGNORED, WeightFormat, cross_entropy};

use super::families::in_names_of;
use super::refusals::refusal;
use super::stacks::{Expected, stacks};
use crate::any_base::{AnyBase, AnyBatch, Labels, host};
use crate::fixtures;

/// Where a base is.
#[derive(Clone)]
struct Source {
    name: String,
    /// A folder, or a GGUF file whose weights are kept in their blocks.
    path: PathBuf,
}

/// A base with a batch, part of it padding, and labels.
pub(crate) struct Subject {
    source: Source,
    pub(crate) base: AnyBase,
    pub(crate) batch: AnyBatch,
    pub(crate) device: Device,
}

/// The most that what should be equal may differ by: deeper bases round more.
pub(crate) struct Allowed {
    /// Between a base and an adapter that has learnt nothing.
    pub(crate) at_start: f32,
    /// Between an adapter and the base that it is merged into.
    pub(crate) merged: f32,
    /// Between rows with other ones and rows with their like.
    pub(crate) by_row: f32,
}

/// One base of each architecture among the fixtures, and those that are quantised.
fn sources() -> Vec<Source> {
    let mut sources = BTreeMap::new();
    for fixture in fixtures::of_kind("model") {
        let path = fixture.folder.join("model");
        let Ok(kind) = BaseKind::of_folder(&path) else {
            continue;
        };
        let config = fixtures::json(&path.join("config.json"));
        let class = config["architectures"][0].as_str().unwrap_or_default();
        let computes = match kind {
            BaseKind::Encoder => class.ends_with("ForSequenceClassification"),
            BaseKind::Decoder | BaseKind::EncoderDecoder => fixture.meta["generation"].is_object(),
        };
        if computes {
            let name = fixture.name;
            sources
                .entry(class.to_owned())
                .or_insert(Source { name, path });
        }
    }
    let mut sources: Vec<Source> = sources.into_values().collect();
    for fixture in fixtures::of_kind("gguf") {
        if let Some(file) = fixture.meta["file"].as_str() {
            let path = fixture.folder.join(file);
            let name = fixture.name;
            sources.push(Source { name, path });
        }
    }
    sources
}

/// One base of each architecture among the fixtures, and those that are quantised.
pub(crate) fn subjects() -> Vec<Subject> {
    let device = fixtures::device();
    let subjects: Vec<Subject> = sources()
        .iter()
        .map(|source| Subject::load(source, &device))
        .collect();
    for kind in [
        BaseKind::Encoder,
        BaseKind::Decoder,
        BaseKind::EncoderDecoder,
    ] {
        let mut kinds = subjects.iter().map(|subject| subject.base().kind());
        assert!(
            kinds.any(|found| found == kind),
            "no {kind:?} among the fixtures"
        );
    }
    subjects
}

/// The base that computes least, on each of these devices.
pub(super) fn smallest_on(devices: [&Device; 2]) -> [Subject; 2] {
    let n_bytes = |source: &Source| {
        let file = match source.path.is_dir() {
            true => source.path.join("model.safetensors"),
            false => source.path.clone(),
        };
        std::fs::metadata(file).map_or(u64::MAX, |file| file.len())
    };
    let source = sources().into_iter().min_by_key(n_bytes).expect("a base");
    devices.map(|device| Subject::load(&source, device))
}

fn load(path: &Path, device: &Device) -> AnyBase {
    match path.is_dir() {
        true => AnyBase::load(path, device),
        false => {
            let model = DecoderModel::load_with(path, WeightFormat::Keep, device);
            AnyBase::Decoder(model.unwrap_or_else(|error| panic!("{}: {error}", path.display())))
        }
    }
}

/// Two rows of tokens, one with padding: at the left of what a decoder reads, at the right elsewhere.
fn batch(kind: BaseKind, pad: i32, device: &Device) -> AnyBatch {
    let ints = |values: Vec<i32>, width: usize| -> Tensor<2, Int> {
        let rows = values.len() / width;
        Tensor::from_data(TensorData::new(values, [rows, width]), device)
    };
    let token = |place: i32| 5 + place * 7 % 31;
    let hidden = match kind {
        BaseKind::Decoder => [6, 7],
        BaseKind::Encoder | BaseKind::EncoderDecoder => [10, 11],
    };
    let either = |tokens: fn(i32) -> i32, other: i32| -> Vec<i32> {
        let value = |place| {
            if hidden.contains(&place) {
                other
            } else {
                tokens(place)
            }
        };
        (0..12).map(value).collect()
    };
    let ids = either(token, pad);
    // RoBERTa counts positions by the padding's token.
    let n_pads = ids.iter().filter(|id| **id == pad).count();
    assert_eq!(n_pads, hidden.len(), "{pad} is among the tokens");
    let labels = match kind {
        BaseKind::Encoder => Labels::OfRows(Tensor::from_data(
            TensorData::new(vec![0i32, 1], [2]),
            device,
        )),
        BaseKind::Decoder => Labels::OfTokens(ints(either(token, IGNORED as i32), 6)),
        BaseKind::EncoderDecoder => {
            let mut targets: Vec<i32> = (3..11).map(token).collect();
            targets[7] = IGNORED as i32;
            Labels::OfTokens(ints(targets, 4))
        }
    };
    AnyBatch::padded(ints(ids, 6), ints(either(|_| 1, 0), 6), labels)
}

impl Subject {
    fn load(source: &Source, device: &Device) -> Self {
        let base = load(&source.path, device);
        let pad = match source.path.is_dir() {
            true => fixtures::json(&source.path.join("config.json"))["pad_token_id"].as_i64(),
            false => None,
        };
        Self {
            batch: batch(base.as_base().kind(), pad.unwrap_or(0) as i32, device),
            base,
            source: source.clone(),
            device: device.clone(),
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.source.name
    }

    pub(crate) fn base(&self) -> &dyn Base {
        self.base.as_base()
    }

    pub(crate) fn allowed(&self) -> Allowed {
        match self.base().kind() {
            BaseKind::Encoder => Allowed {
                at_start: 1e-6,
                merged: 1e-4,
                by_row: 1e-5,
            },
            BaseKind::Decoder => Allowed {
                at_start: 1e-5,
                merged: 1e-3,
                // Of logits up to ten; libtorch sums otherwise for another number of rows.
                by_row: 2e-5,
            },
            BaseKind::EncoderDecoder => Allowed {
                at_start: 1e-5,
                merged: 1e-2,
                by_row: 1e-4,
            },
        }
    }

    /// Every stack under test with its first values, what it is, and how many parameters it must have
    /// where. That a base cannot have one is checked against the table of refusals.
    pub(crate) fn each(&self) -> impl Iterator<Item = (Adapters, String, Expected)> {
        stacks().into_iter().filter_map(|(stack, expected)| {
            let stack = in_names_of(self.base(), &stack);
            let text = format!(
                "{}: {}",
                self.name(),
                serde_json::to_string(&stack).unwrap()
            );
            let found = Adapters::init(&stack, self.base(), 7, &self.device);
            match (found, refusal(self.base(), &stack)) {
                (Ok(adapters), None) => Some((adapters, text, expected)),
                (Err(error), Some(refusal)) => {
                    assert!(refusal.is(&error), "{text}: {error}, not {refusal:?}");
                    None
                }
                (Ok(_), Some(refusal)) => panic!("{text}: built in spite of {refusal:?}"),
                (Err(error), None) => panic!("{text}: {error}"),
            }
        })
    }

    /// Logits where there is something to learn.
    pub(crate) fn logits(&self, base: &AnyBase, hooks: &dyn Hooks) -> Vec<f32> {
        host(base.targets(&self.batch, hooks).0)
    }

    pub(crate) fn loss(&self, hooks: &dyn Hooks) -> Tensor<1> {
        let (logits, targets) = self.base.targets(&self.batch, hooks);
        cross_entropy(logits, targets)
    }
}

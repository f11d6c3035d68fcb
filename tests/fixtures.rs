//! Reads golden fixture folders by kind, so that new fixtures need no new code.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Int, Tensor, TensorData};
use hybrid_models::{BaseKind, Resolver};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

/// The fixture folders, the next for kinds that the one before has nothing of: the one that
/// `HYBRID_FIXTURES` names, and the copy in the repository.
fn roots() -> impl Iterator<Item = PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures");
    let named = std::env::var_os("HYBRID_FIXTURES").map(PathBuf::from);
    named.into_iter().chain([own])
}

/// One entry of `INDEX.json` with its `meta.json`.
pub(crate) struct Fixture {
    pub(crate) name: String,
    pub(crate) folder: PathBuf,
    pub(crate) meta: Value,
}

/// All fixtures of a kind, at least one.
///
/// Fails on a kind that no test of this project knows, so that a new kind is never passed over.
pub(crate) fn of_kind(kind: &str) -> Vec<Fixture> {
    let fixtures = roots().map(|root| of_kind_in(&root, kind));
    let mut there = fixtures.filter(|fixtures| !fixtures.is_empty());
    there
        .next()
        .unwrap_or_else(|| panic!("no fixture of kind {kind:?}"))
}

fn of_kind_in(root: &Path, kind: &str) -> Vec<Fixture> {
    const KINDS: [&str; 10] = [
        "adapter",
        "gguf",
        "merging",
        "metrics",
        "model",
        "objective",
        "real model",
        "rng",
        "tokenizer",
        "training",
    ];
    let index = json(&root.join("INDEX.json"));
    let mut fixtures = Vec::new();
    for entry in index["fixtures"]
        .as_array()
        .expect("INDEX.json lists fixtures")
    {
        let entry_kind = entry["kind"].as_str().expect("a fixture has a kind");
        assert!(
            KINDS.contains(&entry_kind),
            "unknown fixture kind {entry_kind:?}"
        );
        if entry_kind == kind {
            let name = entry["path"]
                .as_str()
                .expect("a fixture has a path")
                .to_owned();
            let folder = root.join(&name);
            let meta = json(&folder.join("meta.json"));
            fixtures.push(Fixture { name, folder, meta });
        }
    }
    fixtures
}

/// Fixtures of decoders with a language model head.
pub(crate) fn language_models() -> Vec<Fixture> {
    let mut models = of_kind("model");
    models.retain(|fixture| {
        let is_decoder = BaseKind::of_folder(&fixture.folder.join("model"))
            .is_ok_and(|kind| kind == BaseKind::Decoder);
        is_decoder && fixture.meta["generation"].is_object()
    });
    models
}

pub(crate) fn json(path: &Path) -> Value {
    let text =
        std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Module path and tensor of a key of PEFT.
pub(crate) fn module_path(key: &str) -> &str {
    let starts = ["base_model.model.", "base_model."];
    let path = starts.iter().find_map(|start| key.strip_prefix(start));
    path.unwrap_or(key)
}

/// The device under test: `HYBRID_DEVICE`, default flex.
pub(crate) fn device() -> Device {
    let name = std::env::var("HYBRID_DEVICE").unwrap_or_else(|_| "flex".to_owned());
    hybrid_models::open_device(&name).unwrap_or_else(|error| panic!("{error}"))
}

/// A real model: the folder or file that a variable of the environment names, or what the resolver
/// finds.
pub(crate) fn real_model(variable: &str, name: &str) -> PathBuf {
    match std::env::var_os(variable) {
        Some(path) => path.into(),
        None => {
            Resolver::from_environment()
                .resolve(name, &|line| eprintln!("{line}"))
                .unwrap_or_else(|error| panic!("{error}; or name its place in {variable}"))
                .folder
        }
    }
}

/// The tensors of one safetensors file, on the host.
pub(crate) struct Tensors(BTreeMap<String, (Vec<usize>, Values)>);

enum Values {
    Float(Vec<f32>),
    Int(Vec<i64>),
    Bytes(Vec<u8>),
}

impl Tensors {
    pub(crate) fn read(path: &Path) -> Self {
        let bytes =
            std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let file = SafeTensors::deserialize(&bytes)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let tensors = file.iter().map(|(name, view)| {
            let data = view.data();
            let values = match view.dtype() {
                Dtype::F32 => Values::Float(
                    data.as_chunks()
                        .0
                        .iter()
                        .map(|b| f32::from_le_bytes(*b))
                        .collect(),
                ),
                Dtype::I64 => Values::Int(
                    data.as_chunks()
                        .0
                        .iter()
                        .map(|b| i64::from_le_bytes(*b))
                        .collect(),
                ),
                Dtype::U8 => Values::Bytes(data.to_vec()),
                other => panic!("{}: {name}: unexpected dtype {other:?}", path.display()),
            };
            (name.to_owned(), (view.shape().to_vec(), values))
        });
        Self(tensors.collect())
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    pub(crate) fn shape(&self, name: &str) -> &[usize] {
        &self.0[name].0
    }

    pub(crate) fn floats(&self, name: &str) -> &[f32] {
        match &self.0[name].1 {
            Values::Float(values) => values,
            _ => panic!("{name} holds no floats"),
        }
    }

    pub(crate) fn ints(&self, name: &str) -> &[i64] {
        match &self.0[name].1 {
            Values::Int(values) => values,
            _ => panic!("{name} holds no integers"),
        }
    }

    pub(crate) fn bytes(&self, name: &str) -> &[u8] {
        match &self.0[name].1 {
            Values::Bytes(values) => values,
            _ => panic!("{name} holds no bytes"),
        }
    }

    pub(crate) fn data(&self, name: &str) -> TensorData {
        let shape = self.shape(name).to_vec();
        match &self.0[name].1 {
            Values::Bytes(values) => TensorData::new(values.clone(), shape),
            Values::Int(values) => TensorData::new(values.clone(), shape),
            Values::Float(values) => TensorData::new(values.clone(), shape),
        }
    }

    pub(crate) fn float<const D: usize>(&self, name: &str, device: &Device) -> Tensor<D> {
        Tensor::from_data(self.data(name), device)
    }

    pub(crate) fn int<const D: usize>(&self, name: &str, device: &Device) -> Tensor<D, Int> {
        Tensor::from_data(
            TensorData::new(self.ints(name).to_vec(), self.shape(name).to_vec()),
            device,
        )
    }
}

/// `|actual - expected| <= atol + rtol |expected|`, taken from a `tolerance` object of `meta.json`.
pub(crate) struct Tolerance {
    pub(crate) atol: f64,
    pub(crate) rtol: f64,
}

impl Tolerance {
    pub(crate) fn of(tolerance: &Value) -> Self {
        let number = |key: &str| {
            tolerance[key]
                .as_f64()
                .unwrap_or_else(|| panic!("no {key} in {tolerance}"))
        };
        Self {
            atol: number("atol"),
            rtol: number("rtol"),
        }
    }

    /// Fails with the place and size of the worst difference. Not-a-number never passes.
    pub(crate) fn check(&self, what: &str, actual: &[f32], expected: &[f32]) {
        assert_eq!(actual.len(), expected.len(), "{what}: number of values");
        let least = least_tolerance();
        for (index, (a, e)) in actual.iter().zip(expected).enumerate() {
            let (a, e) = (f64::from(*a), f64::from(*e));
            let allowed = (self.atol + self.rtol * e.abs()).max(least);
            assert!(
                (a - e).abs() <= allowed,
                "{what}[{index}]: {a} instead of {e} (allowed {allowed:.1e})"
            );
        }
    }
}

/// What values may always differ by: `HYBRID_TOLERANCE`, default 0. Devices that multiply 32-bit
/// floats in TensorFloat-32 need some 0.02.
fn least_tolerance() -> f64 {
    match std::env::var("HYBRID_TOLERANCE") {
        Ok(text) => text.parse().expect("HYBRID_TOLERANCE is a number"),
        Err(_) => 0.0,
    }
}

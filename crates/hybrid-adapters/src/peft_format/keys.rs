//! Where each parameter stands in PEFT's file, and in which layout.

use std::collections::{BTreeMap, BTreeSet};

use burn::tensor::TensorData;
use hybrid_models::SiteId;

use crate::adapters::AnyMethod;
use crate::bias::Biases;
use crate::{Adapters, named_tensors};

/// How a file's layout relates to a parameter's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// As it is.
    Same,
    /// A matrix, transposed.
    Transposed,
    /// A vector as `[n, 1]`.
    Column,
    /// A vector as `[1, n]`.
    Row,
}

impl Layout {
    /// The file's shape of a parameter's shape.
    pub(super) fn shape(self, shape: &[usize]) -> Vec<usize> {
        match self {
            Self::Same => shape.to_vec(),
            Self::Transposed => shape.iter().rev().copied().collect(),
            Self::Column => vec![shape[0], 1],
            Self::Row => vec![1, shape[0]],
        }
    }

    /// The file's values of a parameter's values.
    pub(super) fn to_file(self, data: &TensorData) -> TensorData {
        let shape = data.shape().as_slice();
        match self {
            Self::Transposed => transposed(data),
            _ => TensorData::new(data.iter::<f32>().collect::<Vec<f32>>(), self.shape(shape)),
        }
    }

    /// A parameter's values of the file's values.
    pub(super) fn to_parameter(self, data: &TensorData) -> TensorData {
        match self {
            Self::Same => data.clone(),
            Self::Transposed => transposed(data),
            Self::Column | Self::Row => {
                let values: Vec<f32> = data.iter::<f32>().collect();
                let length = values.len();
                TensorData::new(values, [length])
            }
        }
    }
}

fn transposed(data: &TensorData) -> TensorData {
    let [rows, columns] = [data.shape()[0], data.shape()[1]];
    let values: Vec<f32> = data.iter::<f32>().collect();
    let turned = (0..columns).flat_map(|column| (0..rows).map(move |row| (row, column)));
    let turned: Vec<f32> = turned
        .map(|(row, column)| values[row * columns + column])
        .collect();
    TensorData::new(turned, [columns, rows])
}

/// One parameter.
pub(super) struct Place {
    /// Module path and tensor, as PyTorch names them.
    pub(super) key: String,
    /// The same in PEFT's file.
    pub(super) stored: String,
    /// Name among [`Adapters::named_tensors`].
    pub(super) name: String,
    pub(super) layout: Layout,
}

/// The places of all parameters of a stack.
pub(super) fn places(adapters: &Adapters) -> Vec<Place> {
    let mut places = Places {
        stem: String::new(),
        places: Vec::new(),
    };
    for (index, method) in adapters.stack().iter().enumerate() {
        places.stem = format!("stack.{index}");
        places.method(method);
    }
    places.places
}

struct Places {
    stem: String,
    places: Vec<Place>,
}

impl Places {
    fn add(&mut self, part: &str, path: &str, tensor: &str, key: &str, layout: Layout) {
        let key = format!("{path}.{key}");
        self.places.push(Place {
            stored: key.clone(),
            key,
            name: format!("{}.{part}.{path}.{tensor}", self.stem),
            layout,
        });
    }

    fn biases(&mut self, part: &str, biases: &Biases, wrapped: &BTreeSet<SiteId>) {
        for (site, (path, _)) in biases.sites().zip(biases.iter()) {
            let key = if wrapped.contains(&site) {
                "base_layer.bias"
            } else {
                "bias"
            };
            self.add(part, path, "bias", key, Layout::Same);
        }
    }

    fn method(&mut self, method: &AnyMethod) {
        match method {
            AnyMethod::Lora(lora) => {
                for (path, factors) in lora.factors().iter() {
                    self.add(
                        "Lora.factors",
                        path,
                        "lora_a",
                        "lora_A.weight",
                        Layout::Transposed,
                    );
                    self.add(
                        "Lora.factors",
                        path,
                        "lora_b",
                        "lora_B.weight",
                        Layout::Transposed,
                    );
                    if factors.dora.is_some() {
                        let stored = "lora_magnitude_vector";
                        self.places.push(Place {
                            key: format!("{path}.{stored}.weight"),
                            stored: format!("{path}.{stored}"),
                            name: format!("{}.Lora.factors.{path}.dora.magnitude", self.stem),
                            layout: Layout::Same,
                        });
                    }
                }
                self.biases(
                    "Lora.biases",
                    lora.biases(),
                    &lora.factors().sites().collect(),
                );
            }
            AnyMethod::Ia3(ia3) => {
                for (path, scale) in ia3.scales().iter() {
                    let layout = if scale.feedforward {
                        Layout::Row
                    } else {
                        Layout::Column
                    };
                    self.add("Ia3.scales", path, "ia3_l", "ia3_l", layout);
                }
            }
            AnyMethod::Bitfit(bitfit) => {
                self.biases("Bitfit.biases", bitfit.biases(), &BTreeSet::new())
            }
            AnyMethod::LayerNorm(tuning) => {
                for (path, norm) in tuning.norms().iter() {
                    for tensor in ["weight"]
                        .into_iter()
                        .chain(norm.bias.as_ref().map(|_| "bias"))
                    {
                        let key = format!("ln_tuning_layers.{tensor}");
                        self.add("LayerNorm.norms", path, tensor, &key, Layout::Same);
                    }
                }
            }
            AnyMethod::Bottleneck(bottleneck) => {
                for (path, _) in bottleneck.pairs().iter() {
                    for (layer, tensor, layout) in [
                        ("down", "weight", Layout::Transposed),
                        ("down", "bias", Layout::Same),
                        ("up", "weight", Layout::Transposed),
                        ("up", "bias", Layout::Same),
                    ] {
                        let (name, key) = (
                            format!("{layer}_{tensor}"),
                            format!("adapter_{layer}.{tensor}"),
                        );
                        self.add("Bottleneck.pairs", path, &name, &key, layout);
                    }
                }
            }
            AnyMethod::Unfreeze(unfreeze) => {
                for (part, matrices, is_linear) in [
                    ("Unfreeze.linears", unfreeze.linears(), true),
                    ("Unfreeze.embeddings", unfreeze.embeddings(), false),
                ] {
                    for (path, matrix) in matrices.iter() {
                        let layout = match is_linear && !matrix.input_first {
                            true => Layout::Transposed,
                            false => Layout::Same,
                        };
                        self.add(part, path, "weight", "weight", layout);
                        if matrix.bias.is_some() {
                            self.add(part, path, "bias", "bias", Layout::Same);
                        }
                    }
                }
                for (path, norm) in unfreeze.norms().iter() {
                    self.add("Unfreeze.norms", path, "weight", "weight", Layout::Same);
                    if norm.bias.is_some() {
                        self.add("Unfreeze.norms", path, "bias", "bias", Layout::Same);
                    }
                }
            }
        }
    }
}

/// All parameters of a stack under module path and tensor as PyTorch names them (for methods that
/// PEFT has, its names without `base_model.model.`), in PyTorch's layout.
pub fn torch_tensors(adapters: &Adapters) -> BTreeMap<String, TensorData> {
    turned(adapters, |place| place.key)
}

/// The same under the names of PEFT's file.
pub(super) fn stored_tensors(adapters: &Adapters) -> BTreeMap<String, TensorData> {
    turned(adapters, |place| place.stored)
}

fn turned(adapters: &Adapters, key: impl Fn(Place) -> String) -> BTreeMap<String, TensorData> {
    let named: BTreeMap<String, TensorData> =
        named_tensors::collect(adapters).into_iter().collect();
    let turned = |place: Place| {
        let data = place.layout.to_file(&named[&place.name]);
        (key(place), data)
    };
    places(adapters).into_iter().map(turned).collect()
}

#[cfg(test)]
mod tests {
    use burn::tensor::TensorData;

    use super::Layout;

    #[test]
    fn layouts_go_there_and_back() {
        let matrix = TensorData::new(vec![1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0], [2, 3]);
        let file = Layout::Transposed.to_file(&matrix);
        assert_eq!(
            file,
            TensorData::new(vec![1.0f32, 4.0, 2.0, 5.0, 3.0, 6.0], [3, 2])
        );
        assert_eq!(Layout::Transposed.to_parameter(&file), matrix);
        let vector = TensorData::new(vec![1.0f32, 2.0], [2]);
        for (layout, shape) in [
            (Layout::Same, vec![2]),
            (Layout::Column, vec![2, 1]),
            (Layout::Row, vec![1, 2]),
        ] {
            let file = layout.to_file(&vector);
            assert_eq!(file.shape().as_slice(), shape);
            assert_eq!(layout.to_parameter(&file), vector);
        }
    }
}

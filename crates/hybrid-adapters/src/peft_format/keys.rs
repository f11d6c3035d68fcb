//! Where each parameter stands in PEFT's file, and in which layout.

use std::collections::BTreeSet;

use burn::tensor::TensorData;
use hybrid_models::SiteId;

use super::PROMPT;
use crate::adaption_prompt::attention_of;
use crate::any_method::AnyMethod;
use crate::bias::Biases;
use crate::dense::Dense;
use crate::lstm::Lstm;
use crate::method::PeftName;
use crate::p_tuning::PromptEncoder;
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
    /// Whether this is another name of a parameter that has a place already: files may have its values
    /// twice.
    pub(super) is_copy: bool,
}

/// The places of all parameters of a stack.
pub(super) fn places(adapters: &Adapters) -> Vec<Place> {
    let mut places = Places {
        stem: String::new(),
        beside_lora: has_lora(adapters),
        places: Vec::new(),
    };
    for (index, method) in adapters.stack().iter().enumerate() {
        places.stem = format!("stack.{index}");
        places.method(method);
        places.named_in_one_way(method);
    }
    places.places
}

/// Whether trained tokens are an option of LoRA's in PEFT's files.
pub(super) fn has_lora(adapters: &Adapters) -> bool {
    let mut stack = adapters.stack().iter();
    stack.any(|method| matches!(method, AnyMethod::Lora(_)))
}

struct Places {
    stem: String,
    beside_lora: bool,
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
            is_copy: false,
        });
    }

    /// A tensor of the network in front of the tokens, which files do not hold.
    fn of_network(&mut self, name: String, key: String, layout: Layout) {
        let key = format!("prompt_encoder.{key}");
        self.places.push(Place {
            stored: key.clone(),
            key,
            name: format!("{}.{name}", self.stem),
            layout,
            is_copy: false,
        });
    }

    /// What stands in front of the tokens, or what the network makes it of.
    fn in_front(&mut self, name: &str) {
        self.places.push(Place {
            key: "prompt_encoder.embedding.weight".to_owned(),
            stored: PROMPT.to_owned(),
            name: format!("{}.{name}", self.stem),
            layout: Layout::Same,
            is_copy: false,
        });
    }

    /// Layers with functions in between, which PyTorch counts too.
    fn dense(&mut self, name: &str, key: &str, layers: &[Dense]) {
        for index in 0..layers.len() {
            for (tensor, layout) in [("weight", Layout::Transposed), ("bias", Layout::Same)] {
                let name = format!("{name}.{index}.{tensor}");
                self.of_network(name, format!("{key}.{}.{tensor}", 2 * index), layout);
            }
        }
    }

    fn lstm(&mut self, name: &str, lstm: &Lstm) {
        for layer in 0..lstm.n_layers() {
            for (direction, end) in [("onward", ""), ("backward", "_reverse")] {
                for (tensor, layout) in [
                    ("weight_ih", Layout::Transposed),
                    ("weight_hh", Layout::Transposed),
                    ("bias_ih", Layout::Same),
                    ("bias_hh", Layout::Same),
                ] {
                    let name = format!("{name}.{direction}.{layer}.{tensor}");
                    self.of_network(name, format!("lstm_head.{tensor}_l{layer}{end}"), layout);
                }
            }
        }
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

    /// The parameters of a method that says itself what PEFT calls them, and keeps PEFT's layouts.
    fn named_in_one_way(&mut self, method: &AnyMethod) {
        for (name, _) in named_tensors::shapes(method) {
            let of_method = name.split_once('.').map_or("", |(_, rest)| rest);
            let method = method.as_method();
            let copies = method.peft_copies(of_method).into_iter();
            let copies = copies.map(|key| (key.clone(), key, true));
            let first = method.peft_name(of_method).into_iter();
            let first = first.map(|PeftName { key, stored }| (key, stored, false));
            for (key, stored, is_copy) in first.chain(copies) {
                self.places.push(Place {
                    key,
                    stored,
                    name: format!("{}.{name}", self.stem),
                    layout: Layout::Same,
                    is_copy,
                });
            }
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
                    if factors.bias.is_some() {
                        self.add("Lora.factors", path, "bias", "lora_B.bias", Layout::Same);
                    }
                    if factors.dora.is_some() {
                        let stored = "lora_magnitude_vector";
                        self.places.push(Place {
                            key: format!("{path}.{stored}.weight"),
                            stored: format!("{path}.{stored}"),
                            name: format!("{}.Lora.factors.{path}.dora.magnitude", self.stem),
                            layout: Layout::Same,
                            is_copy: false,
                        });
                    }
                }
                for (path, _) in lora.tables().iter() {
                    for (tensor, key) in [
                        ("lora_embedding_a", "lora_embedding_A"),
                        ("lora_embedding_b", "lora_embedding_B"),
                    ] {
                        self.add("Lora.tables", path, tensor, key, Layout::Transposed);
                    }
                }
                self.biases(
                    "Lora.biases",
                    lora.biases(),
                    &lora.factors().sites().collect(),
                );
            }
            AnyMethod::Adalora(adalora) => {
                for (path, _) in adalora.triplets().iter() {
                    for (tensor, key, layout) in [
                        ("lora_a", "lora_A", Layout::Transposed),
                        ("lora_e", "lora_E", Layout::Column),
                        ("lora_b", "lora_B", Layout::Transposed),
                    ] {
                        self.add("Adalora.triplets", path, tensor, key, layout);
                    }
                }
                let wrapped = adalora.triplets().sites().collect();
                self.biases("Adalora.biases", adalora.biases(), &wrapped);
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
            AnyMethod::TrainableTokens(tokens) => {
                let tensor = "trainable_tokens_delta";
                let stored = match self.beside_lora {
                    true => format!("token_adapter.{tensor}"),
                    false => tensor.to_owned(),
                };
                for (path, table) in tokens.tables().iter() {
                    let part = "TrainableTokens.tables";
                    self.add(part, path, tensor, &stored, Layout::Same);
                    for copy in &table.copies {
                        let key = format!("{copy}.{stored}");
                        self.places.push(Place {
                            stored: key.clone(),
                            key,
                            name: format!("{}.{part}.{path}.{tensor}", self.stem),
                            layout: Layout::Same,
                            is_copy: true,
                        });
                    }
                }
            }
            AnyMethod::PromptTuning(_) => self.in_front("PromptTuning.embedding"),
            AnyMethod::PrefixTuning(prefix) => {
                self.in_front("PrefixTuning.embedding");
                if let Some(layers) = &prefix.transform {
                    self.dense("PrefixTuning.transform", "transform", layers);
                }
            }
            AnyMethod::PTuning(tuning) => {
                self.in_front("PTuning.embedding");
                match &tuning.encoder {
                    None => {}
                    Some(PromptEncoder::Mlp(layers)) => {
                        self.dense("PTuning.encoder.Mlp", "mlp_head", layers);
                    }
                    Some(PromptEncoder::Lstm(encoder)) => {
                        self.lstm("PTuning.encoder.Lstm.lstm", &encoder.lstm);
                        self.dense("PTuning.encoder.Lstm.head", "mlp_head", &encoder.head);
                    }
                }
            }
            AnyMethod::MultitaskPromptTuning(_) => {
                self.in_front("MultitaskPromptTuning.embedding");
                for tensor in ["prefix_task_cols", "prefix_task_rows"] {
                    self.places.push(Place {
                        key: format!("prompt_encoder.{tensor}"),
                        stored: tensor.to_owned(),
                        name: format!("{}.MultitaskPromptTuning.{tensor}", self.stem),
                        layout: Layout::Same,
                        is_copy: false,
                    });
                }
            }
            AnyMethod::AdaptionPrompt(adaption) => {
                for (path, _) in adaption.prompts().iter() {
                    let module = attention_of(path).unwrap_or(path);
                    for tensor in ["adaption_prompt", "adaption_gate"] {
                        let key = format!("{module}.{tensor}");
                        self.places.push(Place {
                            stored: key.clone(),
                            key,
                            name: format!("{}.AdaptionPrompt.prompts.{path}.{tensor}", self.stem),
                            layout: Layout::Same,
                            is_copy: false,
                        });
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
            _ => {}
        }
    }
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

//! The classifier head: a pooled text vector to class logits.

use std::collections::BTreeMap;

use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor, TensorData, activation, module};
use hybrid_models::Pooling;
use serde::{Deserialize, Serialize};

use crate::dense::Dense;
use crate::random::HostRandom;
use crate::{AdapterError, frozen, named_tensors};

/// What a head computes of the pooled vector.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HeadForm {
    /// `pooled W + b`, as over BERT's pooler.
    #[default]
    Linear,
    /// `tanh(pooled D + d) W + b`, as over RoBERTa.
    Tanh,
    /// `relu(pooled D + d) W + b`, as over DistilBERT.
    Relu,
    /// `pooled W`, as over decoders.
    Score {
        /// The id that is passed over when the last token of a text is looked for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        padding_id: Option<usize>,
    },
}

impl HeadForm {
    fn is_linear(&self) -> bool {
        *self == Self::Linear
    }

    /// What is between the layers, where there are two.
    fn activation(self) -> Option<fn(Tensor<2>) -> Tensor<2>> {
        match self {
            Self::Tanh => Some(Tensor::tanh),
            Self::Relu => Some(activation::relu),
            Self::Linear | Self::Score { .. } => None,
        }
    }

    fn has_bias(self) -> bool {
        !matches!(self, Self::Score { .. })
    }
}

/// How a head reads text vectors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeadConfig {
    /// How token vectors become one text vector.
    pub pooling: Pooling,
    /// Whether that vector is scaled to unit length.
    pub normalize: bool,
    /// Length of each class vector when they start as directions: the inverse temperature of the
    /// first softmax.
    pub scale: f64,
    /// What is computed of that vector.
    #[serde(default, skip_serializing_if = "HeadForm::is_linear")]
    pub form: HeadForm,
}

/// Logits as the configuration's [`HeadForm`] says, with `pooled` at unit length when it says so.
#[derive(Module, Debug)]
pub struct ClassifierHead {
    /// `[d_model, d_model]`, where the form has it.
    dense: Option<Dense>,
    /// `[d_model, n_labels]`.
    weight: Param<Tensor<2>>,
    /// `[n_labels]`, where the form has it.
    bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    config: HeadConfig,
}

/// Keeps the head's numbers apart from those of every stack.
const STREAM: u64 = u64::MAX;

impl ClassifierHead {
    /// Weights normal with deviation 0.02, as Transformers draws them; biases zero.
    pub fn init(
        config: HeadConfig,
        d_model: usize,
        n_labels: usize,
        seed: u64,
        device: &Device,
    ) -> Self {
        let mut random = HostRandom::new(seed, STREAM);
        let weight = random.normal([d_model, n_labels], 0.02);
        let dense = config.form.activation().map(|_| {
            let weight = random.normal([d_model, d_model], 0.02);
            Dense::from_data(weight, zeros(d_model), device)
        });
        let bias = config.form.has_bias().then(|| zeros(n_labels));
        Self::from_data(config, dense, weight, bias, device)
    }

    /// Class vectors `scale * unit(vector)`, one a label, and zero biases: on unit inputs the head
    /// starts as the cosine to the given vectors.
    ///
    /// # Errors
    /// [`AdapterError::LabelVector`] when there is none, when lengths differ, or when a vector is
    /// zero or not finite. [`AdapterError::Setting`] for another form than [`HeadForm::Linear`].
    pub fn from_label_vectors(
        config: HeadConfig,
        vectors: Vec<Vec<f32>>,
        device: &Device,
    ) -> Result<Self, AdapterError> {
        if config.form != HeadForm::Linear {
            return Err(AdapterError::Setting {
                method: "head",
                key: "form",
                expected: "a linear layer, whose class vectors label words can be",
                found: format!("{:?}", config.form),
            });
        }
        let wrong = |index, expected: String, found: String| AdapterError::LabelVector {
            index,
            expected,
            found,
        };
        let Some(d_model) = vectors.first().map(Vec::len) else {
            return Err(wrong(
                0,
                "at least one vector".to_owned(),
                "none".to_owned(),
            ));
        };
        let n_labels = vectors.len();
        let mut weight = vec![0.0f32; d_model * n_labels];
        for (label, vector) in vectors.iter().enumerate() {
            if vector.len() != d_model {
                return Err(wrong(
                    label,
                    format!("{d_model} values"),
                    vector.len().to_string(),
                ));
            }
            let norm = vector
                .iter()
                .map(|value| f64::from(*value).powi(2))
                .sum::<f64>()
                .sqrt();
            if !norm.is_finite() || norm == 0.0 {
                return Err(wrong(
                    label,
                    "a finite vector of some length".to_owned(),
                    format!("length {norm}"),
                ));
            }
            for (row, value) in vector.iter().enumerate() {
                weight[row * n_labels + label] = (f64::from(*value) * config.scale / norm) as f32;
            }
        }
        let weight = TensorData::new(weight, [d_model, n_labels]);
        let bias = Some(zeros(n_labels));
        Ok(Self::from_data(config, None, weight, bias, device))
    }

    fn from_data(
        config: HeadConfig,
        dense: Option<Dense>,
        weight: TensorData,
        bias: Option<TensorData>,
        device: &Device,
    ) -> Self {
        Self {
            dense,
            weight: Param::from_data(weight, device),
            bias: bias.map(|bias| Param::from_data(bias, device)),
            config,
        }
    }

    /// # Shapes
    /// - `pooled`: `[batch, d_model]` → `[batch, n_labels]`
    pub fn forward(&self, pooled: Tensor<2>) -> Tensor<2> {
        let pooled = match self.config.normalize {
            true => unit_rows(pooled),
            false => pooled,
        };
        let pooled = match (&self.dense, self.config.form.activation()) {
            (Some(dense), Some(activation)) => activation(dense.forward(pooled)),
            _ => pooled,
        };
        let bias = self.bias.as_ref().map(Param::val);
        module::linear(pooled, self.weight.val(), bias)
    }

    /// The head with these of its classes, in this order.
    ///
    /// # Panics
    /// For a class that is not there.
    #[must_use]
    pub fn with_classes(&self, classes: &[usize]) -> Self {
        let classes: Vec<i32> = classes.iter().map(|class| *class as i32).collect();
        let n_classes = classes.len();
        let weight = frozen::plain(&self.weight);
        let device = weight.device();
        let classes = Tensor::<1, Int>::from_data(TensorData::new(classes, [n_classes]), &device);
        let bias = self.bias.as_ref().map(frozen::plain);
        let bias = bias.map(|bias| bias.select(0, classes.clone()).into_data());
        let weight = weight.select(1, classes).into_data();
        let (config, dense) = (self.config.clone(), self.dense.clone());
        Self::from_data(config, dense, weight, bias, &device)
    }

    /// How the head reads text vectors.
    pub fn config(&self) -> &HeadConfig {
        &self.config
    }

    /// How token vectors become the vector that is classified.
    pub fn pooling(&self) -> Pooling {
        self.config.pooling
    }

    /// Number of classes.
    pub fn n_labels(&self) -> usize {
        self.weight.lazy_shape()[1]
    }

    /// Number of trainable values.
    pub fn n_parameters(&self) -> usize {
        self.num_params()
    }

    /// Names and float32 values of all parameters.
    pub fn named_tensors(&self) -> Vec<(String, TensorData)> {
        named_tensors::collect(self)
    }

    /// The head with these values; device and training state stay.
    ///
    /// # Errors
    /// As [`crate::Adapters::load_named_tensors`].
    pub fn load_named_tensors(
        self,
        tensors: &BTreeMap<String, TensorData>,
    ) -> Result<Self, AdapterError> {
        named_tensors::load(self, tensors)
    }

    /// The head with the same values on `device`.
    #[must_use]
    pub fn train_on(self, device: &Device) -> Self {
        named_tensors::train_on(self, device)
    }
}

/// Each row scaled to unit length; a zero row stays zero.
///
/// # Shapes
/// - `rows`: `[rows, d]` → the same
pub fn unit_rows(rows: Tensor<2>) -> Tensor<2> {
    let norms = rows
        .clone()
        .powi_scalar(2)
        .sum_dim(1)
        .sqrt()
        .clamp_min(1e-12);
    rows / norms
}

fn zeros(n: usize) -> TensorData {
    TensorData::new(vec![0.0f32; n], [n])
}

/// A head's tensors in PyTorch's layout: `weight` `[n_labels, d_model]` and `bias` `[n_labels]`;
/// `dense.weight` `[d_model, d_model]` and `dense.bias` `[d_model]`. Those that its form has.
pub fn head_to_tensors(head: &ClassifierHead) -> Vec<(String, TensorData)> {
    let matrix = |weight: &Param<Tensor<2>>| named_tensors::read(frozen::plain(weight).transpose());
    let vector = |bias: &Param<Tensor<1>>| named_tensors::read(frozen::plain(bias));
    let bias = head.bias.iter().map(|bias| ("bias", vector(bias)));
    let mut tensors: Vec<(&str, TensorData)> = bias.collect();
    if let Some(dense) = &head.dense {
        tensors.push(("dense.bias", vector(dense.bias())));
        tensors.push(("dense.weight", matrix(dense.weight())));
    }
    tensors.push(("weight", matrix(&head.weight)));
    let named = tensors.into_iter();
    named.map(|(name, data)| (name.to_owned(), data)).collect()
}

/// The head of [`head_to_tensors`], for a base of this width and this number of labels.
///
/// # Errors
/// [`AdapterError::Missing`], [`AdapterError::Unexpected`], [`AdapterError::Shape`] or
/// [`AdapterError::NotFinite`].
pub fn head_from_tensors(
    config: HeadConfig,
    d_model: usize,
    n_labels: usize,
    tensors: &BTreeMap<String, TensorData>,
    device: &Device,
) -> Result<ClassifierHead, AdapterError> {
    head_from_named(config, [d_model, n_labels], tensors, device, str::to_owned)
}

/// The same of tensors that go by other names: `called` of the name here.
///
/// # Errors
/// As [`head_from_tensors`], with those names.
pub(crate) fn head_from_named(
    config: HeadConfig,
    [d_model, n_labels]: [usize; 2],
    tensors: &BTreeMap<String, TensorData>,
    device: &Device,
    called: impl Fn(&str) -> String,
) -> Result<ClassifierHead, AdapterError> {
    let (has_bias, has_dense) = (config.form.has_bias(), config.form.activation().is_some());
    let of_form = [
        ("weight", true),
        ("bias", has_bias),
        ("dense.weight", has_dense),
        ("dense.bias", has_dense),
    ];
    let known = of_form.into_iter().filter(|(_, has)| *has);
    let known: Vec<String> = known.map(|(name, _)| called(name)).collect();
    let names: Vec<String> = tensors
        .keys()
        .filter(|name| !known.contains(name))
        .cloned()
        .collect();
    if !names.is_empty() {
        return Err(AdapterError::Unexpected { names });
    }
    let get = |name: &str, shape: &[usize]| {
        let name = called(name);
        match tensors.get(&name) {
            Some(data) => named_tensors::checked(&name, data, shape),
            None => Err(AdapterError::Missing { name }),
        }
    };
    let matrix = |name: &str, d_out: usize| -> Result<TensorData, AdapterError> {
        let weight = get(name, &[d_out, d_model])?;
        let plain: Tensor<2> = Tensor::from_data(weight, &device.clone().without_autodiff());
        Ok(plain.transpose().into_data())
    };
    let weight = matrix("weight", n_labels)?;
    let bias = has_bias.then(|| get("bias", &[n_labels])).transpose()?;
    let dense = match has_dense {
        true => Some(Dense::from_data(
            matrix("dense.weight", d_model)?,
            get("dense.bias", &[d_model])?,
            device,
        )),
        false => None,
    };
    Ok(ClassifierHead::from_data(
        config, dense, weight, bias, device,
    ))
}

#[cfg(test)]
mod tests;

//! The classifier head: a pooled text vector to class logits.

use std::collections::BTreeMap;

use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor, TensorData, module};
use hybrid_models::Pooling;
use serde::{Deserialize, Serialize};

use crate::random::HostRandom;
use crate::{AdapterError, frozen, named_tensors};

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
}

/// `logits = pooled W + b`, with `pooled` at unit length when the configuration says so.
#[derive(Module, Debug)]
pub struct ClassifierHead {
    /// `[d_model, n_labels]`.
    weight: Param<Tensor<2>>,
    /// `[n_labels]`.
    bias: Param<Tensor<1>>,
    #[module(skip)]
    config: HeadConfig,
}

/// Keeps the head's numbers apart from those of every stack.
const STREAM: u64 = u64::MAX;

impl ClassifierHead {
    /// Class vectors normal with deviation 0.02, as Transformers draws them; biases zero.
    pub fn init(
        config: HeadConfig,
        d_model: usize,
        n_labels: usize,
        seed: u64,
        device: &Device,
    ) -> Self {
        let weight = HostRandom::new(seed, STREAM).normal([d_model, n_labels], 0.02);
        Self::from_data(config, weight, vec![0.0; n_labels], device)
    }

    /// Class vectors `scale * unit(vector)`, one a label, and zero biases: on unit inputs the head
    /// starts as the cosine to the given vectors.
    ///
    /// # Errors
    /// [`AdapterError::LabelVector`] when there is none, when lengths differ, or when a vector is
    /// zero or not finite.
    pub fn from_label_vectors(
        config: HeadConfig,
        vectors: Vec<Vec<f32>>,
        device: &Device,
    ) -> Result<Self, AdapterError> {
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
        Ok(Self::from_data(config, weight, vec![0.0; n_labels], device))
    }

    fn from_data(config: HeadConfig, weight: TensorData, bias: Vec<f32>, device: &Device) -> Self {
        let n_labels = bias.len();
        Self {
            weight: Param::from_data(weight, device),
            bias: Param::from_data(TensorData::new(bias, [n_labels]), device),
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
        module::linear(pooled, self.weight.val(), Some(self.bias.val()))
    }

    /// The head with these of its classes, in this order.
    ///
    /// # Panics
    /// For a class that is not there.
    #[must_use]
    pub fn with_classes(&self, classes: &[usize]) -> Self {
        let classes: Vec<i32> = classes.iter().map(|class| *class as i32).collect();
        let n_classes = classes.len();
        let (weight, bias) = (frozen::plain(&self.weight), frozen::plain(&self.bias));
        let device = weight.device();
        let classes = Tensor::<1, Int>::from_data(TensorData::new(classes, [n_classes]), &device);
        let bias = bias.select(0, classes.clone()).into_data();
        let weight = weight.select(1, classes).into_data();
        Self::from_data(
            self.config.clone(),
            weight,
            bias.iter::<f32>().collect(),
            &device,
        )
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
        self.bias.lazy_shape()[0]
    }

    /// Number of trainable values.
    pub fn n_parameters(&self) -> usize {
        self.num_params()
    }

    /// Names and float32 values of both parameters.
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

/// A head's tensors in PyTorch's layout: `weight` `[n_labels, d_model]`, `bias` `[n_labels]`.
pub fn head_to_tensors(head: &ClassifierHead) -> Vec<(String, TensorData)> {
    let weight = named_tensors::read(frozen::plain(&head.weight).transpose());
    let bias = named_tensors::read(frozen::plain(&head.bias));
    vec![("bias".to_owned(), bias), ("weight".to_owned(), weight)]
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
    let names: Vec<String> = tensors
        .keys()
        .filter(|name| !matches!(name.as_str(), "weight" | "bias"))
        .cloned()
        .collect();
    if !names.is_empty() {
        return Err(AdapterError::Unexpected { names });
    }
    let get = |name: &str| {
        tensors.get(name).ok_or_else(|| AdapterError::Missing {
            name: name.to_owned(),
        })
    };
    let (weight, bias) = (get("weight")?, get("bias")?);
    let weight = named_tensors::checked("weight", weight, &[n_labels, d_model])?;
    let bias = named_tensors::checked("bias", bias, &[n_labels])?;
    let device_weight: Tensor<2> = Tensor::from_data(weight, &device.clone().without_autodiff());
    let bias = bias.iter::<f32>().collect();
    Ok(ClassifierHead::from_data(
        config,
        device_weight.transpose().into_data(),
        bias,
        device,
    ))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use burn::tensor::{Device, Tensor, TensorData, Tolerance};
    use hybrid_models::Pooling;

    use super::{ClassifierHead, HeadConfig, head_from_tensors, head_to_tensors};
    use crate::AdapterError;

    fn config(normalize: bool, scale: f64) -> HeadConfig {
        HeadConfig {
            pooling: Pooling::Mean,
            normalize,
            scale,
        }
    }

    #[test]
    fn label_vectors_make_a_scaled_cosine() {
        let device = Device::flex();
        let vectors = vec![vec![3.0, 4.0, 0.0], vec![0.0, 0.0, 2.0]];
        let head =
            ClassifierHead::from_label_vectors(config(true, 10.0), vectors, &device).unwrap();
        let pooled = Tensor::<2>::from_data([[6.0, 8.0, 0.0], [1.0, 0.0, 1.0]], &device);
        let root = 0.5f32.sqrt();
        let expected = TensorData::from([[10.0, 0.0], [6.0 * root, 10.0 * root]]);
        head.forward(pooled)
            .into_data()
            .assert_approx_eq::<f32>(&expected, Tolerance::absolute(1e-5));
        assert_eq!((head.n_labels(), head.n_parameters()), (2, 8));
    }

    #[test]
    fn without_normalisation_a_head_is_a_linear_layer() {
        let device = Device::flex();
        let tensors = BTreeMap::from([
            (
                "weight".to_owned(),
                TensorData::from([[1.0f32, 2.0], [3.0, 4.0], [5.0, 6.0]]),
            ),
            ("bias".to_owned(), TensorData::from([0.5f32, -0.5, 0.25])),
        ]);
        let head = head_from_tensors(config(false, 1.0), 2, 3, &tensors, &device).unwrap();
        let logits = head
            .forward(Tensor::from_data([[1.0, -1.0]], &device))
            .into_data();
        logits.assert_approx_eq::<f32>(
            &TensorData::from([[-0.5, -1.5, -0.75]]),
            Tolerance::absolute(1e-6),
        );
        assert_eq!(
            head_to_tensors(&head)
                .into_iter()
                .collect::<BTreeMap<_, _>>(),
            tensors
        );
        let training = head.clone().train_on(&device.autodiff());
        assert_eq!(training.named_tensors(), head.named_tensors());
    }

    #[test]
    fn faulty_tensors_are_named() {
        let device = Device::flex();
        let good = || {
            BTreeMap::from([
                ("weight".to_owned(), TensorData::from([[1.0f32, 2.0]])),
                ("bias".to_owned(), TensorData::from([0.5f32])),
            ])
        };
        let error = |change: fn(&mut BTreeMap<String, TensorData>)| {
            let mut tensors = good();
            change(&mut tensors);
            head_from_tensors(config(false, 1.0), 2, 1, &tensors, &device).unwrap_err()
        };
        let missing = error(|tensors| drop(tensors.remove("bias")));
        assert!(
            matches!(missing, AdapterError::Missing { ref name } if name == "bias"),
            "{missing}"
        );
        let extra =
            error(|tensors| drop(tensors.insert("more".to_owned(), TensorData::from([0.0f32]))));
        assert!(
            matches!(extra, AdapterError::Unexpected { ref names } if names == &["more"]),
            "{extra}"
        );
        let shape = error(|tensors| {
            drop(tensors.insert("bias".to_owned(), TensorData::from([0.0f32, 1.0])))
        });
        assert_eq!(shape.to_string(), "bias: expected shape [1], found [2]");
        let narrow = error(|tensors| {
            drop(tensors.insert("weight".to_owned(), TensorData::from([[1.0f32]])))
        });
        assert_eq!(
            narrow.to_string(),
            "weight: expected shape [1, 2], found [1, 1]"
        );
        let nan =
            error(|tensors| drop(tensors.insert("bias".to_owned(), TensorData::from([f32::NAN]))));
        assert!(
            matches!(nan, AdapterError::NotFinite { index: 0, .. }),
            "{nan}"
        );
    }

    #[test]
    fn vectors_that_make_no_head_are_refused() {
        let device = Device::flex();
        for vectors in [
            Vec::new(),
            vec![vec![1.0, 0.0], vec![1.0]],
            vec![vec![1.0, 0.0], vec![0.0, 0.0]],
            vec![vec![f32::NAN, 0.0]],
        ] {
            let error = ClassifierHead::from_label_vectors(config(true, 1.0), vectors, &device)
                .unwrap_err();
            assert!(matches!(error, AdapterError::LabelVector { .. }), "{error}");
        }
    }
}

//! The span head: each token's vector to how well an answer starts and ends there (Devlin et al.
//! 2019, section 4.2).

use std::collections::BTreeMap;

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData, module};

use crate::random::HostRandom;
use crate::{AdapterError, frozen, named_tensors};

/// `[start, end] = hidden W + b` at every token.
#[derive(Module, Debug)]
pub struct SpanHead {
    /// `[d_model, 2]`.
    weight: Param<Tensor<2>>,
    /// `[2]`.
    bias: Param<Tensor<1>>,
}

/// Keeps the head's numbers apart from those of every stack and of the classifier head.
const STREAM: u64 = u64::MAX - 1;

impl SpanHead {
    /// Weights normal with deviation 0.02, as Transformers draws them; biases zero.
    pub fn init(d_model: usize, seed: u64, device: &Device) -> Self {
        let weight = HostRandom::new(seed, STREAM).normal([d_model, 2], 0.02);
        Self::from_data(weight, TensorData::new(vec![0.0f32; 2], [2]), device)
    }

    fn from_data(weight: TensorData, bias: TensorData, device: &Device) -> Self {
        Self {
            weight: Param::from_data(weight, device),
            bias: Param::from_data(bias, device),
        }
    }

    /// Logits of where an answer starts and ends.
    ///
    /// # Shapes
    /// - `hidden`: `[batch, seq, d_model]` → twice `[batch, seq]`
    pub fn forward(&self, hidden: Tensor<3>) -> [Tensor<2>; 2] {
        let [batch, seq, d_model] = hidden.dims();
        let rows = hidden.reshape([batch * seq, d_model]);
        let logits = module::linear(rows, self.weight.val(), Some(self.bias.val()));
        [0, 1].map(|index| {
            let of_index = logits.clone().slice([0..batch * seq, index..index + 1]);
            of_index.reshape([batch, seq])
        })
    }

    /// Number of trainable values.
    pub fn n_parameters(&self) -> usize {
        self.num_params()
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

    /// The values in the layout of Transformers' `qa_outputs`: `weight` `[2, d_model]`, `bias`
    /// `[2]`.
    pub fn to_tensors(&self) -> Vec<(String, TensorData)> {
        let weight = named_tensors::read(frozen::plain(&self.weight).transpose());
        let bias = named_tensors::read(frozen::plain(&self.bias));
        vec![("bias".to_owned(), bias), ("weight".to_owned(), weight)]
    }

    /// The head of [`to_tensors`](Self::to_tensors), for a base of this width.
    ///
    /// # Errors
    /// [`AdapterError::Missing`], [`AdapterError::Unexpected`], [`AdapterError::Shape`] or
    /// [`AdapterError::NotFinite`].
    pub fn from_tensors(
        d_model: usize,
        tensors: &BTreeMap<String, TensorData>,
        device: &Device,
    ) -> Result<Self, AdapterError> {
        let is_known = |name: &str| matches!(name, "weight" | "bias");
        let unknown = tensors.keys().filter(|name| !is_known(name));
        let names: Vec<String> = unknown.cloned().collect();
        if !names.is_empty() {
            return Err(AdapterError::Unexpected { names });
        }
        let get = |name: &str, shape: &[usize]| {
            let data = tensors.get(name).ok_or_else(|| AdapterError::Missing {
                name: name.to_owned(),
            })?;
            named_tensors::checked(name, data, shape)
        };
        let plain = device.clone().without_autodiff();
        let weight: Tensor<2> = Tensor::from_data(get("weight", &[2, d_model])?, &plain);
        let weight = weight.transpose().into_data();
        Ok(Self::from_data(weight, get("bias", &[2])?, device))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use burn::tensor::{Device, Tensor, TensorData, Tolerance};

    use super::SpanHead;
    use crate::AdapterError;

    fn tensors() -> BTreeMap<String, TensorData> {
        BTreeMap::from([
            (
                "weight".to_owned(),
                TensorData::from([[1.0f32, 2.0], [3.0, 4.0]]),
            ),
            ("bias".to_owned(), TensorData::from([0.5f32, -0.5])),
        ])
    }

    #[test]
    fn each_token_has_a_logit_of_start_and_of_end() {
        let device = Device::flex();
        let head = SpanHead::from_tensors(2, &tensors(), &device).unwrap();
        let hidden = [[[1.0, 0.0], [0.0, 1.0], [2.0, -1.0]]];
        let [start, end] = head.forward(Tensor::from_data(hidden, &device));
        for (logits, expected) in [(start, [[1.5, 2.5, 0.5]]), (end, [[2.5, 3.5, 1.5]])] {
            logits
                .into_data()
                .assert_approx_eq::<f32>(&TensorData::from(expected), Tolerance::absolute(1e-6));
        }
        let again: BTreeMap<_, _> = head.to_tensors().into_iter().collect();
        assert_eq!(again, tensors());
        assert_eq!(head.n_parameters(), 6);
    }

    #[test]
    fn a_fresh_head_follows_its_seed() {
        let device = Device::flex();
        let values = |seed| SpanHead::init(3, seed, &device).to_tensors();
        assert_eq!(values(1), values(1));
        assert_ne!(values(1), values(2));
        let trained = SpanHead::init(3, 1, &device).train_on(&device.clone().autodiff());
        assert_eq!(trained.to_tensors(), values(1));
    }

    #[test]
    fn faulty_tensors_are_named() {
        let device = Device::flex();
        let error = |d_model: usize, change: fn(&mut BTreeMap<String, TensorData>)| {
            let mut tensors = tensors();
            change(&mut tensors);
            SpanHead::from_tensors(d_model, &tensors, &device).unwrap_err()
        };
        let missing = error(2, |tensors| drop(tensors.remove("bias")));
        assert!(
            matches!(missing, AdapterError::Missing { ref name } if name == "bias"),
            "{missing}"
        );
        let extra = error(2, |tensors| {
            drop(tensors.insert("more".to_owned(), TensorData::from([0.0f32])))
        });
        assert!(
            matches!(extra, AdapterError::Unexpected { ref names } if names == &["more"]),
            "{extra}"
        );
        assert_eq!(
            error(3, |_| ()).to_string(),
            "weight: expected shape [2, 3], found [2, 2]"
        );
    }
}

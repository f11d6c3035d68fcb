//! Two frozen matrices that all sites of a method share.

use burn::tensor::{Tensor, TensorData};

use crate::named_tensors;
use crate::site_method::{KeptTensor, Owner};

/// `A` and `B` of all sites, of which each uses a part.
#[derive(Debug, Clone)]
pub(crate) struct SharedPair<const D: usize> {
    pub(crate) a: Tensor<D>,
    pub(crate) b: Tensor<D>,
    /// What PEFT's files call `A` and `B`.
    pub(crate) keys: [&'static str; 2],
    pub(crate) owner: Owner,
    /// Whether files hold them.
    pub(crate) stored: bool,
}

impl<const D: usize> SharedPair<D> {
    /// What files hold of it.
    pub(crate) fn kept(&self) -> Vec<KeptTensor> {
        let matrices = self.keys.into_iter().zip([&self.a, &self.b]);
        let kept = |(key, matrix): (&'static str, &Tensor<D>)| KeptTensor {
            key,
            data: named_tensors::read(matrix.clone()),
            owner: self.owner,
        };
        matrices.filter(|_| self.stored).map(kept).collect()
    }

    /// Takes a matrix from a file.
    pub(crate) fn keep(&mut self, key: &str, data: &TensorData) {
        let matrices = self.keys.into_iter().zip([&mut self.a, &mut self.b]);
        for (_, matrix) in matrices.filter(|(own, _)| *own == key) {
            *matrix = Tensor::from_data(data.clone(), &matrix.device());
        }
    }
}

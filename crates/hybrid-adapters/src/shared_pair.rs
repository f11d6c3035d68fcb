//! Two frozen matrices that all sites of a method share.

use burn::tensor::{Tensor, TensorData};

use crate::named_tensors;
use crate::site_method::{KeptTensor, Owner};
use crate::site_place::Place;
use crate::torch_random::TorchRandom;

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

impl SharedPair<2> {
    /// `A: [ranks[0], largest d_in]` and `B: [largest d_out, ranks[1]]`, drawn one after the other by
    /// PyTorch's Kaiming initialisation.
    pub(crate) fn drawn(
        place: &Place<'_>,
        ranks: [usize; 2],
        mut random: TorchRandom,
        keys: [&'static str; 2],
        stored: bool,
    ) -> Self {
        let [d_in, d_out] = place.largest();
        let mut kaiming = |shape: [usize; 2]| {
            let limit = 3.0f64.sqrt() * (2.0f64.sqrt() / (shape[1] as f64).sqrt());
            place.frozen(random.uniform(shape, limit))
        };
        Self {
            a: kaiming([ranks[0], d_in]),
            b: kaiming([d_out, ranks[1]]),
            keys,
            owner: Owner::All,
            stored,
        }
    }
}

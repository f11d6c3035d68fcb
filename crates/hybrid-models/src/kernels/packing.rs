//! Rows of a batch without their padding.
//!
//! All that treats each position by itself (products with weights, norms, activations, adapters) needs no
//! place for padding: it runs over the tokens of all rows, one after the other. Attention alone sees
//! rows, each its own: there padding stands in between, as in a block-diagonal mask over the tokens
//! (Krell et al. 2021).

use std::sync::Arc;

use burn::tensor::{Int, Tensor, TensorData};

use super::host::{filled, is_ours, read};
use super::operation::{Slope, with_gradient};
use crate::Hooks;
use crate::device::is_host;

/// Least share of padding that is left out, one place in so many: moving tokens costs something, too.
const WORTH: usize = 32;

/// Where the tokens of a padded batch stand.
#[derive(Debug, Clone)]
pub(crate) struct Packing {
    batch: usize,
    seq: usize,
    /// Of each token, its place among the padded ones, ascending.
    places: Arc<[usize]>,
}

impl Packing {
    /// Of rows that hooks take so. On another device than a processor to look at the mask would cost
    /// more than it saves.
    ///
    /// # Shapes
    /// - as [`of_rows`](Self::of_rows)
    pub(crate) fn for_hooks(mask: &Tensor<2, Int>, hooks: &dyn Hooks) -> Option<Self> {
        let packs = hooks.takes_tokens_alone() && is_host(&mask.device());
        packs.then(|| Self::of_rows(mask)).flatten()
    }

    /// Of rows with padding on either side; none where there is too little padding to leave out.
    ///
    /// # Shapes
    /// - `mask`, 1 for tokens and 0 for padding: `[batch, seq]`
    fn of_rows(mask: &Tensor<2, Int>) -> Option<Self> {
        let [batch, seq] = mask.dims();
        let is_token = mask.to_data();
        let is_token = is_token.iter::<i64>().enumerate();
        let places: Arc<[usize]> = is_token
            .filter_map(|(place, is_token)| (is_token != 0).then_some(place))
            .collect();
        let n_padding = batch * seq - places.len();
        (n_padding * WORTH >= batch * seq).then_some(Self { batch, seq, places })
    }

    /// The tokens alone.
    ///
    /// # Shapes
    /// - `[batch, seq, width]` → `[1, tokens, width]`
    pub(crate) fn pack(&self, x: Tensor<3>) -> Tensor<3> {
        if !x.is_autodiff() {
            return self.packed(&x);
        }
        let (packed, packing) = (self.packed(&x.clone().inner()), self.clone());
        with_gradient([(&x).into()], packed, move |slope, _| {
            [Some(Slope::from(packing.unpacked(&slope)))]
        })
    }

    /// Rows with zeros for padding.
    ///
    /// # Shapes
    /// - `[1, tokens, width]` → `[batch, seq, width]`
    pub(crate) fn unpack(&self, x: Tensor<3>) -> Tensor<3> {
        if !x.is_autodiff() {
            return self.unpacked(&x);
        }
        let (unpacked, packing) = (self.unpacked(&x.clone().inner()), self.clone());
        with_gradient([(&x).into()], unpacked, move |slope, _| {
            [Some(Slope::from(packing.packed(&slope)))]
        })
    }

    fn packed(&self, x: &Tensor<3>) -> Tensor<3> {
        let [_, _, width] = x.dims();
        let n_tokens = self.places.len();
        if !is_ours(x) {
            let rows = x.clone().reshape([self.batch * self.seq, width]);
            let places = self.places.iter().map(|place| *place as i64).collect();
            return rows
                .select(0, indices(places, x))
                .reshape([1, n_tokens, width]);
        }
        filled([1, n_tokens, width], &x.device(), |tokens| {
            read(x, |x| {
                for (token, place) in tokens.chunks_exact_mut(width).zip(&*self.places) {
                    token.copy_from_slice(&x[place * width..][..width]);
                }
            });
        })
    }

    fn unpacked(&self, x: &Tensor<3>) -> Tensor<3> {
        let [_, n_tokens, width] = x.dims();
        let (n_places, dims) = (self.batch * self.seq, [self.batch, self.seq, width]);
        if !is_ours(x) {
            let zeros = Tensor::zeros([1, width], &x.device());
            let rows = Tensor::cat(vec![x.clone().reshape([n_tokens, width]), zeros], 0);
            let mut tokens = vec![n_tokens as i64; n_places];
            let places = self.places.iter().enumerate();
            places.for_each(|(token, place)| tokens[*place] = token as i64);
            return rows.select(0, indices(tokens, x)).reshape(dims);
        }
        filled(dims, &x.device(), |rows| {
            read(x, |x| {
                for (token, place) in x.chunks_exact(width).zip(&*self.places) {
                    rows[place * width..][..width].copy_from_slice(token);
                }
            });
        })
    }
}

fn indices(indices: Vec<i64>, beside: &Tensor<3>) -> Tensor<1, Int> {
    let n_indices = indices.len();
    Tensor::from_data(TensorData::new(indices, [n_indices]), &beside.device())
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Tensor};

    use super::Packing;
    use crate::kernels::tests::{assert_same_gradients, device, values};

    fn packing() -> Packing {
        let mask = Tensor::from_ints([[1, 1, 0], [0, 1, 0], [1, 1, 1]], &Device::flex());
        Packing::of_rows(&mask).expect("a third is padding")
    }

    #[test]
    fn tokens_go_and_come_back_and_padding_is_zero() {
        let host = |x: Tensor<3>| x.into_data().iter::<f32>().collect::<Vec<f32>>();
        let x = Tensor::from_floats(
            [[[1.], [2.], [9.]], [[9.], [3.], [9.]], [[4.], [5.], [6.]]],
            &Device::flex(),
        );
        let packed = packing().pack(x);
        assert_eq!(packed.dims(), [1, 6, 1]);
        assert_eq!(host(packed.clone()), [1., 2., 3., 4., 5., 6.]);
        let unpacked = packing().unpack(packed);
        assert_eq!(unpacked.dims(), [3, 3, 1]);
        assert_eq!(host(unpacked), [1., 2., 0., 0., 3., 0., 4., 5., 6.]);
    }

    #[test]
    fn gradients_are_those_of_the_parts() {
        let weight = values([1, 6, 2], 0.3);
        let mask = Tensor::<3>::from_floats(
            [[[1.], [1.], [0.]], [[0.], [1.], [0.]], [[1.], [1.], [1.]]],
            &device(),
        );
        assert_same_gradients(
            [values([3, 3, 2], 0.0)],
            |[x]| packing().unpack(packing().pack(x) * weight.clone()),
            |[x]| x * mask.clone() * packing().unpack(weight.clone()),
        );
    }

    #[test]
    fn little_padding_stays() {
        let rows = |seq: usize| {
            let mask = Tensor::ones([2, seq], &Device::flex());
            Packing::of_rows(
                &mask.slice_assign([1..2, seq - 1..seq], Tensor::zeros([1, 1], &Device::flex())),
            )
        };
        assert!(rows(16).is_some());
        assert!(rows(17).is_none());
    }
}

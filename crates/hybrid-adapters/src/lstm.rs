//! A long short-term memory that reads in both directions (Hochreiter and Schmidhuber 1997 with the
//! forget gate of Gers et al. 2000), as `torch.nn.LSTM` computes it.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, activation};

use crate::random::HostRandom;

/// One direction of one layer. The gates stand in the order input, forget, cell, output.
#[derive(Module, Debug)]
struct Direction {
    /// `[d_in, 4 * d_hidden]`.
    weight_ih: Param<Tensor<2>>,
    /// `[d_hidden, 4 * d_hidden]`.
    weight_hh: Param<Tensor<2>>,
    /// `[4 * d_hidden]`.
    bias_ih: Param<Tensor<1>>,
    /// `[4 * d_hidden]`.
    bias_hh: Param<Tensor<1>>,
}

/// Layers over each other, each of two directions.
#[derive(Module, Debug)]
pub(crate) struct Lstm {
    onward: Vec<Direction>,
    backward: Vec<Direction>,
}

impl Direction {
    /// Values uniform in `±1/sqrt(d_hidden)`, as PyTorch draws them.
    fn init(d_in: usize, d_hidden: usize, random: &mut HostRandom, device: &Device) -> Self {
        let limit = 1.0 / (d_hidden as f64).sqrt();
        let gates = 4 * d_hidden;
        Self {
            weight_ih: Param::from_data(random.uniform([d_in, gates], limit), device),
            weight_hh: Param::from_data(random.uniform([d_hidden, gates], limit), device),
            bias_ih: Param::from_data(random.uniform([gates], limit), device),
            bias_hh: Param::from_data(random.uniform([gates], limit), device),
        }
    }

    /// The hidden state at each place, in the order of the places.
    ///
    /// # Shapes
    /// - `x`: `[seq, d_in]` → `[seq, d_hidden]`
    fn forward(&self, x: Tensor<2>, reversed: bool) -> Tensor<2> {
        let [seq, _] = x.dims();
        let weight_hh = self.weight_hh.val();
        let [d_hidden, _] = weight_hh.dims();
        let bias = self.bias_ih.val() + self.bias_hh.val();
        let from_input = x.matmul(self.weight_ih.val()) + bias.unsqueeze();
        let mut hidden = Tensor::<2>::zeros([1, d_hidden], &from_input.device());
        let mut cell = hidden.clone();
        let mut states = Vec::with_capacity(seq);
        for step in 0..seq {
            let place = if reversed { seq - 1 - step } else { step };
            let gates = from_input.clone().narrow(0, place, 1) + hidden.matmul(weight_hh.clone());
            let gate = |index: usize| gates.clone().narrow(1, index * d_hidden, d_hidden);
            let [input, forget, output] = [0, 1, 3].map(|index| activation::sigmoid(gate(index)));
            cell = forget * cell + input * gate(2).tanh();
            hidden = output * cell.clone().tanh();
            states.push(hidden.clone());
        }
        if reversed {
            states.reverse();
        }
        Tensor::cat(states, 0)
    }
}

impl Lstm {
    pub(crate) fn init(
        n_layers: usize,
        d_in: usize,
        d_hidden: usize,
        random: &mut HostRandom,
        device: &Device,
    ) -> Self {
        let (mut onward, mut backward) = (Vec::new(), Vec::new());
        for layer in 0..n_layers {
            let d_in = if layer == 0 { d_in } else { 2 * d_hidden };
            for directions in [&mut onward, &mut backward] {
                directions.push(Direction::init(d_in, d_hidden, random, device));
            }
        }
        Self { onward, backward }
    }

    pub(crate) fn n_layers(&self) -> usize {
        self.onward.len()
    }

    /// The states of the last layer, both directions side by side. `between` acts on the states of
    /// each layer that another one reads; it is given the layer's index.
    ///
    /// # Shapes
    /// - `x`: `[seq, d_in]` → `[seq, 2 * d_hidden]`
    pub(crate) fn forward(
        &self,
        x: Tensor<2>,
        between: impl Fn(usize, Tensor<2>) -> Tensor<2>,
    ) -> Tensor<2> {
        let mut x = x;
        for (layer, (onward, backward)) in self.onward.iter().zip(&self.backward).enumerate() {
            if layer > 0 {
                x = between(layer - 1, x);
            }
            let states = vec![onward.forward(x.clone(), false), backward.forward(x, true)];
            x = Tensor::cat(states, 1);
        }
        x
    }
}

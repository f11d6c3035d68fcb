//! Attention of a decoder to an encoder's output (Vaswani et al. 2017, section 3.2.3).

use burn::tensor::Tensor;

use super::Heads;
use super::attention::{mix, split_heads};
use crate::layers::LayerPlace;
use crate::{Hooks, KeyValue, Linear};

/// Projections of one layer and the shape of its heads.
#[derive(Debug, Clone)]
pub(crate) struct CrossAttention {
    pub(crate) query: Linear,
    pub(crate) key: Linear,
    pub(crate) value: Linear,
    pub(crate) output: Linear,
    pub(crate) heads: Heads,
}

/// An encoder's output, as one layer of a decoder is given it.
pub(crate) struct Memory<'a> {
    /// `[batch, keys, d_model]`.
    pub(crate) states: &'a Tensor<3>,
    /// `[batch, 1, 1, keys]`.
    pub(crate) bias: &'a Tensor<4>,
    /// Keys and values of `states`, kept from step to step: they are the same for each.
    pub(crate) kept: Option<&'a mut Option<KeyValue>>,
}

impl CrossAttention {
    /// # Shapes
    /// - `x`: `[batch, seq, d_model]` → the same
    pub(crate) fn forward(&self, x: Tensor<3>, memory: Memory<'_>, hooks: &dyn Hooks) -> Tensor<3> {
        let query = split_heads(hooks.linear(&self.query, x), self.heads.n_heads);
        let project = || self.project(memory.states.clone(), hooks);
        let seen = match memory.kept {
            Some(kept) => kept.get_or_insert_with(project).clone(),
            None => project(),
        };
        let (bias, scale) = (Some(memory.bias), self.heads.scale);
        hooks.linear(&self.output, mix(query, seen, bias, scale, None))
    }

    /// # Shapes
    /// - `states`: `[batch, keys, d_model]` → twice `[batch, n_kv_heads, keys, d_head]`
    fn project(&self, states: Tensor<3>, hooks: &dyn Hooks) -> KeyValue {
        let n_heads = self.heads.n_kv_heads;
        KeyValue {
            key: split_heads(hooks.linear(&self.key, states.clone()), n_heads),
            value: split_heads(hooks.linear(&self.value, states), n_heads),
        }
    }

    pub(crate) fn places(&mut self) -> impl Iterator<Item = LayerPlace<'_>> {
        [
            &mut self.query,
            &mut self.key,
            &mut self.value,
            &mut self.output,
        ]
        .into_iter()
        .map(LayerPlace::Linear)
    }
}

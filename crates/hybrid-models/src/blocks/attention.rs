//! Multi-head self-attention (Vaswani et al. 2017, eq. 1) over frozen projections.

use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{Tensor, activation, module};

use crate::{Hooks, Linear};

/// Query, key, value and output projections of one layer.
#[derive(Debug, Clone)]
pub(crate) struct Attention {
    pub(crate) query: Linear,
    pub(crate) key: Linear,
    pub(crate) value: Linear,
    pub(crate) output: Linear,
    pub(crate) n_heads: usize,
}

impl Attention {
    /// # Shapes
    /// - `x`: `[batch, seq, d_model]`, `bias`: `[batch, 1, 1, seq]` → `[batch, seq, d_model]`
    pub(crate) fn forward(&self, x: Tensor<3>, bias: &Tensor<4>, hooks: &dyn Hooks) -> Tensor<3> {
        let [batch, seq, d_model] = x.dims();
        let d_head = d_model / self.n_heads;
        let heads = |y: Tensor<3>| {
            y.reshape([batch, seq, self.n_heads, d_head])
                .swap_dims(1, 2)
        };
        let query = heads(hooks.linear(&self.query, x.clone()));
        let key = heads(hooks.linear(&self.key, x.clone()));
        let value = heads(hooks.linear(&self.value, x));
        let mixed = attend(query, key, value, bias.clone());
        hooks.linear(
            &self.output,
            mixed.swap_dims(1, 2).reshape([batch, seq, d_model]),
        )
    }
}

/// # Shapes
/// - `query`, `key`, `value`: `[batch, n_heads, seq, d_head]`, `bias`: `[batch, 1, 1, seq]` →
///   `[batch, n_heads, seq, d_head]`
fn attend(query: Tensor<4>, key: Tensor<4>, value: Tensor<4>, bias: Tensor<4>) -> Tensor<4> {
    let tracked = [&query, &key, &value]
        .iter()
        .any(|x| x.device().is_autodiff());
    if !tracked {
        // An additive bias, because libtorch inverts Boolean masks here.
        return module::attention(
            query,
            key,
            value,
            None,
            Some(bias),
            AttentionModuleOptions::default(),
        );
    }
    let scale = 1.0 / (query.dims()[3] as f64).sqrt();
    let scores = query.matmul(key.transpose()).mul_scalar(scale) + bias;
    activation::softmax(scores, 3).matmul(value)
}

//! From hidden states to one vector a row.

use burn::tensor::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::EncoderBatch;

/// How hidden states become one vector a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// The first token's hidden state.
    Cls,
    /// The mean over the tokens that are not padding.
    Mean,
    /// `tanh(W [CLS] + b)`, where the model has that layer.
    Pooler,
    /// The last token's hidden state: what classifiers over decoders read.
    Last,
}

/// # Shapes
/// - `hidden`: `[batch, seq, d_model]` → `[batch, d_model]`
pub(crate) fn first_token(hidden: Tensor<3>) -> Tensor<2> {
    let [batch, _, d_model] = hidden.dims();
    hidden.slice([0..batch, 0..1]).reshape([batch, d_model])
}

/// The mean over the tokens that are not padding (Reimers and Gurevych 2019, section 3), vectors
/// that hooks put in front of them included.
///
/// # Shapes
/// - `hidden`: `[batch, n_virtual + seq, d_model]` → `[batch, d_model]`
pub(crate) fn mean(hidden: Tensor<3>, batch: &EncoderBatch) -> Tensor<2> {
    let [size, seq, d_model] = hidden.dims();
    let mask = batch.attention_mask.clone().float();
    let mask = match seq - mask.dims()[1] {
        0 => mask,
        n_virtual => {
            let in_front = Tensor::ones([size, n_virtual], &mask.device());
            Tensor::cat(vec![in_front, mask], 1)
        }
    };
    let count = mask.clone().sum_dim(1).clamp_min(1.0);
    let weights = (mask / count).reshape([size, 1, seq]);
    weights.matmul(hidden).reshape([size, d_model])
}

//! Attention (Vaswani et al. 2017, eq. 1), with key heads that several query heads may share.

use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{Tensor, module};

use super::elementwise::softmax;
use super::operation::{Slope, with_gradient};
use crate::KeyValue;
use crate::device::is_host;

/// Scores that a processor and backward hold at a time, unless one row of the batch has more: 64 MiB of float32.
const SCORES: usize = 1 << 24;

/// `softmax(scale Q K^T + bias) V`. Under autodiff the inputs and the result are kept for backward,
/// and no scores.
///
/// # Shapes
/// - `query`: `[batch, n_heads, seq, d_head]`, `seen`: twice `[batch, n_kv_heads, keys, d_head]`,
///   `bias`: `[1 or batch, 1 or n_heads, 1 or seq, keys]` → `[batch, n_heads, seq, d_head]`
pub(crate) fn attend(
    query: Tensor<4>,
    seen: KeyValue,
    bias: Option<Tensor<4>>,
    scale: f64,
) -> Tensor<4> {
    let inputs = Inputs {
        query,
        seen,
        bias,
        scale,
    };
    let [query, key, value] = [&inputs.query, &inputs.seen.key, &inputs.seen.value];
    let mut tensors = [query, key, value].into_iter().chain(&inputs.bias);
    if !tensors.any(Tensor::is_autodiff) {
        return inputs.attended();
    }
    let plain = inputs.clone().inner();
    let mixed = plain.attended();
    let kept = mixed.clone();
    let chain = move |slope, wanted: [bool; 4]| {
        let slopes = plain.slopes(kept, slope, wanted, SCORES);
        slopes.map(|slope| slope.map(Slope::from))
    };
    let operands = [query.into(), key.into(), value.into()];
    match &inputs.bias {
        Some(bias) => {
            let [query, key, value] = operands;
            with_gradient([query, key, value, bias.into()], mixed, chain)
        }
        None => with_gradient(operands, mixed, |slope, [query, key, value]| {
            let [query, key, value, _] = chain(slope, [query, key, value, false]);
            [query, key, value]
        }),
    }
}

#[derive(Clone)]
struct Inputs {
    query: Tensor<4>,
    seen: KeyValue,
    bias: Option<Tensor<4>>,
    scale: f64,
}

impl Inputs {
    fn inner(self) -> Self {
        Self {
            query: self.query.inner(),
            seen: KeyValue {
                key: self.seen.key.inner(),
                value: self.seen.value.inner(),
            },
            bias: self.bias.map(Tensor::inner),
            scale: self.scale,
        }
    }

    fn attended(&self) -> Tensor<4> {
        let [batch, n_heads, seq, d_head] = self.query.dims();
        let [_, n_kv_heads, n_keys, _] = self.seen.key.dims();
        if is_host(&self.query.device()) {
            let parts = self.parts(SCORES).map(|part| part.mixed()).collect();
            return joined(parts).expect("a batch has rows");
        }
        if seq == 1 {
            return self.mixed();
        }
        let spread = |x: &Tensor<4>| match n_heads / n_kv_heads {
            1 => x.clone(),
            shared => x
                .clone()
                .reshape([batch, n_kv_heads, 1, n_keys, d_head])
                .expand([batch, n_kv_heads, shared, n_keys, d_head])
                .reshape([batch, n_heads, n_keys, d_head]),
        };
        let options = AttentionModuleOptions {
            scale: Some(self.scale),
            ..AttentionModuleOptions::default()
        };
        let (query, bias) = (self.query.clone(), self.bias.clone());
        let (key, value) = (spread(&self.seen.key), spread(&self.seen.value));
        // An additive bias, because libtorch inverts Boolean masks here.
        module::attention(query, key, value, None, bias, options)
    }

    /// Out of matrix products and a softmax. Keys are not repeated, and those of a cache are read
    /// where they lie.
    fn mixed(&self) -> Tensor<4> {
        let KeyValue { key, value } = self.seen.clone();
        let query = self.grouped(self.query.clone());
        self.shares(query, key)
            .matmul(value)
            .reshape(self.query.dims())
    }

    /// So many rows of the batch at a time that there are no more than `limit` scores, or one.
    fn parts(&self, limit: usize) -> impl Iterator<Item = Self> {
        let [batch, n_heads, seq, _] = self.query.dims();
        let [_, _, n_keys, _] = self.seen.key.dims();
        let step = (limit / (n_heads * seq * n_keys)).max(1);
        (0..batch).step_by(step).map(move |start| {
            let n = step.min(batch - start);
            let some = |x: &Tensor<4>| x.clone().narrow(0, start, n);
            Self {
                query: some(&self.query),
                seen: KeyValue {
                    key: some(&self.seen.key),
                    value: some(&self.seen.value),
                },
                bias: self.bias.as_ref().map(|bias| match bias.dims() {
                    [1, _, _, _] => bias.clone(),
                    _ => some(bias),
                }),
                scale: self.scale,
            }
        })
    }

    /// Query heads that share a key head as rows of one matrix.
    ///
    /// # Shapes
    /// - `of_queries`: `[batch, n_heads, seq, n]` → `[batch, n_kv_heads, rows, n]`
    fn grouped(&self, of_queries: Tensor<4>) -> Tensor<4> {
        let [batch, n_heads, seq, n] = of_queries.dims();
        let [_, n_kv_heads, _, _] = self.seen.key.dims();
        of_queries.reshape([batch, n_kv_heads, n_heads / n_kv_heads * seq, n])
    }

    /// How much of each value a query takes.
    ///
    /// # Shapes
    /// - `query`: `[batch, n_kv_heads, rows, d_head]` → `[batch, n_kv_heads, rows, keys]`
    fn shares(&self, query: Tensor<4>, key: Tensor<4>) -> Tensor<4> {
        let [_, n_heads, seq, _] = self.query.dims();
        let [batch, n_kv_heads, n_keys, _] = key.dims();
        let scores = query.mul_scalar(self.scale).matmul(key.transpose());
        let [_, _, rows, _] = scores.dims();
        let scores = match &self.bias {
            Some(bias) => scores.reshape([batch, n_heads, seq, n_keys]) + bias.clone(),
            None => scores,
        };
        softmax(scores).reshape([batch, n_kv_heads, rows, n_keys])
    }

    /// The gradients of query, key, value and bias, of [`parts`](Self::parts) one after the other.
    fn slopes(
        &self,
        mixed: Tensor<4>,
        slope: Tensor<4>,
        wanted: [bool; 4],
        limit: usize,
    ) -> [Option<Tensor<4>>; 4] {
        let mut parts: [Vec<Tensor<4>>; 4] = Default::default();
        let mut start = 0;
        for part in self.parts(limit) {
            let [n, _, _, _] = part.query.dims();
            let some = |x: &Tensor<4>| x.clone().narrow(0, start, n);
            let (mixed, slope) = (some(&mixed), some(&slope));
            start += n;
            let slopes = part.slopes_at_once(mixed, slope, wanted);
            for (parts, slope) in parts.iter_mut().zip(slopes) {
                parts.extend(slope);
            }
        }
        let [query, key, value, bias] = parts;
        let of_bias = match self.bias.as_ref().map(|bias| bias.dims()) {
            Some([1, _, _, _]) => bias.into_iter().reduce(|sum, part| sum + part),
            _ => joined(bias),
        };
        [joined(query), joined(key), joined(value), of_bias]
    }

    /// With `P` for the shares and `dO` for the slope: `dV = Pᵀ dO`, and through the softmax
    /// `dS = P (dO Vᵀ - rows of dO O)`; then `dQ = dS K` and `dK = dSᵀ Q`, times the scale
    /// (Dao et al. 2022, appendix B.4).
    fn slopes_at_once(
        &self,
        mixed: Tensor<4>,
        slope: Tensor<4>,
        [of_query, of_key, of_value, of_bias]: [bool; 4],
    ) -> [Option<Tensor<4>>; 4] {
        let [batch, n_heads, seq, d_head] = self.query.dims();
        let KeyValue { key, value } = self.seen.clone();
        let [_, _, n_keys, _] = key.dims();
        let query = self.grouped(self.query.clone());
        let shares = self.shares(query.clone(), key.clone());
        let along = self.grouped((mixed * slope.clone()).sum_dim(3));
        let slope = self.grouped(slope);
        let value_slope = of_value.then(|| shares.clone().transpose().matmul(slope.clone()));
        if !(of_query || of_key || of_bias) {
            return [None, None, value_slope, None];
        }
        let score_slope = (slope.matmul(value.transpose()) - along) * shares;
        let bias_slope = match &self.bias {
            Some(bias) if of_bias => {
                let slope = score_slope.clone().reshape([batch, n_heads, seq, n_keys]);
                Some(summed_to(slope, bias.dims()))
            }
            _ => None,
        };
        let key_slope = of_key.then(|| {
            let query = query.mul_scalar(self.scale);
            score_slope.clone().transpose().matmul(query)
        });
        let query_slope = of_query.then(|| {
            let slope = score_slope.matmul(key).mul_scalar(self.scale);
            slope.reshape([batch, n_heads, seq, d_head])
        });
        [query_slope, key_slope, value_slope, bias_slope]
    }
}

/// Parts of a batch as one.
fn joined(mut parts: Vec<Tensor<4>>) -> Option<Tensor<4>> {
    match parts.len() {
        0 => None,
        1 => parts.pop(),
        _ => Some(Tensor::cat(parts, 0)),
    }
}

/// The sum over the axes that were repeated.
fn summed_to(slope: Tensor<4>, dims: [usize; 4]) -> Tensor<4> {
    let repeated = (0..4).filter(|axis| dims[*axis] == 1 && slope.dims()[*axis] > 1);
    repeated.fold(slope.clone(), |slope, axis| slope.sum_dim(axis))
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Tensor, activation};

    use super::{Inputs, attend};
    use crate::KeyValue;
    use crate::kernels::tests::{assert_same_gradients, close, values};

    /// Heads one by one, each with its own copy of the keys.
    fn one_by_one(
        query: &[f32],
        key: &[f32],
        value: &[f32],
        bias: &[f32],
        shape: [usize; 5],
    ) -> Vec<f32> {
        let [n_heads, n_kv_heads, seq, n_keys, d_head] = shape;
        let mut out = Vec::new();
        for head in 0..n_heads {
            let shared = head / (n_heads / n_kv_heads);
            for position in 0..seq {
                let q = &query[(head * seq + position) * d_head..][..d_head];
                let row =
                    |x: &[f32], k: usize| x[(shared * n_keys + k) * d_head..][..d_head].to_vec();
                let scores: Vec<f32> = (0..n_keys)
                    .map(|k| {
                        let dot: f32 = q.iter().zip(row(key, k)).map(|(a, b)| a * b).sum();
                        (0.3 * dot + bias[position * n_keys + k]).exp()
                    })
                    .collect();
                let total: f32 = scores.iter().sum();
                for feature in 0..d_head {
                    let sum: f32 = (0..n_keys)
                        .map(|k| scores[k] * row(value, k)[feature])
                        .sum();
                    out.push(sum / total);
                }
            }
        }
        out
    }

    #[test]
    fn heads_that_share_keys_equal_heads_with_copies() {
        for seq in [1, 3] {
            let (n_heads, n_kv_heads, n_keys, d_head) = (6, 2, 4, 5);
            let query = values([1, n_heads, seq, d_head], 0.0);
            let seen = KeyValue {
                key: values([1, n_kv_heads, n_keys, d_head], 1.0),
                value: values([1, n_kv_heads, n_keys, d_head], 2.0),
            };
            let bias = values([1, 1, seq, n_keys], 3.0);
            let expected = one_by_one(
                &host(query.clone()),
                &host(seen.key.clone()),
                &host(seen.value.clone()),
                &host(bias.clone()),
                [n_heads, n_kv_heads, seq, n_keys, d_head],
            );
            for query in [query.clone(), query.autodiff()] {
                let mixed = attend(query, seen.clone(), Some(bias.clone()), 0.3);
                close(&host(mixed), &expected);
            }
        }
    }

    fn host<const D: usize>(x: Tensor<D>) -> Vec<f32> {
        x.into_data().iter::<f32>().collect()
    }

    /// Out of matrix products and a softmax, with a copy of the keys for each head.
    fn parts(query: Tensor<4>, seen: KeyValue, bias: Option<Tensor<4>>, scale: f64) -> Tensor<4> {
        let [_, n_heads, _, _] = query.dims();
        let spread = |x: Tensor<4>| {
            let [batch, n_kv_heads, n_keys, d_head] = x.dims();
            let shared = n_heads / n_kv_heads;
            x.reshape([batch, n_kv_heads, 1, n_keys, d_head])
                .repeat_dim(2, shared)
                .reshape([batch, n_heads, n_keys, d_head])
        };
        let scores = query.matmul(spread(seen.key).transpose()).mul_scalar(scale);
        let scores = match bias {
            Some(bias) => scores + bias,
            None => scores,
        };
        activation::softmax(scores, 3).matmul(spread(seen.value))
    }

    #[test]
    fn gradients_are_those_of_the_parts() {
        let (batch, n_heads, seq, n_keys, d_head) = (3, 4, 5, 7, 6);
        for n_kv_heads in [1, 2, 4] {
            let inputs = [
                values([batch, n_heads, seq, d_head], 0.0),
                values([batch, n_kv_heads, n_keys, d_head], 1.0),
                values([batch, n_kv_heads, n_keys, d_head], 2.0),
            ];
            let without_bias = |[query, key, value]: [Tensor<4>; 3]| {
                attend(query, KeyValue { key, value }, None, 0.7)
            };
            assert_same_gradients(inputs.clone(), without_bias, |[query, key, value]| {
                parts(query, KeyValue { key, value }, None, 0.7)
            });
            for shape in [
                [1, 1, seq, n_keys],
                [batch, 1, 1, n_keys],
                [1, n_heads, seq, n_keys],
            ] {
                let [query, key, value] = inputs.clone();
                let inputs = [query, key, value, values(shape, 3.0)];
                let with_bias = |[query, key, value, bias]: [Tensor<4>; 4]| {
                    attend(query, KeyValue { key, value }, Some(bias), 0.7)
                };
                assert_same_gradients(inputs, with_bias, |[query, key, value, bias]| {
                    parts(query, KeyValue { key, value }, Some(bias), 0.7)
                });
            }
        }
    }

    /// A bias of all rows gathers what they say, one of each row does not.
    #[test]
    fn turns_add_up() {
        let (batch, n_heads, seq, d_head) = (3, 2, 4, 5);
        for rows_of_bias in [1, batch] {
            let at = |rows, n, shift| values([rows, n_heads, seq, n], shift);
            let inputs = Inputs {
                query: at(batch, d_head, 0.0),
                seen: KeyValue {
                    key: at(batch, d_head, 1.0),
                    value: at(batch, d_head, 2.0),
                },
                bias: Some(at(rows_of_bias, seq, 3.0)),
                scale: 0.7,
            };
            let slopes = |limit| {
                let slope = at(batch, d_head, 4.0);
                inputs.slopes(inputs.attended(), slope, [true; 4], limit)
            };
            let two_rows = 2 * n_heads * seq * seq;
            let at_once = slopes(batch * two_rows).map(|slope| host(slope.expect("wanted")));
            for limit in [1, two_rows] {
                let in_turns = slopes(limit).map(|slope| host(slope.expect("wanted")));
                for (found, expected) in in_turns.iter().zip(&at_once) {
                    close(found, expected);
                }
            }
        }
    }
}

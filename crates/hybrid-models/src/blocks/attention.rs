//! Multi-head attention (Vaswani et al. 2017, eq. 1) over frozen projections, with key heads that
//! several query heads may share (Ainslie et al. 2023).

use burn::tensor::Tensor;

use super::{LayerCache, Rotation, Sight};
use crate::kernels::{Packing, attend};
use crate::layers::LayerPlace;
use crate::{Aside, Hooks, KeyValue, Linear, Norm};

/// Projections of one layer and the shape of its heads.
#[derive(Debug, Clone)]
pub(crate) struct Attention {
    pub(crate) projections: Projections,
    /// Norms of each head's queries and keys, before position encoding.
    pub(crate) head_norms: Option<[Norm; 2]>,
    pub(crate) output: Linear,
    pub(crate) heads: Heads,
}

/// From hidden states to queries, keys and values.
#[derive(Debug, Clone)]
#[allow(
    clippy::large_enum_variant,
    reason = "made once for each layer of a model"
)]
pub(crate) enum Projections {
    Separate {
        query: Linear,
        key: Linear,
        value: Linear,
    },
    /// One layer with queries, keys and values side by side in its output.
    Fused(Linear),
}

/// Numbers of heads and what scores are multiplied with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Heads {
    pub(crate) n_heads: usize,
    /// A divisor of `n_heads`.
    pub(crate) n_kv_heads: usize,
    pub(crate) d_head: usize,
    pub(crate) scale: f64,
}

impl Heads {
    /// As many key heads as query heads, scores divided by the root of `d_head`.
    pub(crate) fn scaled(n_heads: usize, d_head: usize) -> Self {
        Self {
            n_heads,
            n_kv_heads: n_heads,
            d_head,
            scale: 1.0 / (d_head as f64).sqrt(),
        }
    }
}

/// What self-attention is given beside its input.
#[derive(Default)]
pub(crate) struct SelfInputs<'a> {
    /// Added to the scores, `[1 or batch, 1 or n_heads, 1 or seq, keys]`. When it is narrower than
    /// the keys, the keys in front are seen by all. None when all is seen.
    pub(crate) bias: Option<&'a Tensor<4>>,
    /// In place of a bias, what the queries of one row see, part after part.
    pub(crate) sights: Option<&'a [Sight]>,
    pub(crate) rotation: Option<&'a Rotation>,
    /// Stands in front of the keys and values.
    pub(crate) prefix: Option<&'a KeyValue>,
    /// Earlier keys and values, extended by the present ones.
    pub(crate) cache: Option<&'a mut LayerCache>,
    /// Where the tokens stand in their rows, when they come without padding.
    pub(crate) packing: Option<&'a Packing>,
}

impl Attention {
    /// Attention of a sequence to itself and to what is cached.
    ///
    /// # Shapes
    /// - `x`: `[batch, seq, d_model]`, or `[1, tokens, d_model]` without padding → the same
    pub(crate) fn forward(
        &self,
        x: Tensor<3>,
        inputs: SelfInputs<'_>,
        hooks: &dyn Hooks,
    ) -> Tensor<3> {
        let prefix = inputs.prefix;
        let prefix = prefix.map(|prefix| hooks.prefix(&self.output, &x, prefix));
        let (query, own) = self.project(x, inputs.packing, hooks);
        let (query, own) = match inputs.rotation {
            Some(rotation) => {
                let key = rotation.apply(own.key);
                (rotation.apply(query), KeyValue { key, ..own })
            }
            None => (query, own),
        };
        let beside = self.aside(&query, hooks);
        let own = match &prefix {
            Some(prefix) => after_prefix(prefix, own),
            None => own,
        };
        let seen = match inputs.cache {
            Some(cache) => cache.extend(own),
            None => own,
        };
        let scale = self.heads.scale;
        let mixed = match inputs.sights {
            Some(sights) => {
                let parts = sights
                    .iter()
                    .map(|sight| sight.attended(&query, &seen, scale));
                joined(Tensor::cat(parts.collect(), 2), beside)
            }
            None => mix(query, seen, inputs.bias, scale, beside),
        };
        let mixed = match inputs.packing {
            Some(packing) => packing.pack(mixed),
            None => mixed,
        };
        hooks.linear(&self.output, mixed)
    }

    /// What queries find among states that stand aside.
    ///
    /// # Shapes
    /// - `query`: `[batch, n_heads, seq, d_head]` → the same
    fn aside(&self, query: &Tensor<4>, hooks: &dyn Hooks) -> Option<Tensor<4>> {
        let Projections::Separate { key, value, .. } = &self.projections else {
            return None;
        };
        let Aside { states, gate } = hooks.aside(key)?;
        let [batch, _, _, d_head] = query.dims();
        let n_kv_heads = self.heads.n_kv_heads;
        let [_, n, _] = states.dims();
        let of_rows = |projected: Tensor<3>| {
            split_heads(projected, n_kv_heads).expand([batch, n_kv_heads, n, d_head])
        };
        let seen = KeyValue {
            key: of_rows(key.forward(states.clone())),
            value: of_rows(value.forward(states)),
        };
        Some(attend(query.clone(), seen, None, self.heads.scale) * gate.unsqueeze())
    }

    /// Queries, keys and values of a sequence, normalised where the layer does so.
    ///
    /// # Shapes
    /// - `x`: `[batch, seq, d_model]`, or `[1, tokens, d_model]` when packed →
    ///   `[batch, n_heads, seq, d_head]`, and twice `[batch, n_kv_heads, seq, d_head]`
    pub(crate) fn project(
        &self,
        x: Tensor<3>,
        packing: Option<&Packing>,
        hooks: &dyn Hooks,
    ) -> (Tensor<4>, KeyValue) {
        let Heads {
            n_heads,
            n_kv_heads,
            d_head,
            ..
        } = self.heads;
        let [query, key, value] = match &self.projections {
            Projections::Separate { query, key, value } => [
                hooks.linear(query, x.clone()),
                hooks.linear(key, x.clone()),
                hooks.linear(value, x),
            ],
            Projections::Fused(linear) => {
                let [wide, narrow] = [n_heads * d_head, n_kv_heads * d_head];
                let all = hooks.linear(linear, x);
                [
                    all.clone().narrow(2, 0, wide),
                    all.clone().narrow(2, wide, narrow),
                    all.narrow(2, wide + narrow, narrow),
                ]
            }
        };
        let (query, key) = match &self.head_norms {
            Some([of_query, of_key]) => (
                norm_heads(of_query, query, d_head, hooks),
                norm_heads(of_key, key, d_head, hooks),
            ),
            None => (query, key),
        };
        let [query, key, value] = match packing {
            Some(packing) => [query, key, value].map(|y| packing.unpack(y)),
            None => [query, key, value],
        };
        let key = split_heads(key, n_kv_heads);
        let value = split_heads(value, n_kv_heads);
        (split_heads(query, n_heads), KeyValue { key, value })
    }

    pub(crate) fn places(&mut self) -> impl Iterator<Item = LayerPlace<'_>> {
        let projections = match &mut self.projections {
            Projections::Separate { query, key, value } => vec![query, key, value],
            Projections::Fused(linear) => vec![linear],
        };
        projections
            .into_iter()
            .map(LayerPlace::Linear)
            .chain(self.head_norms.iter_mut().flatten().map(LayerPlace::Norm))
            .chain([LayerPlace::Linear(&mut self.output)])
    }
}

impl Sight {
    /// What these queries find.
    ///
    /// # Shapes
    /// - `query`: `[1, n_heads, seq, d_head]`, `seen`: twice `[1, n_kv_heads, keys, d_head]` →
    ///   `[1, n_heads, queries, d_head]`
    fn attended(&self, query: &Tensor<4>, seen: &KeyValue, scale: f64) -> Tensor<4> {
        let (start, n_keys) = (self.queries.start, self.keys.len());
        let query = query.clone().narrow(2, start, self.queries.len());
        let seen = match self.keys.last() {
            Some(last) if last + 1 == n_keys => KeyValue {
                key: seen.key.clone().narrow(2, 0, n_keys),
                value: seen.value.clone().narrow(2, 0, n_keys),
            },
            _ => seen.clone().select(2, &self.keys),
        };
        attend(query, seen, Some(self.bias.clone()), scale)
    }
}

/// Mixes values by how queries fit keys, and adds what stands beside.
///
/// # Shapes
/// - `query`: `[batch, n_heads, seq, d_head]`, `seen`: twice `[batch, n_kv_heads, keys, d_head]` →
///   `[batch, seq, n_heads * d_head]`
pub(crate) fn mix(
    query: Tensor<4>,
    seen: KeyValue,
    bias: Option<&Tensor<4>>,
    scale: f64,
    beside: Option<Tensor<4>>,
) -> Tensor<3> {
    let [_, _, n_keys, _] = seen.key.dims();
    let bias = bias.map(|bias| widened(bias.clone(), n_keys));
    joined(attend(query, seen, bias, scale), beside)
}

/// The heads side by side, with what stands beside.
///
/// # Shapes
/// - `mixed`: `[batch, n_heads, seq, d_head]` → `[batch, seq, n_heads * d_head]`
fn joined(mixed: Tensor<4>, beside: Option<Tensor<4>>) -> Tensor<3> {
    let mixed = match beside {
        Some(beside) => mixed + beside,
        None => mixed,
    };
    let [batch, n_heads, seq, d_head] = mixed.dims();
    mixed
        .swap_dims(1, 2)
        .reshape([batch, seq, n_heads * d_head])
}

/// # Shapes
/// - `y`: `[batch, seq, n_heads * d_head]` → `[batch, n_heads, seq, d_head]`
pub(crate) fn split_heads(y: Tensor<3>, n_heads: usize) -> Tensor<4> {
    let [batch, seq, width] = y.dims();
    y.reshape([batch, seq, n_heads, width / n_heads])
        .swap_dims(1, 2)
}

/// # Shapes
/// - `y`: `[batch, seq, n_heads * d_head]` → the same
fn norm_heads(norm: &Norm, y: Tensor<3>, d_head: usize, hooks: &dyn Hooks) -> Tensor<3> {
    let [batch, seq, width] = y.dims();
    let rows = y.reshape([batch, seq * width / d_head, d_head]);
    hooks.norm(norm, rows).reshape([batch, seq, width])
}

/// Keys and values with those of a prefix in front, which may be one for all rows.
fn after_prefix(prefix: &KeyValue, own: KeyValue) -> KeyValue {
    let [batch, _, _, _] = own.key.dims();
    let in_front = |prefix: &Tensor<4>, own: Tensor<4>| {
        let [_, n_heads, positions, d_head] = prefix.dims();
        let prefix = prefix.clone().expand([batch, n_heads, positions, d_head]);
        Tensor::cat(vec![prefix, own], 2)
    };
    KeyValue {
        key: in_front(&prefix.key, own.key),
        value: in_front(&prefix.value, own.value),
    }
}

/// A bias with zeros in front until it is as wide as there are keys.
fn widened(bias: Tensor<4>, n_keys: usize) -> Tensor<4> {
    let [batch, n_heads, seq, width] = bias.dims();
    match n_keys - width {
        0 => bias,
        missing => {
            let seen = Tensor::zeros([batch, n_heads, seq, missing], &bias.device());
            Tensor::cat(vec![seen, bias], 3)
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Tensor};

    use super::widened;

    #[test]
    fn keys_in_front_of_a_bias_are_seen() {
        let host = |x: Tensor<4>| x.into_data().iter::<f32>().collect::<Vec<_>>();
        let bias = Tensor::<4>::from_floats([[[[-1.0, -2.0]]]], &Device::flex());
        assert_eq!(host(widened(bias.clone(), 4)), [0.0, 0.0, -1.0, -2.0]);
        assert_eq!(host(widened(bias, 2)), [-1.0, -2.0]);
    }
}

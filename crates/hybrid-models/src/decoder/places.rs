//! Where tokens stand among all keys, and which keys they see.

use burn::tensor::{Device, Int, Tensor, TensorData};

use super::DecoderBatch;

/// What hides a key. The sum of two does not overflow, in bfloat16 neither.
const HIDDEN: f32 = f32::MAX / 4.0;

/// Where the present tokens stand among all keys.
pub(super) struct Places {
    /// Keys before the present ones: cached ones and those of a prefix.
    pub(super) past: usize,
    /// Present vectors, soft prompts included.
    pub(super) own: usize,
    pub(super) n_soft: usize,
    /// All that hooks have put in front, now or before.
    pub(super) n_virtual: usize,
}

impl Places {
    pub(super) fn keys(&self) -> usize {
        self.past + self.own
    }

    /// # Shapes
    /// - `[1 or batch, own]`
    pub(super) fn position_ids(&self, batch: &DecoderBatch) -> Tensor<2, Int> {
        let device = batch.input_ids.device();
        let counted = |start: usize, end: usize| {
            Tensor::<1, Int>::arange(start as i64..end as i64, &device).unsqueeze::<2>()
        };
        let Some(ids) = &batch.position_ids else {
            return counted(self.past, self.keys());
        };
        let ids = ids.clone() + self.n_virtual as i64;
        if self.n_soft == 0 {
            return ids;
        }
        let [size, _] = ids.dims();
        let soft = counted(self.past, self.past + self.n_soft).expand([size, self.n_soft]);
        Tensor::cat(vec![soft, ids], 1)
    }
}

/// # Shapes
/// - `mask`: `[batch, cached + seq]` → `[batch, 1, 1, keys]`
pub(super) fn padding_bias(mask: &Tensor<2, Int>, n_virtual: usize) -> Tensor<4> {
    let [size, width] = mask.dims();
    let bias = (mask.clone().float() - 1.0) * HIDDEN;
    let bias = match n_virtual {
        0 => bias,
        seen => Tensor::cat(vec![Tensor::zeros([size, seen], &bias.device()), bias], 1),
    };
    bias.reshape([size, 1, 1, n_virtual + width])
}

/// What hides later keys, those outside the window, and padding; none when nothing is hidden.
///
/// # Shapes
/// - `padding`: `[batch, 1, 1, keys]` → `[1 or batch, 1, 1 or own, keys]`
pub(super) fn causal_bias(
    places: &Places,
    window: Option<usize>,
    padding: Option<Tensor<4>>,
    device: &Device,
) -> Option<Tensor<4>> {
    let (own, keys) = (places.own, places.keys());
    let window = window.filter(|window| *window < keys);
    if own == 1 && window.is_none() {
        return padding;
    }
    let count =
        |start: usize, end: usize| Tensor::<1, Int>::arange(start as i64..end as i64, device);
    let queries: Tensor<2, Int> = count(places.past, keys).unsqueeze_dim(1);
    let distance = queries - count(0, keys).unsqueeze_dim(0);
    let mut hidden = distance.clone().lower_elem(0);
    if let Some(window) = window {
        hidden = hidden.bool_or(distance.greater_equal_elem(window as i64));
    }
    let bias = (hidden.float() * -HIDDEN).reshape([1, 1, own, keys]);
    Some(match padding {
        Some(padding) => bias + padding,
        None => bias,
    })
}

/// Tokens of a tree that are read at once, parents first. What the cache holds of it is the path
/// from the root to the parent of the first of them.
pub(crate) struct TreeTokens {
    /// Of each token, from 0 at the root.
    pub(crate) depths: Vec<usize>,
    /// Of each token, its place among these tokens, or none when the parent is in the cache.
    pub(crate) parents: Vec<Option<usize>>,
}

impl TreeTokens {
    /// What hides all keys but a token's own, its ancestors', and those that hooks put in front.
    ///
    /// # Shapes
    /// - `[1, 1, own, keys]`
    pub(super) fn bias(
        &self,
        places: &Places,
        window: Option<usize>,
        device: &Device,
    ) -> Tensor<4> {
        let (keys, n_virtual) = (places.keys(), places.n_virtual);
        let n_tokens = self.depths.len();
        let n_path = keys - n_virtual - n_tokens;
        let position = |key: usize| match key.checked_sub(n_virtual + n_path) {
            Some(token) => n_virtual + self.depths[token],
            None => key,
        };
        let mut rows: Vec<Vec<bool>> = Vec::with_capacity(n_tokens);
        for (token, (depth, parent)) in self.depths.iter().zip(&self.parents).enumerate() {
            let mut seen = match parent {
                Some(parent) => rows[*parent].clone(),
                None => (0..keys).map(|key| key < n_virtual + depth).collect(),
            };
            seen[n_virtual + n_path + token] = true;
            rows.push(seen);
        }
        let soft = (0..places.n_soft).map(|soft| {
            let seen = (0..keys).map(|key| key <= places.past + soft).collect();
            (places.past + soft, seen)
        });
        let tokens = rows.into_iter().enumerate();
        let tokens = tokens.map(|(token, seen)| (n_virtual + self.depths[token], seen));
        let mut values = Vec::with_capacity(places.own * keys);
        for (query, seen) in soft.chain(tokens) {
            let near = |key| window.is_none_or(|window| query < position(key) + window);
            let hidden = seen
                .iter()
                .enumerate()
                .map(|(key, seen)| !(*seen && near(key)));
            values.extend(hidden.map(|hidden| if hidden { -HIDDEN } else { 0.0 }));
        }
        Tensor::from_data(TensorData::new(values, [1, 1, places.own, keys]), device)
    }
}

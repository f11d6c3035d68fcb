//! Where tokens stand among all keys, and which keys they see.

use burn::tensor::{Device, Int, Tensor};

use super::DecoderBatch;
use crate::blocks::{Sight, causal_bias};
use crate::device::is_host;

/// Tokens of a tree that attend together on a processor.
const TOGETHER: usize = 64;

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

/// What hides later keys, those outside the window, and padding; none when nothing is hidden.
///
/// # Shapes
/// - `padding`: `[batch, 1, 1, keys]` → `[1 or batch, 1, 1 or own, keys]`
pub(super) fn bias(
    places: &Places,
    window: Option<usize>,
    padding: Option<Tensor<4>>,
    device: &Device,
) -> Option<Tensor<4>> {
    let causal = causal_bias(places.past, places.own, window, device);
    causal.into_iter().chain(padding).reduce(|a, b| a + b)
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
    /// What each token sees: its own key, its ancestors', and those that hooks put in front. On a
    /// processor a few tokens at a time attend to what they see alone; elsewhere fewer and larger
    /// operations take less time.
    pub(super) fn sights(
        &self,
        places: &Places,
        window: Option<usize>,
        device: &Device,
    ) -> Vec<Sight> {
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
        let near = |(query, mut seen): (usize, Vec<bool>)| {
            if let Some(window) = window {
                let keys = seen.iter_mut().enumerate();
                keys.for_each(|(key, seen)| *seen &= query < position(key) + window);
            }
            seen
        };
        let rows: Vec<Vec<bool>> = soft.chain(tokens).map(near).collect();
        let together = match is_host(device) {
            true => TOGETHER,
            false => rows.len(),
        };
        let parts = (0..).step_by(together).zip(rows.chunks(together));
        let sight = |(start, rows): (usize, &[Vec<bool>])| Sight::of_rows(start, rows, device);
        parts.map(sight).collect()
    }
}

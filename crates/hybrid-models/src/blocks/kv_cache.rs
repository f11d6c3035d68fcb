//! Keys and values of the tokens so far, in room that is allocated ahead.

use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::KeyValue;

/// Positions by which the room grows.
const BLOCK: usize = 128;

/// The keys and values that a decoder has computed, one entry for each layer.
#[derive(Debug, Clone)]
pub struct KvCache {
    pub(crate) layers: Vec<LayerCache>,
    /// Positions in front of the tokens that come from hooks.
    pub(crate) n_virtual: usize,
}

impl KvCache {
    /// An empty cache of `n_layers` layers with room for `capacity` positions; it grows when that
    /// is used up.
    pub fn new(n_layers: usize, capacity: usize) -> Self {
        let layer = LayerCache {
            room: None,
            len: 0,
            capacity,
        };
        Self {
            layers: vec![layer; n_layers],
            n_virtual: 0,
        }
    }

    /// Positions held, those of hooks included.
    pub fn len(&self) -> usize {
        self.layers.first().map_or(0, |layer| layer.len)
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The keys and values of all positions, one entry a layer, as [`crate::Hooks::key_values`]
    /// takes them.
    pub fn key_values(&self) -> Vec<KeyValue> {
        let used = |layer: &LayerCache| {
            let room = layer.room.clone()?;
            Some(KeyValue {
                key: room.key.narrow(2, 0, layer.len),
                value: room.value.narrow(2, 0, layer.len),
            })
        };
        self.layers.iter().filter_map(used).collect()
    }

    /// Keeps these rows of the batch in this order; a row may be kept more than once.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn select(&mut self, rows: &[usize]) {
        for layer in &mut self.layers {
            layer.room = layer.room.take().map(|room| room.select(0, rows));
        }
    }

    /// Keeps these positions in this order, after those that come from hooks.
    ///
    /// # Panics
    /// If one is not held.
    pub(crate) fn keep_positions(&mut self, positions: &[usize]) {
        let positions = positions.iter().map(|position| self.n_virtual + position);
        let positions: Vec<usize> = (0..self.n_virtual).chain(positions).collect();
        assert!(positions.iter().all(|position| *position < self.len()));
        let in_place = positions.iter().copied().eq(0..positions.len());
        for layer in &mut self.layers {
            layer.len = positions.len();
            if !in_place {
                layer.room = layer.room.take().map(|room| room.select(2, &positions));
            }
        }
    }
}

impl KeyValue {
    fn select(self, dim: usize, indices: &[usize]) -> Self {
        let device: Device = self.key.device();
        let indices: Vec<i32> = indices.iter().map(|index| *index as i32).collect();
        let n = indices.len();
        let indices: Tensor<1, Int> = Tensor::from_data(TensorData::new(indices, [n]), &device);
        Self {
            key: self.key.select(dim, indices.clone()),
            value: self.value.select(dim, indices),
        }
    }
}

/// Keys and values of one layer.
#[derive(Debug, Clone)]
pub(crate) struct LayerCache {
    /// `[batch, n_kv_heads, room, d_head]`, of which the first `len` positions are used.
    room: Option<KeyValue>,
    len: usize,
    capacity: usize,
}

impl LayerCache {
    /// Adds positions and gives all, as views of the room: while none of those lives, adding
    /// writes in place.
    pub(crate) fn extend(&mut self, own: KeyValue) -> KeyValue {
        let [_, _, seq, _] = own.key.dims();
        let (start, end) = (self.len, self.len + seq);
        let room = self.take_room(&own, end);
        let put = |room: Tensor<4>, own: Tensor<4>| {
            let [batch, n_heads, _, d_head] = own.dims();
            room.slice_assign([0..batch, 0..n_heads, start..end, 0..d_head], own)
        };
        let room = KeyValue {
            key: put(room.key, own.key),
            value: put(room.value, own.value),
        };
        let used = KeyValue {
            key: room.key.clone().narrow(2, 0, end),
            value: room.value.clone().narrow(2, 0, end),
        };
        self.room = Some(room);
        self.len = end;
        used
    }

    /// Room for `end` positions that starts with what is held.
    fn take_room(&mut self, own: &KeyValue, end: usize) -> KeyValue {
        let held = self.room.take();
        if let Some(room) = held {
            if room.key.dims()[2] >= end {
                return room;
            }
            return KeyValue {
                key: self.wider(room.key, end),
                value: self.wider(room.value, end),
            };
        }
        let positions = self.positions(end);
        let empty = |own: &Tensor<4>| {
            let [batch, n_heads, _, d_head] = own.dims();
            Tensor::zeros([batch, n_heads, positions, d_head], &own.device())
        };
        KeyValue {
            key: empty(&own.key),
            value: empty(&own.value),
        }
    }

    fn positions(&self, end: usize) -> usize {
        self.capacity.max(end.next_multiple_of(BLOCK))
    }

    fn wider(&self, held: Tensor<4>, end: usize) -> Tensor<4> {
        let [batch, n_heads, old, d_head] = held.dims();
        let missing = self.positions(end) - old;
        let room = Tensor::zeros([batch, n_heads, missing, d_head], &held.device());
        Tensor::cat(vec![held, room], 2)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Tensor, TensorData};

    use super::{BLOCK, KvCache};
    use crate::KeyValue;

    /// Two rows, two heads, `seq` positions of three features, counted on from `from`.
    fn counted(from: usize, seq: usize) -> KeyValue {
        let values = |sign: f32| {
            let values: Vec<f32> = (0..2 * 2 * seq * 3)
                .map(|i| sign * (from * 100 + i) as f32)
                .collect();
            Tensor::<4>::from_data(TensorData::new(values, [2, 2, seq, 3]), &Device::flex())
        };
        KeyValue {
            key: values(1.0),
            value: values(-1.0),
        }
    }

    #[test]
    fn rows_and_positions_are_kept_in_the_order_asked_for() {
        let mut cache = KvCache::new(1, 0);
        let own = counted(0, 5);
        cache.layers[0].extend(own.clone());
        cache.select(&[1, 1, 0]);
        cache.keep_positions(&[0, 3]);
        assert_eq!(cache.len(), 2);
        let last =
            |x: Tensor<4>| Tensor::cat(vec![x.clone().narrow(0, 1, 1); 3], 0).narrow(2, 0, 1);
        let more = KeyValue {
            key: last(own.key.clone()),
            value: last(own.value.clone()),
        };
        let used = cache.layers[0].extend(more.clone());
        let expected = |old: Tensor<4>, more: Tensor<4>| {
            let (a, b) = (old.clone().narrow(0, 0, 1), old.narrow(0, 1, 1));
            let rows = Tensor::cat(vec![b.clone(), b, a], 0);
            let (first, fourth) = (rows.clone().narrow(2, 0, 1), rows.narrow(2, 3, 1));
            Tensor::cat(vec![first, fourth, more], 2).into_data()
        };
        assert_eq!(used.key.into_data(), expected(own.key, more.key));
        assert_eq!(used.value.into_data(), expected(own.value, more.value));
    }

    #[test]
    fn a_cache_holds_what_a_concatenation_holds() {
        let mut cache = KvCache::new(1, 3);
        let mut all: Option<KeyValue> = None;
        for (step, seq) in [2, 1, 1, 5, BLOCK, 1].into_iter().enumerate() {
            let own = counted(step, seq);
            let joined = match all {
                None => own.clone(),
                Some(old) => KeyValue {
                    key: Tensor::cat(vec![old.key, own.key.clone()], 2),
                    value: Tensor::cat(vec![old.value, own.value.clone()], 2),
                },
            };
            let used = cache.layers[0].extend(own);
            assert_eq!(used.key.to_data(), joined.key.to_data());
            assert_eq!(used.value.to_data(), joined.value.to_data());
            all = Some(joined);
        }
        assert_eq!(cache.len(), 10 + BLOCK);
        cache.n_virtual = 2;
        cache.keep_positions(&[5]);
        assert_eq!(cache.len(), 3);
    }
}

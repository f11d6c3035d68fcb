//! T5's bias of attention scores by how far a key is from its query (Raffel et al. 2020, section
//! 2.1): near distances have a bucket each, far ones share logarithmically wider buckets.

use burn::tensor::{Tensor, TensorData};

use crate::{Embedding, Hooks};

/// One number for each bucket and head.
#[derive(Debug, Clone)]
pub(crate) struct RelativeBias {
    /// `[n_buckets, n_heads]`.
    pub(crate) table: Embedding,
    pub(crate) buckets: Buckets,
}

impl RelativeBias {
    /// The bias of queries that are the last `own` of all positions.
    ///
    /// # Shapes
    /// - `[1, n_heads, own, past + own]`
    pub(crate) fn forward(&self, past: usize, own: usize, hooks: &dyn Hooks) -> Tensor<4> {
        let keys = past + own;
        let distances =
            (past..keys).flat_map(|query| (0..keys).map(move |key| key as i64 - query as i64));
        let buckets: Vec<i64> = distances
            .map(|distance| self.buckets.of(distance) as i64)
            .collect();
        let buckets = TensorData::new(buckets, [own, keys]);
        let buckets = Tensor::from_data(buckets, &self.table.weight.device());
        let bias = hooks.embedding(&self.table, buckets);
        bias.permute([2, 0, 1]).unsqueeze()
    }
}

/// How distances fall into buckets.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Buckets {
    /// At least [`MIN_BUCKETS`](Self::MIN_BUCKETS).
    pub(crate) n_buckets: usize,
    /// From here on all distances share the last bucket; more than `n_buckets / 2`.
    pub(crate) max_distance: usize,
    /// Whether keys after the query have buckets of their own.
    pub(crate) both_directions: bool,
}

impl Buckets {
    /// With fewer there is no bucket for distance 1 in either direction.
    pub(crate) const MIN_BUCKETS: usize = 4;

    /// The bucket of a key's position less the query's.
    ///
    /// In float32 and in this order, as Transformers computes it, so that both round alike.
    fn of(self, distance: i64) -> usize {
        let (n_buckets, first) = match self.both_directions {
            true if distance > 0 => (self.n_buckets / 2, self.n_buckets / 2),
            true => (self.n_buckets / 2, 0),
            false => (self.n_buckets, 0),
        };
        let distance = match self.both_directions {
            true => distance.unsigned_abs() as usize,
            false => (-distance).max(0) as usize,
        };
        let n_exact = n_buckets / 2;
        if distance < n_exact {
            return first + distance;
        }
        let widest = (self.max_distance as f64 / n_exact as f64).ln() as f32;
        let far = (distance as f32 / n_exact as f32).ln() / widest;
        let far = (far * (n_buckets - n_exact) as f32) as usize;
        first + (n_exact + far).min(n_buckets - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::Buckets;

    /// How many distances in a row share a bucket, from 0 on, away from the query.
    fn widths(buckets: Buckets, sign: i64) -> Vec<usize> {
        let of = |distance: i64| buckets.of(sign * distance);
        let mut widths = vec![1];
        for distance in 1..=600 {
            match of(distance) == of(distance - 1) {
                true => *widths.last_mut().expect("one width from the start") += 1,
                false => widths.push(1),
            }
        }
        widths
    }

    /// The widths that `T5Attention._relative_position_bucket` of Transformers 5.23 has for the
    /// distances up to 600.
    #[test]
    fn buckets_widen_as_those_of_transformers() {
        let of = |n_buckets, max_distance, both_directions| Buckets {
            n_buckets,
            max_distance,
            both_directions,
        };
        let both = [1, 1, 1, 1, 1, 1, 1, 1, 4, 4, 7, 9, 14, 18, 27, 510];
        assert_eq!(widths(of(32, 128, true), -1), both);
        assert_eq!(widths(of(32, 128, true), 1), both);
        let mut backward = vec![1; 16];
        backward.extend([3, 2, 3, 3, 4, 4, 5, 6, 6, 7, 8, 10, 10, 12, 14, 488]);
        assert_eq!(widths(of(32, 128, false), -1), backward);
        assert_eq!(widths(of(32, 128, false), 1), [601]);
        assert_eq!(widths(of(10, 15, true), -1), [1, 1, 2, 4, 593]);
        assert_eq!(
            widths(of(10, 15, false), -1),
            [1, 1, 1, 1, 1, 2, 1, 2, 3, 588]
        );
        assert_eq!(widths(of(6, 9, true), -1), [1, 2, 598]);
        assert_eq!(widths(of(6, 9, false), -1), [1, 1, 1, 2, 2, 594]);
        let far = widths(of(64, 500, false), -1);
        assert_eq!(far[30..40], [1, 1, 3, 3, 4, 4, 4, 4, 5, 5]);
        assert_eq!(far[55..], [21, 23, 24, 27, 29, 32, 35, 37, 142]);
    }

    #[test]
    fn directions_have_buckets_of_their_own() {
        let buckets = Buckets {
            n_buckets: 8,
            max_distance: 12,
            both_directions: true,
        };
        assert_eq!([0, -1, -2, -40].map(|d| buckets.of(d)), [0, 1, 2, 3]);
        assert_eq!([1, 2, 40].map(|d| buckets.of(d)), [5, 6, 7]);
    }
}

//! What attention does not see, as biases that are added to its scores.

use std::ops::Range;

use burn::tensor::{Device, Int, Tensor, TensorData};

/// What hides a key. The sum of two does not overflow, in bfloat16 neither.
pub(crate) const HIDDEN: f32 = f32::MAX / 4.0;

/// Some queries, and the keys that any of them sees.
#[derive(Debug, Clone)]
pub(crate) struct Sight {
    pub(crate) queries: Range<usize>,
    /// In ascending order.
    pub(crate) keys: Vec<usize>,
    /// What hides those of the keys that one query does not see, `[1, 1, queries, keys]`.
    pub(crate) bias: Tensor<4>,
}

impl Sight {
    /// Of the queries from `start` on, each with what it sees of all keys.
    pub(crate) fn of_rows(start: usize, rows: &[Vec<bool>], device: &Device) -> Self {
        let n_keys = rows.first().map_or(0, Vec::len);
        let is_seen = |key: &usize| rows.iter().any(|row| row[*key]);
        let keys: Vec<usize> = (0..n_keys).filter(is_seen).collect();
        let mut values = Vec::with_capacity(rows.len() * keys.len());
        for row in rows {
            let seen = keys.iter().map(|key| row[*key]);
            values.extend(seen.map(|seen| if seen { 0.0 } else { -HIDDEN }));
        }
        let values = TensorData::new(values, [1, 1, rows.len(), keys.len()]);
        Self {
            queries: start..start + rows.len(),
            keys,
            bias: Tensor::from_data(values, device),
        }
    }
}

/// Hides padding. The `in_front` keys before those of the mask are seen.
///
/// # Shapes
/// - `mask`, 1 for tokens and 0 for padding: `[batch, seq]` → `[batch, 1, 1, in_front + seq]`
pub(crate) fn padding_bias(mask: &Tensor<2, Int>, in_front: usize) -> Tensor<4> {
    let [batch, seq] = mask.dims();
    let bias = (mask.clone().float() - 1.0) * HIDDEN;
    let bias = match in_front {
        0 => bias,
        seen => Tensor::cat(vec![Tensor::zeros([batch, seen], &bias.device()), bias], 1),
    };
    bias.reshape([batch, 1, 1, in_front + seq])
}

/// Hides the keys that come after a query, and those that a window leaves out: none when there are
/// no such keys. The queries are the last `own` of all positions; a query sees `window` keys, its
/// own included.
///
/// # Shapes
/// - `[1, 1, own, past + own]`
pub(crate) fn causal_bias(
    past: usize,
    own: usize,
    window: Option<usize>,
    device: &Device,
) -> Option<Tensor<4>> {
    let keys = past + own;
    let window = window.filter(|window| *window < keys);
    if own == 1 && window.is_none() {
        return None;
    }
    let count = |start: usize| Tensor::<1, Int>::arange(start as i64..keys as i64, device);
    let distance = count(past).unsqueeze_dim::<2>(1) - count(0).unsqueeze_dim::<2>(0);
    let mut hidden = distance.clone().lower_elem(0);
    if let Some(window) = window {
        hidden = hidden.bool_or(distance.greater_equal_elem(window as i64));
    }
    Some((hidden.float() * -HIDDEN).reshape([1, 1, own, keys]))
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Tensor};

    use super::{HIDDEN, causal_bias, padding_bias};

    #[test]
    fn later_keys_are_hidden() {
        let bias = |past, own, window| {
            let bias = causal_bias(past, own, window, &Device::flex())?;
            Some(bias.into_data().iter::<f32>().collect::<Vec<f32>>())
        };
        let all = [0.0, 0.0, -HIDDEN, 0.0, 0.0, 0.0];
        assert_eq!(bias(1, 2, None).unwrap(), all);
        assert_eq!(bias(1, 2, Some(3)).unwrap(), all);
        let near = [0.0, 0.0, -HIDDEN, -HIDDEN, 0.0, 0.0];
        assert_eq!(bias(1, 2, Some(2)).unwrap(), near);
        assert_eq!(bias(2, 1, None), None);
        assert_eq!(bias(2, 1, Some(1)).unwrap(), [-HIDDEN, -HIDDEN, 0.0]);
    }

    #[test]
    fn padding_is_hidden_and_what_stands_in_front_is_not() {
        let mask = Tensor::from_ints([[1, 1, 0], [0, 1, 1]], &Device::flex());
        let bias = padding_bias(&mask, 1);
        assert_eq!(bias.dims(), [2, 1, 1, 4]);
        let bias: Vec<f32> = bias.into_data().iter().collect();
        assert_eq!(bias, [0.0, 0.0, 0.0, -HIDDEN, 0.0, -HIDDEN, 0.0, 0.0]);
    }
}

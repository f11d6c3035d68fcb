//! Activations under the lowest adapted layer, computed once.
//!
//! Everything under that layer is a pure function of the input (base and earlier adapters are frozen
//! and dropout is off), so its output is kept on the host and reused in every epoch.

use burn::tensor::{Tensor, TensorData};
use hybrid_data::{BatchLimits, BatchOrder, Encoding, length_buckets};
use hybrid_eval::EncoderSize;
use hybrid_models::{EncoderBatch, Hooks};

use crate::local_model::{LocalModel, host_rows};

/// Bytes that cached activations may take.
const MAX_BYTES: usize = 256 << 20;

/// The hidden states of every row after the first `layers` layers.
pub(crate) struct PrefixCache {
    layers: usize,
    d_model: usize,
    /// One row: `[seq, d_model]`, its padding left out.
    rows: Vec<Vec<f32>>,
}

impl PrefixCache {
    /// Runs the first `layers` layers over all rows, unless that saves nothing or takes too much
    /// memory. `frozen` are adapters that act there and are not trained.
    pub(crate) fn build(
        model: &mut LocalModel,
        encodings: &[Encoding],
        layers: usize,
        frozen: &dyn Hooks,
    ) -> Option<Self> {
        let d_model = model.base.encoder.d_model();
        let tokens: usize = encodings.iter().map(|encoding| encoding.ids.len()).sum();
        if layers == 0 || tokens * d_model * size_of::<f32>() > MAX_BYTES {
            return None;
        }
        let lengths: Vec<usize> = encodings
            .iter()
            .map(|encoding| encoding.ids.len())
            .collect();
        let mut rows = vec![Vec::new(); encodings.len()];
        let (size, mut flops) = (
            EncoderSize {
                n_layers: layers,
                ..model.size()
            },
            0.0,
        );
        let limits = BatchLimits {
            max_rows: 64,
            max_tokens: 2048,
        };
        for indices in length_buckets(&lengths, limits, BatchOrder::Sorted) {
            let batch = model.batch(encodings, &indices);
            let encoder = &model.base.encoder;
            let attention = encoder.attention(&batch, frozen);
            let mut hidden = encoder.embed(&batch, &attention, frozen);
            for index in 0..layers {
                hidden = encoder.layer(index, hidden, &attention, frozen);
            }
            let [n_rows, seq, _] = hidden.dims();
            flops += size.forward_flops(n_rows, seq);
            let values = host_rows(hidden.reshape([n_rows, seq * d_model]));
            for (row, mut value) in indices.into_iter().zip(values) {
                value.truncate(lengths[row] * d_model);
                rows[row] = value;
            }
        }
        model.count_tokens(encodings);
        model.count_flops(flops);
        Some(Self {
            layers,
            d_model,
            rows,
        })
    }

    /// The last hidden states of some rows, from the cached layer upward.
    ///
    /// # Shapes
    /// - `batch`: the padded rows, `[batch, seq]` → `[batch, seq, d_model]`
    pub(crate) fn forward(
        &self,
        model: &LocalModel,
        rows: &[usize],
        batch: &EncoderBatch,
        hooks: &dyn Hooks,
    ) -> Tensor<3> {
        let [size, seq] = batch.input_ids.dims();
        let mut values = vec![0.0; size * seq * self.d_model];
        for (slot, row) in values.chunks_mut(seq * self.d_model).zip(rows) {
            let row = &self.rows[*row];
            slot[..row.len()].copy_from_slice(row);
        }
        let mut hidden = Tensor::from_data(
            TensorData::new(values, [size, seq, self.d_model]),
            &model.device,
        );
        let encoder = &model.base.encoder;
        let attention = encoder.attention(batch, hooks);
        for index in self.layers..encoder.n_layers() {
            hidden = encoder.layer(index, hidden, &attention, hooks);
        }
        hidden
    }
}

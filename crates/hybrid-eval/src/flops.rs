//! Estimated floating point operations of an encoder, from its sizes.
//!
//! A product of `[m, k]` and `[k, n]` counts `2·m·k·n`. Norms, activations, softmax and embedding
//! look-ups are left out: together they stay below a few per cent.

/// Sizes of a transformer encoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EncoderSize {
    /// Number of layers.
    pub n_layers: usize,
    /// Width of the hidden states.
    pub d_model: usize,
    /// Width inside the feed-forward blocks.
    pub d_ff: usize,
}

/// One forward and backward pass of adapters over a frozen encoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrainingPass {
    /// Sequences.
    pub rows: usize,
    /// Tokens of each sequence, padding included.
    pub seq: usize,
    /// The lowest layer at which an adapter acts: the gradient stops there.
    pub lowest_layer: usize,
    /// Whether the layers under `lowest_layer` come from a cache.
    pub cached: bool,
    /// Values of the adapters that act on every token.
    pub adapter_parameters: usize,
}

impl EncoderSize {
    /// Weights of one layer that multiply every token: four attention projections of
    /// `d_model × d_model` and two feed-forward products of `d_model × d_ff`.
    fn layer_weights(&self) -> f64 {
        let (d_model, d_ff) = (self.d_model as f64, self.d_ff as f64);
        4.0 * d_model * d_model + 2.0 * d_model * d_ff
    }

    fn linear_flops(&self, n_layers: usize, rows: usize, seq: usize) -> f64 {
        2.0 * n_layers as f64 * self.layer_weights() * (rows * seq) as f64
    }

    /// Scores `Q·Kᵀ` and the weighted sum of values: `2·seq²·d_model` each, a layer and sequence.
    fn attention_flops(&self, n_layers: usize, rows: usize, seq: usize) -> f64 {
        4.0 * n_layers as f64 * rows as f64 * (seq * seq) as f64 * self.d_model as f64
    }

    /// A forward pass of all layers: `2 · weights · tokens` plus attention.
    ///
    /// ```
    /// use hybrid_eval::EncoderSize;
    ///
    /// let minilm = EncoderSize { n_layers: 6, d_model: 384, d_ff: 1536 };
    /// let flops = minilm.forward_flops(1, 16);
    /// assert!((flops / 342.2e6 - 1.0).abs() < 0.01);
    /// ```
    pub fn forward_flops(&self, rows: usize, seq: usize) -> f64 {
        self.linear_flops(self.n_layers, rows, seq) + self.attention_flops(self.n_layers, rows, seq)
    }

    /// A training pass of adapters. From the lowest adapted layer upward the backward pass computes
    /// input gradients only: as much again as the forward for linear layers (no weight gradient of
    /// the base), twice the forward for attention (both factors of each product are activations).
    /// Adapters cost `2 · parameters · tokens` forward and twice that backward.
    pub fn training_flops(&self, pass: TrainingPass) -> f64 {
        let TrainingPass {
            rows,
            seq,
            lowest_layer,
            cached,
            adapter_parameters,
        } = pass;
        let trained_layers = self.n_layers.saturating_sub(lowest_layer);
        let forward_layers = if cached {
            trained_layers
        } else {
            self.n_layers
        };
        let linear = self.linear_flops(forward_layers, rows, seq)
            + self.linear_flops(trained_layers, rows, seq);
        let attention = self.attention_flops(forward_layers, rows, seq)
            + 2.0 * self.attention_flops(trained_layers, rows, seq);
        let adapters = 6.0 * adapter_parameters as f64 * (rows * seq) as f64;
        linear + attention + adapters
    }
}

#[cfg(test)]
mod tests {
    use super::{EncoderSize, TrainingPass};

    const TINY: EncoderSize = EncoderSize {
        n_layers: 2,
        d_model: 4,
        d_ff: 8,
    };
    const PASS: TrainingPass = TrainingPass {
        rows: 3,
        seq: 5,
        lowest_layer: 0,
        cached: false,
        adapter_parameters: 0,
    };

    #[test]
    fn forward_counts_every_product() {
        // A layer: 15 tokens through 4·16 + 2·32 weights; scores and sums of 3 sequences.
        let layer = 2 * 15 * (4 * 16 + 2 * 32) + 2 * (2 * 3 * 5 * 5 * 4);
        assert_eq!(TINY.forward_flops(3, 5), f64::from(2 * layer));
    }

    #[test]
    fn the_backward_pass_stops_at_the_lowest_adapter() {
        let linear = TINY.linear_flops(1, 3, 5);
        let attention = TINY.attention_flops(1, 3, 5);
        assert_eq!(TINY.training_flops(PASS), 4.0 * linear + 6.0 * attention);
        let upper = TrainingPass {
            lowest_layer: 1,
            ..PASS
        };
        assert_eq!(TINY.training_flops(upper), 3.0 * linear + 4.0 * attention);
        let cached = TrainingPass {
            cached: true,
            ..upper
        };
        assert_eq!(TINY.training_flops(cached), 2.0 * linear + 3.0 * attention);
        let head_only = TrainingPass {
            lowest_layer: 2,
            cached: true,
            adapter_parameters: 7,
            ..PASS
        };
        assert_eq!(TINY.training_flops(head_only), 6.0 * 7.0 * 15.0);
    }
}

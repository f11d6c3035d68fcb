//! A sentence encoder with a span head in this process: windows of passages to logits.

use hybrid_data::{BatchOrder, Encoding, Window, length_buckets};
use hybrid_models::{Hooks, NoHooks};

use super::encoder::host_rows;
use super::{INFERENCE, LocalModel};
use crate::{HybridError, parallel};

/// How well an answer starts and ends at each token of a window's passage.
pub(crate) type SpanLogits = [Vec<f32>; 2];

impl LocalModel {
    /// The active span head's logits; without one nothing is known, and all of them are zero.
    ///
    /// # Errors
    /// [`HybridError::Interrupted`].
    pub(crate) fn span_logits(
        &mut self,
        windows: &[&Window],
    ) -> Result<Vec<SpanLogits>, HybridError> {
        let lengths: Vec<usize> = windows.iter().map(|window| window.encoding.len()).collect();
        let mut logits: Vec<SpanLogits> = windows
            .iter()
            .map(|window| [(); 2].map(|()| vec![0.0; window.passage.len()]))
            .collect();
        let has_head = self
            .active()
            .is_some_and(|active| active.span_head.is_some());
        if !has_head {
            return Ok(logits);
        }
        let encodings: Vec<Encoding> = windows
            .iter()
            .map(|window| window.encoding.clone())
            .collect();
        let batches = length_buckets(&lengths, INFERENCE, BatchOrder::Sorted);
        let model = &*self;
        let read = parallel::try_map(&batches, self.threads(), |rows| {
            model.check_interrupt()?;
            model.read_windows(&encodings, rows)
        })?;
        let mut flops = 0.0;
        for (rows, [starts, ends]) in batches.iter().zip(read) {
            let longest = rows.iter().map(|row| lengths[*row]).max().unwrap_or(0);
            flops += self.size().forward_flops(rows.len(), longest);
            for (row, of_row) in rows.iter().zip(starts.iter().zip(&ends)) {
                let passage = windows[*row].passage.clone();
                logits[*row] = [of_row.0, of_row.1].map(|all| all[passage.clone()].to_vec());
            }
        }
        self.count_tokens(&encodings);
        self.count_flops(flops);
        Ok(logits)
    }

    /// Starts and ends, one row a window and one value a token.
    fn read_windows(
        &self,
        encodings: &[Encoding],
        rows: &[usize],
    ) -> Result<[Vec<Vec<f32>>; 2], HybridError> {
        let active = self.active().expect("a span head is active");
        let head = active.span_head.as_ref().expect("a span head is active");
        let hooks: &dyn Hooks = match active.adapters.configs().is_empty() {
            true => &NoHooks,
            false => &active.adapters,
        };
        let batch = self.batch(encodings, rows);
        let [_, seq] = batch.input_ids.dims();
        let hidden = self.encoder().encoder.forward(&batch, hooks);
        let [size, length, d_model] = hidden.dims();
        // What adapters put in front of the tokens answers nothing.
        let of_tokens = hidden.slice([0..size, length - seq..length, 0..d_model]);
        Ok(head.forward(of_tokens).map(host_rows))
    }
}

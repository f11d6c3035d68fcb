//! First values of adapters that start at what their sites see of the fit rows.

use burn::tensor::{Int, Tensor, TensorData};
use hybrid_adapters::{AdapterConfig, Adapters, ExplainedVariance};
use hybrid_data::{BatchLimits, BatchOrder, Encoding, derive_seed, length_buckets};
use hybrid_models::{DecoderBatch, Pooling};

use super::Context;
use super::pass::Targets;
use crate::HybridError;
use crate::local_model::{LanguageBase, LocalModel};
use crate::recipe::AdapterStage;

/// A stack with its first values. Where some follow the rows, these are read in the order of an epoch
/// of their own, until more of them would change little or each was read once.
///
/// # Errors
/// [`HybridError::Adapter`] when the stack does not fit the base, or there are too few rows;
/// [`HybridError::Interrupted`].
pub(super) fn init(
    context: &mut Context<'_>,
    config: &AdapterStage,
    methods: &[AdapterConfig],
    (encodings, targets): (&[Encoding], &Targets),
    pooling: Option<Pooling>,
    seed: u64,
) -> Result<Adapters, HybridError> {
    let model = &mut *context.model;
    let device = &model.device;
    let mut seen = ExplainedVariance::new(methods, model.base.as_base(), seed, device)?;
    let lengths: Vec<usize> = encodings.iter().map(Encoding::len).collect();
    let limits = BatchLimits {
        max_rows: config.batch_size,
        max_tokens: config.max_tokens,
    };
    let order = BatchOrder::Shuffled(derive_seed(seed, "eva"));
    let mut settled = seen.is_empty();
    let mut batches = length_buckets(&lengths, limits, order).into_iter();
    while !settled && let Some(rows) = batches.next() {
        model.check_interrupt()?;
        show(&seen, model, encodings, targets, &rows, pooling)?;
        settled = seen.update();
        let longest = rows.iter().map(|row| lengths[*row]).max().unwrap_or(0);
        let flops = model.forward_flops(model.n_layers(), rows.len(), longest);
        model.count_flops(flops);
        model.count_tokens(rows.iter().map(|row| &encodings[*row]));
    }
    Ok(seen.init(model.base.as_base())?)
}

/// Runs the base over some rows.
fn show(
    seen: &ExplainedVariance,
    model: &LocalModel,
    encodings: &[Encoding],
    targets: &Targets,
    rows: &[usize],
    pooling: Option<Pooling>,
) -> Result<(), HybridError> {
    let batch = model.batch(encodings, rows);
    let [n_rows, seq] = batch.input_ids.dims();
    // The classes of rows, and label words that come next, are at no token.
    let wanted = match targets {
        Targets::Tokens(begins) => {
            let begins = rows.iter().map(|row| begins[*row]);
            let of_row = |begin| (0..seq).map(move |place| i32::from(place >= begin));
            let wanted: Vec<i32> = begins.flat_map(of_row).collect();
            let wanted = TensorData::new(wanted, [n_rows, seq]);
            Some(Tensor::<2, Int>::from_data(wanted, &model.device))
        }
        Targets::Head(_) | Targets::Spans(_) | Targets::LabelWords { .. } => None,
    };
    let hooks = seen.of_tokens(&batch.attention_mask, wanted.as_ref());
    if !model.is_language_model() {
        let base = model.encoder();
        let hidden = base.encoder.forward(&batch, &hooks);
        if let Some(pooling) = pooling {
            base.pool(hidden, &batch, pooling, &hooks)?;
        }
        return Ok(());
    }
    let LanguageBase::Decoder(base) = model.language() else {
        unreachable!("refused before a run: its sites see two sequences")
    };
    let batch = DecoderBatch::padded(batch.input_ids, batch.attention_mask);
    base.decoder.forward(&batch, None, &hooks)?;
    Ok(())
}

//! Where a training went wrong whose loss is no number.

use burn::tensor::{Tensor, TensorData};
use hybrid_adapters::Trainable;

use super::pass::{Input, Targets};
use crate::HybridError;
use crate::local_model::{LanguageBase, LocalModel};

/// The error of an update whose loss is not finite. For a language model it names the first layer
/// whose output on one of the rows is not finite.
pub(super) fn diverged(
    model: &LocalModel,
    input: &Input,
    trainable: &Trainable,
    rows: &[usize],
    step: usize,
) -> HybridError {
    let trainable = trainable.eval();
    let layer = |row: &usize| faulty_layer(model, input, &trainable, *row);
    let layer = match model.is_language_model() {
        true => rows.iter().find_map(layer),
        false => None,
    };
    HybridError::Diverged { step, layer }
}

fn faulty_layer(
    model: &LocalModel,
    input: &Input,
    trainable: &Trainable,
    row: usize,
) -> Option<usize> {
    let ids = input.encodings[row].ids.iter();
    let mut ids: Vec<i64> = ids.map(|id| i64::from(*id)).collect();
    let hooks = &trainable.adapters;
    match model.language() {
        LanguageBase::Decoder(base) => base.decoder.faulty_layer(&ids, hooks),
        LanguageBase::EncoderDecoder(base) => {
            let mut written = vec![base.tokens().start];
            if let Targets::Tokens(begins) = &input.targets {
                let wanted = ids.split_off(begins[row]);
                written.extend(&wanted[..wanted.len().saturating_sub(1)]);
            }
            let batch = model.input_batch(&[ids]).ok()?;
            let n_written = written.len();
            let written = TensorData::new(written, [1, n_written]);
            let written = Tensor::from_data(written, &model.device);
            base.faulty_layer(&batch, &written, hooks)
        }
    }
}

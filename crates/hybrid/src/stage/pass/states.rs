//! What losses go on from: the hidden states of a piece, of several learners out of one forward.

use burn::tensor::{Int, Tensor};
use hybrid_adapters::{Adapters, SideBySide};
use hybrid_models::{EncoderBatch, Hooks, divided};

use super::{Input, Learner, Piece};
use crate::HybridError;
use crate::local_model::{LoadedBase, LocalModel};
use crate::stage::prefix::Lower;

/// What a loss goes on from.
#[expect(
    clippy::large_enum_variant,
    reason = "there is one for each learner at a time"
)]
pub(super) enum States {
    /// The rows' vectors, which nothing that is trained has changed.
    Pooled(Tensor<2>),
    /// The last hidden states, and the batch that they are of.
    Hidden(Tensor<3>, EncoderBatch),
    /// An encoder-decoder's loss reads by itself.
    Unread,
}

impl States {
    /// The states of each learner.
    ///
    /// # Errors
    /// [`HybridError::Model`] when the base has no such pooling or not so many positions.
    pub(super) fn of_each(
        input: &Input,
        learners: &[Learner<'_>],
        model: &LocalModel,
        piece: &Piece,
    ) -> Result<Vec<Self>, HybridError> {
        if matches!(model.base, LoadedBase::EncoderDecoder(_)) {
            return Ok(learners.iter().map(|_| Self::Unread).collect());
        }
        let n = learners.len();
        let (prefix, encodings, rows) = (&input.prefix, &input.encodings, &piece.rows);
        let trainables = learners.iter().map(|learner| learner.trainable);
        let stacks: Vec<&Adapters> = trainables.map(|trainable| &trainable.adapters).collect();
        let [first, ..] = stacks[..] else {
            return Ok(Vec::new());
        };
        let lower = match prefix.is_shared() || n == 1 {
            true => prefix.lower(model, encodings, rows, first)?,
            false => {
                let hooks = SideBySide::inference(&stacks, rows.len());
                prefix.lower(model, encodings, &rows.repeat(n), &hooks)?
            }
        };
        let lower = match lower {
            Lower::Pooled(pooled) => {
                let pooled = learners.iter().map(|_| Self::Pooled(pooled.clone()));
                return Ok(pooled.collect());
            }
            Lower::Hidden(hidden) if prefix.is_shared() && n > 1 => hidden.repeat(&[n, 1, 1]),
            Lower::Hidden(hidden) => hidden,
        };
        // Tokens are hidden above the frozen layers only.
        let config = learners[0].config;
        let batch = match config.token_dropout > 0.0 {
            true => {
                let share = config.token_dropout;
                model.batch_with_hidden_tokens(encodings, rows, share, piece.seed)
            }
            false => model.batch(encodings, rows),
        };
        let hooks: &dyn Hooks = match (n, config.recompute_layers) {
            (1, false) => &first.training(piece.seed),
            (1, true) => &first.training_recomputed(piece.seed),
            _ => &SideBySide::training(&stacks, rows.len(), piece.seed),
        };
        let hidden = prefix.upper(model, lower, &repeated(&batch, n), hooks)?;
        let parts = divided(hidden, 0, n).into_iter();
        Ok(parts
            .map(|part| Self::Hidden(part, batch.clone()))
            .collect())
    }

    /// The last hidden states, and the batch that they are of.
    ///
    /// # Panics
    /// Where there are none.
    pub(super) fn hidden(self) -> (Tensor<3>, EncoderBatch) {
        match self {
            Self::Hidden(hidden, batch) => (hidden, batch),
            Self::Pooled(_) | Self::Unread => unreachable!("the states of tokens are read"),
        }
    }

    /// The last hidden states, and how many places of each row come before its tokens.
    ///
    /// # Panics
    /// Where there are none.
    pub(super) fn hidden_after(self) -> (Tensor<3>, usize) {
        let (hidden, batch) = self.hidden();
        let n_virtual = hidden.dims()[1] - batch.input_ids.dims()[1];
        (hidden, n_virtual)
    }
}

/// A batch several times over, one copy after the other.
fn repeated(batch: &EncoderBatch, times: usize) -> EncoderBatch {
    let repeated = |x: &Tensor<2, Int>| x.clone().repeat(&[times, 1]);
    match times {
        1 => batch.clone(),
        _ => EncoderBatch {
            input_ids: repeated(&batch.input_ids),
            attention_mask: repeated(&batch.attention_mask),
            token_type_ids: batch.token_type_ids.as_ref().map(repeated),
        },
    }
}

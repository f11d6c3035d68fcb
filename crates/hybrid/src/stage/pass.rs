//! Loss and gradients of one piece of a batch.

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::{Int, Tensor, TensorData};
use hybrid_adapters::Trainable;
use hybrid_data::Encoding;
use hybrid_optim::{cross_entropy_sum, with_margin};

use super::prefix::{Lower, Prefix};
use crate::HybridError;
use crate::local_model::LocalModel;
use crate::recipe::AdapterStage;

/// What is trained on.
pub(super) struct Input {
    /// The rendered rows as tokens.
    pub(super) encodings: Vec<Encoding>,
    /// The label of each row.
    pub(super) targets: Vec<usize>,
    /// The lowest layer that is trained.
    pub(super) lowest_layer: usize,
    /// What lies under that layer.
    pub(super) prefix: Prefix,
}

/// Rows of a batch that are computed together.
pub(super) struct Piece {
    pub(super) rows: Vec<usize>,
    /// Of dropout and of hidden tokens.
    pub(super) seed: u64,
}

/// One pass over the pieces of a batch.
pub(super) struct Pass<'p> {
    pub(super) config: &'p AdapterStage,
    pub(super) input: &'p Input,
    pub(super) trainable: &'p Trainable,
    /// Rows of the whole batch, over which the loss is averaged.
    pub(super) n_rows: usize,
}

impl Pass<'_> {
    /// A piece's share of the loss, and its gradients.
    pub(super) fn backward(
        &self,
        model: &LocalModel,
        piece: &Piece,
    ) -> Result<(f64, GradientsParams), HybridError> {
        // Leaves of their own: pieces that share one would share a graph, and wait for each other.
        let autodiff = model.device.clone().autodiff();
        let trainable = self.trainable.clone().fork(&autodiff);
        let loss = self
            .loss(model, &trainable, piece)?
            .div_scalar(self.n_rows as f64);
        let value = f64::from(loss.clone().into_scalar::<f32>());
        let mut gradients = loss.backward();
        let gradients = GradientsParams::from_module(&mut gradients, &trainable);
        Ok((value, gradients))
    }

    /// The summed loss of a piece. Tokens are hidden above the frozen layers only.
    fn loss(
        &self,
        model: &LocalModel,
        trainable: &Trainable,
        piece: &Piece,
    ) -> Result<Tensor<1>, HybridError> {
        let (encodings, rows) = (&self.input.encodings, &piece.rows);
        let hooks = trainable.adapters.training(piece.seed);
        let head = trainable.head.as_ref().expect("a stage trains a head");
        let prefix = &self.input.prefix;
        let pooled = match prefix.lower(model, encodings, rows, &trainable.adapters)? {
            Lower::Pooled(pooled) => pooled,
            Lower::Hidden(hidden) => {
                let share = self.config.token_dropout;
                let batch = match share > 0.0 {
                    true => model.batch_with_hidden_tokens(encodings, rows, share, piece.seed),
                    false => model.batch(encodings, rows),
                };
                let hidden = prefix.upper(model, hidden, &batch, &hooks);
                model.base.pool(hidden, &batch, head.pooling(), &hooks)?
            }
        };
        let targets: Vec<i32> = rows
            .iter()
            .map(|row| self.input.targets[*row] as i32)
            .collect();
        let targets: Tensor<1, Int> =
            Tensor::from_data(TensorData::new(targets, [rows.len()]), &model.device);
        let logits = with_margin(head.forward(pooled), targets.clone(), self.config.margin);
        Ok(cross_entropy_sum(
            logits,
            targets,
            self.config.label_smoothing,
        ))
    }
}

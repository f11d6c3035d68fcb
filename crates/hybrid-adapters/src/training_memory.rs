//! What a training takes of memory, estimated from the sizes of a base and of its adapters.

use hybrid_models::{Base, Hooks, SiteKind};
use serde::Serialize;

use crate::Adapters;

/// Bytes of a value.
const VALUE: usize = size_of::<f32>();

/// Bytes that a training with AdamW takes, all of it in float32. Logits, attention's scores while a
/// layer is computed, the program and what its allocator keeps come on top.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct TrainingMemory {
    /// The frozen base.
    pub base: usize,
    /// The trained values, each with its gradient and two moments.
    pub trained: usize,
    /// What layers keep for backward.
    pub activations: usize,
}

impl TrainingMemory {
    /// An estimate for an update in which `tokens` are computed at once, padding not counted. From the
    /// lowest layer on that an adapter touches, a layer keeps the outputs of its linear layers, the
    /// inputs of its norms, and those of the linear layers at which adapters act; with
    /// `recompute_layers` its own input alone, and one layer at a time the rest.
    pub fn estimated(
        adapters: &Adapters,
        base: &dyn Base,
        tokens: usize,
        recompute_layers: bool,
    ) -> Self {
        let lowest = adapters.lowest_layer().unwrap_or(usize::MAX);
        let mut layers: Vec<usize> = Vec::new();
        for site in base.sites().iter() {
            let Some(layer) = site.layer else { continue };
            layers.resize(layers.len().max(layer + 1), 0);
            layers[layer] += match site.kind {
                SiteKind::Linear { d_in, d_out, .. } => {
                    let acts = adapters.acts_on_linear(site.id);
                    d_out + if acts { d_in } else { 0 }
                }
                SiteKind::Norm { d_model, .. } => d_model,
                SiteKind::Embedding { .. } | SiteKind::Block { .. } => 0,
            };
        }
        let trained = layers.get(lowest..).unwrap_or_default();
        let of_token = match recompute_layers {
            true => {
                let d_model = base.stacks().first().map_or(0, |stack| stack.d_model);
                trained.len() * d_model + trained.iter().max().copied().unwrap_or(0)
            }
            false => trained.iter().sum(),
        };
        Self {
            base: base.n_parameters() * VALUE,
            trained: adapters.n_parameters() * 4 * VALUE,
            activations: tokens * of_token * VALUE,
        }
    }

    /// All of it.
    pub fn total(&self) -> usize {
        self.base + self.trained + self.activations
    }
}

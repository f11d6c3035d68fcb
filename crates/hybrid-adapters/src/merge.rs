//! Folding a stack into the base's weights.

use hybrid_models::{Layer, Linear, Model};

use crate::method::Base;
use crate::{AdapterError, Adapters};

impl Adapters {
    /// A base whose own weights compute what `model` computes under this stack; `model` itself is
    /// left as it is.
    ///
    /// # Errors
    /// [`AdapterError::NotMergeable`] when a method of the stack has no place in the base's weights.
    pub fn merge(&self, model: &Model) -> Result<Model, AdapterError> {
        for method in self.stack() {
            method.as_method().mergeable()?;
        }
        let mut merged = model.clone();
        for layer in self.merged_layers(model)? {
            merged.replace(layer)?;
        }
        Ok(merged)
    }

    /// The layers that differ from the base's.
    fn merged_layers(&self, base: &dyn Base) -> Result<Vec<Layer>, AdapterError> {
        let eval = self.eval();
        let mut sites: Vec<_> = eval
            .stack()
            .iter()
            .flat_map(|method| method.as_method().sites())
            .collect();
        sites.sort();
        sites.dedup();
        let mut layers = Vec::new();
        for site in sites {
            let layer = match base.layer(site) {
                Some(Layer::Linear(linear)) => Some(Layer::Linear(eval.merged_linear(linear)?)),
                Some(Layer::Norm(norm)) => eval.replaced_norm(norm).map(Layer::Norm),
                Some(Layer::Embedding(embedding)) => {
                    eval.replaced_embedding(embedding).map(Layer::Embedding)
                }
                None => None,
            };
            layers.extend(layer);
        }
        Ok(layers)
    }

    fn merged_linear(&self, base: &Linear) -> Result<Linear, AdapterError> {
        let start = self.replaced_linear(base).unwrap_or_else(|| base.clone());
        self.stack().iter().try_fold(start, |linear, method| {
            method.as_method().merge_linear(linear)
        })
    }
}

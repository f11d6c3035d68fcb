//! Cartridges: trained keys and values in front of those of every layer, the first of which stay as
//! they began (Eyuboglu et al. 2025).
//!
//! Begun at the keys and values of the first tokens of a text, they stand for the text; the first
//! one, to which many models attend whatever the text, is best kept. Over an encoder-decoder layers
//! share them as a prefix's.

use std::collections::BTreeMap;

use burn::module::{Module, Param};
use burn::tensor::{Tensor, TensorData};
use hybrid_models::{KeyValue, Stack};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::wrong_setting;
use crate::method::{Building, Kept, Method, PeftName};
use crate::prefix_tuning::{LayerKeys, rows, width};
use crate::random::HostRandom;
use crate::virtual_tokens::{Asked, not_mergeable};
use crate::{AdapterError, frozen, named_tensors};

/// How many keys, and how many of them stay, with PEFT's names and meanings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CartridgeConfig {
    /// Keys and values in front of those of the tokens.
    #[schemars(range(min = 1))]
    pub num_virtual_tokens: usize,
    /// How many of them, from the first, are not trained: fewer than all.
    #[serde(default = "one")]
    pub num_frozen_tokens: usize,
    /// Size of a layer's keys: the base's, which is taken when this is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_dim: Option<usize>,
    /// As PEFT counts the stacks of the base: it says which layers share keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_transformer_submodules: Option<usize>,
    /// Tokens whose keys and values in the base are the first values: cut off or repeated to the
    /// number of keys. PEFT's files do not have this key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_token_ids: Option<Vec<i64>>,
}

fn one() -> usize {
    1
}

/// Keys and values in the order of layer, key or value, head.
#[derive(Module, Debug)]
pub(crate) struct Cartridge {
    /// `[n_virtual - n_frozen, width]`.
    trainable_embedding: Param<Tensor<2>>,
    /// `[n_frozen, width]`.
    #[module(skip)]
    frozen_embedding: Option<Tensor<2>>,
    #[module(skip)]
    layers: LayerKeys,
}

const METHOD: &str = "cartridge";

/// PEFT's files have the rows of both as one tensor.
const PROMPT: &str = "prompt_embeddings";

/// The key of the frozen rows, until they are put before the others.
pub(crate) const FROZEN: &str = "frozen_embedding";

impl Cartridge {
    /// Keys and values of given tokens, or normal ones with deviation 1, as PyTorch draws tables.
    ///
    /// # Errors
    /// [`AdapterError::Setting`]; [`AdapterError::Model`] for an unknown token, or a base that
    /// keys cannot stand in front of.
    pub(crate) fn init(
        config: &CartridgeConfig,
        building: &Building<'_>,
    ) -> Result<Self, AdapterError> {
        let asked = Asked {
            method: METHOD,
            num_virtual_tokens: config.num_virtual_tokens,
            token_dim: config.token_dim,
            num_transformer_submodules: config.num_transformer_submodules,
        };
        let planned = asked.plan(building.base, width)?;
        let (n_virtual, n_frozen) = (config.num_virtual_tokens, config.num_frozen_tokens);
        if n_frozen >= n_virtual {
            let found = format!("{n_frozen} of {n_virtual}");
            let expected = "fewer than num_virtual_tokens, so that some are trained";
            return wrong_setting(METHOD)("num_frozen_tokens", expected, found);
        }
        let layers = LayerKeys::new(METHOD, &planned)?;
        let n_trained = n_virtual - n_frozen;
        let plain = building.device.clone().without_autodiff();
        let (first, rest) = match &config.init_token_ids {
            Some(ids) => {
                let ids = asked.fitted(ids, n_virtual)?;
                let rows = rows(building.base.key_values(&ids)?);
                let rest = frozen::copy(
                    &rows.clone().narrow(0, n_frozen, n_trained),
                    building.device,
                );
                let first = (n_frozen > 0).then(|| rows.narrow(0, 0, n_frozen));
                (first.map(|rows| rows.without_autodiff().into_data()), rest)
            }
            None => {
                // Not by the stack's seed: only what is trained is in checkpoints, so that these
                // must come out the same in every stack.
                let mut random = HostRandom::new(0, building.position as u64);
                let first = (n_frozen > 0).then(|| random.normal([n_frozen, layers.width()], 1.0));
                let mut random = building.random_part(0);
                let rest = random.normal([n_trained, layers.width()], 1.0);
                (first, Param::from_data(rest, building.device))
            }
        };
        Ok(Self {
            trainable_embedding: rest,
            frozen_embedding: first.map(|first| Tensor::from_data(first, &plain)),
            layers,
        })
    }

    /// # Shapes
    /// - `[n_virtual, width]`
    fn rows(&self) -> Tensor<2> {
        let trained = self.trainable_embedding.val();
        match &self.frozen_embedding {
            Some(first) => Tensor::cat(vec![first.clone(), trained], 0),
            None => trained,
        }
    }
}

impl Method for Cartridge {
    fn name(&self) -> &'static str {
        METHOD
    }

    fn in_front(&self) -> bool {
        true
    }

    fn key_values(&self, stack: Stack) -> Option<Vec<KeyValue>> {
        self.layers.of_stack(stack, || self.rows())
    }

    fn peft_name(&self, name: &str) -> Option<PeftName> {
        Some(PeftName {
            key: format!("prompt_encoder.{name}"),
            stored: PROMPT.to_owned(),
        })
    }

    fn kept(&self) -> Vec<Kept> {
        let first = self.frozen_embedding.iter().cloned();
        let first = first.map(named_tensors::read);
        first
            .map(|data| Kept::needed(FROZEN.to_owned(), data))
            .collect()
    }

    fn keep(&mut self, _stored: &str, data: &TensorData) -> Result<(), AdapterError> {
        if let Some(first) = &mut self.frozen_embedding {
            *first = Tensor::from_data(data.clone(), &first.device());
        }
        Ok(())
    }

    fn mergeable(&self) -> Result<(), AdapterError> {
        Err(not_mergeable(METHOD))
    }
}

/// Takes the frozen rows out of the one tensor of a file, where there are as many as there should
/// be.
pub(crate) fn split(tensors: &mut BTreeMap<String, TensorData>, config: &CartridgeConfig) {
    let (n_virtual, n_frozen) = (config.num_virtual_tokens, config.num_frozen_tokens);
    let Some(all) = tensors
        .get(PROMPT)
        .filter(|_| 0 < n_frozen && n_frozen < n_virtual)
    else {
        return;
    };
    let [rows, width] = match *all.shape().as_slice() {
        [rows, width] if rows == n_virtual => [rows, width],
        _ => return,
    };
    let mut first: Vec<f32> = all.iter().collect();
    let rest = first.split_off(n_frozen * width);
    tensors.insert(FROZEN.to_owned(), TensorData::new(first, [n_frozen, width]));
    let rest = TensorData::new(rest, [rows - n_frozen, width]);
    tensors.insert(PROMPT.to_owned(), rest);
}

/// Puts the frozen rows before the others.
pub(crate) fn join(tensors: &mut BTreeMap<String, TensorData>) {
    let (Some(first), Some(rest)) = (tensors.remove(FROZEN), tensors.get_mut(PROMPT)) else {
        return;
    };
    let values: Vec<f32> = first.iter::<f32>().chain(rest.iter()).collect();
    let shape = [first.shape()[0] + rest.shape()[0], rest.shape()[1]];
    *rest = TensorData::new(values, shape);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use burn::tensor::TensorData;
    use proptest::prelude::proptest;

    use super::{CartridgeConfig, FROZEN, PROMPT, join, split};

    proptest! {
        #[test]
        fn rows_are_parted_and_put_together(
            n_virtual in 1usize..6,
            n_frozen in 0usize..6,
            width in 1usize..4,
        ) {
            let config = serde_json::json!({
                "num_virtual_tokens": n_virtual,
                "num_frozen_tokens": n_frozen,
            });
            let config: CartridgeConfig = serde_json::from_value(config).unwrap();
            let values: Vec<f32> = (0..n_virtual * width).map(|place| place as f32).collect();
            let whole = TensorData::new(values, [n_virtual, width]);
            let file = BTreeMap::from([(PROMPT.to_owned(), whole)]);
            let mut tensors = file.clone();
            split(&mut tensors, &config);
            let parted = (1..n_virtual).contains(&n_frozen);
            assert_eq!(tensors.contains_key(FROZEN), parted);
            if parted {
                assert_eq!(tensors[FROZEN].shape().as_slice(), [n_frozen, width]);
                assert_eq!(tensors[PROMPT].iter::<f32>().next(), Some((n_frozen * width) as f32));
            }
            join(&mut tensors);
            assert_eq!(tensors, file);
            // Another number of rows is left for the shape to tell.
            let more = CartridgeConfig { num_virtual_tokens: n_virtual + 1, ..config };
            split(&mut tensors, &more);
            assert_eq!(tensors, file);
        }
    }
}

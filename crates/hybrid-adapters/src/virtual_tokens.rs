//! What the methods share that put something in front of the tokens.

use burn::tensor::Tensor;
use hybrid_models::{Base, BaseKind, ModelError, StackShape};

use crate::AdapterError;
use crate::error::wrong_setting;

/// The settings that all of these methods have.
pub(crate) struct Asked {
    pub(crate) method: &'static str,
    pub(crate) num_virtual_tokens: usize,
    pub(crate) token_dim: Option<usize>,
    pub(crate) num_transformer_submodules: Option<usize>,
}

/// What they mean over a base.
pub(crate) struct Planned {
    /// The stack that reads the input.
    pub(crate) first: StackShape,
    /// The stack that writes the output; in a base of one stack, that one.
    pub(crate) last: StackShape,
    /// How many stacks have virtual tokens of their own, as PEFT counts them.
    pub(crate) n_stacks: usize,
}

impl Asked {
    /// `width` gives the size of one vector over such a base.
    ///
    /// # Errors
    /// [`AdapterError::Setting`], or [`AdapterError::Model`] for a base in front of whose tokens
    /// there is no place.
    pub(crate) fn plan(
        &self,
        base: &dyn Base,
        width: fn(&StackShape) -> usize,
    ) -> Result<Planned, AdapterError> {
        let stacks = base.stacks();
        let (Some(first), Some(last)) = (stacks.first(), stacks.last()) else {
            return Err(AdapterError::Model(ModelError::NoSuchPart {
                architecture: base.model_type(),
                part: "place in front of its tokens",
            }));
        };
        let wrong = wrong_setting(self.method);
        if self.num_virtual_tokens == 0 {
            return wrong("num_virtual_tokens", "1 or more", "0".to_owned());
        }
        let width = width(last);
        if let Some(found) = self.token_dim.filter(|found| *found != width) {
            let found = format!("{found} over a base with {width}");
            return wrong("token_dim", "the size that the base has", found);
        }
        let most = match base.kind() {
            BaseKind::EncoderDecoder => 2,
            BaseKind::Encoder | BaseKind::Decoder => 1,
        };
        let n_stacks = self.num_transformer_submodules.unwrap_or(most);
        if !(1..=most).contains(&n_stacks) {
            return wrong(
                "num_transformer_submodules",
                "1, or 2 over an encoder-decoder",
                n_stacks.to_string(),
            );
        }
        Ok(Planned {
            first: *first,
            last: *last,
            n_stacks,
        })
    }

    /// The ids of a text, cut off or repeated to as many as there are virtual tokens.
    ///
    /// # Errors
    /// [`AdapterError::Setting`] when there is none.
    pub(crate) fn fitted(&self, ids: &[i64], n: usize) -> Result<Vec<i64>, AdapterError> {
        match ids.is_empty() {
            true => Err(AdapterError::Setting {
                method: self.method,
                key: "init_token_ids",
                expected: "the ids of at least one token",
                found: "empty".to_owned(),
            }),
            false => Ok(ids.iter().copied().cycle().take(n).collect()),
        }
    }
}

/// Vectors in front of the words of every row.
///
/// # Shapes
/// - `vectors`: `[n_virtual, d_model]`, `words`: `[batch, seq, d_model]` →
///   `[batch, n_virtual + seq, d_model]`
pub(crate) fn put_in_front(vectors: Tensor<2>, words: Tensor<3>) -> Tensor<3> {
    let [batch, _, d_model] = words.dims();
    let [n_virtual, _] = vectors.dims();
    let vectors = vectors.unsqueeze::<3>().expand([batch, n_virtual, d_model]);
    Tensor::cat(vec![vectors, words], 1)
}

/// Why none of these methods merges.
pub(crate) fn not_mergeable(method: &'static str) -> AdapterError {
    AdapterError::NotMergeable {
        method,
        reason: "it stands in front of the tokens, beside the base's weights",
    }
}

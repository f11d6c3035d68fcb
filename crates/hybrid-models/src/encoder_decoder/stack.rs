//! One of the two stacks of an encoder-decoder.

use burn::tensor::{Int, Tensor};

use crate::blocks::{RelativeBias, TransformerLayer, causal_bias, padding_bias};
use crate::layers::LayerPlace;
use crate::{Embedding, Hooks, KeyValue, ModelError, Norm, Stack, StackShape};

/// Word vectors, positions, layers and norms.
#[derive(Debug, Clone)]
pub(crate) struct LayerStack {
    pub(crate) stack: Stack,
    pub(crate) words: Embedding,
    pub(crate) word_scale: WordScale,
    pub(crate) positions: Positions,
    pub(crate) embedding_norm: Option<Norm>,
    pub(crate) layers: Vec<TransformerLayer>,
    pub(crate) final_norm: Option<Norm>,
}

/// What word vectors are multiplied with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum WordScale {
    /// Words alone, before hooks see them: BART's embedding does it.
    Words(f64),
    /// All that enters the stack, and nothing in an encoder when hooks put vectors in front: so
    /// Transformers' Marian does it, whose encoder takes vectors as they are.
    Stack(f64),
}

impl WordScale {
    /// What words are multiplied with before hooks see them.
    fn of_words(self) -> f64 {
        match self {
            Self::Words(scale) => scale,
            Self::Stack(_) => 1.0,
        }
    }

    /// What all that enters a stack is multiplied with, hooks' vectors in front included.
    fn of_stack(self, stack: Stack, is_led: bool) -> f64 {
        match (self, stack) {
            (Self::Words(_), _) => 1.0,
            (Self::Stack(_), Stack::Encoder) if is_led => 1.0,
            (Self::Stack(scale), _) => scale,
        }
    }
}

/// How places in a sequence are told apart.
#[derive(Debug, Clone)]
pub(crate) enum Positions {
    /// By the distance from query to key.
    Relative(RelativeBias),
    /// By vectors that are added to those of the words. The first `offset` are not used.
    Learned { table: Embedding, offset: usize },
    /// The same with vectors that nothing changes.
    Fixed(FixedTensor),
}

/// A tensor that is no layer: nothing acts on it and nothing trains it.
#[derive(Debug, Clone)]
pub(crate) struct FixedTensor {
    /// Its key in the checkpoint; none when it was computed.
    pub(crate) key: Option<String>,
    pub(crate) values: Tensor<2>,
}

/// The start of a forward.
pub(crate) struct Begun {
    /// The first layer's input, `[batch, n_virtual + seq, d_model]`.
    pub(crate) hidden: Tensor<3>,
    /// Of the scores of self-attention.
    pub(crate) bias: Option<Tensor<4>>,
    /// Of self-attention, one a layer.
    pub(crate) prefix: Option<Vec<KeyValue>>,
}

fn scaled(words: Tensor<3>, scale: f64) -> Tensor<3> {
    match scale {
        1.0 => words,
        scale => words.mul_scalar(scale),
    }
}

impl LayerStack {
    pub(crate) fn shape(&self) -> StackShape {
        let [vocab, d_model] = self.words.weight.dims();
        let first = self.layers.first();
        let heads = first.map(|layer| layer.attention.function.heads);
        StackShape {
            stack: self.stack,
            words: self.words.site,
            vocab,
            word_scale: self.word_scale.of_words(),
            d_model,
            n_layers: self.layers.len(),
            n_heads: heads.map_or(0, |heads| heads.n_heads),
            n_kv_heads: heads.map_or(0, |heads| heads.n_kv_heads),
            d_head: heads.map_or(0, |heads| heads.d_head),
        }
    }

    /// Longest sequence that has positions; none when there is no end to them.
    pub(crate) fn max_positions(&self) -> Option<usize> {
        match &self.positions {
            Positions::Relative(_) => None,
            Positions::Learned { table, offset } => {
                Some(table.weight.dims()[0].saturating_sub(*offset))
            }
            Positions::Fixed(table) => Some(table.values.dims()[0]),
        }
    }

    /// Embeds the tokens that follow `held` cached positions, with what `hooks` put in front of the
    /// first ones.
    ///
    /// # Shapes
    /// - `ids` and `mask` (an encoder's; all is seen without): `[batch, seq]`
    ///
    /// # Errors
    /// [`ModelError::TooManyPositions`].
    pub(crate) fn begin(
        &self,
        ids: &Tensor<2, Int>,
        mask: Option<&Tensor<2, Int>>,
        held: usize,
        hooks: &dyn Hooks,
    ) -> Result<Begun, ModelError> {
        let [_, seq] = ids.dims();
        let words = hooks.embedding(&self.words, ids.clone());
        let mut words = scaled(words, self.word_scale.of_words());
        let mut prefix = None;
        if held == 0 {
            words = hooks.embedded(self.stack, words);
            prefix = hooks.key_values(self.stack);
        }
        let first = prefix.as_ref().and_then(|layers| layers.first());
        let past = held + first.map_or(0, |layer| layer.key.dims()[2]);
        let own = words.dims()[1];
        let words = scaled(words, self.word_scale.of_stack(self.stack, own > seq));
        let bias = [
            match &self.positions {
                Positions::Relative(bias) => Some(bias.forward(past, own, hooks)),
                Positions::Learned { .. } | Positions::Fixed(_) => None,
            },
            match self.stack {
                Stack::Encoder => None,
                Stack::Decoder => causal_bias(past, own, None, &ids.device()),
            },
            mask.map(|mask| padding_bias(mask, past + own - seq)),
        ];
        let hidden = self.add_positions(words, past, hooks)?;
        let hidden = match &self.embedding_norm {
            Some(norm) => hooks.norm(norm, hidden),
            None => hidden,
        };
        let bias = bias.into_iter().flatten().reduce(|sum, bias| sum + bias);
        Ok(Begun {
            hidden,
            bias,
            prefix,
        })
    }

    /// # Shapes
    /// - `words`: `[batch, own, d_model]` → the same
    fn add_positions(
        &self,
        words: Tensor<3>,
        past: usize,
        hooks: &dyn Hooks,
    ) -> Result<Tensor<3>, ModelError> {
        let end = past + words.dims()[1];
        if let Some(limit) = self.max_positions().filter(|limit| end > *limit) {
            return Err(ModelError::TooManyPositions {
                positions: end,
                limit,
            });
        }
        Ok(match &self.positions {
            Positions::Relative(_) => words,
            Positions::Learned { table, offset } => {
                let places = (past + offset) as i64..(end + offset) as i64;
                let places = Tensor::<1, Int>::arange(places, &table.weight.device());
                words + hooks.embedding(table, places.unsqueeze())
            }
            Positions::Fixed(table) => {
                words + table.values.clone().narrow(0, past, end - past).unsqueeze()
            }
        })
    }

    /// The last layer's output, normalised where the stack does so.
    ///
    /// # Shapes
    /// - `hidden`: `[batch, seq, d_model]` → the same
    pub(crate) fn finish(&self, hidden: Tensor<3>, hooks: &dyn Hooks) -> Tensor<3> {
        match &self.final_norm {
            Some(norm) => hooks.norm(norm, hidden),
            None => hidden,
        }
    }

    /// The tensor that is no layer.
    pub(crate) fn fixed(&self) -> Option<&FixedTensor> {
        match &self.positions {
            Positions::Fixed(table) => Some(table),
            Positions::Relative(_) | Positions::Learned { .. } => None,
        }
    }

    pub(crate) fn places(&mut self) -> impl Iterator<Item = LayerPlace<'_>> {
        let table = match &mut self.positions {
            Positions::Relative(bias) => Some(&mut bias.table),
            Positions::Learned { table, .. } => Some(table),
            Positions::Fixed(_) => None,
        };
        let norms = self.embedding_norm.iter_mut().chain(&mut self.final_norm);
        [&mut self.words]
            .into_iter()
            .chain(table)
            .map(LayerPlace::Embedding)
            .chain(norms.map(LayerPlace::Norm))
            .chain(self.layers.iter_mut().flat_map(TransformerLayer::places))
    }
}

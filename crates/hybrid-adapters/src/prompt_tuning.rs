//! Prompt tuning: trained vectors in front of the words (Lester et al. 2021, section 2).
//!
//! Over an encoder-decoder the vectors stand in front of the encoder's input. PEFT keeps as many
//! again for the decoder, which nothing reads; so does this module, to have its files.

use burn::module::{Module, Param};
use burn::tensor::{Tensor, TensorData};
use hybrid_models::{Layer, ModelError, Stack, StackShape};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::method::{Building, Method, Pass};
use crate::virtual_tokens::{Asked, not_mergeable, put_in_front};
use crate::{AdapterError, frozen};

/// How many vectors and where they start, with PEFT's names and meanings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PromptTuningConfig {
    /// Vectors in front of the words.
    #[schemars(range(min = 1))]
    pub num_virtual_tokens: usize,
    /// Size of a vector: the base's, which is taken when this is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_dim: Option<usize>,
    /// For how many stacks of the base vectors are kept; all when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_transformer_submodules: Option<usize>,
    /// Where the vectors start.
    #[serde(default)]
    pub prompt_tuning_init: PromptTuningInit,
    /// The text that `init_token_ids` are of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_tuning_init_text: Option<String>,
    /// The tokenizer that made them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer_name_or_path: Option<String>,
    /// Tokens whose word vectors are the first values, with `TEXT`: cut off or repeated to the
    /// number of vectors. PEFT's files do not have this key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_token_ids: Option<Vec<i64>>,
}

/// Where vectors start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum PromptTuningInit {
    /// Normal with deviation 1, as PyTorch draws tables.
    #[default]
    Random,
    /// Word vectors of tokens that are drawn from the whole vocabulary.
    SampleVocab,
    /// Word vectors of given tokens.
    Text,
}

/// The vectors.
#[derive(Module, Debug)]
pub(crate) struct PromptTuning {
    /// `[n_stacks * n_virtual, d_model]`.
    embedding: Param<Tensor<2>>,
    #[module(skip)]
    n_virtual: usize,
    #[module(skip)]
    stack: Stack,
}

const METHOD: &str = "prompt_tuning";

impl PromptTuningConfig {
    fn asked(&self) -> Asked {
        Asked {
            method: METHOD,
            num_virtual_tokens: self.num_virtual_tokens,
            token_dim: self.token_dim,
            num_transformer_submodules: self.num_transformer_submodules,
        }
    }

    /// Refuses a start at a text of which the tokens are not known.
    ///
    /// # Errors
    /// [`AdapterError::Setting`].
    pub(crate) fn check_start(&self) -> Result<(), AdapterError> {
        match (self.prompt_tuning_init, &self.init_token_ids) {
            (PromptTuningInit::Text, None) => Err(AdapterError::Setting {
                method: METHOD,
                key: "init_token_ids",
                expected: "the ids of the text's tokens",
                found: "left out".to_owned(),
            }),
            (PromptTuningInit::Random | PromptTuningInit::SampleVocab, Some(_)) => {
                Err(AdapterError::Setting {
                    method: METHOD,
                    key: "prompt_tuning_init",
                    expected: "TEXT beside init_token_ids",
                    found: format!("{:?}", self.prompt_tuning_init),
                })
            }
            _ => Ok(()),
        }
    }
}

impl PromptTuning {
    /// Vectors with their first values.
    ///
    /// # Errors
    /// [`AdapterError::Setting`]; [`AdapterError::Model`] for an unknown token, or a base that
    /// vectors cannot stand in front of.
    pub(crate) fn init(
        config: &PromptTuningConfig,
        building: &Building<'_>,
    ) -> Result<Self, AdapterError> {
        let asked = config.asked();
        let planned = asked.plan(building.base, |shape| shape.d_model)?;
        let n_rows = planned.n_stacks * config.num_virtual_tokens;
        let shape = planned.first;
        let mut random = building.random_part(0);
        let embedding = match (config.prompt_tuning_init, &config.init_token_ids) {
            (PromptTuningInit::Text, Some(ids)) => {
                words(building, &shape, &asked.fitted(ids, n_rows)?)?
            }
            (PromptTuningInit::SampleVocab, _) => {
                let ids = random.indices(n_rows, shape.vocab);
                words(building, &shape, &ids)?
            }
            _ => Param::from_data(random.normal([n_rows, shape.d_model], 1.0), building.device),
        };
        Ok(Self {
            embedding,
            n_virtual: config.num_virtual_tokens,
            stack: shape.stack,
        })
    }
}

/// The word vectors of tokens, as they enter the first layer.
fn words(
    building: &Building<'_>,
    shape: &StackShape,
    ids: &[i64],
) -> Result<Param<Tensor<2>>, AdapterError> {
    let Some(Layer::Embedding(table)) = building.base.layer_at(shape.words) else {
        let name = building.base.sites().get(shape.words).path.clone();
        return Err(AdapterError::Missing { name });
    };
    let known = 0..shape.vocab as i64;
    if let Some(id) = ids.iter().find(|id| !known.contains(id)) {
        return Err(AdapterError::Model(ModelError::UnknownToken {
            row: 0,
            id: *id,
            vocab: shape.vocab,
        }));
    }
    let n_ids = ids.len();
    let ids = TensorData::new(ids.to_vec(), [1, n_ids]);
    let vectors = table.forward(Tensor::from_data(ids, &table.weight.device()));
    let vectors = vectors.squeeze_dim::<2>(0).mul_scalar(shape.word_scale);
    Ok(frozen::copy(&vectors, building.device))
}

impl Method for PromptTuning {
    fn name(&self) -> &'static str {
        METHOD
    }

    fn in_front(&self) -> bool {
        true
    }

    fn embedded(&self, stack: Stack, words: Tensor<3>, _pass: Pass) -> Tensor<3> {
        if stack != self.stack {
            return words;
        }
        put_in_front(self.embedding.val().narrow(0, 0, self.n_virtual), words)
    }

    fn mergeable(&self) -> Result<(), AdapterError> {
        Err(not_mergeable(METHOD))
    }
}

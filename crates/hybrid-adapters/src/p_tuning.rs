//! P-tuning: vectors in front of the words that come out of a small network over trained ones
//! (Liu et al. 2021, section 3.2), an LSTM with two layers over it, or three layers alone.
//!
//! The network sees all vectors at once and no input, so after training its outputs can stand for
//! it; PEFT's files hold nothing else.

use burn::module::{Module, Param};
use burn::tensor::{Tensor, activation};
use hybrid_models::Stack;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::dense::{self, Dense};
use crate::error::wrong_setting;
use crate::lora::drop_out;
use crate::lstm::Lstm;
use crate::method::{Building, Method, Pass};
use crate::random::HostRandom;
use crate::virtual_tokens::{Asked, not_mergeable, put_in_front};
use crate::{AdapterError, frozen};

/// How many vectors and what they come from, with PEFT's names and meanings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PTuningConfig {
    /// Vectors in front of the words.
    #[schemars(range(min = 1))]
    pub num_virtual_tokens: usize,
    /// Size of a vector: the base's, which is taken when this is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_dim: Option<usize>,
    /// For how many stacks of the base vectors are kept; all when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_transformer_submodules: Option<usize>,
    /// The network.
    #[serde(default)]
    pub encoder_reparameterization_type: Reparameterization,
    /// Features within the network; `token_dim` when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoder_hidden_size: Option<usize>,
    /// Layers of the LSTM; the other network always has three.
    #[serde(default = "two")]
    #[schemars(range(min = 1))]
    pub encoder_num_layers: usize,
    /// Share of the values that are dropped between the layers of the LSTM while training.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 0.99))]
    pub encoder_dropout: f64,
}

fn two() -> usize {
    2
}

/// What vectors come out of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Reparameterization {
    /// Three layers with `max(x, 0)` between them.
    #[default]
    Mlp,
    /// An LSTM in both directions, and two layers over it.
    Lstm,
}

/// The network.
#[derive(Module, Debug)]
pub(crate) enum PromptEncoder {
    Mlp(Vec<Dense>),
    Lstm(LstmEncoder),
}

/// An LSTM and the layers over it.
#[derive(Module, Debug)]
pub(crate) struct LstmEncoder {
    pub(crate) lstm: Lstm,
    pub(crate) head: Vec<Dense>,
    #[module(skip)]
    dropout: f64,
}

/// The vectors, or what they come from.
#[derive(Module, Debug)]
pub(crate) struct PTuning {
    /// `[n_stacks * n_virtual, d_model]`.
    embedding: Param<Tensor<2>>,
    pub(crate) encoder: Option<PromptEncoder>,
    #[module(skip)]
    n_virtual: usize,
    #[module(skip)]
    stack: Stack,
}

const METHOD: &str = "p_tuning";

impl PTuningConfig {
    fn check(&self) -> Result<(), AdapterError> {
        let wrong = wrong_setting(METHOD);
        if self.encoder_hidden_size == Some(0) {
            return wrong("encoder_hidden_size", "1 or more", "0".to_owned());
        }
        if self.encoder_num_layers == 0 {
            return wrong("encoder_num_layers", "1 or more", "0".to_owned());
        }
        if !(0.0..1.0).contains(&self.encoder_dropout) {
            return wrong(
                "encoder_dropout",
                "a share from 0 to below 1",
                self.encoder_dropout.to_string(),
            );
        }
        Ok(())
    }
}

impl PTuning {
    /// Vectors normal with deviation 1 and a network, as PyTorch draws both.
    ///
    /// # Errors
    /// [`AdapterError::Setting`], or [`AdapterError::Model`] for a base that vectors cannot stand in
    /// front of.
    pub(crate) fn init(
        config: &PTuningConfig,
        building: &Building<'_>,
    ) -> Result<Self, AdapterError> {
        config.check()?;
        let asked = Asked {
            method: METHOD,
            num_virtual_tokens: config.num_virtual_tokens,
            token_dim: config.token_dim,
            num_transformer_submodules: config.num_transformer_submodules,
        };
        let planned = asked.plan(building.base, |shape| shape.d_model)?;
        let (n_rows, d_model) = (
            planned.n_stacks * config.num_virtual_tokens,
            planned.first.d_model,
        );
        let hidden = config.encoder_hidden_size.unwrap_or(d_model);
        let device = building.device;
        let mut random = building.random_part(1);
        let encoder = match config.encoder_reparameterization_type {
            Reparameterization::Mlp => {
                let sizes = [d_model, hidden, hidden, d_model];
                PromptEncoder::Mlp(dense::init(&sizes, &mut random, device))
            }
            Reparameterization::Lstm => {
                let n_layers = config.encoder_num_layers;
                PromptEncoder::Lstm(LstmEncoder {
                    lstm: Lstm::init(n_layers, d_model, hidden, &mut random, device),
                    head: dense::init(&[2 * hidden, 2 * hidden, d_model], &mut random, device),
                    dropout: config.encoder_dropout,
                })
            }
        };
        let embedding = building.random_part(0).normal([n_rows, d_model], 1.0);
        Ok(Self {
            embedding: Param::from_data(embedding, device),
            encoder: Some(encoder),
            n_virtual: config.num_virtual_tokens,
            stack: planned.first.stack,
        })
    }

    /// # Shapes
    /// - `[n_stacks * n_virtual, d_model]`
    fn rows(&self, pass: Pass) -> Tensor<2> {
        let embedding = self.embedding.val();
        match &self.encoder {
            None => embedding,
            Some(PromptEncoder::Mlp(layers)) => dense::through(layers, embedding, activation::relu),
            Some(PromptEncoder::Lstm(encoder)) => encoder.forward(embedding, pass),
        }
    }

    /// The same function without the network.
    pub(crate) fn encoded(self) -> Self {
        let rows = self.rows(Pass::Inference);
        let device = self.embedding.val().device();
        Self {
            embedding: match self.encoder {
                Some(_) => frozen::copy(&rows, &device),
                None => self.embedding,
            },
            encoder: None,
            ..self
        }
    }
}

impl LstmEncoder {
    /// # Shapes
    /// - `x`: `[rows, d_model]` → the same
    fn forward(&self, x: Tensor<2>, pass: Pass) -> Tensor<2> {
        let between = |layer: usize, states: Tensor<2>| match pass {
            Pass::Training { seed } if self.dropout > 0.0 => {
                // Streams that no site has.
                let random = HostRandom::new(seed, u64::MAX - layer as u64);
                drop_out(states, self.dropout, random).div_scalar(1.0 - self.dropout)
            }
            _ => states,
        };
        dense::through(&self.head, self.lstm.forward(x, between), activation::relu)
    }
}

impl Method for PTuning {
    fn name(&self) -> &'static str {
        METHOD
    }

    fn in_front(&self) -> bool {
        true
    }

    fn embedded(&self, stack: Stack, words: Tensor<3>, pass: Pass) -> Tensor<3> {
        if stack != self.stack {
            return words;
        }
        put_in_front(self.rows(pass).narrow(0, 0, self.n_virtual), words)
    }

    fn mergeable(&self) -> Result<(), AdapterError> {
        Err(not_mergeable(METHOD))
    }
}

//! What tells BERT, RoBERTa and DistilBERT apart: names, sizes, positions and heads.

use crate::blocks::{Attention, EncoderLayer, FeedForward, Heads, Projections};
use crate::config_file::ConfigFile;
use crate::encoder::PositionRule;
use crate::kernels::Activation;
use crate::loader::{LinearShape, Loader, Part};
use crate::{Encoder, ModelError, NormKind, bert, distilbert, roberta};

/// The encoder that a configuration describes.
pub(crate) struct EncoderPlan {
    pub(crate) n_layers: usize,
    pub(crate) n_heads: usize,
    pub(crate) d_model: usize,
    pub(crate) d_ff: usize,
    pub(crate) vocab: usize,
    pub(crate) positions: usize,
    pub(crate) token_types: Option<usize>,
    pub(crate) position_rule: PositionRule,
    pub(crate) activation: Activation,
    pub(crate) epsilon: f64,
    pub(crate) names: &'static LayerNames,
}

/// Module paths of one layer, below `stack` and the layer's index.
pub(crate) struct LayerNames {
    pub(crate) stack: &'static str,
    pub(crate) query: &'static str,
    pub(crate) key: &'static str,
    pub(crate) value: &'static str,
    pub(crate) attention_output: &'static str,
    pub(crate) attention_block: &'static str,
    pub(crate) attention_norm: &'static str,
    pub(crate) up: &'static str,
    pub(crate) down: &'static str,
    pub(crate) feed_forward_block: &'static str,
    pub(crate) feed_forward_norm: &'static str,
}

/// What a model computes on top of its encoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Task {
    Headless,
    SequenceClassification,
    MaskedLm,
    TokenClassification,
    SpanAnswering,
}

/// A family of models.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Architecture {
    Bert,
    Roberta,
    DistilBert,
}

impl Architecture {
    const ALL: [Self; 3] = [Self::Bert, Self::Roberta, Self::DistilBert];

    /// The architecture of a configuration's `model_type`.
    ///
    /// # Errors
    /// [`ModelError::UnknownArchitecture`], [`ModelError::MissingKey`].
    pub(crate) fn of(config: &ConfigFile) -> Result<Self, ModelError> {
        let all = Self::ALL.map(|architecture| (architecture.model_type(), architecture));
        config.choose(config.text("model_type")?, &all)
    }

    /// `model_type` in `config.json`; also the encoder's module name in models with a head.
    pub(crate) fn model_type(self) -> &'static str {
        match self {
            Self::Bert => "bert",
            Self::Roberta => "roberta",
            Self::DistilBert => "distilbert",
        }
    }

    /// Classes of Transformers with the task of each.
    fn classes(self) -> &'static [(&'static str, Task)] {
        match self {
            Self::Bert => &bert::CLASSES,
            Self::Roberta => &roberta::CLASSES,
            Self::DistilBert => &distilbert::CLASSES,
        }
    }

    /// The task of a configuration's class; headless when it names none.
    ///
    /// # Errors
    /// [`ModelError::UnknownArchitecture`].
    pub(crate) fn task(self, config: &ConfigFile) -> Result<Task, ModelError> {
        let Some(found) = config.class()? else {
            return Ok(Task::Headless);
        };
        config.choose(found, self.classes())
    }

    /// Sizes and names out of a configuration.
    ///
    /// # Errors
    /// [`ModelError::MissingKey`], [`ModelError::InvalidValue`].
    pub(crate) fn plan(self, config: &ConfigFile) -> Result<EncoderPlan, ModelError> {
        match self {
            Self::Bert => bert::plan(config),
            Self::Roberta => roberta::plan(config),
            Self::DistilBert => distilbert::plan(config),
        }
    }

    /// Whether a checkpoint may hold `name` though the model that is loaded has no use for it: a
    /// buffer, or a tensor of a head that is not used.
    pub(crate) fn may_go_unused(self, name: &str) -> bool {
        let prefix = format!("{}.", self.model_type());
        let inner = name.strip_prefix(&prefix).unwrap_or(name);
        let buffer = matches!(
            inner,
            "embeddings.position_ids" | "embeddings.token_type_ids"
        );
        let heads: &[&str] = match self {
            Self::Bert => &["cls.", "classifier.", "qa_outputs.", "pooler."],
            Self::Roberta => &["lm_head.", "classifier.", "qa_outputs.", "pooler."],
            Self::DistilBert => &["vocab_", "pre_classifier.", "classifier.", "qa_outputs."],
        };
        buffer || heads.iter().any(|head| inner.starts_with(head))
    }
}

/// Loads the encoder that `plan` describes.
///
/// # Errors
/// An error of the checkpoint.
pub(crate) fn load_encoder(
    plan: &EncoderPlan,
    loader: &mut Loader<'_>,
) -> Result<Encoder, ModelError> {
    let EncoderPlan {
        d_model,
        d_ff,
        epsilon,
        names,
        ..
    } = *plan;
    let words = loader.embedding("embeddings.word_embeddings", plan.vocab, d_model)?;
    let positions = loader.embedding("embeddings.position_embeddings", plan.positions, d_model)?;
    let token_types = match plan.token_types {
        Some(n) => Some(loader.embedding("embeddings.token_type_embeddings", n, d_model)?),
        None => None,
    };
    let embedding_norm = loader.norm(
        Part::Body,
        "embeddings.LayerNorm",
        NormKind::Layer,
        d_model,
        epsilon,
    )?;
    let shape = |d_in, d_out| LinearShape {
        d_in,
        d_out,
        bias: true,
    };
    let mut layers = Vec::new();
    for index in 0..plan.n_layers {
        let part = Part::Layer(index);
        let path = |name: &str| format!("{}.{index}.{name}", names.stack);
        let square = shape(d_model, d_model);
        let attention = Attention {
            projections: Projections::Separate {
                query: loader.linear(part, &path(names.query), square)?,
                key: loader.linear(part, &path(names.key), square)?,
                value: loader.linear(part, &path(names.value), square)?,
            },
            head_norms: None,
            output: loader.linear(part, &path(names.attention_output), square)?,
            heads: Heads::scaled(plan.n_heads, d_model / plan.n_heads),
        };
        let attention_block = loader.block(index, &path(names.attention_block), d_model);
        let kind = NormKind::Layer;
        let attention_norm =
            loader.norm(part, &path(names.attention_norm), kind, d_model, epsilon)?;
        let feed_forward = FeedForward {
            gate: None,
            up: loader.linear(part, &path(names.up), shape(d_model, d_ff))?,
            activation: plan.activation,
            down: loader.linear(part, &path(names.down), shape(d_ff, d_model))?,
        };
        let feed_forward_block = loader.block(index, &path(names.feed_forward_block), d_model);
        let feed_forward_norm =
            loader.norm(part, &path(names.feed_forward_norm), kind, d_model, epsilon)?;
        layers.push(EncoderLayer {
            attention,
            attention_block,
            attention_norm,
            feed_forward,
            feed_forward_block,
            feed_forward_norm,
        });
    }
    let (position_rule, n_heads) = (plan.position_rule, plan.n_heads);
    Ok(Encoder {
        words,
        positions,
        token_types,
        embedding_norm,
        layers,
        position_rule,
        n_heads,
    })
}

//! Task heads on top of an encoder.

use std::ops::Range;

use burn::tensor::{Int, Tensor, TensorData};

use crate::architecture::{Architecture, EncoderPlan, Task};
use crate::config_file::ConfigFile;
use crate::kernels::{Activation, row_sum};
use crate::layers::LayerPlace;
use crate::loader::{LinearShape, Loader, Part};
use crate::{Embedding, Hooks, Linear, ModelError, Norm, NormKind, distilbert};

/// The head of a model.
#[derive(Debug, Clone)]
#[allow(clippy::large_enum_variant, reason = "a model has one head, made once")]
pub(crate) enum Head {
    None,
    SequenceClassification {
        /// Between the first token and the classifier. BERT has its pooler there.
        transform: Option<(Linear, Activation)>,
        classifier: Linear,
    },
    MaskedLm {
        transform: Linear,
        activation: Activation,
        norm: Norm,
        decoder: Linear,
    },
    TokenClassification(Linear),
    SpanAnswering(Linear),
}

impl Head {
    /// Loads the head of a task.
    ///
    /// # Errors
    /// An error of the configuration or the checkpoint.
    pub(crate) fn load(
        task: Task,
        architecture: Architecture,
        config: &ConfigFile,
        plan: &EncoderPlan,
        words: &Embedding,
        loader: &mut Loader<'_>,
    ) -> Result<Self, ModelError> {
        let d_model = plan.d_model;
        let to = |d_out| LinearShape {
            d_in: d_model,
            d_out,
            bias: true,
        };
        match task {
            Task::Headless => Ok(Self::None),
            Task::SequenceClassification => {
                let n_labels = config.n_labels()?;
                let (transform, classifier) = match architecture {
                    Architecture::Bert => (None, "classifier"),
                    Architecture::Roberta => (
                        Some(("classifier.dense", Activation::Tanh)),
                        "classifier.out_proj",
                    ),
                    Architecture::DistilBert => {
                        (Some(("pre_classifier", Activation::Relu)), "classifier")
                    }
                };
                let transform = match transform {
                    Some((path, activation)) => {
                        Some((loader.linear(Part::Head, path, to(d_model))?, activation))
                    }
                    None => None,
                };
                let classifier = loader.linear(Part::Head, classifier, to(n_labels))?;
                Ok(Self::SequenceClassification {
                    transform,
                    classifier,
                })
            }
            Task::MaskedLm => {
                let [transform, norm, decoder, bias] = match architecture {
                    Architecture::Bert => [
                        "cls.predictions.transform.dense",
                        "cls.predictions.transform.LayerNorm",
                        "cls.predictions.decoder",
                        "cls.predictions.bias",
                    ],
                    Architecture::Roberta => [
                        "lm_head.dense",
                        "lm_head.layer_norm",
                        "lm_head.decoder",
                        "lm_head.bias",
                    ],
                    Architecture::DistilBert => [
                        "vocab_transform",
                        "vocab_layer_norm",
                        "vocab_projector",
                        "vocab_projector.bias",
                    ],
                };
                let (activation, epsilon) = match architecture {
                    Architecture::Bert => (plan.activation, plan.epsilon),
                    Architecture::Roberta => (Activation::Gelu, plan.epsilon),
                    Architecture::DistilBert => (plan.activation, distilbert::EPSILON),
                };
                let tied = config.switch_or("tie_word_embeddings", true)?;
                Ok(Self::MaskedLm {
                    transform: loader.linear(Part::Head, transform, to(d_model))?,
                    activation,
                    norm: loader.norm(Part::Head, norm, NormKind::Layer, d_model, epsilon)?,
                    decoder: loader.output(decoder, Some(bias), words, tied)?,
                })
            }
            Task::TokenClassification => {
                let n_labels = config.n_labels()?;
                Ok(Self::TokenClassification(loader.linear(
                    Part::Head,
                    "classifier",
                    to(n_labels),
                )?))
            }
            Task::SpanAnswering => Ok(Self::SpanAnswering(loader.linear(
                Part::Head,
                "qa_outputs",
                to(2),
            )?)),
        }
    }

    pub(crate) fn places(&mut self) -> Vec<LayerPlace<'_>> {
        match self {
            Self::None => Vec::new(),
            Self::SequenceClassification {
                transform,
                classifier,
            } => transform
                .iter_mut()
                .map(|(linear, _)| LayerPlace::Linear(linear))
                .chain([LayerPlace::Linear(classifier)])
                .collect(),
            Self::MaskedLm {
                transform,
                norm,
                decoder,
                ..
            } => {
                vec![
                    LayerPlace::Linear(transform),
                    LayerPlace::Norm(norm),
                    LayerPlace::Linear(decoder),
                ]
            }
            Self::TokenClassification(linear) | Self::SpanAnswering(linear) => {
                vec![LayerPlace::Linear(linear)]
            }
        }
    }
}

/// Logits over a vocabulary that exist at once while a loss is summed: 32 MiB of them.
const LOGITS_HELD: usize = 1 << 23;

/// The sum of a loss over the logits of some rows, of a group of rows at a time unless something
/// trained acts on the output layer.
///
/// # Shapes
/// - `rows`: `[rows, d_model]`, `logits` of a group: `[group, d_model]` → `[group, vocab]`
pub(crate) fn sum_of_logits(
    output: &Linear,
    rows: &Tensor<2>,
    hooks: &dyn Hooks,
    logits: impl Fn(Tensor<2>) -> Tensor<2>,
    loss: impl Fn(Tensor<2>, Range<usize>) -> Tensor<1>,
) -> Tensor<1> {
    let ([n_rows, _], [_, vocab]) = (rows.dims(), output.weight.dims());
    if hooks.acts_on_linear(output.site) {
        return loss(logits(rows.clone()), 0..n_rows);
    }
    let most = (LOGITS_HELD / vocab).max(1);
    row_sum(rows, most, |group, range| loss(logits(group), range))
}

/// The vectors at chosen places: `row * seq + position` each.
///
/// # Shapes
/// - `hidden`: `[batch, seq, d_model]` → `[places, d_model]`
pub(crate) fn rows_at(hidden: Tensor<3>, places: &[usize]) -> Tensor<2> {
    let [batch, seq, d_model] = hidden.dims();
    let places: Vec<i32> = places.iter().map(|place| *place as i32).collect();
    let n_places = places.len();
    let places = TensorData::new(places, [n_places]);
    let places: Tensor<1, Int> = Tensor::from_data(places, &hidden.device());
    hidden.reshape([batch * seq, d_model]).select(0, places)
}

/// A linear site on one vector a row.
///
/// # Shapes
/// - `x`: `[batch, d_in]` → `[batch, d_out]`
pub(crate) fn linear_rows(layer: &Linear, x: Tensor<2>, hooks: &dyn Hooks) -> Tensor<2> {
    let [batch, d_in] = x.dims();
    let [_, d_out] = layer.weight.dims();
    hooks
        .linear(layer, x.reshape([batch, 1, d_in]))
        .reshape([batch, d_out])
}

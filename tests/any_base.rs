//! Bases of adapter and training fixtures, whatever their kind.

use std::path::Path;

use burn::tensor::{Device, Int, Tensor, TensorData};
use hybrid_adapters::{AdapterError, Adapters};
use hybrid_models::{
    Base, BaseKind, DecoderBatch, DecoderModel, EncoderBatch, EncoderDecoder, Hooks, Model,
};

use crate::fixtures::Tensors;

/// A base of one of the kinds.
#[expect(clippy::large_enum_variant, reason = "there are few at a time")]
pub(crate) enum AnyBase {
    Encoder(Model),
    Decoder(DecoderModel),
    EncoderDecoder(EncoderDecoder),
}

/// A batch as a fixture has it.
pub(crate) struct AnyBatch {
    input_ids: Tensor<2, Int>,
    attention_mask: Tensor<2, Int>,
    token_type_ids: Option<Tensor<2, Int>>,
    position_ids: Option<Tensor<2, Int>>,
    labels: Labels,
}

#[derive(Clone)]
pub(crate) enum Labels {
    OfRows(Tensor<1, Int>),
    OfTokens(Tensor<2, Int>),
}

impl AnyBatch {
    /// The tensors of a file whose names start with `prefix`.
    pub(crate) fn read(file: &Tensors, prefix: &str, device: &Device) -> Self {
        let name = |key: &str| format!("{prefix}{key}");
        let ids = |key: &str| file.int::<2>(&name(key), device);
        let labels = name("labels");
        Self {
            input_ids: ids("input_ids"),
            attention_mask: ids("attention_mask"),
            token_type_ids: file
                .has(&name("token_type_ids"))
                .then(|| ids("token_type_ids")),
            position_ids: None,
            labels: match file.shape(&labels).len() {
                1 => Labels::OfRows(file.int(&labels, device)),
                _ => Labels::OfTokens(file.int(&labels, device)),
            },
        }
    }

    /// Rows of which decoders count the tokens alone.
    pub(crate) fn padded(
        input_ids: Tensor<2, Int>,
        attention_mask: Tensor<2, Int>,
        labels: Labels,
    ) -> Self {
        let counted = DecoderBatch::padded(input_ids.clone(), attention_mask.clone());
        Self {
            input_ids,
            attention_mask,
            token_type_ids: None,
            position_ids: counted.position_ids,
            labels,
        }
    }

    /// Some of its rows, in this order.
    pub(crate) fn rows(&self, rows: &[i32]) -> Self {
        let device = self.input_ids.device();
        let indices = || Tensor::<1, Int>::from_ints(rows, &device);
        let chosen = |x: &Tensor<2, Int>| x.clone().select(0, indices());
        Self {
            input_ids: chosen(&self.input_ids),
            attention_mask: chosen(&self.attention_mask),
            token_type_ids: self.token_type_ids.as_ref().map(chosen),
            position_ids: self.position_ids.as_ref().map(chosen),
            labels: match &self.labels {
                Labels::OfRows(labels) => Labels::OfRows(labels.clone().select(0, indices())),
                Labels::OfTokens(labels) => Labels::OfTokens(chosen(labels)),
            },
        }
    }

    pub(crate) fn for_encoder(&self) -> EncoderBatch {
        EncoderBatch {
            input_ids: self.input_ids.clone(),
            attention_mask: self.attention_mask.clone(),
            token_type_ids: self.token_type_ids.clone(),
        }
    }

    /// Positions of a fixture count padding too, as Transformers does when none are given.
    pub(crate) fn for_decoder(&self) -> DecoderBatch {
        DecoderBatch {
            input_ids: self.input_ids.clone(),
            attention_mask: Some(self.attention_mask.clone()),
            position_ids: self.position_ids.clone(),
        }
    }

    /// The tokens of each row, without padding.
    pub(crate) fn prompts(&self) -> Vec<Vec<i64>> {
        let [_, seq] = self.input_ids.dims();
        let read = |x: &Tensor<2, Int>| x.to_data().iter::<i64>().collect::<Vec<i64>>();
        let (ids, mask) = (read(&self.input_ids), read(&self.attention_mask));
        let rows = ids.chunks(seq).zip(mask.chunks(seq));
        rows.map(|(ids, mask)| {
            let kept = ids.iter().zip(mask).filter(|(_, mask)| **mask == 1);
            kept.map(|(id, _)| *id).collect()
        })
        .collect()
    }
}

impl AnyBase {
    pub(crate) fn load(folder: &Path, device: &Device) -> Self {
        let loaded = BaseKind::of_folder(folder).and_then(|kind| {
            Ok(match kind {
                BaseKind::Encoder => Self::Encoder(Model::load(folder, device)?),
                BaseKind::Decoder => Self::Decoder(DecoderModel::load(folder, device)?),
                BaseKind::EncoderDecoder => {
                    Self::EncoderDecoder(EncoderDecoder::load(folder, device)?)
                }
            })
        });
        loaded.unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
    }

    pub(crate) fn as_base(&self) -> &dyn Base {
        match self {
            Self::Encoder(model) => model,
            Self::Decoder(model) => model,
            Self::EncoderDecoder(model) => model,
        }
    }

    pub(crate) fn merged(&self, adapters: &Adapters) -> Result<Self, AdapterError> {
        Ok(match self {
            Self::Encoder(model) => Self::Encoder(adapters.merge(model)?),
            Self::Decoder(model) => Self::Decoder(adapters.merge(model)?),
            Self::EncoderDecoder(model) => Self::EncoderDecoder(adapters.merge(model)?),
        })
    }

    /// The same base without its head; an encoder-decoder always has its output layer.
    pub(crate) fn headless(&self, folder: &Path, device: &Device) -> Option<Self> {
        match self {
            Self::Encoder(_) => Some(Self::Encoder(Model::load_encoder(folder, device).unwrap())),
            Self::Decoder(_) => Some(Self::Decoder(
                DecoderModel::load_headless(folder, device).unwrap(),
            )),
            Self::EncoderDecoder(_) => None,
        }
    }

    pub(crate) fn hidden(&self, batch: &AnyBatch, hooks: &dyn Hooks) -> Vec<f32> {
        let hidden = match self {
            Self::Encoder(model) => model.encoder.forward(&batch.for_encoder(), hooks),
            Self::Decoder(model) => {
                let hidden = model.decoder.forward(&batch.for_decoder(), None, hooks);
                hidden.unwrap_or_else(|error| panic!("{error}"))
            }
            Self::EncoderDecoder(model) => target_states(model, batch, hooks),
        };
        host(hidden)
    }

    /// All logits of the head: one row for each row of the batch, or for each token.
    pub(crate) fn logits(&self, batch: &AnyBatch, hooks: &dyn Hooks) -> Vec<f32> {
        match self {
            Self::Encoder(model) => {
                let logits = model.classify(&batch.for_encoder(), hooks);
                host(logits.unwrap_or_else(|error| panic!("{error}")))
            }
            Self::Decoder(model) => {
                let logits = model.logits(&batch.for_decoder(), hooks);
                host(logits.unwrap_or_else(|error| panic!("{error}")))
            }
            Self::EncoderDecoder(model) => {
                host(model.logits(target_states(model, batch, hooks), hooks))
            }
        }
    }

    /// Of logits of each row or place, those that count: at padding Transformers computes something,
    /// too. What adapters put in front of the tokens counts.
    pub(crate) fn counted(&self, values: &[f32], batch: &AnyBatch) -> Vec<f32> {
        match self {
            Self::Encoder(_) | Self::EncoderDecoder(_) => values.to_vec(),
            Self::Decoder(model) => {
                let [size, seq] = batch.attention_mask.dims();
                let mask: Vec<i64> = batch.attention_mask.to_data().iter().collect();
                let width = model.decoder.vocab_size();
                let n_virtual = values.len() / width / size - seq;
                let in_front = vec![1; n_virtual];
                let mask = mask.chunks(seq).flat_map(|row| [&in_front, row].concat());
                let places = values.chunks(width).zip(mask);
                places
                    .filter(|(_, mask)| *mask == 1)
                    .flat_map(|(place, _)| place.to_vec())
                    .collect()
            }
        }
    }

    /// Logits where there is something to learn, with the classes to learn.
    pub(crate) fn targets(
        &self,
        batch: &AnyBatch,
        hooks: &dyn Hooks,
    ) -> (Tensor<2>, Tensor<1, Int>) {
        match (self, &batch.labels) {
            (Self::Encoder(model), Labels::OfRows(labels)) => {
                let logits = model.classify(&batch.for_encoder(), hooks);
                let logits = logits.unwrap_or_else(|error| panic!("{error}"));
                (logits, labels.clone())
            }
            (Self::Decoder(model), Labels::OfTokens(labels)) => model
                .target_logits(&batch.for_decoder(), labels, hooks)
                .unwrap_or_else(|error| panic!("{error}")),
            (Self::EncoderDecoder(model), Labels::OfTokens(labels)) => model
                .target_logits(&batch.for_encoder(), labels, hooks)
                .unwrap_or_else(|error| panic!("{error}")),
            _ => panic!("the labels do not fit the base"),
        }
    }

    /// Logits of the token after a row of tokens, all of them read.
    pub(crate) fn next_logits(&self, ids: &[i64], device: &Device, hooks: &dyn Hooks) -> Vec<f32> {
        let Self::Decoder(model) = self else {
            panic!("only a decoder continues")
        };
        let data = TensorData::new(ids.to_vec(), [1, ids.len()]);
        let batch = DecoderBatch {
            input_ids: Tensor::from_data(data, device),
            attention_mask: None,
            position_ids: None,
        };
        let logits = model.logits(&batch, hooks).unwrap();
        let last = logits.dims()[1] - 1;
        host(logits.narrow(1, last, 1))
    }
}

/// The last hidden states of the targets.
fn target_states(model: &EncoderDecoder, batch: &AnyBatch, hooks: &dyn Hooks) -> Tensor<3> {
    let Labels::OfTokens(labels) = &batch.labels else {
        panic!("the labels do not fit the base")
    };
    let ids = model.tokens().shift_right(labels);
    let states = model
        .encode(&batch.for_encoder(), hooks)
        .and_then(|encoded| model.decode(&ids, &encoded, None, hooks));
    states.unwrap_or_else(|error| panic!("{error}"))
}

pub(crate) fn host<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    x.into_data().iter::<f32>().collect()
}

//! Everything under the lowest trained layer, computed once.
//!
//! It is a pure function of the input (base and earlier adapters are frozen, nothing is dropped), so
//! it is kept on the host, in memory or in a file, and reused in every epoch. It is computed when a row
//! is first needed, in chunks that do not depend on who needs them: a resumed run finds the same bytes.

mod spill;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::{Tensor, TensorData};
use hybrid_data::{BatchOrder, Encoding, length_buckets};
use hybrid_models::{DecoderBatch, EncoderBatch, Hooks, Pooling};

use crate::HybridError;
use crate::local_model::{INFERENCE, LoadedBase, LocalModel, host_rows};

use spill::{Mapped, Spill};

/// Bytes that kept values may take in a file.
const MAX_SPILLED: usize = 16 << 30;

/// What of a base a training leaves as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frozen {
    /// Layers, from the lowest.
    pub(crate) layers: usize,
    /// The pooling, when it and all layers are frozen.
    pub(crate) pooling: Option<Pooling>,
    /// Whether adapters put something in front of the hidden states.
    pub(crate) in_front: bool,
}

/// The frozen lower part of a training, over the rows that are trained on.
pub(crate) struct Prefix {
    frozen: Frozen,
    /// Layers that are frozen, from the lowest.
    layers: usize,
    kept: Option<Kept>,
}

/// Values that are kept.
struct Kept {
    /// Pooled vectors instead of hidden states: all layers are frozen, and so is the pooling.
    pooling: Option<Pooling>,
    d_model: usize,
    chunks: Vec<Chunk>,
    /// Chunk and place within it, by row.
    places: Vec<(usize, usize)>,
    /// Where chunks go that have no room in memory.
    spill: Option<Mutex<Spill>>,
}

/// Rows that are computed together.
struct Chunk {
    rows: Vec<usize>,
    in_memory: bool,
    values: Mutex<Option<Arc<Values>>>,
}

/// By row `[seq, d_model]`, its padding left out, or `[1, d_model]` when pooled.
enum Values {
    Here(Vec<Vec<f32>>),
    Mapped(Mapped),
}

impl Values {
    /// Copies a row to the start of `slot`.
    fn read(&self, row: usize, slot: &mut [f32]) {
        match self {
            Self::Here(rows) => slot[..rows[row].len()].copy_from_slice(&rows[row]),
            Self::Mapped(rows) => rows.read(row, slot),
        }
    }
}

/// What the trained part goes on from.
pub(crate) enum Lower {
    /// The hidden states under the lowest trained layer, `[batch, seq, d_model]`.
    Hidden(Tensor<3>),
    /// Pooled vectors, `[batch, d_model]`.
    Pooled(Tensor<2>),
}

impl Prefix {
    /// Plans the frozen layers over all rows: up to `bytes` are kept in memory, more in a file in
    /// `folder`. Nothing is kept when that saves nothing or no file can hold it, nor of an
    /// encoder-decoder. With a pooling, and when all layers are frozen,
    /// pooled vectors are kept; hidden states are not when adapters put something in front of them.
    ///
    /// Counts the work of all rows, which is done once however often a run is resumed.
    pub(crate) fn plan(
        model: &mut LocalModel,
        encodings: &[Encoding],
        frozen: Frozen,
        bytes: usize,
        folder: &Path,
    ) -> Self {
        let Frozen {
            layers,
            pooling,
            in_front,
        } = frozen;
        let d_model = model.d_model();
        let pooling = pooling.filter(|_| layers == model.n_layers());
        // The layers of two stacks are no chain over one sequence.
        let layers = match &model.base {
            LoadedBase::EncoderDecoder(_) => 0,
            LoadedBase::Encoder(_) | LoadedBase::Decoder(_) => layers,
        };
        let lengths: Vec<usize> = encodings.iter().map(Encoding::len).collect();
        let vectors = match pooling {
            Some(_) => encodings.len(),
            None => lengths.iter().sum(),
        };
        let of_vectors = |n_vectors: usize| n_vectors * d_model * size_of::<f32>();
        let spilled = of_vectors(vectors).saturating_sub(bytes);
        let spill = match spilled {
            0 => None,
            _ => Spill::in_folder(folder).ok().map(Mutex::new),
        };
        let too_large = spilled > MAX_SPILLED || spilled > 0 && spill.is_none();
        if layers == 0 || too_large || in_front && pooling.is_none() {
            return Self {
                frozen,
                layers,
                kept: None,
            };
        }
        let mut places = vec![(0, 0); encodings.len()];
        let mut chunks = Vec::new();
        let mut left = bytes;
        for rows in length_buckets(&lengths, INFERENCE, BatchOrder::Sorted) {
            let longest = rows.iter().map(|row| lengths[*row]).max().unwrap_or(0);
            let flops = model.forward_flops(layers, rows.len(), longest);
            model.count_flops(flops);
            for (place, row) in rows.iter().enumerate() {
                places[*row] = (chunks.len(), place);
            }
            let of_rows = rows.iter().map(|row| match pooling {
                Some(_) => 1,
                None => lengths[*row],
            });
            let taken = of_vectors(of_rows.sum());
            let in_memory = taken <= left;
            left = if in_memory { left - taken } else { 0 };
            chunks.push(Chunk {
                rows,
                in_memory,
                values: Mutex::new(None),
            });
        }
        model.count_tokens(encodings);
        Self {
            frozen,
            layers,
            kept: Some(Kept {
                pooling,
                d_model,
                chunks,
                places,
                spill,
            }),
        }
    }

    /// Whether this is the lower part of a training that leaves so much as it is.
    pub(crate) fn is_of(&self, frozen: Frozen) -> bool {
        self.frozen == frozen
    }

    /// Whether values are kept.
    pub(crate) fn keeps(&self) -> bool {
        self.kept.is_some()
    }

    /// The lower part of some rows; `frozen` are adapters that act there and are not trained.
    ///
    /// # Errors
    /// [`HybridError::Model`] when the base has no such pooling or not so many positions.
    pub(crate) fn lower(
        &self,
        model: &LocalModel,
        encodings: &[Encoding],
        rows: &[usize],
        frozen: &dyn Hooks,
    ) -> Result<Lower, HybridError> {
        let Some(kept) = &self.kept else {
            let batch = model.batch(encodings, rows);
            let hidden = first_layers(model, &batch, self.layers, frozen)?;
            return Ok(Lower::Hidden(hidden));
        };
        let longest = rows.iter().map(|row| encodings[*row].len()).max();
        let seq = kept.pooling.map_or(longest.unwrap_or(0), |_| 1);
        let mut values = vec![0.0; rows.len() * seq * kept.d_model];
        for (slot, row) in values.chunks_mut(seq * kept.d_model).zip(rows) {
            let (chunk, place) = kept.places[*row];
            let chunk = self.chunk(kept, chunk, model, encodings, frozen)?;
            chunk.read(place, slot);
        }
        let tensor = |shape: &[usize]| TensorData::new(values, shape);
        Ok(match kept.pooling {
            Some(_) => Lower::Pooled(Tensor::from_data(
                tensor(&[rows.len(), kept.d_model]),
                &model.device,
            )),
            None => Lower::Hidden(Tensor::from_data(
                tensor(&[rows.len(), seq, kept.d_model]),
                &model.device,
            )),
        })
    }

    /// The values of a chunk, computed by whoever comes first.
    fn chunk(
        &self,
        kept: &Kept,
        index: usize,
        model: &LocalModel,
        encodings: &[Encoding],
        frozen: &dyn Hooks,
    ) -> Result<Arc<Values>, HybridError> {
        let chunk = &kept.chunks[index];
        let mut values = chunk.values.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(values) = &*values {
            return Ok(values.clone());
        }
        model.check_interrupt()?;
        let batch = model.batch(encodings, &chunk.rows);
        let hidden = first_layers(model, &batch, self.layers, frozen)?;
        let computed = match kept.pooling {
            Some(pooling) => host_rows(model.encoder().pool(hidden, &batch, pooling, frozen)?),
            None => {
                let [n_rows, seq, d_model] = hidden.dims();
                let mut computed = host_rows(hidden.reshape([n_rows, seq * d_model]));
                for (row, value) in chunk.rows.iter().zip(&mut computed) {
                    value.truncate(encodings[*row].len() * d_model);
                    value.shrink_to_fit();
                }
                computed
            }
        };
        let spill = kept.spill.as_ref().filter(|_| !chunk.in_memory);
        let computed = match spill {
            None => Values::Here(computed),
            Some(spill) => {
                let mut spill = spill.lock().unwrap_or_else(PoisonError::into_inner);
                match spill.append(&computed) {
                    Ok(mapped) => Values::Mapped(mapped),
                    // The file's disk is full: this chunk is computed again when it is needed again.
                    Err(_) => return Ok(Arc::new(Values::Here(computed))),
                }
            }
        };
        Ok(values.insert(Arc::new(computed)).clone())
    }

    /// Whether the lower part is the same for all trainings that it is of; without layers it is what
    /// their adapters make of the words.
    pub(crate) fn is_shared(&self) -> bool {
        self.layers > 0
    }

    /// The last hidden states of rows whose lower part is `hidden`; of a decoder they are normalised.
    ///
    /// # Shapes
    /// - `hidden`: `[batch, seq, d_model]`, `batch`: `[batch, seq]` → `[batch, seq, d_model]`
    ///
    /// # Errors
    /// As [`hybrid_models::Decoder::begin`].
    pub(crate) fn upper(
        &self,
        model: &LocalModel,
        hidden: Tensor<3>,
        batch: &EncoderBatch,
        hooks: &dyn Hooks,
    ) -> Result<Tensor<3>, HybridError> {
        if let LoadedBase::Decoder(base) = &model.base {
            let decoder = &base.decoder;
            let (_, attention) = decoder.begin(&to_decoder_batch(batch), None, hooks)?;
            let attention = attention.packed(&batch.attention_mask, hooks);
            let layers = self.layers..decoder.n_layers();
            let hidden = decoder.layers(layers, hidden, &attention, None, hooks);
            return Ok(decoder.finish(hidden, hooks));
        }
        let encoder = &model.encoder().encoder;
        let attention = encoder.attention(batch, hooks);
        let attention = attention.packed(&batch.attention_mask, hooks);
        Ok(encoder.layers(self.layers..encoder.n_layers(), hidden, &attention, hooks))
    }
}

fn first_layers(
    model: &LocalModel,
    batch: &EncoderBatch,
    layers: usize,
    hooks: &dyn Hooks,
) -> Result<Tensor<3>, HybridError> {
    if let LoadedBase::Decoder(base) = &model.base {
        let decoder = &base.decoder;
        let (embedded, attention) = decoder.begin(&to_decoder_batch(batch), None, hooks)?;
        let attention = attention.packed(&batch.attention_mask, hooks);
        return Ok(decoder.layers(0..layers, embedded, &attention, None, hooks));
    }
    let encoder = &model.encoder().encoder;
    let attention = encoder.attention(batch, hooks);
    let attention = attention.packed(&batch.attention_mask, hooks);
    let embedded = encoder.embed(batch, &attention, hooks);
    Ok(encoder.layers(0..layers, embedded, &attention, hooks))
}

fn to_decoder_batch(batch: &EncoderBatch) -> DecoderBatch {
    DecoderBatch::padded(batch.input_ids.clone(), batch.attention_mask.clone())
}

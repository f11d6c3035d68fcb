//! Log-probabilities of targets, each input read once for all of its targets.

use burn::tensor::{Int, Tensor, TensorData};

use super::EncoderDecoder;
use crate::score::log_probabilities;
use crate::{EncoderBatch, Hooks, ModelError};

/// Places of targets that are read at once, padding counted.
const PLACES: usize = 256;

/// A target of which a part is scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TargetRequest<'a> {
    /// The row of the input.
    pub input: usize,
    /// The target, without the token that every decoder's input begins with.
    pub ids: &'a [i64],
    /// How many of its tokens are given; those after them are scored.
    pub n_given: usize,
}

impl EncoderDecoder {
    /// The natural logarithm of each scored token's probability given the input and all tokens
    /// before it, by request.
    ///
    /// # Shapes
    /// - `batch`: `[batch, seq]`
    ///
    /// # Errors
    /// [`ModelError::UnknownToken`], [`ModelError::LogitsNotFinite`], and as
    /// [`encode`](Self::encode) and [`decode`](Self::decode).
    ///
    /// # Panics
    /// If there is no such row of the input, or as [`encode`](Self::encode).
    pub fn score(
        &self,
        batch: &EncoderBatch,
        requests: &[TargetRequest<'_>],
        hooks: &dyn Hooks,
    ) -> Result<Vec<Vec<f32>>, ModelError> {
        let [_, seq] = batch.input_ids.dims();
        self.check_input(&batch.input_ids, seq)?;
        let vocab = self.vocab_size();
        for (row, request) in requests.iter().enumerate() {
            let mut ids = request.ids.iter();
            if let Some(&id) = ids.find(|id| !(0..vocab as i64).contains(*id)) {
                return Err(ModelError::UnknownToken { row, id, vocab });
            }
        }
        let encoded = self.encode(batch, hooks)?;
        let mut log_probs = Vec::with_capacity(requests.len());
        for piece in pieces(requests) {
            let rows: Vec<usize> = piece.iter().map(|request| request.input).collect();
            // The last token of a target is only asked for.
            let seq = longest(piece);
            let mut ids = Vec::with_capacity(piece.len() * seq);
            let (mut places, mut chosen) = (Vec::new(), Vec::new());
            for (row, request) in piece.iter().enumerate() {
                let inputs = [self.tokens.start].into_iter().chain(request.ids.to_vec());
                let padding = std::iter::repeat(self.tokens.pad);
                ids.extend(
                    inputs
                        .take(request.ids.len().max(1))
                        .chain(padding)
                        .take(seq),
                );
                for (index, id) in request.ids.iter().enumerate().skip(request.n_given) {
                    chosen.push((places.len(), *id));
                    places.push((row, index));
                }
            }
            let mut scored: Vec<Vec<f32>> = vec![Vec::new(); piece.len()];
            if !places.is_empty() {
                let ids = TensorData::new(ids, [piece.len(), seq]);
                let ids = Tensor::from_data(ids, &batch.input_ids.device());
                let hidden = self.decode(&ids, &encoded.select(&rows), None, hooks)?;
                let [_, all, _] = hidden.dims();
                let flat = |(row, index): &(usize, usize)| row * all + all - seq + index;
                let flat: Vec<usize> = places.iter().map(flat).collect();
                let values = log_probabilities(self.logits_at(hidden, &flat, hooks), &chosen);
                for ((row, step), value) in places.into_iter().zip(values) {
                    if !value.is_finite() {
                        let row = log_probs.len() + row;
                        let layer = self.layer_before(batch, &requests[row], step, hooks);
                        return Err(ModelError::LogitsNotFinite { step, row, layer });
                    }
                    scored[row].push(value);
                }
            }
            log_probs.extend(scored);
        }
        Ok(log_probs)
    }

    /// The first layer whose output is not finite before a token of a target.
    fn layer_before(
        &self,
        batch: &EncoderBatch,
        request: &TargetRequest<'_>,
        step: usize,
        hooks: &dyn Hooks,
    ) -> Option<usize> {
        let of_row = |x: &Tensor<2, Int>| x.clone().narrow(0, request.input, 1);
        let input = EncoderBatch {
            input_ids: of_row(&batch.input_ids),
            attention_mask: of_row(&batch.attention_mask),
            token_type_ids: None,
        };
        let written = [&[self.tokens.start], &request.ids[..step]].concat();
        let written = TensorData::new(written, [1, step + 1]);
        let written = Tensor::from_data(written, &batch.input_ids.device());
        self.faulty_layer(&input, &written, hooks)
    }

    /// The mean of the encoder's output of one sequence, `d_model` values: a vector of its text.
    ///
    /// # Errors
    /// [`ModelError::EmptyPrompt`] without tokens, [`ModelError::UnknownToken`], and as
    /// [`encode`](Self::encode).
    pub fn embed(&self, ids: &[i64], hooks: &dyn Hooks) -> Result<Vec<f32>, ModelError> {
        if ids.is_empty() {
            return Err(ModelError::EmptyPrompt { row: 0 });
        }
        let data = TensorData::new(ids.to_vec(), [1, ids.len()]);
        let input_ids = Tensor::from_data(data, &self.encoder.words.weight.device());
        self.check_input(&input_ids, ids.len())?;
        let batch = EncoderBatch {
            attention_mask: Tensor::ones_like(&input_ids),
            input_ids,
            token_type_ids: None,
        };
        let states = self.encode(&batch, hooks)?.states;
        Ok(states.mean_dim(1).into_data().iter::<f32>().collect())
    }
}

/// Tokens of the longest target of some, at least one.
fn longest(requests: &[TargetRequest<'_>]) -> usize {
    let lengths = requests.iter().map(|request| request.ids.len());
    lengths.max().unwrap_or(0).max(1)
}

/// Requests in order, as many together as have at most [`PLACES`] places.
fn pieces<'r, 'a>(
    requests: &'r [TargetRequest<'a>],
) -> impl Iterator<Item = &'r [TargetRequest<'a>]> {
    let mut rest = requests;
    std::iter::from_fn(move || {
        let fits = |n: &usize| *n * longest(&rest[..*n]) <= PLACES;
        let n = (1..=rest.len()).take_while(fits).last().unwrap_or(1);
        let (piece, later) = rest.split_at(n.min(rest.len()));
        rest = later;
        (!piece.is_empty()).then_some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::{PLACES, TargetRequest, pieces};

    #[test]
    fn pieces_have_no_more_places_than_allowed() {
        let long = vec![1; PLACES / 4];
        let longer = vec![1; 2 * PLACES];
        let request = |ids| TargetRequest {
            input: 0,
            ids,
            n_given: 0,
        };
        let requests = [&long[..], &[1], &long, &long, &[1], &longer, &[]].map(request);
        let sizes: Vec<usize> = pieces(&requests).map(<[_]>::len).collect();
        assert_eq!(sizes, [4, 1, 1, 1]);
        assert_eq!(pieces(&[]).count(), 0);
    }
}

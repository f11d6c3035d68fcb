//! An encoder-decoder in this process: the encoder reads the prompt, the decoder writes what follows.

use hybrid_data::{BatchOrder, Encoding, length_buckets};
use hybrid_models::{EncoderBatch, EncoderDecoder, ModelError, TargetRequest};
use hybrid_prompts::ScoreRequest;

use super::LocalModel;
use super::language::PADDED;
use crate::HybridError;

impl LocalModel {
    /// The padded batch of some prompts.
    ///
    /// # Errors
    /// [`ModelError::EmptyPrompt`] for a prompt without tokens.
    pub(crate) fn input_batch(&self, prompts: &[Vec<i64>]) -> Result<EncoderBatch, HybridError> {
        if let Some(row) = prompts.iter().position(Vec::is_empty) {
            return Err(ModelError::EmptyPrompt { row }.into());
        }
        let encodings: Vec<Encoding> = prompts.iter().map(|ids| encoding(ids)).collect();
        let rows: Vec<usize> = (0..prompts.len()).collect();
        Ok(self.batch(&encodings, &rows))
    }

    /// The log-probabilities of the tokens of all continuations; each prompt is read once.
    pub(super) fn score_targets(
        &self,
        model: &EncoderDecoder,
        requests: &[ScoreRequest],
    ) -> Result<Vec<Vec<f32>>, HybridError> {
        let before = self.frame()?.before;
        let mut prompts = Vec::with_capacity(requests.len());
        // Of each request those of its continuations.
        let mut targets: Vec<Vec<Vec<i64>>> = Vec::with_capacity(requests.len());
        for request in requests {
            prompts.push(self.prompt_ids(&request.prompt)?);
            let target =
                |text: &String| Ok([before.clone(), self.continuation_ids(text)?].concat());
            let of_request = request.continuations.iter().map(target);
            targets.push(of_request.collect::<Result<_, HybridError>>()?);
        }
        let lengths: Vec<usize> = prompts.iter().map(Vec::len).collect();
        let mut scored: Vec<Vec<Vec<f32>>> = vec![Vec::new(); requests.len()];
        for rows in length_buckets(&lengths, PADDED, BatchOrder::Sorted) {
            let inputs: Vec<Vec<i64>> = rows.iter().map(|row| prompts[*row].clone()).collect();
            let asked = rows.iter().enumerate().flat_map(|(input, row)| {
                targets[*row].iter().map(move |ids| (input, ids.as_slice()))
            });
            let asked: Vec<TargetRequest<'_>> = asked
                .map(|(input, ids)| TargetRequest {
                    input,
                    ids,
                    n_given: before.len(),
                })
                .collect();
            let log_probs = model.score(&self.input_batch(&inputs)?, &asked, self.hooks())?;
            for (request, log_probs) in asked.iter().zip(log_probs) {
                scored[rows[request.input]].push(log_probs);
            }
        }
        Ok(scored.into_iter().flatten().collect())
    }
}

/// The encoding of ids.
pub(crate) fn encoding(ids: &[i64]) -> Encoding {
    let id = |id: &i64| u32::try_from(*id).expect("ids of a vocabulary are small");
    Encoding {
        type_ids: vec![0; ids.len()],
        ids: ids.iter().map(id).collect(),
    }
}

//! Writing targets: the decoder as a reader of what it has written.

use burn::tensor::{Int, Tensor, TensorData};

use super::{Encoded, EncoderDecoder, EncoderDecoderCache};
use crate::{
    EncoderBatch, Generated, GenerationConfig, Hooks, LogitsProcessor, ModelError, Reader, generate,
};

/// A decoder with what it attends to and what it has read.
struct TargetReader<'a> {
    model: &'a EncoderDecoder,
    hooks: &'a dyn Hooks,
    input: &'a EncoderBatch,
    encoded: Encoded,
    cache: EncoderDecoderCache,
    rows: Vec<ReadRow>,
}

#[derive(Debug, Clone)]
struct ReadRow {
    /// Its row of the input.
    input: usize,
    ids: Vec<i64>,
}

impl EncoderDecoder {
    /// Writes one target for each row of an input, without the token that every target begins with.
    /// What [`TargetTokens`](crate::TargetTokens) forces or forbids holds beside `config`; what ends
    /// a target is up to `config` alone.
    ///
    /// `ends` is asked whether a row ends, as [`generate`](crate::generate) describes.
    ///
    /// # Shapes
    /// - `batch`: `[batch, seq]`
    ///
    /// # Errors
    /// [`ModelError::TooManyPositions`] when the model has fewer positions than tokens are asked
    /// for, [`ModelError::UnknownToken`], and as [`encode`](Self::encode) and
    /// [`generate`](crate::generate).
    ///
    /// # Panics
    /// If `hooks` have keys for fewer layers than there are.
    pub fn generate(
        &self,
        batch: &EncoderBatch,
        config: &GenerationConfig,
        hooks: &dyn Hooks,
        ends: &mut dyn FnMut(usize, &[i64]) -> bool,
    ) -> Result<Vec<Generated>, ModelError> {
        config.validate()?;
        let positions = config.max_new_tokens;
        let limit = self.decoder.max_positions();
        if let Some(limit) = limit.filter(|limit| positions > *limit) {
            return Err(ModelError::TooManyPositions { positions, limit });
        }
        let [rows, seq] = batch.input_ids.dims();
        if rows == 0 {
            return Ok(Vec::new());
        }
        self.check_input(&batch.input_ids, seq)?;
        let read = |input| ReadRow {
            input,
            ids: Vec::new(),
        };
        let mut reader = TargetReader {
            model: self,
            hooks,
            input: batch,
            encoded: self.encode(batch, hooks)?,
            cache: self.new_cache(positions),
            rows: (0..rows).map(read).collect(),
        };
        let start = self.tokens.start;
        let logits = reader.read(&vec![start; rows])?;
        let prompts = vec![vec![start]; rows];
        generate(&mut reader, logits, &prompts, &self.ruled(config), ends)
    }

    /// # Errors
    /// [`ModelError::UnknownToken`].
    pub(super) fn check_input(&self, ids: &Tensor<2, Int>, seq: usize) -> Result<(), ModelError> {
        let [vocab, _] = self.encoder.words.weight.dims();
        let ids = ids.to_data();
        let unknown = |(_, id): &(usize, i64)| !(0..vocab as i64).contains(id);
        match ids.iter::<i64>().enumerate().find(unknown) {
            Some((index, id)) => Err(ModelError::UnknownToken {
                row: index / seq,
                id,
                vocab,
            }),
            None => Ok(()),
        }
    }

    /// The settings with what the model's own tokens ask for.
    fn ruled(&self, config: &GenerationConfig) -> GenerationConfig {
        let tokens = &self.tokens;
        let forced = |length, id: Option<i64>| Some(LogitsProcessor::Forced { length, id: id? });
        let mut ruled = config.clone();
        if !tokens.forbidden.is_empty() {
            let forbidden = LogitsProcessor::BadWords(tokens.forbidden.clone());
            ruled.processors.push(forbidden);
        }
        // Lengths count the token that every target begins with.
        ruled.processors.extend(forced(1, tokens.forced_first));
        let last = forced(config.max_new_tokens, tokens.forced_last);
        ruled.processors.extend(last);
        ruled
    }
}

impl Encoded {
    /// Keeps these rows in this order; a row may be kept more than once.
    pub(super) fn select(&self, rows: &[usize]) -> Self {
        let indices: Vec<i32> = rows.iter().map(|row| *row as i32).collect();
        let indices = TensorData::new(indices, [rows.len()]);
        let indices: Tensor<1, Int> = Tensor::from_data(indices, &self.bias.device());
        Self {
            states: self.states.clone().select(0, indices.clone()),
            bias: self.bias.clone().select(0, indices),
        }
    }
}

impl EncoderDecoderCache {
    /// Keeps these rows of the batch in this order; a row may be kept more than once.
    fn select(&mut self, rows: &[usize]) {
        self.own.select(rows);
        for memory in &mut self.memory {
            *memory = memory.take().map(|memory| memory.select(0, rows));
        }
    }
}

impl Reader for TargetReader<'_> {
    fn read(&mut self, tokens: &[i64]) -> Result<Tensor<2>, ModelError> {
        for (row, token) in self.rows.iter_mut().zip(tokens) {
            row.ids.push(*token);
        }
        let ids = TensorData::new(tokens.to_vec(), [tokens.len(), 1]);
        let ids: Tensor<2, Int> = Tensor::from_data(ids, &self.input.input_ids.device());
        let cache = Some(&mut self.cache);
        let hidden = self.model.decode(&ids, &self.encoded, cache, self.hooks)?;
        let [rows, own, _] = hidden.dims();
        let last: Vec<usize> = (1..=rows).map(|row| row * own - 1).collect();
        Ok(self.model.logits_at(hidden, &last, self.hooks))
    }

    fn select(&mut self, rows: &[usize]) {
        if rows.iter().copied().eq(0..self.rows.len()) {
            return;
        }
        self.encoded = self.encoded.select(rows);
        self.cache.select(rows);
        self.rows = rows.iter().map(|row| self.rows[*row].clone()).collect();
    }

    fn faulty_layer(&self, row: usize) -> Option<usize> {
        let row = self.rows.get(row)?;
        let of_row = |x: &Tensor<2, Int>| x.clone().narrow(0, row.input, 1);
        let input = EncoderBatch {
            input_ids: of_row(&self.input.input_ids),
            attention_mask: of_row(&self.input.attention_mask),
            token_type_ids: None,
        };
        let ids = TensorData::new(row.ids.clone(), [1, row.ids.len()]);
        let ids = Tensor::from_data(ids, &self.input.input_ids.device());
        self.model.faulty_layer(&input, &ids, self.hooks)
    }
}

//! Models that read rows of tokens and remember what they have read.

use burn::tensor::{Int, Tensor, TensorData};

use crate::{DecoderBatch, DecoderModel, Hooks, KvCache, ModelError};

/// A model that has read some rows of tokens and goes on reading.
pub trait Reader {
    /// Reads one more token of each row.
    ///
    /// # Shapes
    /// - `tokens`: one a row → `[rows, vocab]`, logits of the token after it
    ///
    /// # Errors
    /// [`ModelError`] of the model's forward.
    fn read(&mut self, tokens: &[i64]) -> Result<Tensor<2>, ModelError>;

    /// Keeps these rows in this order; a row may be kept more than once.
    ///
    /// # Panics
    /// If there is no such row.
    fn select(&mut self, rows: &[usize]);

    /// The first layer whose output is not finite on what a row has read, to name it in an error.
    fn faulty_layer(&self, row: usize) -> Option<usize>;
}

/// A decoder with the keys and values of what it has read.
pub(crate) struct DecoderReader<'a> {
    model: &'a DecoderModel,
    hooks: &'a dyn Hooks,
    cache: KvCache,
    rows: Vec<ReadRow>,
}

#[derive(Debug, Clone)]
struct ReadRow {
    ids: Vec<i64>,
    /// Places of padding before the ids.
    padding: usize,
}

impl<'a> DecoderReader<'a> {
    /// Reads prompts, shorter ones with padding in front, and gives the logits of the token after
    /// each. `capacity` positions are allocated at once.
    ///
    /// # Shapes
    /// - `prompts`: one a row, none empty → `[rows, vocab]`
    ///
    /// # Errors
    /// As [`crate::Decoder::begin`], and [`ModelError::NoSuchPart`] without a language model head.
    pub(crate) fn start(
        model: &'a DecoderModel,
        prompts: &[Vec<i64>],
        capacity: usize,
        hooks: &'a dyn Hooks,
    ) -> Result<(Self, Tensor<2>), ModelError> {
        let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
        let rows = prompts.iter().map(|ids| ReadRow {
            ids: ids.clone(),
            padding: longest - ids.len(),
        });
        let mut reader = Self {
            model,
            hooks,
            cache: model.decoder.new_cache(capacity),
            rows: rows.collect(),
        };
        let logits = reader.forward(longest)?;
        Ok((reader, logits))
    }

    /// Reads the last `seq` places of all rows.
    fn forward(&mut self, seq: usize) -> Result<Tensor<2>, ModelError> {
        let device = self.model.decoder.words.weight.device();
        let ints = |values: Vec<i64>, width: usize| -> Tensor<2, Int> {
            let rows = values.len() / width;
            Tensor::from_data(TensorData::new(values, [rows, width]), &device)
        };
        let places = self.rows.first().map_or(0, ReadRow::places);
        let last = |row: &ReadRow, of: &dyn Fn(usize) -> i64| -> Vec<i64> {
            (places - seq..places)
                .map(|place| place.checked_sub(row.padding).map_or(0, of))
                .collect()
        };
        let id = |row: &ReadRow| last(row, &|index| row.ids[index]);
        let position = |row: &ReadRow| last(row, &|index| index as i64);
        let seen = |row: &ReadRow| {
            (0..places)
                .map(|place| i64::from(place >= row.padding))
                .collect::<Vec<i64>>()
        };
        let padded = self.rows.iter().any(|row| row.padding > 0);
        let all = |of: &dyn Fn(&ReadRow) -> Vec<i64>| self.rows.iter().flat_map(of).collect();
        let batch = DecoderBatch {
            input_ids: ints(all(&id), seq),
            attention_mask: padded.then(|| ints(all(&seen), places)),
            position_ids: padded.then(|| ints(all(&position), seq)),
        };
        let cache = Some(&mut self.cache);
        let hidden = self.model.decoder.forward(&batch, cache, self.hooks)?;
        let [rows, own, _] = hidden.dims();
        let ends: Vec<usize> = (1..=rows).map(|row| row * own - 1).collect();
        self.model.logits_at(hidden, &ends, self.hooks)
    }
}

impl ReadRow {
    fn places(&self) -> usize {
        self.padding + self.ids.len()
    }
}

impl Reader for DecoderReader<'_> {
    fn read(&mut self, tokens: &[i64]) -> Result<Tensor<2>, ModelError> {
        for (row, token) in self.rows.iter_mut().zip(tokens) {
            row.ids.push(*token);
        }
        self.forward(1)
    }

    fn select(&mut self, rows: &[usize]) {
        if rows.iter().copied().eq(0..self.rows.len()) {
            return;
        }
        self.cache.select(rows);
        self.rows = rows.iter().map(|row| self.rows[*row].clone()).collect();
    }

    fn faulty_layer(&self, row: usize) -> Option<usize> {
        let ids = self.rows.get(row)?.ids.clone();
        self.model.decoder.faulty_layer(&ids, self.hooks)
    }
}

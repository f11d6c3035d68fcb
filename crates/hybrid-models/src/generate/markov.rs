//! A model for tests: the next token depends on the last one only.

use burn::tensor::{Device, Tensor, TensorData};

use super::Reader;
use crate::ModelError;

/// Rows of last tokens.
pub(super) struct Markov {
    last: Vec<i64>,
    /// How many rows each read had.
    pub(super) reads: Vec<usize>,
    /// From this read on the logits are no numbers.
    pub(super) breaks_at: Option<usize>,
}

pub(super) const VOCAB: usize = 6;

/// Score of token `next` after token `last`.
pub(super) fn score(last: i64, next: usize) -> f32 {
    let last = last as f64;
    (2.0 * (1.3 * last * VOCAB as f64 + 2.1 * next as f64 * (last + 1.0) + 0.5).sin()) as f32
}

impl Markov {
    pub(super) fn start(prompts: &[Vec<i64>]) -> (Self, Tensor<2>) {
        let last = prompts.iter().map(|ids| ids[ids.len() - 1]).collect();
        let markov = Self {
            last,
            reads: Vec::new(),
            breaks_at: None,
        };
        let logits = markov.logits();
        (markov, logits)
    }

    fn logits(&self) -> Tensor<2> {
        let broken = self.breaks_at.is_some_and(|at| at <= self.reads.len());
        let rows = self.last.iter().flat_map(|last| {
            (0..VOCAB).map(move |next| if broken { f32::NAN } else { score(*last, next) })
        });
        let shape = [self.last.len(), VOCAB];
        Tensor::from_data(TensorData::new(rows.collect(), shape), &Device::flex())
    }
}

impl Reader for Markov {
    fn read(&mut self, tokens: &[i64]) -> Result<Tensor<2>, ModelError> {
        assert_eq!(tokens.len(), self.last.len());
        self.last = tokens.to_vec();
        self.reads.push(tokens.len());
        Ok(self.logits())
    }

    fn select(&mut self, rows: &[usize]) {
        self.last = rows.iter().map(|row| self.last[*row]).collect();
    }

    fn faulty_layer(&self, row: usize) -> Option<usize> {
        Some(row + 7)
    }
}

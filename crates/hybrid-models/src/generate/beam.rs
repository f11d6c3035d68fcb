//! Beam search, as Transformers 5 does it: `(1 + end tokens) * n_beams` candidates a step, of which
//! `n_beams` go on, and finished ones compete by their length-penalised score.

use burn::tensor::Tensor;

use super::logits::{LogitsProcessor, log_softmax};
use super::{BeamConfig, EarlyStopping, Finish, Generated, GenerationConfig, Reader, host_rows};
use crate::ModelError;

/// A sequence with the sum of its tokens' log-probabilities.
#[derive(Debug, Clone)]
struct Beam {
    ids: Vec<i64>,
    sum: f64,
    /// Its row in the reader.
    reader_row: usize,
}

/// The search for the continuation of one prompt.
struct Search<'a> {
    config: &'a GenerationConfig,
    beam: BeamConfig,
    n_prompt: usize,
    running: Vec<Beam>,
    /// From the best to the worst, at most `n_beams`.
    finished: Vec<Generated>,
    /// Whether a running beam may still become better than a finished one.
    improvable: bool,
}

/// Continues every prompt by beam search. The best of each row's finished sequences is given, with
/// its score.
///
/// # Errors
/// As [`super::generate`].
pub(super) fn search(
    reader: &mut dyn Reader,
    mut logits: Tensor<2>,
    prompts: &[Vec<i64>],
    config: &GenerationConfig,
    beam: BeamConfig,
    ends: &mut dyn FnMut(usize, &[i64]) -> bool,
) -> Result<Vec<Generated>, ModelError> {
    let processors = config.processors();
    let mut searches: Vec<Search<'_>> = prompts
        .iter()
        .enumerate()
        .map(|(row, ids)| Search {
            config,
            beam,
            n_prompt: ids.len(),
            running: vec![Beam {
                ids: ids.clone(),
                sum: 0.0,
                reader_row: row,
            }],
            finished: Vec::new(),
            improvable: true,
        })
        .collect();
    for step in 0..config.max_new_tokens {
        let rows = host_rows(logits, step, reader)?;
        for (row, search) in searches.iter_mut().enumerate() {
            search.step(&rows, &processors, step, &mut |ids| ends(row, ids));
            if search.running.is_empty() && search.finished.is_empty() {
                return Err(ModelError::NoTokenLeft { step, row });
            }
        }
        let open = || searches.iter().flat_map(|search| &search.running);
        if open().next().is_none() {
            break;
        }
        let kept: Vec<usize> = open().map(|beam| beam.reader_row).collect();
        let next: Vec<i64> = open().filter_map(|beam| beam.ids.last().copied()).collect();
        reader.select(&kept);
        let running = searches.iter_mut().flat_map(|search| &mut search.running);
        for (row, beam) in running.enumerate() {
            beam.reader_row = row;
        }
        logits = reader.read(&next)?;
    }
    Ok(searches
        .into_iter()
        .filter_map(|search| search.finished.into_iter().next())
        .collect())
}

impl Search<'_> {
    /// One more token for each running beam.
    fn step(
        &mut self,
        rows: &[Vec<f32>],
        processors: &[LogitsProcessor],
        step: usize,
        ends: &mut dyn FnMut(&[i64]) -> bool,
    ) {
        let n_beams = self.beam.n_beams;
        let length = step + 1;
        let candidates = self.candidates(rows, processors);
        let last = length == self.config.max_new_tokens;
        let mut running = Vec::new();
        for (rank, beam) in candidates.into_iter().enumerate() {
            let added = &beam.ids[self.n_prompt..];
            let ended = added
                .last()
                .is_some_and(|token| self.config.eos_ids.contains(token));
            let finish = match (ended, ends(added)) {
                (true, _) => Some(Finish::EndOfSequence),
                (false, true) => Some(Finish::Stopped),
                (false, false) => last.then_some(Finish::Length),
            };
            match finish {
                None if running.len() < n_beams => running.push(beam),
                None => {}
                // The rest is there to go on with when the best end.
                Some(finish) if rank < n_beams => self.finish(beam, length, finish),
                Some(_) => {}
            }
        }
        self.running = running;
        self.improvable = self.improvable && self.may_improve(length);
        let full = self.finished.len() == n_beams;
        if !self.improvable || full && self.beam.early_stopping == EarlyStopping::Full {
            self.running.clear();
        }
    }

    /// The best continuations of all beams, from the best to the worst.
    fn candidates(&self, rows: &[Vec<f32>], processors: &[LogitsProcessor]) -> Vec<Beam> {
        let mut all = Vec::new();
        for (place, beam) in self.running.iter().enumerate() {
            let logs = log_softmax(&rows[beam.reader_row]);
            let mut logs: Vec<f32> = logs.into_iter().map(|log| log as f32).collect();
            for processor in processors {
                processor.apply(&beam.ids, &mut logs);
            }
            let possible = logs
                .iter()
                .enumerate()
                .filter(|(_, log)| **log > f32::NEG_INFINITY);
            all.extend(possible.map(|(token, log)| (beam.sum + f64::from(*log), place, token)));
        }
        let wanted = (1 + self.config.eos_ids.len()).max(2) * self.beam.n_beams;
        let better = |a: &(f64, usize, usize), b: &(f64, usize, usize)| {
            b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2)))
        };
        if all.len() > wanted {
            all.select_nth_unstable_by(wanted, better);
            all.truncate(wanted);
        }
        all.sort_by(better);
        all.into_iter()
            .map(|(sum, place, token)| {
                let parent = &self.running[place];
                let mut ids = parent.ids.clone();
                ids.push(token as i64);
                Beam {
                    ids,
                    sum,
                    reader_row: parent.reader_row,
                }
            })
            .collect()
    }

    fn finish(&mut self, mut beam: Beam, length: usize, finish: Finish) {
        let score = self.score(beam.sum, length);
        let ids = beam.ids.split_off(self.n_prompt);
        let better = |other: &Generated| other.score.is_some_and(|other| other >= score);
        let place = self
            .finished
            .iter()
            .take_while(|other| better(other))
            .count();
        let generated = Generated {
            ids,
            finish,
            score: Some(score),
        };
        self.finished.insert(place, generated);
        self.finished.truncate(self.beam.n_beams);
    }

    fn score(&self, sum: f64, length: usize) -> f64 {
        sum / (length as f64).powf(self.beam.length_penalty)
    }

    /// Whether the best running beam could pass the worst finished one.
    fn may_improve(&self, length: usize) -> bool {
        let (Some(best), Some(worst)) = (self.running.first(), self.finished.last()) else {
            return true;
        };
        if self.finished.len() < self.beam.n_beams {
            return true;
        }
        let longest =
            self.beam.early_stopping == EarlyStopping::Never && self.beam.length_penalty > 0.0;
        let length = if longest {
            self.config.max_new_tokens
        } else {
            length
        };
        worst
            .score
            .is_some_and(|worst| self.score(best.sum, length) > worst)
    }
}

#[cfg(test)]
mod tests;

//! Choosing one token after another: the best one, or one drawn by probability.

use burn::tensor::Tensor;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::logits::{argmax, softmax};
use super::{Finish, Generated, GenerationConfig, Reader, host_rows};
use crate::ModelError;

/// A row that is not finished.
struct OpenRow {
    /// Its place among the prompts.
    row: usize,
    /// Prompt and what was added to it.
    ids: Vec<i64>,
    random: Option<ChaCha8Rng>,
}

/// Continues every prompt on its own: by the best token, or with a seed by draws. Rows that are
/// finished leave the batch.
///
/// # Errors
/// As [`super::generate`].
pub(super) fn one_by_one(
    reader: &mut dyn Reader,
    mut logits: Tensor<2>,
    prompts: &[Vec<i64>],
    config: &GenerationConfig,
    seed: Option<u64>,
    ends: &mut dyn FnMut(usize, &[i64]) -> bool,
) -> Result<Vec<Generated>, ModelError> {
    let processors = config.processors();
    let mut open: Vec<OpenRow> = prompts
        .iter()
        .enumerate()
        .map(|(row, ids)| OpenRow {
            row,
            ids: ids.clone(),
            random: seed.map(|seed| random(seed, row)),
        })
        .collect();
    let mut finished: Vec<Option<Generated>> = prompts.iter().map(|_| None).collect();
    for step in 0..config.max_new_tokens {
        let (mut kept, mut next) = (Vec::new(), Vec::new());
        for (place, mut scores) in host_rows(logits, step, reader)?.into_iter().enumerate() {
            let row = &mut open[place];
            let n_prompt = prompts[row.row].len();
            for processor in &processors {
                processor.apply(&row.ids, &mut scores);
            }
            let best = argmax(&scores);
            if scores[best] == f32::NEG_INFINITY {
                return Err(ModelError::NoTokenLeft { step, row: row.row });
            }
            let token = match &mut row.random {
                Some(random) => draw(&scores, random),
                None => best,
            } as i64;
            row.ids.push(token);
            let stopped = ends(row.row, &row.ids[n_prompt..]);
            let finish = if config.eos_ids.contains(&token) {
                Some(Finish::EndOfSequence)
            } else if stopped {
                Some(Finish::Stopped)
            } else if step + 1 == config.max_new_tokens {
                Some(Finish::Length)
            } else {
                None
            };
            match finish {
                Some(finish) => {
                    finished[row.row] = Some(Generated {
                        ids: row.ids.split_off(n_prompt),
                        finish,
                        score: None,
                    });
                }
                None => {
                    kept.push(place);
                    next.push(token);
                }
            }
        }
        if kept.is_empty() {
            break;
        }
        reader.select(&kept);
        let mut place = 0;
        open.retain(|_| {
            place += 1;
            kept.contains(&(place - 1))
        });
        logits = reader.read(&next)?;
    }
    Ok(finished.into_iter().flatten().collect())
}

/// A stream of random numbers of its own for each row, so that rows do not depend on each other.
fn random(seed: u64, row: usize) -> ChaCha8Rng {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(row as u64);
    random
}

/// A token, each as often as its probability says.
fn draw(scores: &[f32], random: &mut ChaCha8Rng) -> usize {
    let probabilities = softmax(scores);
    let total: f64 = probabilities.iter().sum();
    let unit = (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
    let mut left = unit * total;
    let drawn = probabilities.iter().position(|probability| {
        left -= probability;
        left < 0.0
    });
    drawn.unwrap_or_else(|| argmax(scores))
}

#[cfg(test)]
mod tests {
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::SeedableRng;

    use super::draw;

    #[test]
    fn tokens_are_drawn_as_often_as_they_are_likely() {
        let mut random = ChaCha8Rng::seed_from_u64(3);
        let scores = [0.2f32.ln(), f32::NEG_INFINITY, 0.7f32.ln(), 0.1f32.ln()];
        let mut counts = [0; 4];
        for _ in 0..20_000 {
            counts[draw(&scores, &mut random)] += 1;
        }
        assert_eq!(counts[1], 0);
        for (count, expected) in counts.iter().zip([4_000.0, 0.0, 14_000.0, 2_000.0]) {
            // Five standard deviations.
            assert!((f64::from(*count) - expected).abs() < 330.0, "{counts:?}");
        }
    }
}

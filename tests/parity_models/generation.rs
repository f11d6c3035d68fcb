//! Continuations of decoders: greedy ones as recorded, with and without a cache, and scores with
//! and without shared prefixes.

use burn::tensor::{Int, Tensor, TensorData};
use hybrid_models::{
    BeamConfig, DecoderBatch, DecoderModel, Decoding, EarlyStopping, Finish, Generated,
    GenerationConfig, NoHooks, SampleConfig, ScoreRequest,
};

use super::decoders::cases;
use super::{Case, host};

impl Case<DecoderModel> {
    /// The tokens of each row, without padding.
    fn prompts(&self) -> Vec<Vec<i64>> {
        let [_, seq] = [0, 1].map(|axis| self.inputs.shape("input_ids")[axis]);
        let ids = self.inputs.ints("input_ids").chunks(seq);
        let mask = self.inputs.ints("attention_mask").chunks(seq);
        let tokens = |(ids, mask): (&[i64], &[i64])| {
            let kept = ids.iter().zip(mask).filter(|(_, mask)| **mask == 1);
            kept.map(|(id, _)| *id).collect()
        };
        ids.zip(mask).map(tokens).collect()
    }

    fn recorded(&self, name: &str) -> Vec<Vec<i64>> {
        let steps = self.expected.shape(name)[1];
        let rows = self.expected.ints(name).chunks(steps);
        rows.map(<[i64]>::to_vec).collect()
    }

    fn continued(&self, prompts: &[Vec<i64>], config: &GenerationConfig) -> Vec<Generated> {
        let found = self
            .model
            .generate(prompts, config, &NoHooks, &mut |_, _| false);
        found.unwrap_or_else(|error| panic!("{}: {error}", self.fixture.name))
    }

    fn row(&self, ids: &[i64]) -> DecoderBatch {
        let data = TensorData::new(ids.to_vec(), [1, ids.len()]);
        DecoderBatch {
            input_ids: Tensor::<2, Int>::from_data(data, &self.device),
            attention_mask: None,
            position_ids: None,
        }
    }

    /// Logits after a row of tokens, all read again.
    fn next_logits(&self, ids: &[i64]) -> Vec<f32> {
        let logits = self.logits(&self.row(ids));
        host(logits.narrow(1, ids.len() - 1, 1))
    }

    /// Log-probabilities of the tokens after the first `n_context`, each row read on its own.
    fn plain_log_probs(&self, ids: &[i64], n_context: usize) -> Vec<f32> {
        let logits = self.logits(&self.row(ids));
        let logs = burn::tensor::activation::log_softmax(logits, 2);
        let vocab = self.model.decoder.vocab_size();
        let logs = host(logs);
        (n_context..ids.len())
            .map(|place| logs[(place - 1) * vocab + ids[place] as usize])
            .collect()
    }
}

fn generators() -> impl Iterator<Item = Case<DecoderModel>> {
    cases().into_iter().filter(|case| !case.is_classifier())
}

fn greedy(max_new_tokens: usize) -> GenerationConfig {
    GenerationConfig {
        max_new_tokens,
        ..GenerationConfig::default()
    }
}

#[test]
fn parity_of_greedy_continuations() {
    for case in generators() {
        let name = &case.fixture.name;
        let prompts = case.prompts();
        let recorded = case.recorded("generate_left");
        let steps = recorded[0].len();
        assert_eq!(
            Some(steps as u64),
            case.fixture.meta["generation"]["max_new_tokens"].as_u64()
        );
        let together = case.continued(&prompts, &greedy(steps));
        let singles = case.recorded("generate_single");
        let mut margin = f32::INFINITY;
        for (row, prompt) in prompts.iter().enumerate() {
            assert_eq!(together[row].ids, recorded[row], "{name}: row {row}");
            assert_eq!(together[row].finish, Finish::Length);
            let alone = case.continued(std::slice::from_ref(prompt), &greedy(steps));
            assert_eq!(alone[0].ids, singles[row], "{name}: row {row} alone");
            // Without a cache.
            let mut ids = prompt.clone();
            for _ in 0..steps {
                let logits = case.next_logits(&ids);
                let mut order: Vec<usize> = (0..logits.len()).collect();
                order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
                margin = margin.min(logits[order[0]] - logits[order[1]]);
                ids.push(order[0] as i64);
            }
            assert_eq!(
                ids[prompt.len()..],
                singles[row],
                "{name}: row {row} read again"
            );
        }
        case.tolerance.check(
            &format!("{name}: margin"),
            &[margin],
            case.expected.floats("generate_margin"),
        );
    }
}

#[test]
fn parity_of_continuations_that_end() {
    for case in generators() {
        let name = &case.fixture.name;
        let eos_id = case.expected.ints("generate_eos_id")[0];
        let pad_id = case.fixture.meta["generation"]["pad_token_id"]
            .as_i64()
            .expect("pad_token_id");
        let steps = case.recorded("generate_left")[0].len();
        let config = GenerationConfig {
            eos_ids: vec![eos_id],
            ..greedy(steps)
        };
        let found = case.continued(&case.prompts(), &config);
        let recorded = case.recorded("generate_left_eos");
        let mut ended = 0;
        for (row, (found, recorded)) in found.into_iter().zip(recorded).enumerate() {
            let end = found.ids.last() == Some(&eos_id);
            ended += usize::from(end);
            let finish = if end {
                Finish::EndOfSequence
            } else {
                Finish::Length
            };
            assert_eq!(found.finish, finish, "{name}: row {row}");
            let mut padded = found.ids;
            padded.resize(recorded.len().max(padded.len()), pad_id);
            assert_eq!(padded, recorded, "{name}: row {row}");
        }
        assert!(ended > 0, "{name}: no row ends");
    }
}

/// One beam is greedy; more find sequences whose log-probabilities, computed anew, have the score
/// that is reported.
#[test]
fn parity_of_beam_scores_with_plain_log_probabilities() {
    for case in generators() {
        let name = &case.fixture.name;
        let (prompts, steps) = (case.prompts(), 5);
        let beams = |n_beams| GenerationConfig {
            decoding: Decoding::Beam(BeamConfig {
                n_beams,
                length_penalty: 1.0,
                early_stopping: EarlyStopping::Never,
            }),
            ..greedy(steps)
        };
        let mean = |prompt: &[i64], ids: &[i64]| {
            let all = [prompt, ids].concat();
            let logs = case.plain_log_probs(&all, prompt.len());
            logs.iter().map(|log| f64::from(*log)).sum::<f64>() / ids.len() as f64
        };
        let best = case.continued(&prompts, &greedy(steps));
        let single = case.continued(&prompts, &beams(1));
        for (row, (several, prompt)) in case
            .continued(&prompts, &beams(4))
            .iter()
            .zip(&prompts)
            .enumerate()
        {
            assert_eq!(single[row].ids, best[row].ids, "{name}: row {row}");
            let score = several.score.expect("beams have scores");
            let plain = mean(prompt, &several.ids);
            assert!(
                (score - plain).abs() < 1e-4,
                "{name}: {score} instead of {plain}"
            );
        }
    }
}

/// Drawn tokens are those of a draw from full forwards, whatever is in the batch.
#[test]
fn parity_of_samples_within_and_without_a_batch() {
    for case in generators() {
        let config = GenerationConfig {
            decoding: Decoding::Sample(SampleConfig {
                temperature: 0.8,
                top_k: Some(20),
                top_p: Some(0.95),
                seed: 11,
                ..SampleConfig::default()
            }),
            repetition_penalty: 1.2,
            ..greedy(10)
        };
        let prompts = case.prompts();
        let together = case.continued(&prompts, &config);
        assert_eq!(
            together,
            case.continued(&prompts, &config),
            "{}",
            case.fixture.name
        );
        let alone = case.continued(&prompts[..1], &config);
        assert_eq!(alone[0], together[0], "{}", case.fixture.name);
    }
}

#[test]
fn parity_of_scores_with_and_without_shared_prefixes() {
    for case in generators() {
        let name = &case.fixture.name;
        let vocab = case.model.decoder.vocab_size() as i64;
        let prompts = case.prompts();
        // Prompts of which many share a beginning, with ends of several lengths: more tokens than
        // are read at once.
        let mut sequences: Vec<(Vec<i64>, usize)> = Vec::new();
        for number in 0..60i64 {
            let prompt = &prompts[number as usize % prompts.len()];
            let shared = prompt.len() - number as usize % 3;
            let mut ids = prompt[..shared].to_vec();
            let n_context = ids.len();
            ids.extend((0..5 + number % 7).map(|place| (number * 13 + place * place * 5) % vocab));
            sequences.push((ids.clone(), n_context));
            sequences.push((ids, n_context + 2));
        }
        sequences.push((prompts[0].clone(), 1));
        sequences.push((prompts[0].clone(), prompts[0].len()));
        let requests: Vec<ScoreRequest<'_>> = sequences
            .iter()
            .map(|(ids, n_context)| ScoreRequest {
                ids,
                n_context: *n_context,
            })
            .collect();
        let scores = case.model.score(&requests, &NoHooks).unwrap();
        for ((ids, n_context), found) in sequences.iter().zip(&scores.log_probs) {
            let plain = case.plain_log_probs(ids, *n_context);
            assert_eq!(found.len(), plain.len());
            for (found, plain) in found.iter().zip(plain) {
                assert!(
                    (found - plain).abs() < 1e-4,
                    "{name}: {found} instead of {plain}"
                );
            }
        }
        let alone: usize = sequences
            .iter()
            .filter(|(ids, n_context)| ids.len() > *n_context)
            .map(|(ids, _)| ids.len() - 1)
            .sum();
        assert_eq!(scores.tokens_alone, alone, "{name}");
        assert!(
            scores.tokens_read > 256 && 2 * scores.tokens_read < alone,
            "{name}: {}",
            scores.tokens_read
        );
        let without_context = [ScoreRequest {
            ids: &[1, 2],
            n_context: 0,
        }];
        let outside = [ScoreRequest {
            ids: &[1, vocab],
            n_context: 1,
        }];
        for (requests, part) in [
            (without_context, "no token"),
            (outside, "not in the model's vocabulary"),
        ] {
            let error = case
                .model
                .score(&requests, &NoHooks)
                .unwrap_err()
                .to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}

/// Prompts that cannot be continued are refused before anything is read.
#[test]
fn parity_bases_refuse_prompts_they_cannot_continue() {
    for case in generators() {
        let vocab = case.model.decoder.vocab_size() as i64;
        let refused = |prompts: &[Vec<i64>], max_new_tokens| {
            let config = greedy(max_new_tokens);
            let found = case
                .model
                .generate(prompts, &config, &NoHooks, &mut |_, _| false);
            found.unwrap_err().to_string()
        };
        assert!(refused(&[vec![1], vec![]], 4).contains("prompt 1 has no token"));
        assert!(refused(&[vec![1, vocab]], 4).contains("not in the model's vocabulary"));
        let positions = case.model.decoder.max_positions();
        let long = vec![1; positions];
        if case.config()["model_type"] == "gpt2" {
            let message = refused(&[long], 2);
            assert!(
                message.contains(&format!("the model has {positions}")),
                "{message}"
            );
        } else {
            // Rotary positions go on.
            assert_eq!(case.continued(&[long], &greedy(2))[0].ids.len(), 2);
        }
    }
}

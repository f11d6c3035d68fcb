//! Targets that are written, against those that Transformers has written.

use burn::tensor::{Tensor, TensorData};
use hybrid_models::{
    BeamConfig, Decoding, EarlyStopping, EncoderDecoder, Finish, Generated, GenerationConfig,
    NoHooks,
};
use serde_json::json;

use super::{Case, cases, host};

impl Case {
    /// The best continuations by whole forwards, each with the token that targets begin with, and
    /// the least margin of any choice. `change` changes the logits of a step.
    pub(super) fn greedy(&self, change: &dyn Fn(usize, &mut [f32])) -> (Vec<Vec<i64>>, f32) {
        let encoded = self.model.encode(&self.batch(), &NoHooks).unwrap();
        let [n_rows, _, _] = encoded.states.dims();
        let mut rows = vec![vec![self.model.tokens().start]; n_rows];
        let mut margin = f32::INFINITY;
        for step in 0..self.max_new_tokens() {
            let ids = TensorData::new(rows.concat(), [n_rows, step + 1]);
            let ids = Tensor::from_data(ids, &self.device);
            let hidden = self.model.decode(&ids, &encoded, None, &NoHooks).unwrap();
            let logits = self.model.logits(hidden.narrow(1, step, 1), &NoHooks);
            let logits = host(logits);
            for (row, logits) in rows.iter_mut().zip(logits.chunks(self.model.vocab_size())) {
                let mut logits = logits.to_vec();
                change(step, &mut logits);
                let best = |a: usize, b: usize| if logits[b] > logits[a] { b } else { a };
                let token = (0..logits.len()).reduce(best).unwrap();
                let others = logits
                    .iter()
                    .enumerate()
                    .filter(|(other, _)| *other != token);
                let second = others.map(|(_, logit)| *logit).fold(f32::MIN, f32::max);
                margin = margin.min(logits[token] - second);
                row.push(token as i64);
            }
        }
        (rows, margin)
    }

    fn max_new_tokens(&self) -> usize {
        let generation = &self.fixture.meta["generation"];
        let settings = [
            ("decoder_start_token_id", self.model.tokens().start),
            ("pad_token_id", self.model.tokens().pad),
        ];
        for (key, id) in settings {
            assert_eq!(generation[key], id, "{}: {key}", self.fixture.name);
        }
        let expected = "start with decoder_start_token_id; no eos stopping";
        assert_eq!(generation["sequences"], expected, "{}", self.fixture.name);
        generation["max_new_tokens"].as_u64().unwrap() as usize
    }

    pub(super) fn generated(
        &self,
        model: &EncoderDecoder,
        config: GenerationConfig,
    ) -> Vec<Generated> {
        let config = GenerationConfig {
            max_new_tokens: self.max_new_tokens(),
            ..config
        };
        let batch = self.batch();
        let generated = model.generate(&batch, &config, &NoHooks, &mut |_, _| false);
        generated.unwrap_or_else(|error| panic!("{}: {error}", self.fixture.name))
    }

    /// Generated ids as the fixture has them.
    pub(super) fn sequences(&self, generated: &[Generated]) -> Vec<i64> {
        let start = [self.model.tokens().start];
        let rows = generated.iter().map(|row| [&start, row.ids.as_slice()]);
        rows.flatten().flatten().copied().collect()
    }

    /// Beam search as an output's name says.
    pub(super) fn beams(&self, output: &str) -> Vec<Generated> {
        let n_beams = output.strip_prefix("generate_beam").unwrap();
        let n_beams: usize = n_beams.trim_end_matches("_scores").parse().unwrap();
        let length_penalty = 1.0;
        let said = format!(
            "num_beams {n_beams}, length_penalty {length_penalty:.1}; score = sum of log-probs / \
             number of generated tokens (without decoder_start); one best sequence per row"
        );
        let name = &self.fixture.name;
        assert_eq!(self.fixture.meta["generation"]["beam"], said, "{name}");
        let beam = BeamConfig {
            n_beams,
            length_penalty,
            early_stopping: EarlyStopping::Unlikely,
        };
        let config = GenerationConfig {
            decoding: Decoding::Beam(beam),
            ..GenerationConfig::default()
        };
        self.generated(&self.model, config)
    }
}

/// What a configuration forces or forbids holds while a target is written, and an end token ends
/// it.
#[test]
fn parity_of_forced_forbidden_and_end_tokens() {
    for case in cases() {
        let name = &case.fixture.name;
        let (plain, _) = case.greedy(&|_, _| ());
        let vocab = case.model.vocab_size() as i64;
        // Tokens that would not come, and one that would.
        let other = |token: i64| (token + 1) % vocab;
        let (first, last) = (other(plain[0][1]), other(*plain[0].last().unwrap()));
        let forbidden = plain[0][2];
        let ruled = case.changed(|folder| {
            let settings = json!({
                "forced_bos_token_id": first,
                "forced_eos_token_id": last,
                "bad_words_ids": [[forbidden]],
            });
            let path = folder.join("generation_config.json");
            std::fs::write(path, settings.to_string()).unwrap();
        });
        let n_tokens = case.max_new_tokens();
        let (expected, _) = case.greedy(&|step, logits| {
            logits[forbidden as usize] = f32::NEG_INFINITY;
            for (at, token) in [(0, first), (n_tokens - 1, last)] {
                if step == at {
                    logits[token as usize] = f32::INFINITY;
                }
            }
        });
        let found = case.generated(&ruled.unwrap(), GenerationConfig::default());
        assert_eq!(case.sequences(&found), expected.concat(), "{name}");
        assert!(found.iter().all(|row| row.finish == Finish::Length));

        let end = plain[0][n_tokens / 2];
        let config = GenerationConfig {
            eos_ids: vec![end],
            ..GenerationConfig::default()
        };
        let found = case.generated(&case.model, config);
        for (row, found) in plain.iter().zip(&found) {
            let ended = row[1..].iter().position(|token| *token == end);
            let (length, finish) = match ended {
                Some(place) => (place + 1, Finish::EndOfSequence),
                None => (n_tokens, Finish::Length),
            };
            assert_eq!(found.ids, row[1..=length], "{name}");
            assert_eq!(found.finish, finish, "{name}");
        }
    }
}

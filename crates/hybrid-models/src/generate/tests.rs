//! Greedy decoding and sampling on a small Markov model.

use super::markov::{Markov, VOCAB, score};
use super::{
    Decoding, Finish, Generated, GenerationConfig, LogitsProcessor, SampleConfig, generate,
};
use crate::ModelError;

fn run(
    prompts: &[Vec<i64>],
    config: &GenerationConfig,
    ends: &mut dyn FnMut(usize, &[i64]) -> bool,
) -> Result<Vec<Generated>, ModelError> {
    let (mut markov, logits) = Markov::start(prompts);
    generate(&mut markov, logits, prompts, config, ends)
}

fn best(last: i64) -> i64 {
    let better = |a: &usize, b: &usize| score(last, *a).total_cmp(&score(last, *b));
    (0..VOCAB).max_by(better).unwrap() as i64
}

#[test]
fn greedy_takes_the_best_token_until_a_row_ends() {
    let prompts = vec![vec![1, 4], vec![0], vec![2, 2, 2]];
    let mut expected: Vec<Vec<i64>> = Vec::new();
    for prompt in &prompts {
        let mut ids = vec![best(prompt[prompt.len() - 1])];
        while ids.len() < 5 {
            ids.push(best(ids[ids.len() - 1]));
        }
        expected.push(ids);
    }
    let mut config = GenerationConfig {
        max_new_tokens: 5,
        ..GenerationConfig::default()
    };
    let mut passed = vec![Vec::new(); 3];
    let all = run(&prompts, &config, &mut |row, ids| {
        passed[row].push(*ids.last().unwrap());
        false
    })
    .unwrap();
    for (row, generated) in all.iter().enumerate() {
        assert_eq!(generated.ids, expected[row]);
        assert_eq!(generated.ids, passed[row], "each token is passed on once");
        assert_eq!(generated.finish, Finish::Length);
    }
    // The last row's second token ends every row where it comes; the first row is stopped earlier.
    let end = expected[2][1];
    config.eos_ids = vec![end];
    let (mut markov, logits) = Markov::start(&prompts);
    let mut stops = |row: usize, ids: &[i64]| row == 0 && ids.len() == 1;
    let all = generate(&mut markov, logits, &prompts, &config, &mut stops).unwrap();
    assert_eq!(all[0].ids, expected[0][..1]);
    assert_eq!(
        all[0].finish,
        if expected[0][0] == end {
            Finish::EndOfSequence
        } else {
            Finish::Stopped
        }
    );
    assert_eq!(all[2].finish, Finish::EndOfSequence);
    let until = |ids: &[i64]| {
        ids.iter()
            .position(|id| *id == end)
            .map_or(5, |place| place + 1)
    };
    assert_eq!(all[2].ids, expected[2][..until(&expected[2])]);
    assert_eq!(all[1].ids, expected[1][..until(&expected[1])]);
    let open = (1..3).filter(|row| expected[*row][0] != end).count();
    assert_eq!(markov.reads[0], open, "a row that ended is not read on");
}

#[test]
fn samples_repeat_with_their_seed_and_rows_do_not_depend_on_each_other() {
    let sample = |seed, prompts: &[Vec<i64>]| {
        let config = GenerationConfig {
            max_new_tokens: 12,
            decoding: Decoding::Sample(SampleConfig {
                seed,
                temperature: 1.5,
                ..SampleConfig::default()
            }),
            ..GenerationConfig::default()
        };
        let all = run(prompts, &config, &mut |_, _| false).unwrap();
        all.into_iter()
            .map(|generated| generated.ids)
            .collect::<Vec<_>>()
    };
    let prompts = [vec![1], vec![1], vec![3]];
    let first = sample(5, &prompts);
    assert_eq!(first, sample(5, &prompts));
    assert_ne!(first, sample(6, &prompts));
    assert_ne!(first[0], first[1], "rows have numbers of their own");
    assert_eq!(first[..1], sample(5, &prompts[..1]));
}

#[test]
fn sampling_settings_restrict_what_is_drawn() {
    let config = |sample: SampleConfig| GenerationConfig {
        max_new_tokens: 30,
        decoding: Decoding::Sample(sample),
        ..GenerationConfig::default()
    };
    let default = SampleConfig::default;
    let greedy = run(
        &[vec![1]],
        &GenerationConfig {
            max_new_tokens: 30,
            ..GenerationConfig::default()
        },
        &mut |_, _| false,
    );
    let greedy = greedy.unwrap().remove(0).ids;
    for narrow in [
        SampleConfig {
            top_k: Some(1),
            ..default()
        },
        SampleConfig {
            top_p: Some(0.0),
            ..default()
        },
        SampleConfig {
            min_p: Some(1.0),
            ..default()
        },
        SampleConfig {
            temperature: 1e-4,
            ..default()
        },
    ] {
        let drawn = run(&[vec![1]], &config(narrow), &mut |_, _| false).unwrap();
        assert_eq!(drawn[0].ids, greedy, "{narrow:?}");
    }
    let drawn = run(&[vec![1]], &config(default()), &mut |_, _| false).unwrap();
    assert_ne!(drawn[0].ids, greedy);
}

#[test]
fn penalties_see_the_prompt_and_what_was_added() {
    let config = GenerationConfig {
        max_new_tokens: VOCAB - 1,
        repetition_penalty: 1e6,
        processors: vec![LogitsProcessor::NoRepeatNgram(1)],
        ..GenerationConfig::default()
    };
    let all = run(&[vec![3]], &config, &mut |_, _| false).unwrap();
    let mut ids = all[0].ids.clone();
    ids.push(3);
    ids.sort_unstable();
    assert_eq!(ids, [0, 1, 2, 3, 4, 5], "no token comes twice");
}

#[test]
fn faults_are_named_with_their_place() {
    let config = GenerationConfig {
        max_new_tokens: 9,
        ..GenerationConfig::default()
    };
    let prompts = [vec![1], vec![2]];
    let (mut markov, logits) = Markov::start(&prompts);
    markov.breaks_at = Some(3);
    let error = generate(&mut markov, logits, &prompts, &config, &mut |_, _| false).unwrap_err();
    assert!(
        matches!(
            error,
            ModelError::LogitsNotFinite {
                step: 3,
                row: 0,
                layer: Some(7)
            }
        ),
        "{error}"
    );
    let none = GenerationConfig {
        processors: vec![LogitsProcessor::BadWords(
            (0..VOCAB as i64).map(|id| vec![id]).collect(),
        )],
        ..config.clone()
    };
    let error = run(&prompts, &none, &mut |_, _| false).unwrap_err();
    assert!(
        matches!(error, ModelError::NoTokenLeft { step: 0, row: 0 }),
        "{error}"
    );
    let empty = GenerationConfig {
        max_new_tokens: 0,
        ..config
    };
    let error = run(&prompts, &empty, &mut |_, _| false)
        .unwrap_err()
        .to_string();
    assert!(error.contains("max_new_tokens"), "{error}");
}

#[test]
fn a_config_survives_json_and_refuses_unknown_keys() {
    let text = r#"{"max_new_tokens": 3, "eos_ids": [2], "repetition_penalty": 1.1,
        "decoding": {"method": "sample", "top_k": 5, "seed": 9},
        "processors": [{"no_repeat_ngram": 3}, {"min_length": {"length": 4, "eos_ids": [2]}}]}"#;
    let config: GenerationConfig = serde_json::from_str(text).unwrap();
    let again = serde_json::to_string(&config).unwrap();
    assert_eq!(
        serde_json::from_str::<GenerationConfig>(&again).unwrap(),
        config
    );
    for wrong in [
        r#"{"max_tokens": 3}"#,
        r#"{"decoding": {"method": "beam", "beams": 3}}"#,
    ] {
        assert!(
            serde_json::from_str::<GenerationConfig>(wrong).is_err(),
            "{wrong}"
        );
    }
}

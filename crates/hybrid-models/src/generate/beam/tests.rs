//! Beam search on a small Markov model: against all sequences, and against Transformers 5.23 on the
//! same model.

use crate::generate::logits::log_softmax;
use crate::generate::markov::{Markov, VOCAB, score};
use crate::{
    BeamConfig, Decoding, EarlyStopping, Finish, Generated, GenerationConfig, LogitsProcessor,
    generate,
};

fn search(prompts: &[Vec<i64>], config: &GenerationConfig) -> Vec<Generated> {
    let (mut markov, logits) = Markov::start(prompts);
    generate(&mut markov, logits, prompts, config, &mut |_, _| false).unwrap()
}

fn config(n_beams: usize, length_penalty: f64, early_stopping: EarlyStopping) -> GenerationConfig {
    GenerationConfig {
        max_new_tokens: 7,
        eos_ids: vec![5, 3],
        decoding: Decoding::Beam(BeamConfig {
            n_beams,
            length_penalty,
            early_stopping,
        }),
        ..GenerationConfig::default()
    }
}

/// Every sequence that ends, by an end token or by its length, with its score.
fn all_sequences(
    ids: &[i64],
    sum: f64,
    last: i64,
    config: &GenerationConfig,
    penalty: f64,
) -> Vec<(Vec<i64>, f64)> {
    let scores: Vec<f32> = (0..VOCAB).map(|next| score(last, next)).collect();
    let logs = log_softmax(&scores);
    let mut found = Vec::new();
    for (next, log) in logs.into_iter().enumerate() {
        let next = next as i64;
        let mut longer = ids.to_vec();
        longer.push(next);
        if config.eos_ids.contains(&next) || longer.len() == config.max_new_tokens {
            let length = (longer.len() as f64).powf(penalty);
            found.push((longer, (sum + log) / length));
        } else {
            found.extend(all_sequences(&longer, sum + log, next, config, penalty));
        }
    }
    found
}

#[test]
fn enough_beams_find_the_best_of_all_sequences() {
    for penalty in [0.0, 0.7, 1.0, 2.0] {
        for prompt in 0..VOCAB as i64 {
            let config = GenerationConfig {
                max_new_tokens: 4,
                ..config(4usize.pow(4), penalty, EarlyStopping::Never)
            };
            let found = search(&[vec![prompt]], &config).remove(0);
            let all = all_sequences(&[], 0.0, prompt, &config, penalty);
            let (ids, best) = all.into_iter().max_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
            assert_eq!(found.ids, ids, "{penalty} {prompt}");
            assert!(
                (found.score.unwrap() - best).abs() < 1e-5,
                "{penalty} {prompt}"
            );
        }
    }
}

#[test]
fn few_beams_find_what_transformers_finds() {
    use EarlyStopping::{Full, Never, Unlikely};
    // Sequence and score of the prompts [1, 4] and [0, 2].
    type Found = [(&'static [i64], f64); 2];
    let short: Found = [(&[5], -1.2276), (&[1, 3], -2.62304)];
    let cases: [(usize, f64, EarlyStopping, Found); 12] = [
        (2, 0.0, Unlikely, short),
        (3, 0.0, Never, short),
        (
            2,
            1.0,
            Unlikely,
            [(&[5], -1.2276), (&[1, 0, 1, 0, 1, 3], -1.17749)],
        ),
        (2, 1.0, Full, [(&[5], -1.2276), (&[1, 3], -1.31152)]),
        (
            2,
            1.0,
            Never,
            [
                (&[2, 1, 0, 1, 0, 1, 0], -1.16146),
                (&[1, 0, 1, 0, 1, 3], -1.17749),
            ],
        ),
        (3, 1.0, Full, [(&[5], -1.2276), (&[1, 0, 1, 3], -1.21099)]),
        (
            3,
            1.0,
            Unlikely,
            [
                (&[2, 1, 0, 1, 0, 1, 0], -1.16146),
                (&[1, 0, 1, 0, 1, 3], -1.17749),
            ],
        ),
        (
            2,
            2.0,
            Full,
            [(&[2, 1, 3], -0.41315), (&[0, 1, 3], -0.44083)],
        ),
        (
            3,
            2.0,
            Full,
            [(&[2, 1, 3], -0.41315), (&[1, 0, 1, 3], -0.30275)],
        ),
        (
            2,
            2.0,
            Never,
            [
                (&[2, 1, 0, 1, 0, 1, 0], -0.16592),
                (&[0, 1, 0, 1, 0, 1, 0], -0.17101),
            ],
        ),
        (2, -1.0, Full, [(&[5], -1.2276), (&[1, 3], -5.24608)]),
        (3, -1.0, Never, [(&[5], -1.2276), (&[1, 3], -5.24608)]),
    ];
    for (n_beams, penalty, early_stopping, expected) in cases {
        let config = config(n_beams, penalty, early_stopping);
        let found = search(&[vec![1, 4], vec![0, 2]], &config);
        for (found, (ids, score)) in found.iter().zip(expected) {
            assert_eq!(found.ids, ids, "{config:?}");
            assert!(
                (found.score.unwrap() - score).abs() < 2e-5,
                "{config:?}: {found:?}"
            );
            let ended = config.eos_ids.contains(ids.last().unwrap());
            let finish = if ended {
                Finish::EndOfSequence
            } else {
                Finish::Length
            };
            assert_eq!(found.finish, finish);
        }
    }
    let one_end = GenerationConfig {
        eos_ids: vec![5],
        ..config(2, 1.0, Full)
    };
    let found = search(&[vec![1, 4], vec![0, 2]], &one_end);
    let expected = [[3, 1, 3, 1, 3, 1, 0], [1, 3, 1, 3, 1, 3, 4]];
    for (found, (ids, score)) in found.iter().zip(expected.iter().zip([-1.03269, -1.03569])) {
        assert_eq!(found.ids, ids);
        assert!((found.score.unwrap() - score).abs() < 2e-5, "{found:?}");
    }
}

#[test]
fn rows_are_searched_as_they_would_be_alone() {
    let prompts: Vec<Vec<i64>> = (0..VOCAB as i64).map(|id| vec![id]).collect();
    let config = config(3, 1.0, EarlyStopping::Unlikely);
    let together = search(&prompts, &config);
    for (prompt, found) in prompts.iter().zip(together) {
        assert_eq!(search(std::slice::from_ref(prompt), &config), [found]);
    }
}

#[test]
fn candidates_that_are_removed_or_stopped_are_not_continued() {
    let free = config(2, 1.0, EarlyStopping::Never);
    let words = GenerationConfig {
        processors: vec![LogitsProcessor::BadWords(vec![vec![1, 0]])],
        ..free.clone()
    };
    let found = search(&[vec![1, 4], vec![0, 2]], &words);
    assert!(
        found
            .iter()
            .all(|found| !found.ids.windows(2).any(|pair| pair == [1, 0]))
    );
    let prompts = [vec![1, 4]];
    let (mut markov, logits) = Markov::start(&prompts);
    let mut after_two = |_: usize, ids: &[i64]| ids.len() == 2;
    let found = generate(&mut markov, logits, &prompts, &free, &mut after_two).unwrap();
    assert!(
        found[0].ids.len() <= 2 && found[0].finish != Finish::Length,
        "{found:?}"
    );
}

//! Tests of the memory of answers and of what they cost.

use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::{prop_assert_eq, proptest};

use super::{AnswerCache, Answered, Answers};
use crate::error::PromptError;
use crate::fake_language_model::{FakeLanguageModel, tokens, tokens_read};
use crate::language_model::{GenerateOptions, PromptText, ScoreRequest};

fn request(shared: &str, own: &str) -> ScoreRequest {
    ScoreRequest {
        prompt: PromptText {
            shared: shared.into(),
            own: own.to_owned(),
            has_special_tokens: false,
        },
        continuations: Arc::from([" good".to_owned(), " bad film".to_owned()]),
    }
}

#[test]
fn nothing_is_asked_twice_and_new_answers_are_recorded() {
    let mut recorded: Vec<Answered> = Vec::new();
    let mut model = FakeLanguageModel::default();
    let requests = [
        request("a b", " c"),
        request("a b", " d"),
        request("a", " b c"),
    ];
    let mut record = |answered: &[Answered]| {
        recorded.extend_from_slice(answered);
        Ok(())
    };
    let mut cache = AnswerCache::new(&mut model, "m");
    cache.record = Some(&mut record);
    let rows = cache.score(&requests).unwrap();
    assert_eq!(rows[0], rows[2], "where a text is cut changes nothing");
    assert_eq!(cache.score(&requests).unwrap(), rows);
    let spent = cache.spent();
    assert_eq!(spent, tokens_read(&requests[..2]) as u64);
    assert_eq!((model.scored.len(), recorded.len()), (2, 2));

    let answers: Answers = recorded.into_iter().collect();
    let json = serde_json::to_string(&answers).unwrap();
    let answers: Answers = serde_json::from_str(&json).unwrap();
    let mut later = FakeLanguageModel::default();
    let mut cache = AnswerCache::new(&mut later, "m");
    cache.answers = answers.clone();
    assert_eq!(
        cache.score_cost(&requests).unwrap(),
        spent,
        "as if they were new"
    );
    assert_eq!(cache.score(&requests).unwrap(), rows);
    assert_eq!(cache.spent(), spent);
    assert!(later.scored.is_empty());
    let mut cache = AnswerCache::new(&mut later, "another model");
    cache.answers = answers;
    cache.score(&requests).unwrap();
    assert_eq!(
        later.scored.len(),
        2,
        "another model's answers are of no use"
    );
}

#[test]
fn prompts_that_share_a_piece_are_asked_one_after_the_other() {
    let mut model = FakeLanguageModel::default();
    let mut cache = AnswerCache::new(&mut model, "m");
    let texts = [
        ("a", " 1"),
        ("b", " 2"),
        ("a", " 3"),
        ("", "c"),
        ("b", " 4"),
    ];
    let requests = texts.map(|(shared, own)| request(shared, own));
    let rows = cache.score(&requests).unwrap();
    let third = cache.score(&requests[2..3]).unwrap();
    assert_eq!(
        rows[2], third[0],
        "answers are in the order of the questions"
    );
    let read: Vec<&str> = model
        .scored
        .iter()
        .map(|text| &text[..text.find('|').unwrap()])
        .collect();
    assert_eq!(read, ["a 1", "a 3", "b 2", "b 4", "c"]);
}

#[test]
fn outputs_cost_what_was_generated() {
    let mut model = FakeLanguageModel::default();
    let mut cache = AnswerCache::new(&mut model, "m");
    let prompts = [
        request("a b", " fine").prompt,
        request("a b", " dull").prompt,
    ];
    let options = GenerateOptions {
        max_tokens: 9,
        ..GenerateOptions::default()
    };
    let read = (tokens("a b").len() + 2) as u64;
    assert_eq!(cache.generate_cost(&prompts, &options).unwrap(), read + 18);
    let outputs = cache.generate(&prompts, &options).unwrap();
    let written: usize = outputs.iter().map(|output| output.n_tokens).sum();
    assert_eq!((cache.spent(), written), (read + 2, 2));
    cache.generate(&prompts, &options).unwrap();
    let other = GenerateOptions { seed: 1, ..options };
    cache.generate(&prompts, &other).unwrap();
    assert_eq!(cache.spent(), 2 * (read + 2));
    assert_eq!(model.generated.len(), 4, "other options, another question");
}

#[test]
fn answers_are_kept_piece_by_piece_and_a_failed_record_ends_it() {
    let requests: Vec<ScoreRequest> = (0..200)
        .map(|index| request("a", &format!(" {index}")))
        .collect();
    let mut model = FakeLanguageModel {
        fails_after: Some(150),
        ..FakeLanguageModel::default()
    };
    let mut cache = AnswerCache::new(&mut model, "m");
    assert!(matches!(
        cache.score(&requests),
        Err(PromptError::Model { .. })
    ));
    assert_eq!((cache.answers.len(), cache.spent()), (128, 0));
    let mut model = FakeLanguageModel::default();
    let mut full = |_: &[Answered]| Err("disk full".into());
    let mut cache = AnswerCache::new(&mut model, "m");
    cache.record = Some(&mut full);
    assert!(matches!(
        cache.score(&requests),
        Err(PromptError::Record { .. })
    ));
}

proptest! {
    #[test]
    fn costs_are_what_a_model_reads_that_keeps_shared_pieces(
        texts in vec(("[ab]{1,2}( [ab]){0,3}", "( [cd]){1,4}"), 1..8),
    ) {
        let mut requests: Vec<ScoreRequest> =
            texts.iter().map(|(shared, own)| request(shared, own)).collect();
        requests.sort_by_key(|request| request.prompt.whole());
        requests.dedup_by_key(|request| request.prompt.whole());
        let mut model = FakeLanguageModel::default();
        let mut cache = AnswerCache::new(&mut model, "m");
        prop_assert_eq!(cache.score_cost(&requests).unwrap(), tokens_read(&requests) as u64);
        cache.score(&requests).unwrap();
        prop_assert_eq!(cache.spent(), tokens_read(&requests) as u64);
        prop_assert_eq!(cache.score_cost(&requests).unwrap(), 0);
    }
}

//! Budgets that hold, and interrupted searches that come to the same end.

use std::collections::HashSet;

use proptest::prelude::{ProptestConfig, prop_assert, prop_assert_eq, proptest};

use super::{Task, strategies, task};
use crate::answers::Answers;
use crate::error::PromptError;
use crate::fake_language_model::FakeLanguageModel;

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn no_search_spends_more_than_its_budget(which in 0usize..5, budget in 100u64..60_000, seed in 0u64..5) {
        let task = Task { budget, seed, ..task(strategies()[which]) };
        let (found, _) = task.run(&mut FakeLanguageModel::default(), Answers::default());
        match found {
            Ok(outcome) => {
                prop_assert!(outcome.spent <= budget);
                prop_assert!(outcome.trials.iter().all(|trial| trial.spent <= budget));
            }
            Err(PromptError::Budget { needed, left }) => prop_assert!(needed > left && left <= budget),
            Err(other) => prop_assert!(false, "{:?}", other),
        }
    }

    #[test]
    fn an_interrupted_search_comes_to_the_same_end(which in 0usize..5, fails_after in 0usize..1200, seed in 0u64..3) {
        let task = Task { seed, budget: 25_000, ..task(strategies()[which]) };
        let mut undisturbed = FakeLanguageModel::default();
        let (whole, whole_answers) = task.run(&mut undisturbed, Answers::default());
        let whole = whole.unwrap();

        let mut dying = FakeLanguageModel { fails_after: Some(fails_after), ..FakeLanguageModel::default() };
        let (found, answers) = task.run(&mut dying, Answers::default());
        let n_asked = undisturbed.scored.len() + undisturbed.generated.len();
        match found {
            Ok(outcome) => prop_assert_eq!(&outcome, &whole),
            Err(PromptError::Search { trials, .. }) => {
                prop_assert!(n_asked > fails_after);
                prop_assert_eq!(&trials[..], &whole.trials[..trials.len()]);
            }
            Err(error) => prop_assert!(matches!(error, PromptError::Model { .. }), "{:?}", error),
        }
        let state = serde_json::to_string(&answers).unwrap();
        let mut resumed = FakeLanguageModel::default();
        let (outcome, resumed_answers) = task.run(&mut resumed, serde_json::from_str(&state).unwrap());
        prop_assert_eq!(outcome.unwrap(), whole);
        prop_assert_eq!(resumed_answers, whole_answers);

        // What was answered is not asked again; only the call that died is.
        let n_answered = answers.len();
        prop_assert_eq!(resumed.scored.len() + resumed.generated.len(), n_asked - n_answered);
        let distinct: HashSet<&String> = resumed.scored.iter().collect();
        prop_assert_eq!(distinct.len(), resumed.scored.len());
    }
}

//! Instructions that are too long for the context.

use super::{strategies, task, watch};
use crate::fake_language_model::FakeLanguageModel;
use crate::prompted_model::PromptedModel;
use crate::search::{InstructionProposals, SearchOutcome, search_language};

/// The tightest context in which the given instructions fit has no room for longer ones.
#[test]
fn instructions_that_leave_no_room_are_passed_over() {
    for strategy in strategies() {
        let search = |limit: usize, edits: usize| {
            let mut task = task(strategy);
            task.instructions = InstructionProposals {
                edits,
                ..InstructionProposals::default()
            };
            let mut model = FakeLanguageModel::default();
            let mut prompted = PromptedModel::new(&mut model, "m").limited_to(limit);
            search_language(task.search(), &mut prompted, None, &mut watch)
        };
        let tight = (1..200).find(|limit| search(*limit, 0).is_ok());
        let tight = tight.expect("a context that is long enough");
        let outcome = search(tight, 6).unwrap_or_else(|error| panic!("{strategy:?}: {error}"));
        let given = task(strategy).space.instructions().to_vec();
        let longest_new = |outcome: &SearchOutcome| {
            let prompts = outcome.trials.iter().map(|trial| &trial.prompt);
            let new = prompts.filter(|prompt| !given.contains(&prompt.instruction));
            new.map(|prompt| prompt.instruction.len())
                .max()
                .unwrap_or(0)
        };
        let roomy = search(4 * tight, 6).unwrap();
        let (tight, roomy) = (longest_new(&outcome), longest_new(&roomy));
        assert!(tight < roomy, "{strategy:?}: {tight} and {roomy} bytes");
    }
}

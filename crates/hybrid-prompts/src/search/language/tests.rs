//! Tests of the search with a language model.

mod resumption;
mod room;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use hybrid_data::{Example, LabelSet};

use super::{InstructionProposals, LanguageSearch, search_language};
use crate::answers::Answers;
use crate::demonstration::DemonstrationChoice;
use crate::error::PromptError;
use crate::fake_language_model::FakeLanguageModel;
use crate::fake_model::{example, labels};
use crate::label_scoring::LabelScoring;
use crate::language_model::GenerateOptions;
use crate::language_scoring::Objective;
use crate::output::{Output, OutputKind};
use crate::prompt::Prompt;
use crate::prompted_model::PromptedModel;
use crate::search::{
    Criterion, SearchEvent, SearchOutcome, SearchRequest, SearchSpace, SearchStrategy,
};

/// All that a search needs, owned.
struct Task {
    fit: Vec<Example>,
    labels: LabelSet,
    space: SearchSpace,
    strategy: SearchStrategy,
    scoring: LabelScoring,
    demonstrations: Vec<DemonstrationChoice>,
    instructions: InstructionProposals,
    budget: u64,
    seed: u64,
}

const PLENTY: u64 = 10_000_000;

fn fit() -> Vec<Example> {
    let cues = [
        ("fine", "pos"),
        ("dull", "neg"),
        ("lovely", "pos"),
        ("awful", "neg"),
        ("bright", "pos"),
        ("cold", "neg"),
    ];
    let fillers = ["a film", "some tale", "one more story", "that scene"];
    let mut fit = Vec::new();
    for filler in fillers {
        for (cue, label) in cues {
            fit.push(example(&format!("{filler} so {cue} indeed"), label));
        }
    }
    fit
}

fn task(strategy: SearchStrategy) -> Task {
    let labels = labels(&["neg", "pos"]);
    let words = |neg: &str, pos: &str| {
        BTreeMap::from([
            ("neg".to_owned(), vec![neg.to_owned()]),
            ("pos".to_owned(), vec![pos.to_owned()]),
        ])
    };
    let templates = [
        "Review: {{ text }}\nSentiment:",
        "{{ text }}\nIs it careful?",
        "{{ text }}",
    ];
    let space = SearchSpace::build(
        &BTreeSet::from(["text".to_owned()]),
        &labels,
        &templates.map(str::to_owned),
        &[vec!["{{ label }}".to_owned()]],
        &words("bad", "good"),
    )
    .unwrap()
    .with_instructions(
        ["", "Classify the text.", "Say what you see."]
            .map(str::to_owned)
            .to_vec(),
    )
    .with_more_label_words([words("terrible", "great"), words("very bad", "very good")]);
    Task {
        fit: fit(),
        labels,
        space,
        strategy,
        scoring: LabelScoring::default(),
        demonstrations: vec![
            DemonstrationChoice::Balanced { n: 2, sets: 1 },
            DemonstrationChoice::Random { n: 3, sets: 1 },
            DemonstrationChoice::Bootstrapped {
                n: 2,
                sets: 1,
                least: 1.0,
            },
        ],
        instructions: InstructionProposals {
            edits: 3,
            written: 2,
            improved: 2,
        },
        budget: PLENTY,
        seed: 7,
    }
}

fn strategies() -> [SearchStrategy; 5] {
    [
        SearchStrategy::Random { trials: 12 },
        SearchStrategy::Halving {
            eta: 2,
            first_sample: Some(6),
            max_prompts: 24,
        },
        SearchStrategy::Beam {
            width: 3,
            rounds: 3,
            expansions: 3,
            sample: Some(8),
        },
        SearchStrategy::Evolution {
            population: 5,
            generations: 3,
            sample: Some(8),
        },
        SearchStrategy::TreeParzen {
            trials: 20,
            startup: 6,
            sample: Some(8),
        },
    ]
}

impl Task {
    fn with_objective<'a>(&'a self, objective: Objective<'a>) -> LanguageSearch<'a> {
        LanguageSearch {
            request: SearchRequest {
                space: &self.space,
                incumbent: None,
                strategy: &self.strategy,
                fit: &self.fit,
                labels: &self.labels,
                criterion: Criterion::LogLoss,
                seed: self.seed,
            },
            objective,
            demonstrations: &self.demonstrations,
            instructions: self.instructions,
            budget: self.budget,
        }
    }

    fn search(&self) -> LanguageSearch<'_> {
        self.with_objective(Objective::Labels(&self.scoring))
    }

    /// Runs the search with these answers of earlier, and returns all answers with the result.
    fn run(
        &self,
        model: &mut FakeLanguageModel,
        answers: Answers,
    ) -> (Result<SearchOutcome, PromptError>, Answers) {
        let mut prompted = PromptedModel::new(model, "m").with_answers(answers);
        let found = search_language(self.search(), &mut prompted, None, &mut watch);
        let answers = prompted.answers().clone();
        (found, answers)
    }

    fn outcome(&self) -> SearchOutcome {
        let mut model = FakeLanguageModel::default();
        self.run(&mut model, Answers::default()).0.unwrap()
    }
}

fn watch(_: SearchEvent<'_>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// The score of the search's first prompt, on all examples.
fn baseline(task: &Task) -> f64 {
    let alone = Task {
        space: task.space.clone(),
        fit: task.fit.clone(),
        labels: task.labels.clone(),
        scoring: task.scoring.clone(),
        demonstrations: Vec::new(),
        instructions: InstructionProposals::default(),
        strategy: SearchStrategy::Exhaustive,
        ..*task
    };
    alone.outcome().trials[0].log_loss
}

#[test]
fn every_strategy_improves_on_the_first_prompt() {
    for strategy in strategies() {
        let task = task(strategy);
        let outcome = task.outcome();
        let best = outcome.ranking()[0];
        assert!(
            outcome.complete && best.sample == task.fit.len(),
            "{strategy:?}"
        );
        assert!(
            best.log_loss < 0.8 * baseline(&task),
            "{strategy:?}: {} after {}",
            best.log_loss,
            baseline(&task)
        );
        let spent: Vec<u64> = outcome.curve().iter().map(|point| point.spent).collect();
        assert!(
            spent.is_sorted() && spent.last() <= Some(&outcome.spent),
            "{strategy:?}"
        );
        let of_sample = |sample| {
            outcome
                .curve()
                .into_iter()
                .filter(move |point| point.sample == sample)
        };
        for sample in [8, 24] {
            let losses: Vec<f64> = of_sample(sample).map(|point| point.log_loss).collect();
            assert!(
                losses.is_sorted_by(|a, b| a >= b),
                "best so far: {losses:?}"
            );
        }
    }
}

#[test]
fn instructions_and_demonstrations_of_all_kinds_take_part() {
    let outcome = task(SearchStrategy::Beam {
        width: 4,
        rounds: 6,
        expansions: 6,
        sample: Some(8),
    })
    .outcome();
    let prompts = || outcome.trials.iter().map(|trial| &trial.prompt);
    assert!(
        prompts().any(|prompt| prompt.instruction == "Judge the film."),
        "written by the model"
    );
    assert!(
        prompts().any(|prompt| prompt.instruction.contains("negations")),
        "edited"
    );
    let sizes: BTreeSet<usize> = prompts()
        .map(|prompt| prompt.demonstrations.examples.len())
        .collect();
    assert_eq!(sizes, [0, 2, 3].into());
    assert!(
        outcome.best.instruction.contains("udge"),
        "{:?}",
        outcome.best
    );
}

#[test]
fn bootstrapped_demonstrations_are_the_models_own_right_answers() {
    let mut task = task(SearchStrategy::Exhaustive);
    task.space = task
        .space
        .with_instructions(vec!["Judge the film. Be careful.".to_owned()]);
    task.instructions = InstructionProposals::default();
    task.demonstrations = vec![DemonstrationChoice::Bootstrapped {
        n: 4,
        sets: 2,
        least: 1.0,
    }];
    // A wrong label that the model never gives.
    task.fit[0].label = Some("neg".to_owned());
    let outcome = task.outcome();
    let sets: Vec<_> = outcome
        .trials
        .iter()
        .map(|trial| &trial.prompt.demonstrations)
        .collect();
    let shown: BTreeSet<_> = sets.iter().flat_map(|set| &set.examples).collect();
    assert!(shown.len() > 4, "two sets");
    for set in sets.iter().filter(|set| !set.is_empty()) {
        let n_pos = set
            .examples
            .iter()
            .filter(|shown| shown.answer == "pos")
            .count();
        assert_eq!((set.examples.len(), n_pos), (4, 2), "balanced");
        assert!(
            set.examples
                .iter()
                .all(|shown| shown.fields != task.fit[0].fields)
        );
    }
    let refused = |objective| {
        let mut model = FakeLanguageModel::default();
        let mut prompted = PromptedModel::new(&mut model, "m");
        let search = task.with_objective(objective);
        search_language(search, &mut prompted, None, &mut watch).unwrap_err()
    };
    assert!(matches!(
        refused(Objective::Likelihood),
        PromptError::NoOwnAnswers
    ));
    task.demonstrations = vec![DemonstrationChoice::Random { n: 0, sets: 1 }];
    let error = task
        .run(&mut FakeLanguageModel::default(), Answers::default())
        .0
        .unwrap_err();
    assert!(matches!(error, PromptError::Setting { setting: "n", .. }));
}

#[test]
fn generated_answers_are_searched_and_bootstrapped() {
    let mut task = task(SearchStrategy::Evolution {
        population: 4,
        generations: 2,
        sample: Some(6),
    });
    task.labels = labels(&[]);
    task.space = SearchSpace::build(
        &BTreeSet::from(["text".to_owned()]),
        &task.labels,
        &[
            "Review: {{ text }}\nSentiment:".to_owned(),
            "{{ text }}".to_owned(),
        ],
        &[vec!["{{ label }}".to_owned()]],
        &BTreeMap::new(),
    )
    .unwrap();
    task.fit.iter_mut().for_each(|example| {
        let answer = if example.label.as_deref() == Some("pos") {
            "good"
        } else {
            "bad"
        };
        example.label = Some(answer.to_owned());
    });
    let options = GenerateOptions {
        max_tokens: 3,
        ..GenerateOptions::default()
    };
    let metric = |output: &Output, example: &Example| {
        let Output::Text(text) = output else {
            return 0.0;
        };
        f64::from(Some(text) == example.label.as_ref())
    };
    let objective = Objective::Generated {
        options: &options,
        output: &OutputKind::Text,
        metric: &metric,
    };
    for objective in [objective, Objective::Likelihood] {
        if matches!(objective, Objective::Likelihood) {
            task.demonstrations.pop();
        }
        let (mut model, mut writing) = (FakeLanguageModel::default(), FakeLanguageModel::default());
        let mut prompted = PromptedModel::new(&mut model, "m");
        let mut writer = PromptedModel::new(&mut writing, "w");
        let search = task.with_objective(objective);
        let outcome =
            search_language(search, &mut prompted, Some(&mut writer), &mut watch).unwrap();
        let first = &outcome.trials[0];
        let best = outcome.ranking()[0];
        assert!(best.accuracy >= first.accuracy && best.log_loss <= first.log_loss);
        assert_eq!(outcome.spent, prompted.spent() + writer.spent());
        assert!(writer.spent() > 0);
        let instructed = model.generated.iter().chain(&model.scored);
        assert!(
            instructed.clone().any(|read| read.starts_with("Judge")),
            "the writer's words"
        );
        assert!(
            writing.scored.is_empty()
                && writing
                    .generated
                    .iter()
                    .all(|read| read.contains("nstruction"))
        );
    }
}

#[test]
fn a_budget_too_small_for_one_trial_is_refused_and_nothing_is_read() {
    let mut task = task(SearchStrategy::Random { trials: 3 });
    task.budget = 100;
    task.instructions.written = 0;
    task.demonstrations.pop();
    let mut model = FakeLanguageModel::default();
    let error = task.run(&mut model, Answers::default()).0.unwrap_err();
    assert!(
        matches!(error, PromptError::Budget { left: 100, needed } if needed > 100),
        "{error:?}"
    );
    assert!(model.scored.is_empty() && model.generated.is_empty());
}

#[test]
fn an_observer_breaks_a_search_off_and_sees_what_it_costs() {
    let task = task(SearchStrategy::Random { trials: 6 });
    let mut model = FakeLanguageModel::default();
    let mut prompted = PromptedModel::new(&mut model, "m");
    let mut announced = Vec::new();
    let outcome = search_language(
        task.search(),
        &mut prompted,
        None,
        &mut |event| match event {
            SearchEvent::Starting { cost, n_done, .. } => {
                announced.push(cost);
                if n_done == 4 {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            }
            SearchEvent::Finished(_) => ControlFlow::Continue(()),
        },
    );
    let outcome = outcome.unwrap();
    assert!(!outcome.complete);
    let costs: Vec<u64> = outcome.trials.iter().map(|trial| trial.cost).collect();
    assert_eq!(costs, announced[..4]);
}

#[test]
fn equal_label_words_are_refused_wherever_they_are() {
    let mut task = task(SearchStrategy::Exhaustive);
    let same = BTreeMap::from(["neg", "pos"].map(|label| (label.to_owned(), vec!["x".to_owned()])));
    task.space = task.space.with_more_label_words([same]);
    let mut model = FakeLanguageModel::default();
    let error = task.run(&mut model, Answers::default()).0.unwrap_err();
    assert!(
        matches!(error, PromptError::SharedLabelWord { .. }),
        "{error:?}"
    );
    assert!(model.scored.is_empty(), "before any work");
}

#[test]
fn a_resumed_search_starts_from_the_incumbent_too() {
    let task = task(SearchStrategy::TreeParzen {
        trials: 5,
        startup: 2,
        sample: None,
    });
    let incumbent = Prompt {
        instruction: "Judge.".to_owned(),
        template: "See: {{ text }}\nSo:".to_owned(),
        label_words: task.space.prompts().next().unwrap().label_words,
        ..Prompt::default()
    };
    let mut search = task.search();
    search.request.incumbent = Some(&incumbent);
    let mut model = FakeLanguageModel::default();
    let mut prompted = PromptedModel::new(&mut model, "m");
    let outcome = search_language(search, &mut prompted, None, &mut watch).unwrap();
    assert_eq!(outcome.trials[0].prompt, incumbent);
    let before = (outcome.clone(), prompted.answers().len());
    let again = search_language(search, &mut prompted, None, &mut watch).unwrap();
    assert_eq!(
        (again, prompted.answers().len()),
        before,
        "also in the same process"
    );
}

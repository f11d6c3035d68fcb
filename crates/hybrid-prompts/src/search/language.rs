//! The search with a language model, under a budget of tokens.

use std::ops::ControlFlow;

use hybrid_data::{Example, LabelSet, derive_seed};
use rand::seq::SliceRandom;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::runner::{Figures, Runner, Scorer};
use super::space::{DIMENSIONS, SearchSpace};
use super::{Search, SearchEvent, SearchOutcome, SearchRequest, run};
use crate::demonstration::{Demonstration, DemonstrationChoice, Demonstrations};
use crate::error::PromptError;
use crate::instruction::InstructionGrammar;
use crate::instruction_writer::{Mistake, SHOWN, WritingTask, write_instructions, writing_cost};
use crate::label_scoring::labelled_words;
use crate::language_scoring::{Objective, Prepared};
use crate::prompt::{Prompt, PromptFormat};
use crate::prompted_model::PromptedModel;
use crate::sampling::{balanced_order, rng_of};

/// Most examples a demonstration that are tried when the model bootstraps its own.
const TRIED_A_DEMONSTRATION: usize = 8;

/// Instructions that are proposed beside those of the space.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct InstructionProposals {
    /// How many are made of the space's by the built-in grammar of edits before the search. Beam
    /// search and evolution edit instructions on their way as well, if this is not 0.
    pub edits: usize,
    /// How many a model is asked to write from examples before the search.
    pub written: usize,
    /// How many a model is asked to write, given what went wrong: for each prompt of the beam in
    /// each round, and for the best of each generation.
    pub improved: usize,
}

/// What is searched with a language model.
#[derive(Clone, Copy)]
pub struct LanguageSearch<'a> {
    /// Space, incumbent, strategy, examples, labels, criterion and seed. Without classes the labels are empty,
    /// and each example's label is the wanted text.
    pub request: SearchRequest<'a>,
    /// What makes a prompt a good one.
    pub objective: Objective<'a>,
    /// Choices of demonstrations that are drawn from the fit examples, beside those of the space.
    pub demonstrations: &'a [DemonstrationChoice],
    /// Instructions beside those of the space.
    pub instructions: InstructionProposals,
    /// Most tokens that the search may spend, on trials, bootstrapping and writing together; what
    /// comes before the first trial may spend half of it. Work that may cost more than is left is
    /// not begun.
    pub budget: u64,
}

/// Finds the best prompt for a language model on the fit examples.
///
/// `writer` writes instructions; without one the model itself does. Proposed ones that would leave
/// no room for an input are passed over. No trial shows an example its
/// own answer.
///
/// The search is a function of the request and of the models' answers, and the models remember
/// their answers. So an interrupted search is resumed by the same call with the answers so far
/// ([`PromptedModel::with_answers`]): it takes the same way at no cost of the models, and comes to
/// the same end.
///
/// # Errors
/// A fault of the request, or of a model before the first trial ended, as itself;
/// [`PromptError::Budget`] when the budget does not suffice for one trial;
/// [`PromptError::StoppedEarly`] when the observer breaks before the first trial ended; else
/// [`PromptError::Search`], which holds the trials so far.
pub fn search_language<'m>(
    search: LanguageSearch<'_>,
    model: &mut PromptedModel<'m>,
    writer: Option<&mut PromptedModel<'m>>,
    observer: &mut dyn FnMut(SearchEvent<'_>) -> ControlFlow<()>,
) -> Result<SearchOutcome, PromptError> {
    let LanguageSearch {
        request,
        objective,
        instructions,
        ..
    } = search;
    let SearchRequest {
        labels, fit, seed, ..
    } = request;
    if fit.is_empty() {
        return Err(PromptError::EmptySpace {
            what: "fit example",
        });
    }
    let has_classes = !labels.is_empty();
    let (targets, n_labels) = if has_classes {
        (labels.targets(fit)?, labels.len())
    } else {
        (vec![0; fit.len()], 1)
    };
    model.begin();
    let mut scorer = LanguageScorer {
        fit: ordered(fit, &balanced_order(&targets, n_labels, seed)),
        model,
        writer,
        labels,
        objective,
    };
    if let Some(writer) = &mut scorer.writer {
        writer.begin();
    }
    // What is done before the first trial must leave enough for the trials.
    let left = |scorer: &LanguageScorer<'_, '_>| (search.budget / 2).saturating_sub(scorer.spent());

    let mut space = request.space.clone();
    if space.is_empty() {
        return Err(PromptError::EmptySpace { what: "prompt" });
    }
    check(&space, request.incumbent, labels, objective, scorer.model)?;
    let first = match request.incumbent {
        Some(incumbent) => incumbent.clone(),
        None => space.at([0; DIMENSIONS]),
    };
    for choice in search.demonstrations {
        space.add_demonstrations(choice.sets(fit, &targets, n_labels, seed)?);
        let DemonstrationChoice::Bootstrapped { n, sets, least } = *choice else {
            continue;
        };
        for set in 0..sets {
            let event = format!("bootstrapped demonstrations, set {set}");
            let order = balanced_order(&targets, n_labels, derive_seed(seed, &event));
            let (examples, left) = (ordered(fit, &order), left(&scorer));
            let set = scorer.bootstrapped(&first, &examples, n, least, n_labels, left)?;
            space.add_demonstrations(set.into_iter().collect());
        }
    }
    let grammar = InstructionGrammar::built_in(labels);
    let mut proposed = grammar.expand(space.instructions(), instructions.edits, seed);
    if instructions.written > 0 {
        let left = left(&scorer);
        proposed.extend(scorer.written(instructions.written, seed, left)?);
    }
    proposed.retain(|instruction| scorer.fits(&space, instruction));
    for instruction in proposed {
        space.instruction_place(&instruction);
    }
    let prepared = Search {
        space: &space,
        incumbent: request.incumbent,
        strategy: request.strategy,
        n_fit: fit.len(),
        n_labels,
        seed,
        reads_label_words: has_classes,
        grammar: (instructions.edits > 0).then_some(&grammar),
        n_improved: instructions.improved,
    };
    let runner = Runner {
        scorer: &mut scorer,
        observer,
        budget: Some(search.budget),
        criterion: request.criterion,
        n_planned: 0,
        trials: Vec::new(),
        stop: None,
    };
    run(&prepared, runner)
}

/// Finds faults of any prompt of a space before work is spent on others.
fn check(
    space: &SearchSpace,
    incumbent: Option<&Prompt>,
    labels: &LabelSet,
    objective: Objective<'_>,
    model: &PromptedModel<'_>,
) -> Result<(), PromptError> {
    let incumbent_format = incumbent.map(|prompt| prompt.format);
    let formats = space.formats().iter().copied().chain(incumbent_format);
    if formats
        .into_iter()
        .any(|format| format == PromptFormat::Chat)
        && model.cache.model.chat_template().is_none()
    {
        return Err(PromptError::NoChatTemplate);
    }
    if matches!(objective, Objective::Labels(_)) {
        let incumbent_words = incumbent.map(|prompt| &prompt.label_words);
        for label_words in space.label_words().iter().chain(incumbent_words) {
            let prompt = Prompt {
                label_words: label_words.clone(),
                ..Prompt::default()
            };
            labelled_words(&prompt, labels)?;
        }
    }
    Ok(())
}

fn ordered(examples: &[Example], order: &[usize]) -> Vec<Example> {
    order.iter().map(|&row| examples[row].clone()).collect()
}

struct LanguageScorer<'s, 'm> {
    model: &'s mut PromptedModel<'m>,
    writer: Option<&'s mut PromptedModel<'m>>,
    fit: Vec<Example>,
    labels: &'s LabelSet,
    objective: Objective<'s>,
}

impl LanguageScorer<'_, '_> {
    /// Demonstrations that the model answers correctly itself, out of the first of some examples;
    /// none if it answers none.
    fn bootstrapped(
        &mut self,
        prompt: &Prompt,
        examples: &[Example],
        n: usize,
        least: f64,
        n_labels: usize,
        left: u64,
    ) -> Result<Option<Demonstrations>, PromptError> {
        if matches!(self.objective, Objective::Likelihood) {
            return Err(PromptError::NoOwnAnswers);
        }
        let end = self.model.spent() + left;
        let prompt = Prompt {
            demonstrations: Demonstrations::default(),
            ..prompt.clone()
        };
        let tried = &examples[..examples.len().min(n.saturating_mul(TRIED_A_DEMONSTRATION))];
        let most_a_label = n.div_ceil(n_labels);
        let mut found: Vec<Demonstration> = Vec::new();
        for piece in tried.chunks(n) {
            let asked = Prepared::new(&prompt, piece, self.labels, self.objective, self.model)?;
            if asked.cost(self.model)? > end.saturating_sub(self.model.spent()) {
                break;
            }
            let scores = asked.score(self.model)?;
            for ((example, value), answer) in piece.iter().zip(scores.values).zip(scores.answers) {
                let mut shown = Demonstration::of(example)?;
                let n_alike = found
                    .iter()
                    .filter(|other| other.answer == shown.answer)
                    .count();
                let right = match self.objective {
                    Objective::Labels(_) => value == 1.0 && n_alike < most_a_label,
                    _ => value >= least,
                };
                if right && found.len() < n {
                    if !matches!(self.objective, Objective::Labels(_)) {
                        shown.answer = answer;
                    }
                    found.push(shown);
                }
            }
            if found.len() == n {
                break;
            }
        }
        Ok((!found.is_empty()).then(|| Demonstrations::fixed(found)))
    }

    /// Instructions that a model writes from the first fit examples.
    fn written(&mut self, n: usize, seed: u64, left: u64) -> Result<Vec<String>, PromptError> {
        let examples = self
            .fit
            .iter()
            .take(SHOWN)
            .map(Demonstration::of)
            .collect::<Result<Vec<_>, _>>()?;
        let seed = derive_seed(seed, "instructions from examples");
        self.write(WritingTask::FromExamples(&examples), n, seed, left)
    }

    /// Asks the writer, if that cannot cost more than what is left.
    fn write(
        &mut self,
        task: WritingTask<'_>,
        n: usize,
        seed: u64,
        left: u64,
    ) -> Result<Vec<String>, PromptError> {
        let writer = match &mut self.writer {
            Some(writer) => &mut **writer,
            None => &mut *self.model,
        };
        if writing_cost(task, n, seed, writer)? > left {
            return Ok(Vec::new());
        }
        write_instructions(task, n, seed, writer)
    }
}

impl Scorer for LanguageScorer<'_, '_> {
    fn score(
        &mut self,
        prompt: &Prompt,
        sample: usize,
        go: &mut dyn FnMut(u64) -> bool,
    ) -> Result<Option<Figures>, PromptError> {
        let examples = &self.fit[..sample];
        let asked = Prepared::new(prompt, examples, self.labels, self.objective, self.model)?;
        if !go(asked.cost(self.model)?) {
            return Ok(None);
        }
        let scores = asked.score(self.model)?;
        Ok(Some(Figures {
            accuracy: scores.accuracy,
            log_loss: scores.log_loss,
            n_cut: scores.n_cut,
        }))
    }

    fn spent(&self) -> u64 {
        self.model.spent() + self.writer.as_ref().map_or(0, |writer| writer.spent())
    }

    fn fits(&mut self, space: &SearchSpace, instruction: &str) -> bool {
        // The one that leaves the least room, where the wanted text follows the prompt.
        let length = |example: &&Example| example.label.as_ref().map_or(0, String::len);
        let Some(longest) = self.fit.iter().max_by_key(length) else {
            return true;
        };
        let example = std::slice::from_ref(longest);
        space.with_instruction(instruction).all(|prompt| {
            let asked = Prepared::new(&prompt, example, self.labels, self.objective, self.model);
            // Any other fault shows when the prompt is scored.
            !matches!(asked, Err(PromptError::DoesNotFit { .. }))
        })
    }

    fn improve(
        &mut self,
        prompt: &Prompt,
        sample: usize,
        n: usize,
        seed: u64,
        left: Option<u64>,
    ) -> Result<Vec<String>, PromptError> {
        let examples = &self.fit[..sample];
        // The sample was scored before, so this costs nothing.
        let asked = Prepared::new(prompt, examples, self.labels, self.objective, self.model)?;
        let scores = asked.score(self.model)?;
        let mut worst: Vec<usize> = (0..sample)
            .filter(|&row| scores.values[row] < 1.0)
            .collect();
        worst.shuffle(&mut rng_of(seed, "mistakes"));
        worst.sort_by(|&a, &b| scores.values[a].total_cmp(&scores.values[b]));
        let left = left.unwrap_or(u64::MAX);
        if scores.answers.is_empty() {
            let hardest = worst
                .iter()
                .map(|&row| Demonstration::of(&examples[row]))
                .collect::<Result<Vec<_>, _>>()?;
            return self.write(WritingTask::FromExamples(&hardest), n, seed, left);
        }
        let mistake = |&row: &usize| {
            let fields: Vec<&str> = examples[row].fields.values().map(String::as_str).collect();
            Mistake {
                input: fields.join("\n"),
                given: scores.answers[row].clone(),
                wanted: examples[row].label.clone().unwrap_or_default(),
            }
        };
        let mistakes: Vec<Mistake> = worst.iter().map(mistake).collect();
        let task = WritingTask::Improve {
            instruction: &prompt.instruction,
            mistakes: &mistakes,
        };
        self.write(task, n, seed, left)
    }
}

#[cfg(test)]
mod tests;

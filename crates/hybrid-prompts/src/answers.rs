//! A language model that is never asked the same thing twice, and the memory that makes it so.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::error::Error;
use std::fmt::Write;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::PromptError;
use crate::language_model::{
    ContinuationScore, GenerateOptions, Generated, LanguageModel, PromptText, ScoreRequest,
    generated, scored, token_counts,
};

/// Prompts of one call to the model: what a killed process loses at most.
const PROMPTS_PER_CALL: usize = 64;

/// What a model answered to one question.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The scores of the continuations.
    Scores(Vec<ContinuationScore>),
    /// The output.
    Output(Generated),
}

/// One answered question, as a line of a journal may hold it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answered {
    /// 32 hexadecimal digits of SHA-256 over the model's name, the prompt and what was asked.
    pub question: String,
    /// The answer.
    pub answer: Answer,
}

/// All that a model has answered: the state from which an interrupted search goes on.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Answers(BTreeMap<String, Answer>);

impl Answers {
    /// How many questions are answered.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Extend<Answered> for Answers {
    fn extend<I: IntoIterator<Item = Answered>>(&mut self, answered: I) {
        let pairs = answered.into_iter().map(|one| (one.question, one.answer));
        self.0.extend(pairs);
    }
}

impl FromIterator<Answered> for Answers {
    fn from_iter<I: IntoIterator<Item = Answered>>(answered: I) -> Self {
        let mut answers = Self::default();
        answers.extend(answered);
        answers
    }
}

/// Is told each piece of new answers as soon as the model has given them.
pub type Record<'r> = dyn FnMut(&[Answered]) -> Result<(), Box<dyn Error + Send + Sync>> + 'r;

/// Remembers every answer of a model, as long as the model does not change.
///
/// It counts what its answers cost in tokens. A question costs nothing the second time, and costs
/// the same whether the model answers it now or an earlier process asked it: so a resumed search
/// spends what the uninterrupted one has spent, and comes to the same end.
pub(crate) struct AnswerCache<'m> {
    pub(crate) model: &'m mut dyn LanguageModel,
    pub(crate) answers: Answers,
    pub(crate) record: Option<&'m mut Record<'m>>,
    name: String,
    asked: HashSet<String>,
    spent: u64,
}

impl<'m> AnswerCache<'m> {
    pub(crate) fn new(model: &'m mut dyn LanguageModel, name: &str) -> Self {
        Self {
            model,
            answers: Answers::default(),
            record: None,
            name: name.to_owned(),
            asked: HashSet::new(),
            spent: 0,
        }
    }

    /// Counts costs from here on as if nothing had been asked.
    pub(crate) fn begin(&mut self) {
        self.asked.clear();
        self.spent = 0;
    }

    /// Tokens that the answers so far cost.
    pub(crate) fn spent(&self) -> u64 {
        self.spent
    }

    /// Tokens that these scores cost: shared pieces once, the rest of each prompt, and each
    /// continuation.
    pub(crate) fn score_cost(&self, requests: &[ScoreRequest]) -> Result<u64, PromptError> {
        let mut seen = HashSet::new();
        let new: Vec<&ScoreRequest> = requests
            .iter()
            .filter(|request| {
                let question = self.score_question(request);
                !self.asked.contains(&question) && seen.insert(question)
            })
            .collect();
        let continuations: Vec<&str> = new
            .iter()
            .flat_map(|request| request.continuations.iter().map(String::as_str))
            .collect();
        let prompts = self.prompt_cost(new.iter().map(|request| &request.prompt))?;
        Ok(prompts + self.tokens(&continuations)?)
    }

    /// Most tokens that these outputs may cost.
    pub(crate) fn generate_cost(
        &self,
        prompts: &[PromptText],
        options: &GenerateOptions,
    ) -> Result<u64, PromptError> {
        let new = self.not_generated(prompts, options);
        let n_most = (new.len() * options.max_tokens) as u64;
        Ok(self.prompt_cost(new.into_iter())? + n_most)
    }

    pub(crate) fn score(
        &mut self,
        requests: &[ScoreRequest],
    ) -> Result<Vec<Vec<ContinuationScore>>, PromptError> {
        let cost = self.score_cost(requests)?;
        let questions: Vec<String> = requests
            .iter()
            .map(|request| self.score_question(request))
            .collect();
        let shared = |place: usize| &*requests[place].prompt.shared;
        let unanswered = grouped(self.unanswered(&questions), shared);
        for places in unanswered.chunks(PROMPTS_PER_CALL) {
            let asked: Vec<ScoreRequest> = places
                .iter()
                .map(|&place| requests[place].clone())
                .collect();
            let rows = scored(self.model, &asked)?;
            self.keep(&questions, places, rows.into_iter().map(Answer::Scores))?;
        }
        let mut rows = Vec::with_capacity(requests.len());
        for (request, question) in requests.iter().zip(&questions) {
            match self.answers.0.get(question) {
                Some(Answer::Scores(row)) if row.len() == request.continuations.len() => {
                    rows.push(row.clone());
                }
                _ => return Err(wrong_kind("scores", request.continuations.len())),
            }
        }
        self.spent += cost;
        self.asked.extend(questions);
        Ok(rows)
    }

    pub(crate) fn generate(
        &mut self,
        prompts: &[PromptText],
        options: &GenerateOptions,
    ) -> Result<Vec<Generated>, PromptError> {
        let new = self.not_generated(prompts, options);
        let mut cost = self.prompt_cost(new.into_iter())?;
        let questions: Vec<String> = prompts
            .iter()
            .map(|prompt| self.generate_question(prompt, options))
            .collect();
        let shared = |place: usize| &*prompts[place].shared;
        let unanswered = grouped(self.unanswered(&questions), shared);
        for places in unanswered.chunks(PROMPTS_PER_CALL) {
            let asked: Vec<PromptText> =
                places.iter().map(|&place| prompts[place].clone()).collect();
            let outputs = generated(self.model, &asked, options)?;
            self.keep(&questions, places, outputs.into_iter().map(Answer::Output))?;
        }
        let mut outputs = Vec::with_capacity(prompts.len());
        for question in &questions {
            let Some(Answer::Output(output)) = self.answers.0.get(question) else {
                return Err(wrong_kind("outputs", 1));
            };
            outputs.push(output.clone());
        }
        for (question, output) in questions.into_iter().zip(&outputs) {
            if self.asked.insert(question) {
                cost += output.n_tokens as u64;
            }
        }
        self.spent += cost;
        Ok(outputs)
    }

    /// Remembers new answers and has them recorded.
    fn keep(
        &mut self,
        questions: &[String],
        places: &[usize],
        answers: impl Iterator<Item = Answer>,
    ) -> Result<(), PromptError> {
        let answered: Vec<Answered> = places
            .iter()
            .zip(answers)
            .map(|(&place, answer)| Answered {
                question: questions[place].clone(),
                answer,
            })
            .collect();
        if let Some(record) = &mut self.record {
            record(&answered).map_err(|source| PromptError::Record { source })?;
        }
        self.answers.extend(answered);
        Ok(())
    }

    /// The places of the questions without an answer, each question once.
    fn unanswered(&self, questions: &[String]) -> Vec<usize> {
        let mut seen = HashSet::new();
        (0..questions.len())
            .filter(|&place| {
                let question = &questions[place];
                !self.answers.0.contains_key(question) && seen.insert(question)
            })
            .collect()
    }

    fn not_generated<'p>(
        &self,
        prompts: &'p [PromptText],
        options: &GenerateOptions,
    ) -> Vec<&'p PromptText> {
        let mut seen = HashSet::new();
        prompts
            .iter()
            .filter(|prompt| {
                let question = self.generate_question(prompt, options);
                !self.asked.contains(&question) && seen.insert(question)
            })
            .collect()
    }

    fn prompt_cost<'p>(
        &self,
        prompts: impl Iterator<Item = &'p PromptText>,
    ) -> Result<u64, PromptError> {
        let mut shared = BTreeSet::new();
        let mut texts = Vec::new();
        for prompt in prompts {
            shared.insert(&*prompt.shared);
            texts.push(prompt.own.as_str());
        }
        texts.extend(shared);
        self.tokens(&texts)
    }

    fn tokens(&self, texts: &[&str]) -> Result<u64, PromptError> {
        let counts = token_counts(self.model, texts)?;
        Ok(counts.into_iter().map(|count| count as u64).sum())
    }

    fn score_question(&self, request: &ScoreRequest) -> String {
        let mut question = Question::new("score", &self.name, &request.prompt);
        for continuation in request.continuations.iter() {
            question.add(continuation);
        }
        question.digits()
    }

    fn generate_question(&self, prompt: &PromptText, options: &GenerateOptions) -> String {
        let mut question = Question::new("generate", &self.name, prompt);
        question.add(&serde_json::to_string(options).expect("options are plain data"));
        question.digits()
    }
}

/// Places of prompts in the order in which their shared pieces first appear, so that those of one
/// piece follow each other.
fn grouped<'p>(mut places: Vec<usize>, shared: impl Fn(usize) -> &'p str) -> Vec<usize> {
    let mut first = HashMap::new();
    for &place in &places {
        first.entry(shared(place)).or_insert(place);
    }
    places.sort_by_key(|&place| first.get(shared(place)).copied());
    places
}

/// The hash of what is asked. Where the prompt's text is cut does not enter.
struct Question(Sha256);

impl Question {
    fn new(kind: &str, name: &str, prompt: &PromptText) -> Self {
        let mut question = Self(Sha256::new());
        question.add(kind);
        question.add(name);
        question.add(if prompt.has_special_tokens {
            "special"
        } else {
            ""
        });
        question.add(&prompt.whole());
        question
    }

    fn add(&mut self, text: &str) {
        // The length first, so that texts cannot run into each other.
        self.0.update((text.len() as u64).to_le_bytes());
        self.0.update(text);
    }

    fn digits(self) -> String {
        let mut digits = String::with_capacity(32);
        for byte in self.0.finalize().iter().take(16) {
            write!(digits, "{byte:02x}").expect("writing to a string cannot fail");
        }
        digits
    }
}

fn wrong_kind(what: &'static str, expected: usize) -> PromptError {
    PromptError::ModelShape {
        what,
        expected,
        found: 0,
    }
}

#[cfg(test)]
mod tests;

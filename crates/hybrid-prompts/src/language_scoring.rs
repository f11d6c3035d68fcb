//! How well a prompt makes a language model answer labelled examples.

use std::collections::BTreeMap;
use std::sync::Arc;

use hybrid_data::{Example, LabelSet};

use crate::demonstration::label_of;
use crate::error::PromptError;
use crate::label_scoring::{LabelScoring, class_log_probabilities, labelled_words};
use crate::language_model::{GenerateOptions, PromptText, ScoreRequest, token_counts};
use crate::output::{Output, OutputKind, parse_output};
use crate::prompt::Prompt;
use crate::prompted_model::PromptedModel;
use crate::rendering::continuation;
use crate::scoring::judge;

/// The value of an output for an example: 1 for what is wanted, 0 for what is of no use.
pub type OutputMetric<'a> = dyn Fn(&Output, &Example) -> f64 + 'a;

/// What makes a prompt a good one.
#[derive(Clone, Copy)]
pub enum Objective<'a> {
    /// Classification by the probabilities of label words.
    Labels(&'a LabelScoring),
    /// The probability of the wanted answer, which is the example's label: for tasks without
    /// classes, where generating is too slow for a search.
    Likelihood,
    /// A metric of what the model generates. An output that is not understood is worth 0.
    Generated {
        /// How outputs are generated.
        options: &'a GenerateOptions,
        /// How they are read.
        output: &'a OutputKind,
        /// What they are worth.
        metric: &'a OutputMetric<'a>,
    },
}

/// A prompt's answers to some examples by a language model.
#[derive(Debug, Clone, PartialEq)]
pub struct LanguageScores {
    /// For classification, one row an example, one value a label in [`LabelSet`] order; else empty.
    pub log_probabilities: Vec<Vec<f32>>,
    /// What was answered: the name of a label, or what was generated; empty where neither was asked.
    pub answers: Vec<String>,
    /// Of each example, 1 for the right label and 0 for another; the metric of what was generated;
    /// or the geometric mean of the wanted tokens' probabilities.
    pub values: Vec<f64>,
    /// The mean of the values.
    pub accuracy: f64,
    /// The mean negative log-probability of the right label, or of the wanted tokens, in nats; 0
    /// where outputs are generated, whose probability is not asked.
    pub log_loss: f64,
    /// Inputs that were cut because their prompts were too long.
    pub n_cut: usize,
    /// Demonstrations that were left out for the same reason, over all examples.
    pub n_dropped: usize,
}

/// The class log-probabilities of inputs by a prompt's label words.
#[derive(Debug, Clone, PartialEq)]
pub struct ClassScores {
    /// One row an input, one value a label in [`LabelSet`] order.
    pub log_probabilities: Vec<Vec<f32>>,
    /// Inputs that were cut because their prompts were too long.
    pub n_cut: usize,
    /// Demonstrations that were left out for the same reason, over all inputs.
    pub n_dropped: usize,
}

/// Scores a prompt on labelled examples.
///
/// # Errors
/// [`PromptError::Data`] for an example without a label or with one outside `labels`,
/// [`PromptError::EmptySpace`] without examples, [`PromptError::NoLabelWords`],
/// [`PromptError::SharedLabelWord`], [`PromptError::DoesNotFit`], [`PromptError::NotFinite`] for a
/// metric that is not a number, and errors of templates and of the model.
pub fn score_language(
    prompt: &Prompt,
    examples: &[Example],
    labels: &LabelSet,
    objective: Objective<'_>,
    model: &mut PromptedModel<'_>,
) -> Result<LanguageScores, PromptError> {
    Prepared::new(prompt, examples, labels, objective, model)?.score(model)
}

/// Classifies inputs, labelled or not, by the probabilities of label words.
///
/// # Errors
/// As [`score_language`], those about labels aside.
pub fn classify_language(
    prompt: &Prompt,
    inputs: &[BTreeMap<String, String>],
    labels: &LabelSet,
    scoring: &LabelScoring,
    model: &mut PromptedModel<'_>,
) -> Result<ClassScores, PromptError> {
    let inputs: Vec<&BTreeMap<String, String>> = inputs.iter().collect();
    let asked = AskedLabels::new(prompt, &inputs, labels, scoring, model)?;
    Ok(ClassScores {
        log_probabilities: asked.answered(model)?,
        n_cut: asked.n_cut,
        n_dropped: asked.n_dropped,
    })
}

/// What is to be asked of the model to score a prompt; nothing is asked yet.
pub(crate) struct Prepared<'a> {
    prompt: &'a Prompt,
    examples: &'a [Example],
    labels: &'a LabelSet,
    asked: Asked<'a>,
    n_cut: usize,
    n_dropped: usize,
}

enum Asked<'a> {
    Labels(AskedLabels<'a>),
    Likelihood(Vec<ScoreRequest>),
    Generated {
        prompts: Vec<PromptText>,
        options: &'a GenerateOptions,
        output: &'a OutputKind,
        metric: &'a OutputMetric<'a>,
    },
}

impl<'a> Prepared<'a> {
    pub(crate) fn new(
        prompt: &'a Prompt,
        examples: &'a [Example],
        labels: &'a LabelSet,
        objective: Objective<'a>,
        model: &mut PromptedModel<'_>,
    ) -> Result<Self, PromptError> {
        if examples.is_empty() {
            return Err(PromptError::EmptySpace { what: "example" });
        }
        let inputs: Vec<&BTreeMap<String, String>> =
            examples.iter().map(|example| &example.fields).collect();
        let (asked, n_cut, n_dropped) = match objective {
            Objective::Labels(scoring) => {
                labels.targets(examples)?;
                let asked = AskedLabels::new(prompt, &inputs, labels, scoring, model)?;
                let (n_cut, n_dropped) = (asked.n_cut, asked.n_dropped);
                (Asked::Labels(asked), n_cut, n_dropped)
            }
            Objective::Likelihood => {
                let wanted: Vec<&str> = examples.iter().map(label_of).collect::<Result<_, _>>()?;
                let counts = token_counts(&*model.cache.model, &wanted)?;
                // One more for the space in front.
                let n_following: Vec<usize> = counts.into_iter().map(|count| count + 1).collect();
                let fitted = model.texts(prompt, &inputs, &n_following)?;
                let request = |(text, wanted): (PromptText, &str)| ScoreRequest {
                    continuations: Arc::from([continuation(text.last_piece(), wanted)]),
                    prompt: text,
                };
                let requests = fitted.texts.into_iter().zip(wanted).map(request).collect();
                (Asked::Likelihood(requests), fitted.n_cut, fitted.n_dropped)
            }
            Objective::Generated {
                options,
                output,
                metric,
            } => {
                let n_following = vec![options.max_tokens; inputs.len()];
                let fitted = model.texts(prompt, &inputs, &n_following)?;
                let asked = Asked::Generated {
                    prompts: fitted.texts,
                    options,
                    output,
                    metric,
                };
                (asked, fitted.n_cut, fitted.n_dropped)
            }
        };
        Ok(Self {
            prompt,
            examples,
            labels,
            asked,
            n_cut,
            n_dropped,
        })
    }

    /// Most tokens that asking costs.
    pub(crate) fn cost(&self, model: &PromptedModel<'_>) -> Result<u64, PromptError> {
        match &self.asked {
            Asked::Labels(asked) => model.cache.score_cost(&asked.requests),
            Asked::Likelihood(requests) => model.cache.score_cost(requests),
            Asked::Generated {
                prompts, options, ..
            } => model.cache.generate_cost(prompts, options),
        }
    }

    pub(crate) fn score(
        &self,
        model: &mut PromptedModel<'_>,
    ) -> Result<LanguageScores, PromptError> {
        let mut scores = LanguageScores {
            log_probabilities: Vec::new(),
            answers: Vec::new(),
            values: Vec::new(),
            accuracy: 0.0,
            log_loss: 0.0,
            n_cut: self.n_cut,
            n_dropped: self.n_dropped,
        };
        match &self.asked {
            Asked::Labels(asked) => {
                let targets = self.labels.targets(self.examples)?;
                let judged = judge(asked.answered(model)?, &targets);
                let right = judged.predictions.iter().zip(&targets);
                scores.values = right
                    .map(|(class, target)| f64::from(class == target))
                    .collect();
                let name = |&class: &usize| self.labels.names()[class].clone();
                scores.answers = judged.predictions.iter().map(name).collect();
                scores.log_probabilities = judged.log_probabilities;
                scores.log_loss = judged.log_loss;
            }
            Asked::Likelihood(requests) => {
                let answered = model.cache.score(requests)?.into_iter().flatten();
                let (mut total, mut n_tokens) = (0.0, 0);
                for score in answered {
                    total += score.log_probability;
                    n_tokens += score.n_tokens;
                    let mean = score.log_probability / score.n_tokens as f64;
                    scores.values.push(mean.exp());
                }
                scores.log_loss = -total / n_tokens as f64;
            }
            Asked::Generated {
                prompts,
                options,
                output,
                metric,
            } => {
                let generated = model.cache.generate(prompts, options)?;
                for (example, generated) in self.examples.iter().zip(generated) {
                    let (text, fields) = (generated.text, &example.fields);
                    let value = match parse_output(output, &text, self.prompt, self.labels, fields)
                    {
                        Ok(read) => metric(&read, example),
                        // What is not understood is worth nothing.
                        Err(_) => 0.0,
                    };
                    if !value.is_finite() {
                        return Err(PromptError::NotFinite { text });
                    }
                    scores.values.push(value);
                    scores.answers.push(text.trim().to_owned());
                }
            }
        }
        scores.accuracy = scores.values.iter().sum::<f64>() / scores.values.len() as f64;
        Ok(scores)
    }
}

/// The questions whose answers classify inputs.
struct AskedLabels<'a> {
    /// Those for inputs that calibrate first.
    requests: Vec<ScoreRequest>,
    /// The class and text of each continuation.
    words: Vec<(usize, &'a str)>,
    n_labels: usize,
    scoring: &'a LabelScoring,
    n_calibrating: usize,
    n_cut: usize,
    n_dropped: usize,
}

impl<'a> AskedLabels<'a> {
    fn new(
        prompt: &'a Prompt,
        inputs: &[&BTreeMap<String, String>],
        labels: &LabelSet,
        scoring: &'a LabelScoring,
        model: &mut PromptedModel<'_>,
    ) -> Result<Self, PromptError> {
        let words = labelled_words(prompt, labels)?;
        let spaced: Vec<String> = words
            .iter()
            .map(|(_, word)| continuation("x", word))
            .collect();
        let bare: Vec<String> = words
            .iter()
            .map(|(_, word)| continuation("", word))
            .collect();
        let texts: Vec<&str> = spaced.iter().chain(&bare).map(String::as_str).collect();
        let longest = token_counts(&*model.cache.model, &texts)?
            .into_iter()
            .max()
            .unwrap_or(0);
        let calibrating = match inputs.first() {
            None => Vec::new(),
            Some(fields) => scoring.calibration.inputs(fields),
        };
        let calibrating: Vec<&BTreeMap<String, String>> = calibrating.iter().collect();
        let first = model.texts(prompt, &calibrating, &vec![longest; calibrating.len()])?;
        let fitted = model.texts(prompt, inputs, &vec![longest; inputs.len()])?;
        let (spaced, bare): (Arc<[String]>, Arc<[String]>) = (spaced.into(), bare.into());
        let request = |text: PromptText| ScoreRequest {
            continuations: Arc::clone(if continuation(text.last_piece(), "x") == "x" {
                &bare
            } else {
                &spaced
            }),
            prompt: text,
        };
        Ok(Self {
            requests: first
                .texts
                .into_iter()
                .chain(fitted.texts)
                .map(request)
                .collect(),
            words,
            n_labels: labels.len(),
            scoring,
            n_calibrating: calibrating.len(),
            n_cut: fitted.n_cut,
            n_dropped: fitted.n_dropped,
        })
    }

    fn answered(&self, model: &mut PromptedModel<'_>) -> Result<Vec<Vec<f32>>, PromptError> {
        if self.requests.is_empty() {
            return Ok(Vec::new());
        }
        let rows = model.cache.score(&self.requests)?;
        Ok(class_log_probabilities(
            &rows,
            &self.words,
            self.n_labels,
            self.scoring.normalization,
            self.n_calibrating,
            self.scoring.calibration.n_steps(),
        ))
    }
}

#[cfg(test)]
mod tests;

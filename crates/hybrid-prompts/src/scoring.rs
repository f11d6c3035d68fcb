//! How well a prompt answers labelled examples.

use hybrid_data::{Example, LabelSet};

use crate::error::PromptError;
use crate::model::{PromptModel, classified, scale_to_unit, unit_vectors};
use crate::prompt::Prompt;
use crate::template::Template;

/// Cosine similarities times this are the logits of a class. It is the scale at which
/// sentence-transformers trains its encoders (multiple-negatives ranking loss).
pub const SIMILARITY_SCALE: f32 = 20.0;

/// A prompt's answers to some examples.
#[derive(Debug, Clone, PartialEq)]
pub struct Scores {
    /// One row an example, one value a label in [`LabelSet`] order.
    pub log_probabilities: Vec<Vec<f32>>,
    /// The most probable class of each example; the first one among equals.
    pub predictions: Vec<usize>,
    /// Share of right predictions.
    pub accuracy: f64,
    /// Mean negative log-probability of the right class, in nats.
    pub log_loss: f64,
}

/// Scores a prompt on labelled examples: with the model's trained head where it has one, else by
/// similarity ([`score_by_similarity`], softmax at [`SIMILARITY_SCALE`]).
///
/// # Errors
/// [`PromptError::Data`] for a label outside `labels`, [`PromptError::EmptySpace`] without
/// examples, [`PromptError::NoLabelWords`], [`PromptError::LanguageModelOnly`] for a prompt with
/// parts that an encoder does not read, and errors of the template and of the model.
pub fn score(
    prompt: &Prompt,
    examples: &[Example],
    labels: &LabelSet,
    model: &mut impl PromptModel,
) -> Result<Scores, PromptError> {
    let targets = labels.targets(examples)?;
    if targets.is_empty() {
        return Err(PromptError::EmptySpace { what: "example" });
    }
    if let Some(part) = prompt.part_for_language_models() {
        return Err(PromptError::LanguageModelOnly { part });
    }
    let template = Template::parse(&prompt.template)?;
    let texts = examples
        .iter()
        .map(|example| template.render(&example.fields))
        .collect::<Result<Vec<_>, _>>()?;
    let log_probabilities = match classified(model, &texts, labels.len())? {
        Some(rows) => rows,
        None => {
            let mut rows = score_by_similarity(prompt, labels, &texts, model)?;
            rows.iter_mut()
                .for_each(|row| log_softmax(row, SIMILARITY_SCALE));
            rows
        }
    };
    Ok(judge(log_probabilities, &targets))
}

/// The cosine of each text to each label's averaged words ([`label_vectors`]): one row a text, one
/// value a label in [`LabelSet`] order. The texts are already rendered.
///
/// # Errors
/// [`PromptError::NoLabelWords`] for a label without words, and errors of the model.
pub fn score_by_similarity(
    prompt: &Prompt,
    labels: &LabelSet,
    texts: &[String],
    model: &mut impl PromptModel,
) -> Result<Vec<Vec<f32>>, PromptError> {
    let labels = label_vectors(prompt, labels, model)?;
    let inputs = unit_vectors(model, texts)?;
    let row = |input: Vec<f32>| labels.iter().map(|label| dot(&input, label)).collect();
    Ok(inputs.into_iter().map(row).collect())
}

/// The direction of each label, in [`LabelSet`] order: the mean of the unit vectors of its words,
/// scaled to length one again.
///
/// # Errors
/// [`PromptError::NoLabelWords`] for a label without words, and errors of the model.
pub fn label_vectors(
    prompt: &Prompt,
    labels: &LabelSet,
    model: &mut impl PromptModel,
) -> Result<Vec<Vec<f32>>, PromptError> {
    if let Some(label) = labels
        .names()
        .iter()
        .find(|label| prompt.words_of(label).is_empty())
    {
        return Err(PromptError::NoLabelWords {
            label: label.clone(),
        });
    }
    let words = labels.names().iter().map(|label| prompt.words_of(label));
    // All words at once: the model knows best how to batch them.
    let mut vectors =
        unit_vectors(model, &words.clone().flatten().cloned().collect::<Vec<_>>())?.into_iter();
    let mean = |words: &[String]| {
        let mut sum: Vec<f32> = Vec::new();
        for vector in vectors.by_ref().take(words.len()) {
            sum.resize(vector.len(), 0.0);
            sum.iter_mut()
                .zip(vector)
                .for_each(|(sum, value)| *sum += value);
        }
        scale_to_unit(&mut sum);
        sum
    };
    Ok(words.map(mean).collect())
}

pub(crate) fn judge(log_probabilities: Vec<Vec<f32>>, targets: &[usize]) -> Scores {
    let predictions: Vec<usize> = log_probabilities.iter().map(|row| largest(row)).collect();
    let right = predictions
        .iter()
        .zip(targets)
        .filter(|(prediction, target)| prediction == target)
        .count();
    let loss: f64 = log_probabilities
        .iter()
        .zip(targets)
        .map(|(row, &target)| -f64::from(row[target]))
        .sum();
    let n = targets.len() as f64;
    Scores {
        log_probabilities,
        predictions,
        accuracy: right as f64 / n,
        log_loss: loss / n,
    }
}

fn largest(row: &[f32]) -> usize {
    let mut best = 0;
    for (index, value) in row.iter().enumerate() {
        if *value > row[best] {
            best = index;
        }
    }
    best
}

pub(crate) fn log_softmax(row: &mut [f32], scale: f32) {
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f32 = row.iter().map(|value| ((value - max) * scale).exp()).sum();
    let log_sum = sum.ln();
    row.iter_mut()
        .for_each(|value| *value = (*value - max) * scale - log_sum);
}

/// Eight sums side by side, so that the processor need not wait for each addition.
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a_chunks, a_rest) = a.as_chunks::<8>();
    let (b_chunks, b_rest) = b.as_chunks::<8>();
    let mut sums = [0.0f32; 8];
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for lane in 0..8 {
            sums[lane] += a[lane] * b[lane];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests;

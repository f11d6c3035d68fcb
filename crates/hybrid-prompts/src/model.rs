//! The seam to an encoder, and checks of what comes back.

use std::error::Error;

use crate::error::PromptError;

/// What prompts need of an encoder; of a language model: [`LanguageModel`](crate::LanguageModel).
///
/// Both methods are pure functions of the text: the same text has the same answer during a search.
pub trait PromptModel {
    /// What the model can fail with.
    type Error: Error + Send + Sync + 'static;

    /// One vector a text, all of one width, in order. Any length: they are scaled where compared.
    ///
    /// # Errors
    /// The model's own.
    fn embed(&mut self, texts: &[String]) -> Result<Vec<Vec<f32>>, Self::Error>;

    /// One vector of class log-probabilities a text, in [`LabelSet`](hybrid_data::LabelSet) order,
    /// when a classifier head is trained; `None` when there is none. An empty slice only asks
    /// whether there is one.
    ///
    /// # Errors
    /// The model's own.
    fn classify(&mut self, texts: &[String]) -> Result<Option<Vec<Vec<f32>>>, Self::Error>;
}

/// The unit vector of each text.
pub(crate) fn unit_vectors(
    model: &mut impl PromptModel,
    texts: &[String],
) -> Result<Vec<Vec<f32>>, PromptError> {
    let mut vectors = embedded(model, texts)?;
    vectors.iter_mut().for_each(|vector| scale_to_unit(vector));
    Ok(vectors)
}

/// The vector of each text, checked.
pub(crate) fn embedded(
    model: &mut impl PromptModel,
    texts: &[String],
) -> Result<Vec<Vec<f32>>, PromptError> {
    let vectors = model
        .embed(texts)
        .map_err(|error| PromptError::model(texts.len(), error))?;
    checked_vectors(texts, vectors, None)
}

/// One finite vector a text, all of one width.
pub(crate) fn checked_vectors(
    texts: &[String],
    vectors: Vec<Vec<f32>>,
    known_width: Option<usize>,
) -> Result<Vec<Vec<f32>>, PromptError> {
    let first_width = || vectors.first().map_or(0, Vec::len);
    check(texts, &vectors, known_width.unwrap_or_else(first_width))?;
    Ok(vectors)
}

/// The class log-probabilities of each text, checked; none when the model has no trained head.
pub(crate) fn classified(
    model: &mut impl PromptModel,
    texts: &[String],
    n_labels: usize,
) -> Result<Option<Vec<Vec<f32>>>, PromptError> {
    let rows = model
        .classify(texts)
        .map_err(|error| PromptError::model(texts.len(), error))?;
    if let Some(rows) = &rows {
        check(texts, rows, n_labels)?;
    }
    Ok(rows)
}

fn check(texts: &[String], vectors: &[Vec<f32>], width: usize) -> Result<(), PromptError> {
    if vectors.len() != texts.len() {
        return Err(PromptError::ModelShape {
            what: "vectors",
            expected: texts.len(),
            found: vectors.len(),
        });
    }
    for (text, vector) in texts.iter().zip(vectors) {
        if vector.len() != width || vector.is_empty() {
            return Err(PromptError::ModelShape {
                what: "values a text",
                expected: width,
                found: vector.len(),
            });
        }
        if vector.iter().any(|value| !value.is_finite()) {
            return Err(PromptError::NotFinite { text: text.clone() });
        }
    }
    Ok(())
}

/// Scales a vector to length one; a zero vector stays.
pub(crate) fn scale_to_unit(vector: &mut [f32]) {
    let norm = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
    if norm > 0.0 {
        vector.iter_mut().for_each(|value| *value /= norm);
    }
}

//! A model that never reads the same text twice.

use std::collections::{HashMap, HashSet};

use crate::error::PromptError;
use crate::model::{PromptModel, classified, embedded};

/// Remembers every answer of a model; as long as the model does not change.
pub(super) struct TextCache<'m, M> {
    model: &'m mut M,
    n_labels: usize,
    has_head: bool,
    vectors: HashMap<String, Vec<f32>>,
    classes: HashMap<String, Vec<f32>>,
    n_texts: usize,
}

impl<'m, M: PromptModel> TextCache<'m, M> {
    pub(super) fn new(model: &'m mut M, n_labels: usize) -> Result<Self, PromptError> {
        let has_head = classified(model, &[], n_labels)?.is_some();
        Ok(Self {
            model,
            n_labels,
            has_head,
            vectors: HashMap::new(),
            classes: HashMap::new(),
            n_texts: 0,
        })
    }

    /// Whether the model has a trained classifier head.
    pub(super) fn has_head(&self) -> bool {
        self.has_head
    }

    /// How many texts the model has read.
    pub(super) fn n_texts(&self) -> usize {
        self.n_texts
    }

    /// How many of these texts the model has yet to read.
    pub(super) fn n_unread<'t>(&self, texts: impl Iterator<Item = &'t String>) -> usize {
        unread(
            texts,
            if self.has_head {
                &self.classes
            } else {
                &self.vectors
            },
        )
        .len()
    }
}

impl<M: PromptModel> PromptModel for TextCache<'_, M> {
    type Error = PromptError;

    fn embed(&mut self, texts: &[String]) -> Result<Vec<Vec<f32>>, PromptError> {
        let unread = unread(texts.iter(), &self.vectors);
        if !unread.is_empty() {
            let vectors = embedded(self.model, &unread)?;
            self.n_texts += unread.len();
            self.vectors.extend(unread.into_iter().zip(vectors));
        }
        Ok(texts
            .iter()
            .map(|text| self.vectors[text].clone())
            .collect())
    }

    fn classify(&mut self, texts: &[String]) -> Result<Option<Vec<Vec<f32>>>, PromptError> {
        if !self.has_head {
            return Ok(None);
        }
        let unread = unread(texts.iter(), &self.classes);
        if !unread.is_empty() {
            let Some(rows) = classified(self.model, &unread, self.n_labels)? else {
                return Err(PromptError::ModelShape {
                    what: "vectors",
                    expected: unread.len(),
                    found: 0,
                });
            };
            self.n_texts += unread.len();
            self.classes.extend(unread.into_iter().zip(rows));
        }
        Ok(Some(
            texts
                .iter()
                .map(|text| self.classes[text].clone())
                .collect(),
        ))
    }
}

/// The texts that are not known, each once, in order.
fn unread<'t>(
    texts: impl Iterator<Item = &'t String>,
    known: &HashMap<String, Vec<f32>>,
) -> Vec<String> {
    let mut seen = HashSet::new();
    texts
        .filter(|text| !known.contains_key(*text) && seen.insert(*text))
        .cloned()
        .collect()
}

//! Scores a prompt, with or without adapter, on a split.

use std::collections::BTreeMap;

use hybrid_data::LabelSet;
use hybrid_eval::{Classification, log_softmax};
use hybrid_models::Pooling;
use hybrid_prompts::{Prompt, PromptModel, SIMILARITY_SCALE, Template, score_by_similarity};

use serde::{Deserialize, Serialize};

use crate::HybridError;
use crate::local_model::LocalModel;
use crate::recipe::{ChooseBy, Metric, Recipe};
use crate::task::{Split, TaskData};

/// Predictions on a split.
pub(crate) struct Scored {
    /// `[examples][labels]`.
    pub(crate) probabilities: Vec<Vec<f64>>,
    pub(crate) figures: Classification,
}

impl Scored {
    pub(crate) fn metric(&self, metric: Metric) -> f64 {
        match metric {
            Metric::Accuracy => self.figures.accuracy,
            Metric::MacroF1 => self.figures.macro_average.f1,
            Metric::Mcc => self.figures.mcc,
        }
    }

    /// What chooses among candidates.
    pub(crate) fn standing(&self, criterion: Criterion) -> Standing {
        criterion.standing(self.metric(criterion.metric), self.figures.log_loss)
    }

    /// All figures that choose among candidates, by name.
    pub(crate) fn by_name(&self) -> BTreeMap<String, f64> {
        let figures = [Metric::Accuracy, Metric::MacroF1, Metric::Mcc];
        let mut by_name: BTreeMap<String, f64> = figures
            .into_iter()
            .map(|metric| (metric.name().to_owned(), self.metric(metric)))
            .collect();
        by_name.insert(LOG_LOSS.to_owned(), self.figures.log_loss);
        by_name
    }
}

/// Name of the figure that breaks ties.
pub(crate) const LOG_LOSS: &str = "log_loss";

/// What chooses among candidates.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Criterion {
    pub(crate) metric: Metric,
    pub(crate) choose_by: ChooseBy,
}

impl Criterion {
    pub(crate) fn of(recipe: &Recipe) -> Self {
        let metric = recipe
            .target
            .map_or(Metric::Accuracy, |target| target.metric);
        Self {
            metric,
            choose_by: recipe.choose_by,
        }
    }

    pub(crate) fn standing(self, value: f64, log_loss: f64) -> Standing {
        match self.choose_by {
            ChooseBy::Metric => Standing(value, -log_loss),
            ChooseBy::LogLoss => Standing(-log_loss, value),
        }
    }
}

/// How good a candidate is on select: what decides, and what breaks ties; higher is better.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Standing(f64, f64);

impl Standing {
    /// What decides; higher is better.
    pub(crate) fn deciding(self) -> f64 {
        self.0
    }

    pub(crate) fn is_better_than(self, other: Self) -> bool {
        self.0 > other.0 || (self.0 == other.0 && self.1 > other.1)
    }
}

/// The texts that the base reads for some inputs.
pub(crate) fn render<'f>(
    prompt: &Prompt,
    inputs: impl Iterator<Item = &'f BTreeMap<String, String>>,
) -> Result<Vec<String>, HybridError> {
    let template = Template::parse(&prompt.template)?;
    Ok(inputs
        .map(|fields| template.render(fields))
        .collect::<Result<_, _>>()?)
}

/// Class probabilities `[inputs][labels]`: of the active head, or else of the label words'
/// similarity.
pub(crate) fn probabilities(
    model: &mut LocalModel,
    prompt: &Prompt,
    labels: &LabelSet,
    inputs: &[BTreeMap<String, String>],
) -> Result<Vec<Vec<f64>>, HybridError> {
    let texts = render(prompt, inputs.iter())?;
    if let Some(rows) = model.classify(&texts)? {
        return Ok(rows.into_iter().map(exponentials).collect());
    }
    let rows = score_by_similarity(prompt, labels, &texts, model)?;
    let softmax = |row: Vec<f32>| {
        let logits: Vec<f64> = row
            .into_iter()
            .map(|cosine| f64::from(SIMILARITY_SCALE * cosine))
            .collect();
        log_softmax(&logits).into_iter().map(f64::exp).collect()
    };
    Ok(rows.into_iter().map(softmax).collect())
}

/// Scores a prompt, with the model's active adapter, on a split.
pub(crate) fn score(
    model: &mut LocalModel,
    prompt: &Prompt,
    labels: &LabelSet,
    split: &Split,
) -> Result<Scored, HybridError> {
    let scores = hybrid_prompts::score(prompt, &split.examples, labels, model)?;
    let probabilities: Vec<Vec<f64>> = scores
        .log_probabilities
        .into_iter()
        .map(exponentials)
        .collect();
    let figures = Classification::of(&probabilities, &split.targets)?;
    Ok(Scored {
        probabilities,
        figures,
    })
}

fn exponentials(row: Vec<f32>) -> Vec<f64> {
    row.into_iter()
        .map(|value| f64::from(value).exp())
        .collect()
}

/// All label words of a prompt with the class of each, in class order.
pub(crate) fn labelled_words(prompt: &Prompt, labels: &LabelSet) -> (Vec<String>, Vec<usize>) {
    let names = labels.names().iter().enumerate();
    names
        .flat_map(|(class, label)| {
            prompt
                .words_of(label)
                .iter()
                .map(move |word| (word.clone(), class))
        })
        .unzip()
}

/// One unit vector a label: the mean of its embedded label words.
pub(crate) fn label_vectors(
    model: &mut LocalModel,
    data: &TaskData,
    prompt: &Prompt,
    pooling: Pooling,
) -> Result<Vec<Vec<f32>>, HybridError> {
    let (words, targets) = labelled_words(prompt, &data.labels);
    let vectors = model.embed_pooled(&words, pooling)?;
    Ok(class_means(&vectors, &targets, data.labels.len()))
}

/// One unit vector a label: the mean of its embedded fit examples.
pub(crate) fn centroids(
    model: &mut LocalModel,
    data: &TaskData,
    prompt: &Prompt,
    pooling: Pooling,
) -> Result<Vec<Vec<f32>>, HybridError> {
    let texts = render(prompt, data.fit.fields())?;
    let vectors = model.embed_pooled(&texts, pooling)?;
    Ok(class_means(&vectors, &data.fit.targets, data.labels.len()))
}

fn class_means(vectors: &[Vec<f32>], targets: &[usize], classes: usize) -> Vec<Vec<f32>> {
    let width = vectors.first().map_or(0, Vec::len);
    let mut means = vec![vec![0.0f32; width]; classes];
    for (vector, target) in vectors.iter().zip(targets) {
        for (mean, value) in means[*target].iter_mut().zip(vector) {
            *mean += value;
        }
    }
    for mean in &mut means {
        let norm = mean
            .iter()
            .map(|value| value * value)
            .sum::<f32>()
            .sqrt()
            .max(1e-12);
        mean.iter_mut().for_each(|value| *value /= norm);
    }
    means
}

#[cfg(test)]
mod tests {
    use super::{Criterion, class_means};
    use crate::recipe::{ChooseBy, Metric};

    #[test]
    fn what_does_not_decide_breaks_ties() {
        let by = |choose_by| Criterion {
            metric: Metric::Accuracy,
            choose_by,
        };
        let metric = by(ChooseBy::Metric);
        assert!(
            metric
                .standing(0.8, 1.0)
                .is_better_than(metric.standing(0.7, 0.1))
        );
        assert!(
            metric
                .standing(0.8, 0.1)
                .is_better_than(metric.standing(0.8, 0.2))
        );
        assert!(
            !metric
                .standing(0.8, 0.2)
                .is_better_than(metric.standing(0.8, 0.2))
        );
        let log_loss = by(ChooseBy::LogLoss);
        assert!(
            log_loss
                .standing(0.7, 0.1)
                .is_better_than(log_loss.standing(0.8, 1.0))
        );
        assert!(
            log_loss
                .standing(0.8, 0.1)
                .is_better_than(log_loss.standing(0.7, 0.1))
        );
    }

    #[test]
    fn class_means_are_unit_vectors_of_their_class() {
        let vectors = [vec![2.0, 0.0], vec![0.0, 2.0], vec![0.0, -3.0]];
        let means = class_means(&vectors, &[0, 0, 1], 2);
        let half = 0.5f32.sqrt();
        assert!((means[0][0] - half).abs() < 1e-6 && (means[0][1] - half).abs() < 1e-6);
        assert_eq!(means[1], [0.0, -1.0]);
    }
}

//! Scores a prompt, with or without adapter, on a split.

use std::collections::BTreeMap;

use hybrid_data::{Example, LabelSet};
use hybrid_eval::{
    Classification, Resamples, TemperatureScaling, TextFigures, TextTask, log_softmax,
};
use hybrid_models::Pooling;
use hybrid_prompts::{
    Generated, LabelScoring, Objective, Output, OutputKind, Prompt, PromptModel, SIMILARITY_SCALE,
    Template, classify_language, score_by_similarity, score_language,
};

use crate::HybridError;
use crate::criterion::{Criterion, LOG_LOSS, Standing};
use crate::local_model::LocalModel;
use crate::recipe::{ChooseBy, Metric};
use crate::spans::{self, PASSAGE};
use crate::task::{Split, TaskData, TaskSettings};

/// Predictions on a split.
pub(crate) struct Scored {
    /// `[examples][labels]`; nothing where answers are texts.
    pub(crate) probabilities: Vec<Vec<f64>>,
    /// What was written for each example; nothing where answers are labels.
    pub(crate) outputs: Vec<String>,
    pub(crate) figures: Figures,
    /// Mean negative log-probability of the right label, of the wanted tokens, or of the wanted
    /// spans that stand in their passages, in nats.
    pub(crate) log_loss: f64,
    /// The negative log-probability of each example's right label, of its wanted tokens on the mean,
    /// or of its wanted span if there is one, in nats.
    pub(crate) losses: Vec<f64>,
    /// Inputs that were cut because their prompts were too long.
    pub(crate) n_cut: usize,
}

/// Figures of a split.
pub(crate) enum Figures {
    Labels(Box<Classification>),
    Texts(TextFigures),
}

impl Scored {
    /// A figure of the task.
    pub(crate) fn metric(&self, metric: Metric) -> f64 {
        let figures = self.figures_by_name();
        figures.get(metric.name()).copied().unwrap_or(f64::NAN)
    }

    /// What chooses among candidates.
    pub(crate) fn standing(&self, criterion: Criterion) -> Standing {
        criterion.standing(self.metric(criterion.metric), self.log_loss)
    }

    /// All figures of the task, by name.
    pub(crate) fn figures_by_name(&self) -> BTreeMap<String, f64> {
        match &self.figures {
            Figures::Labels(figures) => [
                (Metric::Accuracy, figures.accuracy),
                (Metric::MacroF1, figures.macro_average.f1),
                (Metric::Mcc, figures.mcc),
            ]
            .map(|(metric, value)| (metric.name().to_owned(), value))
            .into(),
            Figures::Texts(figures) => figures.by_name(),
        }
    }

    /// All figures that a report tells, by name.
    pub(crate) fn reported(&self) -> BTreeMap<String, f64> {
        match &self.figures {
            Figures::Labels(figures) => figures.by_name(),
            Figures::Texts(figures) => figures.by_name(),
        }
    }

    /// Bootstrap 95 % intervals of figures on the split that was scored, by name.
    pub(crate) fn intervals(
        &self,
        split: &Split,
        resamples: &Resamples,
    ) -> Result<BTreeMap<String, [f64; 2]>, HybridError> {
        Ok(match &self.figures {
            Figures::Labels(figures) => figures.intervals(&split.targets, resamples)?,
            Figures::Texts(figures) => figures.intervals(resamples)?,
        })
    }

    /// All figures that choose among candidates, by name.
    pub(crate) fn by_name(&self) -> BTreeMap<String, f64> {
        let mut by_name = self.figures_by_name();
        by_name.insert(LOG_LOSS.to_owned(), self.log_loss);
        by_name
    }

    /// The label predicted for each example.
    pub(crate) fn predictions(&self) -> Vec<usize> {
        match &self.figures {
            Figures::Labels(figures) => figures.predictions.clone(),
            Figures::Texts(_) => Vec::new(),
        }
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

/// What was answered to inputs.
pub(crate) struct Answered<T> {
    /// One an input.
    pub(crate) rows: Vec<T>,
    /// Inputs that were cut because their prompts were too long.
    pub(crate) n_cut: usize,
}

/// Class probabilities, one row an input with one value a label: of a language model's label words,
/// of the active head, or else of the label words' similarity.
pub(crate) fn probabilities(
    model: &mut LocalModel,
    prompt: &Prompt,
    task: &TaskSettings,
    inputs: &[BTreeMap<String, String>],
) -> Result<Answered<Vec<f64>>, HybridError> {
    let labels = &task.labels;
    if model.is_prompted() {
        let scoring = label_scoring(model, task);
        let scores =
            model.prompted(|model| classify_language(prompt, inputs, labels, &scoring, model))?;
        let rows = scores.log_probabilities.into_iter().map(exponentials);
        return Ok(Answered {
            rows: rows.collect(),
            n_cut: scores.n_cut,
        });
    }
    let uncut = |rows| Answered { rows, n_cut: 0 };
    let texts = render(prompt, inputs.iter())?;
    if let Some(rows) = model.classify(&texts)? {
        return Ok(uncut(rows.into_iter().map(exponentials).collect()));
    }
    let rows = score_by_similarity(prompt, labels, &texts, model)?;
    let softmax = |row: Vec<f32>| {
        let logits: Vec<f64> = row
            .into_iter()
            .map(|cosine| f64::from(SIMILARITY_SCALE * cosine))
            .collect();
        log_softmax(&logits).into_iter().map(f64::exp).collect()
    };
    Ok(uncut(rows.into_iter().map(softmax).collect()))
}

/// How label words of the model, with its active adapter, are scored.
pub(crate) fn label_scoring(model: &LocalModel, task: &TaskSettings) -> LabelScoring {
    task.scoring_of(model.active().is_some())
}

/// Scores a prompt, with the model's active adapter, on select: the losses are those that choose.
pub(crate) fn score_on_select(
    model: &mut LocalModel,
    prompt: &Prompt,
    data: &TaskData,
    criterion: Criterion,
) -> Result<Scored, HybridError> {
    let mut scored = score(model, prompt, &data.task, &data.select)?;
    if criterion.choose_by == ChooseBy::ScaledLogLoss {
        let scaled = TemperatureScaling::fit(&scored.probabilities, &data.select.targets)?;
        scored.log_loss = scaled.losses.iter().sum::<f64>() / scaled.losses.len() as f64;
        scored.losses = scaled.losses;
    }
    Ok(scored)
}

/// Scores a prompt, with the model's active adapter, on a split.
pub(crate) fn score(
    model: &mut LocalModel,
    prompt: &Prompt,
    task: &TaskSettings,
    split: &Split,
) -> Result<Scored, HybridError> {
    if let Some(kind) = task.kind.text_task() {
        if spans::are_asked(task.kind, model) {
            return score_spans(model, task, kind, split);
        }
        return score_texts(model, prompt, task, kind, split);
    }
    let (examples, labels) = (&split.examples, &task.labels);
    let (rows, n_cut) = if model.is_prompted() {
        let scoring = label_scoring(model, task);
        let objective = Objective::Labels(&scoring);
        let scores =
            model.prompted(|model| score_language(prompt, examples, labels, objective, model))?;
        (scores.log_probabilities, scores.n_cut)
    } else {
        let scores = hybrid_prompts::score(prompt, examples, labels, model);
        // A stop shows as an error of the model.
        model.check_interrupt()?;
        let scores = scores?;
        (scores.log_probabilities, 0)
    };
    let probabilities: Vec<Vec<f64>> = rows.into_iter().map(exponentials).collect();
    let figures = Classification::of(&probabilities, &split.targets)?;
    let of_right = probabilities.iter().zip(&split.targets);
    let loss = |(row, target): (&Vec<f64>, &usize)| -row[*target].max(f64::EPSILON).ln();
    let losses = of_right.map(loss).collect();
    Ok(Scored {
        probabilities,
        outputs: Vec::new(),
        log_loss: figures.log_loss,
        losses,
        figures: Figures::Labels(Box::new(figures)),
        n_cut,
    })
}

/// Has the model write an answer to each example, and asks how likely the wanted ones are.
fn score_texts(
    model: &mut LocalModel,
    prompt: &Prompt,
    task: &TaskSettings,
    kind: TextTask,
    split: &Split,
) -> Result<Scored, HybridError> {
    let (examples, labels) = (&split.examples, &task.labels);
    // The figures are of the whole split, so single outputs are worth nothing.
    let worth = |_: &Output, _: &Example| 0.0;
    let written = Objective::Generated {
        options: &task.generation,
        output: &OutputKind::Text,
        metric: &worth,
    };
    let (likely, written) = model.prompted(|model| {
        let likely = score_language(prompt, examples, labels, Objective::Likelihood, model)?;
        Ok((
            likely,
            score_language(prompt, examples, labels, written, model)?,
        ))
    })?;
    let figures = TextFigures::of(kind, &written.answers, &split.references())?;
    Ok(Scored {
        probabilities: Vec::new(),
        outputs: written.answers,
        figures: Figures::Texts(figures),
        log_loss: likely.log_loss,
        losses: likely.values.iter().map(|value| -value.ln()).collect(),
        n_cut: written.n_cut,
    })
}

/// Has an encoder answer out of each example's passage, and asks how likely the wanted answers are
/// that stand there.
fn score_spans(
    model: &mut LocalModel,
    task: &TaskSettings,
    kind: TextTask,
    split: &Split,
) -> Result<Scored, HybridError> {
    let read = spans::read(model, &task.passages, split.fields())?;
    let (mut outputs, mut losses) = (Vec::new(), Vec::new());
    for (passage, example) in read.iter().zip(&split.examples) {
        let best = passage.best(task.passages.max_answer_length);
        outputs.push(best.map_or_else(String::new, |span| span.text.to_owned()));
        let wanted = example.label_in(PASSAGE)?;
        let likely = wanted.and_then(|wanted| passage.log_probability(&wanted));
        losses.extend(likely.map(|log_probability| -log_probability));
    }
    let figures = TextFigures::of(kind, &outputs, &split.references())?;
    Ok(Scored {
        probabilities: Vec::new(),
        outputs,
        figures: Figures::Texts(figures),
        log_loss: losses.iter().sum::<f64>() / losses.len() as f64,
        losses,
        n_cut: 0,
    })
}

/// What the model writes for inputs.
pub(crate) fn write(
    model: &mut LocalModel,
    prompt: &Prompt,
    task: &TaskSettings,
    inputs: &[BTreeMap<String, String>],
) -> Result<Answered<String>, HybridError> {
    let inputs: Vec<&BTreeMap<String, String>> = inputs.iter().collect();
    let following = vec![task.generation.max_tokens; inputs.len()];
    model.prompted(|model| {
        let fitted = model.texts(prompt, &inputs, &following)?;
        let written = model.generate(&fitted.texts, &task.generation)?;
        let trimmed = |output: Generated| output.text.trim().to_owned();
        Ok(Answered {
            rows: written.into_iter().map(trimmed).collect(),
            n_cut: fitted.n_cut,
        })
    })
}

fn exponentials(row: Vec<f32>) -> Vec<f64> {
    row.into_iter()
        .map(|value| f64::from(value).exp())
        .collect()
}

/// Whether losses are lower than others of the same examples by so many standard errors of the
/// differences' mean.
pub(crate) fn are_clearly_below(losses: &[f64], others: &[f64], margin: f64) -> bool {
    let gains: Vec<f64> = others
        .iter()
        .zip(losses)
        .map(|(other, own)| other - own)
        .collect();
    let n = gains.len() as f64;
    let mean = gains.iter().sum::<f64>() / n;
    let squares: f64 = gains.iter().map(|gain| (gain - mean).powi(2)).sum();
    let standard_error = (squares / (n - 1.0) / n).sqrt();
    mean > margin * standard_error
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
    let (words, targets) = labelled_words(prompt, &data.task.labels);
    let vectors = model.embed_pooled(&words, pooling)?;
    Ok(class_means(&vectors, &targets, data.task.labels.len()))
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
    Ok(class_means(
        &vectors,
        &data.fit.targets,
        data.task.labels.len(),
    ))
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
    use super::{are_clearly_below, class_means};

    #[test]
    fn a_difference_is_held_against_its_standard_error() {
        // Gains of 1 and 3: 2 on the mean, with a standard error of 1.
        let (others, own) = ([2.0, 5.0], [1.0, 2.0]);
        assert!(are_clearly_below(&own, &others, 1.9));
        assert!(!are_clearly_below(&own, &others, 2.1));
        assert!(!are_clearly_below(&others, &own, 0.0));
        assert!(!are_clearly_below(&own, &own, 0.0));
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

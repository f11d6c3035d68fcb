//! From the outcome of the alternation to the report.

use std::collections::BTreeMap;
use std::path::Path;

use hybrid_adapters::{Trainable, peft_has, peft_has_head};
use hybrid_eval::{
    AdapterSummary, CandidateReport, CardDetails, Comparison, ConfusionReport, Cost, DataSummary,
    Final, Generalisation, HeadDetails, OutOfScope, PairedComparison, PromptSummary, Provenance,
    Report, Resamples, RoundReport, SearchCurve, SpanDetails, StageReport, TargetReport,
    TextFigures, TextReport, TrainingCurve, peak_rss_mb,
};
use hybrid_models::Pooling;
use hybrid_prompts::Criterion as SearchCriterion;
use serde_json::{Value, json};

use crate::HybridError;
use crate::alternate::{self, Outcome};
use crate::artifact;
use crate::candidate::Candidate;
use crate::criterion::{Criterion, LOG_LOSS};
use crate::evaluate::{self, Figures, Scored};
use crate::recipe::{Metric, Task};
use crate::spans;
use crate::stage::{Context, Spent, StageMeter, prompt};
use crate::task::Split;

/// Draws of each bootstrap.
const RESAMPLES: usize = 1000;

/// Scores the winner, whose adapter is active, once on the report split, and gathers all that the
/// run has shown.
///
/// # Errors
/// [`HybridError`] from scoring.
pub(crate) fn report(
    context: &mut Context<'_>,
    outcome: &Outcome,
    device: &str,
) -> Result<Report, HybridError> {
    let meter = StageMeter::new(context.model, Spent::default());
    let metric = Criterion::of(context.recipe).metric;
    let winner = outcome.winner();
    let data = context.data;
    context.progress.scoring(&data.report, "report");
    let scored = evaluate::score(context.model, &winner.prompt, &data.task, &data.report)?;
    context.progress.cut(scored.n_cut, &data.report, "report");
    let generalisation = generalisation(context, winner, &scored, metric)?;
    let resamples = resamples(context.recipe.seed, "report", data.report.examples.len())?;
    let intervals = scored.intervals(&data.report, &resamples)?;
    let target = context.recipe.target.map(|target| TargetReport {
        metric: target.metric.name().to_owned(),
        value: target.value,
        reached: target.is_reached(winner.score(target.metric.name())),
    });
    let final_result = Final {
        candidate: winner.id.clone(),
        metric: metric.name().to_owned(),
        value: scored.metric(metric),
        interval: intervals[metric.name()],
        per_metric: scored.reported(),
        intervals,
    };
    let mut cost = Cost::default();
    outcome
        .candidates
        .iter()
        .for_each(|candidate| cost += candidate.cost);
    let spent = meter.spent(context.model);
    cost += Cost {
        wall_s: spent.seconds,
        tokens: spent.tokens,
        flops: spent.flops,
        ..Cost::default()
    };
    // Adapters under a head that was trained alone were trained by an earlier stage.
    let trained = context.model.active().map_or(0, Trainable::n_parameters);
    cost.trainable_parameters = trained as u64;
    cost.total_parameters =
        context.model.base.as_base().n_parameters() as u64 + cost.trainable_parameters;
    cost.peak_rss_mb = peak_rss_mb();
    let (confusion, calibration, texts) = match &scored.figures {
        Figures::Labels(figures) => {
            let names = data.task.labels.names().to_vec();
            let confusion = ConfusionReport::of(names, &figures.confusion)?;
            (Some(confusion), Some(figures.calibration.clone()), None)
        }
        Figures::Texts(figures) => {
            let inputs = evaluate::render(&winner.prompt, data.report.fields())?;
            let references = data.report.references();
            let texts = TextReport::of(figures.task(), &inputs, &references, &scored.outputs)?;
            (None, None, Some(texts))
        }
    };
    let mut comparisons = comparisons(context, outcome, metric)?;
    if context.recipe.compare_on_report {
        comparisons.extend(comparisons_on_report(context, outcome, metric, &scored)?);
    }
    Ok(Report {
        task: context.recipe.name.clone(),
        device: device.to_owned(),
        base: context.recipe.base.model.clone(),
        seed: context.recipe.seed,
        target,
        stopped: outcome.stopped.describe().to_owned(),
        data: DataSummary {
            source: context
                .recipe
                .data
                .folder
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
            labels: data.task.labels.len(),
            fit: data.fit.examples.len(),
            select: data.select.examples.len(),
            report: data.report.examples.len(),
            shared_texts: data.shared_texts(),
        },
        rounds: rounds(&outcome.candidates),
        candidates: outcome.candidates.iter().map(candidate_report).collect(),
        final_result,
        cost,
        generalisation,
        comparisons,
        searches: outcome
            .candidates
            .iter()
            .filter(|candidate| !candidate.search.is_empty())
            .map(|candidate| search(context, candidate))
            .collect(),
        curves: outcome
            .candidates
            .iter()
            .filter(|candidate| !candidate.curve.is_empty())
            .map(curve)
            .collect(),
        confusion,
        calibration,
        texts,
        provenance: Provenance {
            versions: BTreeMap::from([("hybrid".to_owned(), env!("CARGO_PKG_VERSION").to_owned())]),
            commit: option_env!("HYBRID_COMMIT").map(str::to_owned),
            recipe: toml::to_string_pretty(context.recipe).expect("recipes are plain data"),
        },
    })
}

/// The draws for intervals of figures over a split, from the seed of a run.
///
/// # Errors
/// [`HybridError::Eval`] for a split without rows.
pub(crate) fn resamples(seed: u64, split: &str, rows: usize) -> Result<Resamples, HybridError> {
    let seed = hybrid_data::derive_seed(seed, &format!("bootstrap/{split}"));
    Ok(Resamples::seeded(rows, RESAMPLES, seed)?)
}

fn generalisation(
    context: &mut Context<'_>,
    winner: &Candidate,
    scored: &Scored,
    metric: Metric,
) -> Result<Generalisation, HybridError> {
    let data = context.data;
    let mut generalisation = Generalisation::of(
        metric.name(),
        winner.score(metric.name()),
        scored.metric(metric),
    );
    if let (Some(split), Some(file)) = (&data.second_report, &context.recipe.data.second_report) {
        context.progress.scoring(split, "second report");
        let second = evaluate::score(context.model, &winner.prompt, &data.task, split)?;
        let resamples = resamples(context.recipe.seed, "second report", split.examples.len())?;
        let intervals = second.intervals(split, &resamples)?;
        generalisation = generalisation.with_second_report(
            &file.to_string_lossy(),
            split.examples.len(),
            second.metric(metric),
            intervals[metric.name()],
        );
    }
    if let Some(file) = &context.recipe.data.out_of_scope {
        let inputs: Vec<_> = data
            .out_of_scope
            .iter()
            .map(|example| example.fields.clone())
            .collect();
        let outside = evaluate::probabilities(context.model, &winner.prompt, &data.task, &inputs)?;
        let figures = OutOfScope::of(
            &file.to_string_lossy(),
            &scored.probabilities,
            &outside.rows,
        )?;
        generalisation = generalisation.with_out_of_scope(figures);
    }
    Ok(generalisation)
}

/// What a candidate answered to a split.
#[derive(Clone, Copy)]
struct Answers<'a> {
    predictions: &'a [usize],
    outputs: &'a [String],
}

impl<'a> Answers<'a> {
    /// What a candidate answered to select.
    fn of(candidate: &'a Candidate) -> Self {
        Self {
            predictions: &candidate.predictions,
            outputs: &candidate.outputs,
        }
    }

    fn compare(
        self,
        other: Self,
        task: Task,
        metric: Metric,
        split: &Split,
        resamples: &Resamples,
    ) -> Result<(Metric, PairedComparison), HybridError> {
        let Some(kind) = task.text_task() else {
            let rights = |answers: Self| -> Vec<f64> {
                let pairs = answers.predictions.iter().zip(&split.targets);
                pairs
                    .map(|(prediction, target)| f64::from(u8::from(prediction == target)))
                    .collect()
            };
            let compared = PairedComparison::of(&rights(self), &rights(other), resamples)?;
            return Ok((Metric::Accuracy, compared));
        };
        let references = split.references();
        let figures = |answers: Self| TextFigures::of(kind, answers.outputs, &references);
        let compared = figures(self)?.compare(&figures(other)?, metric.name(), resamples)?;
        Ok((metric, compared))
    }
}

/// The winner against every other candidate, on select.
fn comparisons(
    context: &Context<'_>,
    outcome: &Outcome,
    metric: Metric,
) -> Result<Vec<Comparison>, HybridError> {
    let select = &context.data.select;
    let resamples = resamples(context.recipe.seed, "select", select.examples.len())?;
    let winner = outcome.winner();
    let task = context.recipe.task;
    outcome
        .losers()
        .map(|other| {
            let compared = Answers::of(winner).compare(
                Answers::of(other),
                task,
                metric,
                select,
                &resamples,
            )?;
            Ok(comparison(winner, other, "select", compared))
        })
        .collect()
}

/// The winner, whose answers are `scored`, against every other candidate, on report.
fn comparisons_on_report(
    context: &mut Context<'_>,
    outcome: &Outcome,
    metric: Metric,
    scored: &Scored,
) -> Result<Vec<Comparison>, HybridError> {
    let (data, task) = (context.data, context.recipe.task);
    let resamples = resamples(context.recipe.seed, "report", data.report.examples.len())?;
    let winner = outcome.winner();
    let predictions = scored.predictions();
    let answers = Answers {
        predictions: &predictions,
        outputs: &scored.outputs,
    };
    let mut comparisons = Vec::new();
    for other in outcome.losers() {
        alternate::activate(context, other)?;
        let of_other = evaluate::score(context.model, &other.prompt, &data.task, &data.report)?;
        let predictions = of_other.predictions();
        let of_other = Answers {
            predictions: &predictions,
            outputs: &of_other.outputs,
        };
        let compared = answers.compare(of_other, task, metric, &data.report, &resamples)?;
        comparisons.push(comparison(winner, other, "report", compared));
    }
    alternate::activate(context, winner)?;
    Ok(comparisons)
}

fn comparison(
    winner: &Candidate,
    other: &Candidate,
    split: &str,
    (metric, result): (Metric, PairedComparison),
) -> Comparison {
    Comparison {
        a: winner.id.clone(),
        b: other.id.clone(),
        split: split.to_owned(),
        metric: metric.name().to_owned(),
        result,
    }
}

fn rounds(candidates: &[Candidate]) -> Vec<RoundReport> {
    let mut rounds: Vec<RoundReport> = Vec::new();
    for candidate in candidates.iter().filter(|candidate| candidate.round > 0) {
        if rounds
            .last()
            .is_none_or(|round| round.round != candidate.round)
        {
            rounds.push(RoundReport {
                round: candidate.round,
                stages: Vec::new(),
            });
        }
        let stage = StageReport {
            stage: candidate.stage.clone(),
            candidate: candidate.id.clone(),
            adopted: candidate.adopted,
        };
        rounds.last_mut().expect("pushed above").stages.push(stage);
    }
    rounds
}

fn candidate_report(candidate: &Candidate) -> CandidateReport {
    let plain = |error: serde_json::Error| unreachable!("configurations are plain data: {error}");
    CandidateReport {
        id: candidate.id.clone(),
        stage: candidate.stage.clone(),
        round: candidate.round,
        parent: candidate.parent.clone(),
        adopted: candidate.adopted,
        prompt: PromptSummary {
            id: candidate.prompt.id(),
            instruction: candidate.prompt.instruction.clone(),
            template: candidate.prompt.template.clone(),
            answer_start: candidate.prompt.answer_start.clone(),
            demonstrations: candidate.prompt.demonstrations.examples.len(),
            label_words: candidate.prompt.label_words.clone(),
        },
        adapter: candidate.adapter.as_ref().map(|adapter| AdapterSummary {
            methods: adapter
                .methods
                .iter()
                .map(|m| serde_json::to_value(m).unwrap_or_else(plain))
                .collect(),
            head: adapter
                .head
                .as_ref()
                .map(|head| serde_json::to_value(head).unwrap_or_else(plain)),
            trainable_parameters: adapter.trainable_parameters as u64,
        }),
        select: candidate.select.clone(),
        cost: candidate.cost,
    }
}

fn search(context: &Context<'_>, candidate: &Candidate) -> SearchCurve {
    let unit = match context.model.is_language_model() {
        true => "tokens",
        false => "texts",
    };
    let decides = match prompt::search_criterion(context, Criterion::of(context.recipe)) {
        SearchCriterion::Accuracy => "accuracy",
        SearchCriterion::LogLoss => LOG_LOSS,
    };
    SearchCurve {
        candidate: candidate.id.clone(),
        unit: unit.to_owned(),
        decides: decides.to_owned(),
        points: candidate.search.clone(),
    }
}

fn curve(candidate: &Candidate) -> TrainingCurve {
    TrainingCurve {
        candidate: candidate.id.clone(),
        points: candidate.curve.clone(),
    }
}

/// What the model card tells beyond the report.
pub(crate) fn card_details(context: &Context<'_>, winner: &Candidate) -> CardDetails {
    let active = context.model.active();
    let in_peft = active.is_some_and(|trainable| peft_has(&trainable.adapters));
    let head = winner
        .adapter
        .as_ref()
        .and_then(|adapter| adapter.head.as_ref());
    let base = context.model.base.as_base();
    let head_in_peft = active.is_some_and(|active| {
        let head = active.head.as_ref();
        head.is_some_and(|head| peft_has_head(&active.adapters, base, head))
    });
    let has_span_head = active.is_some_and(|active| active.span_head.is_some());
    let task = &context.data.task;
    CardDetails {
        artifact: "artifact".to_owned(),
        max_length: context.recipe.base.max_length,
        peft_folder: in_peft.then(|| artifact::PEFT.to_owned()),
        head: head.map(|head| HeadDetails {
            file: artifact::HEAD.to_owned(),
            pooling: name_of(head.pooling),
            normalize: head.normalize,
            in_peft: head_in_peft,
        }),
        spans: spans::are_asked(task.kind, context.model).then(|| SpanDetails {
            file: has_span_head.then(|| artifact::SPAN_HEAD.to_owned()),
            stride: task.passages.stride,
            max_answer_length: task.passages.max_answer_length,
        }),
    }
}

/// The name of a pooling in recipes and artifacts.
fn name_of(pooling: Pooling) -> String {
    let name = serde_json::to_value(pooling).expect("names are plain data");
    name.as_str()
        .expect("a pooling is written as its name")
        .to_owned()
}

/// A finished run in a few lines.
pub(crate) fn in_words(report: &Report, out: &Path) -> String {
    let last = &report.final_result;
    let [low, high] = last.interval;
    let cost = &report.cost;
    let memory = cost
        .peak_rss_mb
        .map(|mb| format!(", {mb:.0} MB at most"))
        .unwrap_or_default();
    format!(
        "{}: {} {:.4} [{low:.4}, {high:.4}] on {} report examples ({})\n\
         {:.1} s{memory}, {} of {} parameters trained\n\
         report {}\nartifact {}",
        last.candidate,
        last.metric,
        last.value,
        report.data.report,
        report.stopped,
        cost.wall_s,
        cost.trainable_parameters,
        cost.total_parameters,
        out.join("report.html").display(),
        out.join("artifact").display(),
    )
}

/// A finished run in one JSON line: its final figures and where all else lies.
pub(crate) fn in_json(report: &Report, out: &Path) -> Value {
    let path = |name: &str| out.join(name).to_string_lossy().into_owned();
    json!({
        "event": "report",
        "final": report.final_result,
        "stopped": report.stopped,
        "cost": report.cost,
        "report_json": path("report.json"),
        "report_html": path("report.html"),
        "card": path("README.md"),
        "artifact": path("artifact"),
    })
}

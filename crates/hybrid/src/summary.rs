//! From the outcome of the alternation to the report.

use std::collections::BTreeMap;
use std::path::Path;

use hybrid_adapters::{Trainable, peft_has};
use hybrid_eval::{
    AdapterSummary, CandidateReport, CardDetails, Comparison, ConfusionReport, Cost, DataSummary,
    Final, Generalisation, HeadDetails, OutOfScope, PairedComparison, PromptSummary, Provenance,
    Report, Resamples, RoundReport, StageReport, TargetReport, TrainingCurve, peak_rss_mb,
};
use hybrid_models::{Base, Pooling};
use serde_json::{Value, json};

use crate::HybridError;
use crate::alternate::Outcome;
use crate::artifact;
use crate::candidate::Candidate;
use crate::evaluate::{self, Criterion, Scored};
use crate::recipe::Metric;
use crate::stage::{Context, Spent, StageMeter};
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
    let scored = evaluate::score(context.model, &winner.prompt, &data.labels, &data.report)?;
    let generalisation = generalisation(context, winner, &scored, metric)?;
    let resamples = resamples(context, "report", data.report.targets.len())?;
    let intervals = scored.figures.intervals(&data.report.targets, &resamples)?;
    let target = context.recipe.target.map(|target| TargetReport {
        metric: target.metric.name().to_owned(),
        value: target.value,
        reached: winner.score(target.metric.name()) >= target.value,
    });
    let final_result = Final {
        candidate: winner.id.clone(),
        metric: metric.name().to_owned(),
        value: scored.metric(metric),
        interval: intervals[metric.name()],
        per_metric: scored.figures.by_name(),
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
    cost.total_parameters = context.model.base.n_parameters() as u64 + cost.trainable_parameters;
    cost.peak_rss_mb = peak_rss_mb();
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
            labels: data.labels.len(),
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
        comparisons: comparisons(context, outcome)?,
        curves: outcome
            .candidates
            .iter()
            .filter(|candidate| !candidate.curve.is_empty())
            .map(curve)
            .collect(),
        confusion: ConfusionReport::of(data.labels.names().to_vec(), &scored.figures.confusion)?,
        calibration: scored.figures.calibration,
        provenance: Provenance {
            versions: BTreeMap::from([("hybrid".to_owned(), env!("CARGO_PKG_VERSION").to_owned())]),
            commit: option_env!("HYBRID_COMMIT").map(str::to_owned),
            recipe: toml::to_string_pretty(context.recipe).expect("recipes are plain data"),
        },
    })
}

fn resamples(context: &Context<'_>, split: &str, rows: usize) -> Result<Resamples, HybridError> {
    let seed = hybrid_data::derive_seed(context.recipe.seed, &format!("bootstrap/{split}"));
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
        let second = evaluate::score(context.model, &winner.prompt, &data.labels, split)?;
        let resamples = resamples(context, "second report", split.targets.len())?;
        let intervals = second.figures.intervals(&split.targets, &resamples)?;
        generalisation = generalisation.with_second_report(
            &file.to_string_lossy(),
            split.targets.len(),
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
        let outside =
            evaluate::probabilities(context.model, &winner.prompt, &data.labels, &inputs)?;
        let figures = OutOfScope::of(&file.to_string_lossy(), &scored.probabilities, &outside)?;
        generalisation = generalisation.with_out_of_scope(figures);
    }
    Ok(generalisation)
}

/// The winner against every other candidate, on select.
fn comparisons(context: &Context<'_>, outcome: &Outcome) -> Result<Vec<Comparison>, HybridError> {
    let select = &context.data.select;
    let resamples = resamples(context, "select", select.targets.len())?;
    let winner = outcome.winner();
    let rights = |candidate: &Candidate, split: &Split| -> Vec<f64> {
        let right =
            |(prediction, target): (&usize, &usize)| f64::from(u8::from(prediction == target));
        candidate
            .predictions
            .iter()
            .zip(&split.targets)
            .map(right)
            .collect()
    };
    let scores = rights(winner, select);
    let others = outcome
        .candidates
        .iter()
        .filter(|candidate| candidate.id != winner.id);
    others
        .map(|other| {
            Ok(Comparison {
                a: winner.id.clone(),
                b: other.id.clone(),
                split: "select".to_owned(),
                metric: Metric::Accuracy.name().to_owned(),
                result: PairedComparison::of(&scores, &rights(other, select), &resamples)?,
            })
        })
        .collect()
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
            template: candidate.prompt.template.clone(),
            label_words: candidate.prompt.label_words.clone(),
        },
        adapter: candidate.adapter.as_ref().map(|adapter| AdapterSummary {
            methods: adapter
                .methods
                .iter()
                .map(|m| serde_json::to_value(m).unwrap_or_else(plain))
                .collect(),
            head: Some(serde_json::to_value(&adapter.head).unwrap_or_else(plain)),
            trainable_parameters: adapter.trainable_parameters as u64,
        }),
        select: candidate.select.clone(),
        cost: candidate.cost,
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
    CardDetails {
        artifact: "artifact".to_owned(),
        max_length: context.recipe.base.max_length,
        peft_folder: in_peft.then(|| artifact::PEFT.to_owned()),
        head: winner.adapter.as_ref().map(|adapter| HeadDetails {
            file: artifact::HEAD.to_owned(),
            pooling: name_of(adapter.head.pooling),
            normalize: adapter.head.normalize,
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

//! A plausible report for tests: three stages in one round, of which the last brings nothing.

use std::collections::BTreeMap;

use crate::{
    AdapterSummary, CandidateReport, Classification, Comparison, ConfusionReport, Cost, CurvePoint,
    DataSummary, Final, Generalisation, OutOfScope, PairedComparison, PromptSummary, Provenance,
    Report, Resamples, RoundReport, SearchCurve, SearchPoint, SharedTexts, StageReport,
    TargetReport, TrainingCurve,
};

const LABELS: [&str; 11] = [
    "activate_my_card",
    "balance_not_updated_after_cheque_or_cash_deposit",
    "card_arrival",
    "card_delivery_estimate",
    "exchange_rate",
    "lost_or_stolen_card",
    "pending_transfer",
    "refund_not_showing_up",
    "top_up_failed",
    "verify_my_identity",
    "why_verify_identity",
];

/// A report over 11 labels.
pub(crate) fn sample() -> Report {
    sample_of(LABELS.len(), 1)
}

/// A report over any number of labels and rounds.
pub(crate) fn sample_of(n_labels: usize, rounds: usize) -> Report {
    let labels: Vec<String> = (0..n_labels)
        .map(|class| match class / LABELS.len() {
            0 => LABELS[class].to_owned(),
            again => format!("{}_{again}", LABELS[class % LABELS.len()]),
        })
        .collect();
    let targets: Vec<usize> = (0..20 * n_labels).map(|row| row % n_labels).collect();
    let figures =
        Classification::of(&probabilities(&targets, n_labels, 0.11), &targets).expect("sound rows");
    let earlier =
        Classification::of(&probabilities(&targets, n_labels, 0.36), &targets).expect("sound rows");
    let resamples = Resamples::seeded(targets.len(), 200, 0).expect("not empty");
    let intervals = figures.intervals(&targets, &resamples).expect("same rows");
    let right = |figures: &Classification| -> Vec<f64> {
        figures
            .predictions
            .iter()
            .zip(&targets)
            .map(|(p, t)| f64::from(u8::from(p == t)))
            .collect()
    };
    let candidates = candidates(&labels, rounds);
    let winner = candidates
        .iter()
        .rev()
        .find(|candidate| candidate.adopted)
        .expect("the baseline is adopted")
        .clone();
    let mut cost = Cost {
        wall_s: 21.5,
        peak_rss_mb: Some(743.2),
        ..Cost::default()
    };
    candidates
        .iter()
        .for_each(|candidate| cost += candidate.cost);
    Report {
        task: "banking77".to_owned(),
        device: "flex".to_owned(),
        base: "sentence-transformers/all-MiniLM-L6-v2".to_owned(),
        seed: 7,
        target: Some(TargetReport { metric: "accuracy".to_owned(), value: 0.87, reached: true }),
        stopped: "target reached".to_owned(),
        data: DataSummary {
            source: "data/banking77".to_owned(),
            labels: n_labels,
            fit: 10 * n_labels,
            select: 3 * n_labels,
            report: targets.len(),
            shared_texts: SharedTexts { select_in_fit: 2, report_in_fit: 5, report_in_select: 0 },
        },
        rounds: (1..=rounds).map(|round| round_report(round, &candidates)).collect(),
        final_result: Final {
            candidate: winner.id.clone(),
            metric: "accuracy".to_owned(),
            value: figures.accuracy,
            interval: intervals["accuracy"],
            per_metric: figures.by_name(),
            intervals,
        },
        cost,
        generalisation: Generalisation::of("accuracy", winner.select["accuracy"], figures.accuracy)
            .with_second_report("tweets", 420, 0.811, [0.772, 0.846])
            .with_out_of_scope(
                OutOfScope::of(
                    "oos_test",
                    &probabilities(&targets, n_labels, 0.1),
                    &probabilities(&targets, n_labels, 0.8),
                )
                .expect("two sets"),
            ),
        comparisons: vec![Comparison {
            a: winner.id.clone(),
            b: "baseline".to_owned(),
            split: "report".to_owned(),
            metric: "accuracy".to_owned(),
            result: PairedComparison::of(&right(&figures), &right(&earlier), &resamples).expect("same rows"),
        }],
        searches: (1..=rounds).map(|round| SearchCurve { candidate: format!("{round}-prompt"), unit: "tokens".to_owned(), decides: "accuracy".to_owned(), points: search_points() }).collect(),
        curves: (1..=rounds).map(|round| TrainingCurve { candidate: format!("{round}-lora"), points: points() }).collect(),
        confusion: Some(ConfusionReport::of(labels, &figures.confusion).expect("one label a class")),
        calibration: Some(figures.calibration),
        texts: None,
        provenance: Provenance {
            versions: [("burn", "0.22.1"), ("hybrid", "0.1.0")].map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
            commit: Some("0123456789abcdef0123456789abcdef01234567".to_owned()),
            recipe: "name = \"banking77\"\n\n[base]\nmodel = \"sentence-transformers/all-MiniLM-L6-v2\"\n".to_owned(),
        },
        candidates,
    }
}

fn round_report(round: usize, candidates: &[CandidateReport]) -> RoundReport {
    let of_round = candidates
        .iter()
        .filter(|candidate| candidate.round == round);
    let stages = of_round.map(|candidate| StageReport {
        stage: candidate.stage.clone(),
        candidate: candidate.id.clone(),
        adopted: candidate.adopted,
    });
    RoundReport {
        round,
        stages: stages.collect(),
    }
}

fn candidates(labels: &[String], rounds: usize) -> Vec<CandidateReport> {
    let words = |pattern: &str| -> BTreeMap<String, Vec<String>> {
        let word = |label: &String| {
            vec![
                label.replace('_', " "),
                format!("{pattern} {}", label.replace('_', " ")),
            ]
        };
        labels
            .iter()
            .map(|label| (label.clone(), word(label)))
            .collect()
    };
    let plain = PromptSummary {
        id: "p0".to_owned(),
        instruction: String::new(),
        demonstrations: 0,
        template: "{{ text }}".to_owned(),
        answer_start: String::new(),
        label_words: words("about"),
    };
    let found = PromptSummary {
        id: "p1".to_owned(),
        instruction: "Name what the customer asks for.".to_owned(),
        demonstrations: 4,
        template: "customer question: {{ text }}".to_owned(),
        answer_start: "Intent:".to_owned(),
        label_words: words("my question is about"),
    };
    let adapter = AdapterSummary {
        methods: vec![serde_json::json!({
            "method": "lora", "r": 8, "lora_alpha": 16.0, "target_modules": ["query", "value"], "bias": "none"
        })],
        head: Some(serde_json::json!({ "pooling": "mean", "normalize": true, "scale": 20.0 })),
        trainable_parameters: 103_373,
    };
    let select = |accuracy: f64| {
        let figures = [
            ("accuracy", accuracy),
            ("macro_f1", accuracy - 0.008),
            ("mcc", accuracy - 0.011),
        ];
        figures.map(|(name, value)| (name.to_owned(), value)).into()
    };
    let mut made = vec![CandidateReport {
        id: "baseline".to_owned(),
        stage: "baseline".to_owned(),
        round: 0,
        parent: None,
        adopted: true,
        prompt: plain,
        adapter: None,
        select: select(0.623),
        cost: Cost {
            wall_s: 0.8,
            tokens: 3_150,
            total_parameters: 22_713_216,
            flops: 6.7e10,
            ..Cost::default()
        },
    }];
    let mut best = 0;
    for round in 1..=rounds {
        let late = 0.012 * (round - 1) as f64;
        for (stage, accuracy, adapted) in [
            ("prompt", 0.706 + 0.19 * late, false),
            ("lora", 0.896 + late, true),
            ("prompt-2", 0.892 + late, true),
        ] {
            let adapted = adapted || round > 1;
            let adopted = accuracy > made[best].select["accuracy"];
            let seconds = if stage == "lora" { 58.4 } else { 4.3 };
            made.push(CandidateReport {
                id: format!("{round}-{stage}"),
                stage: stage.to_owned(),
                round,
                parent: Some(made[best].id.clone()),
                adopted,
                prompt: found.clone(),
                adapter: adapted.then(|| adapter.clone()),
                select: select(accuracy),
                cost: Cost {
                    wall_s: seconds,
                    train_s: if stage == "lora" { seconds } else { 0.0 },
                    prompt_s: if stage == "lora" { 0.0 } else { seconds },
                    tokens: if stage == "lora" { 151_000 } else { 21_400 },
                    trainable_parameters: if adapted { 103_373 } else { 0 },
                    total_parameters: 22_816_589,
                    flops: if stage == "lora" { 9.8e12 } else { 4.6e11 },
                    peak_rss_mb: None,
                },
            });
            if adopted {
                best = made.len() - 1;
            }
        }
    }
    made
}

/// A repeatable number in `[0, 1)` that looks like chance.
fn noise(index: usize) -> f64 {
    let value = ((index as f64 + 1.0) * 12.9898).sin() * 43_758.545_3;
    value - value.floor()
}

/// Rows that are wrong about every `1 / error`-th time, mostly towards the next class.
fn probabilities(targets: &[usize], n_labels: usize, error: f64) -> Vec<Vec<f64>> {
    let row = |(index, target): (usize, &usize)| {
        let wrong = noise(index) < error;
        let step = if noise(index + 7919) < 0.7 {
            1
        } else {
            1 + (noise(index + 104_729) * n_labels as f64) as usize
        };
        let said = if wrong {
            (target + step) % n_labels
        } else {
            *target
        };
        let noisy = noise(index + 31_337);
        let confidence = if wrong {
            0.3 + 0.6 * noisy
        } else {
            0.5 + 0.5 * noisy.sqrt()
        };
        let rest = (1.0 - confidence) / (n_labels - 1) as f64;
        (0..n_labels)
            .map(|class| if class == said { confidence } else { rest })
            .collect()
    };
    targets.iter().enumerate().map(row).collect()
}

/// A search that halves twice.
fn search_points() -> Vec<SearchPoint> {
    let (mut spent, mut points) = (0, Vec::new());
    for (sample, n_trials, start) in [(30, 9, 0.52), (90, 3, 0.61), (270, 1, 0.64)] {
        for trial in 0..n_trials {
            spent += 41 * sample as u64;
            let accuracy = start + 0.04 * (trial / 2) as f64;
            points.push(SearchPoint {
                spent,
                sample,
                accuracy,
                log_loss: 1.9 - accuracy,
            });
        }
    }
    points
}

fn points() -> Vec<CurvePoint> {
    (1..=240)
        .map(|step| {
            let progress = step as f64 / 240.0;
            CurvePoint {
                step,
                loss: 0.25 + 1.9 * (-4.0 * progress).exp() * (0.8 + 0.4 * noise(step)),
                learning_rate: 5e-3 * (progress / 0.1).min(1.0) * (1.0 - progress),
                grad_norm: 0.6 + 2.2 * (-2.0 * progress).exp() * (0.6 + 0.8 * noise(step + 500)),
            }
        })
        .collect()
}

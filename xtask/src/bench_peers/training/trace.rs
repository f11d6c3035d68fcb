//! One run of a program: what it said when, and the figures in it.
//!
//! Hybrid (`hybrid train --json`) and the peers' scripts say the same events: `stage_began` when
//! what follows is training or search, `step` after each update, `trial` after each scored prompt,
//! `report` at the end; a peer also says when it has `learned`. Of a choice among settings, a `step` names its `variant`; the one that was
//! chosen is in hybrid's last `variants_left` or in a peer's `report`. Clock and memory are read by the listener, for all programs alike.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::bench_peers::process::{self, Said};
use crate::bench_peers::summary::Figure;

const fn figure(key: &'static str, heading: &'static str, digits: usize) -> Figure {
    Figure {
        key,
        heading,
        digits,
    }
}

pub(super) const ROWS: Figure = figure("rows_per_s", "rows/s", 1);
pub(super) const ALL_ROWS: Figure = figure("all_rows_per_s", "rows/s with the first update", 1);
pub(super) const TOKENS: Figure = figure("tokens_per_s", "tokens/s", 0);
pub(super) const OPERATIONS: Figure = figure("gflop_per_s", "GFLOP/s", 1);
pub(super) const CANDIDATES: Figure = figure("candidate_examples_per_s", "candidate-examples/s", 2);
pub(super) const FIRST_STEP: Figure = figure("first_step_s", "command to first update, s", 2);
pub(super) const TRAINED: Figure = figure("trained_s", "command to last update, s", 1);
pub(super) const LEARNED: Figure = figure("learned_s", "command to learned model, s", 1);
pub(super) const WALL: Figure = figure("wall_s", "command to test accuracy, s", 1);
pub(super) const ACCURACY: Figure = figure("accuracy_percent", "test accuracy, %", 1);
pub(super) const MEMORY: Figure = figure("peak_rss_mb", "peak memory, MB", 0);

/// The losses of the updates of each setting, by its number; of the only one, which has none, by 0.
pub(super) type Losses = BTreeMap<u64, Vec<f64>>;

/// What is done in one run, where all programs do the same.
#[derive(Debug, Clone, Copy)]
pub(super) struct Amount {
    /// Rows that are trained on, over all epochs.
    pub(super) rows: usize,
    /// Their tokens.
    pub(super) tokens: usize,
    /// Those of the first update.
    pub(super) first_rows: usize,
    pub(super) first_tokens: usize,
    /// Floating point operations, as hybrid counts them; known after hybrid's first run.
    pub(super) flops: Option<f64>,
}

/// What a program said in one run.
#[derive(Debug)]
pub(super) struct Trace {
    said: Vec<Said>,
}

impl Trace {
    pub(super) fn new(said: Vec<Said>) -> Self {
        Self { said }
    }

    fn events<'t>(&'t self, name: &'t str) -> impl DoubleEndedIterator<Item = &'t Said> {
        let is_named = move |said: &&Said| said.event["event"] == name;
        self.said.iter().filter(is_named)
    }

    fn report(&self) -> Option<&Said> {
        self.events("report").next_back()
    }

    /// The loss of each update.
    pub(super) fn losses(&self) -> Losses {
        let mut losses = Losses::new();
        for Said { event, .. } in self.events("step") {
            let setting = losses.entry(event["variant"].as_u64().unwrap_or_default());
            let loss = event["loss"].as_f64().unwrap_or(f64::NAN);
            setting.or_default().push(loss);
        }
        losses
    }

    /// The number of the setting that was chosen.
    pub(super) fn chosen(&self) -> Option<u64> {
        let left = || self.events("variants_left").next_back();
        let own = || left()?.event["variants"][0].as_u64();
        self.report()?.event["chosen"].as_u64().or_else(own)
    }

    /// What became of all settings, where the program has trained each to its end.
    pub(super) fn grid(&self) -> Option<&Value> {
        Some(&self.events("grid").next()?.event)
    }

    /// The versions that the program names.
    pub(super) fn versions(&self) -> Value {
        let own = self.events("started").next();
        match own {
            Some(said) => serde_json::json!({ "hybrid": said.event["version"] }),
            None => self
                .report()
                .map_or(Value::Null, |said| said.event["versions"].clone()),
        }
    }

    /// Floating point operations, where the program counts them.
    pub(super) fn flops(&self) -> Option<f64> {
        self.report()?.event["cost"]["flops"].as_f64()
    }

    /// The share of processor time that other programs took.
    pub(super) fn foreign(&self) -> Option<f64> {
        process::foreign(&self.said)
    }

    /// What the machine's matrix product reaches at best, where the program tries it.
    pub(super) fn matrix_product_gflops(&self) -> Option<f64> {
        self.events("machine").next()?.event["matrix_product_gflops"].as_f64()
    }

    /// The value of a figure.
    pub(super) fn value(&self, figure: &Figure, amount: Amount) -> Option<f64> {
        let (first, last) = (self.events("step").next(), self.events("step").next_back());
        // What is warm after the first update has its own figure.
        let per_second = |all: usize, first_n: usize| {
            let seconds = last?.at_s - first?.at_s;
            (seconds > 0.0).then(|| (all - first_n) as f64 / seconds)
        };
        let tokens = || per_second(amount.tokens, amount.first_tokens);
        match figure.key {
            key if key == ROWS.key => per_second(amount.rows, amount.first_rows),
            key if key == ALL_ROWS.key => {
                let began = self.events("stage_began").next()?;
                Some(amount.rows as f64 / (last?.at_s - began.at_s))
            }
            key if key == TOKENS.key => tokens(),
            key if key == OPERATIONS.key => {
                Some(tokens()? * amount.flops? / amount.tokens as f64 / 1e9)
            }
            key if key == CANDIDATES.key => self.candidate_examples_per_s(),
            key if key == FIRST_STEP.key => Some(first?.at_s),
            key if key == TRAINED.key => Some(last?.at_s),
            key if key == LEARNED.key => self.learned_s(),
            key if key == WALL.key => Some(self.report()?.at_s),
            key if key == ACCURACY.key => self.accuracy().map(|share| share * 100.0),
            key if key == MEMORY.key => self.peak_rss_mb(),
            _ => None,
        }
    }

    /// When there was a model that only had to be scored: at the end of hybrid's last stage, or where a
    /// peer says so.
    fn learned_s(&self) -> Option<f64> {
        let ended = self.events("stage_ended").chain(self.events("learned"));
        ended.map(|said| said.at_s).reduce(f64::max)
    }

    /// Examples that candidates were scored on in a second, summed over candidates.
    fn candidate_examples_per_s(&self) -> Option<f64> {
        let began = self.events("stage_began").next()?;
        let last = self.events("trial").next_back()?;
        let samples = self
            .events("trial")
            .filter_map(|said| said.event["sample"].as_f64());
        Some(samples.sum::<f64>() / (last.at_s - began.at_s))
    }

    /// The accuracy on report: hybrid's final figure, or what a peer says.
    fn accuracy(&self) -> Option<f64> {
        let event = &self.report()?.event;
        let own = &event["final"]["value"];
        own.as_f64().or_else(|| event["accuracy"].as_f64())
    }

    /// The largest resident memory up to the report.
    fn peak_rss_mb(&self) -> Option<f64> {
        let end = self.report()?.at_s;
        let until = self.said.iter().take_while(|said| said.at_s <= end);
        until.filter_map(|said| said.peak_rss_mb).reduce(f64::max)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{
        ACCURACY, ALL_ROWS, Amount, CANDIDATES, FIRST_STEP, LEARNED, MEMORY, OPERATIONS, ROWS,
        TOKENS, TRAINED, Trace, WALL,
    };
    use crate::bench_peers::process::Said;

    const NOTHING: Amount = Amount {
        rows: 0,
        tokens: 0,
        first_rows: 0,
        first_tokens: 0,
        flops: None,
    };

    fn said(at_s: f64, peak_rss_mb: f64, event: Value) -> Said {
        Said {
            at_s,
            peak_rss_mb: Some(peak_rss_mb),
            rss_mb: None,
            event,
            foreign: Some(0.25),
        }
    }

    #[test]
    fn figures_are_read_off_the_clock() {
        let trace = Trace::new(vec![
            said(0.1, 10.0, json!({"event": "started", "version": "1.2"})),
            said(0.5, 20.0, json!({"event": "stage_began"})),
            said(1.0, 50.0, json!({"event": "step", "loss": 4.0})),
            said(2.5, 60.0, json!({"event": "step", "loss": 3.0})),
            said(
                3.0,
                61.0,
                json!({"event": "report", "cost": {"flops": 8e9}}),
            ),
            said(
                9.0,
                99.0,
                json!({"event": "machine", "matrix_product_gflops": 7.5}),
            ),
        ]);
        let amount = Amount {
            rows: 10,
            tokens: 40,
            first_rows: 4,
            first_tokens: 10,
            flops: trace.flops(),
        };
        let values = [
            ROWS, ALL_ROWS, TOKENS, OPERATIONS, FIRST_STEP, TRAINED, MEMORY,
        ]
        .map(|figure| trace.value(&figure, amount).unwrap());
        assert_eq!(values, [4.0, 5.0, 20.0, 4.0, 1.0, 2.5, 61.0]);
        assert_eq!(trace.losses(), [(0, vec![4.0, 3.0])].into());
        assert_eq!(trace.versions(), json!({"hybrid": "1.2"}));
        assert_eq!(trace.matrix_product_gflops(), Some(7.5));
        assert_eq!(trace.foreign(), Some(0.25));
    }

    #[test]
    fn accuracies_are_those_of_reports() {
        let own = json!({"event": "report", "final": {"metric": "accuracy", "value": 0.5}});
        let other = json!({"event": "report", "accuracy": 0.25});
        let figures = [("stage_ended", own), ("learned", other)].map(|(learned, event)| {
            let learned = said(2.0, 1.0, json!({ "event": learned }));
            let trace = Trace::new(vec![learned, said(3.0, 1.0, event)]);
            [LEARNED, WALL, ACCURACY].map(|figure| trace.value(&figure, NOTHING).unwrap())
        });
        assert_eq!(figures, [[2.0, 3.0, 50.0], [2.0, 3.0, 25.0]]);
    }

    #[test]
    fn settings_have_losses_of_their_own() {
        let step = |variant: u64, loss: f64| {
            said(
                1.0,
                1.0,
                json!({"event": "step", "variant": variant, "loss": loss}),
            )
        };
        let left = |variants: &[u64]| {
            said(
                2.0,
                1.0,
                json!({"event": "variants_left", "variants": variants}),
            )
        };
        let report = |event: Value| said(3.0, 1.0, event);
        let own = Trace::new(vec![
            step(1, 4.0),
            step(2, 3.0),
            left(&[2, 1]),
            step(2, 2.0),
            left(&[2]),
            report(json!({"event": "report"})),
        ]);
        let losses = [(1, vec![4.0]), (2, vec![3.0, 2.0])];
        assert_eq!(own.losses(), losses.into());
        assert_eq!((own.chosen(), own.grid()), (Some(2), None));
        let grid = json!({"event": "grid", "accuracies": [0.5]});
        let peer = Trace::new(vec![
            report(json!({"event": "report", "chosen": 7})),
            said(4.0, 1.0, grid.clone()),
        ]);
        assert_eq!((peer.chosen(), peer.grid()), (Some(7), Some(&grid)));
    }

    #[test]
    fn candidates_count_with_their_examples() {
        let trace = Trace::new(vec![
            said(1.0, 1.0, json!({"event": "stage_began"})),
            said(2.0, 1.0, json!({"event": "trial", "sample": 6})),
            said(6.0, 1.0, json!({"event": "trial", "sample": 4})),
        ]);
        assert_eq!(trace.value(&CANDIDATES, NOTHING), Some(2.0));
    }

    #[test]
    fn a_run_without_updates_has_no_speed() {
        let trace = Trace::new(vec![said(0.5, 1.0, json!({"event": "stage_began"}))]);
        assert_eq!(trace.value(&ROWS, NOTHING), None);
        assert_eq!(trace.value(&MEMORY, NOTHING), None);
    }
}

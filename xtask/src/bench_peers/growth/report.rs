//! The section of the document, and everything behind it.

use serde_json::{Value, json};

use super::Measured;
use super::points::{Axis, Point, exponent};
use crate::bench_peers::machine::{self, MOST_FOREIGN, is_quiet};

pub(super) const TITLE: &str = "How the cost of LoRA grows";

/// How often resident memory is shown.
const SHOWN: usize = 20;

const ABOUT: &str = "LoRA of rank 8 at all linear layers of MiniLM or of its lowest layers, with a \
                     classifier on the mean of the last hidden states, on flex: AdamW, batches of \
                     16, rows of random words of one token each. One thing grows at a time, and \
                     the rest stays as it is in the first row, with two layers, 32 tokens and one \
                     epoch where nothing else is said. Layers grow at 128 tokens. Candidates are \
                     learning rates that a stage of four epochs chooses among by halving. Each \
                     training had a process of its own. Time is that of the stage, without start \
                     and without the scoring of the report; memory is the peak of the whole \
                     process with all weights. One forward takes 2,048 padded tokens at most, on \
                     each of two threads: that bounds what batches need. Exponents are those of \
                     the power law that fits best.";

/// The section and the figures.
pub(super) fn report(
    axes: &[Axis],
    measured: &[Measured],
    watched: &Measured,
    command: &str,
) -> (String, Value) {
    let all = || measured.iter().chain([watched]);
    // A share that is not known makes the machine busy.
    let is_quiet = all().all(|measured| is_quiet(measured.foreign));
    let along: Vec<(&Axis, Vec<&Measured>)> = axes
        .iter()
        .map(|axis| {
            let of = |point: &Point| measured.iter().find(|measured| measured.point == *point);
            (axis, axis.points.iter().filter_map(of).collect())
        })
        .collect();
    let processor = machine::processor();
    let threads = machine::threads();
    let figures = json!({
        "command": command,
        "device": "flex",
        "processor": processor,
        "threads": threads,
        "versions": { "hybrid": watched.version },
        "is_quiet": is_quiet,
        "axes": along.iter().map(|(axis, measured)| json!({
            "name": axis.name,
            "exponents": {
                "seconds": exponent_of(axis, measured, |measured| measured.seconds),
                "peak_rss_mb": exponent_of(axis, measured, |measured| measured.peak_rss_mb),
            },
            "trainings": measured.iter().map(|measured| described(measured)).collect::<Value>(),
        })).collect::<Value>(),
        "watched": {
            "training": described(watched),
            "resident_mb": watched.resident_mb,
        },
    });
    let mut section = format!(
        "`{command}`; every value is in [growth.json](benchmarks/growth.json).\n\n{ABOUT} On \
         {processor}, {threads} threads.\n\n"
    );
    if !is_quiet {
        section.push_str(&format!(
            "**Not valid**: other programs took more than {:.0} % of the processors, or the system \
             does not tell. Measure again with nothing else running.\n\n",
            MOST_FOREIGN * 100.0
        ));
    }
    section.extend(along.iter().map(|(axis, measured)| table(axis, measured)));
    section.push_str(&curve(watched));
    section.push_str(&format!("Version: hybrid {}.\n", watched.version));
    (section, figures)
}

fn described(measured: &Measured) -> Value {
    let point = measured.point;
    json!({
        "rows": point.rows,
        "tokens_a_row": point.seq,
        "layers": point.layers,
        "candidates": point.candidates,
        "epochs": point.epochs,
        "batch_size": point.batch,
        "tokens": measured.tokens,
        "seconds": measured.seconds,
        "peak_rss_mb": measured.peak_rss_mb,
        "foreign_processor_share": measured.foreign,
        "repeated_runs": measured.repeated,
    })
}

fn exponent_of(axis: &Axis, measured: &[&Measured], of: fn(&Measured) -> f64) -> Option<f64> {
    let point = |measured: &&Measured| ((axis.value)(&measured.point) as f64, of(measured));
    let points: Vec<(f64, f64)> = measured.iter().map(point).collect();
    exponent(&points)
}

/// Time and memory along an axis, and their exponents.
fn table(axis: &Axis, measured: &[&Measured]) -> String {
    let row = |measured: &&Measured| {
        let (value, seconds) = ((axis.value)(&measured.point), measured.seconds);
        format!("| {value} | {seconds:.1} | {:.0} |\n", measured.peak_rss_mb)
    };
    let exponent = |of| match exponent_of(axis, measured, of) {
        Some(exponent) => format!("{exponent:.2}"),
        None => "not known".to_owned(),
    };
    let rows: String = measured.iter().map(row).collect();
    format!(
        "| {} | time, s | peak memory, MB |\n| ---: | ---: | ---: |\n{rows}| exponent | {} | {} |\n\n",
        axis.name,
        exponent(|measured| measured.seconds),
        exponent(|measured| measured.peak_rss_mb),
    )
}

/// Resident memory over the updates of a training.
fn curve(watched: &Measured) -> String {
    let resident = &watched.resident_mb;
    let Some(last) = resident.last() else {
        return String::new();
    };
    let point = watched.point;
    let update = |place: usize| (place * resident.len() / SHOWN).max(1);
    let rows: String = (0..=SHOWN)
        .map(update)
        .map(|update| format!("| {update} | {:.1} |\n", resident[update - 1]))
        .collect();
    // What is needed once is there by then.
    let settled = resident.len().div_ceil(10);
    let first = resident[settled - 1];
    format!(
        "Resident memory after updates of LoRA over all {} layers, {} rows of {} tokens each:\n\n\
         | update | resident memory, MB |\n| ---: | ---: |\n{rows}\n\
         From update {settled} to update {} it changes by {:+.1} MB, {:+.2} kB an update.\n\n",
        point.layers,
        point.batch,
        point.seq,
        resident.len(),
        last - first,
        (last - first) * 1e3 / (resident.len() - settled).max(1) as f64,
    )
}

#[cfg(test)]
mod tests {
    use super::super::points::{axes, watched};
    use super::{Measured, report};

    fn measured(point: super::super::Point, seconds: f64, foreign: f64) -> Measured {
        Measured {
            point,
            seconds,
            peak_rss_mb: 100.0,
            tokens: Some(1),
            resident_mb: Vec::new(),
            version: "1.2".to_owned(),
            foreign: Some(foreign),
            repeated: 0,
        }
    }

    #[test]
    fn growth_and_exponents_stand_in_tables() {
        let axes = axes(1000);
        let all: Vec<Measured> = axes
            .iter()
            .flat_map(|axis| &axis.points)
            .map(|point| measured(*point, point.rows as f64 / 1e3, 0.0))
            .collect();
        let resident_mb = (1..=100)
            .map(|step| 50.0 + f64::from(step) / 100.0)
            .collect();
        let watched = Measured {
            resident_mb,
            ..measured(watched(100), 1.0, 0.01)
        };
        let (section, figures) = report(&axes, &all, &watched, "c");
        assert!(section.contains("| 16000 | 16.0 | 100 |\n| exponent | 1.00 | 0.00 |\n"));
        assert!(
            section.contains("| 1 | 50.0 |\n| 5 | 50.0 |\n"),
            "{section}"
        );
        assert!(section.contains("| 100 | 51.0 |\n"), "{section}");
        let grown = "From update 10 to update 100 it changes by +0.9 MB, +10.00 kB an update.";
        assert!(section.contains(grown), "{section}");
        let exponent = figures["axes"][0]["exponents"]["seconds"].as_f64().unwrap();
        assert!((exponent - 1.0).abs() < 1e-9, "{exponent}");
        assert_eq!(figures["is_quiet"], true);
    }

    #[test]
    fn a_busy_machine_is_told_of() {
        let axes = axes(1000);
        let watched = measured(watched(100), 1.0, 0.5);
        let (section, figures) = report(&axes, &[], &watched, "c");
        assert!(section.contains("**Not valid**"), "{section}");
        assert_eq!(figures["is_quiet"], false);
    }
}

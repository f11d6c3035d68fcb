//! A work's section of the document, and everything behind it.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::trace::Losses;
use super::work::{Given, Work};
use super::{Arguments, Measurement, Program, ROUNDS, choice};
use crate::bench_peers::machine::{self, MOST_FOREIGN, is_quiet};
use crate::bench_peers::summary::{Measured, ratio, ratios, ratios_json, table};

/// What is said of works that all programs do alike.
const UPDATES: &str = " All programs do the same updates from the same first values. Peers do not \
                       tokenise: they are given the tokens. Speeds count from the first update to \
                       the last, or with the first update from when the model is loaded.";

/// What is said of works in which hybrid does a part of the updates that its peers do.
const SETTINGS: &str = " Settings start at the same values in all programs and go over the same \
                        batches. Peers do not tokenise: they are given the tokens.";

/// Updates whose losses are shown.
const SHOWN: usize = 5;

/// The section and the figures.
pub(super) fn report(measurement: &Measurement, arguments: &Arguments) -> (String, Value) {
    let Measurement {
        work,
        programs,
        amount,
    } = measurement;
    let command = command(work, arguments);
    let processor = machine::processor();
    let threads = machine::threads();
    let (own, peers) = programs.split_first().expect("hybrid is a program");
    let pairs: Vec<(&Measured, &Measured)> = peers
        .iter()
        .map(|peer| (&own.measured, &peer.measured))
        .collect();
    let measured = programs.iter().map(|program| &program.measured);
    let foreign = programs.iter().filter_map(|program| program.foreign);
    let foreign = foreign.reduce(f64::max);
    let wanted = wanted(work, own, peers, &arguments.device);
    let peak = peers.iter().find_map(|peer| peer.matrix_product_gflops);
    let figures = json!({
        "command": command,
        "device": arguments.device,
        "processor": processor,
        "threads": threads,
        "rounds": arguments.rounds,
        "rows": amount.rows,
        "tokens": amount.tokens,
        "flops": amount.flops,
        "matrix_product_gflops": peak,
        "programs": programs.iter().map(|program| json!({
            "name": program.measured.name,
            "command": program.shown,
            "versions": program.versions,
            "figures": program.measured.json(work.figures),
            "losses": match program.losses.get(&0) {
                Some(losses) => json!(losses),
                None => json!(program.losses),
            },
            "chosen": program.chosen,
            "grid": program.grid,
            "foreign_processor_share": program.foreign,
            "repeated_runs": program.repeated,
        })).collect::<Value>(),
        "ratios": ratios_json(&pairs, work.figures),
        "is_quiet": is_quiet(foreign),
        "asked_for": wanted,
    });
    let versions: BTreeSet<String> = programs
        .iter()
        .flat_map(|program| program.versions.as_object().into_iter().flatten())
        .map(|(name, version)| format!("{name} {}", version.as_str().unwrap_or("not known")))
        .collect();
    let versions: Vec<String> = versions.into_iter().collect();
    let file = file_name(work, &arguments.device);
    let rounds = arguments.rounds;
    let mut section = format!(
        "`{command}`; every value is in [{file}.json](benchmarks/{file}.json).\n\n{} On \
         {processor}, {threads} threads; each program had a process of its own in each of \
         {rounds} rounds, in turn: medians, in brackets least and most.{}\n\n{}\n{}\n",
        work.about,
        match work.given {
            Given::Updates => UPDATES,
            Given::Settings => SETTINGS,
            Given::Data => "",
        },
        table(measured, work.figures),
        ratios(&pairs, work.figures),
    );
    section.push_str(&match is_quiet(foreign) {
        true => verdict(&wanted),
        false => busy(foreign),
    });
    section.push_str(&choice::in_words(programs));
    let losses: Vec<(&str, &Losses)> = programs
        .iter()
        .map(|program| (program.measured.name, &program.losses))
        .collect();
    section.push_str(&losses_in_words(&losses));
    if let Some(peak) = peak {
        section.push_str(&format!(
            "PyTorch's product of two matrices of 2048 by 2048 reaches {peak:.0} GFLOP/s here. "
        ));
    }
    section.push_str(&format!("Versions: {}.\n", versions.join(", ")));
    (section, figures)
}

/// What the section's file is called.
pub(super) fn file_name(work: &Work, device: &str) -> String {
    match device {
        "flex" => format!("training_{}", work.name),
        device => format!("training_{}_{device}", work.name),
    }
}

/// What one types to measure a work again.
fn command(work: &Work, arguments: &Arguments) -> String {
    let mut command = format!("cargo xtask bench-peers training --work {}", work.name);
    if arguments.device != "flex" {
        command.push_str(&format!(" --device {}", arguments.device));
    }
    if arguments.rounds != ROUNDS {
        command.push_str(&format!(" --rounds {}", arguments.rounds));
    }
    if let Some(rows) = arguments.rows {
        command.push_str(&format!(" --rows {rows}"));
    }
    command
}

/// What stands in place of a verdict: other work does not slow all programs alike.
fn busy(foreign: Option<f64>) -> String {
    let found = match foreign {
        Some(share) => format!(
            "other programs took {:.0} % of the processors",
            share * 100.0
        ),
        None => "the system does not tell what other programs took".to_owned(),
    };
    format!(
        "**Not valid as a comparison**: {found} in a run, and at most {:.0} % is allowed. Measure \
         again with nothing else running.\n\n",
        MOST_FOREIGN * 100.0
    )
}

/// The ratios that are asked for beside those that were reached.
fn wanted(work: &Work, own: &Program, peers: &[Program], device: &str) -> Value {
    let reached = |wanted: &super::work::Wanted| {
        let peer = peers.first()?;
        let asked = match device {
            "tch" => wanted.tch,
            _ => wanted.flex,
        };
        let reached = ratio(&own.measured, &peer.measured, &wanted.figure)?;
        Some(json!({
            "figure": wanted.figure.heading,
            "peer": peer.measured.name,
            "at_least": wanted.at_least,
            "asked": asked,
            "reached": reached,
            "met": if wanted.at_least { reached >= asked } else { reached <= asked },
        }))
    };
    work.wanted.iter().filter_map(reached).collect()
}

/// The same in words.
fn verdict(wanted: &Value) -> String {
    let line = |one: &Value| {
        let bound = match one["at_least"] == true {
            true => "at least",
            false => "at most",
        };
        let (asked, reached) = (
            one["asked"].as_f64().unwrap_or_default(),
            one["reached"].as_f64().unwrap_or_default(),
        );
        let outcome = match one["met"] == true {
            true => "met".to_owned(),
            false => format!(
                "missed by a factor of {:.2}",
                (asked / reached).max(reached / asked)
            ),
        };
        let (figure, peer) = (&one["figure"], &one["peer"]);
        format!(
            "- asked for: {} {bound} {asked} of that of {}; reached {reached:.2}: {outcome}\n",
            figure.as_str().unwrap_or_default(),
            peer.as_str().unwrap_or_default(),
        )
    };
    let lines: String = wanted.as_array().into_iter().flatten().map(line).collect();
    match lines.is_empty() {
        true => lines,
        false => format!("{lines}\n"),
    }
}

/// Losses side by side, of the updates that all programs have done.
fn losses_in_words(programs: &[(&str, &Losses)]) -> String {
    let Some((_, own)) = programs.first() else {
        return String::new();
    };
    let shared = own.keys().flat_map(|setting| {
        let counts = programs.iter();
        let counts = counts.map(|(_, losses)| losses.get(setting).map_or(0, Vec::len));
        let n_steps = counts.min().unwrap_or_default();
        (0..n_steps).map(move |step| (*setting, step))
    });
    let shared: Vec<(u64, usize)> = shared.collect();
    let n_steps = shared.len();
    if n_steps == 0 {
        return String::new();
    }
    let shown: BTreeSet<(u64, usize)> = (0..SHOWN)
        .map(|place| shared[place * (n_steps - 1) / (SHOWN - 1)])
        .collect();
    let row = |first: &str, cells: Vec<String>| format!("| {first} | {} |\n", cells.join(" | "));
    let has_settings = !own.contains_key(&0);
    let update = |(setting, step): &(u64, usize)| match has_settings {
        true => format!("{setting}, {}", step + 1),
        false => (step + 1).to_string(),
    };
    let heading = match has_settings {
        true => "loss of setting, update",
        false => "loss of update",
    };
    let mut text = row(heading, shown.iter().map(update).collect());
    text.push_str(&row(
        "---",
        shown.iter().map(|_| "---:".to_owned()).collect(),
    ));
    for (name, losses) in programs {
        let cells = shown
            .iter()
            .map(|(setting, step)| format!("{:.5}", losses[setting][*step]));
        text.push_str(&row(name, cells.collect()));
    }
    let differences = programs[1..].iter().flat_map(|(_, losses)| {
        let pairs = shared.iter();
        pairs.map(|(setting, step)| (losses[setting][*step] - own[setting][*step]).abs())
    });
    let largest = differences.fold(0.0, f64::max);
    format!("{text}\nLargest difference of a loss over all {n_steps} updates: {largest:.1e}. ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Losses, busy, losses_in_words, verdict};

    #[test]
    fn a_busy_machine_gives_no_verdict() {
        assert!(busy(Some(0.4)).contains("took 40 % of the processors"));
    }

    #[test]
    fn what_is_missed_is_said() {
        let asked = json!([
            {"figure": "rows/s", "peer": "PEFT", "at_least": true, "asked": 1.0, "reached": 0.8,
             "met": false},
            {"figure": "memory", "peer": "PEFT", "at_least": false, "asked": 0.5, "reached": 0.4,
             "met": true},
        ]);
        let text = verdict(&asked);
        assert!(
            text.contains("at least 1 of that of PEFT; reached 0.80: missed by a factor of 1.25\n")
        );
        assert!(text.contains("at most 0.5 of that of PEFT; reached 0.40: met\n"));
        assert_eq!(verdict(&json!([])), "");
    }
    #[test]
    fn losses_stand_beside_those_of_the_same_update() {
        let only = |losses: &[f64]| Losses::from([(0, losses.to_vec())]);
        let (own, peer) = (only(&[4.0, 3.0]), only(&[4.0, 3.5]));
        let text = losses_in_words(&[("a", &own), ("b", &peer)]);
        assert!(text.starts_with("| loss of update | 1 | 2 |\n"), "{text}");
        assert!(text.contains("| b | 4.00000 | 3.50000 |\n"), "{text}");
        assert!(text.contains("over all 2 updates: 5.0e-1."), "{text}");
        assert_eq!(losses_in_words(&[("a", &own), ("b", &Losses::new())]), "");

        let own = Losses::from([(1, vec![4.0]), (2, vec![3.0, 2.0])]);
        let peer = Losses::from([(1, vec![4.0, 9.0]), (2, vec![3.0, 2.0])]);
        let text = losses_in_words(&[("a", &own), ("b", &peer)]);
        assert!(text.contains("update | 1, 1 | 2, 1 | 2, 2 |\n"), "{text}");
        assert!(text.contains("over all 3 updates: 0.0e0."), "{text}");
    }
}

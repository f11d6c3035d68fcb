//! What is said of a choice among settings: which, and what the others would have come to.

use super::Program;

/// What each program chose, beside what became of all settings; nothing of works without a choice.
pub(super) fn in_words(programs: &[Program]) -> String {
    let chosen: Vec<String> = programs
        .iter()
        .filter(|program| !program.chosen.is_empty())
        .map(|program| format!("{} {}", program.measured.name, numbers(&program.chosen)))
        .collect();
    if chosen.is_empty() {
        return String::new();
    }
    let grids = programs.iter().map(|program| {
        let accuracies = program.grid["accuracies"].as_array().into_iter().flatten();
        let accuracies: Vec<f64> = accuracies.filter_map(serde_json::Value::as_f64).collect();
        let rows = program.grid["rows"].as_f64().unwrap_or_default();
        grid(program.measured.name, &accuracies, rows)
    });
    let grids: String = grids.collect();
    format!(
        "{grids}The setting that was chosen: {}.\n\n",
        chosen.join("; ")
    )
}

/// The number that all rounds chose, or those of all rounds.
fn numbers(chosen: &[u64]) -> String {
    let first = chosen.first().copied().unwrap_or_default();
    match chosen.iter().all(|number| *number == first) {
        true => first.to_string(),
        false => {
            let all: Vec<String> = chosen.iter().map(u64::to_string).collect();
            format!("{} by round", all.join(", "))
        }
    }
}

/// The test accuracy of each setting, and how much of their spread is chance.
fn grid(name: &str, accuracies: &[f64], rows: f64) -> String {
    if accuracies.is_empty() {
        return String::new();
    }
    let row = |first: &str, cells: Vec<String>| format!("| {first} | {} |\n", cells.join(" | "));
    let settings = 1..=accuracies.len();
    let percent = |share: &f64| format!("{:.1}", share * 100.0);
    let least = accuracies.iter().copied().fold(f64::INFINITY, f64::min);
    let most = accuracies.iter().copied().fold(0.0, f64::max);
    let error = (most * (1.0 - most) / rows).sqrt();
    format!(
        "{}{}{}\nBetween the best and the worst setting lie {:.1} points; the standard error of the \
         best one's accuracy on {rows} rows is {:.1} points. ",
        row("setting", settings.clone().map(|n| n.to_string()).collect()),
        row("---", settings.map(|_| "---:".to_owned()).collect()),
        row(
            &format!("test accuracy by {name}, %"),
            accuracies.iter().map(percent).collect()
        ),
        (most - least) * 100.0,
        error * 100.0,
    )
}

#[cfg(test)]
mod tests {
    use super::{grid, numbers};

    #[test]
    fn rounds_that_agree_are_one_number() {
        assert_eq!(numbers(&[4, 4]), "4");
        assert_eq!(numbers(&[4, 3]), "4, 3 by round");
    }

    #[test]
    fn settings_have_their_accuracy_and_its_error() {
        let text = grid("P", &[0.5, 0.75, 0.25], 300.0);
        assert!(text.starts_with("| setting | 1 | 2 | 3 |\n"), "{text}");
        assert!(
            text.contains("| test accuracy by P, % | 50.0 | 75.0 | 25.0 |\n"),
            "{text}"
        );
        assert!(text.contains("lie 50.0 points"), "{text}");
        assert!(text.contains("on 300 rows is 2.5 points"), "{text}");
        assert_eq!(grid("P", &[], 0.0), "");
    }
}

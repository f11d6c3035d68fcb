//! Numbers and names as people read them.

use serde_json::Value;

/// No line break between a number and its unit.
const SPACE: char = '\u{a0}';

/// A share of 1 in per cent with one decimal.
pub(super) fn percent(share: f64) -> String {
    format!("{:.1}{SPACE}%", 100.0 * share)
}

/// A small share of 1 in per cent with two decimals.
pub(super) fn fine_percent(share: f64) -> String {
    format!("{:.2}{SPACE}%", 100.0 * share)
}

/// How the value of a figure is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    /// A share of 1 that reads best in per cent.
    Share,
    /// Per cent already.
    Percent,
    /// Per cent by its definition, told without the sign by custom.
    Points,
    /// A plain number.
    Plain,
}

impl Unit {
    pub(super) fn of(metric: &str) -> Self {
        match metric {
            "mcc" | "cohen_kappa" | "log_loss" | "brier" => Self::Plain,
            "f1" | "exact_match" => Self::Percent,
            "bleu" | "chrf" | "ter" => Self::Points,
            _ => Self::Share,
        }
    }

    /// What one hundredth of the usual range is.
    pub(super) fn hundredth(self) -> f64 {
        match self {
            Self::Share | Self::Plain => 0.01,
            Self::Percent | Self::Points => 1.0,
        }
    }
}

/// A figure in the way that suits it.
pub(super) fn figure(value: f64, metric: &str) -> String {
    match Unit::of(metric) {
        Unit::Share => percent(value),
        Unit::Percent => percent(value / 100.0),
        Unit::Points => format!("{value:.1}"),
        Unit::Plain => format!("{value:.3}"),
    }
}

/// A difference of two figures, with its sign; of shares in percentage points.
pub(super) fn difference(value: f64, metric: &str) -> String {
    let sign = if value < 0.0 { '−' } else { '+' };
    let size = value.abs();
    match Unit::of(metric) {
        Unit::Share => format!("{sign}{:.1}{SPACE}pp", 100.0 * size),
        Unit::Percent => format!("{sign}{size:.1}{SPACE}pp"),
        Unit::Points => format!("{sign}{size:.1}"),
        Unit::Plain => format!("{sign}{size:.3}"),
    }
}

/// The two bounds of an interval of figures.
pub(super) fn interval([low, high]: [f64; 2], metric: &str) -> String {
    match Unit::of(metric) {
        Unit::Share => format!("{:.1} – {:.1}{SPACE}%", 100.0 * low, 100.0 * high),
        Unit::Percent => format!("{low:.1} – {high:.1}{SPACE}%"),
        Unit::Points => format!("{low:.1} – {high:.1}"),
        Unit::Plain => format!("{low:.3} – {high:.3}"),
    }
}

/// A figure's name in words.
pub(super) fn metric_name(metric: &str) -> String {
    match metric {
        "bleu" => "BLEU".to_owned(),
        "brier" => "Brier score".to_owned(),
        "chrf" => "chrF".to_owned(),
        "cohen_kappa" => "Cohen's kappa".to_owned(),
        "ece" => "expected calibration error".to_owned(),
        "mcc" => "Matthews correlation".to_owned(),
        "mce" => "maximum calibration error".to_owned(),
        "rouge1" => "ROUGE-1".to_owned(),
        "rouge2" => "ROUGE-2".to_owned(),
        "rougeL" => "ROUGE-L".to_owned(),
        "ter" => "translation edit rate".to_owned(),
        other => other
            .replace('_', " ")
            .replace("f1", "F1")
            .replace("log loss", "log-loss")
            .replace("top 5", "top-5"),
    }
}

/// Seconds as `0.42 s`, `42.1 s`, `2 min 5 s` or `1 h 3 min`.
pub(super) fn duration(seconds: f64) -> String {
    if seconds < 1.0 {
        return format!("{seconds:.2}{SPACE}s");
    }
    if seconds < 59.95 {
        return format!("{seconds:.1}{SPACE}s");
    }
    let whole = seconds.round() as u64;
    let (hours, minutes, rest) = (whole / 3600, whole / 60 % 60, whole % 60);
    if hours > 0 {
        format!("{hours}{SPACE}h{SPACE}{minutes}{SPACE}min")
    } else {
        format!("{minutes}{SPACE}min{SPACE}{rest}{SPACE}s")
    }
}

/// A whole number with its thousands apart.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A large number with a metric prefix: `1.2 T`, for operations `1.2 TFLOP`.
pub(super) fn with_prefix(number: f64, unit: &str) -> String {
    const PREFIXES: [&str; 7] = ["", "k", "M", "G", "T", "P", "E"];
    let mut scaled = number;
    let mut prefix = 0;
    while scaled >= 999.5 && prefix + 1 < PREFIXES.len() {
        scaled /= 1000.0;
        prefix += 1;
    }
    let decimals = if prefix == 0 || scaled >= 99.95 { 0 } else { 1 };
    let unit = format!("{}{unit}", PREFIXES[prefix]);
    let space = if unit.is_empty() {
        String::new()
    } else {
        SPACE.to_string()
    };
    format!("{scaled:.decimals$}{space}{unit}")
}

/// A probability that is not zero merely because no draw showed it.
pub(super) fn p_value(p: f64, resamples: usize) -> String {
    if p == 0.0 {
        format!("<{SPACE}{}", significant(1.0 / resamples.max(1) as f64))
    } else {
        format!("{p:.3}")
    }
}

/// A number with up to three significant digits.
pub(super) fn significant(number: f64) -> String {
    if number == 0.0 || !number.is_finite() {
        return number.to_string();
    }
    let magnitude = number.abs().log10().floor() as i32;
    if !(-4..6).contains(&magnitude) {
        return format!("{number:.1e}");
    }
    let decimals = usize::try_from(2 - magnitude).unwrap_or(0);
    let text = format!("{number:.decimals$}");
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

/// At most `limit` characters, the last of them an ellipsis when some are left out.
pub(super) fn shorten(text: &str, limit: usize) -> String {
    if text.chars().count() <= limit {
        return text.to_owned();
    }
    let kept: String = text.chars().take(limit.saturating_sub(1)).collect();
    format!("{}…", kept.trim_end())
}

/// A method's configuration in one line: `lora · r 8 · lora_alpha 16`.
pub(super) fn describe_config(config: &Value) -> String {
    let Some(fields) = config.as_object() else {
        return plain(config);
    };
    let name = fields.get("method").map(plain);
    let rest = fields
        .iter()
        .filter(|(key, value)| *key != "method" && !is_unset(value))
        .map(|(key, value)| format!("{key} {}", plain(value)));
    name.into_iter().chain(rest).collect::<Vec<_>>().join(" · ")
}

fn is_unset(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(", "),
        Value::Object(_) => describe_config(value),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::{
        count, describe_config, difference, duration, figure, interval, metric_name, p_value,
        shorten, significant, with_prefix,
    };
    use crate::{TextFigures, TextTask};

    #[test]
    fn numbers_read_well() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(duration(0.4), "0.40\u{a0}s");
        assert_eq!(duration(59.96), "1\u{a0}min\u{a0}0\u{a0}s");
        assert_eq!(duration(3725.0), "1\u{a0}h\u{a0}2\u{a0}min");
        assert_eq!(with_prefix(2.44e12, "FLOP"), "2.4\u{a0}TFLOP");
        assert_eq!(with_prefix(999.9, "B"), "1.0\u{a0}kB");
        assert_eq!(with_prefix(12.0, ""), "12");
        assert_eq!(significant(0.00234), "0.00234");
        assert_eq!(significant(5e-5), "5.0e-5");
        assert_eq!(significant(1500.0), "1500");
    }

    #[test]
    fn figures_know_their_unit() {
        assert_eq!(figure(0.8942, "accuracy"), "89.4\u{a0}%");
        assert_eq!(figure(0.8942, "mcc"), "0.894");
        assert_eq!(difference(-0.0312, "accuracy"), "−3.1\u{a0}pp");
        assert_eq!(interval([0.88, 0.905], "macro_f1"), "88.0 – 90.5\u{a0}%");
        assert_eq!(figure(75.56, "f1"), "75.6\u{a0}%");
        assert_eq!(figure(124.04, "ter"), "124.0");
        assert_eq!(figure(0.4321, "rougeL"), "43.2\u{a0}%");
        assert_eq!(difference(-1.26, "exact_match"), "−1.3\u{a0}pp");
        assert_eq!(difference(-1.26, "bleu"), "−1.3");
        assert_eq!(difference(0.012, "rouge2"), "+1.2\u{a0}pp");
        assert_eq!(interval([31.0, 35.26], "chrf"), "31.0 – 35.3");
        assert_eq!(interval([31.0, 35.26], "f1"), "31.0 – 35.3\u{a0}%");
        assert_eq!(p_value(0.0, 1000), "<\u{a0}0.001");
        assert_eq!(metric_name("top_5_accuracy"), "top-5 accuracy");
    }

    #[test]
    fn every_figure_of_texts_is_shown_on_its_scale() {
        let references = [["the cat sat on the mat"]];
        for (task, whole) in [
            (TextTask::QuestionAnswering, "100.0\u{a0}%"),
            (TextTask::Translation, "100.0"),
            (TextTask::Summarization, "100.0\u{a0}%"),
        ] {
            let figures = TextFigures::of(task, &references[0], &references).unwrap();
            for (name, value) in figures.by_name() {
                let shown = if name == "ter" { "0.0" } else { whole };
                assert_eq!(figure(value, &name), shown, "{name}");
                assert_ne!(metric_name(&name), name, "{name} has a name in words");
            }
        }
    }

    #[test]
    fn long_text_ends_in_an_ellipsis() {
        assert_eq!(shorten("straße und weg", 7), "straße…");
        assert_eq!(shorten("short", 5), "short");
    }

    #[test]
    fn a_configuration_fits_a_line() {
        let config = serde_json::json!({
            "method": "lora", "r": 8, "target_modules": ["query", "value"], "use_rslora": false, "alpha_pattern": {}
        });
        assert_eq!(
            describe_config(&config),
            "lora · r 8 · target_modules query, value"
        );
    }
}

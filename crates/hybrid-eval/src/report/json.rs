//! `report.json`: indented, with rows of plain values on one line so that people can read it too.

use serde::Deserialize;
use serde_json::Value;

use super::Report;
use crate::EvalError;

/// Keys of a cost that differ from run to run.
const TIMES: [&str; 4] = ["wall_s", "train_s", "prompt_s", "peak_rss_mb"];

/// The text of a report. JSON has no word for a figure that is not finite: such a report is refused.
pub(super) fn to_text(report: &Report) -> Result<String, EvalError> {
    let fault = |source| EvalError::NotJson { source };
    let value = serde_json::to_value(report).map_err(fault)?;
    Report::deserialize(&value).map_err(fault)?;
    let mut text = String::new();
    write(&value, 0, &mut text);
    text.push('\n');
    Ok(text)
}

/// The report with the times of every cost set to null.
pub(super) fn without_times(report: &Report) -> Value {
    let mut value = serde_json::to_value(report).expect("reports are plain data");
    clear_times(&mut value, false);
    value
}

fn clear_times(value: &mut Value, is_cost: bool) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| clear_times(item, false)),
        Value::Object(fields) => {
            for (key, field) in fields.iter_mut() {
                if is_cost && TIMES.contains(&key.as_str()) {
                    *field = Value::Null;
                } else {
                    clear_times(field, key == "cost");
                }
            }
        }
        _ => {}
    }
}

fn write(value: &Value, depth: usize, text: &mut String) {
    match value {
        Value::Array(items) if !items.iter().all(is_plain) => {
            let items = items.iter().map(|item| (None, item));
            write_block(['[', ']'], items, depth, text);
        }
        Value::Object(fields) if !fields.is_empty() && !is_point(value) => {
            let fields = fields.iter().map(|(key, field)| (Some(key), field));
            write_block(['{', '}'], fields, depth, text);
        }
        _ => text.push_str(&value.to_string()),
    }
}

fn write_block<'v>(
    [open, close]: [char; 2],
    items: impl Iterator<Item = (Option<&'v String>, &'v Value)>,
    depth: usize,
    text: &mut String,
) {
    text.push(open);
    for (index, (key, item)) in items.enumerate() {
        if index > 0 {
            text.push(',');
        }
        new_line(depth + 1, text);
        if let Some(key) = key {
            text.push_str(&Value::from(key.as_str()).to_string());
            text.push_str(": ");
        }
        write(item, depth + 1, text);
    }
    new_line(depth, text);
    text.push(close);
}

fn new_line(depth: usize, text: &mut String) {
    text.push('\n');
    text.extend(std::iter::repeat_n("  ", depth));
}

fn is_plain(value: &Value) -> bool {
    !value.is_array() && !value.is_object()
}

/// A small record of numbers alone, such as a point of a curve.
fn is_point(value: &Value) -> bool {
    value
        .as_object()
        .is_some_and(|fields| fields.len() <= 5 && fields.values().all(Value::is_number))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use tempfile::TempDir;

    use super::{to_text, without_times};
    use crate::report::Report;
    use crate::report::sample::sample;
    use crate::report::text_sample::text_sample;
    use crate::{EvalError, TextTask};

    #[test]
    fn a_report_comes_back_equal() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("report.json");
        std::fs::write(&path, sample().to_json().unwrap()).unwrap();
        let read = Report::read_json(&path).unwrap();
        assert_eq!(
            rounded(serde_json::to_value(read).unwrap()),
            rounded(serde_json::to_value(sample()).unwrap())
        );
    }

    /// Reading may move the last bit of a number.
    fn rounded(value: Value) -> Value {
        match value {
            Value::Number(number) if number.is_f64() => {
                Value::from(format!("{:.12e}", number.as_f64().unwrap()))
            }
            Value::Array(items) => items.into_iter().map(rounded).collect(),
            Value::Object(fields) => fields
                .into_iter()
                .map(|(key, field)| (key, rounded(field)))
                .collect(),
            other => other,
        }
    }

    #[test]
    fn the_documented_keys_are_there_in_order() {
        let text = to_text(&sample()).unwrap();
        let value: Value = serde_json::from_str(&text).unwrap();
        let keys: Vec<&String> = value.as_object().unwrap().keys().collect();
        assert_eq!(keys[..4], ["task", "device", "base", "seed"]);
        for key in [
            "rounds",
            "candidates",
            "final",
            "cost",
            "generalisation",
            "comparisons",
        ] {
            assert!(value.get(key).is_some(), "{key}");
        }
        for key in [
            "id", "stage", "parent", "prompt", "adapter", "select", "cost",
        ] {
            assert!(
                value["candidates"][1].get(key).is_some(),
                "candidates[].{key}"
            );
        }
        for key in ["candidate", "metric", "value", "interval", "per_metric"] {
            assert!(value["final"].get(key).is_some(), "final.{key}");
        }
        assert!(
            text.lines()
                .any(|line| line.trim().starts_with("\"interval\": [0.")),
            "pairs stay on one line"
        );
    }

    /// Tasks of either kind have their own keys only.
    #[test]
    fn texts_and_labels_exclude_each_other() {
        let value = serde_json::to_value(sample()).unwrap();
        assert!(value.get("confusion").is_some() && value.get("calibration").is_some());
        assert!(value.get("texts").is_none());
        let report = text_sample(TextTask::Summarization);
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("report.json");
        std::fs::write(&path, report.to_json().unwrap()).unwrap();
        let read = Report::read_json(&path).unwrap();
        assert_eq!(read.texts, report.texts);
        let value = serde_json::to_value(read).unwrap();
        assert_eq!(value["texts"]["task"], "summarization");
        assert_eq!(value["texts"]["examples"].as_array().unwrap().len(), 20);
        assert!(value.get("confusion").is_none() && value.get("calibration").is_none());
    }

    #[test]
    fn times_alone_are_cleared() {
        let (one, mut two) = (sample(), sample());
        two.cost.wall_s += 1.0;
        two.cost.peak_rss_mb = None;
        two.candidates[1].cost.train_s = 99.0;
        assert_ne!(one, two);
        assert_eq!(one.without_times(), two.without_times());
        two.candidates[1].cost.tokens += 1;
        assert_ne!(one.without_times(), two.without_times());
        assert!(without_times(&one)["cost"]["wall_s"].is_null());
    }

    #[test]
    fn a_figure_that_is_not_finite_is_refused() {
        let mut report = sample();
        report.final_result.value = f64::NAN;
        assert!(matches!(report.to_json(), Err(EvalError::NotJson { .. })));
    }
}

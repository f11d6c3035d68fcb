//! What runs left behind, and whether two runs are equal, times aside.

use std::collections::BTreeMap;
use std::path::Path;

use hybrid_eval::Report;
use serde_json::Value;

use crate::fixtures::json;
use crate::tiny_task::TinyTask;

/// The `report.json` of a run.
pub(crate) fn report(task: &TinyTask, run: &str) -> Value {
    json(&task.file(run).join("report.json"))
}

/// A candidate of a report.
pub(crate) fn candidate<'r>(report: &'r Value, id: &str) -> &'r Value {
    let candidates = report["candidates"].as_array().unwrap();
    candidates
        .iter()
        .find(|candidate| candidate["id"] == id)
        .unwrap_or_else(|| panic!("no candidate {id}"))
}

/// The events of a run's journal.
pub(crate) fn events(task: &TinyTask, run: &str) -> Vec<Value> {
    let journal = std::fs::read_to_string(task.file(run).join("journal.jsonl")).unwrap();
    let events = journal.lines().map(serde_json::from_str);
    events.collect::<Result<_, _>>().unwrap()
}

/// How many events of a kind a journal has.
pub(crate) fn count(events: &[Value], kind: &str) -> usize {
    events.iter().filter(|event| event["event"] == kind).count()
}

/// The places in which two reports differ.
fn differing(place: &str, a: &Value, b: &Value, found: &mut Vec<String>) {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) if a.keys().eq(b.keys()) => {
            a.iter().for_each(|(key, value)| {
                differing(&format!("{place}.{key}"), value, &b[key], found)
            });
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            let pairs = a.iter().zip(b).enumerate();
            pairs.for_each(|(index, (a, b))| differing(&format!("{place}.{index}"), a, b, found));
        }
        _ if a == b => {}
        _ => found.push(format!("{place}: {a} and {b}")),
    }
}

/// Fails unless two runs left equal reports and equal bytes in their artifacts.
pub(crate) fn assert_equal_runs(task: &TinyTask, a: &str, b: &str) {
    let report = |run: &str| {
        let report = Report::read_json(&task.file(run).join("report.json")).unwrap();
        report.without_times()
    };
    let mut differences = Vec::new();
    differing("report", &report(a), &report(b), &mut differences);
    assert!(differences.is_empty(), "{differences:#?}");
    let [of_a, of_b] = [a, b].map(|run| {
        let mut files = BTreeMap::new();
        read_all(&task.file(run).join("artifact"), &mut files);
        files
    });
    assert!(
        of_a.keys().eq(of_b.keys()),
        "{:?} and {:?}",
        of_a.keys(),
        of_b.keys()
    );
    assert!(of_a.len() >= 3, "{:?}", of_a.keys());
    for (file, bytes) in &of_a {
        assert!(*bytes == of_b[file], "{file} differs between {a} and {b}");
    }
}

/// All files below a folder but the model card, which tells times.
fn read_all(folder: &Path, files: &mut BTreeMap<String, Vec<u8>>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if entry.path().is_dir() {
            let mut below = BTreeMap::new();
            read_all(&entry.path(), &mut below);
            let named = |(file, bytes)| (format!("{name}/{file}"), bytes);
            files.extend(below.into_iter().map(named));
        } else if name != "README.md" {
            files.insert(name, std::fs::read(entry.path()).unwrap());
        }
    }
}

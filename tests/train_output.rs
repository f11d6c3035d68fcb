//! What commands print: quiet and JSON runs, tables, help, schema, completions, recipes.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::run_comparison::report;
use crate::tiny_task::{TinyTask, hybrid, messages, printed};

#[test]
fn a_quiet_run_says_nothing() {
    let task = TinyTask::new();
    for _ in 0..2 {
        let output = task.train("a").arg("--quiet").assert().success();
        assert_eq!((printed(&output), messages(&output)), Default::default());
    }
}

#[test]
fn json_lines_end_with_the_final_figures_of_a_new_and_of_a_finished_run() {
    let task = TinyTask::new();
    let lines = || -> Vec<Value> {
        let output = task.train("a").arg("--json").assert().success();
        assert_eq!(messages(&output), "");
        let lines = printed(&output);
        lines
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    };
    let new = lines();
    assert_eq!(new[0]["event"], "started");
    assert!(new.iter().any(|event| event["event"] == "step"), "{new:#?}");
    let finished = lines();
    assert_eq!(finished.len(), 1);
    assert_eq!(new.last(), finished.last());
    let last = &finished[0];
    assert_eq!(last["event"], "report");
    assert_eq!(last["final"], report(&task, "a")["final"]);
    for key in ["report_json", "report_html", "card", "artifact"] {
        assert!(Path::new(last[key].as_str().unwrap()).exists(), "{key}");
    }
}

#[test]
fn commands_say_what_they_score() {
    let task = TinyTask::new();
    let said = messages(&task.train("a").assert().success());
    let data = &report(&task, "a")["data"];
    for split in ["select", "report"] {
        let line = format!("scoring {} {split} rows", data[split]);
        assert!(said.contains(&line), "{line:?} is not in: {said}");
    }
    let mut eval = hybrid();
    eval.arg("eval").arg(task.file("a/artifact"));
    let said = messages(&eval.assert().success());
    let line = format!("scoring {} rows", data["report"]);
    assert!(said.contains(&line), "{said}");
    let mut predict = hybrid();
    predict.arg("predict").arg(task.file("a/artifact"));
    predict.arg(task.file("report.jsonl"));
    let said = messages(&predict.assert().success());
    assert!(
        said.contains("labelling the lines of") && said.contains("report.jsonl"),
        "{said}"
    );
}

#[test]
fn eval_prints_figures_with_their_intervals() {
    let task = TinyTask::new();
    task.train("a").assert().success();
    let eval = |options: &[&str]| {
        let mut command = hybrid();
        command
            .arg("eval")
            .arg(task.file("a/artifact"))
            .args(options);
        printed(&command.assert().success())
    };
    let figures: Value = serde_json::from_str(&eval(&["--json"])).unwrap();
    let last = &report(&task, "a")["final"];
    assert_eq!(figures["intervals"], last["intervals"]);
    let rounded = |value: &Value| format!("{:.4}", value.as_f64().unwrap());
    let [low, high] = [0, 1].map(|end| rounded(&last["interval"][end]));
    let line = format!("accuracy  {} [{low}, {high}]", rounded(&last["value"]));
    let table = eval(&[]);
    assert!(
        table.lines().any(|found| found == line),
        "{line:?} is not in: {table}"
    );
}

#[test]
fn eval_shows_each_class_and_the_confusion_matrix() {
    let task = TinyTask::new();
    task.train("a").assert().success();
    let eval = |option: &str| {
        let mut command = hybrid();
        command.arg("eval").arg(task.file("a/artifact")).arg(option);
        printed(&command.assert().success())
    };
    let figures: Value = serde_json::from_str(&eval("--json")).unwrap();
    let confusion = &figures["confusion"];
    assert_eq!(*confusion, report(&task, "a")["confusion"]);
    let table = eval("--per-class");
    for (label, class) in confusion["labels"]
        .as_array()
        .unwrap()
        .iter()
        .zip(confusion["per_class"].as_array().unwrap())
    {
        let label = label.as_str().unwrap();
        let line = table.lines().find(|line| line.starts_with(label)).unwrap();
        let cells: Vec<&str> = line.split_whitespace().collect();
        let rounded = |key: &str| format!("{:.4}", class[key].as_f64().unwrap());
        assert_eq!(
            cells[1..],
            [
                rounded("precision"),
                rounded("recall"),
                rounded("f1"),
                class["support"].to_string(),
                class["predicted"].to_string()
            ]
        );
    }
}

#[test]
fn help_and_completions_name_every_command() {
    let help = |arguments: &[&str]| printed(&hybrid().args(arguments).assert().success());
    let all = help(&["--help"]);
    let commands = ["train", "eval", "predict", "merge", "schema", "completions"];
    for command in commands {
        assert!(all.contains(command), "{command}");
        let own = help(&[command, "--help"]);
        assert!(own.contains("Example"), "{command}: {own}");
        assert!(
            own.contains(&format!("hybrid {command}")),
            "{command}: {own}"
        );
    }
    assert!(all.contains("Examples:\n  hybrid train"), "{all}");
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = help(&["completions", shell]);
        for command in commands {
            assert!(script.contains(command), "{shell}: {command}");
        }
        assert!(script.contains("per-class"), "{shell}");
    }
}

fn recipes() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes");
    let mut recipes: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "toml")
        })
        .collect();
    recipes.sort();
    recipes
}

#[test]
fn every_recipe_is_read_and_fits_the_printed_schema() {
    let schema = printed(&hybrid().arg("schema").assert().success());
    let schema: Value = serde_json::from_str(&schema).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let recipes = recipes();
    assert!(recipes.len() >= 4, "{recipes:?}");
    for path in recipes {
        let recipe = hybrid::recipe::load(&path, &[])
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(
            Some(recipe.name.as_str()),
            path.file_stem().unwrap().to_str()
        );
        assert!(recipe.data.folder.is_absolute());
        let text = std::fs::read_to_string(&path).unwrap();
        let value: Value = toml::from_str(&text).unwrap();
        let faults: Vec<String> = validator
            .iter_errors(&value)
            .map(|error| error.to_string())
            .collect();
        assert!(faults.is_empty(), "{}: {faults:?}", path.display());
    }
}

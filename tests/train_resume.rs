//! Run folders: interruption, changed inputs, lost files, `--fresh`.

use crate::run_comparison::{assert_equal_runs, candidate, count, events, report};
use crate::tiny_task::{TinyTask, messages};

/// Makes a finished run look as if it had been killed before its report was written.
fn unfinish(task: &TinyTask, run: &str) {
    std::fs::remove_file(task.file(run).join("report.json")).unwrap();
}

#[test]
#[cfg(unix)]
fn an_interrupted_run_says_how_to_go_on_and_ends_in_the_same_bytes() {
    let task = TinyTask::new();
    let settings = [
        "--set",
        "stages.1.epochs=60",
        "--set",
        "stages.1.log_every=1",
    ];
    task.train("whole").args(settings).assert().success();
    let child = std::process::Command::new(assert_cmd::cargo::cargo_bin!("hybrid"))
        .arg("train")
        .arg(task.recipe())
        .arg("--out")
        .arg(task.file("stopped"))
        .args(settings)
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let journal = task.file("stopped/journal.jsonl");
    while !std::fs::read_to_string(&journal).is_ok_and(|text| text.contains("\"step\"")) {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let sent = std::process::Command::new("kill")
        .args(["-s", "INT", &child.id().to_string()])
        .status();
    assert!(sent.unwrap().success());
    let output = child.wait_with_output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("the same command goes on"), "{message}");
    assert!(!task.file("stopped/report.json").exists());
    let steps = count(&events(&task, "stopped"), "step");
    assert!(steps > 0 && steps < 60 * 6, "{steps}");
    assert!(task.file("stopped/checkpoints/0.safetensors").is_file());

    task.train("stopped").args(settings).assert().success();
    assert_equal_runs(&task, "whole", "stopped");
}

#[test]
fn a_changed_recipe_is_not_resumed() {
    let task = TinyTask::new();
    task.train("a").assert().success();
    for unfinished in [false, true] {
        if unfinished {
            unfinish(&task, "a");
        }
        let before = std::fs::read(task.file("a/journal.jsonl")).unwrap();
        let mut command = task.train("a");
        command.args(["--set", "stages.1.epochs=5"]);
        let message = messages(&command.assert().code(2));
        assert!(message.contains("stages.1.epochs: 4 -> 5"), "{message}");
        let after = std::fs::read(task.file("a/journal.jsonl")).unwrap();
        assert_eq!(before, after, "a refused run is left as it was");
    }
}

#[test]
fn a_finished_run_is_not_shown_as_one_of_another_device() {
    let task = TinyTask::new();
    task.train("a").assert().success();
    let device = report(&task, "a")["device"].clone();
    let report = std::fs::read(task.file("a/report.json")).unwrap();
    let other = if device == "wgpu" { "flex" } else { "wgpu" };
    let command = task.train("a").args(["--device", other]).assert();
    let message = messages(&command.code(2));
    let change = format!("device: {device} -> \"{other}\"");
    assert!(message.contains(&change), "{message}");
    assert_eq!(std::fs::read(task.file("a/report.json")).unwrap(), report);
}

#[test]
fn changed_data_base_or_device_are_not_resumed() {
    let task = TinyTask::new();
    task.train("a").assert().success();
    unfinish(&task, "a");
    let refused = |part: &str| {
        let message = messages(&task.train("a").assert().code(2));
        assert!(
            message.contains(part) && message.contains(" -> "),
            "{message}"
        );
    };
    for (name, part) in [
        ("select.jsonl", "files.data.select"),
        ("model/model.safetensors", "files.base/model.safetensors"),
        ("model/config.json", "files.base/config.json"),
    ] {
        let old = std::fs::read(task.file(name)).unwrap();
        let mut new = old.clone();
        match name.ends_with("safetensors") {
            // The last bytes are the last tensor's.
            true => *new.last_mut().unwrap() ^= 1,
            false => new.push(b'\n'),
        }
        std::fs::write(task.file(name), new).unwrap();
        refused(part);
        std::fs::write(task.file(name), old).unwrap();
    }
    let journal = task.file("a/journal.jsonl");
    let old = std::fs::read_to_string(&journal).unwrap();
    let new = old.replacen("\"device\":\"flex\"", "\"device\":\"abacus\"", 1);
    assert_ne!(old, new);
    std::fs::write(&journal, new).unwrap();
    refused("device: \"abacus\"");
    std::fs::write(&journal, old).unwrap();
    task.train("a").assert().success();
}

/// The other process has looked at the folder before the run was made, and has another recipe.
#[test]
#[cfg(unix)]
fn a_run_that_was_made_meanwhile_is_left_alone() {
    use std::io::Write;
    let task = TinyTask::new();
    let pipe = task.file("pipe.jsonl");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    let late = std::process::Command::new(assert_cmd::cargo::cargo_bin!("hybrid"))
        .arg("train")
        .arg(task.recipe())
        .arg("--out")
        .arg(task.file("a"))
        .args(["--set", "data.select=pipe.jsonl"])
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // Opening a pipe waits for its reader, which reads its data after that look.
    let mut open_pipe = std::fs::OpenOptions::new().write(true).open(&pipe).unwrap();
    task.train("a").assert().success();
    let report = std::fs::read(task.file("a/report.json")).unwrap();
    let rows = std::fs::read(task.file("select.jsonl")).unwrap();
    open_pipe.write_all(&rows).unwrap();
    drop(open_pipe);
    // The data is read once more for its hash.
    std::thread::spawn(move || {
        // A reader that has not yet seen the end may take these rows too, or go while they are
        // written: then they are wanted again.
        while pipe.exists() {
            let _ = std::fs::write(&pipe, &rows);
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    });
    let output = late.wait_with_output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.contains("data.select: "), "{message}");
    assert_eq!(std::fs::read(task.file("a/report.json")).unwrap(), report);
}

#[test]
fn a_stage_whose_candidate_is_gone_is_run_again() {
    let task = TinyTask::new();
    task.train("whole").assert().success();
    task.train("lost").assert().success();
    for lost in [
        "candidates/1-lora/trainable.safetensors",
        "candidates/1-prompt",
    ] {
        unfinish(&task, "lost");
        let path = task.file("lost").join(lost);
        match path.is_dir() {
            true => std::fs::remove_dir_all(&path).unwrap(),
            false => std::fs::remove_file(&path).unwrap(),
        }
        let message = messages(&task.train("lost").assert().success());
        assert!(message.contains("are gone"), "{message}");
        assert!(path.exists(), "{lost}");
        assert_equal_runs(&task, "whole", "lost");
    }
}

/// Makes a finished run look as if it had been killed in its first prompt stage, after two trials and
/// so many seconds.
fn break_off_in_the_search(task: &TinyTask, run: &str, seconds: f64) {
    unfinish(task, run);
    let folder = task.file(run).join("candidates");
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if !path.ends_with("baseline") {
            std::fs::remove_dir_all(path).unwrap();
        }
    }
    let (mut kept, mut trials) = (Vec::new(), 0);
    for mut event in events(task, run) {
        if event["event"] == "trial" {
            trials += 1;
            if trials == 2 {
                event["seconds"] = seconds.into();
            }
        }
        kept.push(format!("{event}\n"));
        if trials == 2 {
            break;
        }
    }
    assert_eq!(trials, 2);
    std::fs::write(task.file(run).join("journal.jsonl"), kept.concat()).unwrap();
}

#[test]
fn seconds_of_a_search_that_was_broken_off_are_counted() {
    let task = TinyTask::language();
    task.edit_recipe("[prompt]", "[budget]\nmax_minutes = 60\n\n[prompt]");
    task.train("a").assert().success();
    let seconds = || {
        let report = report(&task, "a");
        let cost = &candidate(&report, "1-prompt")["cost"];
        cost["wall_s"].as_f64().unwrap()
    };
    assert!(seconds() < 600.0);

    break_off_in_the_search(&task, "a", 600.0);
    task.train("a").assert().success();
    assert!(seconds() >= 600.0, "{}", seconds());
    assert_eq!(report(&task, "a")["stopped"], "all rounds done");

    // The hour is over: what was scored before counts, and nothing more is.
    break_off_in_the_search(&task, "a", 3600.0);
    task.train("a").assert().success();
    let events = events(&task, "a");
    let begun = events
        .iter()
        .rposition(|event| event["event"] == "stage_began");
    let last_try = &events[begun.unwrap()..];
    assert_eq!(count(last_try, "trial"), 2, "{last_try:#?}");
    let report = report(&task, "a");
    assert_eq!(report["stopped"], "budget of minutes spent");
    assert_eq!(report["candidates"].as_array().unwrap().len(), 2);
}

#[test]
fn a_fresh_start_leaves_a_folder_alone_that_is_no_run() {
    let task = TinyTask::new();
    // The recipe lies in its own folder, as a user would have it, beside other work.
    std::fs::create_dir(task.file("artifact")).unwrap();
    for name in ["README.md", "artifact/precious.txt", "report.json"] {
        std::fs::write(task.file(name), "mine").unwrap();
    }
    let all = || {
        let mut files: Vec<_> = std::fs::read_dir(task.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        files.sort();
        files
    };
    let before = all();
    for fresh in [false, true] {
        let mut command = task.train(".");
        if fresh {
            command.arg("--fresh");
        }
        let message = messages(&command.assert().code(2));
        assert!(message.contains("holds no run"), "{message}");
        assert_eq!(all(), before);
        assert!(task.file("artifact/precious.txt").is_file());
    }
}

#[test]
fn a_fresh_start_replaces_a_run_and_a_half_cleared_run_goes_on() {
    let task = TinyTask::new();
    task.train("whole").assert().success();
    task.train("a").args(["--set", "seed=9"]).assert().success();
    std::fs::write(task.file("a/notes.txt"), "mine").unwrap();
    task.train("a").arg("--fresh").assert().success();
    assert_equal_runs(&task, "whole", "a");
    assert!(task.file("a/notes.txt").is_file());
    // As a kill within the clearing leaves it.
    unfinish(&task, "a");
    std::fs::remove_file(task.file("a/journal.jsonl")).unwrap();
    std::fs::remove_dir_all(task.file("a/candidates")).unwrap();
    task.train("a").assert().success();
    assert_equal_runs(&task, "whole", "a");
}

#[test]
#[cfg(unix)]
fn files_of_a_run_have_the_permissions_of_any_new_file() {
    use std::os::unix::fs::PermissionsExt;
    let task = TinyTask::new();
    task.train("a").assert().success();
    let mode = |name: &str| {
        let metadata = std::fs::metadata(task.file(name)).unwrap();
        metadata.permissions().mode()
    };
    for name in [
        "a/recipe.toml",
        "a/report.json",
        "a/report.html",
        "a/README.md",
        "a/artifact/artifact.json",
        "a/artifact/head.safetensors",
        "a/candidates/baseline/candidate.json",
    ] {
        assert_eq!(mode(name), mode("recipe.toml"), "{name}");
    }
}

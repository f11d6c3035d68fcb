//! Full disks: exit code 2, a message that names the file, nothing half written, and work that goes
//! on once there is room.

#![cfg(unix)]

use std::path::Path;

use crate::run_comparison::{assert_equal_runs, events};
use crate::tiny_task::{TinyTask, messages};

/// Trains with a bound on the size of every file, in blocks of 512 bytes: writes over it fail as on
/// a full disk, and no disk of its own is needed.
fn train_bounded(task: &TinyTask, run: &str, blocks: u64) -> String {
    let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$@\"");
    let mut command = assert_cmd::Command::new("sh");
    command
        .args(["-c", &script, "sh"])
        .arg(assert_cmd::cargo::cargo_bin!("hybrid"))
        .arg("train")
        .arg(task.recipe())
        .arg("--out")
        .arg(task.file(run));
    messages(&command.assert().code(2))
}

/// Names in a folder that begin as those of unfinished files and folders do.
fn unfinished(folder: &Path) -> Vec<String> {
    let names = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names
        .filter(|name| name.starts_with(hybrid_models::UNFINISHED) || name.contains("partial"))
        .collect()
}

#[test]
fn a_full_disk_is_reported_and_finished_work_is_kept() {
    let task = TinyTask::new();
    // So large an adapter that its checkpoint alone does not fit.
    task.edit_recipe("r = 2", "r = 16");
    task.train("whole").assert().success();
    let size = |name: &str| {
        std::fs::metadata(task.file("whole").join(name))
            .unwrap()
            .len()
    };
    let blocks = (size("candidates/1-lora/trainable.safetensors") - 1) / 512;
    let others = [
        "recipe.toml",
        "journal.jsonl",
        "candidates/1-prompt/candidate.json",
    ];
    let largest = others.map(size).into_iter().max().unwrap();
    assert!(largest < blocks * 512, "{largest} and {blocks} blocks");
    let message = train_bounded(&task, "full", blocks);
    assert!(
        message.contains("checkpoints/0.safetensors: cannot be written"),
        "{message}"
    );
    for folder in ["full", "full/checkpoints", "full/candidates"] {
        assert_eq!(unfinished(&task.file(folder)), [""; 0], "{folder}");
    }
    let made = || {
        let path = task.file("full/candidates/1-prompt/candidate.json");
        std::fs::metadata(path).unwrap().modified().unwrap()
    };
    let before = made();
    task.train("full").assert().success();
    assert_eq!(made(), before, "a finished candidate is made again");
    let ended = events(&task, "full")
        .iter()
        .filter(|event| event["candidate"] == "1-prompt")
        .count();
    assert_eq!(ended, 1, "a finished stage is run again");
    assert_equal_runs(&task, "whole", "full");
}

#[test]
fn a_disk_that_is_full_at_the_report_is_reported_too() {
    let task = TinyTask::new();
    // Small enough a checkpoint and long enough a report that the report alone does not fit.
    task.edit_recipe("epochs = 4", "epochs = 40");
    task.train("whole").assert().success();
    let size = |name: &str| {
        std::fs::metadata(task.file("whole").join(name))
            .unwrap()
            .len()
    };
    let report = size("report.html").max(size("report.json"));
    let others = ["journal.jsonl", "candidates/1-lora/candidate.json"];
    let largest = others.map(size).into_iter().max().unwrap();
    let blocks = (report - 1) / 512;
    assert!(largest < blocks * 512, "{largest} and {report}");
    let message = train_bounded(&task, "full", blocks);
    assert!(message.contains("full/report."), "{message}");
    assert!(message.contains("cannot be written"), "{message}");
    assert!(!task.file("full/report.json").exists());
    assert_eq!(unfinished(&task.file("full")), [""; 0]);
    task.train("full").assert().success();
    assert_equal_runs(&task, "whole", "full");
}

#[test]
fn what_a_kill_left_half_written_is_removed() {
    let task = TinyTask::new();
    task.train("a").assert().success();
    std::fs::remove_file(task.file("a/report.json")).unwrap();
    let name = |rest: &str| format!("{}{rest}", hybrid_models::UNFINISHED);
    std::fs::write(task.file("a").join(name("file")), "half").unwrap();
    std::fs::create_dir(task.file("a/candidates").join(name("folder"))).unwrap();
    task.train("a").assert().success();
    assert_eq!(unfinished(&task.file("a")), [""; 0]);
    assert_eq!(unfinished(&task.file("a/candidates")), [""; 0]);
}

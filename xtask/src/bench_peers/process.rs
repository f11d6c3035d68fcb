//! The processes of the programs: what they print, and when.

use std::fs;
use std::io::{BufRead, BufReader, Read, Seek};
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::Value;

use super::machine::{self, Neighbours};
use crate::error::XtaskError;
use crate::workspace;

/// How often a run is tried that other programs disturb.
const TRIES: usize = 3;

/// Something that a program has said.
#[derive(Debug)]
pub(super) struct Said {
    /// Seconds from the start of the process.
    pub(super) at_s: f64,
    /// The largest resident memory by then in MB (10^6 bytes), mapped files included.
    pub(super) peak_rss_mb: Option<f64>,
    /// The same of what is resident now.
    pub(super) rss_mb: Option<f64>,
    pub(super) event: Value,
    /// At the report, the share of processor time that other programs took so far.
    pub(super) foreign: Option<f64>,
}

/// Gives each program the same threads. No peer asks the network, and none leaves compiled scripts
/// beside the sources.
pub(super) fn set_environment(command: &mut Command) {
    for variable in ["RAYON_NUM_THREADS", "OMP_NUM_THREADS"] {
        command.env(variable, machine::threads().to_string());
    }
    command
        .env("HF_HUB_OFFLINE", "1")
        .env("PYTHONDONTWRITEBYTECODE", "1");
}

/// The output of a command as JSON.
///
/// # Errors
/// [`XtaskError::Start`], [`XtaskError::Failed`].
pub(super) fn json_of(command: &mut Command) -> Result<Value, XtaskError> {
    let text = workspace::output(command)?;
    serde_json::from_str(&text).map_err(|error| XtaskError::Failed {
        program: format!("{command:?}"),
        outcome: format!("its output is not JSON: {error}"),
    })
}

/// What a command prints, a JSON object a line.
///
/// # Errors
/// [`XtaskError::Start`], [`XtaskError::Failed`].
pub(super) fn listen(command: &mut Command) -> Result<Vec<Said>, XtaskError> {
    let program = format!("{command:?}");
    let failed = |outcome: String| XtaskError::Failed {
        program: program.clone(),
        outcome,
    };
    let start = |source| XtaskError::Start {
        program: program.clone(),
        source,
    };
    // A pipe that nobody reads while lines are awaited could fill up.
    let mut errors = tempfile::tempfile().map_err(start)?;
    command
        .stdout(Stdio::piped())
        .stderr(errors.try_clone().map_err(start)?);
    let neighbours = Neighbours::watch();
    let begin = Instant::now();
    let mut child = command.spawn().map_err(start)?;
    let status = format!("/proc/{}/status", child.id());
    let (mut said, mut other) = (Vec::new(), None);
    for line in child
        .stdout
        .take()
        .into_iter()
        .flat_map(|out| BufReader::new(out).lines())
    {
        let line = line.map_err(start)?;
        let at_s = begin.elapsed().as_secs_f64();
        let status = fs::read_to_string(&status).unwrap_or_default();
        match serde_json::from_str::<Value>(&line) {
            Ok(event) => {
                // It looks at all processes, which is too much for each line.
                let is_report = event["event"] == "report";
                let watched = neighbours.as_ref().filter(|_| is_report);
                said.push(Said {
                    at_s,
                    peak_rss_mb: memory_mb(&status, "VmHWM:"),
                    rss_mb: memory_mb(&status, "VmRSS:"),
                    event,
                    foreign: watched.and_then(|watched| watched.share(child.id())),
                });
            }
            Err(_) => other = Some(line),
        }
    }
    let status = child.wait().map_err(start)?;
    if !status.success() {
        let mut text = String::new();
        errors.rewind().map_err(start)?;
        errors.read_to_string(&mut text).map_err(start)?;
        return Err(failed(format!("{status}: {}", text.trim())));
    }
    match other {
        Some(line) => Err(failed(format!("it printed what is not JSON: {line}"))),
        None => Ok(said),
    }
}

/// The share of processor time that other programs took, as it was at the report.
pub(super) fn foreign(said: &[Said]) -> Option<f64> {
    let report = said.iter().rfind(|said| said.event["event"] == "report");
    report?.foreign
}

/// What is said in a run that other programs left alone, or in the last of some tries; and how many
/// runs were done again. Only what others took decides that, never what came out of a run.
///
/// # Errors
/// That of a run.
pub(super) fn undisturbed(
    run: impl Fn() -> Result<Vec<Said>, XtaskError>,
) -> Result<(Vec<Said>, usize), XtaskError> {
    let mut said = run()?;
    for repeated in 0..TRIES - 1 {
        if machine::is_quiet(foreign(&said)) {
            return Ok((said, repeated));
        }
        let share = foreign(&said).unwrap_or(f64::NAN) * 100.0;
        eprintln!("  other programs took {share:.0} % of the processors: again");
        said = run()?;
    }
    Ok((said, TRIES - 1))
}

/// The memory of a name in a `/proc/PID/status`, in MB; a process that has ended has none.
fn memory_mb(status: &str, name: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: f64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024.0 / 1e6)
}

#[cfg(all(test, unix))]
mod tests {
    use std::cell::Cell;
    use std::process::Command;

    use serde_json::json;

    use super::{Said, TRIES, foreign, listen, memory_mb, undisturbed};

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn lines_are_heard_when_they_are_said() {
        let script = r#"echo '{"event":"a"}'; sleep 0.2; echo '{"event":"b"}'; sleep 0.1"#;
        let said = listen(&mut shell(script)).unwrap();
        assert_eq!((&said[0].event["event"], said.len()), (&"a".into(), 2));
        assert!(said[1].at_s - said[0].at_s > 0.1, "{said:?}");
    }

    #[test]
    fn what_goes_wrong_is_told() {
        let error = listen(&mut shell("echo no >&2; exit 3"))
            .unwrap_err()
            .to_string();
        assert!(error.contains("no") && error.contains('3'), "{error}");
        let error = listen(&mut shell("echo plain words"))
            .unwrap_err()
            .to_string();
        assert!(error.contains("plain words"), "{error}");
    }

    #[test]
    fn memory_is_read_in_kibibytes() {
        let status = "Name: a\nVmHWM:\t   2000 kB\nVmRSS: 1000 kB\n";
        assert_eq!(memory_mb(status, "VmHWM:"), Some(2.048));
        assert_eq!(memory_mb(status, "VmRSS:"), Some(1.024));
        assert_eq!(memory_mb("Name: a\n", "VmHWM:"), None);
    }

    #[test]
    fn runs_that_were_disturbed_are_done_again() {
        let said = |foreign: f64| Said {
            at_s: 1.0,
            peak_rss_mb: None,
            rss_mb: None,
            event: json!({"event": "report"}),
            foreign: Some(foreign),
        };
        let shares = [0.5, 0.0, 0.25];
        let n = Cell::new(0);
        let run = || {
            n.set(n.get() + 1);
            Ok(vec![said(shares[n.get() - 1])])
        };
        let (last, repeated) = undisturbed(run).unwrap();
        assert_eq!((foreign(&last), repeated), (Some(0.0), 1));
        let (last, repeated) = undisturbed(|| Ok(vec![said(0.5)])).unwrap();
        assert_eq!((foreign(&last), repeated), (Some(0.5), TRIES - 1));
    }
}

//! What a person or a script sees while a run works.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use serde_json::Value;

use crate::journal::Event;
use crate::task::Split;

/// How a run shows itself on standard error (events as JSON go to standard output).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Show {
    /// A bar on a terminal, plain lines elsewhere.
    Auto,
    /// Nothing but errors.
    Quiet,
    /// Each journal event as a JSON line on standard output, and the final figures as the last.
    Json,
}

/// Shows the work of a run.
#[derive(Debug)]
pub(crate) struct Progress {
    show: Show,
    bar: Option<ProgressBar>,
    last_line: Instant,
    best: Option<String>,
}

impl Progress {
    /// Shows work as `show` says.
    pub(crate) fn new(show: Show) -> Self {
        Self {
            show,
            bar: None,
            last_line: Instant::now(),
            best: None,
        }
    }

    /// Says one line, above the bar where there is one.
    pub(crate) fn say(&self, line: &str) {
        match (&self.show, &self.bar) {
            (Show::Auto, Some(bar)) if !bar.is_hidden() => bar.println(line),
            (Show::Auto, _) => eprintln!("{line}"),
            _ => {}
        }
    }

    /// Says that a split is scored now.
    pub(crate) fn scoring(&self, split: &Split, name: &str) {
        self.say(&format!("scoring {} {name} rows", split.examples.len()));
    }

    /// Says how many inputs of a split were cut, if any were.
    pub(crate) fn cut(&self, n_cut: usize, split: &Split, name: &str) {
        if n_cut > 0 {
            let all = split.examples.len();
            self.say(&format!(
                "{n_cut} of {all} {name} inputs are cut: their prompts are too long"
            ));
        }
    }

    /// Begins a piece of work of `total` units, done up to `done`.
    pub(crate) fn begin(&mut self, what: &str, done: usize, total: usize) {
        self.end();
        if self.show != Show::Auto || !std::io::stderr().is_terminal() {
            self.last_line = Instant::now();
            return;
        }
        let style = ProgressStyle::with_template(
            "{prefix:>10} [{bar:32}] {pos}/{len} {per_sec}, {eta} left {wide_msg}",
        )
        .expect("the template is valid")
        .progress_chars("=> ");
        let bar = ProgressBar::new(total as u64)
            .with_style(style)
            .with_prefix(what.to_owned());
        bar.set_position(done as u64);
        bar.reset_eta();
        self.bar = Some(bar);
    }

    /// `done` units are done; `detail` says how it stands.
    pub(crate) fn at(&mut self, done: usize, total: usize, detail: impl FnOnce() -> String) {
        let best = self
            .best
            .as_deref()
            .map(|best| format!(", best so far {best}"))
            .unwrap_or_default();
        match &self.bar {
            Some(bar) => {
                // How much there is to do may show on the way only.
                bar.set_length(total as u64);
                bar.set_position(done as u64);
                bar.set_message(format!("{}{best}", detail()));
            }
            None if self.show == Show::Auto
                && (done == total || self.last_line.elapsed() > Duration::from_secs(10)) =>
            {
                self.last_line = Instant::now();
                eprintln!("  {done}/{total} {}{best}", detail());
            }
            None => {}
        }
    }

    /// The piece of work is done.
    pub(crate) fn end(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    /// The best figure so far changed.
    pub(crate) fn best(&mut self, figure: String) {
        self.best = Some(figure);
    }

    /// An event was journaled.
    pub(crate) fn event(&self, event: &Event) {
        self.json_line(event);
    }

    /// The run is finished: its figures and files.
    pub(crate) fn result(&self, result: &Value) {
        self.json_line(result);
    }

    fn json_line(&self, value: &impl Serialize) {
        if self.show == Show::Json {
            let line = serde_json::to_string(value).expect("events are plain data");
            // A run does not end because nobody listens any more.
            let _ = writeln!(std::io::stdout(), "{line}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use indicatif::ProgressBar;

    use super::{Progress, Show};

    #[test]
    fn a_total_that_shows_on_the_way_is_taken_over() {
        let bar = ProgressBar::hidden();
        bar.set_length(1);
        let mut progress = Progress {
            show: Show::Auto,
            bar: Some(bar.clone()),
            last_line: Instant::now(),
            best: None,
        };
        progress.at(2, 7, || "searching".to_owned());
        assert_eq!((bar.position(), bar.length()), (2, Some(7)));
    }
}

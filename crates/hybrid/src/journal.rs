//! The journal: what happened in a run, append-only, one JSON object a line.
//!
//! Stage boundaries are synchronised to disk, so that a killed run knows which stages are done.
//! A last line that was cut off by the kill is dropped on reading.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::HybridError;
use crate::inputs::Inputs;

/// One line of the journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A process began to work on the run.
    Started {
        /// Version of this program.
        version: String,
        /// Device, data files and base of this process.
        #[serde(flatten)]
        inputs: Inputs,
    },
    /// A stage began, or began again after a kill.
    StageBegan {
        /// Round, counted from 1.
        round: usize,
        /// Name of the stage.
        stage: String,
    },
    /// A prompt was scored on a sample of the fit split.
    Trial {
        /// Name of the stage.
        stage: String,
        /// Name of the prompt, made of its content.
        prompt: String,
        /// The instruction, where there is one.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        instruction: String,
        /// The template.
        template: String,
        /// How the answer opens, where it is given.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        answer_start: String,
        /// Number of demonstrations to choose from.
        demonstrations: usize,
        /// Number of examples.
        sample: usize,
        /// Share of right answers, or what texts are worth.
        accuracy: f64,
        /// Mean negative log-probability of the right label, or of the wanted tokens, in nats.
        log_loss: f64,
        /// What the search had spent by then: texts of an encoder, tokens of a language model.
        spent: u64,
        /// Seconds that the stage had taken by then, in all tries at it.
        #[serde(default)]
        seconds: f64,
    },
    /// One of the best prompts of a search was scored on select.
    Shortlisted {
        /// Name of the stage.
        stage: String,
        /// Name of the prompt, made of its content.
        prompt: String,
        /// The target's figure; accuracy without a target.
        value: f64,
        /// Mean negative log-probability of the right label, or of the wanted tokens, in nats.
        log_loss: f64,
        /// Seconds that the stage had taken by then, in all tries at it.
        seconds: f64,
    },
    /// An update of the adapter.
    Step {
        /// Name of the stage.
        stage: String,
        /// Number of the variant, counted from 1, where the stage has some.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        variant: Option<usize>,
        /// Updates so far.
        step: usize,
        /// Mean loss of the batch.
        loss: f64,
        /// Base rate of this update.
        learning_rate: f64,
        /// L2 norm of the gradient before clipping.
        grad_norm: f64,
    },
    /// The adapter was scored on select.
    Evaluated {
        /// Name of the stage.
        stage: String,
        /// Number of the variant, counted from 1, where the stage has some.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        variant: Option<usize>,
        /// Passes over fit so far.
        epoch: usize,
        /// The target's figure; accuracy without a target.
        value: f64,
        /// Mean negative log-probability of the right label, in nats.
        log_loss: f64,
    },
    /// A state on the way from the stage's start to its best state was scored on select.
    Interpolated {
        /// Name of the stage.
        stage: String,
        /// Number of the variant, counted from 1, where the stage has some.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        variant: Option<usize>,
        /// Share of the way.
        share: f64,
        /// The target's figure; accuracy without a target.
        value: f64,
        /// Mean negative log-probability of the right label, in nats.
        log_loss: f64,
    },
    /// State from which the stage can go on was written.
    Checkpoint {
        /// Name of the stage.
        stage: String,
        /// Number of the variant, counted from 1, where the stage has some.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        variant: Option<usize>,
        /// Updates so far.
        step: usize,
    },
    /// Some variants of a stage go on, the best first.
    VariantsLeft {
        /// Name of the stage.
        stage: String,
        /// Passes over fit that decided.
        epoch: usize,
        /// Their numbers, counted from 1.
        variants: Vec<usize>,
    },
    /// A stage is done and its candidate stored.
    StageEnded {
        /// Round, counted from 1.
        round: usize,
        /// Name of the stage.
        stage: String,
        /// The stored candidate.
        candidate: String,
        /// Whether it became the best so far.
        adopted: bool,
    },
    /// No further stage is run.
    Stopped {
        /// Why.
        reason: StopReason,
    },
    /// The report is written.
    Finished,
}

/// Why the alternation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// A candidate reached the target on select.
    Target,
    /// All rounds are done.
    Rounds,
    /// A whole round brought no gain.
    NoGain,
    /// The budget of minutes is spent.
    Minutes,
    /// The budget of tokens is spent.
    Tokens,
}

impl StopReason {
    /// In words.
    pub(crate) fn describe(self) -> &'static str {
        match self {
            Self::Target => "target reached",
            Self::Rounds => "all rounds done",
            Self::NoGain => "no gain in a whole round",
            Self::Minutes => "budget of minutes spent",
            Self::Tokens => "budget of tokens spent",
        }
    }
}

/// The seconds that a prompt stage had taken at the end of each trial and of each prompt that it
/// scored on select, in order and over all tries at it. A try goes the way of the one before it, and
/// on from where that was broken off.
pub(crate) fn seconds_of_stage(events: &[Event], round: usize, stage: &str) -> Vec<f64> {
    let (mut marks, mut next, mut is_stage) = (Vec::new(), 0, false);
    for event in events {
        let taken = match event {
            Event::StageBegan {
                round: begun,
                stage: name,
            } => {
                (is_stage, next) = (*begun == round && name == stage, 0);
                continue;
            }
            Event::Trial { seconds, .. } | Event::Shortlisted { seconds, .. } => *seconds,
            _ => continue,
        };
        if is_stage {
            match marks.get_mut(next) {
                Some(mark) => *mark = taken,
                None => marks.push(taken),
            }
            next += 1;
        }
    }
    marks
}

/// The open journal of a run.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    file: File,
}

impl Journal {
    /// Opens or creates the journal and returns the events that it holds.
    ///
    /// # Errors
    /// [`HybridError::Write`] when the file cannot be opened or a torn line cannot be cut off,
    /// [`HybridError::Journal`] when a line other than the last is no event.
    pub(crate) fn open(path: &Path) -> Result<(Self, Vec<Event>), HybridError> {
        let failed = |source| HybridError::Write {
            path: path.to_owned(),
            source,
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(failed)?;
        let bytes = std::fs::read(path).map_err(failed)?;
        let whole = bytes
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |end| end + 1);
        let mut events = Vec::new();
        for (index, line) in bytes[..whole].split(|byte| *byte == b'\n').enumerate() {
            if line.is_empty() {
                continue;
            }
            let event = serde_json::from_slice(line).map_err(|source| HybridError::Journal {
                path: path.to_owned(),
                line: index + 1,
                source,
            })?;
            events.push(event);
        }
        file.set_len(whole as u64).map_err(failed)?;
        std::io::Seek::seek(&mut file, std::io::SeekFrom::End(0)).map_err(failed)?;
        Ok((
            Self {
                path: path.to_owned(),
                file,
            },
            events,
        ))
    }

    /// Appends an event; events that mark a boundary are synchronised to disk.
    ///
    /// # Errors
    /// [`HybridError::Write`], for example on a full disk.
    pub(crate) fn append(&mut self, event: &Event) -> Result<(), HybridError> {
        let failed = |source| HybridError::Write {
            path: self.path.clone(),
            source,
        };
        let mut line = serde_json::to_vec(event).expect("events are plain data");
        line.push(b'\n');
        self.file.write_all(&line).map_err(failed)?;
        match event {
            Event::Trial { .. }
            | Event::Shortlisted { .. }
            | Event::Step { .. }
            | Event::Evaluated { .. }
            | Event::Interpolated { .. } => Ok(()),
            _ => self.file.sync_data().map_err(failed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Event, Journal, StopReason, seconds_of_stage};

    #[test]
    fn a_torn_last_line_is_dropped_and_writing_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        let stopped = Event::Stopped {
            reason: StopReason::Target,
        };
        let (mut journal, events) = Journal::open(&path).unwrap();
        assert!(events.is_empty());
        journal.append(&stopped).unwrap();
        drop(journal);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.extend_from_slice(br#"{"event":"fini"#);
        std::fs::write(&path, bytes).unwrap();

        let (mut journal, events) = Journal::open(&path).unwrap();
        assert_eq!(events, std::slice::from_ref(&stopped));
        journal.append(&Event::Finished).unwrap();
        drop(journal);
        assert_eq!(Journal::open(&path).unwrap().1, [stopped, Event::Finished]);
    }

    #[test]
    fn seconds_of_a_stage_go_over_all_tries_at_it() {
        let began = |round| Event::StageBegan {
            round,
            stage: "prompt".to_owned(),
        };
        let trial = |seconds| Event::Trial {
            stage: "prompt".to_owned(),
            prompt: String::new(),
            instruction: String::new(),
            template: String::new(),
            answer_start: String::new(),
            demonstrations: 0,
            sample: 1,
            accuracy: 0.5,
            log_loss: 0.7,
            spent: 1,
            seconds,
        };
        let shortlisted = |seconds| Event::Shortlisted {
            stage: "prompt".to_owned(),
            prompt: String::new(),
            value: 0.5,
            log_loss: 0.7,
            seconds,
        };
        let events = [
            began(1),
            trial(1.0),
            shortlisted(2.0),
            began(2),
            trial(3.0),
            trial(5.0),
            trial(8.0),
            // Broken off before it came as far as the try before it.
            began(2),
            trial(3.0),
        ];
        assert_eq!(seconds_of_stage(&events, 1, "prompt"), [1.0, 2.0]);
        assert_eq!(seconds_of_stage(&events, 2, "prompt"), [3.0, 5.0, 8.0]);
        assert!(seconds_of_stage(&events, 2, "lora").is_empty());
    }

    #[test]
    fn a_corrupt_line_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        std::fs::write(
            &path,
            "{\"event\":\"finished\"}\nnonsense\n{\"event\":\"finished\"}\n",
        )
        .unwrap();
        let error = Journal::open(&path).unwrap_err().to_string();
        assert!(error.contains("journal.jsonl:2"), "{error}");
    }
}

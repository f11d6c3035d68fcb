//! What a decoder has answered in a run, in a file that outlives the process.

use std::error::Error;
use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use hybrid_prompts::{Answered, Answers};

use crate::HybridError;

/// Answers so far, and the file that keeps them.
#[derive(Default)]
pub(crate) struct Memory {
    pub(super) answers: Answers,
    file: Option<File>,
}

impl Memory {
    /// Opens the file of a run, or makes it. A line that a kill has torn is dropped.
    ///
    /// # Errors
    /// [`HybridError::Read`] or [`HybridError::Write`].
    pub(crate) fn open(path: &Path) -> Result<Self, HybridError> {
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(source) => {
                let path = path.to_owned();
                return Err(HybridError::Read { path, source });
            }
        };
        let mut answers = Answers::default();
        let mut whole = 0;
        for line in text.split_inclusive(|byte| *byte == b'\n') {
            let answered = line
                .strip_suffix(b"\n")
                .map(serde_json::from_slice::<Answered>);
            let Some(Ok(answered)) = answered else { break };
            answers.extend([answered]);
            whole += line.len();
        }
        let failed = |source| HybridError::Write {
            path: path.to_owned(),
            source,
        };
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path);
        let mut file = file.map_err(failed)?;
        file.set_len(whole as u64).map_err(failed)?;
        file.seek(SeekFrom::End(0)).map_err(failed)?;
        Ok(Self {
            answers,
            file: Some(file),
        })
    }

    /// Writes new answers behind the others.
    pub(super) fn record(
        file: &mut Option<File>,
        answered: &[Answered],
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        let Some(file) = file else { return Ok(()) };
        let mut lines = Vec::new();
        for one in answered {
            serde_json::to_writer(&mut lines, one)?;
            lines.push(b'\n');
        }
        Ok(file.write_all(&lines)?)
    }

    /// Takes the memory apart, to lend its halves.
    pub(super) fn into_parts(self) -> (Answers, Option<File>) {
        (self.answers, self.file)
    }

    pub(super) fn of_parts(answers: Answers, file: Option<File>) -> Self {
        Self { answers, file }
    }
}

#[cfg(test)]
mod tests {
    use hybrid_prompts::{Answer, Answered, ContinuationScore};

    use super::Memory;

    #[test]
    fn a_torn_last_line_is_dropped_and_writing_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("answers.jsonl");
        let answered = |question: &str| Answered {
            question: question.to_owned(),
            answer: Answer::Scores(vec![ContinuationScore {
                log_probability: -0.1,
                n_tokens: 1,
            }]),
        };
        let (_, mut file) = Memory::open(&path).unwrap().into_parts();
        Memory::record(&mut file, &[answered("a"), answered("b")]).unwrap();
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 3]).unwrap();
        let memory = Memory::open(&path).unwrap();
        assert_eq!(memory.answers.len(), 1);
        let (_, mut file) = memory.into_parts();
        Memory::record(&mut file, &[answered("c")]).unwrap();
        assert_eq!(Memory::open(&path).unwrap().answers.len(), 2);
    }
}

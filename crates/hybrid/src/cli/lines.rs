//! The lines of an input, some at a time.

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;

use crate::HybridError;

/// Bytes of input that are read at a time.
const BUFFER: usize = 64 << 10;

/// Why a chunk of lines ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    OfInput,
    /// It is full, or no further line has come yet.
    OfChunk,
}

/// The lines of an input, counted.
pub(super) struct Lines<R> {
    origin: PathBuf,
    reader: BufReader<R>,
    number: usize,
}

impl<R: Read> Lines<R> {
    /// `origin` is for messages.
    pub(super) fn new(origin: PathBuf, reader: R) -> Self {
        Self {
            origin,
            reader: BufReader::with_capacity(BUFFER, reader),
            number: 0,
        }
    }

    /// How many lines were read.
    pub(super) fn number(&self) -> usize {
        self.number
    }

    /// Waits for a line, and takes the lines that have come with it, at most `chunk`, so that a
    /// live pipe is answered line by line and a file in large batches. `parse` gives nothing for a
    /// line to pass over; what it gives before a fault is kept.
    ///
    /// # Errors
    /// [`HybridError::Read`]; [`HybridError::Input`] with the reason that `parse` gives.
    pub(super) fn collect<T>(
        &mut self,
        chunk: usize,
        inputs: &mut Vec<T>,
        parse: impl Fn(&str) -> Result<Option<T>, String>,
    ) -> Result<End, HybridError> {
        loop {
            let mut line = Vec::new();
            let read = self.reader.read_until(b'\n', &mut line);
            let read = read.map_err(|source| HybridError::Read {
                path: self.origin.clone(),
                source,
            })?;
            if read == 0 {
                return Ok(End::OfInput);
            }
            self.number += 1;
            let line = std::str::from_utf8(&line).map_err(|error| error.to_string());
            let input = line.and_then(&parse).map_err(|reason| HybridError::Input {
                origin: self.origin.display().to_string(),
                line: self.number,
                reason,
            })?;
            inputs.extend(input);
            if inputs.len() == chunk || !self.reader.buffer().contains(&b'\n') {
                return Ok(End::OfChunk);
            }
        }
    }
}

//! What commands say: results on standard output, all else on standard error.

use std::io::{ErrorKind, Write};
use std::path::PathBuf;

use crate::HybridError;

/// Whether somebody still reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reader {
    Listens,
    /// As `head` does when it has seen enough.
    HasGone,
}

/// Writes lines at once.
///
/// # Errors
/// [`HybridError::Write`]; a reader that has gone is no error.
pub(super) fn write(lines: &str) -> Result<Reader, HybridError> {
    let mut out = std::io::stdout().lock();
    match out.write_all(lines.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(Reader::Listens),
        Err(source) if source.kind() == ErrorKind::BrokenPipe => Ok(Reader::HasGone),
        Err(source) => Err(HybridError::Write {
            path: PathBuf::from("standard output"),
            source,
        }),
    }
}

/// Says a line on standard error.
pub(super) fn say(line: &str) {
    eprintln!("{line}");
}

/// Writes a text and ends its line.
///
/// # Errors
/// As [`write`].
pub(super) fn print(text: &str) -> Result<(), HybridError> {
    write(&format!("{text}\n")).map(drop)
}

//! Tokens to text while they come.

use hybrid_data::{DataError, Tokenizer};

/// What a decoder puts in the place of bytes that are no character, or not yet one.
const REPLACEMENT: char = '\u{FFFD}';

/// The text of one sequence of tokens, given out as soon as it is certain: never half a character,
/// and never the beginning of what may become a stop string. Special tokens have no text.
///
/// The library's own decode stream has neither stop strings nor an end that gives out what it
/// holds, and fails on decoders that change earlier text.
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::path::Path;
///
/// use hybrid::{TextStream, load_tokenizer};
///
/// let tokenizer = load_tokenizer(Path::new("model"), 512)?;
/// let stops = ["\n\n".to_owned()];
/// let mut stream = TextStream::new(&tokenizer, &stops);
/// for id in [5, 7, 9] {
///     print!("{}", stream.push(id)?);
///     if stream.is_stopped() {
///         break;
///     }
/// }
/// print!("{}", stream.finish()?);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    stops: &'a [String],
    /// The tokens of the last text that was decoded, which tell how the next ones read, and those
    /// after them.
    ids: Vec<u32>,
    /// How many of `ids` have their text in `known`.
    n_known: usize,
    /// The text of the first `n_known` ids.
    known: String,
    /// Decoded text that may be the beginning of a stop string.
    held: String,
    is_stopped: bool,
}

impl<'a> TextStream<'a> {
    /// An empty text that ends before the first of `stops`; empty ones count for nothing.
    pub fn new(tokenizer: &'a Tokenizer, stops: &'a [String]) -> Self {
        Self {
            tokenizer,
            stops,
            ids: Vec::new(),
            n_known: 0,
            known: String::new(),
            held: String::new(),
            is_stopped: false,
        }
    }

    /// Whether a stop string has come. There is no text from then on.
    pub fn is_stopped(&self) -> bool {
        self.is_stopped
    }

    /// Takes one more token and gives the text that is certain now.
    ///
    /// # Errors
    /// [`DataError::Encode`] when the tokenizer's decoder refuses the tokens.
    pub fn push(&mut self, id: u32) -> Result<String, DataError> {
        self.ids.push(id);
        let text = self.tokenizer.decode(&self.ids, true)?;
        // A character whose other bytes have not come ends in a replacement; so may what will
        // never be a character, which the next tokens tell.
        if text.ends_with(REPLACEMENT) {
            return Ok(String::new());
        }
        let new = self.beyond_known(&text);
        if !new.is_empty() {
            self.ids.drain(..self.n_known);
            self.n_known = self.ids.len();
            self.known = self.tokenizer.decode(&self.ids, true)?;
        }
        Ok(self.release(&new))
    }

    /// Ends the text and gives what was held back.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn finish(mut self) -> Result<String, DataError> {
        let text = self.tokenizer.decode(&self.ids, true)?;
        let new = self.beyond_known(&text);
        let mut rest = self.release(&new);
        rest.push_str(&self.held);
        Ok(rest)
    }

    /// What a text of `ids` adds to the known one. A decoder may have changed that; what was given
    /// out stays.
    fn beyond_known(&self, text: &str) -> String {
        let new = text.strip_prefix(self.known.as_str());
        let new = new.or_else(|| text.get(self.known.len()..));
        new.unwrap_or_default().to_owned()
    }

    /// Adds text to that held back and gives what can be no part of a stop string.
    fn release(&mut self, new: &str) -> String {
        if self.is_stopped {
            return String::new();
        }
        self.held.push_str(new);
        let stops = || self.stops.iter().filter(|stop| !stop.is_empty());
        if let Some(end) = stops().filter_map(|stop| self.held.find(stop)).min() {
            self.is_stopped = true;
            let mut text = std::mem::take(&mut self.held);
            text.truncate(end);
            return text;
        }
        let begins_stop =
            |start: &usize| stops().any(|stop| stop.starts_with(&self.held[*start..]));
        let mut starts = self.held.char_indices().map(|(start, _)| start);
        let n_certain = starts.find(begins_stop).unwrap_or(self.held.len());
        let held = self.held.split_off(n_certain);
        std::mem::replace(&mut self.held, held)
    }
}

#[cfg(test)]
mod tests;

//! Questions with passages as windows of tokens, and where answers stand in them.
//!
//! A passage that is longer than a window has room for is read in several that overlap (Devlin et
//! al. 2019 in their code for SQuAD, `doc_stride`; Transformers'
//! `return_overflowing_tokens`). All places in texts are in bytes, so that an answer is cut out of
//! the passage as it was written.

use std::ops::Range;

use tokenizers::{PostProcessorWrapper, TruncationDirection};

use crate::error::DataError;
use crate::example::Example;
use crate::tokenizer::{Encoding, Tokenizer, n_special};

/// A question with as much of its passage as one input holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// Question and passage as a pair.
    pub encoding: Encoding,
    /// The places of the passage's tokens in the encoding.
    pub passage: Range<usize>,
    /// The bytes of the whole passage that each of its tokens here stands for.
    offsets: Vec<Range<usize>>,
    /// The bytes from this window's first token to its last, or to the ends of the passage.
    extent: Range<usize>,
}

impl Window {
    /// The first and last token that bytes of the passage touch, counted from the first token of
    /// the passage here; none unless all of these bytes lie in this window.
    pub fn tokens_of(&self, bytes: &Range<usize>) -> Option<(usize, usize)> {
        if bytes.start < self.extent.start || bytes.end > self.extent.end {
            return None;
        }
        let first = self
            .offsets
            .iter()
            .position(|token| token.end > bytes.start)?;
        let last = self
            .offsets
            .iter()
            .rposition(|token| token.start < bytes.end)?;
        (first <= last).then_some((first, last))
    }

    /// The bytes of the passage from one of its tokens here to another.
    ///
    /// # Panics
    /// If there are not so many tokens.
    pub fn bytes_of(&self, first: usize, last: usize) -> Range<usize> {
        self.offsets[first].start..self.offsets[last].end
    }
}

/// Makes windows of questions and passages.
#[derive(Debug, Clone)]
pub struct PassageReader {
    /// Gives the tokens of one text, with nothing added.
    plain: tokenizers::Tokenizer,
    /// Joins the tokens of two texts.
    pairs: tokenizers::Tokenizer,
    /// Tokens of a window that are not special.
    room: usize,
    stride: usize,
}

impl PassageReader {
    /// A reader whose windows are as long as the tokenizer's inputs. Neighbouring windows share
    /// `stride` tokens of the passage; a question that would take more than half of the room is cut
    /// on the right.
    ///
    /// # Errors
    /// [`DataError::Stride`] when windows share so many tokens that they would not get on.
    pub fn new(tokenizer: &Tokenizer, stride: usize) -> Result<Self, DataError> {
        let max_length = tokenizer.max_length();
        let n_special = n_special(tokenizer.inner(), true);
        let room = max_length.saturating_sub(n_special);
        if stride >= room / 2 {
            return Err(DataError::Stride {
                stride,
                max_length,
                n_special,
            });
        }
        let mut pairs = tokenizer.inner().clone();
        pairs.with_truncation(None).map_err(refused)?;
        let mut plain = pairs.clone();
        plain.with_post_processor(None::<PostProcessorWrapper>);
        Ok(Self {
            plain,
            pairs,
            room,
            stride,
        })
    }

    /// The windows of each (question, passage) from left to right, in order. There is one at least,
    /// in which an empty passage has no token.
    ///
    /// # Errors
    /// [`DataError::Encode`] when the tokenizer refuses a text.
    pub fn read(&self, pairs: &[(&str, &str)]) -> Result<Vec<Vec<Window>>, DataError> {
        let encode = |texts| self.plain.encode_batch(texts, false).map_err(refused);
        let questions = encode(pairs.iter().map(|(question, _)| *question).collect())?;
        let passages = encode(pairs.iter().map(|(_, passage)| *passage).collect())?;
        let encoded = questions.into_iter().zip(passages);
        let windows = encoded.zip(pairs).map(|((question, passage), (_, text))| {
            let mut windows = self.windows(question, passage)?;
            // The ends of the passage may have bytes that no token stands for.
            windows[0].extent.start = 0;
            if let Some(last) = windows.last_mut() {
                last.extent.end = text.len();
            }
            Ok(windows)
        });
        windows.collect()
    }

    fn windows(
        &self,
        mut question: tokenizers::Encoding,
        mut passage: tokenizers::Encoding,
    ) -> Result<Vec<Window>, DataError> {
        let direction = TruncationDirection::Right;
        question.truncate(self.room / 2, 0, direction);
        question.take_overflowing();
        let room = self.room - question.len();
        passage.truncate(room, self.stride, direction);
        let rest = passage.take_overflowing();
        let parts = std::iter::once(passage).chain(rest);
        // One by one: when the library joins all parts at once, it loses track of which tokens of
        // the later ones are the passage's.
        let join = |part| {
            let joined = self.pairs.post_process(question.clone(), Some(part), true);
            Ok(window(&joined.map_err(refused)?))
        };
        parts.map(join).collect()
    }
}

fn refused(source: Box<dyn std::error::Error + Send + Sync>) -> DataError {
    DataError::Encode { source }
}

fn window(encoding: &tokenizers::Encoding) -> Window {
    let sequences = encoding.get_sequence_ids();
    let of_passage = |sequence: &Option<usize>| *sequence == Some(1);
    let start = sequences.iter().position(of_passage).unwrap_or(0);
    let length = sequences.iter().filter(|id| of_passage(id)).count();
    let passage = start..start + length;
    let offsets = &encoding.get_offsets()[passage.clone()];
    let offsets: Vec<Range<usize>> = offsets.iter().map(|(start, end)| *start..*end).collect();
    let extent =
        offsets.first().map_or(0, |token| token.start)..offsets.last().map_or(0, |token| token.end);
    Window {
        encoding: Encoding {
            ids: encoding.get_ids().to_vec(),
            type_ids: encoding.get_type_ids().to_vec(),
        },
        passage,
        offsets,
        extent,
    }
}

impl Example {
    /// The bytes of the label in the passage that the field of this name holds, without white space
    /// around it: where the label is said to start, or else where it first stands. None without a
    /// label, and when the passage does not have it.
    ///
    /// # Errors
    /// [`DataError::AnswerStart`] when something else stands where the label is said to start.
    pub fn label_in(&self, field: &str) -> Result<Option<Range<usize>>, DataError> {
        let (Some(label), Some(passage)) = (&self.label, self.fields.get(field)) else {
            return Ok(None);
        };
        let start = match self.label_start {
            None => passage.find(label.as_str()),
            Some(start) => {
                let ends = passage.char_indices().map(|(byte, _)| byte);
                let byte = ends.chain([passage.len()]).nth(start);
                let stands = |byte: &usize| passage[*byte..].starts_with(label.as_str());
                let byte = byte.filter(stands).ok_or_else(|| DataError::AnswerStart {
                    path: self.origin.file.to_path_buf(),
                    line: self.origin.line,
                    field: field.to_owned(),
                    answer: label.clone(),
                    start,
                })?;
                Some(byte)
            }
        };
        Ok(start.map(|start| {
            let start = start + (label.len() - label.trim_start().len());
            start..start + label.trim().len()
        }))
    }
}

#[cfg(test)]
mod tests;

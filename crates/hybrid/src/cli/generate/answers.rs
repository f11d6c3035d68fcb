//! Texts of a batch, printed as they come, and how fast they came.

use std::time::Instant;

use hybrid_data::Encoding;
use hybrid_models::{Decoding, Finish, Generated, GenerationConfig};
use serde_json::json;

use crate::cli::output::{self, Reader};
use crate::generator::Generator;
use crate::{HybridError, TextStream};

/// How answers are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// As text, piece by piece, with an empty line between answers.
    Text,
    /// As one JSON object a line.
    Json,
}

/// Writes answers and measures them.
pub(super) struct Answers<'a> {
    generator: &'a Generator,
    stops: &'a [String],
    format: Format,
    n_printed: usize,
    prompts: Speed,
    /// Without the first token of each row, which comes of reading the prompt.
    generation: Speed,
}

/// Tokens and the time they took.
#[derive(Debug, Clone, Copy, Default)]
struct Speed {
    tokens: usize,
    seconds: f64,
}

/// The rows of one batch while they are written.
struct Rows<'a> {
    rows: Vec<Row<'a>>,
    /// The row that is printed; those before it are done.
    current: usize,
    /// How many bytes of it are printed.
    n_bytes: usize,
}

struct Row<'a> {
    /// Nothing when the text has its end.
    stream: Option<TextStream<'a>>,
    text: String,
}

impl<'a> Answers<'a> {
    /// `stops` end a text.
    pub(super) fn new(generator: &'a Generator, stops: &'a [String], format: Format) -> Self {
        Self {
            generator,
            stops,
            format,
            n_printed: 0,
            prompts: Speed::default(),
            generation: Speed::default(),
        }
    }

    /// Runs prompts together and prints the texts one after the other, each piece by piece if it is
    /// not chosen among beams.
    ///
    /// # Errors
    /// As [`Generator::generate`], [`HybridError::Write`], and [`HybridError::Data`] for tokens that
    /// the tokenizer cannot decode.
    pub(super) fn write(
        &mut self,
        prompts: &[String],
        encoded: &[Encoding],
        config: &GenerationConfig,
    ) -> Result<Reader, HybridError> {
        let mut rows = self.rows(prompts.len());
        let (mut reader, mut outcome) = (Reader::Listens, Ok(()));
        let (start, mut first) = (Instant::now(), None);
        let generated = self.generator.generate(encoded, config, &mut |row, ids| {
            first.get_or_insert_with(Instant::now);
            let step = match config.decoding {
                Decoding::Beam(_) => self.has_stop(ids),
                Decoding::Greedy | Decoding::Sample(_) => {
                    let step = rows.take(row, ids, config);
                    step.and_then(|stopped| {
                        if reader == Reader::Listens {
                            reader = self.print(&mut rows)?;
                        }
                        Ok(stopped || reader == Reader::HasGone)
                    })
                }
            };
            step.unwrap_or_else(|error| {
                outcome = Err(error);
                true
            })
        })?;
        let (first, end) = (first.unwrap_or(start), Instant::now());
        outcome?;
        self.prompts.tokens += encoded.iter().map(Encoding::len).sum::<usize>();
        self.prompts.seconds += (first - start).as_secs_f64();
        let n_tokens = generated.iter().map(|row| row.ids.len());
        self.generation.tokens += n_tokens.sum::<usize>() - generated.len();
        self.generation.seconds += (end - first).as_secs_f64();
        if matches!(config.decoding, Decoding::Beam(_)) {
            rows = self.rows(prompts.len());
            for (row, generated) in generated.iter().enumerate() {
                for n_ids in 1..=generated.ids.len() {
                    rows.take(row, &generated.ids[..n_ids], config)?;
                }
            }
        }
        match self.format {
            Format::Text if reader == Reader::HasGone => Ok(reader),
            Format::Text => self.print(&mut rows),
            Format::Json => output::write(&rows.json(prompts, &generated)),
        }
    }

    fn rows(&self, n_rows: usize) -> Rows<'a> {
        let row = |_| Row {
            stream: Some(TextStream::new(&self.generator.tokenizer, self.stops)),
            text: String::new(),
        };
        Rows {
            rows: (0..n_rows).map(row).collect(),
            current: 0,
            n_bytes: 0,
        }
    }

    fn has_stop(&self, ids: &[i64]) -> Result<bool, HybridError> {
        if self.stops.is_empty() {
            return Ok(false);
        }
        let mut stream = TextStream::new(&self.generator.tokenizer, self.stops);
        for id in ids {
            stream.push(*id as u32)?;
        }
        Ok(stream.is_stopped())
    }

    /// Prints what there is of the current row, and of those after it when it has its end.
    fn print(&mut self, rows: &mut Rows<'_>) -> Result<Reader, HybridError> {
        if self.format == Format::Json {
            return Ok(Reader::Listens);
        }
        let mut text = String::new();
        while let Some(row) = rows.rows.get(rows.current) {
            let new = &row.text[rows.n_bytes..];
            if rows.n_bytes == 0 && self.n_printed > 0 && (row.stream.is_none() || !new.is_empty())
            {
                text.push('\n');
            }
            text.push_str(new);
            if row.stream.is_some() {
                rows.n_bytes = row.text.len();
                break;
            }
            text.push('\n');
            self.n_printed += 1;
            rows.current += 1;
            rows.n_bytes = 0;
        }
        match text.is_empty() {
            true => Ok(Reader::Listens),
            false => output::write(&text),
        }
    }

    /// Two lines with the speed of prompts and of what was generated.
    pub(super) fn speed(&self) -> String {
        format!(
            "prompt      {}\ngeneration  {}",
            self.prompts.line(),
            self.generation.line()
        )
    }
}

impl Speed {
    fn line(&self) -> String {
        let Self { tokens, seconds } = self;
        match *seconds > 0.0 {
            true => {
                let rate = *tokens as f64 / seconds;
                format!("{tokens} tokens in {seconds:.2} s, {rate:.1} tokens/s")
            }
            false => format!("{tokens} tokens"),
        }
    }
}

impl Rows<'_> {
    /// Takes the last of a row's tokens. Gives whether a stop string has come.
    fn take(
        &mut self,
        row: usize,
        ids: &[i64],
        config: &GenerationConfig,
    ) -> Result<bool, HybridError> {
        let Row { stream, text } = &mut self.rows[row];
        let (Some(open), Some(last)) = (stream.as_mut(), ids.last()) else {
            return Ok(true);
        };
        let is_end = config.eos_ids.contains(last);
        if !is_end {
            text.push_str(&open.push(*last as u32)?);
        }
        let is_stopped = open.is_stopped();
        if (is_end || is_stopped || ids.len() == config.max_new_tokens)
            && let Some(stream) = stream.take()
        {
            text.push_str(&stream.finish()?);
        }
        Ok(is_stopped)
    }

    fn json(&self, prompts: &[String], generated: &[Generated]) -> String {
        let rows = self.rows.iter().zip(prompts).zip(generated);
        let lines = rows.map(|((row, prompt), generated)| {
            let line = json!({
                "prompt": prompt,
                "text": row.text,
                "finish": match generated.finish {
                    Finish::EndOfSequence => "end_of_sequence",
                    Finish::Stopped => "stop_string",
                    Finish::Length => "length",
                },
                "n_tokens": generated.ids.len(),
            });
            format!("{line}\n")
        });
        lines.collect()
    }
}

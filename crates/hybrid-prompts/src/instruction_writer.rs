//! Instructions written by a model, from examples or from the mistakes of another instruction.

use hybrid_data::derive_seed;

use crate::chat_template::Message;
use crate::demonstration::Demonstration;
use crate::error::PromptError;
use crate::instruction::MAX_CHARS;
use crate::language_model::{GenerateOptions, PromptText, token_counts};
use crate::prompted_model::PromptedModel;

/// Longest piece of an input or answer that a writer is shown, in characters.
const SHOWN_CHARS: usize = 400;

/// Most examples or mistakes that a writer is shown.
pub(crate) const SHOWN: usize = 5;

/// Tokens of one written instruction.
const MAX_TOKENS: usize = 96;

/// An input that was answered wrongly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// The input.
    pub input: String,
    /// What the model answered.
    pub given: String,
    /// What is right.
    pub wanted: String,
}

/// What a writer is asked to do.
#[derive(Debug, Clone, Copy)]
pub enum WritingTask<'a> {
    /// Find the instruction that leads from inputs to answers (Zhou et al. 2023, "Large language
    /// models are human-level prompt engineers").
    FromExamples(&'a [Demonstration]),
    /// Improve an instruction, given what was answered wrongly with it (Pryzant et al. 2023,
    /// "Automatic prompt optimization with gradient descent and beam search").
    Improve {
        /// The instruction; may be empty.
        instruction: &'a str,
        /// What went wrong with it.
        mistakes: &'a [Mistake],
    },
}

/// Asks a model for `n` instructions and returns those of use, each once. Each is drawn with a seed
/// of its own, at a temperature of 1 and from the most probable nine tenths.
///
/// As many examples are shown as the model's context has room for, at most five.
///
/// # Errors
/// Those of the model, and [`PromptError::DoesNotFit`] when not even the task fits.
pub fn write_instructions(
    task: WritingTask<'_>,
    n: usize,
    seed: u64,
    writer: &mut PromptedModel<'_>,
) -> Result<Vec<String>, PromptError> {
    let text = request(task, writer)?;
    let mut found = Vec::new();
    for index in 0..n {
        let options = options(seed, index);
        let outputs = writer.generate(std::slice::from_ref(&text), &options)?;
        let instructions = outputs.iter().filter_map(|output| cleaned(&output.text));
        for instruction in instructions {
            if !found.contains(&instruction) {
                found.push(instruction);
            }
        }
    }
    Ok(found)
}

/// Most tokens that asking for `n` instructions costs.
pub(crate) fn writing_cost(
    task: WritingTask<'_>,
    n: usize,
    seed: u64,
    writer: &PromptedModel<'_>,
) -> Result<u64, PromptError> {
    let text = request(task, writer)?;
    let cost = |index| {
        let prompt = std::slice::from_ref(&text);
        writer.cache.generate_cost(prompt, &options(seed, index))
    };
    (0..n).map(cost).sum()
}

fn options(seed: u64, index: usize) -> GenerateOptions {
    GenerateOptions {
        max_tokens: MAX_TOKENS,
        stop: vec!["\n\n".to_owned()],
        temperature: 1.0,
        top_p: 0.9,
        seed: derive_seed(seed, &format!("written instruction {index}")),
        ..GenerateOptions::default()
    }
}

/// What the writer reads, with as many cases as fit.
fn request(task: WritingTask<'_>, writer: &PromptedModel<'_>) -> Result<PromptText, PromptError> {
    let model = &*writer.cache.model;
    let limit = model.context_length().saturating_sub(MAX_TOKENS);
    let most = match task {
        WritingTask::FromExamples(examples) => examples.len(),
        WritingTask::Improve { mistakes, .. } => mistakes.len(),
    };
    let mut n_shown = most.min(SHOWN);
    loop {
        let words = words(task, n_shown);
        let (own, has_special_tokens) = match model.chat_template() {
            Some(chat) => (chat.render(&[Message::user(words)], true)?, true),
            None => (format!("{words}\n\nInstruction:"), false),
        };
        let needed: usize = token_counts(model, &[own.as_str()])?.into_iter().sum();
        if needed <= limit {
            return Ok(PromptText {
                shared: "".into(),
                own,
                has_special_tokens,
            });
        }
        if n_shown == 0 {
            return Err(PromptError::DoesNotFit { needed, limit });
        }
        n_shown -= 1;
    }
}

fn words(task: WritingTask<'_>, n_shown: usize) -> String {
    let mut parts = Vec::new();
    match task {
        WritingTask::FromExamples(examples) => {
            parts.push("Here are inputs of a task and the right answers.".to_owned());
            for example in &examples[..n_shown] {
                let fields: Vec<&str> = example.fields.values().map(String::as_str).collect();
                let (input, answer) = (shortened(&fields.join("\n")), shortened(&example.answer));
                parts.push(format!("Input: {input}\nAnswer: {answer}"));
            }
            parts.push(
                "Write the instruction that tells somebody how to answer any input of this task. \
                 Write the instruction only, in one or two sentences."
                    .to_owned(),
            );
        }
        WritingTask::Improve {
            instruction,
            mistakes,
        } => {
            if instruction.is_empty() {
                parts.push("A task was given without any instruction.".to_owned());
            } else {
                parts.push(format!("This is the instruction of a task: {instruction}"));
            }
            if n_shown > 0 {
                parts.push("These inputs were answered wrongly.".to_owned());
            }
            for mistake in &mistakes[..n_shown] {
                let [input, given, wanted] =
                    [&mistake.input, &mistake.given, &mistake.wanted].map(|text| shortened(text));
                parts.push(format!(
                    "Input: {input}\nWrong answer: {given}\nRight answer: {wanted}"
                ));
            }
            parts.push(
                "Write a better instruction, with which such mistakes would not be made. Write the \
                 instruction only, in one or two sentences."
                    .to_owned(),
            );
        }
    }
    parts.join("\n\n")
}

fn shortened(text: &str) -> String {
    let text = text.trim();
    match text.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{} …", &text[..end]),
        None => text.to_owned(),
    }
}

/// The instruction in what a model wrote: its first paragraph, without list marks, heading and
/// quotes; none if nothing is left or it is too long.
fn cleaned(text: &str) -> Option<String> {
    let paragraph = text.trim().split("\n\n").next().unwrap_or_default();
    let mut line = paragraph.split_whitespace().collect::<Vec<_>>().join(" ");
    for heading in ["Instruction:", "New instruction:", "Better instruction:"] {
        if let Some(start) = line.get(..heading.len())
            && start.eq_ignore_ascii_case(heading)
        {
            line = line[heading.len()..].trim_start().to_owned();
        }
    }
    let numbered = line.trim_start_matches(|c: char| c.is_ascii_digit());
    if numbered.len() < line.len()
        && let Some(rest) = numbered.strip_prefix(['.', ')'])
    {
        line = rest.to_owned();
    }
    let marks = |c: char| c.is_whitespace() || matches!(c, '-' | '*' | '•' | '"' | '“' | '”' | '`');
    let line = line.trim_start_matches(marks);
    let line = line.trim_end_matches(|c: char| c != '-' && marks(c));
    let letters = line.chars().filter(|c| c.is_alphabetic()).count();
    (letters >= 3 && line.chars().count() <= MAX_CHARS).then(|| line.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert, proptest};

    use super::{
        MAX_CHARS, Mistake, SHOWN_CHARS, WritingTask, cleaned, write_instructions, writing_cost,
    };
    use crate::demonstration::Demonstration;
    use crate::error::PromptError;
    use crate::fake_language_model::FakeLanguageModel;
    use crate::prompted_model::PromptedModel;

    fn mistakes(n: usize) -> Vec<Mistake> {
        let mistake = |index: usize| Mistake {
            input: format!("input {index} {}", "long ".repeat(200)),
            given: "bad".to_owned(),
            wanted: "good".to_owned(),
        };
        (0..n).map(mistake).collect()
    }

    #[test]
    fn a_model_writes_instructions_from_examples_and_mistakes() {
        let examples = [Demonstration {
            answer: "good".to_owned(),
            fields: [("text".to_owned(), "a fine film".to_owned())].into(),
        }];
        let mistakes = mistakes(9);
        let tasks = [
            WritingTask::FromExamples(&examples),
            WritingTask::Improve {
                instruction: "Judge the film.",
                mistakes: &mistakes,
            },
        ];
        for (task, shown) in tasks.into_iter().zip(["a fine film", "Judge the film."]) {
            let mut model = FakeLanguageModel::default();
            let mut writer = PromptedModel::new(&mut model, "writer");
            let cost = writing_cost(task, 6, 1, &writer).unwrap();
            let found = write_instructions(task, 6, 1, &mut writer).unwrap();
            assert!(found.len() > 1 && writer.spent() <= cost, "{found:?}");
            let again = write_instructions(task, 6, 1, &mut writer).unwrap();
            assert_eq!(found, again);
            assert_eq!(model.generated.len(), 6, "nothing is asked twice");
            let read = &model.generated[0];
            assert!(read.contains(shown), "{read}");
            assert!(!read.contains("input 5"), "five cases are enough: {read}");
            assert!(
                !read.contains(&"long ".repeat(SHOWN_CHARS / 5 + 1)),
                "{read}"
            );
        }
    }

    #[test]
    fn cases_give_way_to_the_context() {
        let mistakes = mistakes(5);
        let task = WritingTask::Improve {
            instruction: "Judge.",
            mistakes: &mistakes,
        };
        let asked = |context_length: usize| {
            let mut model = FakeLanguageModel {
                context_length,
                ..FakeLanguageModel::default()
            };
            let found = write_instructions(task, 1, 1, &mut PromptedModel::new(&mut model, ""));
            (found, model.generated)
        };
        let (_, read) = asked(400);
        assert!(
            read[0].contains("input 1") && !read[0].contains("input 4"),
            "{}",
            read[0]
        );
        let (refused, read) = asked(100);
        assert!(matches!(refused, Err(PromptError::DoesNotFit { .. })) && read.is_empty());
    }

    #[test]
    fn what_was_written_is_cleaned() {
        for (written, instruction) in [
            (
                " 1. \"Judge the film.\"\n\nBecause",
                Some("Judge the film."),
            ),
            ("Instruction: - Judge\n  it.", Some("Judge it.")),
            ("2023 was a year.", Some("2023 was a year.")),
            ("\n", None),
            ("...", None),
        ] {
            assert_eq!(cleaned(written).as_deref(), instruction, "{written}");
        }
        assert_eq!(cleaned(&"word ".repeat(MAX_CHARS)), None);
    }

    proptest! {
        #[test]
        fn no_output_panics(text in any::<String>()) {
            if let Some(instruction) = cleaned(&text) {
                prop_assert!(!instruction.is_empty() && instruction.chars().count() <= MAX_CHARS);
            }
        }
    }
}

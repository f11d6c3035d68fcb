//! A small deterministic language model for tests: words are tokens, and prompts have effects that
//! are known.

use std::collections::BTreeSet;

use hybrid_data::derive_seed;

use crate::chat_template::ChatTemplate;
use crate::error::PromptError;
use crate::fake_model::OutOfMemory;
use crate::language_model::{
    ContinuationScore, Finish, GenerateOptions, Generated, LanguageModel, PromptText, ScoreRequest,
};

/// Reads evidence for a word in the last block of a prompt, where `KNOWN` says which words speak
/// for which, weighs it by the prompt's quality, and adds the word's own bias.
pub(crate) struct FakeLanguageModel {
    /// Every request whose scores were given, as prompt and continuations.
    pub(crate) scored: Vec<String>,
    /// Every prompt that was continued.
    pub(crate) generated: Vec<String>,
    /// Fails once this many prompts were read.
    pub(crate) fails_after: Option<usize>,
    /// Spoils its answers in this way.
    pub(crate) fault: Option<LanguageFault>,
    pub(crate) context_length: usize,
    pub(crate) chat: Option<ChatTemplate>,
    /// What speaks for `good` before anything is read.
    pub(crate) bias: f64,
}

impl Default for FakeLanguageModel {
    fn default() -> Self {
        Self {
            scored: Vec::new(),
            generated: Vec::new(),
            fails_after: None,
            fault: None,
            context_length: 4096,
            chat: None,
            bias: 0.0,
        }
    }
}

/// What a broken model may do.
#[derive(Clone, Copy)]
pub(crate) enum LanguageFault {
    TooFewRows,
    TooFewScores,
    NotANumber,
    NoTokens,
}

/// Words, and what they speak for.
const KNOWN: [(&str, &str); 8] = [
    ("fine", "good"),
    ("lovely", "good"),
    ("bright", "good"),
    ("warm", "good"),
    ("dull", "bad"),
    ("awful", "bad"),
    ("cold", "bad"),
    ("grey", "bad"),
];

/// Words of a prompt that make the model read better; `Judge` is the best of them.
const QUALITY: [(&str, f64); 4] = [
    ("Judge", 1.0),
    ("sentiment", 0.5),
    ("careful", 0.4),
    ("film", 0.3),
];

/// What it writes when it is asked for an instruction.
const WRITTEN: [&str; 4] = [
    "Judge the film.",
    "Say what the sentiment of the film is.",
    "Be careful and judge.",
    "Read the text.",
];

/// Words and marks, each with the white space in front; white space at the end is one more.
pub(crate) fn tokens(text: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let bare = rest.trim_start();
        let letters = bare.len() - bare.trim_start_matches(char::is_alphanumeric).len();
        let visible = match bare.chars().next() {
            Some(mark) if letters == 0 => mark.len_utf8(),
            _ => letters,
        };
        let (token, after) = rest.split_at(rest.len() - bare.len() + visible);
        tokens.push(token);
        rest = after;
    }
    tokens
}

impl FakeLanguageModel {
    fn note(&mut self) -> Result<(), PromptError> {
        let n_read = self.scored.len() + self.generated.len();
        match self.fails_after {
            Some(limit) if n_read >= limit => Err(PromptError::model(n_read, OutOfMemory)),
            _ => Ok(()),
        }
    }

    fn log_probability(&self, prompt: &str, continuation: &str) -> f64 {
        let blocks: Vec<&str> = prompt.split("\n\n").collect();
        let input = blocks[blocks.len() - 1];
        let quality: f64 = QUALITY
            .iter()
            .filter(|(word, _)| prompt.contains(word))
            .map(|(_, gain)| gain)
            .sum();
        let shown = blocks.len().saturating_sub(2).min(8) as f64;
        let weight = 0.2 + quality + 0.1 * shown;
        let word = continuation.trim();
        let evidence: f64 = KNOWN
            .iter()
            .filter(|(cue, speaks_for)| input.contains(cue) && word.contains(speaks_for))
            .count() as f64;
        let bias = if word.contains("good") {
            self.bias
        } else {
            0.0
        };
        // A little of everything, so that no two texts are quite the same.
        let noise = (derive_seed(0, &format!("{prompt}|{word}")) % 1000) as f64 / 1000.0;
        weight * evidence + bias + 0.6 * noise - 6.0
    }
}

impl LanguageModel for FakeLanguageModel {
    fn score(
        &mut self,
        requests: &[ScoreRequest],
    ) -> Result<Vec<Vec<ContinuationScore>>, PromptError> {
        let mut rows = Vec::new();
        for request in requests {
            self.note()?;
            let whole = request.prompt.whole();
            self.scored
                .push(format!("{whole}|{}", request.continuations.join("|")));
            let row = request.continuations.iter().map(|continuation| {
                let n_tokens = tokens(continuation).len();
                ContinuationScore {
                    log_probability: self.log_probability(&whole, continuation)
                        - 2.0 * (n_tokens as f64 - 1.0),
                    n_tokens,
                }
            });
            rows.push(row.collect::<Vec<_>>());
        }
        match (self.fault, rows.last_mut()) {
            (Some(LanguageFault::TooFewRows), _) => drop(rows.pop()),
            (Some(LanguageFault::TooFewScores), Some(row)) => drop(row.pop()),
            (Some(LanguageFault::NotANumber), Some(row)) => row[0].log_probability = f64::NAN,
            (Some(LanguageFault::NoTokens), Some(row)) => row[0].n_tokens = 0,
            _ => {}
        }
        Ok(rows)
    }

    fn generate(
        &mut self,
        prompts: &[PromptText],
        options: &GenerateOptions,
    ) -> Result<Vec<Generated>, PromptError> {
        let mut outputs = Vec::new();
        for prompt in prompts {
            self.note()?;
            let whole = prompt.whole();
            let text = if whole.contains("Write the instruction")
                || whole.contains("better instruction")
            {
                let drawn = derive_seed(options.seed, &whole) as usize % WRITTEN.len();
                format!(" 1. {}", WRITTEN[drawn])
            } else if self.log_probability(&whole, "good") >= self.log_probability(&whole, "bad") {
                " good".to_owned()
            } else {
                " bad".to_owned()
            };
            self.generated.push(whole);
            let kept: Vec<&str> = tokens(&text).into_iter().take(options.max_tokens).collect();
            outputs.push(Generated {
                n_tokens: kept.len(),
                text: kept.concat(),
                finish: Finish::EndOfText,
            });
        }
        Ok(outputs)
    }

    fn count_tokens(&self, texts: &[&str]) -> Result<Vec<usize>, PromptError> {
        Ok(texts.iter().map(|text| tokens(text).len()).collect())
    }

    fn context_length(&self) -> usize {
        self.context_length
    }

    fn chat_template(&self) -> Option<&ChatTemplate> {
        self.chat.as_ref()
    }
}

/// Tokens that requests cost where each shared piece is read once: counted here in another way than
/// the crate does.
pub(crate) fn tokens_read(requests: &[ScoreRequest]) -> usize {
    let mut shared = BTreeSet::new();
    let mut total = 0;
    for request in requests {
        if shared.insert(request.prompt.shared.to_string()) {
            total += tokens(&request.prompt.shared).len();
        }
        total += tokens(&request.prompt.own).len();
        total += request
            .continuations
            .iter()
            .map(|text| tokens(text).len())
            .sum::<usize>();
    }
    total
}

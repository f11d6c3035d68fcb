//! A language model with all that prompts need around it: memory, nearness and a limit.

use std::collections::{BTreeMap, BTreeSet};

use crate::answers::{AnswerCache, Answers, Record};
use crate::error::PromptError;
use crate::language_model::{GenerateOptions, Generated, LanguageModel, PromptText, token_counts};
use crate::neighbours::{Embed, Neighbours};
use crate::prompt::Prompt;
use crate::rendering::Renderer;

/// A language model that remembers what it answered, chooses near demonstrations and keeps prompts
/// to a length.
///
/// Its answers ([`answers`](Self::answers)) are the whole state of a search: hand them to a new one
/// ([`with_answers`](Self::with_answers)) and nothing is asked twice.
pub struct PromptedModel<'m> {
    pub(crate) cache: AnswerCache<'m>,
    embed: Option<&'m mut Embed<'m>>,
    neighbours: Neighbours,
    max_prompt_tokens: Option<usize>,
}

/// Texts for inputs, each short enough.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FittedPrompts {
    /// One an input, in order.
    pub texts: Vec<PromptText>,
    /// Inputs that were cut.
    pub n_cut: usize,
    /// Demonstrations that were left out, over all inputs.
    pub n_dropped: usize,
}

type Fields = BTreeMap<String, String>;

impl<'m> PromptedModel<'m> {
    /// A model. `name` tells it from others whose answers differ: the base with its adapter.
    pub fn new(model: &'m mut dyn LanguageModel, name: &str) -> Self {
        Self {
            cache: AnswerCache::new(model, name),
            embed: None,
            neighbours: Neighbours::default(),
            max_prompt_tokens: None,
        }
    }

    /// With answers of earlier, which are not asked again. Those of models of other names are
    /// never used.
    pub fn with_answers(mut self, answers: Answers) -> Self {
        self.cache.answers = answers;
        self
    }

    /// Tells `record` each piece of new answers as soon as the model has given them. An error ends
    /// what is going on.
    pub fn recording(mut self, record: &'m mut Record<'m>) -> Self {
        self.cache.record = Some(record);
        self
    }

    /// With what finds the nearest demonstrations.
    pub fn embedding(mut self, embed: &'m mut Embed<'m>) -> Self {
        self.embed = Some(embed);
        self
    }

    /// With at most this many tokens a prompt, less than the model's context.
    pub fn limited_to(mut self, max_prompt_tokens: usize) -> Self {
        self.max_prompt_tokens = Some(max_prompt_tokens);
        self
    }

    /// Everything that was answered, now and earlier.
    pub fn answers(&self) -> &Answers {
        &self.cache.answers
    }

    /// The answers of now and earlier, for another model to begin with.
    pub fn into_answers(self) -> Answers {
        self.cache.answers
    }

    /// Tokens that the answers cost since the last search began: pieces that prompts of one scoring
    /// share are counted once, no answer twice, and those of earlier like new ones.
    pub fn spent(&self) -> u64 {
        self.cache.spent()
    }

    /// Starts to count costs anew, as if nothing had been asked: what a search spends must not
    /// depend on what went before it in this process.
    pub(crate) fn begin(&mut self) {
        self.cache.begin();
    }

    /// Continues prompts as they are.
    ///
    /// # Errors
    /// Those of the model.
    pub fn generate(
        &mut self,
        prompts: &[PromptText],
        options: &GenerateOptions,
    ) -> Result<Vec<Generated>, PromptError> {
        self.cache.generate(prompts, options)
    }

    /// A prompt's texts for inputs, each with room for `n_following` tokens behind it.
    ///
    /// # Errors
    /// Those of [`Renderer::fit`], and [`PromptError::NoEmbedding`].
    pub fn texts(
        &mut self,
        prompt: &Prompt,
        inputs: &[&Fields],
        n_following: &[usize],
    ) -> Result<FittedPrompts, PromptError> {
        let shown = self.shown(prompt, inputs)?;
        let model = &*self.cache.model;
        let mut renderer = Renderer::new(prompt, model.chat_template())?;
        let mut texts = Vec::with_capacity(inputs.len());
        for (fields, shown) in inputs.iter().zip(&shown) {
            texts.push(renderer.render(fields, shown)?);
        }
        let counts = prompt_tokens(model, &texts)?;
        let count = |text: &PromptText| -> Result<usize, PromptError> {
            let pieces = token_counts(model, &[&*text.shared, text.own.as_str()])?;
            Ok(pieces.into_iter().sum())
        };
        let context = model.context_length();
        let most = self.max_prompt_tokens.unwrap_or(usize::MAX);
        let (mut n_cut, mut n_dropped) = (0, 0);
        for (place, text) in texts.iter_mut().enumerate() {
            let following = match model.continues_context() {
                true => n_following[place],
                false => 0,
            };
            let limit = context.saturating_sub(following).min(most);
            if counts[place] > limit {
                let fitted = renderer.fit(inputs[place], &shown[place], limit, &count)?;
                n_cut += usize::from(fitted.is_cut);
                n_dropped += fitted.n_dropped;
                *text = fitted.text;
            }
        }
        Ok(FittedPrompts {
            texts,
            n_cut,
            n_dropped,
        })
    }

    /// The places of the demonstrations that are shown for each input.
    fn shown(
        &mut self,
        prompt: &Prompt,
        inputs: &[&Fields],
    ) -> Result<Vec<Vec<usize>>, PromptError> {
        let demonstrations = &prompt.demonstrations;
        let Some(n) = demonstrations.nearest else {
            let others = |fields: &&Fields| {
                let examples = demonstrations.examples.iter().enumerate();
                examples
                    .filter(|(_, shown)| shown.fields != **fields)
                    .map(|(place, _)| place)
                    .collect()
            };
            return Ok(inputs.iter().map(others).collect());
        };
        let embed = self.embed.as_deref_mut().ok_or(PromptError::NoEmbedding)?;
        self.neighbours.nearest(demonstrations, n, inputs, embed)
    }
}

/// How many tokens each text has, piece by piece.
fn prompt_tokens(
    model: &dyn LanguageModel,
    texts: &[PromptText],
) -> Result<Vec<usize>, PromptError> {
    let shared: BTreeSet<&str> = texts.iter().map(|text| &*text.shared).collect();
    let shared: Vec<&str> = shared.into_iter().collect();
    let of_shared: BTreeMap<&str, usize> = shared
        .iter()
        .copied()
        .zip(token_counts(model, &shared)?)
        .collect();
    let own: Vec<&str> = texts.iter().map(|text| text.own.as_str()).collect();
    let own = token_counts(model, &own)?;
    Ok(texts
        .iter()
        .zip(own)
        .map(|(text, own)| of_shared.get(&*text.shared).copied().unwrap_or(0) + own)
        .collect())
}

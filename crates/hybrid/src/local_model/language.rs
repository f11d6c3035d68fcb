//! A language model in this process: scores and continuations of prompts.

use std::sync::atomic::Ordering;

use hybrid_data::{BatchLimits, BatchOrder, derive_seed, length_buckets};
use hybrid_models::{
    DecoderModel, Decoding, Finish as TokensFinish, GenerationConfig, Hooks, ModelError, NoHooks,
    SampleConfig, ScoreRequest as TokenRequest,
};
use hybrid_prompts::{
    ChatTemplate, ContinuationScore, Embed, Finish, GenerateOptions, Generated, LanguageModel,
    PromptError, PromptText, PromptedModel, ScoreRequest,
};

use super::{LanguageBase, LocalModel, Memory};
use crate::{HybridError, parallel};

/// Prompts whose tokens are read as one tree: what they share is read once.
const PROMPTS: usize = 32;

/// Prompts that are read as one padded batch, and their padded tokens.
pub(super) const PADDED: BatchLimits = BatchLimits {
    max_rows: 16,
    max_tokens: 4096,
};

/// Token ids to a vector.
type EmbedIds = dyn Fn(&[i64]) -> Result<Vec<f32>, ModelError>;

/// A text by which the special tokens around texts are found.
const FRAMED: &str = "a";

/// Special tokens around what follows a prompt.
#[derive(Debug, Default)]
pub(crate) struct Frame {
    pub(crate) before: Vec<i64>,
    pub(crate) after: Vec<i64>,
}

impl LocalModel {
    /// Does `work` with the language model behind its memory: what it has answered before under the
    /// active adapters is not asked again, and new answers are kept. Tokens are counted as if
    /// nothing had been known, so that a resumed run counts what an uninterrupted one does.
    ///
    /// # Errors
    /// That of `work`, or [`HybridError::Interrupted`].
    pub(crate) fn prompted<R>(
        &mut self,
        work: impl FnOnce(&mut PromptedModel<'_>) -> Result<R, PromptError>,
    ) -> Result<R, HybridError> {
        let name = self.name.clone();
        let (answers, mut file) = std::mem::take(&mut self.memory).into_parts();
        let mut embed = self.embedder();
        let (result, answers, spent) = match &name {
            Some(name) => {
                let mut record = |answered: &[_]| Memory::record(&mut file, answered);
                let mut model = PromptedModel::new(self, name)
                    .with_answers(answers)
                    .recording(&mut record)
                    .embedding(&mut *embed);
                let result = work(&mut model);
                let spent = model.spent();
                (result, model.into_answers(), spent)
            }
            None => {
                let mut model = PromptedModel::new(self, "").embedding(&mut *embed);
                let result = work(&mut model);
                (result, answers, model.spent())
            }
        };
        drop(embed);
        self.memory = Memory::of_parts(answers, file);
        self.count_read(spent);
        // A stop shows as an error of the model.
        self.check_interrupt()?;
        Ok(result?)
    }

    pub(super) fn hooks(&self) -> &dyn Hooks {
        match self.active() {
            Some(trainable) => &trainable.adapters,
            None => &NoHooks,
        }
    }

    /// The tokens of a prompt.
    ///
    /// A prompt without content is the token that ends texts, after which one begins.
    pub(crate) fn prompt_ids(&self, prompt: &PromptText) -> Result<Vec<i64>, HybridError> {
        let mut ids = self.ids(&prompt.whole(), !prompt.has_special_tokens)?;
        if ids.is_empty() {
            ids.push(self.end_ids().first().copied().unwrap_or(0));
        }
        Ok(ids)
    }

    /// The tokens of what follows a prompt. What an encoder-decoder writes is a text of its own: no
    /// space parts it from the prompt.
    pub(crate) fn continuation_ids(&self, text: &str) -> Result<Vec<i64>, HybridError> {
        match self.language() {
            LanguageBase::Decoder(_) => self.ids(text, false),
            LanguageBase::EncoderDecoder(_) => self.ids(text.trim_start(), false),
        }
    }

    /// The tokens of what follows a prompt and ends there, as they are learned.
    pub(crate) fn wanted_ids(&self, text: &str) -> Result<Vec<i64>, HybridError> {
        let frame = self.frame()?;
        let ids = self.continuation_ids(text)?;
        Ok([frame.before, ids, frame.after].concat())
    }

    /// The special tokens around what follows a prompt: none and one that ends the text for a
    /// decoder, the tokenizer's own for an encoder-decoder.
    pub(crate) fn frame(&self) -> Result<Frame, HybridError> {
        let end = self.end_ids().first().copied();
        let mut frame = Frame::default();
        if let LanguageBase::EncoderDecoder(_) = self.language() {
            let (bare, whole) = (self.ids(FRAMED, false)?, self.ids(FRAMED, true)?);
            let windows = &mut whole.windows(bare.len().max(1));
            if let Some(place) = windows.position(|window| window == bare) {
                frame.before = whole[..place].to_vec();
                frame.after = whole[place + bare.len()..].to_vec();
            }
        }
        if !frame.after.iter().any(|id| self.end_ids().contains(id)) {
            frame.after.extend(end);
        }
        Ok(frame)
    }

    /// The tokens that end what the language model writes.
    fn end_ids(&self) -> &[i64] {
        match self.language() {
            LanguageBase::Decoder(model) => model.eos_ids(),
            LanguageBase::EncoderDecoder(model) => &model.tokens().end,
        }
    }

    /// Embeds texts by the mean of the bare base's last hidden states.
    fn embedder(&self) -> Box<Embed<'static>> {
        let embed: Box<EmbedIds> = match self.language() {
            LanguageBase::Decoder(model) => {
                let model = model.clone();
                Box::new(move |ids| model.embed(ids, &NoHooks))
            }
            LanguageBase::EncoderDecoder(model) => {
                let model = model.clone();
                Box::new(move |ids| model.embed(ids, &NoHooks))
            }
        };
        let tokenizer = self.tokenizer.clone();
        // An input without content still is somewhere.
        let end = self.end_ids().first().copied().unwrap_or(0);
        Box::new(move |texts| {
            let embed = |text: &String| -> Result<Vec<f32>, HybridError> {
                let ids = tokenizer.ids(text, true)?;
                let mut ids: Vec<i64> = ids.into_iter().map(i64::from).collect();
                if ids.is_empty() {
                    ids.push(end);
                }
                Ok(embed(&ids)?)
            };
            let vectors = texts.iter().map(embed).collect::<Result<Vec<_>, _>>();
            vectors.map_err(|error| PromptError::model(texts.len(), error))
        })
    }

    /// Estimated operations of a pass of `n_layers` layers over some tokens: twice the weights that
    /// multiply each of them. Attention and the output layer are left out. A token passes one of an
    /// encoder-decoder's two stacks, which count as equal.
    pub(crate) fn language_flops(&self, n_layers: usize, tokens: usize) -> f64 {
        let (vocab, n_stacks) = match self.language() {
            LanguageBase::Decoder(model) => (model.decoder.vocab_size(), 1.0),
            LanguageBase::EncoderDecoder(model) => (model.vocab_size(), 2.0),
        };
        let embeddings = vocab * self.d_model();
        let layers = self
            .base
            .as_base()
            .n_parameters()
            .saturating_sub(embeddings);
        2.0 * layers as f64 * n_layers as f64 / self.n_layers() as f64 * tokens as f64 / n_stacks
    }

    fn count_read(&mut self, tokens: u64) {
        self.tokens.fetch_add(tokens, Ordering::Relaxed);
        let flops = self.language_flops(self.n_layers(), tokens as usize);
        self.count_flops(flops);
    }

    fn score_all(
        &self,
        requests: &[ScoreRequest],
    ) -> Result<Vec<Vec<ContinuationScore>>, HybridError> {
        // What two groups share is read by both, each on a thread of its own: that takes less time than to
        // read it once on threads that wait for each other.
        let share = requests.len().div_ceil(parallel::pieces(&self.device));
        let groups: Vec<&[ScoreRequest]> = requests.chunks(share.clamp(1, PROMPTS)).collect();
        let scored = parallel::try_map(&groups, self.threads(), |group| self.score_group(group))?;
        Ok(scored.into_iter().flatten().collect())
    }

    /// The scores of some prompts' continuations.
    fn score_group(
        &self,
        requests: &[ScoreRequest],
    ) -> Result<Vec<Vec<ContinuationScore>>, HybridError> {
        self.check_interrupt()?;
        let log_probs = match self.language() {
            LanguageBase::Decoder(model) => self.score_continuations(model, requests)?,
            LanguageBase::EncoderDecoder(model) => self.score_targets(model, requests)?,
        };
        let mut log_probs = log_probs.into_iter();
        let row = |request: &ScoreRequest| {
            let scores = log_probs.by_ref().take(request.continuations.len());
            scores
                .map(|tokens| ContinuationScore {
                    log_probability: tokens.iter().map(|value| f64::from(*value)).sum(),
                    n_tokens: tokens.len(),
                })
                .collect()
        };
        Ok(requests.iter().map(row).collect())
    }

    /// The log-probabilities of the tokens of all continuations.
    fn score_continuations(
        &self,
        model: &DecoderModel,
        requests: &[ScoreRequest],
    ) -> Result<Vec<Vec<f32>>, HybridError> {
        let mut sequences: Vec<(Vec<i64>, usize)> = Vec::new();
        for request in requests {
            let prompt = self.prompt_ids(&request.prompt)?;
            for text in &*request.continuations {
                let mut ids = prompt.clone();
                ids.extend(self.continuation_ids(text)?);
                sequences.push((ids, prompt.len()));
            }
        }
        let asked: Vec<TokenRequest<'_>> = sequences
            .iter()
            .map(|(ids, n_context)| TokenRequest {
                ids,
                n_context: *n_context,
            })
            .collect();
        Ok(model.score(&asked, self.hooks())?.log_probs)
    }

    fn generate_all(
        &self,
        prompts: &[PromptText],
        options: &GenerateOptions,
    ) -> Result<Vec<Generated>, HybridError> {
        let ids: Vec<Vec<i64>> = prompts
            .iter()
            .map(|prompt| self.prompt_ids(prompt))
            .collect::<Result<_, _>>()?;
        let following = match self.continues_context() {
            true => options.max_tokens,
            false => 0,
        };
        let lengths: Vec<usize> = ids.iter().map(|ids| ids.len() + following).collect();
        // What is drawn for a prompt must not depend on the prompts beside it.
        let limits = match options.temperature > 0.0 {
            true => BatchLimits {
                max_rows: 1,
                ..PADDED
            },
            false => PADDED,
        };
        let batches = length_buckets(&lengths, limits, BatchOrder::Sorted);
        let generated = parallel::try_map(&batches, self.threads(), |rows| {
            let rows: Vec<Vec<i64>> = rows.iter().map(|row| ids[*row].clone()).collect();
            self.generate_batch(&rows, options)
        })?;
        let mut outputs: Vec<Option<Generated>> = vec![None; prompts.len()];
        for (rows, generated) in batches.iter().zip(generated) {
            for (row, output) in rows.iter().zip(generated) {
                outputs[*row] = Some(output);
            }
        }
        Ok(outputs.into_iter().flatten().collect())
    }

    fn generate_batch(
        &self,
        prompts: &[Vec<i64>],
        options: &GenerateOptions,
    ) -> Result<Vec<Generated>, HybridError> {
        self.check_interrupt()?;
        let config = self.generation(options, prompts);
        let mut failed = None;
        let mut ends = |_row: usize, ids: &[i64]| {
            if options.stop.is_empty() {
                return false;
            }
            match self.text(ids) {
                Ok(text) => options.stop.iter().any(|stop| text.contains(stop)),
                Err(error) => {
                    failed = Some(error);
                    true
                }
            }
        };
        let generated = match self.language() {
            LanguageBase::Decoder(model) => {
                model.generate(prompts, &config, self.hooks(), &mut ends)?
            }
            LanguageBase::EncoderDecoder(model) => {
                let batch = self.input_batch(prompts)?;
                model.generate(&batch, &config, self.hooks(), &mut ends)?
            }
        };
        if let Some(error) = failed {
            return Err(error);
        }
        let output = |generated: hybrid_models::Generated| {
            // The token that ends a text is no part of it, also where the tokenizer has a word for it.
            let n_ends = usize::from(generated.finish == TokensFinish::EndOfSequence);
            let mut text = self.text(&generated.ids[..generated.ids.len() - n_ends])?;
            let stops = options.stop.iter().filter_map(|stop| text.find(stop));
            if let Some(end) = stops.min() {
                text.truncate(end);
            }
            Ok(Generated {
                text,
                n_tokens: generated.ids.len(),
                finish: match generated.finish {
                    TokensFinish::EndOfSequence => Finish::EndOfText,
                    TokensFinish::Stopped => Finish::Stop,
                    TokensFinish::Length => Finish::MaxTokens,
                },
            })
        };
        generated.into_iter().map(output).collect()
    }

    fn generation(&self, options: &GenerateOptions, prompts: &[Vec<i64>]) -> GenerationConfig {
        let decoding = match options.temperature > 0.0 {
            false => Decoding::Greedy,
            true => Decoding::Sample(SampleConfig {
                temperature: options.temperature,
                top_k: Some(options.top_k).filter(|k| *k > 0),
                top_p: Some(options.top_p).filter(|p| *p < 1.0),
                min_p: Some(options.min_p).filter(|p| *p > 0.0),
                seed: derive_seed(options.seed, &format!("{:?}", prompts.first())),
            }),
        };
        GenerationConfig {
            max_new_tokens: options.max_tokens,
            eos_ids: self.end_ids().to_vec(),
            decoding,
            repetition_penalty: options.repetition_penalty,
            processors: Vec::new(),
        }
    }

    /// The text of generated tokens.
    fn text(&self, ids: &[i64]) -> Result<String, HybridError> {
        let ids: Vec<u32> = ids
            .iter()
            .map(|id| u32::try_from(*id).expect("ids of a vocabulary are small"))
            .collect();
        Ok(self.tokenizer.decode(&ids, true)?)
    }
}

impl LanguageModel for LocalModel {
    fn score(
        &mut self,
        requests: &[ScoreRequest],
    ) -> Result<Vec<Vec<ContinuationScore>>, PromptError> {
        let scored = self.score_all(requests);
        scored.map_err(|error| PromptError::model(requests.len(), error))
    }

    fn generate(
        &mut self,
        prompts: &[PromptText],
        options: &GenerateOptions,
    ) -> Result<Vec<Generated>, PromptError> {
        let generated = self.generate_all(prompts, options);
        generated.map_err(|error| PromptError::model(prompts.len(), error))
    }

    fn count_tokens(&self, texts: &[&str]) -> Result<Vec<usize>, PromptError> {
        let counted = texts
            .iter()
            .map(|text| Ok(self.tokenizer.ids(text, false)?.len()));
        let counted = counted.collect::<Result<Vec<usize>, HybridError>>();
        counted.map_err(|error| PromptError::model(texts.len(), error))
    }

    fn context_length(&self) -> usize {
        // One or two tokens may begin and end each sequence.
        let special = self.tokenizer.ids("", true).map_or(0, |ids| ids.len());
        self.max_length
            .min(self.max_positions())
            .saturating_sub(special)
    }

    fn continues_context(&self) -> bool {
        matches!(self.language(), LanguageBase::Decoder(_))
    }

    fn chat_template(&self) -> Option<&ChatTemplate> {
        self.chat_template.as_ref()
    }
}

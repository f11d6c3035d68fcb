//! A model that writes text, with its tokenizer and chat template.

use std::path::Path;

use burn::tensor::{Device, Int, Tensor, TensorData};
use hybrid_data::{Encoding, Tokenizer, pad};
use hybrid_models::{
    BaseKind, DecoderModel, EncoderBatch, EncoderDecoder, Generated, GenerationConfig, GgufFile,
    ModelError, NoHooks, WeightFormat, open_device,
};
use hybrid_prompts::{ChatTemplate, Message};

use crate::HybridError;
use crate::model_tokenizer::{load_chat_template, load_tokenizer};

/// More tokens than any model reads: what a model has no positions for is refused, not cut off.
const UNCUT: usize = 1 << 24;

/// A decoder or an encoder-decoder that continues or answers prompts.
pub(crate) struct Generator {
    writer: Writer,
    device: Device,
    pub(crate) tokenizer: Tokenizer,
    chat: Option<ChatTemplate>,
}

#[expect(clippy::large_enum_variant, reason = "there is one in a generator")]
enum Writer {
    Decoder(DecoderModel),
    EncoderDecoder(EncoderDecoder),
}

impl Generator {
    /// Loads the model of a folder or GGUF file.
    ///
    /// # Errors
    /// [`HybridError::WritesNothing`] for an encoder, [`HybridError::Option`] for a format that the
    /// model's file does not have, [`HybridError::Model`], [`HybridError::Data`]
    /// and [`HybridError::Prompt`] for faulty files, [`HybridError::Vocabulary`] for a tokenizer
    /// with ids that the model has no vectors for.
    pub(crate) fn open(
        path: &Path,
        format: WeightFormat,
        device: &str,
    ) -> Result<Self, HybridError> {
        let device = open_device(device)?;
        if format == WeightFormat::Keep && GgufFile::of_model(path)?.is_none() {
            return Err(HybridError::Option {
                option: "--dtype keep",
                reason: "only the weights of a GGUF file can stay as they are",
            });
        }
        let (writer, expected) = match BaseKind::of_folder(path)? {
            BaseKind::Encoder => {
                return Err(HybridError::WritesNothing {
                    path: path.to_owned(),
                });
            }
            BaseKind::Decoder => {
                let model = DecoderModel::load_with(path, format, &device)?;
                let vocab = model.decoder.vocab_size();
                (Writer::Decoder(model), vocab)
            }
            BaseKind::EncoderDecoder if format == WeightFormat::Bfloat16 => {
                return Err(HybridError::Option {
                    option: "--dtype bfloat16",
                    reason: "an encoder-decoder's weights are float32",
                });
            }
            BaseKind::EncoderDecoder => {
                let model = EncoderDecoder::load(path, &device)?;
                let vocab = model.vocab_size();
                (Writer::EncoderDecoder(model), vocab)
            }
        };
        let tokenizer = load_tokenizer(path, UNCUT)?;
        let found = tokenizer.id_bound();
        if found > expected {
            return Err(HybridError::Vocabulary {
                path: path.to_owned(),
                expected,
                found,
            });
        }
        Ok(Self {
            writer,
            device,
            tokenizer,
            chat: load_chat_template(path)?,
        })
    }

    /// Passes the chat template over: prompts are plain text.
    pub(crate) fn without_chat(mut self) -> Self {
        self.chat = None;
        self
    }

    /// The tokens of prompts: each the user's turn of a conversation, after what the system says,
    /// when the model has a chat template.
    ///
    /// # Errors
    /// [`HybridError::Option`] for a system text that the model has no place for,
    /// [`HybridError::Prompt`] and [`HybridError::Data`].
    pub(crate) fn encode(
        &self,
        prompts: &[String],
        system: Option<&str>,
    ) -> Result<Vec<Encoding>, HybridError> {
        let Some(chat) = &self.chat else {
            return match system {
                None => Ok(self.tokenizer.encode(prompts)?),
                Some(_) => Err(HybridError::Option {
                    option: "--system",
                    reason: "the model has no chat template, or it is not used",
                }),
            };
        };
        if system.is_some() && !chat.has_system_role() {
            return Err(HybridError::Option {
                option: "--system",
                reason: "the model's chat template shows no system message",
            });
        }
        let conversation = |prompt: &String| {
            let system = system.map(Message::system);
            let messages: Vec<Message> =
                system.into_iter().chain([Message::user(prompt)]).collect();
            chat.render(&messages, true)
        };
        let texts: Vec<String> = prompts.iter().map(conversation).collect::<Result<_, _>>()?;
        Ok(self.tokenizer.encode_as_written(&texts)?)
    }

    /// The tokens that end a text.
    pub(crate) fn eos_ids(&self) -> &[i64] {
        match &self.writer {
            Writer::Decoder(model) => model.eos_ids(),
            Writer::EncoderDecoder(model) => &model.tokens().end,
        }
    }

    /// How many tokens the model is made to write after these prompts; none when there is no end
    /// to them.
    ///
    /// # Errors
    /// [`ModelError::TooManyPositions`] for a prompt that leaves no room in a decoder's context.
    pub(crate) fn room(&self, prompts: &[Encoding]) -> Result<Option<usize>, HybridError> {
        match &self.writer {
            Writer::Decoder(model) => {
                let longest = prompts.iter().map(Encoding::len).max().unwrap_or(0);
                let limit = model.decoder.max_positions();
                if longest >= limit {
                    let positions = longest + 1;
                    return Err(ModelError::TooManyPositions { positions, limit }.into());
                }
                Ok(Some(limit - longest))
            }
            Writer::EncoderDecoder(model) => Ok(model.max_positions()),
        }
    }

    /// Continues or answers prompts together, one text a prompt. `ends` is asked whether a row
    /// ends, as [`hybrid_models::generate`] describes.
    ///
    /// # Errors
    /// [`HybridError::Model`], as [`DecoderModel::generate`] and [`EncoderDecoder::generate`] give
    /// it.
    pub(crate) fn generate(
        &self,
        prompts: &[Encoding],
        config: &GenerationConfig,
        ends: &mut dyn FnMut(usize, &[i64]) -> bool,
    ) -> Result<Vec<Generated>, HybridError> {
        let generated = match &self.writer {
            Writer::Decoder(model) => {
                let wide = |prompt: &Encoding| prompt.ids.iter().map(|id| i64::from(*id)).collect();
                let prompts: Vec<Vec<i64>> = prompts.iter().map(wide).collect();
                model.generate(&prompts, config, &NoHooks, ends)
            }
            Writer::EncoderDecoder(model) => {
                if let Some(row) = prompts.iter().position(Encoding::is_empty) {
                    return Err(ModelError::EmptyPrompt { row }.into());
                }
                model.generate(&self.batch(prompts), config, &NoHooks, ends)
            }
        };
        Ok(generated?)
    }

    fn batch(&self, prompts: &[Encoding]) -> EncoderBatch {
        let rows: Vec<usize> = (0..prompts.len()).collect();
        let padded = pad(prompts, &rows, self.tokenizer.pad_id());
        let ints = |values: &[u32]| -> Tensor<2, Int> {
            let values: Vec<i64> = values.iter().map(|value| i64::from(*value)).collect();
            let data = TensorData::new(values, [rows.len(), padded.seq]);
            Tensor::from_data(data, &self.device)
        };
        EncoderBatch {
            input_ids: ints(&padded.ids),
            attention_mask: ints(&padded.mask),
            token_type_ids: None,
        }
    }
}

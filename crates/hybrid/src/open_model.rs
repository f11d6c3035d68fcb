//! Opens a base with its tokenizer, and sees to it that the two belong together.

use std::path::Path;

use burn::tensor::Device;
use hybrid_data::Tokenizer;
use hybrid_models::{BaseKind, DecoderModel, Model, ModelError, Pooling, WeightFormat};

use crate::HybridError;
use crate::local_model::LocalModel;
use crate::model_tokenizer::{load_chat_template, load_tokenizer};

/// The base in a folder or GGUF file, without adapter.
///
/// # Errors
/// [`HybridError::Model`] or [`HybridError::Data`] naming a faulty file, and
/// [`HybridError::Vocabulary`] for a tokenizer with ids that the base has no vectors for.
pub(crate) fn open_model(
    folder: &Path,
    max_length: usize,
    pooling: Pooling,
    dtype: WeightFormat,
    device: Device,
) -> Result<LocalModel, HybridError> {
    match BaseKind::of_folder(folder)? {
        BaseKind::Encoder => {
            if dtype == WeightFormat::Keep {
                return Err(HybridError::Option {
                    option: "base.dtype",
                    reason: "an encoder's weights are float32",
                });
            }
            let base = Model::load_encoder(folder, &device)?;
            let tokenizer = load_tokenizer(folder, max_length)?;
            check_vocabulary(folder, base.encoder.vocab_size(), &tokenizer)?;
            Ok(LocalModel::new(base, tokenizer, device, pooling))
        }
        BaseKind::Decoder => {
            let base = DecoderModel::load_with(folder, dtype, &device)?;
            // Prompts are cut by their parts, not by their tokens.
            let tokenizer = load_tokenizer(folder, usize::MAX)?;
            check_vocabulary(folder, base.decoder.vocab_size(), &tokenizer)?;
            let chat_template = load_chat_template(folder)?;
            Ok(LocalModel::of_decoder(
                base,
                tokenizer,
                chat_template,
                device,
                max_length,
            ))
        }
        BaseKind::EncoderDecoder => Err(ModelError::NoSuchPart {
            architecture: "encoder-decoder",
            part: "encoder or decoder of its own, which training needs",
        }
        .into()),
    }
}

fn check_vocabulary(
    folder: &Path,
    expected: usize,
    tokenizer: &Tokenizer,
) -> Result<(), HybridError> {
    let found = tokenizer.id_bound();
    match found > expected {
        true => Err(HybridError::Vocabulary {
            path: folder.to_owned(),
            expected,
            found,
        }),
        false => Ok(()),
    }
}

//! Opens a base with its tokenizer, and sees to it that the two belong together.

use std::path::Path;

use burn::tensor::Device;
use hybrid_data::Tokenizer;
use hybrid_models::{
    BaseKind, DecoderModel, EncoderDecoder, Model, Pooling, Resolved, Resolver, WeightFormat,
};

use crate::HybridError;
use crate::local_model::LocalModel;
use crate::model_tokenizer::{load_chat_template, load_tokenizer};
use crate::recipe::BaseInit;

/// Finds a base by its name; `say` is told what takes long.
///
/// # Errors
/// [`HybridError::Model`] when it is nowhere or when its folder lacks a file.
pub(crate) fn find_base(
    name: &str,
    init: BaseInit,
    say: &dyn Fn(&str),
) -> Result<Resolved, HybridError> {
    let resolver = Resolver::from_environment();
    Ok(match init {
        BaseInit::Pretrained => resolver.resolve(name, say)?,
        BaseInit::Random => resolver.resolve_untrained(name, say)?,
    })
}

/// The base in a folder or GGUF file, without adapter. One that starts at random is drawn from
/// `seed`.
///
/// # Errors
/// [`HybridError::Model`] or [`HybridError::Data`] naming a faulty file, and
/// [`HybridError::Vocabulary`] for a tokenizer with ids that the base has no vectors for.
pub(crate) fn open_model(
    folder: &Path,
    (init, seed): (BaseInit, u64),
    max_length: usize,
    pooling: Pooling,
    dtype: WeightFormat,
    device: Device,
) -> Result<LocalModel, HybridError> {
    if init == BaseInit::Pretrained && BaseKind::of_folder(folder)? == BaseKind::Encoder {
        if dtype != WeightFormat::Float32 {
            return Err(HybridError::Option {
                option: "base.dtype",
                reason: "an encoder's weights are float32",
            });
        }
        let base = Model::load_encoder(folder, &device)?;
        let tokenizer = load_tokenizer(folder, max_length.min(base.encoder.max_positions()))?;
        check_vocabulary(folder, base.encoder.vocab_size(), &tokenizer)?;
        return Ok(LocalModel::new(base, tokenizer, device, pooling));
    }
    // Prompts are cut by their parts, not by their tokens.
    let tokenizer = load_tokenizer(folder, usize::MAX)?;
    let chat_template = load_chat_template(folder)?;
    let is_decoder =
        init == BaseInit::Pretrained && BaseKind::of_folder(folder)? == BaseKind::Decoder;
    if dtype == WeightFormat::Bfloat16 && !is_decoder {
        return Err(HybridError::Option {
            option: "base.dtype",
            reason: "an encoder-decoder's weights are float32",
        });
    }
    let base = match init {
        BaseInit::Random => EncoderDecoder::random(folder, seed, &device)?,
        BaseInit::Pretrained if is_decoder => {
            let base = DecoderModel::load_with(folder, dtype, &device)?;
            check_vocabulary(folder, base.decoder.vocab_size(), &tokenizer)?;
            return Ok(LocalModel::of_decoder(
                base,
                tokenizer,
                chat_template,
                device,
                max_length,
            ));
        }
        BaseInit::Pretrained => EncoderDecoder::load(folder, &device)?,
    };
    check_vocabulary(folder, base.vocab_size(), &tokenizer)?;
    Ok(LocalModel::of_encoder_decoder(
        base,
        tokenizer,
        chat_template,
        device,
        max_length,
    ))
}

/// The base in a folder, for a classifier head: a decoder without its output layer, whose texts are
/// cut to `max_length` tokens as an encoder's are.
///
/// # Errors
/// As [`open_model`].
pub(crate) fn open_classifier(
    folder: &Path,
    max_length: usize,
    pooling: Pooling,
    dtype: WeightFormat,
    device: Device,
) -> Result<LocalModel, HybridError> {
    if BaseKind::of_folder(folder)? != BaseKind::Decoder {
        let init = (BaseInit::Pretrained, 0);
        return open_model(folder, init, max_length, pooling, dtype, device);
    }
    let base = DecoderModel::load_headless(folder, &device)?;
    let max_length = max_length.min(base.decoder.max_positions());
    let tokenizer = load_tokenizer(folder, max_length)?;
    check_vocabulary(folder, base.decoder.vocab_size(), &tokenizer)?;
    Ok(LocalModel::of_decoder(
        base, tokenizer, None, device, max_length,
    ))
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

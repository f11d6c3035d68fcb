//! Marian (Junczys-Dowmunt et al. 2018), as `transformers.MarianMTModel` computes it: BART's layers
//! on sinusoidal positions, without a norm of the embeddings.
//!
//! Deviations: as [`bart`](crate::bart).

use burn::tensor::{Device, Tensor, TensorData};
use serde_json::json;

use crate::bart::{self, Sizes};
use crate::checkpoint::Checkpoint;
use crate::config_file::ConfigFile;
use crate::encoder_decoder::{DefaultTokens, FixedTensor, Parts, Positions, WordScale};
use crate::loader::Part;
use crate::{LayerTable, ModelError, Stack};

/// # Errors
/// An error of the configuration or the checkpoint.
pub(crate) fn load(
    config: &ConfigFile,
    checkpoint: Checkpoint,
    device: &Device,
) -> Result<(Parts, LayerTable), ModelError> {
    config.require("normalize_embedding", &json!(false))?;
    config.require("static_position_embeddings", &json!(true))?;
    let sizes = Sizes::read(config, WordScale::Stack)?;
    let d_model = sizes.d_model;
    let vocab = config.size("vocab_size")?;
    let decoder_vocab = config.size_or("decoder_vocab_size", vocab)?;
    let shares = config.switch_or("share_encoder_decoder_embeddings", true)?;
    let n_positions = config.size("max_position_embeddings")?;
    let mut loader = bart::open(checkpoint, device, shares);
    let shared = match shares {
        true => Some(loader.embedding("shared", vocab, d_model)?),
        false => None,
    };
    let mut stack = |stack: Stack, vocab: usize| {
        let name = bart::name(stack);
        let words = format!("{name}.embed_tokens");
        let words = match &shared {
            Some(shared) => loader.stack_words(&words, shared)?,
            None => loader.embedding(&words, vocab, d_model)?,
        };
        let table = format!("{name}.embed_positions.weight");
        let table = loader.fixed(Part::Body, &table, [n_positions, d_model])?;
        let table = table.unwrap_or_else(|| FixedTensor {
            key: None,
            values: sinusoids(n_positions, d_model, device),
        });
        sizes.stack(stack, words, Positions::Fixed(table), None, &mut loader)
    };
    let encoder = stack(Stack::Encoder, vocab)?;
    let decoder = stack(Stack::Decoder, decoder_vocab)?;
    let words = decoder.words.clone();
    let tokens = DefaultTokens {
        start: Some(58100),
        pad: 58100,
        end: 0,
        forced_last: Some(0),
    };
    bart::finish(config, loader, encoder, decoder, &words, tokens)
}

/// Sines of each position in the first half of the features, cosines in the second (Vaswani et al.
/// 2017, section 3.5, where they alternate).
///
/// # Shapes
/// - `[n_positions, d_model]`
fn sinusoids(n_positions: usize, d_model: usize, device: &Device) -> Tensor<2> {
    let n_sines = d_model.div_ceil(2);
    let value = |position: usize, feature: usize| {
        let angle = |pair: usize| {
            let exponent = (2 * pair) as f64 / d_model as f64;
            position as f64 / 10_000f64.powf(exponent)
        };
        let value = match feature.checked_sub(n_sines) {
            None => angle(feature).sin(),
            Some(pair) => angle(pair).cos(),
        };
        value as f32
    };
    let values: Vec<f32> = (0..n_positions * d_model)
        .map(|index| value(index / d_model, index % d_model))
        .collect();
    Tensor::from_data(TensorData::new(values, [n_positions, d_model]), device)
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::sinusoids;

    #[test]
    fn sines_come_before_cosines() {
        let table = sinusoids(3, 5, &Device::flex());
        let values: Vec<f32> = table.into_data().iter().collect();
        assert_eq!(values[..5], [0.0, 0.0, 0.0, 1.0, 1.0]);
        let slow = |feature: f64| 2.0 / 10_000f64.powf(feature / 5.0);
        let expected = [
            2f64.sin(),
            slow(2.0).sin(),
            slow(4.0).sin(),
            2f64.cos(),
            slow(2.0).cos(),
        ];
        for (found, expected) in values[10..].iter().zip(expected) {
            assert!((f64::from(*found) - expected).abs() < 1e-7, "{values:?}");
        }
    }
}

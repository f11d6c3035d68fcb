//! A decoder with a classifier head: texts to class probabilities.

use burn::tensor::activation::log_softmax;
use burn::tensor::{Int, Tensor, TensorData};
use hybrid_adapters::HeadForm;
use hybrid_data::{BatchOrder, Encoding, length_buckets, pad};
use hybrid_models::{DecoderBatch, DecoderModel, ModelError};

use super::{INFERENCE, LocalModel, host_rows};
use crate::{HybridError, parallel};

impl LocalModel {
    /// Log-probabilities of the labels that the active head reads off each text's last token.
    ///
    /// # Errors
    /// [`HybridError::Data`] when the tokenizer refuses a text, [`HybridError::Model`] for a text
    /// without a token, [`HybridError::Interrupted`].
    pub(super) fn classify_by_last_token(
        &mut self,
        texts: &[String],
    ) -> Result<Vec<Vec<f32>>, HybridError> {
        let encodings = self.encode(texts)?;
        if let Some(row) = encodings.iter().position(Encoding::is_empty) {
            return Err(ModelError::EmptyPrompt { row }.into());
        }
        let lengths: Vec<usize> = encodings.iter().map(Encoding::len).collect();
        let batches = length_buckets(&lengths, INFERENCE, BatchOrder::Sorted);
        let model = &*self;
        let read = parallel::try_map(&batches, self.threads(), |rows| {
            model.check_interrupt()?;
            model.read_last_tokens(&encodings, rows)
        })?;
        let (mut rows_out, mut flops) = (vec![Vec::new(); texts.len()], 0.0);
        for (rows, read) in batches.iter().zip(read) {
            let longest = rows.iter().map(|row| lengths[*row]).max().unwrap_or(0);
            flops += self.forward_flops(self.n_layers(), rows.len(), longest);
            for (row, of_row) in rows.iter().zip(read) {
                rows_out[*row] = of_row;
            }
        }
        self.count_tokens(&encodings);
        self.count_flops(flops);
        Ok(rows_out)
    }

    /// # Panics
    /// If there is no head, or the base is no decoder.
    fn read_last_tokens(
        &self,
        encodings: &[Encoding],
        rows: &[usize],
    ) -> Result<Vec<Vec<f32>>, HybridError> {
        let (head, decoder) = (
            self.head().expect("a head is active"),
            &self.decoder().decoder,
        );
        let padding_id = match head.config().form {
            HeadForm::Score { padding_id } => padding_id,
            HeadForm::Linear | HeadForm::Tanh | HeadForm::Relu => None,
        };
        // An id that no text can have tells nothing apart.
        let padding_id = padding_id.filter(|id| *id < decoder.vocab_size());
        let filled = padding_id.map_or(self.tokenizer.pad_id(), |id| id as u32);
        let padded = pad(encodings, rows, filled);
        let ints = |values: &[u32]| -> Tensor<2, Int> {
            let values: Vec<i32> = values.iter().map(|value| *value as i32).collect();
            let data = TensorData::new(values, [rows.len(), padded.seq]);
            Tensor::from_data(data, &self.device)
        };
        let batch = DecoderBatch {
            input_ids: ints(&padded.ids),
            attention_mask: Some(ints(&padded.mask)),
            position_ids: None,
        };
        let pooled = decoder.last_token(&batch, padding_id, self.hooks())?;
        Ok(host_rows(log_softmax(head.forward(pooled), 1)))
    }

    /// The decoder.
    ///
    /// # Panics
    /// If the base is none.
    fn decoder(&self) -> &DecoderModel {
        match self.language() {
            super::LanguageBase::Decoder(model) => model,
            super::LanguageBase::EncoderDecoder(_) => {
                panic!("an encoder-decoder is asked for what only a decoder does")
            }
        }
    }
}

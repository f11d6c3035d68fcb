//! What decoders alone have: interventions that read on, and trained tokens of a shared output layer.

use burn::tensor::{Int, Tensor, TensorData};
use hybrid_adapters::{AdapterConfig, Adapters, load_peft, save_peft};
use hybrid_models::{DecoderBatch, DecoderModel};
use serde_json::{Value, json};

use super::bench::{close, moved};
use crate::fixtures::{self, Tensors};

/// The decoders among the fixtures.
pub(super) fn models() -> Vec<(String, DecoderModel)> {
    let models = fixtures::language_models().into_iter().map(|fixture| {
        let model = DecoderModel::load(&fixture.folder.join("model"), &fixtures::device());
        (fixture.name, model.unwrap())
    });
    models.collect()
}

/// Two rows, one of them with padding at the left.
fn batch() -> DecoderBatch {
    let ints = |values: Vec<i32>| -> Tensor<2, Int> {
        Tensor::from_data(TensorData::new(values, [2, 6]), &fixtures::device())
    };
    let ids = (0..12).map(|place| 5 + place * 7 % 31).collect();
    let mask = (0..12).map(|place| i32::from(place != 6 && place != 7));
    DecoderBatch::padded(ints(ids), ints(mask.collect()))
}

/// What a forward reads in two parts is what it reads at once, also the tokens' places.
#[test]
fn parity_decoders_with_interventions_read_on_from_a_cache() {
    for (name, model) in models() {
        let batch = batch();
        let build = |loreft: Value| {
            let prompt = json!({"method": "prompt_tuning", "num_virtual_tokens": 2});
            let stack = serde_json::from_value::<Vec<AdapterConfig>>(json!([prompt, loreft]));
            Adapters::init(&stack.unwrap(), &model, 3, &fixtures::device())
        };
        let adapters = moved(build(json!({"method": "loreft", "prefix_positions": 3})).unwrap());
        let decoder = &model.decoder;
        let whole = decoder.forward(&batch, None, &adapters).unwrap();
        let [_, n_all, _] = whole.dims();
        let [n_rows, seq] = batch.input_ids.dims();
        let mut cache = decoder.new_cache(seq);
        let mut parts = Vec::new();
        for (start, end) in [(0, 2), (2, seq)] {
            let part = |ids: &Tensor<2, Int>| ids.clone().slice([0..n_rows, start..end]);
            let mask = batch.attention_mask.as_ref().unwrap();
            let part = DecoderBatch {
                input_ids: part(&batch.input_ids),
                attention_mask: Some(mask.clone().slice([0..n_rows, 0..end])),
                position_ids: batch.position_ids.as_ref().map(part),
            };
            parts.push(decoder.forward(&part, Some(&mut cache), &adapters).unwrap());
        }
        let host = |x: Tensor<3>| x.into_data().iter::<f32>().collect::<Vec<f32>>();
        let tokens = |x: Tensor<3>| host(x.slice([0..n_rows, n_all - 4..n_all]));
        let found = Tensor::cat(parts, 1);
        close(&name, &tokens(found), &tokens(whole), 1e-4);

        let error = build(json!({"method": "loreft", "suffix_positions": 1})).unwrap_err();
        assert!(error.to_string().contains("suffix_positions"), "{error}");
    }
}

/// Beside LoRA PEFT stores trained tokens once, also where the output layer shares them.
#[test]
fn parity_decoders_store_trained_tokens_beside_lora_once() {
    for (name, model) in models() {
        let stack = json!([{"method": "lora", "r": 2},
                           {"method": "trainable_tokens", "token_indices": [6, 1]}]);
        let stack: Vec<AdapterConfig> = serde_json::from_value(stack).unwrap();
        let device = fixtures::device();
        let adapters = moved(Adapters::init(&stack, &model, 3, &device).unwrap());
        let folder = tempfile::tempdir().unwrap();
        save_peft(&adapters, &model, "tiny", None, folder.path()).unwrap();
        let file = Tensors::read(&folder.path().join("adapter_model.safetensors"));
        let is_delta = |key: &&str| key.ends_with("trainable_tokens_delta");
        assert_eq!(file.names().filter(is_delta).count(), 1, "{name}");
        let again = load_peft(folder.path(), &model, &device).unwrap();
        assert_eq!(again.named_tensors(), adapters.named_tensors(), "{name}");
    }
}

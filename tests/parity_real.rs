//! Real models against their recorded outputs.

mod smollm2;

use burn::tensor::{Device, Int, Tensor, TensorData};
use hybrid_data::{Tokenizer, pad};
use hybrid_models::{EncoderBatch, Model, NoHooks, Pooling};

use crate::any_base::host;
use crate::fixtures::{self, Tensors, Tolerance};

const MINILM: &str = "sentence-transformers/all-MiniLM-L6-v2";

fn ints(values: &[u32], shape: [usize; 2], device: &Device) -> Tensor<2, Int> {
    let values: Vec<i32> = values.iter().map(|value| *value as i32).collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}

#[test]
fn parity_of_real_models() {
    for fixture in fixtures::of_kind("real model") {
        let name = fixture.meta["fixture"]
            .as_str()
            .expect("meta.json names the fixture");
        match name {
            "minilm_l6_v2" => minilm(&fixture),
            "smollm2_135m_q4_1_gguf" => smollm2::check(&fixture),
            unknown => panic!("no test understands the real model {unknown:?}"),
        }
    }
}

/// Sentence embeddings from texts, tokenizer included.
fn minilm(fixture: &fixtures::Fixture) {
    let device = fixtures::device();
    let folder = fixtures::real_model("HYBRID_MINILM", MINILM);
    let model = Model::load_encoder(&folder, &device).unwrap();
    let max_length = fixture.meta["max_length"].as_u64().unwrap() as usize;
    let tokenizer = Tokenizer::from_file(&folder.join("tokenizer.json"), max_length).unwrap();
    let texts: Vec<String> = fixture.meta["sentences"]
        .as_array()
        .unwrap()
        .iter()
        .map(|text| text.as_str().unwrap().to_owned())
        .collect();
    let encodings = tokenizer.encode(&texts).unwrap();
    let rows: Vec<usize> = (0..texts.len()).collect();
    let padded = pad(&encodings, &rows, tokenizer.pad_id());
    let shape = [padded.rows.len(), padded.seq];
    let batch = EncoderBatch {
        input_ids: ints(&padded.ids, shape, &device),
        attention_mask: ints(&padded.mask, shape, &device),
        token_type_ids: Some(ints(&padded.type_ids, shape, &device)),
    };

    let expected = Tensors::read(&fixture.folder.join("outputs.safetensors"));
    let tolerance = Tolerance::of(&fixture.meta["tolerance"]);
    let hidden = model.encoder.forward(&batch, &NoHooks);
    let pool = |pooling| {
        model
            .pool(hidden.clone(), &batch, pooling, &NoHooks)
            .unwrap()
    };
    let mean = pool(Pooling::Mean);
    let unit = mean.clone() / mean.clone().square().sum_dim(1).sqrt();
    for output in expected.names() {
        let [_, seq, d_model] = hidden.dims();
        match output {
            "input_ids" | "attention_mask" => {
                let ours = if output == "input_ids" {
                    &padded.ids
                } else {
                    &padded.mask
                };
                let ours: Vec<i64> = ours.iter().map(|value| i64::from(*value)).collect();
                assert_eq!(ours, expected.ints(output), "{output}");
                continue;
            }
            "embeddings" => tolerance.check(output, &host(unit.clone()), expected.floats(output)),
            "mean_pooled" => tolerance.check(output, &host(mean.clone()), expected.floats(output)),
            "cosine" => {
                let cosine = unit.clone().matmul(unit.clone().transpose());
                tolerance.check(output, &host(cosine), expected.floats(output));
            }
            "last_hidden_state_row0" => {
                let tokens = padded.mask[..seq].iter().filter(|mask| **mask == 1).count();
                let row = host(hidden.clone().slice([0..1, 0..tokens]));
                tolerance.check(output, &row, &expected.floats(output)[..tokens * d_model]);
            }
            "pooler_output_row0" => {
                let row = host(pool(Pooling::Pooler).narrow(0, 0, 1));
                tolerance.check(output, &row, expected.floats(output));
            }
            unknown => panic!("unknown output {unknown:?}"),
        }
    }
}

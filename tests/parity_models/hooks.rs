//! What hooks put in front of the tokens: vectors and keys of real tokens must act as the tokens
//! themselves.

use std::cell::RefCell;

use burn::tensor::{Device, Int, Tensor, TensorData};
use hybrid_models::{
    Base, DecoderBatch, DecoderModel, EncoderBatch, Hooks, KeyValue, Layer, Linear, Model,
    ModelError, NoHooks, ScoreRequest, Stack,
};

use super::{Case, DECODERS, ENCODERS, cases, host};

/// Word vectors in front of the first tokens.
struct SoftPrompt {
    stack: Stack,
    /// `[1, n_virtual, d_model]`.
    vectors: Tensor<3>,
}

impl Hooks for SoftPrompt {
    fn embedded(&self, stack: Stack, words: Tensor<3>) -> Tensor<3> {
        assert_eq!(stack, self.stack);
        let [batch, _, d_model] = words.dims();
        let [_, n_virtual, _] = self.vectors.dims();
        let vectors = self.vectors.clone().expand([batch, n_virtual, d_model]);
        Tensor::cat(vec![vectors, words], 1)
    }
}

/// Keys and values in front of the first tokens.
struct Prefix(Vec<KeyValue>);

impl Hooks for Prefix {
    fn key_values(&self, stack: Stack) -> Option<Vec<KeyValue>> {
        assert_eq!(stack, Stack::Decoder);
        Some(self.0.clone())
    }
}

const PROMPT: [i64; 3] = [7, 11, 9];
const ROWS: [[i64; 4]; 2] = [[5, 8, 6, 12], [10, 7, 7, 13]];

fn ints(rows: &[Vec<i64>], device: &Device) -> Tensor<2, Int> {
    let shape = [rows.len(), rows[0].len()];
    Tensor::from_data(TensorData::new(rows.concat(), shape), device)
}

/// Vectors of the prompt's tokens in the table at the end of a path.
fn vectors(base: &dyn Base, device: &Device) -> Tensor<3> {
    let tables = ["word_embeddings", "wte", "embed_tokens"];
    let site = base
        .sites()
        .iter()
        .find(|site| tables.iter().any(|table| site.path.ends_with(table)))
        .expect("a site of word embeddings");
    match base.layer_at(site.id) {
        Some(Layer::Embedding(words)) => words.forward(ints(&[PROMPT.to_vec()], device)),
        other => panic!("{other:?}"),
    }
}

fn joined() -> Vec<Vec<i64>> {
    ROWS.iter()
        .map(|row| [PROMPT.as_slice(), row].concat())
        .collect()
}

fn alone() -> Vec<Vec<i64>> {
    ROWS.iter().map(|row| row.to_vec()).collect()
}

#[test]
fn parity_of_soft_prompts_with_the_tokens_of_an_encoder() {
    for case in cases(&ENCODERS, Model::load) {
        let batch = |rows: &[Vec<i64>]| {
            let input_ids = ints(rows, &case.device);
            EncoderBatch {
                attention_mask: input_ids.ones_like(),
                token_type_ids: Some(input_ids.zeros_like()),
                input_ids,
            }
        };
        let hooks = SoftPrompt {
            stack: Stack::Encoder,
            vectors: vectors(&case.model, &case.device),
        };
        let encoder = &case.model.encoder;
        let plain = host(encoder.forward(&batch(&joined()), &NoHooks));
        let soft = host(encoder.forward(&batch(&alone()), &hooks));
        case.tolerance.check(&case.fixture.name, &soft, &plain);
    }
}

/// Notes what the key and value projections give.
struct Projected<'b> {
    base: &'b dyn Base,
    outputs: RefCell<Vec<Vec<f32>>>,
}

impl Hooks for Projected<'_> {
    fn linear(&self, base: &Linear, x: Tensor<3>) -> Tensor<3> {
        let y = base.forward(x);
        let path = &self.base.sites().get(base.site).path;
        if ["key", "value", "k_lin", "v_lin"]
            .iter()
            .any(|name| path.ends_with(name))
        {
            self.outputs.borrow_mut().push(host(y.clone()));
        }
        y
    }
}

/// Keys and values of tokens alone are those of a forward over them, heads side by side.
#[test]
fn parity_of_keys_of_tokens_alone_with_those_of_a_forward() {
    for case in cases(&ENCODERS, Model::load) {
        let input_ids = ints(&[PROMPT.to_vec()], &case.device);
        let batch = EncoderBatch {
            attention_mask: input_ids.ones_like(),
            token_type_ids: None,
            input_ids,
        };
        let hooks = Projected {
            base: &case.model,
            outputs: RefCell::default(),
        };
        case.model.encoder.forward(&batch, &hooks);
        let expected = hooks.outputs.into_inner();
        let flat = |x: Tensor<4>| host(x.swap_dims(1, 2));
        let layers = case.model.key_values(&PROMPT).unwrap().into_iter();
        let found: Vec<Vec<f32>> = layers
            .flat_map(|layer| [flat(layer.key), flat(layer.value)])
            .collect();
        assert_eq!(found.len(), expected.len(), "{}", case.fixture.name);
        for (found, expected) in found.iter().zip(&expected) {
            case.tolerance.check(&case.fixture.name, found, expected);
        }
        let vocab = case.model.encoder.vocab_size();
        assert!(matches!(
            case.model.key_values(&[vocab as i64]),
            Err(ModelError::UnknownToken { .. })
        ));
    }
}

fn decoder_batch(rows: &[Vec<i64>], device: &Device) -> DecoderBatch {
    DecoderBatch {
        input_ids: ints(rows, device),
        attention_mask: None,
        position_ids: None,
    }
}

/// A window counts places, those of padding between prompt and tokens too.
fn has_window(case: &Case<DecoderModel>) -> bool {
    case.model.model_type() == "mistral" && !case.config()["sliding_window"].is_null()
}

/// The rows with padding in front of one of them and between its tokens and the prompt.
fn padded(device: &Device) -> DecoderBatch {
    let mut rows = alone();
    rows[0].splice(0..0, [0, 0]);
    rows[1].extend([0, 0]);
    let mask = [[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]].map(|row| row.to_vec());
    DecoderBatch::padded(ints(&rows, device), ints(&mask, device))
}

/// Hidden states of the rows' own tokens in a padded batch after `n_virtual` vectors.
fn own_tokens(hidden: Tensor<3>, n_virtual: usize) -> Vec<f32> {
    let hidden = |row, start| {
        hidden
            .clone()
            .narrow(0, row, 1)
            .narrow(1, n_virtual + start, 4)
    };
    [host(hidden(0, 2)), host(hidden(1, 0))].concat()
}

#[test]
fn parity_of_soft_prompts_and_prefixes_with_the_tokens_of_a_decoder() {
    for case in cases(&DECODERS, DecoderModel::load) {
        let name = &case.fixture.name;
        let (decoder, device) = (&case.model.decoder, &case.device);
        let n = PROMPT.len();
        let soft = SoftPrompt {
            stack: Stack::Decoder,
            vectors: vectors(&case.model, device),
        };
        let mut cache = decoder.new_cache(n);
        let prompt = decoder_batch(&[PROMPT.to_vec()], device);
        decoder
            .forward(&prompt, Some(&mut cache), &NoHooks)
            .unwrap();
        let prefix = Prefix(cache.key_values());
        let plain = decoder.forward(&decoder_batch(&joined(), device), None, &NoHooks);
        let plain = host(plain.unwrap().narrow(1, n, 4));
        let batch = decoder_batch(&alone(), device);
        for (hooks, n_virtual) in [(&soft as &dyn Hooks, n), (&prefix, 0)] {
            let hidden = decoder.forward(&batch, None, hooks).unwrap();
            let hidden = host(hidden.narrow(1, n_virtual, 4));
            case.tolerance.check(name, &hidden, &plain);
            if !has_window(&case) {
                let hidden = decoder.forward(&padded(device), None, hooks).unwrap();
                case.tolerance
                    .check(name, &own_tokens(hidden, n_virtual), &plain);
            }
            // The same in two pieces through a cache.
            let mut cache = decoder.new_cache(1);
            let mut pieces = Vec::new();
            for start in [0, 2] {
                let piece = DecoderBatch {
                    input_ids: batch.input_ids.clone().narrow(1, start, 2),
                    ..batch.clone()
                };
                let hidden = decoder.forward(&piece, Some(&mut cache), hooks).unwrap();
                let own = hidden.dims()[1];
                pieces.push(hidden.narrow(1, own - 2, 2));
            }
            assert_eq!(cache.len(), n + 4);
            case.tolerance
                .check(name, &host(Tensor::cat(pieces, 1)), &plain);
        }
    }
}

/// Generation and scoring count what hooks put in front.
#[test]
fn parity_of_continuations_and_scores_after_a_soft_prompt() {
    for case in cases(&DECODERS, DecoderModel::load) {
        if case.architecture().ends_with("ForSequenceClassification") {
            continue;
        }
        let name = &case.fixture.name;
        let soft = SoftPrompt {
            stack: Stack::Decoder,
            vectors: vectors(&case.model, &case.device),
        };
        let mut rows = alone();
        if !has_window(&case) {
            rows[1].truncate(2);
        }
        let with_tokens: Vec<Vec<i64>> = rows
            .iter()
            .map(|row| [PROMPT.as_slice(), row].concat())
            .collect();
        let config = hybrid_models::GenerationConfig {
            max_new_tokens: 6,
            ..Default::default()
        };
        let continued = |rows: &[Vec<i64>], hooks: &dyn Hooks| {
            case.model
                .generate(rows, &config, hooks, &mut |_, _| false)
                .unwrap()
        };
        assert_eq!(
            continued(&rows, &soft),
            continued(&with_tokens, &NoHooks),
            "{name}"
        );
        let scored = |rows: &[Vec<i64>], n_context, hooks: &dyn Hooks| {
            let requests: Vec<ScoreRequest<'_>> = rows
                .iter()
                .map(|ids| ScoreRequest { ids, n_context })
                .collect();
            case.model
                .score(&requests, hooks)
                .unwrap()
                .log_probs
                .concat()
        };
        let n = PROMPT.len();
        case.tolerance.check(
            name,
            &scored(&rows, 1, &soft),
            &scored(&with_tokens, n + 1, &NoHooks),
        );
    }
}

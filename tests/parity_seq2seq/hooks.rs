//! What hooks see of an encoder-decoder and what they can put into it.

use std::cell::RefCell;

use burn::tensor::{Int, Tensor};
use hybrid_models::{Base, Embedding, EncoderBatch, Hooks, Linear, NoHooks, Norm, SiteId, Stack};

use super::{cases, host};
use crate::fixtures;

/// Notes the sites in the order in which a forward comes to them.
#[derive(Default)]
struct Visits(RefCell<Vec<SiteId>>);

impl Visits {
    fn note(&self, site: SiteId) {
        let mut sites = self.0.borrow_mut();
        if !sites.contains(&site) {
            sites.push(site);
        }
    }
}

impl Hooks for Visits {
    fn linear(&self, base: &Linear, x: Tensor<3>) -> Tensor<3> {
        self.note(base.site);
        base.forward(x)
    }

    fn norm(&self, base: &Norm, x: Tensor<3>) -> Tensor<3> {
        self.note(base.site);
        base.forward(x)
    }

    fn embedding(&self, base: &Embedding, ids: Tensor<2, Int>) -> Tensor<3> {
        self.note(base.site);
        base.forward(ids)
    }

    fn block(&self, site: SiteId, _x: &Tensor<3>, y: Tensor<3>) -> Tensor<3> {
        self.note(site);
        y
    }
}

/// A forward comes to each site of the table, in the table's order, through the hooks.
#[test]
fn parity_hooks_see_every_site_in_order() {
    for case in cases() {
        let visits = Visits::default();
        case.logits(&case.model, &case.batch(), &visits);
        let sites = case.model.sites();
        let path = |site: &SiteId| sites.get(*site).path.clone();
        let visited: Vec<String> = visits.0.borrow().iter().map(path).collect();
        let all: Vec<String> = sites.iter().map(|site| site.path.clone()).collect();
        assert_eq!(visited, all, "{}", case.fixture.name);
        let layers: Vec<usize> = sites.iter().filter_map(|site| site.layer).collect();
        assert!(layers.is_sorted(), "{}", case.fixture.name);
        let n_layers = case.model.n_encoder_layers() + case.model.n_decoder_layers();
        assert_eq!(
            layers.last(),
            Some(&(n_layers - 1)),
            "{}",
            case.fixture.name
        );
    }
}

/// Word vectors that hooks put in front of the tokens of one stack.
struct InFront {
    stack: Stack,
    words: RefCell<Option<Tensor<3>>>,
    /// Of all vectors of the stack, where there are some in front.
    scale: f64,
}

impl Hooks for InFront {
    fn embedded(&self, stack: Stack, words: Tensor<3>) -> Tensor<3> {
        if stack != self.stack {
            return words;
        }
        let mut in_front = self.words.borrow_mut();
        match in_front.as_ref() {
            Some(in_front) => Tensor::cat(vec![in_front.clone(), words], 1) * self.scale,
            None => {
                *in_front = Some(words.clone());
                words
            }
        }
    }
}

/// Vectors in front are as if their tokens were there.
#[test]
fn parity_with_tokens_in_place_of_their_vectors() {
    for case in cases() {
        let name = &case.fixture.name;
        let model = &case.model;
        let labels = case.int("labels");
        let ids = model.tokens().shift_right(&labels);
        let whole = case.batch();
        let encoded = model.encode(&whole, &NoHooks).unwrap();
        let expected = model.decode(&ids, &encoded, None, &NoHooks).unwrap();
        let [size, seq] = whole.input_ids.dims();
        let split = 2;
        let part = |x: &Tensor<2, Int>, start: usize, n: usize| x.clone().narrow(1, start, n);
        let batch = |start: usize, n: usize| EncoderBatch {
            input_ids: part(&whole.input_ids, start, n),
            attention_mask: part(&whole.attention_mask, start, n),
            token_type_ids: None,
        };
        // Transformers' Marian leaves it to whoever gives vectors to its encoder to scale them.
        let config = fixtures::json(&case.fixture.folder.join("model/config.json"));
        let is_scaled = config["model_type"] == "marian" && config["scale_embedding"] == true;
        let hooks = InFront {
            stack: Stack::Encoder,
            words: RefCell::new(None),
            scale: match is_scaled {
                true => (model.d_model() as f64).sqrt(),
                false => 1.0,
            },
        };
        model.encode(&batch(0, split), &hooks).unwrap();
        let soft = model.encode(&batch(split, seq - split), &hooks).unwrap();
        assert_eq!(soft.states.dims(), encoded.states.dims(), "{name}");
        let decoded = model.decode(&ids, &soft, None, &hooks).unwrap();
        case.tolerance.check(
            &format!("{name}: in front of the input"),
            &host(decoded),
            &host(expected.clone()),
        );

        let hooks = InFront {
            stack: Stack::Decoder,
            words: RefCell::new(None),
            scale: 1.0,
        };
        let [_, targets] = ids.dims();
        model
            .decode(&part(&ids, 0, split), &encoded, None, &hooks)
            .unwrap();
        let mut cache = model.new_cache(0);
        let mut steps = Vec::new();
        for (start, n) in [(split, 2), (split + 2, 1), (split + 3, targets - split - 3)] {
            let ids = part(&ids, start, n);
            steps.push(
                model
                    .decode(&ids, &encoded, Some(&mut cache), &hooks)
                    .unwrap(),
            );
        }
        assert_eq!((cache.len(), cache.is_empty()), (targets, false), "{name}");
        assert_eq!(steps[0].dims()[..2], [size, split + 2], "{name}");
        case.tolerance.check(
            &format!("{name}: in front of the targets, in pieces"),
            &host(Tensor::cat(steps, 1)),
            &host(expected),
        );
    }
}

/// Longer padding changes nothing.
#[test]
fn parity_does_not_depend_on_the_length_of_padding() {
    for case in cases() {
        let batch = case.batch();
        let [size, _] = batch.input_ids.dims();
        let pad = case.model.tokens().pad;
        let longer = |x: &Tensor<2, Int>, value: i64| {
            let padding = Tensor::full([size, 3], value, &case.device);
            Tensor::cat(vec![x.clone(), padding], 1)
        };
        let padded = EncoderBatch {
            input_ids: longer(&batch.input_ids, pad),
            attention_mask: longer(&batch.attention_mask, 0),
            token_type_ids: None,
        };
        let logits = |batch| host(case.logits(&case.model, batch, &NoHooks));
        case.tolerance
            .check(&case.fixture.name, &logits(&padded), &logits(&batch));
    }
}

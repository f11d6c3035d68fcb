//! A stack as what acts on a base.

use std::borrow::Borrow;

use burn::tensor::{Int, Tensor};
use hybrid_models::{
    Aside, Embedding, Hooks, KeyValue, Linear, Norm, Recomputation, SiteId, Stack, TokenRanks,
};

use super::Adapters;
use crate::any_method::AnyMethod;
use crate::method::Pass;
use crate::recomputed;

/// The function of a linear site under the first methods of a stack.
fn through(stack: &[AnyMethod], base: &Linear, x: Tensor<3>, pass: Pass) -> Tensor<3> {
    match stack.split_last() {
        Some((outer, inner)) => {
            let inner = |x| through(inner, base, x, pass);
            outer.as_method().linear(base, x, pass, &inner)
        }
        None => base.forward(x),
    }
}

/// A stack in one forward.
pub(crate) struct Acting<A> {
    adapters: A,
    pass: Pass,
    recomputation: Option<Recomputation>,
}

impl<A: Borrow<Adapters>> Acting<A> {
    pub(crate) fn new(adapters: A, pass: Pass) -> Self {
        Self {
            adapters,
            pass,
            recomputation: None,
        }
    }

    pub(crate) fn adapters(&self) -> &Adapters {
        self.adapters.borrow()
    }
}

impl Adapters {
    /// The hooks of one forward that trains: dropout draws from `seed`. The stack itself, as hooks,
    /// drops nothing.
    pub fn training(&self, seed: u64) -> impl Hooks {
        Acting::new(self, Pass::Training { seed })
    }

    /// The same, but that the layers of an encoder or a decoder keep their input alone and are run
    /// again in backward. Where keys and values are put in front of the tokens, they are not. The
    /// hooks serve one forward and one backward.
    pub fn training_recomputed(&self, seed: u64) -> impl Hooks {
        let pass = Pass::Training { seed };
        Acting {
            recomputation: recomputed::recomputation(self, pass),
            ..Acting::new(self, pass)
        }
    }

    fn inference(&self) -> Acting<&Self> {
        Acting::new(self, Pass::Inference)
    }
}

impl<A: Borrow<Adapters>> Hooks for Acting<A> {
    fn linear(&self, base: &Linear, x: Tensor<3>) -> Tensor<3> {
        let stack = &self.adapters().stack;
        match self.adapters().replaced_linear(base) {
            Some(replaced) => through(stack, &replaced, x, self.pass),
            None => through(stack, base, x, self.pass),
        }
    }

    fn acts_on_linear(&self, site: SiteId) -> bool {
        self.adapters().acts_on(site)
    }

    fn takes_tokens_alone(&self) -> bool {
        // The rows of Poly each have a task, and LiLy's mix by means over a batch.
        let takes = |method: &AnyMethod| {
            let is_by_row = matches!(method, AnyMethod::Poly(_) | AnyMethod::Lily(_));
            let method = method.as_method();
            !(is_by_row || method.in_front() || method.acts_on_layers())
        };
        self.adapters().stack.iter().all(takes)
    }

    fn recomputation(&self) -> Option<&Recomputation> {
        self.recomputation.as_ref()
    }

    fn norm(&self, base: &Norm, x: Tensor<3>) -> Tensor<3> {
        match self.adapters().replaced_norm(base) {
            Some(replaced) => replaced.forward(x),
            None => base.forward(x),
        }
    }

    fn embedding(&self, base: &Embedding, ids: Tensor<2, Int>) -> Tensor<3> {
        let replaced = self.adapters().replaced_embedding(base);
        let base = replaced.as_ref().unwrap_or(base);
        let methods = self.adapters().stack.iter().map(AnyMethod::as_method);
        methods.fold(base.forward(ids.clone()), |y, method| {
            method.embedding(base, &ids, y)
        })
    }

    fn block(&self, site: SiteId, x: &Tensor<3>, y: Tensor<3>) -> Tensor<3> {
        let stack = self.adapters().stack.iter();
        stack.fold(y, |y, method| method.as_method().block(site, x, y))
    }

    fn acts_on_layers(&self) -> bool {
        let mut stack = self.adapters().stack.iter();
        stack.any(|method| method.as_method().acts_on_layers())
    }

    fn layer(&self, last_block: SiteId, ranks: &TokenRanks, y: Tensor<3>) -> Tensor<3> {
        let stack = self.adapters().stack.iter();
        stack.fold(y, |y, method| {
            method.as_method().layer(last_block, ranks, y)
        })
    }

    fn over(&self, ranks: &TokenRanks) -> Option<Box<dyn Hooks + '_>> {
        let adapters = self.adapters().over_rows(ranks)?;
        Some(Box::new(Acting::new(adapters, self.pass)))
    }

    fn prefix(&self, output: &Linear, x: &Tensor<3>, prefix: &KeyValue) -> KeyValue {
        let stack = self.adapters().stack.iter();
        stack.fold(prefix.clone(), |prefix, method| {
            method.as_method().prefix(output, x, prefix)
        })
    }

    fn embedded(&self, stack: Stack, words: Tensor<3>) -> Tensor<3> {
        let methods = self.adapters().stack.iter();
        methods.fold(words, |words, method| {
            method.as_method().embedded(stack, words, self.pass)
        })
    }

    fn aside(&self, key: &Linear) -> Option<Aside> {
        let mut methods = self.adapters().stack.iter();
        methods.find_map(|method| method.as_method().aside(key))
    }

    fn key_values(&self, stack: Stack) -> Option<Vec<KeyValue>> {
        let methods = self.adapters().stack.iter();
        methods
            .filter_map(|method| method.as_method().key_values(stack))
            .reduce(side_by_side)
    }
}

/// The keys and values of two methods, layer by layer.
fn side_by_side(first: Vec<KeyValue>, second: Vec<KeyValue>) -> Vec<KeyValue> {
    let joined = |a: KeyValue, b: KeyValue| KeyValue {
        key: Tensor::cat(vec![a.key, b.key], 2),
        value: Tensor::cat(vec![a.value, b.value], 2),
    };
    let layers = first.into_iter().zip(second);
    layers.map(|(a, b)| joined(a, b)).collect()
}

impl Hooks for Adapters {
    fn linear(&self, base: &Linear, x: Tensor<3>) -> Tensor<3> {
        self.inference().linear(base, x)
    }

    fn acts_on_linear(&self, site: SiteId) -> bool {
        self.acts_on(site)
    }

    fn takes_tokens_alone(&self) -> bool {
        self.inference().takes_tokens_alone()
    }

    fn norm(&self, base: &Norm, x: Tensor<3>) -> Tensor<3> {
        self.inference().norm(base, x)
    }

    fn embedding(&self, base: &Embedding, ids: Tensor<2, Int>) -> Tensor<3> {
        self.inference().embedding(base, ids)
    }

    fn block(&self, site: SiteId, x: &Tensor<3>, y: Tensor<3>) -> Tensor<3> {
        self.inference().block(site, x, y)
    }

    fn acts_on_layers(&self) -> bool {
        self.inference().acts_on_layers()
    }

    fn layer(&self, last_block: SiteId, ranks: &TokenRanks, y: Tensor<3>) -> Tensor<3> {
        self.inference().layer(last_block, ranks, y)
    }

    fn over(&self, ranks: &TokenRanks) -> Option<Box<dyn Hooks + '_>> {
        let adapters = self.over_rows(ranks)?;
        Some(Box::new(Acting::new(adapters, Pass::Inference)))
    }

    fn prefix(&self, output: &Linear, x: &Tensor<3>, prefix: &KeyValue) -> KeyValue {
        self.inference().prefix(output, x, prefix)
    }

    fn embedded(&self, stack: Stack, words: Tensor<3>) -> Tensor<3> {
        self.inference().embedded(stack, words)
    }

    fn aside(&self, key: &Linear) -> Option<Aside> {
        self.inference().aside(key)
    }

    fn key_values(&self, stack: Stack) -> Option<Vec<KeyValue>> {
        self.inference().key_values(stack)
    }
}

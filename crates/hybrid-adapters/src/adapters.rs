//! A stack of methods over one base.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet};

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData};
use hybrid_models::{
    Aside, Base, Embedding, Hooks, KeyValue, Linear, Norm, Recomputation, SiteId, Stack, TokenRanks,
};

use crate::any_method::AnyMethod;
use crate::config::AdapterConfig;
use crate::method::{Building, Method, Pass};
use crate::unfreeze::unfrozen_sites;
use crate::{AdapterError, compose, named_tensors, poly, recomputed};

/// Methods in declared order, acting on a base through its hooks.
///
/// A clone shares the tensors. Parameters are named
/// `stack.{place}.{Method}.{part}.{site path}.{tensor}`, e.g.
/// `stack.0.Lora.factors.encoder.layer.0.attention.self.query.lora_a`.
#[derive(Module, Debug)]
pub struct Adapters {
    stack: Vec<AnyMethod>,
    #[module(skip)]
    configs: Vec<AdapterConfig>,
    #[module(skip)]
    lowest_layer: Option<usize>,
}

impl Adapters {
    /// A stack with its first values: the same seed gives the same values on every device.
    ///
    /// `device` may be plain or `device.autodiff()`; it must be the base's.
    ///
    /// # Errors
    /// [`AdapterError`] of the first method that does not fit the base, or
    /// [`AdapterError::Stacking`].
    pub fn init(
        configs: &[AdapterConfig],
        base: &dyn Base,
        seed: u64,
        device: &Device,
    ) -> Result<Self, AdapterError> {
        for config in configs {
            match config {
                AdapterConfig::PromptTuning(config) => config.check_start()?,
                AdapterConfig::Lora(config) => config.check_start()?,
                _ => {}
            }
        }
        Self::build(configs, base, "", seed, device)
    }

    /// The same for a base whose paths stand below `prefix` in the names that the targets use. What
    /// starts at a text that is not known starts anywhere: a file has the values.
    pub(crate) fn build(
        configs: &[AdapterConfig],
        base: &dyn Base,
        prefix: &str,
        seed: u64,
        device: &Device,
    ) -> Result<Self, AdapterError> {
        Self::build_for(configs, base, prefix, seed, device, None)
    }

    /// The same for tensors that a file holds.
    pub(crate) fn build_for(
        configs: &[AdapterConfig],
        base: &dyn Base,
        prefix: &str,
        seed: u64,
        device: &Device,
        stored: Option<&BTreeMap<String, TensorData>>,
    ) -> Result<Self, AdapterError> {
        let mut replaced = BTreeSet::new();
        for config in configs {
            if let AdapterConfig::Unfreeze(config) = config {
                replaced.extend(
                    unfrozen_sites(config, base, prefix)?
                        .iter()
                        .map(|site| site.id),
                );
            }
        }
        let mut stack = Vec::new();
        for (position, config) in configs.iter().enumerate() {
            let building = Building {
                base,
                prefix,
                replaced: &replaced,
                device,
                seed,
                position,
                stored,
            };
            stack.push(AnyMethod::init(config, &building)?);
        }
        let methods: Vec<&dyn Method> = stack.iter().map(AnyMethod::as_method).collect();
        compose::check(&methods, base.sites())?;
        let lowest_layer = lowest_layer(&methods, base);
        Ok(Self {
            stack,
            configs: configs.to_vec(),
            lowest_layer,
        })
    }

    /// The stack with the outputs of small networks in place of the networks (P-tuning's, prefix
    /// tuning's projection): it computes the same with less work, and is what PEFT's files hold.
    /// Training it trains the outputs.
    #[must_use]
    pub fn encoded(self) -> Self {
        Self {
            stack: self.stack.into_iter().map(AnyMethod::encoded).collect(),
            ..self
        }
    }

    /// The stack with the task of every row of a batch, for multitask prompts and Poly: each row has
    /// its own.
    ///
    /// # Errors
    /// [`AdapterError::Setting`] for a task that there is not.
    pub fn for_tasks(mut self, tasks: &[usize]) -> Result<Self, AdapterError> {
        let given = |method| match method {
            AnyMethod::MultitaskPromptTuning(method) => {
                Ok(AnyMethod::MultitaskPromptTuning(method.for_tasks(tasks)?))
            }
            AnyMethod::Poly(method) => Ok(AnyMethod::Poly(poly::for_tasks(method, tasks)?)),
            other => Ok(other),
        };
        self.stack = self
            .stack
            .into_iter()
            .map(given)
            .collect::<Result<_, AdapterError>>()?;
        Ok(self)
    }

    /// A stack of no method.
    pub(crate) fn empty() -> Self {
        Self {
            stack: Vec::new(),
            configs: Vec::new(),
            lowest_layer: None,
        }
    }

    /// This stack with the methods of another over the same base after its own.
    ///
    /// # Errors
    /// [`AdapterError::Stacking`].
    pub fn then(mut self, other: Self, base: &dyn Base) -> Result<Self, AdapterError> {
        self.stack.extend(other.stack);
        self.configs.extend(other.configs);
        let methods: Vec<&dyn Method> = self.stack.iter().map(AnyMethod::as_method).collect();
        compose::check(&methods, base.sites())?;
        self.lowest_layer = lowest_layer(&methods, base);
        Ok(self)
    }

    /// The stack with one of its methods changed.
    pub(crate) fn change(
        mut self,
        position: usize,
        change: impl FnOnce(AnyMethod) -> AnyMethod,
    ) -> Self {
        let method = self.stack.remove(position);
        self.stack.insert(position, change(method));
        self
    }

    /// What the methods add to the loss while training: AdaLoRA's orthogonality. None when no
    /// method adds anything.
    pub fn penalty(&self) -> Option<Tensor<1>> {
        let penalties = self
            .stack
            .iter()
            .filter_map(|method| method.as_method().penalty());
        penalties.reduce(|sum, penalty| sum + penalty)
    }

    /// The configurations in stacking order.
    pub fn configs(&self) -> &[AdapterConfig] {
        &self.configs
    }

    /// Number of trainable values.
    pub fn n_parameters(&self) -> usize {
        self.num_params()
    }

    /// The lowest transformer layer that the stack acts on: everything under it is a pure function
    /// of the input. 0 when it acts on the embeddings, none when it acts on no layer.
    pub fn lowest_layer(&self) -> Option<usize> {
        self.lowest_layer
    }

    fn acts_on(&self, site: SiteId) -> bool {
        let mut methods = self.stack.iter().map(AnyMethod::as_method);
        methods.any(|method| method.sites().contains(&site))
    }

    /// Names and float32 values of all parameters, in a stable order.
    pub fn named_tensors(&self) -> Vec<(String, TensorData)> {
        named_tensors::collect(self)
    }

    /// The stack with these values; device and training state stay.
    ///
    /// # Errors
    /// [`AdapterError::Missing`], [`AdapterError::Unexpected`], [`AdapterError::Shape`] or
    /// [`AdapterError::NotFinite`].
    pub fn load_named_tensors(
        self,
        tensors: &BTreeMap<String, TensorData>,
    ) -> Result<Self, AdapterError> {
        named_tensors::load(self, tensors)
    }

    /// The stack with the same values on `device`, ready to be trained there when it is an autodiff
    /// device.
    #[must_use]
    pub fn train_on(self, device: &Device) -> Self {
        named_tensors::train_on(self, device)
    }

    /// The stack with the same values off the autodiff context: no gradients, no dropout.
    #[must_use]
    pub fn eval(&self) -> Self {
        self.valid()
    }

    /// The stack over rows whose tokens are these, when a method averages over them.
    fn over_rows(&self, ranks: &TokenRanks) -> Option<Self> {
        let averages = |method: &AnyMethod| matches!(method, AnyMethod::Unipelt(_));
        self.stack.iter().any(averages).then(|| {
            let mut adapters = self.clone();
            for method in &mut adapters.stack {
                if let AnyMethod::Unipelt(method) = method {
                    *method = method.clone().over(ranks);
                }
            }
            adapters
        })
    }

    pub(crate) fn stack(&self) -> &[AnyMethod] {
        &self.stack
    }

    pub(crate) fn stack_mut(&mut self) -> &mut [AnyMethod] {
        &mut self.stack
    }

    pub(crate) fn replaced_linear(&self, base: &Linear) -> Option<Linear> {
        self.stack
            .iter()
            .find_map(|method| method.as_method().replace_linear(base))
    }

    pub(crate) fn replaced_norm(&self, base: &Norm) -> Option<Norm> {
        self.stack
            .iter()
            .find_map(|method| method.as_method().replace_norm(base))
    }

    pub(crate) fn replaced_embedding(&self, base: &Embedding) -> Option<Embedding> {
        self.stack
            .iter()
            .find_map(|method| method.as_method().replace_embedding(base))
    }
}

/// A site that is in no layer counts for the one that the forward reaches next: embeddings for the
/// first, what stands between an encoder and a decoder for the decoder's first. What is in front of
/// the tokens moves their positions.
fn lowest_layer(methods: &[&dyn Method], base: &dyn Base) -> Option<usize> {
    let layer = |site: SiteId| {
        let from_here = base.sites().iter().skip(site.index());
        from_here.filter_map(|site| site.layer).next()
    };
    if methods.iter().any(|method| method.in_front()) {
        return Some(0);
    }
    methods
        .iter()
        .flat_map(|method| method.sites())
        .filter_map(layer)
        .min()
}

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

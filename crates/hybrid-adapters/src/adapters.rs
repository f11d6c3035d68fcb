//! A stack of methods over one base.

mod acting;

use std::collections::{BTreeMap, BTreeSet};

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use hybrid_models::{Base, Embedding, Linear, Norm, SiteId, TokenRanks};

use crate::any_method::AnyMethod;
use crate::config::AdapterConfig;
use crate::method::{Building, Method};
use crate::unfreeze::unfrozen_sites;
use crate::{AdapterError, compose, named_tensors, poly};

pub(crate) use acting::Acting;

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

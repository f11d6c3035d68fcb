//! The seam between a stack and its methods: what a method is given, and where it may act.

use std::collections::{BTreeMap, BTreeSet};

use burn::tensor::{Device, Int, Tensor, TensorData};
use hybrid_models::{
    Aside, Base, Embedding, KeyValue, Linear, Norm, Site, SiteId, SiteKind, Stack, TokenRanks,
};

use crate::AdapterError;
use crate::random::HostRandom;
use crate::targets::Selector;

/// What a method builds itself from.
pub(crate) struct Building<'a> {
    pub(crate) base: &'a dyn Base,
    /// Stands before every path while targets are matched.
    pub(crate) prefix: &'a str,
    /// Sites whose weights another method of the stack replaces: none of the others acts there.
    pub(crate) replaced: &'a BTreeSet<SiteId>,
    pub(crate) device: &'a Device,
    pub(crate) seed: u64,
    /// Place in the stack.
    pub(crate) position: usize,
    /// The file that is being read: where settings leave something open, its shapes decide.
    pub(crate) stored: Option<&'a BTreeMap<String, TensorData>>,
}

impl Building<'_> {
    /// The numbers for the first values at one site.
    pub(crate) fn random(&self, site: SiteId) -> HostRandom {
        HostRandom::new(
            self.seed,
            (self.position as u64) << 32 | site.index() as u64,
        )
    }

    /// The numbers for the first values of a part that is at no site.
    pub(crate) fn random_part(&self, part: u32) -> HostRandom {
        let stream = (self.position as u64) << 32 | u64::from(u32::MAX - part);
        HostRandom::new(self.seed, stream)
    }

    /// The linear sites of a selection.
    ///
    /// # Errors
    /// [`AdapterError::NoTarget`], or [`AdapterError::UnsupportedTarget`] when the selection also
    /// takes a norm or an embedding.
    pub(crate) fn linear_sites(
        &self,
        method: &'static str,
        selector: &Selector<'_>,
    ) -> Result<Vec<&Site>, AdapterError> {
        self.sites_of(method, selector, |kind| {
            matches!(kind, SiteKind::Linear { .. })
        })
    }

    /// The linear sites and embeddings of a selection.
    ///
    /// # Errors
    /// [`AdapterError::NoTarget`], or [`AdapterError::UnsupportedTarget`] when the selection also
    /// takes a norm.
    pub(crate) fn weight_sites(
        &self,
        method: &'static str,
        selector: &Selector<'_>,
    ) -> Result<Vec<&Site>, AdapterError> {
        self.sites_of(method, selector, |kind| {
            matches!(kind, SiteKind::Linear { .. } | SiteKind::Embedding { .. })
        })
    }

    /// The embeddings of a selection.
    ///
    /// # Errors
    /// [`AdapterError::NoTarget`], or [`AdapterError::UnsupportedTarget`] when the selection also
    /// takes anything else.
    pub(crate) fn embedding_sites(
        &self,
        method: &'static str,
        selector: &Selector<'_>,
    ) -> Result<Vec<&Site>, AdapterError> {
        self.sites_of(method, selector, |kind| {
            matches!(kind, SiteKind::Embedding { .. })
        })
    }

    fn sites_of(
        &self,
        method: &'static str,
        selector: &Selector<'_>,
        wanted: impl Fn(&SiteKind) -> bool,
    ) -> Result<Vec<&Site>, AdapterError> {
        let sites = self.select(selector, |kind| !matches!(kind, SiteKind::Block { .. }))?;
        match sites.iter().find(|site| !wanted(&site.kind)) {
            Some(site) => Err(AdapterError::UnsupportedTarget {
                method,
                site: site.path.clone(),
                found: match site.kind {
                    SiteKind::Linear { .. } => "a linear layer",
                    SiteKind::Norm { .. } => "a norm",
                    SiteKind::Embedding { .. } => "an embedding",
                    SiteKind::Block { .. } => "a block",
                },
            }),
            None => Ok(sites),
        }
    }

    /// The selected sites of some kinds.
    ///
    /// # Errors
    /// [`AdapterError::NoTarget`].
    pub(crate) fn select(
        &self,
        selector: &Selector<'_>,
        wanted: impl Fn(&SiteKind) -> bool,
    ) -> Result<Vec<&Site>, AdapterError> {
        let free = |site: &Site| wanted(&site.kind) && !self.replaced.contains(&site.id);
        selector.select(self.base.sites(), self.prefix, free)
    }
}

/// The rest of a linear site's function, inside of a method.
pub(crate) type Inner<'a> = &'a dyn Fn(Tensor<3>) -> Tensor<3>;

/// What a forward is for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Pass {
    /// Nothing is dropped.
    Inference,
    /// Dropout draws its masks from this seed.
    Training {
        /// The seed of all masks of this forward.
        seed: u64,
    },
}

/// What PEFT calls a parameter.
#[derive(Debug, Clone)]
pub(crate) struct PeftName {
    /// Module path and tensor in the model.
    pub(crate) key: String,
    /// The same in files, or a whole key.
    pub(crate) stored: String,
}

/// A tensor that is not trained and that PEFT's files hold.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    /// Its key as [`Method::peft_name`] gives names, or whole.
    pub(crate) stored: String,
    pub(crate) data: TensorData,
    /// Whether a file holds it under another key too, so that it can do without this one.
    pub(crate) again: bool,
}

impl Kept {
    /// A tensor that no file can do without.
    pub(crate) fn needed(stored: String, data: TensorData) -> Self {
        Self {
            stored,
            data,
            again: false,
        }
    }

    /// The whole key of what all sites share.
    pub(crate) fn of_all_sites(key: &str) -> String {
        format!("base_model.{key}")
    }
}

/// A method in place: which sites it touches and what it does there.
///
/// Replacing a layer comes first, whatever the order of the stack; then each method in turn wraps
/// the function so far.
pub(crate) trait Method {
    /// Name in recipes and messages.
    fn name(&self) -> &'static str;

    /// Sites it acts on, each once, in any order.
    fn sites(&self) -> Vec<SiteId> {
        Vec::new()
    }

    /// Sites at which it replaces values of the base itself.
    fn replaces(&self) -> Vec<SiteId> {
        Vec::new()
    }

    /// The linear layer to use instead.
    fn replace_linear(&self, _base: &Linear) -> Option<Linear> {
        None
    }

    /// The norm to use instead.
    fn replace_norm(&self, _base: &Norm) -> Option<Norm> {
        None
    }

    /// The embedding to use instead.
    fn replace_embedding(&self, _base: &Embedding) -> Option<Embedding> {
        None
    }

    /// Linear sites whose function it wraps.
    fn wraps(&self) -> Vec<SiteId> {
        Vec::new()
    }

    /// Those among them at which it needs the base's own weight: no method may wrap between.
    fn next_to_base(&self) -> Vec<SiteId> {
        Vec::new()
    }

    /// Wraps a linear site; `base` is the layer there after replacing.
    fn linear(&self, _base: &Linear, x: Tensor<3>, _pass: Pass, inner: Inner<'_>) -> Tensor<3> {
        inner(x)
    }

    /// Changes what an embedding gives; `base` is the table there after replacing.
    fn embedding(&self, _base: &Embedding, _ids: &Tensor<2, Int>, y: Tensor<3>) -> Tensor<3> {
        y
    }

    /// Whether it puts something in front of the tokens, which all layers see.
    fn in_front(&self) -> bool {
        false
    }

    /// Puts vectors in front of the words that enter a stack of layers.
    fn embedded(&self, _stack: Stack, words: Tensor<3>, _pass: Pass) -> Tensor<3> {
        words
    }

    /// States that a layer's self-attention attends to aside, by the layer's key projection.
    fn aside(&self, _key: &Linear) -> Option<Aside> {
        None
    }

    /// Keys and values in front of each layer's own.
    fn key_values(&self, _stack: Stack) -> Option<Vec<KeyValue>> {
        None
    }

    /// Changes what stands in front of one layer's keys and values, by the layer's output projection,
    /// given the input `x` of its other projections.
    fn prefix(&self, _output: &Linear, _x: &Tensor<3>, prefix: KeyValue) -> KeyValue {
        prefix
    }

    /// Acts on the output `y` of a sub-layer with the input `x`.
    fn block(&self, _site: SiteId, _x: &Tensor<3>, y: Tensor<3>) -> Tensor<3> {
        y
    }

    /// Whether it acts on the outputs of whole layers.
    fn acts_on_layers(&self) -> bool {
        false
    }

    /// Acts on the output of a layer, by the site of its last sub-layer.
    fn layer(&self, _last_block: SiteId, _ranks: &TokenRanks, y: Tensor<3>) -> Tensor<3> {
        y
    }

    /// What it adds to the loss while training.
    fn penalty(&self) -> Option<Tensor<1>> {
        None
    }

    /// The linear layer that alone computes what [`Method::linear`] around `inner` computes.
    ///
    /// # Errors
    /// [`AdapterError::NotMergeable`].
    fn merge_linear(&self, inner: Linear) -> Result<Linear, AdapterError> {
        Ok(inner)
    }

    /// The table that alone gives what [`Method::embedding`] over `inner` gives.
    fn merge_embedding(&self, inner: Embedding) -> Embedding {
        inner
    }

    /// Path and tensor in PEFT's files of a parameter, whose name is without the method's own; for
    /// methods that files have in one way only.
    fn peft_name(&self, _name: &str) -> Option<PeftName> {
        None
    }

    /// Other keys of PEFT's files that have the same parameter's values.
    fn peft_copies(&self, _name: &str) -> Vec<String> {
        Vec::new()
    }

    /// Frozen tensors that PEFT's files hold.
    fn kept(&self) -> Vec<Kept> {
        Vec::new()
    }

    /// Takes a frozen tensor, with the key and shape that [`Method::kept`] gives it.
    ///
    /// # Errors
    /// [`AdapterError::Setting`] for values that make no sense.
    fn keep(&mut self, _stored: &str, _data: &TensorData) -> Result<(), AdapterError> {
        Ok(())
    }

    /// Whether the base's weights can hold its effect.
    ///
    /// # Errors
    /// [`AdapterError::NotMergeable`].
    fn mergeable(&self) -> Result<(), AdapterError> {
        Ok(())
    }
}

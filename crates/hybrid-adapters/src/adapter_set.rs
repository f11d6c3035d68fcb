//! Named stacks over one base, of which any act together: what PEFT has as `set_adapter` and
//! `disable_adapter`.
//!
//! Nothing is switched within the base or a stack. A forward takes what acts on it as an argument, so
//! what is off is left out of that.

use std::collections::BTreeMap;

use hybrid_models::Base;

use crate::{AdapterError, Adapters};

/// Named stacks over one base.
///
/// ```no_run
/// # use hybrid_adapters::{AdapterError, AdapterSet, load_peft};
/// # use hybrid_models::{EncoderBatch, Model};
/// # fn classify(model: &Model, batch: &EncoderBatch) -> Result<(), AdapterError> {
/// let device = batch.input_ids.device();
/// let load = |folder: &str| load_peft(folder.as_ref(), model, &device);
/// let adapters = AdapterSet::new([
///     ("bank".to_owned(), load("adapters/bank")?),
///     ("polite".to_owned(), load("adapters/polite")?),
/// ]);
/// let both = model.classify(batch, &adapters.active(&["bank", "polite"], model)?)?;
/// // Without "polite".
/// let one = model.classify(batch, &adapters.active(&["bank"], model)?)?;
/// // The base as it is.
/// let none = model.classify(batch, &adapters.active(&[], model)?)?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default)]
pub struct AdapterSet {
    named: BTreeMap<String, Adapters>,
}

impl AdapterSet {
    /// Stacks by name; of two with one name the later is kept.
    pub fn new(adapters: impl IntoIterator<Item = (String, Adapters)>) -> Self {
        Self {
            named: adapters.into_iter().collect(),
        }
    }

    /// The names in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.named.keys().map(String::as_str)
    }

    /// The stack of a name.
    ///
    /// # Errors
    /// [`AdapterError::NoSuchAdapter`].
    pub fn get(&self, name: &str) -> Result<&Adapters, AdapterError> {
        self.named
            .get(name)
            .ok_or_else(|| AdapterError::NoSuchAdapter {
                name: name.to_owned(),
                known: self.named.keys().cloned().collect(),
            })
    }

    /// One stack in which those of these names act, in this order; with no name it is the base's own
    /// function. It shares their tensors.
    ///
    /// # Errors
    /// [`AdapterError::NoSuchAdapter`], or [`AdapterError::Stacking`] for stacks that cannot act
    /// together.
    pub fn active(&self, names: &[&str], base: &dyn Base) -> Result<Adapters, AdapterError> {
        names.iter().try_fold(Adapters::empty(), |stack, name| {
            stack.then(self.get(name)?.clone(), base)
        })
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &Adapters)> {
        let named = self.named.iter();
        named.map(|(name, adapters)| (name.as_str(), adapters))
    }
}

//! Several stacks over one base in one batch, each row with its own, as PEFT's `adapter_names` has it.
//!
//! At every site the rows of a stack are taken out, go through the stack's function of the site, and
//! are put back; what lies between the sites is computed for all rows together. So each row is what
//! it is with its stack alone, and the base is there once.

use std::collections::{BTreeMap, BTreeSet};

use burn::tensor::{Device, Int, Tensor, TensorData};
use hybrid_models::{Base, Embedding, Hooks, Linear, Norm, SiteId, TokenRanks};

use crate::any_method::AnyMethod;
use crate::{AdapterError, AdapterSet, Adapters};

/// Named stacks over one base.
///
/// ```no_run
/// # use hybrid_adapters::{AdapterError, RowAdapters, load_peft};
/// # use hybrid_models::{EncoderBatch, Model};
/// # fn classify(model: &Model, batch: &EncoderBatch) -> Result<(), AdapterError> {
/// let device = batch.input_ids.device();
/// let load = |folder: &str| load_peft(folder.as_ref(), model, &device);
/// let adapters = RowAdapters::new(
///     [
///         ("bank".to_owned(), load("adapters/bank")?),
///         ("travel".to_owned(), load("adapters/travel")?),
///     ],
///     model,
/// )?;
/// // The third row is the base's own.
/// let hooks = adapters.for_rows(&[Some("bank"), Some("travel"), None])?;
/// let logits = model.classify(batch, &hooks)?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct RowAdapters {
    named: AdapterSet,
}

impl RowAdapters {
    /// Stacks by name; of two with one name the later is kept.
    ///
    /// # Errors
    /// [`AdapterError::NotByRow`] for a stack with a method that a row cannot have for itself.
    pub fn new(
        adapters: impl IntoIterator<Item = (String, Adapters)>,
        base: &dyn Base,
    ) -> Result<Self, AdapterError> {
        let named = AdapterSet::new(adapters);
        for (name, adapters) in named.iter() {
            for (config, method) in adapters.configs().iter().zip(adapters.stack()) {
                if let Some(reason) = obstacle(method, base) {
                    return Err(AdapterError::NotByRow {
                        adapter: name.to_owned(),
                        method: config.name(),
                        reason,
                    });
                }
            }
        }
        Ok(Self { named })
    }

    /// The names in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.named.names()
    }

    /// The hooks of forwards over as many rows as there are names here, each row with the stack of its
    /// name, or with none. Nothing is dropped.
    ///
    /// # Errors
    /// [`AdapterError::NoSuchAdapter`].
    ///
    /// # Panics
    /// The hooks, in a forward over another number of rows, and where a stack acts on an output layer
    /// that is asked for single places of rows.
    pub fn for_rows(&self, rows: &[Option<&str>]) -> Result<impl Hooks + '_, AdapterError> {
        let mut groups: BTreeMap<Option<&str>, Vec<usize>> = BTreeMap::new();
        for (row, name) in rows.iter().enumerate() {
            groups.entry(*name).or_default().push(row);
        }
        let stack = |(name, rows): (Option<&str>, Vec<usize>)| -> Result<Group<'_>, AdapterError> {
            let stack = name.map(|name| self.named.get(name)).transpose()?;
            Ok(Group { stack, rows })
        };
        let groups = groups.into_iter().map(stack);
        let groups: Vec<Group<'_>> = groups.collect::<Result<_, _>>()?;
        let mut places = vec![0; rows.len()];
        let in_order = groups.iter().flat_map(|group| &group.rows).enumerate();
        in_order.for_each(|(place, row)| places[*row] = place);
        let stacks = groups.iter().filter_map(|group| group.stack);
        let methods = stacks.flat_map(Adapters::stack);
        let sites = methods
            .flat_map(|method| method.as_method().sites())
            .collect();
        Ok(ByRow {
            groups,
            places,
            sites,
        })
    }
}

/// What keeps a row from having a method for itself.
pub(crate) fn obstacle(method: &AnyMethod, base: &dyn Base) -> Option<&'static str> {
    let at_distances = |site: &SiteId| {
        let path = &base.sites().get(*site).path;
        path.ends_with("relative_attention_bias")
    };
    match method {
        AnyMethod::AdaptionPrompt(_) => Some("all rows of a batch attend to one prompt aside"),
        AnyMethod::Lily(_) => Some("its factors are mixed for all rows of a batch together"),
        AnyMethod::Poly(_) => Some("it has a task for each row itself"),
        other if other.as_method().in_front() => {
            Some("all rows of a batch have as many positions in front")
        }
        other if other.as_method().sites().iter().any(at_distances) => {
            Some("all rows of a batch share the biases of distances")
        }
        _ => None,
    }
}

/// The rows of one stack, in rising order.
struct Group<'a> {
    /// None for the base's own.
    stack: Option<&'a Adapters>,
    rows: Vec<usize>,
}

impl Group<'_> {
    /// # Shapes
    /// - `x`: `[batch, seq, width]` → `[rows, seq, width]`
    fn of(&self, x: &Tensor<3>) -> Tensor<3> {
        taken(x.clone(), &self.rows)
    }
}

struct ByRow<'a> {
    groups: Vec<Group<'a>>,
    /// Of each row, its place among the rows of all groups one after the other.
    places: Vec<usize>,
    /// Where a stack does anything.
    sites: BTreeSet<SiteId>,
}

impl ByRow<'_> {
    fn check(&self, rows: usize) {
        let expected = self.places.len();
        assert_eq!(rows, expected, "rows of a batch with an adapter for each");
    }

    /// What a function of rows with their stack gives, in the order of the batch.
    fn put_together(&self, function: impl Fn(&Group<'_>) -> Tensor<3>) -> Tensor<3> {
        let parts: Vec<Tensor<3>> = self.groups.iter().map(function).collect();
        taken(Tensor::cat(parts, 0), &self.places)
    }
}

/// Rows of a tensor. No value is moved where they are all of it.
///
/// # Shapes
/// - `x`: `[batch, seq, width]` → `[rows, seq, width]`
fn taken(x: Tensor<3>, rows: &[usize]) -> Tensor<3> {
    let [batch, _, _] = x.dims();
    match rows.iter().copied().eq(0..batch) {
        true => x,
        false => {
            let device = x.device().without_autodiff();
            x.select(0, indices(rows, &device))
        }
    }
}

fn indices(rows: &[usize], device: &Device) -> Tensor<1, Int> {
    let rows: Vec<i32> = rows.iter().map(|row| *row as i32).collect();
    let n = rows.len();
    Tensor::from_data(TensorData::new(rows, [n]), device)
}

impl Hooks for ByRow<'_> {
    fn linear(&self, base: &Linear, x: Tensor<3>) -> Tensor<3> {
        if !self.sites.contains(&base.site) {
            return base.forward(x);
        }
        self.check(x.dims()[0]);
        self.put_together(|group| match group.stack {
            Some(stack) => stack.linear(base, group.of(&x)),
            None => base.forward(group.of(&x)),
        })
    }

    fn norm(&self, base: &Norm, x: Tensor<3>) -> Tensor<3> {
        if !self.sites.contains(&base.site) {
            return base.forward(x);
        }
        self.check(x.dims()[0]);
        self.put_together(|group| match group.stack {
            Some(stack) => stack.norm(base, group.of(&x)),
            None => base.forward(group.of(&x)),
        })
    }

    fn embedding(&self, base: &Embedding, ids: Tensor<2, Int>) -> Tensor<3> {
        if !self.sites.contains(&base.site) {
            return base.forward(ids);
        }
        // Positions may be told once for all rows.
        let ids = match ids.dims() {
            [1, seq] => ids.expand([self.places.len(), seq]),
            _ => ids,
        };
        self.check(ids.dims()[0]);
        let device = ids.device();
        self.put_together(|group| {
            let ids = ids.clone().select(0, indices(&group.rows, &device));
            match group.stack {
                Some(stack) => stack.embedding(base, ids),
                None => base.forward(ids),
            }
        })
    }

    fn block(&self, site: SiteId, x: &Tensor<3>, y: Tensor<3>) -> Tensor<3> {
        if !self.sites.contains(&site) {
            return y;
        }
        self.check(y.dims()[0]);
        self.put_together(|group| match group.stack {
            Some(stack) => stack.block(site, &group.of(x), group.of(&y)),
            None => group.of(&y),
        })
    }

    fn acts_on_layers(&self) -> bool {
        let mut stacks = self.groups.iter().filter_map(|group| group.stack);
        stacks.any(Adapters::acts_on_layers)
    }

    fn layer(&self, last_block: SiteId, ranks: &TokenRanks, y: Tensor<3>) -> Tensor<3> {
        if !self.sites.contains(&last_block) {
            return y;
        }
        self.check(y.dims()[0]);
        let device = y.device().without_autodiff();
        let of_rows = |ranks: &Tensor<2, Int>, rows: &[usize]| match ranks.dims() {
            [1, _] => ranks.clone(),
            _ => ranks.clone().select(0, indices(rows, &device)),
        };
        self.put_together(|group| {
            let Some(stack) = group.stack else {
                return group.of(&y);
            };
            let ranks = TokenRanks {
                from_start: of_rows(&ranks.from_start, &group.rows),
                from_end: ranks.from_end.as_ref().map(|end| of_rows(end, &group.rows)),
            };
            stack.layer(last_block, &ranks, group.of(&y))
        })
    }
}

//! Several stacks over one base in one batch that holds the same rows once for each, one stack's after
//! the other's: settings that are tried on the same data share the base's products.
//!
//! At a linear site where every stack has one plain LoRA or nothing, the base's product is one over all
//! rows, and so are the products of the LoRAs. At other sites each stack's function runs on its part.

use std::collections::BTreeSet;

use burn::tensor::{Int, Tensor};
use hybrid_models::{Base, Embedding, Hooks, Linear, Norm, SiteId, TokenRanks, divided};

use crate::adapters::Acting;
use crate::any_method::AnyMethod;
use crate::by_row::obstacle;
use crate::lora::{self, Factors};
use crate::method::Pass;
use crate::{AdapterError, Adapters};

/// The hooks of one forward over as many copies of some rows as there are stacks. Each copy is what it
/// is with its stack alone.
///
/// ```no_run
/// # use hybrid_adapters::{Adapters, SideBySide};
/// # use hybrid_models::{EncoderBatch, Model};
/// # fn both(model: &Model, batch: &EncoderBatch, small: &Adapters, large: &Adapters) {
/// let [rows, _] = batch.input_ids.dims();
/// let twice = EncoderBatch {
///     input_ids: batch.input_ids.clone().repeat(&[2, 1]),
///     attention_mask: batch.attention_mask.clone().repeat(&[2, 1]),
///     token_type_ids: None,
/// };
/// let hooks = SideBySide::training(&[small, large], rows, 42);
/// let hidden = model.encoder.forward(&twice, &hooks);
/// # }
/// ```
pub struct SideBySide<'a> {
    stacks: Vec<Acting<&'a Adapters>>,
    pass: Pass,
    /// Of each stack.
    rows: usize,
    /// Where a stack does anything.
    sites: BTreeSet<SiteId>,
}

impl<'a> SideBySide<'a> {
    /// Whether a stack may stand beside others.
    ///
    /// # Errors
    /// [`AdapterError::NotSideBySide`] for a method that acts on a batch as a whole.
    pub fn check(adapters: &Adapters, base: &dyn Base) -> Result<(), AdapterError> {
        for (config, method) in adapters.configs().iter().zip(adapters.stack()) {
            if let Some(reason) = obstacle(method, base) {
                return Err(AdapterError::NotSideBySide {
                    method: config.name(),
                    reason,
                });
            }
        }
        Ok(())
    }

    /// The hooks of a forward that trains: each stack drops what [`Adapters::training`] drops.
    ///
    /// # Panics
    /// The hooks, in a forward over another number of rows than `rows` for each stack.
    pub fn training(stacks: &[&'a Adapters], rows: usize, seed: u64) -> Self {
        Self::new(stacks, rows, Pass::Training { seed })
    }

    /// The same, but that nothing is dropped.
    ///
    /// # Panics
    /// As [`training`](Self::training).
    pub fn inference(stacks: &[&'a Adapters], rows: usize) -> Self {
        Self::new(stacks, rows, Pass::Inference)
    }

    fn new(stacks: &[&'a Adapters], rows: usize, pass: Pass) -> Self {
        let methods = stacks.iter().flat_map(|stack| stack.stack());
        let sites = methods.flat_map(|method| method.as_method().sites());
        Self {
            sites: sites.collect(),
            stacks: stacks
                .iter()
                .map(|stack| Acting::new(*stack, pass))
                .collect(),
            pass,
            rows,
        }
    }

    /// The axis along which stand the parts of the stacks: tokens without padding are one row.
    fn axis(&self, [batch, _, _]: [usize; 3]) -> usize {
        let expected = self.rows * self.stacks.len();
        match batch == 1 {
            true => 1,
            false => {
                assert_eq!(
                    batch, expected,
                    "rows of a batch with a part for each stack"
                );
                0
            }
        }
    }

    /// What the stacks' functions make of their parts.
    fn of_parts(
        &self,
        x: Tensor<3>,
        function: impl Fn(&Acting<&'a Adapters>, Tensor<3>) -> Tensor<3>,
    ) -> Tensor<3> {
        let axis = self.axis(x.dims());
        let parts = self.stacks.iter().zip(divided(x, axis, self.stacks.len()));
        let parts = parts.map(|(stack, part)| function(stack, part));
        Tensor::cat(parts.collect(), axis)
    }

    /// Of each stack the plain LoRA that is all that it has at a linear site, if anything; none when a
    /// stack has more there.
    fn low_rank_at<'s>(&'s self, site: SiteId) -> Option<Vec<Option<&'s Factors>>> {
        let of_stack = |stack: &'s Acting<&'a Adapters>| {
            let methods = stack.adapters().stack().iter();
            let mut methods = methods.filter(|method| method.as_method().sites().contains(&site));
            match (methods.next(), methods.next()) {
                (None, _) => Some(None),
                (Some(AnyMethod::Lora(lora)), None) => lora.alone_at(site).map(Some),
                _ => None,
            }
        };
        self.stacks.iter().map(of_stack).collect()
    }
}

impl Hooks for SideBySide<'_> {
    fn linear(&self, base: &Linear, x: Tensor<3>) -> Tensor<3> {
        if !self.sites.contains(&base.site) {
            return base.forward(x);
        }
        let Some(factors) = self.low_rank_at(base.site) else {
            return self.of_parts(x, |stack, x| stack.linear(base, x));
        };
        let [batch, seq, d_in] = x.dims();
        // Either way what belongs to a stack stands together.
        self.axis(x.dims());
        let n_parts = self.stacks.len();
        let y = base.forward(x.clone());
        let parts = x.reshape([n_parts, batch * seq / n_parts, d_in]);
        let side = lora::of_parts(&factors, parts, base.site, self.pass);
        let dims = y.dims();
        y + side.reshape(dims)
    }

    fn acts_on_linear(&self, site: SiteId) -> bool {
        self.sites.contains(&site)
    }

    fn takes_tokens_alone(&self) -> bool {
        self.stacks.iter().all(Hooks::takes_tokens_alone)
    }

    fn norm(&self, base: &Norm, x: Tensor<3>) -> Tensor<3> {
        match self.sites.contains(&base.site) {
            true => self.of_parts(x, |stack, x| stack.norm(base, x)),
            false => base.forward(x),
        }
    }

    fn embedding(&self, base: &Embedding, ids: Tensor<2, Int>) -> Tensor<3> {
        if !self.sites.contains(&base.site) {
            return base.forward(ids);
        }
        let all = self.rows * self.stacks.len();
        // Positions may be told once for all rows.
        let ids = match ids.dims() {
            [1, seq] => ids.expand([all, seq]),
            _ => ids,
        };
        let of_stack = |(index, stack): (usize, &Acting<&Adapters>)| {
            stack.embedding(base, ids.clone().narrow(0, index * self.rows, self.rows))
        };
        let parts = self.stacks.iter().enumerate().map(of_stack);
        Tensor::cat(parts.collect(), 0)
    }

    fn block(&self, site: SiteId, x: &Tensor<3>, y: Tensor<3>) -> Tensor<3> {
        if !self.sites.contains(&site) {
            return y;
        }
        let (axis, n_parts) = (self.axis(y.dims()), self.stacks.len());
        let inputs = divided(x.clone(), axis, n_parts);
        let outputs = divided(y, axis, n_parts);
        let parts = self.stacks.iter().zip(inputs.iter().zip(outputs));
        let parts = parts.map(|(stack, (x, y))| stack.block(site, x, y));
        Tensor::cat(parts.collect(), axis)
    }

    fn acts_on_layers(&self) -> bool {
        self.stacks.iter().any(Hooks::acts_on_layers)
    }

    fn layer(&self, last_block: SiteId, ranks: &TokenRanks, y: Tensor<3>) -> Tensor<3> {
        if !self.sites.contains(&last_block) {
            return y;
        }
        let (axis, n_parts) = (self.axis(y.dims()), self.stacks.len());
        let of_part = |ranks: &Tensor<2, Int>, index: usize| match ranks.dims() {
            [1, _] => ranks.clone(),
            _ => ranks.clone().narrow(0, index * self.rows, self.rows),
        };
        let parts = self.stacks.iter().zip(divided(y, axis, n_parts));
        let parts = parts.enumerate().map(|(index, (stack, y))| {
            let ranks = TokenRanks {
                from_start: of_part(&ranks.from_start, index),
                from_end: ranks.from_end.as_ref().map(|end| of_part(end, index)),
            };
            stack.layer(last_block, &ranks, y)
        });
        Tensor::cat(parts.collect(), axis)
    }
}

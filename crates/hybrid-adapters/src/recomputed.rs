//! Copies of a stack's tensors, with which layers are run again in backward.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Gradients, Tensor};
use hybrid_models::{Copies, Hooks, Recomputation};

use crate::Adapters;
use crate::adapters::Acting;
use crate::method::Pass;

/// What the layers of one forward that trains are run again with; nothing for a stack without
/// tensors.
pub(crate) fn recomputation(adapters: &Adapters, pass: Pass) -> Option<Recomputation> {
    let mut originals = Flat(Vec::new());
    adapters.visit(&mut originals);
    let sizes = originals.0.iter().map(|tensor| tensor.dims()[0]).collect();
    let device = originals.0.first()?.device();
    let copies = Arc::new(Copied {
        acting: Acting::new(adapters.clone().fork(&device), pass),
        sizes,
        sums: Mutex::new(Vec::new()),
    });
    let plain = Arc::new(Acting::new(adapters.valid(), pass));
    Some(Recomputation::new(
        plain,
        copies,
        &Tensor::cat(originals.0, 0),
    ))
}

/// The values of all parameters in the module's order, each in one row.
struct Flat(Vec<Tensor<1>>);

impl ModuleVisitor for Flat {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.0.push(param.val().reshape([-1]));
    }
}

struct Copied {
    acting: Acting<Adapters>,
    /// Number of values of each parameter.
    sizes: Vec<usize>,
    /// Of the gradients of each parameter so far; none at all before the first.
    sums: Mutex<Vec<Option<Tensor<1>>>>,
}

impl Copied {
    fn sums(&self) -> MutexGuard<'_, Vec<Option<Tensor<1>>>> {
        let mut sums = self.sums.lock().unwrap_or_else(PoisonError::into_inner);
        sums.resize(self.sizes.len(), None);
        sums
    }
}

impl Copies for Copied {
    fn hooks(&self) -> &dyn Hooks {
        &self.acting
    }

    fn gather(&self, gradients: &mut Gradients) {
        let mut sums = self.sums();
        let sums = sums.iter_mut();
        self.acting
            .adapters()
            .visit(&mut Gathering { gradients, sums });
    }

    fn gathered(&self) -> Tensor<1> {
        let device = self.acting.adapters().devices()[0].clone().inner();
        let sums = std::mem::take(&mut *self.sums());
        let parts = sums.into_iter().zip(&self.sizes);
        let parts = parts.map(|(sum, size)| sum.unwrap_or_else(|| Tensor::zeros([*size], &device)));
        Tensor::cat(parts.collect(), 0)
    }
}

struct Gathering<'a> {
    gradients: &'a mut Gradients,
    sums: std::slice::IterMut<'a, Option<Tensor<1>>>,
}

impl ModuleVisitor for Gathering<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let sum = self.sums.next().expect("as many as there are parameters");
        if let Some(gradient) = param.val().grad_remove(self.gradients) {
            let gradient = gradient.reshape([-1]);
            *sum = Some(match sum.take() {
                Some(sum) => sum + gradient,
                None => gradient,
            });
        }
    }
}

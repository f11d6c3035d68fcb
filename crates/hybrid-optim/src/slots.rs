//! The trained parameters of a module, and what can be done with their gradients.

use std::collections::HashMap;

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::optim::{DynState, GradientsParams};
use burn::tensor::{Device, Tensor};

use crate::OptimError;
use crate::groups::Groups;

/// One float parameter: its place, its group and its optimizer state.
pub(crate) struct Slot {
    /// Path in the module, e.g. `head.weight`.
    pub(crate) path: String,
    pub(crate) id: ParamId,
    pub(crate) shape: Vec<usize>,
    /// The parameter's device, without autodiff.
    pub(crate) device: Device,
    /// Index into the groups.
    pub(crate) group: usize,
    pub(crate) state: Option<DynState>,
    operations: Operations,
}

/// Operations of one tensor rank.
#[derive(Clone, Copy)]
struct Operations {
    add: fn(&mut GradientsParams, &mut GradientsParams, ParamId),
    sum_of_squares: fn(&GradientsParams, ParamId) -> Option<Tensor<1>>,
}

/// All float parameters of a module in visiting order.
pub(crate) struct Slots {
    slots: Vec<Slot>,
    index: HashMap<ParamId, usize>,
}

impl Slots {
    /// The parameters of a module, without optimizer state. A shared parameter counts once.
    pub(crate) fn of<M: Module>(module: &M, groups: &Groups) -> Self {
        let mut collector = Collector {
            path: Vec::new(),
            groups,
            found: Self {
                slots: Vec::new(),
                index: HashMap::new(),
            },
        };
        module.visit(&mut collector);
        collector.found
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.slots.iter()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Slot> {
        self.slots.iter_mut()
    }

    pub(crate) fn get_mut(&mut self, id: ParamId) -> Option<&mut Slot> {
        self.index.get(&id).map(|index| &mut self.slots[*index])
    }

    /// Adds gradients of this module to a sum; what belongs to no parameter stays in `gradients`.
    pub(crate) fn add(&self, sum: &mut GradientsParams, gradients: &mut GradientsParams) {
        for slot in &self.slots {
            (slot.operations.add)(sum, gradients, slot.id);
        }
    }

    /// L2 norm over all gradients together, with one read from the device.
    ///
    /// # Errors
    /// [`OptimError::Device`].
    pub(crate) fn norm(&self, gradients: &GradientsParams) -> Result<f64, OptimError> {
        let squares = self
            .slots
            .iter()
            .filter_map(|slot| (slot.operations.sum_of_squares)(gradients, slot.id));
        let squares: Vec<Tensor<1>> = squares.collect();
        if squares.is_empty() {
            return Ok(0.0);
        }
        let sum = Tensor::cat(squares, 0).sum().try_into_scalar::<f32>();
        Ok(f64::from(sum.map_err(|source| OptimError::Device { source })?).sqrt())
    }
}

struct Collector<'g> {
    path: Vec<String>,
    groups: &'g Groups,
    found: Slots,
}

impl ModuleVisitor for Collector<'_> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if self.found.index.contains_key(&param.id) {
            return;
        }
        self.found.index.insert(param.id, self.found.slots.len());
        let path = self.path.join(".");
        self.found.slots.push(Slot {
            id: param.id,
            shape: param.lazy_shape().iter().copied().collect(),
            device: param.lazy_device().without_autodiff(),
            group: self.groups.index_of(&path),
            path,
            state: None,
            operations: Operations {
                add: add::<D>,
                sum_of_squares: sum_of_squares::<D>,
            },
        });
    }
}

fn add<const D: usize>(sum: &mut GradientsParams, gradients: &mut GradientsParams, id: ParamId) {
    let Some(gradient) = gradients.remove::<D>(id) else {
        return;
    };
    let gradient = match sum.remove::<D>(id) {
        Some(before) => before + gradient,
        None => gradient,
    };
    sum.register(id, gradient);
}

fn sum_of_squares<const D: usize>(gradients: &GradientsParams, id: ParamId) -> Option<Tensor<1>> {
    gradients
        .get::<D>(id)
        .map(|gradient| gradient.square().sum())
}

//! Parameters of a module by name, out of it and into it.

use std::collections::{BTreeMap, BTreeSet};

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor, TensorData};

use crate::{AdapterError, frozen};

/// Names and float32 values of all parameters, in the module's order.
pub(crate) fn collect<M: Module>(module: &M) -> Vec<(String, TensorData)> {
    let mut collector = Collector {
        path: Vec::new(),
        tensors: Vec::new(),
    };
    module.visit(&mut collector);
    collector.tensors
}

/// A plain tensor's float32 values as they are now.
///
/// Backends on CubeCL (wgpu, CUDA) read a tensor only when its data is first looked at, and an
/// update may have been written in its place by then. So they are looked at here.
pub(crate) fn read<const D: usize>(tensor: Tensor<D>) -> TensorData {
    let data = tensor.into_data();
    let _ = data.as_bytes();
    data.convert::<f32>()
}

struct Collector {
    path: Vec<String>,
    tensors: Vec<(String, TensorData)>,
}

impl ModuleVisitor for Collector {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.tensors
            .push((self.path.join("."), read(frozen::plain(param))));
    }
}

/// Names and shapes of all parameters.
pub(crate) fn shapes<M: Module>(module: &M) -> Vec<(String, Vec<usize>)> {
    let mut collector = Shapes {
        path: Vec::new(),
        shapes: Vec::new(),
    };
    module.visit(&mut collector);
    collector.shapes
}

struct Shapes {
    path: Vec<String>,
    shapes: Vec<(String, Vec<usize>)>,
}

impl ModuleVisitor for Shapes {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.shapes
            .push((self.path.join("."), param.lazy_shape().as_slice().to_vec()));
    }
}

/// The module with all of its parameters replaced; device and training state stay.
///
/// # Errors
/// [`AdapterError::Missing`], [`AdapterError::Unexpected`], [`AdapterError::Shape`] or
/// [`AdapterError::NotFinite`].
pub(crate) fn load<M: Module>(
    module: M,
    tensors: &BTreeMap<String, TensorData>,
) -> Result<M, AdapterError> {
    let mut loader = Loader {
        path: Vec::new(),
        tensors,
        loaded: BTreeSet::new(),
        fault: None,
    };
    let module = module.map(&mut loader);
    if let Some(fault) = loader.fault {
        return Err(fault);
    }
    let names: Vec<String> = tensors
        .keys()
        .filter(|name| !loader.loaded.contains(*name))
        .cloned()
        .collect();
    match names.is_empty() {
        true => Ok(module),
        false => Err(AdapterError::Unexpected { names }),
    }
}

struct Loader<'a> {
    path: Vec<String>,
    tensors: &'a BTreeMap<String, TensorData>,
    loaded: BTreeSet<String>,
    fault: Option<AdapterError>,
}

impl Loader<'_> {
    fn take(&mut self, expected: &[usize]) -> Result<TensorData, AdapterError> {
        let name = self.path.join(".");
        let Some(data) = self.tensors.get(&name) else {
            return Err(AdapterError::Missing { name });
        };
        let data = checked(&name, data, expected)?;
        self.loaded.insert(name);
        Ok(data)
    }
}

/// The values as float32, when the shape is `expected` and all values are finite.
///
/// # Errors
/// [`AdapterError::Shape`] or [`AdapterError::NotFinite`].
pub(crate) fn checked(
    name: &str,
    data: &TensorData,
    expected: &[usize],
) -> Result<TensorData, AdapterError> {
    let found: Vec<usize> = data.shape().as_slice().to_vec();
    if found != expected {
        return Err(AdapterError::Shape {
            name: name.to_owned(),
            expected: expected.to_vec(),
            found,
        });
    }
    let data = data.clone().convert::<f32>();
    if let Some((index, value)) = data
        .iter::<f32>()
        .enumerate()
        .find(|(_, value)| !value.is_finite())
    {
        return Err(AdapterError::NotFinite {
            name: name.to_owned(),
            index,
            value,
        });
    }
    Ok(data)
}

impl ModuleMapper for Loader<'_> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if self.fault.is_some() {
            return param;
        }
        match self.take(&param.lazy_shape()) {
            Ok(data) => {
                let tensor = Tensor::from_data(data, &param.lazy_device());
                let id = param.id;
                param.transform_for_load(tensor, id)
            }
            Err(fault) => {
                self.fault = Some(fault);
                param
            }
        }
    }
}

/// The module with the same values on `device`, every parameter trainable there; on a plain device
/// no gradient is kept.
pub(crate) fn train_on<M: Module>(module: M, device: &Device) -> M {
    module.map(&mut Mover { device })
}

struct Mover<'a> {
    device: &'a Device,
}

impl ModuleMapper for Mover<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let id = param.id;
        let data = param.val().without_autodiff().into_data();
        let mut moved = Param::from_data(data, self.device);
        moved.id = id;
        moved
    }
}

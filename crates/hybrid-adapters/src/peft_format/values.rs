//! The values of a stack under the names and in the layout of files, and back.

use std::collections::BTreeMap;

use burn::tensor::TensorData;

use super::keys::{Place, has_lora, places};
use crate::{AdapterError, Adapters, named_tensors};

/// All parameters of a stack under module path and tensor as PyTorch names them (for methods that
/// PEFT has, its names without `base_model.model.`), in PyTorch's layout.
pub fn torch_tensors(adapters: &Adapters) -> BTreeMap<String, TensorData> {
    turned(adapters, |place| (!place.is_copy).then_some(place.key))
}

/// The stack with these values, under the names and in the layout of [`torch_tensors`]; device and
/// training state stay.
///
/// # Errors
/// As [`Adapters::load_named_tensors`].
pub fn load_torch_tensors(
    adapters: Adapters,
    tensors: &BTreeMap<String, TensorData>,
) -> Result<Adapters, AdapterError> {
    let mut tensors = tensors.clone();
    let places = places(&adapters).into_iter().filter(|place| !place.is_copy);
    let places = places.map(|place| (place.key.clone(), place)).collect();
    let named = taken(&adapters, places, &mut tensors)?;
    match tensors.is_empty() {
        true => adapters.load_named_tensors(&named),
        false => Err(AdapterError::Unexpected {
            names: tensors.into_keys().collect(),
        }),
    }
}

/// Takes the values of all places out of `tensors`, where each has a key, to the names and layouts
/// of [`Adapters::named_tensors`].
///
/// # Errors
/// [`AdapterError::Missing`], [`AdapterError::Shape`] or [`AdapterError::NotFinite`].
pub(super) fn taken(
    adapters: &Adapters,
    places: Vec<(String, Place)>,
    tensors: &mut BTreeMap<String, TensorData>,
) -> Result<BTreeMap<String, TensorData>, AdapterError> {
    let shapes: BTreeMap<String, Vec<usize>> =
        named_tensors::shapes(adapters).into_iter().collect();
    let mut named = BTreeMap::new();
    for (key, place) in places {
        let data = match tensors.remove(&key) {
            Some(data) => data,
            None if place.is_copy => continue,
            None => return Err(AdapterError::Missing { name: key }),
        };
        let data = named_tensors::checked(&key, &data, &place.layout.shape(&shapes[&place.name]))?;
        named.insert(place.name, place.layout.to_parameter(&data));
    }
    Ok(named)
}

/// The same under the names of PEFT's file. Trained tokens beside LoRA it has once.
pub(super) fn stored_tensors(adapters: &Adapters) -> BTreeMap<String, TensorData> {
    let once = has_lora(adapters);
    turned(adapters, |place| {
        (!(once && place.is_copy)).then_some(place.stored)
    })
}

fn turned(
    adapters: &Adapters,
    key: impl Fn(Place) -> Option<String>,
) -> BTreeMap<String, TensorData> {
    let named: BTreeMap<String, TensorData> =
        named_tensors::collect(adapters).into_iter().collect();
    let turned = |place: Place| {
        let data = place.layout.to_file(&named[&place.name]);
        Some((key(place)?, data))
    };
    places(adapters).into_iter().filter_map(turned).collect()
}

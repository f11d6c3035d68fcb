//! The optimizer's state as named tensors, to stop and go on exactly.

use std::collections::{BTreeMap, BTreeSet};

use burn::module::Module;
use burn::optim::{GradientsParams, StateSink, StateSource};
use burn::tensor::TensorData;

use crate::slots::{Slot, Slots};
use crate::{OptimError, Updater};

const STEPS: &str = "steps";
const MOMENTS: &str = "moments/";
const COUNTS: &str = "counts/";

impl<M: Module> Updater<M> {
    /// The state after the last update, by stable names: `steps` (updates so far),
    /// `moments/PATH.NAME` in the parameter's shape, and `counts/PATH.NAME` (one whole number),
    /// with PATH the parameter's path in the module. Accumulated gradients are not part of it.
    pub fn state_tensors(&self) -> BTreeMap<String, TensorData> {
        let mut tensors = BTreeMap::from([(STEPS.to_owned(), count(self.steps as i64))]);
        for slot in self.slots.iter() {
            let Some(state) = &slot.state else { continue };
            let mut sink = StateSink::default();
            self.groups
                .get(slot.group)
                .optimizer
                .state_flatten(&slot.path, state, &mut sink);
            tensors.extend(sink.tensors.into_iter().map(|(name, data)| {
                // Backends on CubeCL read a tensor only when its data is first looked at; the next
                // update may have been written in its place by then.
                let _ = data.as_bytes();
                (format!("{MOMENTS}{name}"), data)
            }));
            tensors.extend(sink.scalars.into_iter().map(|(name, value)| {
                let value =
                    i64::try_from(value).expect("AdamW and SGD keep no other scalars than counts");
                (format!("{COUNTS}{name}"), count(value))
            }));
        }
        tensors
    }

    /// Goes on from a stored state: the next update of `module` is the one that would have followed
    /// [`Self::state_tensors`]. Whole numbers may have been stored in any numeric type that holds
    /// them. Tensors are made on the device of their parameter.
    ///
    /// # Errors
    /// [`OptimError::MissingState`], [`OptimError::ExtraState`], [`OptimError::StateShape`]; the
    /// updater is then as it was before.
    pub fn load_state_tensors(
        &mut self,
        module: &M,
        tensors: &BTreeMap<String, TensorData>,
    ) -> Result<(), OptimError> {
        let steps = tensors
            .get(STEPS)
            .and_then(whole)
            .ok_or_else(|| missing(STEPS))?;
        let mut slots = Slots::of(module, &self.groups);
        let mut unused: BTreeSet<&str> = tensors.keys().map(String::as_str).collect();
        unused.remove(STEPS);
        for slot in slots.iter_mut() {
            self.load_slot(slot, tensors, &mut unused)?;
        }
        if let Some(name) = unused.first() {
            return Err(OptimError::ExtraState {
                name: (*name).to_owned(),
            });
        }
        self.slots = slots;
        self.steps = steps as usize;
        self.accumulated = GradientsParams::new();
        self.foreign = 0;
        Ok(())
    }

    fn load_slot<'t>(
        &self,
        slot: &mut Slot,
        tensors: &'t BTreeMap<String, TensorData>,
        unused: &mut BTreeSet<&'t str>,
    ) -> Result<(), OptimError> {
        let mut scalars = BTreeMap::new();
        for (name, leaf, data) in entries(tensors, COUNTS, &slot.path) {
            unused.remove(name);
            scalars.insert(
                leaf.to_owned(),
                whole(data).ok_or_else(|| missing(name))?.into(),
            );
        }
        let mut source = StateSource::new(scalars);
        let mut found = false;
        for (name, leaf, data) in entries(tensors, MOMENTS, &slot.path) {
            unused.remove(name);
            found = true;
            let shape: Vec<usize> = data.shape().iter().copied().collect();
            if shape != slot.shape {
                return Err(OptimError::StateShape {
                    name: name.to_owned(),
                    expected: slot.shape.clone(),
                    found: shape,
                });
            }
            source.insert_tensor(leaf.to_owned(), data.clone());
        }
        if found {
            let optimizer = &self.groups.get(slot.group).optimizer;
            let state =
                optimizer.state_unflatten(slot.shape.len(), &slot.path, &mut source, &slot.device);
            slot.state = Some(state.ok_or_else(|| missing(&format!("{MOMENTS}{}", slot.path)))?);
        }
        Ok(())
    }
}

/// The entries of one parameter under `prefix`: full name, name without the prefix, value.
fn entries<'t>(
    tensors: &'t BTreeMap<String, TensorData>,
    prefix: &'static str,
    path: &str,
) -> impl Iterator<Item = (&'t str, &'t str, &'t TensorData)> {
    let start = format!("{prefix}{path}.");
    let range = tensors
        .range(start.clone()..)
        .take_while(move |(name, _)| name.starts_with(&start));
    range.map(move |(name, data)| (name.as_str(), &name[prefix.len()..], data))
}

fn count(value: i64) -> TensorData {
    TensorData::new(vec![value], [1])
}

fn whole(data: &TensorData) -> Option<i64> {
    let mut values = data.iter::<f64>();
    let value = values
        .next()
        .filter(|value| *value >= 0.0 && value.fract() == 0.0)?;
    values.next().is_none().then_some(value as i64)
}

fn missing(name: &str) -> OptimError {
    OptimError::MissingState {
        name: name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use burn::tensor::TensorData;

    use crate::toy::Toy;
    use crate::{OptimError, OptimizerConfig, ScheduleConfig, ScheduleKind, Updater};

    fn optimizers() -> [OptimizerConfig; 3] {
        [
            OptimizerConfig::Adamw {
                lr: 0.05,
                betas: [0.9, 0.98],
                eps: 1e-6,
                weight_decay: 0.02,
            },
            OptimizerConfig::Sgd {
                lr: 0.5,
                momentum: 0.9,
                weight_decay: 0.01,
            },
            OptimizerConfig::Sgd {
                lr: 0.5,
                momentum: 0.0,
                weight_decay: 0.0,
            },
        ]
    }

    fn updater(optimizer: &OptimizerConfig, toy: &Toy) -> Updater<Toy> {
        let schedule = ScheduleConfig {
            kind: ScheduleKind::Cosine,
            warmup_steps: Some(3),
            warmup_ratio: None,
        };
        Updater::new(optimizer.clone(), &[], schedule, Some(0.2), 12, toy).unwrap()
    }

    fn train(mut toy: Toy, updater: &mut Updater<Toy>, steps: usize) -> Toy {
        for _ in 0..steps {
            toy = toy.updated(updater).0;
        }
        toy
    }

    /// What a file of float32 tensors makes of whole numbers.
    fn as_float32(state: BTreeMap<String, TensorData>) -> BTreeMap<String, TensorData> {
        state
            .into_iter()
            .map(|(name, data)| (name, data.convert::<f32>()))
            .collect()
    }

    #[test]
    fn six_steps_and_six_after_a_restart_equal_twelve() {
        for optimizer in optimizers() {
            let straight = Toy::new();
            let mut of_straight = updater(&optimizer, &straight);
            let straight = train(straight, &mut of_straight, 12);

            let first = Toy::new();
            let mut of_first = updater(&optimizer, &first);
            let first = train(first, &mut of_first, 6);
            let state = as_float32(of_first.state_tensors());

            let second = first.with_new_identity();
            let mut of_second = updater(&optimizer, &second);
            of_second.load_state_tensors(&second, &state).unwrap();
            let second = train(second, &mut of_second, 6);
            assert_eq!(second.values(), straight.values(), "{optimizer:?}");
            assert_eq!(
                of_second.state_tensors(),
                of_straight.state_tensors(),
                "{optimizer:?}"
            );
        }
    }

    #[test]
    fn without_the_state_it_is_another_training() {
        let [optimizer, ..] = optimizers();
        let toy = Toy::new();
        let mut whole = updater(&optimizer, &toy);
        let toy = train(toy, &mut whole, 6);
        let mut forgetful = updater(&optimizer, &toy);
        let steps = BTreeMap::from([("steps".to_owned(), TensorData::from([6i64]))]);
        forgetful.load_state_tensors(&toy, &steps).unwrap();
        assert_ne!(
            toy.clone().updated(&mut whole).0.values(),
            toy.updated(&mut forgetful).0.values()
        );
    }

    fn stored() -> (Toy, BTreeMap<String, TensorData>) {
        let [optimizer, ..] = optimizers();
        let toy = Toy::new();
        let mut updater = updater(&optimizer, &toy);
        let toy = train(toy, &mut updater, 1);
        (toy, updater.state_tensors())
    }

    fn load(toy: &Toy, state: &BTreeMap<String, TensorData>) -> Result<(), OptimError> {
        let [optimizer, ..] = optimizers();
        updater(&optimizer, toy).load_state_tensors(toy, state)
    }

    #[test]
    fn a_state_that_lacks_something_names_it() {
        let (toy, state) = stored();
        for name in state.keys().filter(|name| !name.contains("moment_")) {
            let mut torn = state.clone();
            torn.remove(name);
            assert!(
                matches!(load(&toy, &torn), Err(OptimError::MissingState { .. })),
                "{name}"
            );
        }
        let mut torn = state.clone();
        torn.remove("moments/head.bias.momentum.moment_2");
        assert!(
            matches!(load(&toy, &torn), Err(OptimError::MissingState { name }) if name == "moments/head.bias")
        );
    }

    #[test]
    fn a_state_of_another_module_is_refused() {
        let (toy, mut state) = stored();
        state.insert(
            "moments/tail.bias.momentum.moment_1".to_owned(),
            TensorData::from([1.0f32]),
        );
        assert!(
            matches!(load(&toy, &state), Err(OptimError::ExtraState { name }) if name.contains("tail.bias"))
        );
    }

    #[test]
    fn a_moment_of_another_shape_is_refused() {
        let (toy, mut state) = stored();
        let name = "moments/head.bias.momentum.moment_1";
        state.insert(name.to_owned(), TensorData::from([1.0f32, 2.0, 3.0]));
        match load(&toy, &state) {
            Err(OptimError::StateShape {
                expected, found, ..
            }) => assert_eq!((expected, found), (vec![2], vec![3])),
            other => panic!("{other:?}"),
        }
    }
}

//! A tiny classifier with eight rows of data, for the tests of this crate.

use std::collections::BTreeMap;
use std::ops::Range;

use burn::module::{Module, ModuleVisitor, Param};
use burn::nn::{Linear, LinearConfig};
use burn::optim::GradientsParams;
use burn::tensor::activation::tanh;
use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::{StepReport, Updater, cross_entropy_sum};

pub(crate) const ROWS: usize = 8;
const D_IN: usize = 3;
const D_MODEL: usize = 4;
const N_LABELS: usize = 2;

#[derive(Module, Debug)]
pub(crate) struct Toy {
    body: Linear,
    head: Linear,
}

impl Toy {
    /// The same values at every call, in parameters of new identity.
    pub(crate) fn new() -> Self {
        let device = Device::flex().autodiff();
        let linear = |d_in: usize, d_out: usize, phase: f32| {
            let mut linear = LinearConfig::new(d_in, d_out).init(&device);
            linear.weight = Param::from_data(wave(d_in * d_out, phase, [d_in, d_out]), &device);
            linear.bias = Some(Param::from_data(wave(d_out, phase + 0.5, [d_out]), &device));
            linear
        };
        Self {
            body: linear(D_IN, D_MODEL, 0.1),
            head: linear(D_MODEL, N_LABELS, 0.7),
        }
    }

    /// The same values in parameters of new identity, as after a restart of the process.
    pub(crate) fn with_new_identity(self) -> Self {
        let device = Device::flex().autodiff();
        let linear = |linear: &Linear| {
            let mut copy = linear.clone();
            copy.weight = Param::from_data(linear.weight.val().into_data(), &device);
            copy.bias = linear
                .bias
                .as_ref()
                .map(|bias| Param::from_data(bias.val().into_data(), &device));
            copy
        };
        Self {
            body: linear(&self.body),
            head: linear(&self.head),
        }
    }

    /// The loss of some rows, divided by the number of all rows.
    pub(crate) fn loss(&self, rows: Range<usize>) -> Tensor<1> {
        let device = Device::flex();
        let x = Tensor::<2>::from_data(wave(ROWS * D_IN, 2.0, [ROWS, D_IN]), &device)
            .slice([rows.clone()]);
        let targets: Vec<i32> = rows.map(|row| (row % 3 == 0).into()).collect();
        let targets = Tensor::<1, Int>::from_data(TensorData::from(targets.as_slice()), &device);
        let logits = self.head.forward(tanh(self.body.forward(x)));
        cross_entropy_sum(logits, targets, 0.1) / ROWS as f64
    }

    pub(crate) fn gradients(&self, rows: Range<usize>) -> GradientsParams {
        GradientsParams::from_grads(self.loss(rows).backward(), self)
    }

    /// One update on all rows.
    pub(crate) fn updated(self, updater: &mut Updater<Self>) -> (Self, StepReport) {
        updater.accumulate(self.gradients(0..ROWS));
        updater.step(self).unwrap()
    }

    /// All values by path.
    pub(crate) fn values(&self) -> BTreeMap<String, Vec<f32>> {
        let mut values = Values::default();
        self.visit(&mut values);
        values.found
    }
}

fn wave<const D: usize>(n: usize, phase: f32, shape: [usize; D]) -> TensorData {
    TensorData::new(
        (0..n).map(|i| (phase + 1.3 * i as f32).sin()).collect(),
        shape,
    )
}

#[derive(Default)]
struct Values {
    path: Vec<String>,
    found: BTreeMap<String, Vec<f32>>,
}

impl ModuleVisitor for Values {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.found.insert(
            self.path.join("."),
            param.val().into_data().iter().collect(),
        );
    }
}

/// Largest difference between two sets of values.
pub(crate) fn difference(a: &BTreeMap<String, Vec<f32>>, b: &BTreeMap<String, Vec<f32>>) -> f32 {
    assert!(a.keys().eq(b.keys()));
    let pairs = a.values().flatten().zip(b.values().flatten());
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

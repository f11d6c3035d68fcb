//! Activation functions by their names in `config.json`.

use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI};

use burn::tensor::{Tensor, activation};

use super::elementwise::{map, normal, sigmoid, zip};
use super::host::is_ours;
use super::operation::{Slope, with_gradient};

/// An activation function of a feed-forward or head layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Activation {
    /// Gaussian error linear unit, exact (Hendrycks and Gimpel 2016, eq. 1).
    Gelu,
    /// The same through a hyperbolic tangent.
    GeluTanh,
    /// Rectified linear unit.
    Relu,
    /// Sigmoid linear unit.
    Silu,
    /// Hyperbolic tangent.
    Tanh,
}

impl Activation {
    /// The names that [`of_name`](Self::of_name) knows.
    pub(crate) const NAMES: [&str; 8] = [
        "gelu",
        "gelu_new",
        "gelu_fast",
        "gelu_pytorch_tanh",
        "relu",
        "silu",
        "swish",
        "tanh",
    ];

    /// The function of a name that Transformers uses.
    pub(crate) fn of_name(name: &str) -> Option<Self> {
        match name {
            "gelu" => Some(Self::Gelu),
            "gelu_new" | "gelu_fast" | "gelu_pytorch_tanh" => Some(Self::GeluTanh),
            "relu" => Some(Self::Relu),
            "silu" | "swish" => Some(Self::Silu),
            "tanh" => Some(Self::Tanh),
            _ => None,
        }
    }

    /// `f(x)`. Under autodiff `x` alone is kept for backward.
    pub(crate) fn forward<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        if !x.is_autodiff() {
            return self.of(x);
        }
        let plain = x.clone().inner();
        with_gradient([(&x).into()], self.of(plain.clone()), move |slope, _| {
            [Some(Slope::from(self.chained(slope, plain)))]
        })
    }

    /// `f(gate) * x`. Under autodiff these two alone are kept for backward.
    ///
    /// # Shapes
    /// - `gate`, `x`: `[batch, seq, d_ff]` → the same
    pub(crate) fn gated(self, gate: Tensor<3>, x: Tensor<3>) -> Tensor<3> {
        if !gate.is_autodiff() && !x.is_autodiff() {
            return self.of(gate) * x;
        }
        let (plain_gate, plain) = (gate.clone().inner(), x.clone().inner());
        let y = self.of(plain_gate.clone()) * plain.clone();
        with_gradient(
            [(&gate).into(), (&x).into()],
            y,
            move |slope, [of_gate, of_x]| {
                let x_slope = of_x.then(|| slope.clone() * self.of(plain_gate.clone()));
                let gate_slope = of_gate.then(|| self.chained(slope * plain, plain_gate));
                [gate_slope.map(Slope::from), x_slope.map(Slope::from)]
            },
        )
    }

    /// The function of each value, without autodiff.
    fn of<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Self::Gelu if is_ours(&x) => map(x, |x| x * normal(x).0),
            Self::GeluTanh if is_ours(&x) => map(x, |x| x * sigmoid(hyperbolic(x).0)),
            Self::Silu if is_ours(&x) => map(x, |x| x * sigmoid(x)),
            Self::Gelu => activation::gelu(x),
            Self::GeluTanh => activation::gelu_approximate(x),
            Self::Relu => activation::relu(x),
            Self::Silu => activation::silu(x),
            Self::Tanh => x.tanh(),
        }
    }

    /// `slope` times the derivative at each value of `x`, without autodiff.
    fn chained<const D: usize>(self, slope: Tensor<D>, x: Tensor<D>) -> Tensor<D> {
        match self {
            Self::Gelu if is_ours(&x) => zip(slope, x, |slope, x| {
                let (below, bell) = normal(x);
                slope * (below + DENSITY as f32 * bell * x)
            }),
            Self::GeluTanh if is_ours(&x) => zip(slope, x, |slope, x| {
                let (inner, inner_slope) = hyperbolic(x);
                let gate = sigmoid(inner);
                slope * gate * (1.0 + x * (1.0 - gate) * inner_slope)
            }),
            Self::Silu if is_ours(&x) => zip(slope, x, |slope, x| {
                let gate = sigmoid(x);
                slope * gate * (1.0 + x * (1.0 - gate))
            }),
            _ => slope * self.derivative(x),
        }
    }

    /// The derivative at each value, without autodiff.
    fn derivative<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Self::Gelu => {
                let cdf = x.clone().mul_scalar(FRAC_1_SQRT_2).erf().add_scalar(1.0);
                let density = x.clone().square().mul_scalar(-0.5).exp();
                cdf.mul_scalar(0.5) + density.mul_scalar(DENSITY) * x
            }
            Self::GeluTanh => {
                let square = x.clone().square();
                let inner = square.clone().mul_scalar(CUBIC).add_scalar(1.0) * x.clone();
                let tanh = inner.mul_scalar(FRAC_2_SQRT_PI * FRAC_1_SQRT_2).tanh();
                let slope = square.mul_scalar(3.0 * CUBIC).add_scalar(1.0)
                    * x.mul_scalar(FRAC_2_SQRT_PI * FRAC_1_SQRT_2);
                let falling = tanh.clone().square().neg().add_scalar(1.0);
                (tanh.add_scalar(1.0) + falling * slope).mul_scalar(0.5)
            }
            Self::Relu => x.greater_elem(0.0).float(),
            Self::Silu => {
                let gate = activation::sigmoid(x.clone());
                let falling = gate.clone().neg().add_scalar(1.0);
                gate * (x * falling).add_scalar(1.0)
            }
            Self::Tanh => x.tanh().square().neg().add_scalar(1.0),
        }
    }
}

/// The normal density at 0.
const DENSITY: f64 = FRAC_1_SQRT_2 * FRAC_2_SQRT_PI / 2.0;

/// Twice what [`Activation::GeluTanh`] takes the hyperbolic tangent of, and its derivative: `1/2 +
/// tanh(y) / 2` is the logistic function of `2 y`.
#[inline(always)]
fn hyperbolic(x: f32) -> (f32, f32) {
    const SCALE: f32 = (2.0 * FRAC_2_SQRT_PI * FRAC_1_SQRT_2) as f32;
    let cubic = CUBIC as f32 * x * x;
    (SCALE * x * (1.0 + cubic), SCALE * (1.0 + 3.0 * cubic))
}

/// Of the cube in the hyperbolic form of the Gaussian unit.
const CUBIC: f64 = 0.044715;

#[cfg(test)]
mod tests {
    use burn::tensor::{Tensor, activation};

    use super::Activation;
    use crate::kernels::tests::{assert_same_gradients, device};

    const ALL: [Activation; 5] = [
        Activation::Gelu,
        Activation::GeluTanh,
        Activation::Relu,
        Activation::Silu,
        Activation::Tanh,
    ];

    fn values(shift: f32) -> Tensor<3> {
        let values: Vec<f32> = (-60..60).map(|step| step as f32 / 10.0 + shift).collect();
        Tensor::<1>::from_floats(values.as_slice(), &device()).reshape([2, 3, 20])
    }

    #[test]
    fn functions_are_the_same_with_and_without_tracking() {
        for function in ALL {
            let host = |x: Tensor<3>| function.forward(x).into_data();
            let (x, gate) = (values(0.0), values(1.05));
            assert_eq!(host(x.clone()), host(x.clone().autodiff()));
            let gated = function.gated(gate.clone(), x.clone()).into_data();
            let tracked = function.gated(gate.autodiff(), x).into_data();
            assert_eq!(gated, tracked);
        }
    }

    /// As Burn differentiates the same function out of its parts.
    #[test]
    fn gradients_are_those_of_the_parts() {
        for function in ALL {
            let parts = |x: Tensor<3>| match function {
                Activation::Gelu => activation::gelu(x),
                Activation::GeluTanh => activation::gelu_approximate(x),
                Activation::Relu => activation::relu(x),
                Activation::Silu => x.clone() * activation::sigmoid(x),
                Activation::Tanh => x.tanh(),
            };
            assert_same_gradients([values(0.05)], |[x]| function.forward(x), |[x]| parts(x));
            assert_same_gradients(
                [values(0.05), values(1.0)],
                |[gate, x]| function.gated(gate, x),
                |[gate, x]| parts(gate) * x,
            );
        }
    }

    #[test]
    fn every_listed_name_is_known() {
        assert!(
            Activation::NAMES
                .iter()
                .all(|name| Activation::of_name(name).is_some())
        );
        assert_eq!(Activation::of_name("swishy"), None);
    }
}

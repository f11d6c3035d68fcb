//! Activation functions by their names in `config.json`.

use burn::tensor::{Tensor, activation};

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

    pub(crate) fn forward<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Self::Gelu if x.device().is_autodiff() => tracked_gelu(x),
            Self::Gelu => activation::gelu(x),
            Self::GeluTanh => activation::gelu_approximate(x),
            Self::Relu => activation::relu(x),
            Self::Silu => activation::silu(x),
            Self::Tanh => x.tanh(),
        }
    }
}

/// The exact unit out of its parts: backward keeps the error function's value, where that of
/// [`activation::gelu`] computes it again at twice the cost.
fn tracked_gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let twice_cdf = x
        .clone()
        .div_scalar(std::f64::consts::SQRT_2)
        .erf()
        .add_scalar(1.0);
    x.mul_scalar(0.5) * twice_cdf
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Tensor};

    use super::Activation;

    #[test]
    fn gelu_is_the_same_with_and_without_tracking() {
        let values: Vec<f32> = (-60..=60).map(|step| step as f32 / 10.0).collect();
        let device = Device::flex();
        let gelu = |device: &Device| {
            let x = Tensor::<1>::from_floats(values.as_slice(), device);
            Activation::Gelu
                .forward(x)
                .into_data()
                .iter::<f32>()
                .collect::<Vec<_>>()
        };
        assert_eq!(gelu(&device), gelu(&device.clone().autodiff()));
    }

    #[test]
    fn gelu_has_its_derivative() {
        let device = Device::flex().autodiff();
        let gradient = |value: f32, tracked: bool| {
            let x = Tensor::<1>::from_floats([value], &device).require_grad();
            let y = if tracked {
                Activation::Gelu.forward(x.clone())
            } else {
                super::activation::gelu(x.clone())
            };
            x.grad(&y.backward())
                .expect("x is a leaf")
                .into_scalar::<f32>()
        };
        for value in [-4.0, -1.0, -0.1, 0.0, 0.7, 3.0] {
            let (ours, burns) = (gradient(value, true), gradient(value, false));
            assert!(
                (ours - burns).abs() < 1e-6,
                "{value}: {ours} instead of {burns}"
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

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
            Self::Gelu => activation::gelu(x),
            Self::GeluTanh => activation::gelu_approximate(x),
            Self::Relu => activation::relu(x),
            Self::Silu => activation::silu(x),
            Self::Tanh => x.tanh(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Activation;

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

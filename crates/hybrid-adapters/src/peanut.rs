//! PEANuT: the update of a weight is a small network's output for that weight (arXiv:2410.01870), with
//! PEFT's skip connections.
//!
//! `y = f(x) + s x g(W) B` with `g` of the rows of `W: [d_in, d_out]`: first `h = f(W A)`, `A: [d_out,
//! r]`, then as many square layers with `f` as `depth` says, and as many again, each of which adds what
//! went into its counterpart. The network reads the base's own weight, in each forward.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use hybrid_models::Linear;

use crate::AdapterError;
use crate::bottleneck::Activation;
use crate::method::Pass;
use crate::site_method::{ANY_START, Act, PeftForm, SiteMethod, site_settings, whole};
use crate::site_place::Place;

pub(crate) const FORM: PeftForm = PeftForm {
    method: "peanut",
    peft_type: "PEANUT",
    keys: &[
        "r",
        "depth",
        "act_fn",
        "scaling",
        "target_modules",
        "exclude_modules",
        "layers_to_transform",
        "layers_pattern",
    ],
    neutral: &[ANY_START],
    only: &[],
    fan_in_fan_out: false,
};

site_settings! {
    /// PEANuT's settings, with PEFT's names and meanings.
    PeanutConfig as FORM {
        /// Features within the network.
        #[schemars(range(min = 1))]
        r: usize = 32,
        /// Square layers on either side of the network's middle.
        depth: usize = 0,
        /// The function after each layer but the last.
        act_fn: Activation = Activation::Relu,
        /// What the update is multiplied with.
        #[serde(serialize_with = "whole")]
        scaling: f64 = 1.0,
    }
}

/// A layer within the network.
#[derive(Module, Debug)]
pub(crate) struct Square {
    /// `[r, r]`, outputs first.
    weight: Param<Tensor<2>>,
}

/// The network of one site.
#[derive(Module, Debug)]
pub(crate) struct Peanut {
    /// `[r, d_out]`.
    peanut_a: Param<Tensor<2>>,
    peanut_encoders: Vec<Square>,
    peanut_decoders: Vec<Square>,
    /// `[d_out, r]`.
    peanut_b: Param<Tensor<2>>,
    #[module(skip)]
    activation: Activation,
    #[module(skip)]
    scaling: f64,
}

impl Peanut {
    /// What the network makes of a weight's rows before its last layer.
    ///
    /// # Shapes
    /// - `weight`: `[d_in, d_out]` → `[d_in, r]`
    fn inner(&self, weight: Tensor<2>) -> Tensor<2> {
        let through = |x: Tensor<2>, layer: &Param<Tensor<2>>| {
            self.activation.apply(x.matmul(layer.val().transpose()))
        };
        let mut x = through(weight, &self.peanut_a);
        let mut entered = Vec::with_capacity(self.peanut_encoders.len());
        for layer in &self.peanut_encoders {
            entered.push(x.clone());
            x = through(x, &layer.weight);
        }
        for layer in &self.peanut_decoders {
            x = through(x, &layer.weight);
            if let Some(before) = entered.pop() {
                x = x + before;
            }
        }
        x
    }
}

impl SiteMethod for Peanut {
    type Config = PeanutConfig;

    const FORM: &'static PeftForm = &FORM;

    const ACT: Act = Act::Beside;

    const RENAMED: &'static [(&'static str, &'static str)] = &[
        ("peanut_a", "peanut_A.weight"),
        ("peanut_b", "peanut_B.weight"),
    ];

    /// `B` zero, so the adapted base starts as the base; the rest as PEFT's Kaiming initialisation
    /// has it.
    fn init(
        config: &PeanutConfig,
        place: &Place<'_>,
        _made: &[Self],
    ) -> Result<Self, AdapterError> {
        let r = place.rank(config.r, place.d_in.min(place.d_out))?;
        let mut random = place.random();
        let a = random.kaiming([r, place.d_out]);
        let mut squares = || -> Vec<Square> {
            let drawn = (0..config.depth).map(|_| random.kaiming([r, r]));
            let square = |values| Square {
                weight: place.param(values),
            };
            drawn.map(square).collect()
        };
        Ok(Self {
            peanut_a: place.param(a),
            peanut_encoders: squares(),
            peanut_decoders: squares(),
            peanut_b: place.filled([place.d_out, r], 0.0),
            activation: config.act_fn,
            scaling: place.finite("scaling", config.scaling)?,
        })
    }

    fn act(&self, base: &Linear, rows: Tensor<2>, _pass: Pass) -> Tensor<2> {
        let narrow = rows.matmul(self.inner(base.weight.dense()));
        let wide = narrow.matmul(self.peanut_b.val().transpose());
        match self.scaling {
            1.0 => wide,
            scaling => wide.mul_scalar(scaling),
        }
    }

    fn next_to_base(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use burn::module::Param;
    use burn::tensor::{Device, Tensor, TensorData, Tolerance};

    use super::{Peanut, Square};
    use crate::bottleneck::Activation;

    #[test]
    fn layers_add_what_went_into_their_counterparts() {
        let device = Device::flex();
        let param = |values: Vec<f32>, shape: [usize; 2]| {
            Param::from_data(TensorData::new(values, shape), &device)
        };
        let square = |value: f32| Square {
            weight: param(vec![value], [1, 1]),
        };
        let network = Peanut {
            peanut_a: param(vec![1.0, -1.0], [1, 2]),
            peanut_encoders: vec![square(2.0), square(-1.0)],
            peanut_decoders: vec![square(3.0), square(0.5)],
            peanut_b: param(vec![1.0, 1.0], [2, 1]),
            activation: Activation::Relu,
            scaling: 1.0,
        };
        let weight = Tensor::<2>::from_data([[3.0, 1.0], [1.0, 3.0]], &device);
        // 2, 4, 0 on the way in; 0 + 4, 2 + 2 on the way out. The second row is 0 from the start.
        let expected = TensorData::from([[4.0], [0.0]]);
        let found = network.inner(weight).into_data();
        found.assert_approx_eq::<f32>(&expected, Tolerance::absolute(1e-6));
    }
}

//! LoHa: the update is the Hadamard product of two low-rank matrices (Hyeon-Woo et al. 2021,
//! equation 1; LyCORIS for the name).
//!
//! `y = f(x) + s ((A1 B1) * (A2 B2)) x` with `s = alpha / r`. The product of the two has rank `r^2` and
//! factors whose columns and rows are products of theirs (proposition 1), so the update goes beside
//! the layer as LoRA's does: neither it nor its gradient is formed while training.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use hybrid_models::Linear;

use crate::AdapterError;
use crate::method::Pass;
use crate::pattern_map::PatternMap;
use crate::random::HostRandom;
use crate::site_method::{ANY_START, Act, PeftForm, SiteMethod, Written, site_settings, whole};
use crate::site_place::Place;

pub(crate) const FORM: PeftForm = PeftForm {
    method: "loha",
    peft_type: "LOHA",
    keys: &[
        "r",
        "alpha",
        "rank_dropout",
        "module_dropout",
        "rank_pattern",
        "alpha_pattern",
        "target_modules",
        "exclude_modules",
        "layers_to_transform",
        "layers_pattern",
    ],
    neutral: &[ANY_START, OF_CONVOLUTIONS],
    only: &[],
    fan_in_fan_out: false,
};

/// No layer here is a convolution.
pub(crate) const OF_CONVOLUTIONS: (&str, Written) = ("use_effective_conv2d", Written::Flag(false));

site_settings! {
    /// LoHa's settings, with PEFT's names and meanings.
    LohaConfig as FORM {
        /// Rank of each of the two matrices.
        #[schemars(range(min = 1))]
        r: usize = 8,
        /// Numerator of the scale.
        #[serde(serialize_with = "whole")]
        alpha: f64 = 8.0,
        /// Share of the outputs whose update is dropped while training.
        #[schemars(range(min = 0.0, max = 0.99))]
        rank_dropout: f64 = 0.0,
        /// Share of the steps in which a layer's whole update is dropped while training.
        #[schemars(range(min = 0.0, max = 0.99))]
        module_dropout: f64 = 0.0,
        /// Ranks of their own, by pattern.
        #[serde(skip_serializing_if = "PatternMap::is_empty")]
        rank_pattern: PatternMap<usize> = PatternMap::default(),
        /// Alphas of their own, by pattern.
        #[serde(skip_serializing_if = "PatternMap::is_empty")]
        alpha_pattern: PatternMap<f64> = PatternMap::default(),
    }
}

/// The factors of one site.
#[derive(Module, Debug)]
pub(crate) struct Loha {
    /// `[d_out, r]`.
    hada_w1_a: Param<Tensor<2>>,
    /// `[r, d_in]`.
    hada_w1_b: Param<Tensor<2>>,
    /// `[d_out, r]`.
    hada_w2_a: Param<Tensor<2>>,
    /// `[r, d_in]`.
    hada_w2_b: Param<Tensor<2>>,
    #[module(skip)]
    scale: f64,
    #[module(skip)]
    dropout: UpdateDropout,
}

impl SiteMethod for Loha {
    type Config = LohaConfig;

    const FORM: &'static PeftForm = &FORM;

    const ACT: Act = Act::Beside;

    /// The second `B` zero, so the adapted base starts as the base; the others uniform in plus or
    /// minus one over the root of their row's length (PEFT's Kaiming initialisation).
    fn init(config: &LohaConfig, place: &Place<'_>, _made: &[Self]) -> Result<Self, AdapterError> {
        let r = place.by_pattern("rank_pattern", &config.rank_pattern, config.r)?;
        let r = place.rank(r, place.d_in.min(place.d_out))?;
        let alpha = place.by_pattern("alpha_pattern", &config.alpha_pattern, config.alpha)?;
        let mut random = place.random();
        let (up, down) = ([place.d_out, r], [r, place.d_in]);
        Ok(Self {
            hada_w1_a: place.param(random.kaiming(up)),
            hada_w1_b: place.param(random.kaiming(down)),
            hada_w2_a: place.param(random.kaiming(up)),
            hada_w2_b: place.filled(down, 0.0),
            scale: place.finite("alpha", alpha)? / r as f64,
            dropout: UpdateDropout::new(place, config.rank_dropout, true, config.module_dropout)?,
        })
    }

    fn act(&self, base: &Linear, rows: Tensor<2>, pass: Pass) -> Tensor<2> {
        let ([d_out, r], [_, d_in]) = (self.hada_w1_a.dims(), self.hada_w1_b.dims());
        let up = self.hada_w1_a.val().reshape([d_out, r, 1])
            * self.hada_w2_a.val().reshape([d_out, 1, r]);
        let down =
            self.hada_w1_b.val().reshape([r, 1, d_in]) * self.hada_w2_b.val().reshape([1, r, d_in]);
        let narrow = rows.matmul(down.reshape([r * r, d_in]).transpose());
        let side = narrow.mul_scalar(self.scale);
        let side = side.matmul(up.reshape([d_out, r * r]).transpose());
        self.dropout.apply(side, base, pass)
    }
}

/// What LyCORIS drops while training: updates of outputs, and of whole layers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct UpdateDropout {
    /// Share of a layer's outputs.
    of_outputs: f64,
    /// Whether the other outputs are scaled up by the share that is left.
    scaled: bool,
    /// Share of the layers.
    of_layers: f64,
}

impl UpdateDropout {
    /// From `rank_dropout`, whether it scales up what is left, and `module_dropout`.
    ///
    /// # Errors
    /// [`AdapterError::Setting`].
    pub(crate) fn new(
        place: &Place<'_>,
        rank_dropout: f64,
        scaled: bool,
        module_dropout: f64,
    ) -> Result<Self, AdapterError> {
        Ok(Self {
            of_outputs: place.share("rank_dropout", rank_dropout)?,
            scaled,
            of_layers: place.share("module_dropout", module_dropout)?,
        })
    }

    /// # Shapes
    /// - `side`: `[rows, d_out]` → the same
    pub(crate) fn apply(self, side: Tensor<2>, base: &Linear, pass: Pass) -> Tensor<2> {
        let Pass::Training { seed } = pass else {
            return side;
        };
        let mut random = HostRandom::new(seed, base.site.index() as u64);
        let mut side = side;
        if self.of_layers > 0.0 {
            let dropped = random
                .chances([1], self.of_layers)
                .iter::<bool>()
                .any(|hit| hit);
            side = side.mul_scalar(if dropped { 0.0 } else { 1.0 });
        }
        if self.of_outputs > 0.0 {
            let [_, d_out] = side.dims();
            let left = random.chances([1, d_out], 1.0 - self.of_outputs);
            let n_left = left.iter::<bool>().filter(|left| *left).count();
            let device = side.device().without_autodiff();
            let mask = Tensor::<2, burn::tensor::Bool>::from_data(left, &device).float();
            side = side * mask;
            if self.scaled {
                side = side.mul_scalar(d_out as f64 / n_left.max(1) as f64);
            }
        }
        side
    }
}

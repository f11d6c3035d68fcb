//! The update rules, over `burn-optim`.

use burn::optim::decay::WeightDecayConfig;
use burn::optim::momentum::MomentumConfig;
use burn::optim::{AdamWConfig, DynOptimizer, SgdConfig};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::OptimError;

/// An update rule and its settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum OptimizerConfig {
    /// Adam with decoupled weight decay (Loshchilov and Hutter 2019, algorithm 2), as
    /// `torch.optim.AdamW`: the decay is multiplied by the rate, both moments are corrected for
    /// their bias, `eps` is added after the root.
    Adamw {
        /// The rate.
        #[schemars(range(min = 0.0))]
        lr: f64,
        /// Decay of the first and of the second moment.
        #[serde(default = "default_betas")]
        #[schemars(inner(range(min = 0.0, max = 1.0)))]
        betas: [f64; 2],
        /// Added to the root of the second moment.
        #[serde(default = "default_eps")]
        #[schemars(range(min = 0.0))]
        eps: f64,
        /// Share of each parameter that is taken away per update, times the rate.
        #[serde(default)]
        #[schemars(range(min = 0.0))]
        weight_decay: f64,
    },
    /// Stochastic gradient descent, `theta <- theta - lr * gradient`, as `torch.optim.SGD`.
    Sgd {
        /// The rate.
        #[schemars(range(min = 0.0))]
        lr: f64,
        /// Share of the last update's direction that is kept (without dampening); 0 keeps none.
        #[serde(default)]
        #[schemars(range(min = 0.0, max = 1.0))]
        momentum: f64,
        /// Share of each parameter that is added to its gradient (L2 penalty).
        #[serde(default)]
        #[schemars(range(min = 0.0))]
        weight_decay: f64,
    },
}

fn default_betas() -> [f64; 2] {
    [0.9, 0.999]
}

fn default_eps() -> f64 {
    1e-8
}

impl OptimizerConfig {
    /// The rate before schedule and groups.
    pub fn learning_rate(&self) -> f64 {
        match self {
            Self::Adamw { lr, .. } | Self::Sgd { lr, .. } => *lr,
        }
    }

    /// The weight decay before groups.
    pub fn weight_decay(&self) -> f64 {
        match self {
            Self::Adamw { weight_decay, .. } | Self::Sgd { weight_decay, .. } => *weight_decay,
        }
    }

    /// The rule with a weight decay of its own.
    pub(crate) fn build(&self, weight_decay: f64) -> Box<dyn DynOptimizer> {
        match self {
            Self::Adamw {
                betas: [beta_1, beta_2],
                eps,
                ..
            } => Box::new(
                AdamWConfig::new()
                    .with_beta_1(*beta_1 as f32)
                    .with_beta_2(*beta_2 as f32)
                    .with_epsilon(*eps as f32)
                    .with_weight_decay(weight_decay as f32)
                    .build(),
            ),
            Self::Sgd { momentum, .. } => {
                let momentum = MomentumConfig::new()
                    .with_momentum(*momentum)
                    .with_dampening(0.0);
                let momentum = (momentum.momentum > 0.0).then_some(momentum);
                let weight_decay =
                    (weight_decay > 0.0).then(|| WeightDecayConfig::new(weight_decay as f32));
                Box::new(
                    SgdConfig::new()
                        .with_momentum(momentum)
                        .with_weight_decay(weight_decay)
                        .build(),
                )
            }
        }
    }

    /// # Errors
    /// [`OptimError::InvalidSetting`].
    pub(crate) fn validate(&self) -> Result<(), OptimError> {
        at_least_zero("optimizer.lr", self.learning_rate())?;
        at_least_zero("optimizer.weight_decay", self.weight_decay())?;
        match self {
            Self::Adamw {
                betas: [beta_1, beta_2],
                eps,
                ..
            } => {
                below_one("optimizer.betas", *beta_1)?;
                below_one("optimizer.betas", *beta_2)?;
                at_least_zero("optimizer.eps", *eps)
            }
            Self::Sgd { momentum, .. } => below_one("optimizer.momentum", *momentum),
        }
    }
}

/// # Errors
/// [`OptimError::InvalidSetting`].
pub(crate) fn at_least_zero(key: &'static str, value: f64) -> Result<(), OptimError> {
    let expected = "a finite number of at least 0";
    let valid = value.is_finite() && value >= 0.0;
    valid.then_some(()).ok_or(OptimError::InvalidSetting {
        key,
        expected,
        found: value.to_string(),
    })
}

fn below_one(key: &'static str, value: f64) -> Result<(), OptimError> {
    let expected = "a number from 0 to below 1";
    let valid = (0.0..1.0).contains(&value);
    valid.then_some(()).ok_or(OptimError::InvalidSetting {
        key,
        expected,
        found: value.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_value, json};

    use super::OptimizerConfig;
    use crate::OptimError;

    fn parse(value: Value) -> Result<OptimizerConfig, serde_json::Error> {
        from_value(value)
    }

    #[test]
    fn what_is_left_out_is_torchs_default() {
        let config = parse(json!({"kind": "adamw", "lr": 0.1})).unwrap();
        assert_eq!(
            config,
            OptimizerConfig::Adamw {
                lr: 0.1,
                betas: [0.9, 0.999],
                eps: 1e-8,
                weight_decay: 0.0
            }
        );
        let config = parse(json!({"kind": "sgd", "lr": 0.1})).unwrap();
        assert_eq!(
            config,
            OptimizerConfig::Sgd {
                lr: 0.1,
                momentum: 0.0,
                weight_decay: 0.0
            }
        );
    }

    #[test]
    fn an_unknown_key_is_refused() {
        assert!(parse(json!({"kind": "sgd", "lr": 0.1, "betas": [0.9, 0.99]})).is_err());
    }

    #[test]
    fn a_setting_out_of_range_is_named() {
        for (config, name) in [
            (json!({"kind": "adamw", "lr": -1.0}), "optimizer.lr"),
            (
                json!({"kind": "adamw", "lr": 0.1, "betas": [0.9, 1.0]}),
                "optimizer.betas",
            ),
            (
                json!({"kind": "sgd", "lr": 0.1, "momentum": 1.0}),
                "optimizer.momentum",
            ),
            (
                json!({"kind": "sgd", "lr": 0.1, "weight_decay": -0.1}),
                "optimizer.weight_decay",
            ),
        ] {
            match parse(config).unwrap().validate() {
                Err(OptimError::InvalidSetting { key, .. }) => assert_eq!(key, name),
                other => panic!("{other:?}"),
            }
        }
    }
}

//! Parameters with a rate or decay of their own.

use burn::optim::DynOptimizer;
use regex::Regex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::optimizer::at_least_zero;
use crate::{OptimError, OptimizerConfig};

/// Parameters with a rate or decay of their own. Of several groups that match a parameter the first
/// counts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GroupConfig {
    /// Regular expression that is found anywhere in the parameter's path in the trained module,
    /// e.g. `^head\.` or `\.bias$`.
    pub pattern: String,
    /// Factor on the rate.
    #[serde(default = "default_lr_scale")]
    #[schemars(range(min = 0.0))]
    pub lr_scale: f64,
    /// Weight decay instead of the optimizer's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0))]
    pub weight_decay: Option<f64>,
}

fn default_lr_scale() -> f64 {
    1.0
}

/// The update rule of some parameters.
pub(crate) struct Group {
    pattern: Option<Regex>,
    pub(crate) lr_scale: f64,
    pub(crate) optimizer: Box<dyn DynOptimizer>,
}

/// All groups; the last one takes what no other takes.
pub(crate) struct Groups(Vec<Group>);

impl Groups {
    /// # Errors
    /// [`OptimError::InvalidSetting`], [`OptimError::GroupPattern`].
    pub(crate) fn new(
        optimizer: &OptimizerConfig,
        configs: &[GroupConfig],
    ) -> Result<Self, OptimError> {
        let mut groups = Vec::new();
        for config in configs {
            at_least_zero("groups.lr_scale", config.lr_scale)?;
            let weight_decay = config.weight_decay.unwrap_or(optimizer.weight_decay());
            at_least_zero("groups.weight_decay", weight_decay)?;
            let pattern =
                Regex::new(&config.pattern).map_err(|source| OptimError::GroupPattern {
                    pattern: config.pattern.clone(),
                    source,
                })?;
            let lr_scale = config.lr_scale;
            groups.push(Group {
                pattern: Some(pattern),
                lr_scale,
                optimizer: optimizer.build(weight_decay),
            });
        }
        let optimizer = optimizer.build(optimizer.weight_decay());
        groups.push(Group {
            pattern: None,
            lr_scale: 1.0,
            optimizer,
        });
        Ok(Self(groups))
    }

    /// Index of the group that a parameter belongs to.
    pub(crate) fn index_of(&self, path: &str) -> usize {
        let takes = |group: &Group| {
            group
                .pattern
                .as_ref()
                .is_none_or(|pattern| pattern.is_match(path))
        };
        self.0.iter().position(takes).unwrap_or(self.0.len() - 1)
    }

    /// The group of an index that [`Self::index_of`] gave.
    pub(crate) fn get(&self, index: usize) -> &Group {
        &self.0[index]
    }

    /// # Errors
    /// [`OptimError::EmptyGroup`] when a pattern gets none of the parameters.
    pub(crate) fn check_all_used(&self, paths: &[&str]) -> Result<(), OptimError> {
        for (index, group) in self.0.iter().enumerate() {
            let used = paths.iter().any(|path| self.index_of(path) == index);
            if let (Some(pattern), false) = (&group.pattern, used) {
                let parameters = paths.iter().map(|path| (*path).to_owned()).collect();
                return Err(OptimError::EmptyGroup {
                    pattern: pattern.to_string(),
                    parameters,
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{GroupConfig, Groups};
    use crate::{OptimError, OptimizerConfig};

    fn groups(patterns: &[&str]) -> Result<Groups, OptimError> {
        let optimizer = OptimizerConfig::Sgd {
            lr: 0.1,
            momentum: 0.0,
            weight_decay: 0.0,
        };
        let config = |pattern: &&str| GroupConfig {
            pattern: (*pattern).to_owned(),
            lr_scale: 2.0,
            weight_decay: None,
        };
        Groups::new(&optimizer, &patterns.iter().map(config).collect::<Vec<_>>())
    }

    #[test]
    fn the_first_match_counts_and_the_rest_is_the_default() {
        let groups = groups(&[r"^head\.", r"bias$"]).unwrap();
        assert_eq!(groups.index_of("head.bias"), 0);
        assert_eq!(groups.index_of("body.bias"), 1);
        assert_eq!(groups.index_of("body.head.weight"), 2);
        assert_eq!((groups.get(0).lr_scale, groups.get(2).lr_scale), (2.0, 1.0));
    }

    #[test]
    fn a_pattern_that_gets_nothing_is_named() {
        let groups = groups(&["bias", "bias$"]).unwrap();
        match groups.check_all_used(&["a.bias", "a.weight"]) {
            Err(OptimError::EmptyGroup { pattern, .. }) => assert_eq!(pattern, "bias$"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_pattern_that_does_not_parse_is_named() {
        assert!(
            matches!(groups(&["("]), Err(OptimError::GroupPattern { pattern, .. }) if pattern == "(")
        );
    }
}

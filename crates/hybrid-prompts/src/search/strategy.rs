//! Which prompts are scored on how many examples.

use hybrid_data::derive_seed;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::PromptError;

/// How a space of prompts is searched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum SearchStrategy {
    /// This many prompts, drawn with the seed, each on all fit examples.
    Random {
        /// How many prompts.
        #[schemars(range(min = 1))]
        trials: usize,
    },
    /// Every prompt on all fit examples: for small spaces.
    Exhaustive,
    /// Successive halving (Jamieson and Talwalkar 2016): many prompts on few examples, then the
    /// best of them on more, until the last ones are scored on all. Each sample holds the one
    /// before and is balanced by label.
    Halving {
        /// From rung to rung the prompts are divided and the sample is multiplied by this.
        #[serde(default = "default_eta")]
        #[schemars(range(min = 2))]
        eta: usize,
        /// Examples of the first rung. Left out: so many that the third rung has all of them, but
        /// at least one a label.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(range(min = 1))]
        first_sample: Option<usize>,
        /// Most prompts of the first rung; of a larger space, this many are drawn with the seed.
        #[serde(default = "default_max_prompts")]
        #[schemars(range(min = 1))]
        max_prompts: usize,
    },
}

fn default_eta() -> usize {
    3
}

fn default_max_prompts() -> usize {
    100
}

impl Default for SearchStrategy {
    fn default() -> Self {
        Self::Halving {
            eta: default_eta(),
            first_sample: None,
            max_prompts: default_max_prompts(),
        }
    }
}

/// A strategy laid out for one space and one set of examples.
pub(super) struct Plan {
    /// The prompts of the first rung, in order.
    pub(super) first: Vec<usize>,
    /// The rungs; the samples grow and the prompts get fewer.
    pub(super) rungs: Vec<Rung>,
}

/// How many prompts are scored on how many examples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rung {
    pub(super) n_prompts: usize,
    pub(super) sample: usize,
}

impl Plan {
    /// `keep_first`: whether prompt 0 takes part whatever is drawn.
    pub(super) fn new(
        strategy: &SearchStrategy,
        n_prompts: usize,
        keep_first: bool,
        n_examples: usize,
        n_labels: usize,
        seed: u64,
    ) -> Result<Self, PromptError> {
        let at_least = |setting, found, least| {
            if found < least {
                Err(PromptError::Setting {
                    setting,
                    found,
                    least,
                })
            } else {
                Ok(found)
            }
        };
        match *strategy {
            SearchStrategy::Exhaustive => Ok(Self {
                first: (0..n_prompts).collect(),
                rungs: vec![Rung {
                    n_prompts,
                    sample: n_examples,
                }],
            }),
            SearchStrategy::Random { trials } => {
                let first = drawn(n_prompts, at_least("trials", trials, 1)?, keep_first, seed);
                let rungs = vec![Rung {
                    n_prompts: first.len(),
                    sample: n_examples,
                }];
                Ok(Self { first, rungs })
            }
            SearchStrategy::Halving {
                eta,
                first_sample,
                max_prompts,
            } => {
                let eta = at_least("eta", eta, 2)?;
                let first_sample = match first_sample {
                    Some(sample) => at_least("first_sample", sample, 1)?,
                    None => n_labels.max(n_examples.div_ceil(eta.saturating_mul(eta))),
                };
                let first = drawn(
                    n_prompts,
                    at_least("max_prompts", max_prompts, 1)?,
                    keep_first,
                    seed,
                );
                let mut rungs = vec![Rung {
                    n_prompts: first.len(),
                    sample: first_sample.min(n_examples),
                }];
                loop {
                    let Rung { n_prompts, sample } = rungs[rungs.len() - 1];
                    if sample == n_examples || n_prompts == 1 {
                        break;
                    }
                    let sample = sample.saturating_mul(eta).min(n_examples);
                    rungs.push(Rung {
                        n_prompts: n_prompts.div_ceil(eta),
                        sample,
                    });
                }
                Ok(Self { first, rungs })
            }
        }
    }

    /// How many trials all rungs take.
    pub(super) fn n_trials(&self) -> usize {
        self.rungs.iter().map(|rung| rung.n_prompts).sum()
    }
}

/// `wanted` of `n` numbers, drawn with the seed, in order.
fn drawn(n: usize, wanted: usize, keep_first: bool, seed: u64) -> Vec<usize> {
    let mut numbers: Vec<usize> = (0..n).collect();
    if wanted < n {
        let kept = usize::from(keep_first);
        numbers[kept..].shuffle(&mut ChaCha8Rng::seed_from_u64(derive_seed(seed, "prompts")));
        numbers.truncate(wanted);
        numbers.sort_unstable();
    }
    numbers
}

#[cfg(test)]
mod tests {
    use super::{Plan, Rung, SearchStrategy};
    use crate::error::PromptError;

    fn plan(strategy: SearchStrategy, n_prompts: usize, n_examples: usize) -> Plan {
        Plan::new(&strategy, n_prompts, true, n_examples, 77, 0).unwrap()
    }

    fn halving(first_sample: Option<usize>, max_prompts: usize) -> SearchStrategy {
        SearchStrategy::Halving {
            eta: 3,
            first_sample,
            max_prompts,
        }
    }

    #[test]
    fn halving_grows_the_sample_as_prompts_fall_out() {
        let rungs = |plan: Plan| {
            plan.rungs
                .iter()
                .map(|rung| (rung.n_prompts, rung.sample))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            rungs(plan(halving(None, 100), 64, 770)),
            [(64, 86), (22, 258), (8, 770)]
        );
        assert_eq!(
            rungs(plan(halving(None, 100), 64, 154)),
            [(64, 77), (22, 154)]
        );
        assert_eq!(
            rungs(plan(halving(Some(10), 20), 64, 100)),
            [(20, 10), (7, 30), (3, 90), (1, 100)]
        );
        assert_eq!(rungs(plan(halving(Some(500), 9), 2, 100)), [(2, 100)]);
        assert_eq!(rungs(plan(halving(Some(5), 9), 1, 100)), [(1, 5)]);
        assert_eq!(plan(halving(None, 100), 64, 770).n_trials(), 94);
    }

    #[test]
    fn drawn_prompts_depend_on_the_seed_and_keep_the_first() {
        let drawn = |seed| {
            Plan::new(&SearchStrategy::Random { trials: 5 }, 50, true, 10, 2, seed)
                .unwrap()
                .first
        };
        assert_eq!(drawn(1), drawn(1));
        assert_ne!(drawn(1), drawn(2));
        for seed in 0..20 {
            assert_eq!((drawn(seed)[0], drawn(seed).len()), (0, 5));
        }
        assert_eq!(
            plan(SearchStrategy::Random { trials: 9 }, 3, 10).first,
            [0, 1, 2]
        );
        assert_eq!(
            plan(SearchStrategy::Exhaustive, 3, 10).rungs,
            [Rung {
                n_prompts: 3,
                sample: 10
            }]
        );
    }

    #[test]
    fn settings_that_cannot_work_are_refused() {
        let refused = |strategy: SearchStrategy| match Plan::new(&strategy, 3, false, 10, 2, 0) {
            Err(PromptError::Setting { setting, .. }) => setting,
            _ => panic!("{strategy:?} is accepted"),
        };
        assert_eq!(refused(SearchStrategy::Random { trials: 0 }), "trials");
        assert_eq!(
            refused(SearchStrategy::Halving {
                eta: 1,
                first_sample: None,
                max_prompts: 9
            }),
            "eta"
        );
        assert_eq!(refused(halving(Some(0), 9)), "first_sample");
        assert_eq!(refused(halving(None, 0)), "max_prompts");
    }

    #[test]
    fn a_recipe_names_a_strategy_and_no_more() {
        let read = |json: &str| serde_json::from_str::<SearchStrategy>(json);
        assert_eq!(
            read(r#"{"kind": "halving"}"#).unwrap(),
            SearchStrategy::default()
        );
        assert_eq!(
            read(r#"{"kind": "random", "trials": 8}"#).unwrap(),
            SearchStrategy::Random { trials: 8 }
        );
        assert_eq!(
            read(r#"{"kind": "exhaustive"}"#).unwrap(),
            SearchStrategy::Exhaustive
        );
        assert!(read(r#"{"kind": "random", "trials": 8, "etta": 2}"#).is_err());
        assert!(read(r#"{"kind": "random"}"#).is_err());
    }
}

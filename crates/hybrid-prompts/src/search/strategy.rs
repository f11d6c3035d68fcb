//! Which prompts are scored on how many examples.

use rand::seq::{SliceRandom, index};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::PromptError;
use crate::sampling::rng_of;

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
    /// Beam search (as in Pryzant et al. 2023): the best prompts so far are changed a step at a
    /// time, and the best of old and new ones go on. Three prompts are scored on all examples at
    /// the end.
    Beam {
        /// How many prompts go on from round to round.
        #[serde(default = "default_width")]
        #[schemars(range(min = 1))]
        width: usize,
        /// How many rounds.
        #[serde(default = "default_rounds")]
        #[schemars(range(min = 1))]
        rounds: usize,
        /// How many steps are tried from each prompt in a round.
        #[serde(default = "default_expansions")]
        #[schemars(range(min = 1))]
        expansions: usize,
        /// Examples of each trial but the last ones, balanced by label. Left out: all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(range(min = 1))]
        sample: Option<usize>,
    },
    /// Evolution (as in Guo et al. 2024, EvoPrompt): children take each part from one of two good
    /// parents and change by a step, and the best survive. Three prompts are scored on all examples
    /// at the end.
    Evolution {
        /// How many prompts live at a time.
        #[serde(default = "default_population")]
        #[schemars(range(min = 1))]
        population: usize,
        /// How many times they have children.
        #[serde(default = "default_generations")]
        #[schemars(range(min = 1))]
        generations: usize,
        /// Examples of each trial but the last ones, balanced by label. Left out: all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(range(min = 1))]
        sample: Option<usize>,
    },
    /// A tree-structured Parzen estimator (Bergstra et al. 2011): prompts whose parts are frequent
    /// among the good trials and rare among the others are scored next. Three prompts are scored
    /// on all examples at the end.
    TreeParzen {
        /// How many prompts are scored.
        #[schemars(range(min = 1))]
        trials: usize,
        /// How many of them are drawn with the seed, before there is anything to learn from.
        #[serde(default = "default_startup")]
        #[schemars(range(min = 1))]
        startup: usize,
        /// Examples of each trial but the last ones, balanced by label. Left out: all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(range(min = 1))]
        sample: Option<usize>,
    },
}

fn default_width() -> usize {
    4
}

fn default_rounds() -> usize {
    4
}

fn default_expansions() -> usize {
    4
}

fn default_population() -> usize {
    8
}

fn default_generations() -> usize {
    4
}

fn default_startup() -> usize {
    8
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

/// The settings of successive halving.
#[derive(Debug, Clone, Copy)]
pub(super) struct Halving {
    pub(super) eta: usize,
    pub(super) first_sample: Option<usize>,
    pub(super) max_prompts: usize,
}

/// How many prompts are scored on how many examples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rung {
    pub(super) n_prompts: usize,
    pub(super) sample: usize,
}

impl Plan {
    /// Every prompt on all examples.
    pub(super) fn exhaustive(n_prompts: usize, n_examples: usize) -> Result<Self, PromptError> {
        if n_prompts > MOST_LISTED {
            return Err(PromptError::LargeSpace {
                n_prompts,
                most: MOST_LISTED,
            });
        }
        let rung = Rung {
            n_prompts,
            sample: n_examples,
        };
        Ok(Self {
            first: (0..n_prompts).collect(),
            rungs: vec![rung],
        })
    }

    /// Drawn prompts on all examples. `keep_first`: whether prompt 0 takes part whatever is drawn.
    pub(super) fn random(
        trials: usize,
        n_prompts: usize,
        keep_first: bool,
        n_examples: usize,
        seed: u64,
    ) -> Result<Self, PromptError> {
        let trials = PromptError::at_least("trials", trials, 1)?;
        let first = drawn(n_prompts, trials, keep_first, seed);
        let rungs = vec![Rung {
            n_prompts: first.len(),
            sample: n_examples,
        }];
        Ok(Self { first, rungs })
    }

    /// Fewer and fewer prompts on more and more examples. `keep_first` as for
    /// [`random`](Self::random).
    pub(super) fn halving(
        settings: Halving,
        n_prompts: usize,
        keep_first: bool,
        n_examples: usize,
        n_labels: usize,
        seed: u64,
    ) -> Result<Self, PromptError> {
        let eta = PromptError::at_least("eta", settings.eta, 2)?;
        let first_sample = match settings.first_sample {
            Some(sample) => PromptError::at_least("first_sample", sample, 1)?,
            None => n_labels.max(n_examples.div_ceil(eta.saturating_mul(eta))),
        };
        let max_prompts = PromptError::at_least("max_prompts", settings.max_prompts, 1)?;
        let first = drawn(n_prompts, max_prompts, keep_first, seed);
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

    /// How many trials all rungs take.
    pub(super) fn n_trials(&self) -> usize {
        self.rungs.iter().map(|rung| rung.n_prompts).sum()
    }
}

/// Most prompts that are listed.
const MOST_LISTED: usize = 1 << 20;

/// `wanted` of `n` numbers, drawn with the seed, in order.
fn drawn(n: usize, wanted: usize, keep_first: bool, seed: u64) -> Vec<usize> {
    if wanted >= n {
        return (0..n).collect();
    }
    let kept = usize::from(keep_first);
    let mut rng = rng_of(seed, "prompts");
    let mut numbers: Vec<usize> = if n > MOST_LISTED {
        let others = index::sample(&mut rng, n - kept, wanted - kept).into_iter();
        (0..kept).chain(others.map(|other| other + kept)).collect()
    } else {
        let mut numbers: Vec<usize> = (0..n).collect();
        numbers[kept..].shuffle(&mut rng);
        numbers.truncate(wanted);
        numbers
    };
    numbers.sort_unstable();
    numbers
}

#[cfg(test)]
mod tests {
    use super::{Halving, Plan, Rung, SearchStrategy};
    use crate::error::PromptError;

    fn settings(eta: usize, first_sample: Option<usize>, max_prompts: usize) -> Halving {
        Halving {
            eta,
            first_sample,
            max_prompts,
        }
    }

    fn halving(
        first_sample: Option<usize>,
        max_prompts: usize,
        n_prompts: usize,
        n_examples: usize,
    ) -> Plan {
        let settings = settings(3, first_sample, max_prompts);
        Plan::halving(settings, n_prompts, true, n_examples, 77, 0).unwrap()
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
            rungs(halving(None, 100, 64, 770)),
            [(64, 86), (22, 258), (8, 770)]
        );
        assert_eq!(rungs(halving(None, 100, 64, 154)), [(64, 77), (22, 154)]);
        assert_eq!(
            rungs(halving(Some(10), 20, 64, 100)),
            [(20, 10), (7, 30), (3, 90), (1, 100)]
        );
        assert_eq!(rungs(halving(Some(500), 9, 2, 100)), [(2, 100)]);
        assert_eq!(rungs(halving(Some(5), 9, 1, 100)), [(1, 5)]);
        assert_eq!(halving(None, 100, 64, 770).n_trials(), 94);
    }

    #[test]
    fn drawn_prompts_depend_on_the_seed_and_keep_the_first() {
        let drawn = |seed| Plan::random(5, 50, true, 10, seed).unwrap().first;
        assert_eq!(drawn(1), drawn(1));
        assert_ne!(drawn(1), drawn(2));
        for seed in 0..20 {
            assert_eq!((drawn(seed)[0], drawn(seed).len()), (0, 5));
        }
        assert_eq!(Plan::random(9, 3, true, 10, 0).unwrap().first, [0, 1, 2]);
        let huge = Plan::random(5, usize::MAX, true, 10, 1).unwrap().first;
        assert!(huge[0] == 0 && huge.len() == 5 && huge.is_sorted_by(|a, b| a < b));
        assert!(matches!(
            Plan::exhaustive(usize::MAX, 10),
            Err(PromptError::LargeSpace { .. })
        ));
        assert_eq!(
            Plan::exhaustive(3, 10).unwrap().rungs,
            [Rung {
                n_prompts: 3,
                sample: 10
            }]
        );
    }

    #[test]
    fn settings_that_cannot_work_are_refused() {
        let refused = |plan: Result<Plan, PromptError>| match plan {
            Err(PromptError::Setting { setting, .. }) => setting,
            _ => panic!("accepted"),
        };
        assert_eq!(refused(Plan::random(0, 3, false, 10, 0)), "trials");
        for (settings, setting) in [
            (settings(1, None, 9), "eta"),
            (settings(3, Some(0), 9), "first_sample"),
            (settings(3, None, 0), "max_prompts"),
        ] {
            assert_eq!(
                refused(Plan::halving(settings, 3, false, 10, 2, 0)),
                setting
            );
        }
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
        assert_eq!(
            read(r#"{"kind": "beam", "sample": 32}"#).unwrap(),
            SearchStrategy::Beam {
                width: 4,
                rounds: 4,
                expansions: 4,
                sample: Some(32)
            }
        );
        assert!(read(r#"{"kind": "tree_parzen"}"#).is_err());
    }
}

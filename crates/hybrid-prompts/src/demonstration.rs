//! Demonstrations: answered examples that a prompt shows before the input.

use std::collections::BTreeMap;

use hybrid_data::{DataError, Example, derive_seed};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::PromptError;
use crate::sampling::balanced_order;

/// Most examples that a prompt keeps to choose the nearest ones from: they are stored with it.
pub(crate) const MAX_POOL: usize = 256;

/// One answered example.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Demonstration {
    /// The answer: a label, which is shown as its first label word, or a text.
    pub answer: String,
    /// Template field name to text.
    pub fields: BTreeMap<String, String>,
}

impl Demonstration {
    /// A labelled example as it is.
    ///
    /// # Errors
    /// [`PromptError::Data`] for an example without a label.
    pub fn of(example: &Example) -> Result<Self, PromptError> {
        Ok(Self {
            answer: label_of(example)?.to_owned(),
            fields: example.fields.clone(),
        })
    }
}

/// The label of an example that must have one.
pub(crate) fn label_of(example: &Example) -> Result<&str, PromptError> {
    let missing = || DataError::Unlabelled {
        path: example.origin.file.to_path_buf(),
        line: example.origin.line,
    };
    Ok(example.label.as_deref().ok_or_else(missing)?)
}

/// The demonstrations of a prompt.
///
/// One whose fields are those of the input is never shown for it: an example that is scored must
/// not be told its answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Demonstrations {
    /// Show only this many: those whose embedded fields are nearest to the input's, the nearest
    /// last. Left out: all of them, in order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub nearest: Option<usize>,
    /// The answered examples.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub examples: Vec<Demonstration>,
}

impl Demonstrations {
    /// Demonstrations that are all shown, in this order.
    pub fn fixed(examples: Vec<Demonstration>) -> Self {
        Self {
            nearest: None,
            examples,
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.examples.is_empty()
    }
}

/// How demonstrations are chosen among labelled examples.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum DemonstrationChoice {
    /// No demonstrations.
    None,
    /// Drawn with the seed.
    Random {
        /// How many a prompt shows.
        #[schemars(range(min = 1))]
        n: usize,
        /// How many different sets are drawn.
        #[serde(default = "one")]
        #[schemars(range(min = 1))]
        sets: usize,
    },
    /// Drawn with the seed, one of each label in turn.
    Balanced {
        /// How many a prompt shows.
        #[schemars(range(min = 1))]
        n: usize,
        /// How many different sets are drawn.
        #[serde(default = "one")]
        #[schemars(range(min = 1))]
        sets: usize,
    },
    /// For each input, those whose embedded fields are nearest to the input's (Liu et al. 2022,
    /// "What makes good in-context examples for GPT-3?").
    Nearest {
        /// How many a prompt shows.
        #[schemars(range(min = 1))]
        n: usize,
        /// How many examples they are chosen from, drawn balanced; at most 256, as the prompt
        /// stores them.
        #[serde(default = "default_pool")]
        #[schemars(range(min = 1, max = 256))]
        pool: usize,
    },
    /// Examples that the model answers correctly without demonstrations, with its own answers;
    /// balanced by label (as DSPy's BootstrapFewShot; Khattab et al. 2023).
    Bootstrapped {
        /// How many a prompt shows.
        #[schemars(range(min = 1))]
        n: usize,
        /// How many different sets are drawn.
        #[serde(default = "one")]
        #[schemars(range(min = 1))]
        sets: usize,
        /// The least value of the metric at which a generated answer counts as correct.
        #[serde(default = "one_f64")]
        least: f64,
    },
}

fn one() -> usize {
    1
}

fn one_f64() -> f64 {
    1.0
}

fn default_pool() -> usize {
    64
}

impl DemonstrationChoice {
    /// The sets of this choice that need no model. `targets` holds the class of each example out of
    /// `n_labels`; all zero of one where there are no classes.
    ///
    /// None for [`Bootstrapped`](Self::Bootstrapped), which [`search_language`](crate::search_language)
    /// carries out.
    ///
    /// # Errors
    /// [`PromptError::Setting`] for a number that cannot work, [`PromptError::Data`] for an example
    /// without a label.
    pub fn sets(
        &self,
        examples: &[Example],
        targets: &[usize],
        n_labels: usize,
        seed: u64,
    ) -> Result<Vec<Demonstrations>, PromptError> {
        self.check()?;
        let drawn = |targets: &[usize], n: usize, event: &str| {
            balanced_order(targets, n_labels, derive_seed(seed, event))
                .into_iter()
                .take(n)
                .map(|row| Demonstration::of(&examples[row]))
                .collect::<Result<Vec<_>, _>>()
        };
        let each = |targets: &[usize], n: usize, sets: usize, name: &str| {
            (0..sets)
                .map(|set| {
                    let event = format!("{n} {name} demonstrations, set {set}");
                    drawn(targets, n, &event).map(Demonstrations::fixed)
                })
                .collect()
        };
        match *self {
            Self::None => Ok(vec![Demonstrations::default()]),
            // With one label for all, a balanced order is a random one.
            Self::Random { n, sets } => each(&vec![0; targets.len()], n, sets, "random"),
            Self::Balanced { n, sets } => each(targets, n, sets, "balanced"),
            Self::Nearest { n, pool } => Ok(vec![Demonstrations {
                nearest: Some(n),
                examples: drawn(targets, pool, "pool of demonstrations")?,
            }]),
            Self::Bootstrapped { .. } => Ok(Vec::new()),
        }
    }

    fn check(&self) -> Result<(), PromptError> {
        let (n, others) = match *self {
            Self::None => return Ok(()),
            Self::Random { n, sets }
            | Self::Balanced { n, sets }
            | Self::Bootstrapped { n, sets, .. } => (n, ("sets", sets)),
            Self::Nearest { n, pool } => (n, ("pool", pool.min(MAX_POOL))),
        };
        PromptError::at_least("n", n, 1)?;
        PromptError::at_least(others.0, others.1, 1)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::collection::vec;
    use proptest::prelude::{prop_assert, prop_assert_eq, proptest};

    use super::{Demonstration, DemonstrationChoice, Demonstrations};
    use crate::error::PromptError;
    use crate::fake_model::example;

    fn examples(targets: &[usize]) -> Vec<hybrid_data::Example> {
        let name =
            |(row, target): (usize, &usize)| example(&format!("row {row}"), &format!("l{target}"));
        targets.iter().enumerate().map(name).collect()
    }

    #[test]
    fn sets_differ_and_the_seed_decides() {
        let targets: Vec<usize> = (0..40).map(|row| row % 4).collect();
        let examples = examples(&targets);
        for choice in [
            DemonstrationChoice::Random { n: 6, sets: 3 },
            DemonstrationChoice::Balanced { n: 6, sets: 3 },
        ] {
            let sets = choice.sets(&examples, &targets, 4, 1).unwrap();
            assert_eq!(sets.len(), 3);
            assert!(sets[0] != sets[1] && sets[1] != sets[2]);
            assert_eq!(sets, choice.sets(&examples, &targets, 4, 1).unwrap());
            assert_ne!(sets, choice.sets(&examples, &targets, 4, 2).unwrap());
        }
        let nearest = DemonstrationChoice::Nearest { n: 2, pool: 8 };
        let sets = nearest.sets(&examples, &targets, 4, 1).unwrap();
        assert_eq!((sets[0].nearest, sets[0].examples.len()), (Some(2), 8));
        let none = DemonstrationChoice::None
            .sets(&examples, &targets, 4, 1)
            .unwrap();
        assert_eq!(none, [Demonstrations::default()]);
    }

    #[test]
    fn faults_are_refused() {
        for choice in [
            DemonstrationChoice::Random { n: 0, sets: 1 },
            DemonstrationChoice::Balanced { n: 1, sets: 0 },
            DemonstrationChoice::Nearest { n: 1, pool: 0 },
        ] {
            let refused = choice.sets(&[], &[], 1, 0);
            assert!(
                matches!(refused, Err(PromptError::Setting { least: 1, .. })),
                "{choice:?}"
            );
        }
        let mut unlabelled = example("x", "a");
        unlabelled.label = None;
        assert!(matches!(
            Demonstration::of(&unlabelled),
            Err(PromptError::Data(_))
        ));
        let read = |json: &str| serde_json::from_str::<DemonstrationChoice>(json);
        assert_eq!(
            read(r#"{"kind": "balanced", "n": 4}"#).unwrap(),
            DemonstrationChoice::Balanced { n: 4, sets: 1 }
        );
        assert!(read(r#"{"kind": "balanced", "n": 4, "set": 2}"#).is_err());
    }

    proptest! {
        #[test]
        fn drawn_demonstrations_are_distinct_examples_and_balanced(
            targets in vec(0usize..3, 1..30),
            n in 1usize..12,
            seed: u64,
        ) {
            let examples = examples(&targets);
            let sets = DemonstrationChoice::Balanced { n, sets: 2 }.sets(&examples, &targets, 3, seed).unwrap();
            for set in &sets {
                prop_assert_eq!(set.examples.len(), n.min(targets.len()));
                let distinct: BTreeSet<_> = set.examples.iter().collect();
                prop_assert_eq!(distinct.len(), set.examples.len());
                let shown = |label: usize| set.examples.iter().filter(|shown| shown.answer == format!("l{label}")).count();
                let have = |label: usize| targets.iter().filter(|target| **target == label).count();
                let most = (0..3).map(shown).max().unwrap();
                for label in 0..3 {
                    prop_assert!(shown(label) + 1 >= most || shown(label) == have(label));
                }
            }
        }
    }
}

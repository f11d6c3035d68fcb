//! Beam search and evolution: from the best prompts so far to their neighbours.

use rand::RngExt;
use rand::seq::IndexedRandom;

use super::explorer::Explorer;
use super::space::Point;
use crate::error::PromptError;

/// Beam search (as in Pryzant et al. 2023): in each round every prompt of the beam is expanded by
/// `expansions` steps and by improved instructions, and the best of all make the next beam.
pub(super) fn beam(
    mut explorer: Explorer<'_, '_>,
    first: Point,
    width: usize,
    rounds: usize,
    expansions: usize,
) -> Result<(), PromptError> {
    let each = expansions.saturating_add(explorer.n_improved);
    explorer.plan(width.saturating_add(rounds.saturating_mul(width).saturating_mul(each)));
    let mut going = explorer.start(first, width)?;
    for round in 0..rounds {
        let n_before = explorer.scored.len();
        for (place, member) in explorer.best(width).into_iter().enumerate() {
            if !going {
                break;
            }
            let event = format!("beam round {round} member {place}");
            let mut next = explorer.improved(member, &event)?;
            for index in 0..expansions {
                let mut rng = explorer.rng(&format!("{event} expansion {index}"));
                next.extend(explorer.step(member, &mut rng));
            }
            for point in next {
                going = going && explorer.score(point)?;
            }
        }
        if !going || explorer.scored.len() == n_before {
            break;
        }
    }
    explorer.finish()
}

/// Evolution (as in Guo et al. 2024, EvoPrompt, with the parts of a prompt as its genes): in each
/// generation children of two parents each, which won a tournament of two, take every part from one
/// or the other and then one step; the best of parents and children survive.
pub(super) fn evolution(
    mut explorer: Explorer<'_, '_>,
    first: Point,
    population: usize,
    generations: usize,
) -> Result<(), PromptError> {
    let each = population.saturating_add(explorer.n_improved);
    explorer.plan(population.saturating_add(generations.saturating_mul(each)));
    let mut going = explorer.start(first, population)?;
    for generation in 0..generations {
        if !going {
            break;
        }
        // Best first, so the smaller place wins a tournament.
        let parents = explorer.best(population);
        let mut children = match parents.first() {
            Some(&best) => explorer.improved(best, &format!("generation {generation}"))?,
            None => Vec::new(),
        };
        for child in 0..population {
            let mut rng = explorer.rng(&format!("generation {generation} child {child}"));
            let mut winner = || {
                let (a, b) = (
                    rng.random_range(0..parents.len()),
                    rng.random_range(0..parents.len()),
                );
                parents[a.min(b)]
            };
            let pair = [winner(), winner()];
            let mut point = pair[0];
            for (part, choice) in point.iter_mut().enumerate() {
                if let Some(parent) = pair.choose(&mut rng) {
                    *choice = parent[part];
                }
            }
            children.extend(explorer.step(point, &mut rng));
        }
        let n_before = explorer.scored.len();
        for child in children {
            going = going && explorer.score(child)?;
        }
        if explorer.scored.len() == n_before {
            break;
        }
    }
    explorer.finish()
}

//! A tree-structured Parzen estimator over the parts of a prompt.

use rand::distr::Distribution;
use rand::distr::weighted::WeightedIndex;

use super::explorer::Explorer;
use super::space::{DIMENSIONS, Point};
use crate::error::PromptError;

/// The share of the trials so far that counts as good: one in this many.
const GOOD_ONE_IN: usize = 4;

/// Points drawn for each trial, of which the most promising is scored.
const DRAWN: usize = 24;

/// TPE (Bergstra et al. 2011, section 4) for choices: trials so far are divided into good ones and
/// the others, each part's choices get a density from each side (counts plus one), and of points
/// drawn from the good densities the one is scored whose ratio of densities is highest.
pub(super) fn tree_parzen(
    mut explorer: Explorer<'_, '_>,
    first: Point,
    trials: usize,
    startup: usize,
) -> Result<(), PromptError> {
    explorer.plan(trials);
    let mut going = explorer.start(first, startup.min(trials))?;
    while going && explorer.scored.len() < trials {
        let mut rng = explorer.rng(&format!("trial {}", explorer.scored.len()));
        let ranked = explorer.best(explorer.scored.len());
        let n_good = ranked.len().div_ceil(GOOD_ONE_IN);
        let sizes = explorer.space.sizes();
        let (good, rest) = ranked.split_at(n_good);
        let (good, rest) = (densities(good, sizes), densities(rest, sizes));
        let mut promising: Option<(f64, Point)> = None;
        for _ in 0..DRAWN {
            let mut point = [0; DIMENSIONS];
            for (choice, density) in point.iter_mut().zip(&good) {
                if let Ok(weighted) = WeightedIndex::new(density) {
                    *choice = weighted.sample(&mut rng);
                }
            }
            let ratio: f64 = (0..DIMENSIONS)
                .map(|part| (good[part][point[part]] / rest[part][point[part]]).ln())
                .sum();
            let better = promising.is_none_or(|(best, _)| ratio > best);
            if better && !explorer.scored.contains_key(&point) {
                promising = Some((ratio, point));
            }
        }
        let drawn = promising.map(|(_, point)| point);
        let Some(point) = drawn.or_else(|| explorer.unscored(&mut rng)) else {
            break;
        };
        going = explorer.score(point)?;
    }
    explorer.finish()
}

/// For each part, the probability of each choice among points, where every choice was seen once
/// more than it was.
fn densities(points: &[Point], sizes: Point) -> Vec<Vec<f64>> {
    let density = |(part, &size): (usize, &usize)| {
        let mut counts = vec![1.0; size];
        points.iter().for_each(|point| counts[point[part]] += 1.0);
        let total: f64 = counts.iter().sum();
        counts.into_iter().map(|count| count / total).collect()
    };
    sizes.iter().enumerate().map(density).collect()
}

#[cfg(test)]
mod tests {
    use super::densities;

    #[test]
    fn densities_are_smoothed_counts() {
        let points = [[0, 0, 1, 0, 0, 0], [0, 0, 1, 0, 0, 2], [0, 0, 0, 0, 0, 2]];
        let found = densities(&points, [1, 1, 2, 1, 1, 4]);
        assert_eq!(found[0], [1.0]);
        assert_eq!(found[2], [2.0 / 5.0, 3.0 / 5.0]);
        assert_eq!(found[5], [2.0 / 7.0, 1.0 / 7.0, 3.0 / 7.0, 1.0 / 7.0]);
    }
}

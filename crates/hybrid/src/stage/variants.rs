//! The choice among the variants of an adapter stage: successive halving (Jamieson and Talwalkar 2016,
//! algorithm 1) over epochs.
//!
//! A variant that goes on does so from where it stands, and its seeds and learning rates are those of a
//! stage with these settings alone: the winner is what that stage would have trained.

use super::adapter::{Prepared, prepare};
use super::{Context, Spent, lockstep};
use crate::HybridError;
use crate::candidate::Candidate;
use crate::criterion::{Criterion, Standing};
use crate::journal::Event;
use crate::recipe::AdapterStage;

/// The best of `choices`, trained to its end, and what all of them have taken.
///
/// # Errors
/// [`HybridError`]; an interruption leaves a checkpoint of each behind.
pub(super) fn trained<'c>(
    context: &mut Context<'_>,
    config: &AdapterStage,
    choices: &'c [AdapterStage],
    parent: &Candidate,
    criterion: Criterion,
) -> Result<(Prepared<'c>, Spent), HybridError> {
    let before = context.spent;
    context.run.settle_checkpoints()?;
    let mut left: Vec<Prepared<'c>> = Vec::new();
    for (place, choice) in choices.iter().enumerate() {
        let variant = (choices.len() > 1).then_some(place);
        let prepared = prepare(context, choice, variant, parent, &left)?;
        left.push(prepared);
    }
    let mut dropped = Spent::default();
    let decisions = config.halving.decisions(choices.len(), config.epochs);
    for (decision, (epoch, n_left)) in decisions.into_iter().enumerate() {
        let mut standings = Vec::new();
        for group in lockstep::groups(&left, config.variants_together, context.model) {
            context.spent = before.and(dropped).and(spent(context, &left, &group));
            lockstep::run(context, &mut left, &group, parent, criterion, Some(epoch))?;
            for place in group {
                let standing = left[place].training.stood(context, decision)?;
                standings.push((place, standing));
            }
        }
        standings.sort_by_key(|(place, _)| *place);
        let standings = standings.into_iter().map(|(_, standing)| standing);
        let mut ranked: Vec<(Standing, Prepared<'c>)> = standings.zip(left).collect();
        ranked.sort_by(|(a, _), (b, _)| b.is_better_than(*a).cmp(&a.is_better_than(*b)));
        for (_, out) in ranked.split_off(n_left) {
            dropped = dropped.and(out.training.spent(context.model));
        }
        left = ranked.into_iter().map(|(_, prepared)| prepared).collect();
        let numbers = left
            .iter()
            .filter_map(|prepared| prepared.training.number());
        context.happened(Event::VariantsLeft {
            stage: config.name.clone(),
            epoch,
            variants: numbers.collect(),
        })?;
    }
    context.spent = before.and(dropped);
    lockstep::run(context, &mut left, &[0], parent, criterion, None)?;
    let winner = left.remove(0);
    context.spent = before;
    let all = dropped.and(winner.training.spent(context.model));
    Ok((winner, all))
}

/// What trainings have taken but for those at some places.
fn spent(context: &Context<'_>, trainings: &[Prepared<'_>], but: &[usize]) -> Spent {
    let others = trainings.iter().enumerate();
    let others = others.filter(|(place, _)| !but.contains(place));
    let spent = others.map(|(_, prepared)| prepared.training.spent(context.model));
    spent.fold(Spent::default(), Spent::and)
}

//! The choice among the variants of an adapter stage: successive halving (Jamieson and Talwalkar 2016,
//! algorithm 1) over epochs.
//!
//! A variant that goes on does so from where it stands, and its seeds and learning rates are those of a
//! stage with these settings alone: the winner is what that stage would have trained.

use super::adapter::{Prepared, prepare};
use super::training::{First, Training};
use super::{Context, Spent};
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
        for place in 0..left.len() {
            context.spent = before.and(dropped).and(spent(context, &left, place));
            let begun = left.iter().map(|other| &other.training);
            let first = first_of(begun, &left[place].training, parent);
            let training = &mut left[place].training;
            if let Some(first) = first {
                training.begin(context, first)?;
            }
            training.run(context, parent, criterion, Some(epoch))?;
            standings.push(training.stood(context, decision)?);
        }
        let mut ranked: Vec<(Standing, Prepared<'c>)> = standings.into_iter().zip(left).collect();
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
    let mut winner = left.remove(0);
    winner.training.run(context, parent, criterion, None)?;
    context.spent = before;
    let all = dropped.and(winner.training.spent(context.model));
    Ok((winner, all))
}

/// How a training stands before its first update, when another that begins as the same function has
/// been scored.
fn first_of<'t, 'c: 't>(
    mut others: impl Iterator<Item = &'t Training<'c>>,
    training: &Training<'c>,
    parent: &Candidate,
) -> Option<First> {
    // Adapters that go on from trained values are not what their settings start as.
    if parent.adapter.is_some() {
        return None;
    }
    others.find_map(|other| other.first().filter(|_| other.begins_as(training)))
}

/// What trainings have taken but for the one at a place.
fn spent(context: &Context<'_>, trainings: &[Prepared<'_>], but: usize) -> Spent {
    let others = trainings.iter().enumerate();
    let others = others.filter(|(place, _)| *place != but);
    let spent = others.map(|(_, prepared)| prepared.training.spent(context.model));
    spent.fold(Spent::default(), Spent::and)
}

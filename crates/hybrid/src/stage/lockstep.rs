//! Trainings that go on update by update: those that learn from the same batches in one forward.
//!
//! Each is what it would be alone, but that sums over more rows may be rounded otherwise. A piece of a
//! batch is the same for one as for many, with the same seed; as many take it in one forward as
//! `max_tokens` allows of its copies. Their states are stored together or not at all: after a kill they
//! go on in the same company, to the same bytes.

use std::ops::Range;
use std::time::Instant;

use burn::optim::GradientsParams;

use super::adapter::Prepared;
use super::checkpoint::Checkpoint;
use super::pass::{Learner, Pass, Piece};
use super::training::{First, Training};
use super::{Context, Spent};
use crate::candidate::Candidate;
use crate::criterion::Criterion;
use crate::local_model::LocalModel;
use crate::{HybridError, parallel};

/// The places of trainings that go on at the same time: each for itself, or `together` where they
/// can.
pub(super) fn groups(
    trainings: &[Prepared<'_>],
    together: bool,
    model: &LocalModel,
) -> Vec<Vec<usize>> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for (place, Prepared { training, .. }) in trainings.iter().enumerate() {
        let joins = |group: &&mut Vec<usize>| {
            together && training.goes_with(&trainings[group[0]].training, model)
        };
        match groups.iter_mut().find(joins) {
            Some(group) => group.push(place),
            None => groups.push(vec![place]),
        }
    }
    groups
}

/// Trains a group for so many epochs in all, select scored at their end; to the end without a
/// number.
///
/// # Errors
/// [`HybridError`]; an interruption leaves a checkpoint of each behind.
pub(super) fn run(
    context: &mut Context<'_>,
    trainings: &mut [Prepared<'_>],
    group: &[usize],
    parent: &Candidate,
    criterion: Criterion,
    epochs: Option<usize>,
) -> Result<(), HybridError> {
    let enough = epochs.unwrap_or(usize::MAX);
    let (done, total) = trainings[group[0]].training.steps();
    context.progress.begin(&name(trainings, group), done, total);
    for place in group {
        begin_as_others(context, trainings, *place, parent)?;
        let training = &mut trainings[*place].training;
        training.begin_as_parent(context, parent, criterion)?;
    }
    let mut batches: Option<(usize, Vec<Piece>)> = None;
    loop {
        for place in group {
            let training = &trainings[*place].training;
            if training.goes_on(enough) && training.is_due(enough) {
                begin_as_others(context, trainings, *place, parent)?;
                let training = &mut trainings[*place].training;
                training.evaluate(context, &parent.prompt, criterion)?;
            }
        }
        let mut learning = going_on(trainings, group, enough);
        let Some(first) = learning.iter().map(|training| training.place()).min() else {
            break;
        };
        learning.retain(|training| training.place() == first);
        let (epoch, index) = first;
        let (_, batches) = match batches.take() {
            Some(kept) if kept.0 == epoch => batches.insert(kept),
            _ => batches.insert((epoch, learning[0].batches(context, epoch))),
        };
        let Some(batch) = batches.get(index) else {
            learning
                .iter_mut()
                .for_each(|training| training.end_epoch());
            store_before_scoring(context, &mut learning)?;
            continue;
        };
        update(context, &mut learning, batch)?;
        let interrupted = context.model.check_interrupt();
        if interrupted.is_err() || learning[0].is_to_be_stored() {
            store(context, &mut learning)?;
        }
        interrupted?;
        let spent = group.iter().map(|place| &trainings[*place].training);
        let spent = spent.map(|training| training.spent(context.model));
        let spent = spent.fold(Spent::default(), Spent::and);
        let budget = &context.recipe.budget;
        if context.spent.exceeds(budget, spent).is_some() {
            let mut learning = going_on(trainings, group, enough);
            let spent = |training: &mut &mut Training<'_>| training.budget_is_spent();
            learning.iter_mut().for_each(spent);
            store_before_scoring(context, &mut learning)?;
        }
    }
    context.progress.end();
    if epochs.is_none() {
        for place in group {
            let training = &mut trainings[*place].training;
            training.interpolate(context, &parent.prompt, criterion)?;
        }
    }
    Ok(())
}

/// The stage, and of several variants the numbers of those that are trained.
fn name(trainings: &[Prepared<'_>], group: &[usize]) -> String {
    let of_group = || group.iter().map(|place| &trainings[*place].training);
    let numbers = of_group().filter_map(Training::number);
    let numbers: Vec<String> = numbers.map(|number| number.to_string()).collect();
    let names = of_group()
        .take(1)
        .map(|training| training.name().to_owned());
    let parts: Vec<String> = names.chain(numbers).collect();
    parts.join(" ")
}

/// Those of a group that have not ended and whose select is not scored after so many epochs.
fn going_on<'t, 'c>(
    trainings: &'t mut [Prepared<'c>],
    group: &[usize],
    enough: usize,
) -> Vec<&'t mut Training<'c>> {
    let trainings = trainings.iter_mut().enumerate();
    let of_group = trainings.filter(|(place, _)| group.contains(place));
    let of_group = of_group.map(|(_, prepared)| &mut prepared.training);
    of_group
        .filter(|training| training.goes_on(enough))
        .collect()
}

/// A training stands before its first update as another that begins as the same function and has been
/// scored.
fn begin_as_others(
    context: &mut Context<'_>,
    trainings: &mut [Prepared<'_>],
    place: usize,
    parent: &Candidate,
) -> Result<(), HybridError> {
    // Adapters that go on from trained values are not what their settings start as.
    if parent.adapter.is_some() {
        return Ok(());
    }
    let training = &trainings[place].training;
    let known = |other: &Prepared<'_>| -> Option<First> {
        let first = other.training.first();
        first.filter(|_| other.training.begins_as(training))
    };
    match trainings.iter().find_map(known) {
        Some(first) => trainings[place].training.begin(context, first),
        None => Ok(()),
    }
}

/// Stores the states of several before they are scored one after the other, which stores each by
/// itself.
fn store_before_scoring(
    context: &mut Context<'_>,
    learning: &mut [&mut Training<'_>],
) -> Result<(), HybridError> {
    match learning.len() > 1 {
        true => store(context, learning),
        false => Ok(()),
    }
}

/// Stores the states of all together.
fn store(context: &mut Context<'_>, learning: &mut [&mut Training<'_>]) -> Result<(), HybridError> {
    let began = Instant::now();
    let state = |training: &mut &mut Training<'_>| training.state(context.model);
    let states = learning.iter_mut().map(state).collect();
    Checkpoint::store_together(states, context.run)?;
    for training in &*learning {
        training.is_stored(context)?;
    }
    share_seconds(began, learning);
    Ok(())
}

/// Counts the time since `began` for all in equal parts.
fn share_seconds(began: Instant, learning: &mut [&mut Training<'_>]) {
    let share = began.elapsed().as_secs_f64() / learning.len() as f64;
    for training in learning {
        training.add_seconds(share);
    }
}

/// One update of each on one batch.
fn update(
    context: &mut Context<'_>,
    learning: &mut [&mut Training<'_>],
    batch: &Piece,
) -> Result<(), HybridError> {
    let began = Instant::now();
    let pieces = learning[0].pieces(context.model, batch);
    for training in &mut *learning {
        training.count(context, &pieces);
    }
    let passed = passed(context.model, learning, batch, &pieces)?;
    let mut points = Vec::with_capacity(learning.len());
    for (training, passed) in learning.iter_mut().zip(passed) {
        points.push(training.update(context.model, &batch.rows, passed)?);
    }
    let (step, total) = learning[0].steps();
    context.progress.at(step, total, || {
        let losses = points.iter().map(|point| point.loss);
        format!("loss {:.4}", losses.fold(f64::INFINITY, f64::min))
    });
    for (training, point) in learning.iter().zip(points) {
        training.report(context, point)?;
    }
    share_seconds(began, learning);
    Ok(())
}

/// For each training its losses and gradients of the pieces, in their order.
fn passed(
    model: &LocalModel,
    learning: &[&mut Training<'_>],
    batch: &Piece,
    pieces: &[Piece],
) -> Result<Vec<Vec<(f64, GradientsParams)>>, HybridError> {
    let lead = &*learning[0];
    let learners: Vec<Learner<'_>> = learning.iter().map(|training| training.learner()).collect();
    let pass = Pass {
        input: lead.input(),
        learners: &learners,
        weight: lead.input().weight(&batch.rows),
    };
    let turns = pieces.iter().flat_map(|piece| {
        let at_once = lead.at_once(model, piece);
        parts(learners.len(), at_once).map(move |learners| (piece, learners))
    });
    let turns: Vec<(&Piece, Range<usize>)> = turns.collect();
    let passed = parallel::try_map(&turns, model.threads(), |(piece, learners)| {
        pass.backward(model, piece, learners.clone())
    })?;
    let mut of_each: Vec<Vec<(f64, GradientsParams)>> = Vec::new();
    of_each.resize_with(learners.len(), Vec::new);
    for ((_, learners), passed) in turns.iter().zip(passed) {
        let of_learners = of_each[learners.clone()].iter_mut();
        of_learners
            .zip(passed)
            .for_each(|(of_one, passed)| of_one.push(passed));
    }
    Ok(of_each)
}

/// Ranges of at most `most` of `n`, about as many in each.
fn parts(n: usize, most: usize) -> impl Iterator<Item = Range<usize>> {
    let size = n.div_ceil(n.div_ceil(most));
    (0..n)
        .step_by(size)
        .map(move |start| start..n.min(start + size))
}

#[cfg(test)]
mod tests {
    use super::parts;

    #[test]
    fn parts_are_about_as_large() {
        let ends = |n, most| parts(n, most).map(|part| part.end).collect::<Vec<_>>();
        assert_eq!(ends(1, 5), [1]);
        assert_eq!(ends(8, 8), [8]);
        assert_eq!(ends(8, 6), [4, 8]);
        assert_eq!(ends(7, 3), [3, 6, 7]);
        assert_eq!(ends(3, 1), [1, 2, 3]);
    }
}

//! The device under test against the recorded trainings and against flex.
//!
//! `HYBRID_DEVICE=tch` or `wgpu` with the same name in `--features` runs them there; a backend's
//! own traps (masks outside of the autodiff context, clipping, updates) show here.

use hybrid_adapters::RankAllocator;

use crate::fixtures::{self, Tensors, Tolerance};
use crate::training_run::{self, TrainingRun, values};

/// The most that losses on two devices may differ.
const ACROSS_DEVICES: Tolerance = Tolerance {
    atol: 1e-3,
    rtol: 0.0,
};

fn step_losses(run: &TrainingRun) -> Vec<f32> {
    let mut adapters = run.adapters();
    let mut trainer = run.trainer(&adapters);
    let steps = 0..run.steps;
    let losses = steps.map(|step| {
        let (moved, loss, _) = run.step(adapters.clone(), &mut trainer, step);
        adapters = moved;
        loss
    });
    losses.collect()
}

#[test]
fn parity_of_step_losses_with_flex_and_the_fixture() {
    let device = fixtures::device();
    let flex = hybrid_models::open_device("flex")
        .ok()
        .filter(|flex| *flex != device);
    let on_flex = flex.map(|flex| training_run::all(&flex));
    for (index, run) in training_run::all(&device).into_iter().enumerate() {
        let name = &run.fixture.name;
        let losses = step_losses(&run);
        let recorded = Tensors::read(&run.fixture.folder.join("outputs.safetensors"));
        ACROSS_DEVICES.check(
            &format!("{name}: recorded loss"),
            &losses,
            recorded.floats("loss"),
        );
        if let Some(on_flex) = &on_flex {
            ACROSS_DEVICES.check(
                &format!("{name}: loss on flex"),
                &losses,
                &step_losses(&on_flex[index]),
            );
        }
    }
}

/// Padding is masked alike while gradients are tracked and while they are not.
#[test]
fn parity_of_losses_with_and_without_gradients() {
    for run in training_run::all(&fixtures::device()) {
        let tracked = run.adapters();
        let plain = tracked.eval();
        for batch in 0..run.n_batches() {
            let [tracked, plain] =
                [&tracked, &plain].map(|adapters| [run.loss(adapters, batch).into_scalar::<f32>()]);
            let tolerance = Tolerance {
                atol: 1e-5,
                rtol: 0.0,
            };
            tolerance.check(
                &format!("{}: batch {batch}", run.fixture.name),
                &plain,
                &tracked,
            );
        }
    }
}

/// A training goes on exactly where it stopped, whatever Burn's default device is. What was stored
/// is not looked at before the first training has ended: it must not have moved with it. Devices
/// that choose their kernels by measuring them may choose another one in between.
#[test]
fn parity_of_a_resumed_training() {
    for run in training_run::all(&fixtures::device()) {
        let name = &run.fixture.name;
        let train = |mut adapters, trainer: &mut _, steps: std::ops::Range<usize>| {
            for step in steps {
                adapters = run.step(adapters, trainer, step).0;
            }
            adapters
        };
        let adapters = run.adapters();
        let mut trainer = run.trainer(&adapters);
        let half = train(adapters, &mut trainer, 0..run.steps / 2);
        let stored = (
            half.named_tensors().into_iter().collect(),
            trainer.updater.state_tensors(),
            trainer.ranks.as_ref().map(RankAllocator::state_tensors),
        );
        let straight = train(half, &mut trainer, run.steps / 2..run.steps);

        let adapters = run
            .adapters()
            .load_named_tensors(&stored.0)
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut trainer = run.trainer(&adapters);
        let loaded = trainer.updater.load_state_tensors(&adapters, &stored.1);
        loaded.unwrap_or_else(|error| panic!("{name}: {error}"));
        if let (Some(ranks), Some(stored)) = (&mut trainer.ranks, &stored.2) {
            let loaded = ranks.load_state_tensors(stored);
            loaded.unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        let resumed = train(adapters, &mut trainer, run.steps / 2..run.steps);
        let (resumed, straight) = (values(&resumed), values(&straight));
        if measures_kernels() {
            // As near as two ways of computing the same training are asked to be.
            let tolerance = Tolerance::of(&run.fixture.meta["tolerance"]["final_weights"]);
            for (key, resumed) in &resumed {
                tolerance.check(&format!("{name}: {key}"), resumed, &straight[key]);
            }
        } else {
            assert_eq!(resumed, straight, "{name}");
        }
    }
}

fn measures_kernels() -> bool {
    std::env::var("HYBRID_DEVICE").is_ok_and(|name| matches!(name.as_str(), "wgpu" | "cuda"))
}

//! Recorded trainings of Transformers and PEFT, done again step by step.

use crate::fixtures::{self, Tensors, Tolerance};
use crate::training_run::{self, TrainingRun, values};

#[test]
fn parity_of_every_step() {
    for run in training_run::all(&fixtures::device()) {
        check(&run);
    }
}

fn check(run: &TrainingRun) {
    let name = &run.fixture.name;
    let expected = Tensors::read(&run.fixture.folder.join("outputs.safetensors"));
    let tolerance = |what: &str| Tolerance::of(&run.fixture.meta["tolerance"][what]);
    let mut adapters = run.adapters();
    let n_parameters = run.fixture.meta["trainable_parameters"].as_u64();
    assert_eq!(
        Some(adapters.n_parameters() as u64),
        n_parameters,
        "{name}: trainable parameters"
    );

    let mut trainer = run.trainer(&adapters);
    let [mut losses, mut norms, mut clipped, mut rates] = [const { Vec::<f32>::new() }; 4];
    for step in 0..run.steps {
        let (moved, loss, report) = run.step(adapters, &mut trainer, step);
        adapters = moved;
        losses.push(loss);
        norms.push(report.grad_norm as f32);
        clipped.push(report.grad_norm_clipped as f32);
        rates.push(report.learning_rate as f32);
    }
    let exact = Tolerance {
        atol: 0.0,
        rtol: 1e-6,
    };
    tolerance("loss").check(&format!("{name}: loss"), &losses, expected.floats("loss"));
    tolerance("grad_norm").check(
        &format!("{name}: grad_norm"),
        &norms,
        expected.floats("grad_norm"),
    );
    tolerance("grad_norm").check(
        &format!("{name}: grad_norm_clipped"),
        &clipped,
        expected.floats("grad_norm_clipped"),
    );
    exact.check(&format!("{name}: lr"), &rates, expected.floats("lr"));

    let (ours, last) = (values(&adapters), run.stored("final"));
    assert!(
        ours.keys().eq(last.keys()),
        "{name}: {:?} instead of {:?}",
        ours.keys(),
        last.keys()
    );
    for (key, values) in &ours {
        tolerance("final_weights").check(&format!("{name}: {key}"), values, &last[key]);
    }
    let adapters = adapters.eval();
    let losses: Vec<f32> = (0..run.n_batches())
        .map(|batch| run.loss(&adapters, batch).into_scalar())
        .collect();
    tolerance("loss").check(
        &format!("{name}: final_eval_loss"),
        &losses,
        expected.floats("final_eval_loss"),
    );
    if let Some(stored) = run.stored_adapters() {
        let [ours, stored] = [&adapters, &stored].map(|adapters| {
            let batches = 0..run.n_batches();
            let losses = batches.map(|batch| run.loss_of_targets(adapters, batch).into_scalar());
            losses.collect::<Vec<f32>>()
        });
        tolerance("loss").check(&format!("{name}: loss of PEFT's file"), &ours, &stored);
    }
}

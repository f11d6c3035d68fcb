//! Scores of targets against the recorded loss, and against each target alone.

use hybrid_models::{IGNORED, NoHooks, TargetRequest};

use super::cases;

#[test]
fn parity_of_scores_with_the_loss_and_with_scores_alone() {
    for case in cases() {
        let (model, name) = (&case.model, &case.fixture.name);
        let batch = case.batch();
        let labels = case.int("labels");
        let [n_rows, seq] = labels.dims();
        let labels: Vec<i64> = labels.into_data().iter().collect();
        let targets: Vec<Vec<i64>> = labels
            .chunks(seq)
            .map(|row| row.iter().copied().filter(|id| *id != IGNORED).collect())
            .collect();
        let whole = |input: usize| TargetRequest {
            input,
            ids: &targets[input],
            n_given: 0,
        };
        let score = |requests: &[TargetRequest<'_>]| {
            let scores = model.score(&batch, requests, &NoHooks);
            scores.unwrap_or_else(|error| panic!("{name}: {error}"))
        };
        let all: Vec<TargetRequest<'_>> = (0..n_rows).map(whole).collect();
        let scores = score(&all);
        let n_targets = scores.iter().map(Vec::len).sum::<usize>() as f32;
        let loss = -scores.iter().flatten().sum::<f32>() / n_targets;
        case.check_floats("loss", &[loss]);

        // Each input with the targets of all rows, in an order that mixes their lengths, and parts
        // of targets: what is asked beside a target changes nothing.
        let mixed: Vec<TargetRequest<'_>> = (0..n_rows * n_rows)
            .map(|index| {
                let (input, target) = (index % n_rows, index / n_rows);
                let ids = &targets[target];
                let n_given = (index % 3).min(ids.len());
                TargetRequest {
                    input,
                    ids,
                    n_given,
                }
            })
            .collect();
        for (request, together) in mixed.iter().zip(score(&mixed)) {
            let given = &request.ids[..request.n_given];
            let alone = &score(&[TargetRequest {
                n_given: 0,
                ..*request
            }])[0][given.len()..];
            assert_eq!(together.len(), alone.len(), "{name}");
            case.tolerance.check(name, &together, alone);
        }
        let nothing = TargetRequest {
            input: 0,
            ids: &[],
            n_given: 0,
        };
        assert_eq!(score(&[nothing]), [Vec::<f32>::new()], "{name}");
        let unknown = [model.vocab_size() as i64];
        let request = TargetRequest {
            input: 0,
            ids: &unknown,
            n_given: 0,
        };
        let error = model.score(&batch, &[request], &NoHooks).unwrap_err();
        assert!(
            error.to_string().contains("not in the model's vocabulary"),
            "{error}"
        );
    }
}

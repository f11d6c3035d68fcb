//! The trainings that are measured: along each axis one thing grows.

/// A training.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Point {
    pub(super) rows: usize,
    /// Tokens of each row.
    pub(super) seq: usize,
    pub(super) layers: usize,
    /// Settings that the stage chooses among.
    pub(super) candidates: usize,
    pub(super) epochs: usize,
    pub(super) batch: usize,
}

/// Trainings in which one thing grows.
#[derive(Debug)]
pub(super) struct Axis {
    pub(super) name: &'static str,
    pub(super) points: Vec<Point>,
    /// What grows.
    pub(super) value: fn(&Point) -> usize,
}

/// All axes. Where something does not grow, there are so many rows of 32 tokens, two layers, one
/// candidate and one epoch; but layers grow at 128 tokens, and candidates over four epochs, in which
/// halving has something to decide.
pub(super) fn axes(rows: usize) -> [Axis; 4] {
    let usual = Point {
        rows,
        seq: 32,
        layers: 2,
        candidates: 1,
        epochs: 1,
        batch: 16,
    };
    let point = |change: fn(&mut Point, usize), value: usize| {
        let mut point = usual;
        change(&mut point, value);
        point
    };
    let along = |values: &[usize], change: fn(&mut Point, usize)| {
        values.iter().map(|value| point(change, *value)).collect()
    };
    [
        Axis {
            name: "rows",
            points: along(&[1, 4, 16], |point, times| point.rows *= times),
            value: |point| point.rows,
        },
        Axis {
            name: "tokens a row",
            points: along(&[32, 128, 512], |point, seq| point.seq = seq),
            value: |point| point.seq,
        },
        Axis {
            name: "layers",
            points: along(&[2, 4, 6], |point, layers| {
                (point.layers, point.seq) = (layers, 128);
            }),
            value: |point| point.layers,
        },
        Axis {
            name: "candidates",
            points: along(&[1, 2, 4, 8], |point, candidates| {
                (point.candidates, point.epochs) = (candidates, 4);
            }),
            value: |point| point.candidates,
        },
    ]
}

/// The training of so many updates over which memory is watched: small batches, all six layers.
pub(super) fn watched(steps: usize) -> Point {
    let (batch, epochs) = (8, 4);
    Point {
        rows: steps.div_ceil(epochs) * batch,
        seq: 32,
        layers: 6,
        candidates: 1,
        epochs,
        batch,
    }
}

impl Point {
    /// The keys of the recipe that make it this training.
    pub(super) fn settings(&self) -> Vec<String> {
        let mut settings = vec![
            format!("stages.0.epochs={}", self.epochs),
            format!("stages.0.batch_size={}", self.batch),
        ];
        if self.candidates > 1 {
            let rates = (1..=self.candidates).map(|number| 1e-3 * number as f64 / 4.0);
            let variants: Vec<String> = rates
                .map(|lr| format!("{{ optimizer = {{ kind = \"adamw\", lr = {lr:?} }} }}"))
                .collect();
            settings.push(format!("stages.0.variants=[{}]", variants.join(", ")));
        }
        settings
    }
}

/// The exponent of the power law that fits points `(x, y)` best: least squares through their
/// logarithms. None where fewer than two are there.
pub(super) fn exponent(points: &[(f64, f64)]) -> Option<f64> {
    let n = points.len() as f64;
    let logs: Vec<(f64, f64)> = points.iter().map(|(x, y)| (x.ln(), y.ln())).collect();
    let middle_x = logs.iter().map(|(x, _)| x).sum::<f64>() / n;
    let middle_y = logs.iter().map(|(_, y)| y).sum::<f64>() / n;
    let products = logs.iter().map(|(x, y)| (x - middle_x) * (y - middle_y));
    let squares = logs.iter().map(|(x, _)| (x - middle_x).powi(2));
    let slope = products.sum::<f64>() / squares.sum::<f64>();
    slope.is_finite().then_some(slope)
}

#[cfg(test)]
mod tests {
    use super::{axes, exponent, watched};

    #[test]
    fn one_thing_grows_along_an_axis() {
        let axes = axes(1000);
        let values = axes.each_ref().map(|axis| {
            let values = axis.points.iter().map(axis.value);
            values.collect::<Vec<_>>()
        });
        assert_eq!(
            values,
            [
                vec![1000, 4000, 16000],
                vec![32, 128, 512],
                vec![2, 4, 6],
                vec![1, 2, 4, 8]
            ]
        );
        // What two axes share is measured once.
        assert_eq!(axes[0].points[0], axes[1].points[0]);
        assert_eq!(axes[1].points[1], axes[2].points[0]);
    }

    #[test]
    fn candidates_are_rates() {
        let settings = axes(8)[3].points[1].settings();
        assert!(settings.contains(&"stages.0.epochs=4".to_owned()));
        assert!(settings[2].contains("lr = 0.00025 } }"), "{settings:?}");
        assert!(settings[2].contains("lr = 0.0005 } }]"), "{settings:?}");
    }

    #[test]
    fn memory_is_watched_over_so_many_updates() {
        let point = watched(1000);
        assert_eq!(point.rows / point.batch * point.epochs, 1000);
    }

    #[test]
    fn exponents_are_those_of_power_laws() {
        let points = [1.0, 4.0, 16.0].map(|x: f64| (x, 3.0 * x.powf(1.5)));
        assert!((exponent(&points).unwrap() - 1.5).abs() < 1e-12);
        assert_eq!(exponent(&[(2.0, 1.0)]), None);
        assert_eq!(exponent(&[]), None);
    }
}

//! Rows in clusters, as scikit-learn's `KMeans` finds them from random rows (Lloyd 1982).

use crate::decomposition::Matrix;
use crate::torch_random::TorchRandom;

/// What PEFT's `KMeans` is given.
const SEED: u64 = 123_456_789;
const MOST_STEPS: usize = 10;
const TOLERANCE: f64 = 1e-4;

/// The rows of each of `n` clusters, in rising order; `n` is no more than the rows.
pub(super) fn clusters(rows: &Matrix, n: usize) -> Vec<Vec<usize>> {
    let rows = &centred(rows);
    let (n_rows, n_columns) = (rows.rows, rows.columns);
    let spread = rows.values.iter().map(|x| x * x).sum::<f64>();
    let tolerance = TOLERANCE * spread / (n_rows * n_columns) as f64;
    let mut centres: Vec<Vec<f64>> = first(n_rows, n)
        .into_iter()
        .map(|row| rows.row(row).to_vec())
        .collect();
    let mut before = Vec::new();
    for _ in 0..MOST_STEPS {
        let labels = nearest(rows, &centres);
        let moved = means(rows, &labels, &centres);
        let pairs = moved.iter().zip(&centres);
        let shift: f64 = pairs.map(|(new, old)| distance(new, old)).sum();
        centres = moved;
        if labels == before || shift <= tolerance {
            break;
        }
        before = labels;
    }
    let labels = nearest(rows, &centres);
    let of = |cluster| (0..n_rows).filter(|row| labels[*row] == cluster).collect();
    (0..n).map(of).collect()
}

fn centred(rows: &Matrix) -> Matrix {
    let mut centred = rows.clone();
    for column in 0..rows.columns {
        let values = || (0..rows.rows).map(|row| row * rows.columns + column);
        let mean = values().map(|place| rows.values[place]).sum::<f64>() / rows.rows as f64;
        values().for_each(|place| centred.values[place] -= mean);
    }
    centred
}

/// `RandomState(SEED).choice(n_rows, n, replace=False)` with the same chance for each row.
fn first(n_rows: usize, n: usize) -> Vec<usize> {
    let mut random = TorchRandom::new(SEED);
    let mut chances = vec![f64::from(1.0 / n_rows as f32); n_rows];
    let mut chosen: Vec<usize> = Vec::with_capacity(n);
    while chosen.len() < n {
        let drawn: Vec<f64> = (chosen.len()..n).map(|_| random.double()).collect();
        chosen.iter().for_each(|row| chances[*row] = 0.0);
        let mut sum = 0.0;
        let sums: Vec<f64> = chances
            .iter()
            .map(|chance| {
                sum += chance;
                sum
            })
            .collect();
        for drawn in drawn {
            let row = sums.partition_point(|below| below / sum <= drawn);
            if !chosen.contains(&row) {
                chosen.push(row);
            }
        }
    }
    chosen
}

fn distance(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum()
}

/// The nearest centre of each row, the first of several.
fn nearest(rows: &Matrix, centres: &[Vec<f64>]) -> Vec<usize> {
    let of_row = |row: usize| {
        let far = |centre: usize| distance(rows.row(row), &centres[centre]);
        let nearer = |best: usize, next: usize| if far(next) < far(best) { next } else { best };
        (0..centres.len()).reduce(nearer).unwrap_or(0)
    };
    (0..rows.rows).map(of_row).collect()
}

/// The mean of each cluster. One without rows takes a row that is farthest from its centre.
fn means(rows: &Matrix, labels: &[usize], centres: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let mut labels = labels.to_vec();
    let far = |row: usize| distance(rows.row(row), &centres[labels[row]]);
    let mut farthest: Vec<usize> = (0..rows.rows).collect();
    farthest.sort_by(|a, b| far(*b).total_cmp(&far(*a)));
    let is_apart = farthest.first().is_some_and(|row| far(*row) > 0.0);
    let empty: Vec<usize> = (0..centres.len())
        .filter(|cluster| is_apart && !labels.contains(cluster))
        .collect();
    for (cluster, row) in empty.into_iter().zip(farthest) {
        labels[row] = cluster;
    }
    let mean = |cluster: usize| {
        let own: Vec<usize> = (0..rows.rows)
            .filter(|row| labels[*row] == cluster)
            .collect();
        if own.is_empty() {
            return centres[cluster].clone();
        }
        let mut mean = vec![0.0; rows.columns];
        for row in &own {
            let values = mean.iter_mut().zip(rows.row(*row));
            values.for_each(|(mean, x)| *mean += x / own.len() as f64);
        }
        mean
    };
    (0..centres.len()).map(mean).collect()
}

#[cfg(test)]
mod tests {
    use super::{clusters, first};
    use crate::decomposition::Matrix;

    /// Against NumPy.
    #[test]
    fn first_rows_are_those_of_numpy() {
        assert_eq!(first(32, 5), [17, 16, 22, 8, 25]);
        assert_eq!(first(6, 6), [3, 4, 1, 5, 0, 2]);
    }

    /// Against scikit-learn 1.9.
    #[test]
    fn clusters_are_those_of_scikit_learn() {
        let value = |place: usize| (place as f64 * 1.7).sin() * (1 + place % 5) as f64;
        let rows = Matrix::new(12, 3, (0..36).map(value).collect());
        let expected: [&[usize]; 3] = [&[1, 6, 11], &[0, 3, 4, 5, 8, 9, 10], &[2, 7]];
        assert_eq!(clusters(&rows, 3), expected);
    }

    #[test]
    fn equal_rows_leave_no_cluster_empty() {
        let mut values = vec![0.0; 16];
        values.extend([1.0, 0.0, 0.0, 1.0]);
        let found = clusters(&Matrix::new(10, 2, values), 3);
        let mut sizes: Vec<usize> = found.iter().map(Vec::len).collect();
        sizes.sort_unstable();
        assert_eq!(sizes, [1, 1, 8]);
    }
}

//! Sums over rows whose terms take much memory.

use std::ops::Range;

use burn::tensor::Tensor;

use super::operation::{Slope, with_gradient};

/// The sum of `term` over groups of at most `most` rows. The gradient of each group is computed
/// with its value, as the sum's own is known to be the same for all: nothing of a group is left for
/// backward but the gradient of its rows (as Liger Kernel has it, Hsu et al. 2024, section 3.2).
///
/// Only `rows` get a gradient: `term` must depend on nothing else that is trained.
///
/// # Shapes
/// - `rows`: `[rows, d_model]`, `term`: `[group, d_model]` → `[1]`
///
/// # Panics
/// Without rows.
pub(crate) fn row_sum(
    rows: &Tensor<2>,
    most: usize,
    term: impl Fn(Tensor<2>, Range<usize>) -> Tensor<1>,
) -> Tensor<1> {
    let [n_rows, _] = rows.dims();
    let is_tracked = rows.is_autodiff();
    let plain = rows.clone().inner();
    let (mut sums, mut slopes) = (Vec::new(), Vec::new());
    for start in (0..n_rows).step_by(most) {
        let range = start..n_rows.min(start + most);
        let group = plain.clone().slice([range.clone()]);
        if !is_tracked {
            sums.push(term(group, range));
            continue;
        }
        let group = group.autodiff().require_grad();
        let sum = term(group.clone(), range);
        sums.push(sum.clone().inner());
        let mut gradients = sum.backward();
        slopes.push(
            group
                .grad_remove(&mut gradients)
                .expect("the sum is of these rows"),
        );
    }
    let sum = Tensor::cat(sums, 0).sum();
    if !is_tracked {
        return sum;
    }
    let slopes = Tensor::cat(slopes, 0);
    with_gradient([rows.into()], sum, move |slope, _| {
        [Some(Slope::from(slopes * slope.unsqueeze()))]
    })
}

#[cfg(test)]
mod tests {
    use burn::tensor::Tensor;

    use super::row_sum;
    use crate::kernels::tests::{assert_same_gradients, values};

    /// Weighs each row by its place, so that a group in the wrong place is seen.
    fn term(rows: Tensor<2>, first: usize) -> Tensor<1> {
        let [n_rows, d_model] = rows.dims();
        let weights = values([first + n_rows, d_model], 3.0).narrow(0, first, n_rows);
        (rows.exp() * weights).sum()
    }

    #[test]
    fn sum_and_gradient_are_those_of_all_rows_at_once() {
        for most in [1, 3, 7, 20] {
            assert_same_gradients(
                [values([7, 5], 0.0)],
                |[rows]| row_sum(&rows, most, |group, range| term(group, range.start)),
                |[rows]| term(rows, 0),
            );
        }
    }
}

//! The side path of low-rank adapters.

use burn::tensor::Tensor;

use super::operation::{Slope, with_gradient};
use super::thin::{narrowed, summed, summed_across, widened};
use crate::device::is_flex;

/// `scale x A B`, beside a layer (Hu et al. 2021, equation 3). For backward it keeps its inputs and
/// `x A`.
///
/// # Shapes
/// - `x`: `[rows, d_in]`, `a`: `[d_in, rank]`, `b`: `[rank, d_out]` → `[rows, d_out]`
pub fn low_rank(x: Tensor<2>, a: Tensor<2>, b: Tensor<2>, scale: f64) -> Tensor<2> {
    let is_autodiff = [&x, &a, &b].into_iter().any(Tensor::is_autodiff);
    let [plain_x, plain_a, plain_b] = [&x, &a, &b].map(|operand| operand.clone().inner());
    let down = plain_a.transpose();
    let h = narrowed(&plain_x, &down).mul_scalar(scale);
    let y = widened(&h, &plain_b);
    if !is_autodiff {
        return y;
    }
    let operands = [(&x).into(), (&a).into(), (&b).into()];
    with_gradient(operands, y, move |slope: Tensor<2>, wanted| {
        let [of_x, of_a, of_b] = wanted;
        let b_slope = of_b.then(|| Slope::from(summed(&h, &slope)));
        if !of_x && !of_a {
            return [None, None, b_slope];
        }
        let h_slope = narrowed(&slope, &plain_b).mul_scalar(scale);
        let a_slope = of_a.then(|| Slope::from(summed_across(&plain_x, &h_slope)));
        let x_slope = of_x.then(|| Slope::from(widened(&h_slope, &down)));
        [x_slope, a_slope, b_slope]
    })
}

/// `x A B` of several parts of rows, each with factors of its own. For backward it keeps its inputs and
/// `x A`.
///
/// # Shapes
/// - `x`: `[parts, rows, d_in]`, `a`: `[parts, d_in, rank]`, `b`: `[parts, rank, d_out]` →
///   `[parts, rows, d_out]`
pub fn low_rank_of_parts(x: Tensor<3>, a: Tensor<3>, b: Tensor<3>) -> Tensor<3> {
    let is_autodiff = [&x, &a, &b].into_iter().any(Tensor::is_autodiff);
    let [plain_x, plain_a, plain_b] = [&x, &a, &b].map(|operand| operand.clone().inner());
    let down = plain_a.transpose();
    let h = NARROWED.of(&plain_x, &down);
    let y = WIDENED.of(&h, &plain_b);
    if !is_autodiff {
        return y;
    }
    let operands = [(&x).into(), (&a).into(), (&b).into()];
    with_gradient(operands, y, move |slope: Tensor<3>, wanted| {
        let [of_x, of_a, of_b] = wanted;
        let b_slope = of_b.then(|| Slope::from(SUMMED.of(&h, &slope)));
        if !of_x && !of_a {
            return [None, None, b_slope];
        }
        let h_slope = NARROWED.of(&slope, &plain_b);
        let a_slope = of_a.then(|| Slope::from(SUMMED.of(&h_slope, &plain_x).transpose()));
        let x_slope = of_x.then(|| Slope::from(WIDENED.of(&h_slope, &down)));
        [x_slope, a_slope, b_slope]
    })
}

/// A product of each part with its partner.
struct Product {
    of_one: fn(&Tensor<2>, &Tensor<2>) -> Tensor<2>,
    of_all: fn(Tensor<3>, Tensor<3>) -> Tensor<3>,
}

const NARROWED: Product = Product {
    of_one: narrowed,
    of_all: |x, t| x.matmul(t.transpose()),
};

const WIDENED: Product = Product {
    of_one: widened,
    of_all: Tensor::matmul,
};

const SUMMED: Product = Product {
    of_one: summed,
    of_all: |h, x| h.transpose().matmul(x),
};

impl Product {
    /// On flex part after part, where thin products are faster; on other devices all at once.
    fn of(&self, x: &Tensor<3>, partner: &Tensor<3>) -> Tensor<3> {
        if !is_flex(&x.device()) {
            return (self.of_all)(x.clone(), partner.clone());
        }
        let [n_parts, _, _] = x.dims();
        let product = |index: usize| -> Tensor<3> {
            let part =
                |x: &Tensor<3>| -> Tensor<2> { x.clone().narrow(0, index, 1).squeeze_dim(0) };
            (self.of_one)(&part(x), &part(partner)).unsqueeze()
        };
        Tensor::cat((0..n_parts).map(product).collect(), 0)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Tensor;

    use super::{low_rank, low_rank_of_parts};
    use crate::kernels::tests::{assert_same_gradients, close, values};

    #[test]
    fn gradients_are_those_of_the_parts() {
        for [rows, d_in, rank, d_out] in [[3, 4, 2, 5], [40, 33, 3, 33], [37, 150, 8, 20]] {
            let x = values([rows, d_in], 0.0);
            let (a, b) = (values([d_in, rank], 0.1), values([rank, d_out], 0.2));
            assert_same_gradients(
                [x, a, b],
                |[x, a, b]| low_rank(x, a, b, 1.5),
                |[x, a, b]| x.matmul(a).mul_scalar(1.5).matmul(b),
            );
        }
    }

    #[test]
    fn without_autodiff_it_is_the_product() {
        let (x, a, b) = (
            values([3, 4], 0.0),
            values([4, 2], 0.1),
            values([2, 5], 0.2),
        );
        let expected = x.clone().matmul(a.clone()).matmul(b.clone());
        let host = |x: burn::tensor::Tensor<2>| x.into_data().iter::<f32>().collect::<Vec<f32>>();
        close(&host(low_rank(x, a, b, 2.0)), &host(expected * 2.0));
    }

    #[test]
    fn parts_have_factors_of_their_own() {
        let (x, a, b) = (
            values([3, 7, 4], 0.0),
            values([3, 4, 2], 0.1),
            values([3, 2, 5], 0.2),
        );
        let part = |x: &Tensor<3>, index: usize| -> Tensor<2> {
            x.clone().narrow(0, index, 1).squeeze_dim(0)
        };
        let one_by_one = |[x, a, b]: [Tensor<3>; 3]| {
            let parts = (0..3).map(|index| {
                let [x, a, b] = [&x, &a, &b].map(|tensor| part(tensor, index));
                x.matmul(a).matmul(b).unsqueeze::<3>()
            });
            Tensor::cat(parts.collect(), 0)
        };
        assert_same_gradients(
            [x, a, b],
            |[x, a, b]| low_rank_of_parts(x, a, b),
            one_by_one,
        );
    }
}

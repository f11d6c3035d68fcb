//! The side path of low-rank adapters.

use burn::tensor::Tensor;

use super::operation::{Slope, with_gradient};
use super::thin::{narrowed, summed, widened};

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
        let a_slope = of_a.then(|| Slope::from(summed(&h_slope, &plain_x).transpose()));
        let x_slope = of_x.then(|| Slope::from(widened(&h_slope, &down)));
        [x_slope, a_slope, b_slope]
    })
}

#[cfg(test)]
mod tests {
    use super::low_rank;
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
}

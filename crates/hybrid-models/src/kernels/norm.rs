//! Normalisation of the last axis.

mod rows;

use burn::tensor::{Tensor, module};

use super::host::is_ours;
use super::operation::{Slope, with_gradient};
use crate::NormKind;

/// What [`NormKind`] names, times `weight` and plus `bias`. Of its inputs `x` alone is kept for
/// backward.
///
/// # Shapes
/// - `x`: `[batch, seq, d_model]`, `weight`, `bias`: `[d_model]` → `[batch, seq, d_model]`
pub(crate) fn normalize(
    kind: NormKind,
    x: Tensor<3>,
    weight: Tensor<1>,
    bias: Option<Tensor<1>>,
    epsilon: f64,
) -> Tensor<3> {
    let is_autodiff = [&weight].into_iter().chain(&bias).any(Tensor::is_autodiff);
    if !x.is_autodiff() && !is_autodiff {
        return normalized(kind, x, weight, bias, epsilon);
    }
    let plain_bias = bias.clone().map(Tensor::inner);
    let (plain_x, plain_weight) = (x.clone().inner(), weight.clone().inner());
    let y = normalized(
        kind,
        plain_x.clone(),
        plain_weight.clone(),
        plain_bias,
        epsilon,
    );
    let chain = move |slope: Tensor<3>, wanted: [bool; 3]| {
        slopes(kind, plain_x, plain_weight, epsilon, slope, wanted)
    };
    match bias {
        Some(bias) => with_gradient([(&x).into(), (&weight).into(), (&bias).into()], y, chain),
        None => with_gradient([(&x).into(), (&weight).into()], y, |slope, [x, weight]| {
            let [x, weight, _] = chain(slope, [x, weight, false]);
            [x, weight]
        }),
    }
}

fn normalized(
    kind: NormKind,
    x: Tensor<3>,
    weight: Tensor<1>,
    bias: Option<Tensor<1>>,
    epsilon: f64,
) -> Tensor<3> {
    match kind {
        _ if is_ours(&x) && is_ours(&weight) => rows::normalized(kind, x, &weight, bias, epsilon),
        NormKind::Layer => module::layer_norm(x, weight, bias, epsilon),
        NormKind::Rms => {
            let root = root(x.clone(), epsilon);
            let y = x / root * weight.unsqueeze();
            match bias {
                Some(bias) => y + bias.unsqueeze(),
                None => y,
            }
        }
    }
}

/// Of the mean square over the last axis.
fn root(x: Tensor<3>, epsilon: f64) -> Tensor<3> {
    x.square().mean_dim(2).add_scalar(epsilon).sqrt()
}

/// With `n` for the normalised `x`, `r` for its divisor and `s` for the slope times the weight:
/// `(s - n mean(s n)) / r`, and `mean(s)` less of `s` where `x` is centred.
fn slopes(
    kind: NormKind,
    x: Tensor<3>,
    weight: Tensor<1>,
    epsilon: f64,
    slope: Tensor<3>,
    [of_x, of_weight, of_bias]: [bool; 3],
) -> [Option<Slope>; 3] {
    let is_frozen = !of_weight && !of_bias;
    if is_frozen && is_ours(&x) && is_ours(&weight) {
        let slope = rows::slope(kind, &x, &weight, epsilon, slope);
        return [of_x.then(|| Slope::from(slope)), None, None];
    }
    let x = match kind {
        NormKind::Layer => x.clone() - x.mean_dim(2),
        NormKind::Rms => x,
    };
    let divisor = root(x.clone(), epsilon);
    let normed = x / divisor.clone();
    let over_rows = |values: Tensor<3>| {
        let [batch, seq, d_model] = values.dims();
        let sum = values.reshape([batch * seq, d_model]).sum_dim(0);
        Slope::from(sum.reshape([d_model]))
    };
    let weight_slope = of_weight.then(|| over_rows(slope.clone() * normed.clone()));
    let bias_slope = of_bias.then(|| over_rows(slope.clone()));
    let x_slope = of_x.then(|| {
        let slope = slope * weight.unsqueeze();
        let along = (slope.clone() * normed.clone()).mean_dim(2);
        let slope = match kind {
            NormKind::Layer => slope.clone() - slope.mean_dim(2),
            NormKind::Rms => slope,
        };
        Slope::from((slope - normed * along) / divisor)
    });
    [x_slope, weight_slope, bias_slope]
}

#[cfg(test)]
mod tests {
    use burn::tensor::Tensor;

    use super::normalize;
    use crate::NormKind;
    use crate::kernels::tests::{assert_same_gradients, values};

    const EPSILON: f64 = 0.01;

    fn parts(
        kind: NormKind,
        x: Tensor<3>,
        weight: Tensor<1>,
        bias: Option<Tensor<1>>,
    ) -> Tensor<3> {
        let x = match kind {
            NormKind::Layer => x.clone() - x.mean_dim(2),
            NormKind::Rms => x,
        };
        let square = x.clone().square().mean_dim(2).add_scalar(EPSILON);
        let y = x / square.sqrt() * weight.unsqueeze();
        match bias {
            Some(bias) => y + bias.unsqueeze(),
            None => y,
        }
    }

    #[test]
    fn gradients_are_those_of_the_parts() {
        let d_model = 7;
        let x = values([2, 3, d_model], 0.0) + 0.3;
        let [weight, bias] = [1.0, 2.0].map(|shift| values([1, 1, d_model], shift));
        let flat = |x: Tensor<3>| x.reshape([d_model]);
        for kind in [NormKind::Layer, NormKind::Rms] {
            assert_same_gradients(
                [x.clone(), weight.clone()],
                |[x, weight]| normalize(kind, x, flat(weight), None, EPSILON),
                |[x, weight]| parts(kind, x, flat(weight), None),
            );
            assert_same_gradients(
                [x.clone(), weight.clone(), bias.clone()],
                |[x, weight, bias]| normalize(kind, x, flat(weight), Some(flat(bias)), EPSILON),
                |[x, weight, bias]| parts(kind, x, flat(weight), Some(flat(bias))),
            );
        }
    }
}

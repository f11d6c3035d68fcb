//! What the tests of all operations share.

use burn::tensor::{Device, Tensor, TensorData};

/// The device of `HYBRID_DEVICE`, flex without it.
pub(crate) fn device() -> Device {
    let name = std::env::var("HYBRID_DEVICE").unwrap_or_else(|_| "flex".to_owned());
    crate::open_device(&name).unwrap_or_else(|error| panic!("{error}"))
}

/// Values between -1 and 1 without a pattern that symmetries could hide.
pub(crate) fn values<const D: usize>(shape: [usize; D], shift: f32) -> Tensor<D> {
    let n: usize = shape.iter().product();
    let values: Vec<f32> = (0..n).map(|i| (i as f32 * 1.7 + shift).sin()).collect();
    Tensor::from_data(TensorData::new(values, shape), &device())
}

/// Holds results and the gradients of all inputs together and of each by itself.
pub(crate) fn assert_same_gradients<const N: usize, const I: usize, const O: usize>(
    inputs: [Tensor<I>; N],
    ours: impl Fn([Tensor<I>; N]) -> Tensor<O>,
    parts: impl Fn([Tensor<I>; N]) -> Tensor<O>,
) {
    let tracked = |only: Option<usize>, of: &dyn Fn([Tensor<I>; N]) -> Tensor<O>| {
        let mut index = 0;
        let inputs = inputs.clone().map(|input| {
            let is_tracked = only.is_none_or(|only| only == index);
            index += 1;
            match is_tracked {
                true => input.autodiff().require_grad(),
                false => input,
            }
        });
        let y = of(inputs.clone());
        let slope = values(y.dims(), 0.5);
        let gradients = (y.clone() * slope).sum().backward();
        let slopes = inputs.map(|input| {
            let of_leaf = input.is_autodiff().then(|| input.grad(&gradients));
            host(of_leaf.flatten())
        });
        (host(Some(y)), slopes)
    };
    for only in [None].into_iter().chain((0..N).map(Some)) {
        let ((y, slopes), (expected_y, expected)) = (tracked(only, &ours), tracked(only, &parts));
        close(&y, &expected_y);
        for (index, (slope, expected)) in slopes.iter().zip(&expected).enumerate() {
            let wanted = only.is_none_or(|only| only == index);
            assert_eq!(slope.is_empty(), !wanted, "gradient {index}");
            close(slope, expected);
        }
    }
}

fn host<const D: usize>(tensor: Option<Tensor<D>>) -> Vec<f32> {
    let values = tensor.map(|tensor| tensor.into_data().iter::<f32>().collect());
    values.unwrap_or_default()
}

/// Equal to 1e-5 of the largest value.
pub(crate) fn close(found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len());
    let largest = expected
        .iter()
        .fold(0.0f32, |most, value| most.max(value.abs()));
    for (place, (found, expected)) in found.iter().zip(expected).enumerate() {
        let difference = (found - expected).abs();
        assert!(
            difference <= 1e-5 * largest.max(1e-3),
            "{found} instead of {expected} at {place}"
        );
    }
}

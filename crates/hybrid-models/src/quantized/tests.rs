//! Quantised weights against the dense weights that they stand for.

use burn::tensor::{Device, Distribution, Int, Tensor, TensorData};

use super::{QuantizedWeight, RowOrder};
use crate::{BlockFormat, linear, open_device};

/// Pseudo-random blocks whose half-precision scales are finite: their high bytes are odd ones.
pub(crate) fn weight(
    format: BlockFormat,
    n_rows: usize,
    row_len: usize,
    order: RowOrder,
) -> QuantizedWeight {
    let row_bytes = row_len / format.block_size() * format.block_bytes();
    let mut state = 1u32;
    let bytes: Vec<u8> = (0..n_rows * row_bytes)
        .map(|index| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let byte = (state >> 24) as u8;
            if index % 2 == 1 { byte & 0x3b } else { byte }
        })
        .collect();
    QuantizedWeight {
        format,
        bytes: bytes.into(),
        shape: vec![n_rows, row_len],
        n_rows,
        row_len,
        order,
    }
}

pub(crate) fn device() -> Device {
    open_device("flex").unwrap()
}

pub(crate) fn host<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    x.into_data().iter::<f32>().collect()
}

/// Fails unless all values agree within the rounding of sums of their size.
pub(crate) fn close(found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0.0f32, |max, v| max.max(v.abs()));
    assert!(largest > 0.0 && largest.is_finite(), "{largest}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(
            (found - expected).abs() <= 1e-5 * largest,
            "{found} {expected}"
        );
    }
}

#[test]
fn every_format_gives_the_dense_product() {
    let device = device();
    for format in BlockFormat::ALL {
        let weight = weight(format, 37, 512, RowOrder::AsStored);
        let bias = Tensor::<1>::random([37], Distribution::Default, &device);
        for (batch, seq) in [(1, 1), (2, 3), (3, 5)] {
            let x = Tensor::<3>::random([batch, seq, 512], Distribution::Default, &device);
            let dense = linear(x.clone(), weight.dense(&device), Some(bias.clone()));
            close(&host(weight.linear(x, Some(bias.clone()))), &host(dense));
        }
    }
}

#[test]
fn chunks_and_rows_in_another_order_make_no_difference() {
    let device = device();
    let order = RowOrder::RotaryPairs { d_head: 8 };
    // More rows than one chunk and one piece hold.
    let weight = weight(BlockFormat::Q4_1, 1200, 256, order);
    let stored = QuantizedWeight {
        order: RowOrder::AsStored,
        ..weight.clone()
    };
    for row in [0, 1, 4, 5, 7, 1196] {
        let from = order.stored_row(row);
        let expected = stored.dequantize_rows(from..from + 1);
        assert_eq!(weight.dequantize_rows(row..row + 1), expected, "{row}");
    }
    for seq in [1, 20] {
        let x = Tensor::<3>::random([1, seq, 256], Distribution::Default, &device);
        let dense = linear(x.clone(), weight.dense(&device), None);
        close(&host(weight.linear(x, None)), &host(dense));
    }
}

#[test]
fn rows_are_looked_up() {
    let device = device();
    let weight = weight(BlockFormat::Q8_0, 7, 64, RowOrder::AsStored);
    let ids = Tensor::<2, Int>::from_data(TensorData::from([[6, 0], [3, 3]]), &device);
    let rows = host(weight.embedding(ids));
    let expected = [6, 0, 3, 3].map(|row| weight.dequantize_rows(row..row + 1));
    assert_eq!(rows, expected.concat());
}

#[test]
fn gradients_of_the_input_are_those_of_the_dense_product() {
    let device = device();
    let weight = weight(BlockFormat::Q4_0, 1200, 256, RowOrder::AsStored);
    let bias = Tensor::<1>::random([1200], Distribution::Default, &device);
    for seq in [1, 20] {
        let x = Tensor::<3>::random([2, seq, 256], Distribution::Default, &device);
        let upstream = Tensor::<3>::random([2, seq, 1200], Distribution::Default, &device);
        let gradient = |forward: &dyn Fn(Tensor<3>) -> Tensor<3>| {
            let x = Tensor::<3>::from_data(x.to_data(), &device.clone().autodiff()).require_grad();
            // A nonlinear step, so that the order of backward matters.
            let y = forward(x.clone().tanh()) * upstream.clone();
            let mut gradients = y.sum().backward();
            host(x.grad_remove(&mut gradients).unwrap())
        };
        let kept = gradient(&|x| weight.linear(x, Some(bias.clone())));
        let dense = gradient(&|x| linear(x, weight.dense(&device), Some(bias.clone())));
        close(&kept, &dense);
    }
}

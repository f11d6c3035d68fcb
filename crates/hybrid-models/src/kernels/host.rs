//! The values of tensors that lie in this program's memory, read and written where they are.
//!
//! Burn's operations on flex call the C library's scalar functions value by value, and on libtorch
//! there is none that does what several of them do in turn: a loop of our own reads and writes each
//! value once.

use burn::tensor::{DType, Device, Tensor, TensorData};

#[cfg(feature = "flex")]
use super::operation::unwrapped;
use crate::device::is_host;

/// Whether values are float32 in this program's memory, which the functions below ask for.
pub(super) fn is_ours<const D: usize>(x: &Tensor<D>) -> bool {
    x.dtype() == DType::F32 && is_host(&x.device())
}

/// Whether no threads of the device take the processor from loops of our own on several threads, as
/// those of libtorch do while they wait for each other.
pub(super) fn has_processor<const D: usize>(x: &Tensor<D>) -> bool {
    #[cfg(feature = "tch")]
    if libtorch::holds(x) {
        return tch::get_num_threads() == 1;
    }
    let _ = x;
    true
}

/// Gives the values of a tensor that is ours, row by row; they are not copied where they lie so.
pub(super) fn read<const D: usize, R>(x: &Tensor<D>, with: impl FnOnce(&[f32]) -> R) -> R {
    #[cfg(feature = "tch")]
    if libtorch::holds(x) {
        return libtorch::read(x, with);
    }
    #[cfg(feature = "flex")]
    {
        let tensor = unwrapped::<burn::backend::Flex>(x.clone().into_dispatch()).float();
        let tensor = tensor.to_contiguous();
        with(tensor.as_slice::<f32>().expect(IS_FLOAT32))
    }
    #[cfg(not(feature = "flex"))]
    with(x.to_data().as_slice::<f32>().expect(IS_FLOAT32))
}

/// As [`read`], of two tensors.
pub(super) fn read_both<const D: usize, const E: usize, R>(
    x: &Tensor<D>,
    y: &Tensor<E>,
    with: impl FnOnce(&[f32], &[f32]) -> R,
) -> R {
    read(x, |x| read(y, |y| with(x, y)))
}

/// A tensor that is ours with its values changed, in place where nobody else holds them.
pub(super) fn changed<const D: usize>(x: Tensor<D>, change: impl FnOnce(&mut [f32])) -> Tensor<D> {
    #[cfg(feature = "tch")]
    if libtorch::holds(&x) {
        return libtorch::changed(x, change);
    }
    let device = x.device();
    let mut data = x.into_data();
    change(data.as_mut_slice::<f32>().expect(IS_FLOAT32));
    Tensor::from_data(data, &device)
}

/// A tensor whose values, zero before, `fill` writes row by row. It is on the device of one that is
/// ours.
pub(super) fn filled<const D: usize>(
    dims: [usize; D],
    device: &Device,
    fill: impl FnOnce(&mut [f32]),
) -> Tensor<D> {
    #[cfg(feature = "tch")]
    if !crate::device::is_flex(device) {
        return libtorch::changed(Tensor::zeros(dims, device), fill);
    }
    let mut values = vec![0.0; dims.iter().product()];
    fill(&mut values);
    Tensor::from_data(TensorData::new(values, dims), device)
}

const IS_FLOAT32: &str = "float32 was checked";

#[cfg(feature = "tch")]
#[expect(deprecated, reason = "Burn offers no other name of this backend")]
mod libtorch {
    use burn::backend::DispatchTensorKind;
    use burn::backend::libtorch::TchTensor;
    use burn::tensor::Tensor;

    use crate::kernels::operation::{LibTorch, unwrapped, wrapped};

    pub(super) fn holds<const D: usize>(x: &Tensor<D>) -> bool {
        matches!(
            x.clone().into_dispatch().kind,
            DispatchTensorKind::LibTorch(_)
        )
    }

    pub(super) fn read<const D: usize, R>(x: &Tensor<D>, with: impl FnOnce(&[f32]) -> R) -> R {
        let x = unwrapped::<LibTorch>(x.clone().into_dispatch()).float();
        let values = x.tensor.contiguous();
        let n = values.numel();
        // SAFETY: libtorch keeps so many float32 behind the pointer while `values` lives, and all
        // that share them hold them for reading. There is no pointer to none.
        #[expect(unsafe_code, reason = "libtorch gives its memory by pointer only")]
        let slice = unsafe {
            match n {
                0 => &[],
                n => {
                    let start = values.data_ptr().cast::<f32>();
                    std::slice::from_raw_parts(start.cast_const(), n)
                }
            }
        };
        with(slice)
    }

    pub(super) fn changed<const D: usize>(
        x: Tensor<D>,
        change: impl FnOnce(&mut [f32]),
    ) -> Tensor<D> {
        let x = unwrapped::<LibTorch>(x.into_dispatch()).float();
        let values = match x.can_mut() && x.tensor.is_contiguous() {
            true => x,
            false => {
                let values = x.tensor.contiguous();
                // Contiguous values of another tensor would be that tensor's own.
                TchTensor::new(match values.data_ptr() == x.tensor.data_ptr() {
                    true => values.copy(),
                    false => values,
                })
            }
        };
        let n = values.tensor.numel();
        // SAFETY: libtorch keeps so many float32 behind the pointer while `values` lives, and nobody
        // else holds them: burn counts who does, or they are new. There is no pointer to none.
        #[expect(unsafe_code, reason = "libtorch gives its memory by pointer only")]
        let slice = unsafe {
            match n {
                0 => &mut [],
                n => {
                    let start = values.tensor.data_ptr().cast::<f32>();
                    std::slice::from_raw_parts_mut(start, n)
                }
            }
        };
        change(slice);
        Tensor::from_dispatch(wrapped::<LibTorch>(values))
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Tensor;

    use super::{changed, filled, is_ours, read};
    use crate::kernels::tests::{device, values};

    fn host<const D: usize>(x: &Tensor<D>) -> Vec<f32> {
        x.to_data().iter::<f32>().collect()
    }

    #[test]
    fn values_are_read_row_by_row() {
        let x = values([4, 6], 0.0);
        for view in [
            x.clone(),
            x.clone().transpose(),
            x.clone().slice([1..3, 2..5]),
            x.slice([0..1, 0..6]).expand([4, 6]),
        ] {
            assert_eq!(read(&view, <[f32]>::to_vec), host(&view));
        }
    }

    #[test]
    fn what_others_hold_is_not_changed() {
        let x = values([4, 6], 0.0);
        let before = host(&x);
        let twice = |values: &mut [f32]| values.iter_mut().for_each(|value| *value *= 2.0);
        let views = [
            x.clone(),
            x.clone().transpose(),
            x.clone().slice([1..3, 0..6]),
            x.clone().slice([0..1, 0..6]).expand([4, 6]),
        ];
        for view in views {
            let expected: Vec<f32> = host(&view).iter().map(|value| 2.0 * value).collect();
            let found = changed(view.clone(), twice);
            assert_eq!((found.dims(), host(&found)), (view.dims(), expected));
        }
        assert_eq!(host(&x), before);
    }

    #[test]
    fn a_tensor_has_the_values_that_were_written() {
        let x = filled([2, 3], &device(), |values| {
            assert_eq!(*values, [0.0; 6]);
            values[4] = 1.5;
        });
        assert!(is_ours(&x));
        assert_eq!(host(&x), [0.0, 0.0, 0.0, 0.0, 1.5, 0.0]);
        let none = x.slice([0..0, 0..3]);
        assert!(read(&none, <[f32]>::is_empty));
        assert_eq!(
            changed(none, |values| assert!(values.is_empty())).dims(),
            [0, 3]
        );
    }
}

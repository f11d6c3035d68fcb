//! Devices by name.

use burn::tensor::Device;

use crate::ModelError;

/// Opens the device of a name: `flex`, `tch`, `tch-cuda`, `wgpu` or `cuda`.
///
/// The device is plain; call [`Device::autodiff`] on it to train.
///
/// # Errors
/// [`ModelError::UnknownDevice`], [`ModelError::DeviceNotBuilt`] when the backend is not compiled
/// in, [`ModelError::DeviceAbsent`] when it finds nothing to run on.
pub fn open_device(name: &str) -> Result<Device, ModelError> {
    match name {
        "flex" => flex(),
        "tch" => tch(),
        "tch-cuda" => tch_cuda(),
        "wgpu" => wgpu(),
        "cuda" => cuda(),
        _ => Err(ModelError::UnknownDevice {
            found: name.to_owned(),
            known: vec!["flex", "tch", "tch-cuda", "wgpu", "cuda"],
        }),
    }
}

/// Whether a device is Burn's embedded backend for processors.
pub(crate) fn is_flex(device: &Device) -> bool {
    #[cfg(feature = "flex")]
    return *device == Device::flex();
    #[cfg(not(feature = "flex"))]
    {
        let _ = device;
        false
    }
}

/// Whether a device is this machine's processor: it computes in the memory that this program has its
/// data in.
pub fn is_host(device: &Device) -> bool {
    if is_flex(device) {
        return true;
    }
    #[cfg(feature = "tch")]
    #[expect(deprecated, reason = "Burn offers no other constructor of this device")]
    if *device == Device::libtorch() {
        return true;
    }
    let _ = device;
    false
}

#[cfg(feature = "flex")]
fn flex() -> Result<Device, ModelError> {
    Ok(Device::flex())
}

#[cfg(not(feature = "flex"))]
fn flex() -> Result<Device, ModelError> {
    Err(ModelError::DeviceNotBuilt {
        device: "flex",
        remedy: "build with --features flex",
    })
}

#[cfg(feature = "tch")]
fn tch() -> Result<Device, ModelError> {
    #[expect(deprecated, reason = "Burn offers no other constructor of this device")]
    let open = Device::libtorch;
    probed("tch", open, "run `cargo xtask libtorch` first")
}

#[cfg(not(feature = "tch"))]
fn tch() -> Result<Device, ModelError> {
    let remedy = "run `cargo xtask libtorch`, then `cargo xtask train --device tch`, which builds with --features tch";
    Err(ModelError::DeviceNotBuilt {
        device: "tch",
        remedy,
    })
}

#[cfg(feature = "tch")]
fn tch_cuda() -> Result<Device, ModelError> {
    #[expect(deprecated, reason = "Burn offers no other constructor of this device")]
    let open = || Device::libtorch_cuda(0);
    let remedy = "install an NVIDIA driver, and build with LIBTORCH naming a libtorch with CUDA";
    probed("tch-cuda", open, remedy)
}

#[cfg(not(feature = "tch"))]
fn tch_cuda() -> Result<Device, ModelError> {
    let remedy =
        "set LIBTORCH to a libtorch with CUDA, then use `cargo xtask train --device tch-cuda`";
    Err(ModelError::DeviceNotBuilt {
        device: "tch-cuda",
        remedy,
    })
}

#[cfg(feature = "wgpu")]
fn wgpu() -> Result<Device, ModelError> {
    use burn::tensor::DeviceKind;
    probed(
        "wgpu",
        || Device::wgpu(DeviceKind::DefaultDevice),
        "install a Vulkan, Metal or DirectX 12 driver",
    )
}

#[cfg(not(feature = "wgpu"))]
fn wgpu() -> Result<Device, ModelError> {
    let remedy = "use `cargo xtask train --device wgpu`, which builds with --features wgpu";
    Err(ModelError::DeviceNotBuilt {
        device: "wgpu",
        remedy,
    })
}

#[cfg(feature = "cuda")]
fn cuda() -> Result<Device, ModelError> {
    probed(
        "cuda",
        || Device::cuda(0),
        "install an NVIDIA driver and the CUDA toolkit",
    )
}

#[cfg(not(feature = "cuda"))]
fn cuda() -> Result<Device, ModelError> {
    let remedy = "use `cargo xtask train --device cuda`, which builds with --features cuda";
    Err(ModelError::DeviceNotBuilt {
        device: "cuda",
        remedy,
    })
}

/// Opens a device and runs one small operation on it, so that an absent driver is an error here
/// instead of a panic in the middle of a run.
#[cfg(any(feature = "tch", feature = "wgpu", feature = "cuda"))]
fn probed(
    device: &'static str,
    open: impl FnOnce() -> Device + std::panic::UnwindSafe,
    remedy: &'static str,
) -> Result<Device, ModelError> {
    use burn::tensor::Tensor;

    // The backends report an absent driver by panicking; its message goes into the error.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let opened = std::panic::catch_unwind(|| {
        let device = open();
        let sum = Tensor::<1>::from_floats([1.0, 2.0], &device)
            .sum()
            .into_scalar::<f32>();
        (device, sum)
    });
    std::panic::set_hook(hook);
    match opened {
        Ok((opened, sum)) if sum == 3.0 => Ok(opened),
        Ok((_, sum)) => Err(ModelError::DeviceAbsent {
            device,
            reason: format!("1 + 2 gave {sum}"),
            remedy,
        }),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("the backend gave no reason");
            let reason = text.lines().next().unwrap_or_default().to_owned();
            Err(ModelError::DeviceAbsent {
                device,
                reason,
                remedy,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::open_device;

    #[test]
    fn unknown_devices_list_the_known_ones() {
        let message = open_device("tpu").unwrap_err().to_string();
        assert!(
            ["tpu", "flex", "tch", "tch-cuda", "wgpu", "cuda"]
                .iter()
                .all(|name| message.contains(name)),
            "{message}"
        );
    }

    #[test]
    #[cfg(not(feature = "tch"))]
    fn a_device_that_is_not_compiled_in_says_how_to_get_it() {
        let message = open_device("tch").unwrap_err().to_string();
        assert!(
            message.contains("cargo xtask libtorch") && message.contains("--features tch"),
            "{message}"
        );
    }

    #[test]
    #[cfg(feature = "flex")]
    fn flex_opens_plain() {
        assert!(!open_device("flex").unwrap().is_autodiff());
    }
}

//! `cargo xtask libtorch`: libtorch for the processor, from the wheels of PyTorch.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::error::XtaskError;
use crate::train::prepend;
use crate::workspace;

mod wheel;

use wheel::Wheel;

/// The version that the crate `tch` 0.22 binds to.
const VERSION: &str = "2.9.0";

/// PyTorch's processor library is linked against two CUDA libraries that it loads but does not need
/// to run; the CUDA kernels themselves are left out.
const WHEELS: [Wheel; 3] = [
    Wheel {
        requirement: "torch==2.9.0",
        size: 899_815_990,
        sha256: "51de31219c97c51cf4bf2be94d622e3deb5dcc526c6dc00e97c17eaec0fc1d67",
        parts: &[
            ("torch/lib/libtorch.so", "lib/libtorch.so"),
            ("torch/lib/libtorch_cpu.so", "lib/libtorch_cpu.so"),
            ("torch/lib/libc10.so", "lib/libc10.so"),
            ("torch/lib/libgomp.so.1", "lib/libgomp.so.1"),
            ("torch/include/", "include/"),
        ],
    },
    Wheel {
        requirement: "nvidia-cuda-cupti-cu12==12.8.90",
        size: 10_248_621,
        sha256: "ea0cb07ebda26bb9b29ba82cda34849e73c166c18162d3913575b0c9db9a6182",
        parts: &[("nvidia/cuda_cupti/lib/libcupti.so.12", "lib/libcupti.so.12")],
    },
    Wheel {
        requirement: "nvidia-cuda-runtime-cu12==12.8.90",
        size: 954_765,
        sha256: "adade8dcbd0edf427b7204d480d6066d33902cab2a4707dcfc48a2d0fd44ab90",
        parts: &[(
            "nvidia/cuda_runtime/lib/libcudart.so.12",
            "lib/libcudart.so.12",
        )],
    },
];

/// What the name of a folder begins with into which libtorch is fetched.
const PARTIAL: &str = ".partial-libtorch-";

/// Lays libtorch out, unless it is there, and prints the variables that point to it.
pub(crate) fn run() -> Result<ExitCode, XtaskError> {
    let folder = folder();
    if folder.is_dir() {
        eprintln!("libtorch {VERSION} is in {}", folder.display());
    } else {
        lay_out(&folder)?;
    }
    println!("export LIBTORCH={}", folder.display());
    println!(
        "export LD_LIBRARY_PATH={}/lib${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}",
        folder.display()
    );
    Ok(ExitCode::SUCCESS)
}

/// Variables of an environment.
pub(crate) type Variables = Vec<(&'static str, OsString)>;

/// What a build and a run with the device tch need in their environment.
pub(crate) fn variables() -> Result<Variables, XtaskError> {
    let folder = match std::env::var_os("LIBTORCH").filter(|folder| !folder.is_empty()) {
        Some(folder) => PathBuf::from(folder),
        None => folder(),
    };
    if !folder.is_dir() {
        return Err(XtaskError::NoLibtorch { version: VERSION });
    }
    let libraries = folder.join("lib");
    let path = prepend(libraries.as_os_str(), std::env::var_os("LD_LIBRARY_PATH"));
    Ok(vec![
        ("LIBTORCH", folder.into_os_string()),
        ("LD_LIBRARY_PATH", path),
    ])
}

fn folder() -> PathBuf {
    workspace::cache_folder().join(format!("libtorch-{VERSION}"))
}

/// Fetches and unpacks beside `folder` and renames at the end: the folder is whole or not there.
fn lay_out(folder: &Path) -> Result<(), XtaskError> {
    let platform = format!("{}-{}", std::env::consts::OS, std::env::consts::ARCH);
    if platform != "linux-x86_64" {
        return Err(XtaskError::Platform {
            found: platform,
            version: VERSION,
        });
    }
    let parent = folder.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(XtaskError::write(parent))?;
    let lock_path = parent.join(format!("libtorch-{VERSION}.lock"));
    let lock = File::create(&lock_path).map_err(XtaskError::write(&lock_path))?;
    lock.lock().map_err(XtaskError::write(&lock_path))?;
    if folder.is_dir() {
        return Ok(());
    }
    remove_partial(parent)?;
    let partial = tempfile::Builder::new()
        .prefix(PARTIAL)
        .tempdir_in(parent)
        .map_err(XtaskError::write(parent))?;
    let layout = partial.path().join("libtorch");
    for wheel in &WHEELS {
        eprintln!(
            "fetching {} ({:.1} MB)",
            wheel.requirement,
            wheel.size as f64 / 1e6
        );
        let path = wheel.fetch(&partial.path().join(wheel.requirement))?;
        wheel.check(&path)?;
        wheel.unpack(&path, &layout)?;
        fs::remove_file(&path).map_err(XtaskError::write(&path))?;
    }
    let version = layout.join("build-version");
    fs::write(&version, VERSION).map_err(XtaskError::write(&version))?;
    fs::rename(&layout, folder).map_err(XtaskError::write(folder))
}

/// Removes what a killed process that held the lock has left.
fn remove_partial(parent: &Path) -> Result<(), XtaskError> {
    for entry in fs::read_dir(parent)
        .map_err(XtaskError::write(parent))?
        .flatten()
    {
        if entry.file_name().to_string_lossy().starts_with(PARTIAL) {
            let path = entry.path();
            fs::remove_dir_all(&path).map_err(XtaskError::write(&path))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{PARTIAL, remove_partial};

    #[test]
    fn what_a_kill_left_is_removed_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        for name in [&format!("{PARTIAL}aBc123"), "libtorch-2.9.0"] {
            let lib = folder.path().join(name).join("lib");
            fs::create_dir_all(&lib).unwrap();
            fs::write(lib.join("libc10.so"), "half").unwrap();
        }
        remove_partial(folder.path()).unwrap();
        let left: Vec<_> = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(left, ["libtorch-2.9.0"]);
    }
}

